use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use fbp_models::Network;

use super::origin::SampleOrigin;
use crate::TrainError;
use crate::data::{DataBundle, Dataset, Normalization, shuffle_indices};
use crate::evaluate::EvalSet;

/// Random stream for the choice of samples, apart from those of splits and epochs.
const STREAM: u64 = u64::MAX - 1;

/// Random stream for the choice among those.
const LIMIT_STREAM: u64 = u64::MAX - 4;

/// Images that are looked at together at least in the search for wrong ones.
const FEWEST: usize = 100;

/// Which samples to repair or to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleChoice {
    /// Positions in the data, from 0.
    List(Vec<usize>),
    /// A text file with one position per line.
    File(PathBuf),
    /// So many wrongly classified samples, or samples beyond the tolerance, drawn at random.
    Wrong(usize),
    /// So many samples with the largest loss: cross-entropy, or squared error.
    Worst(usize),
    /// All wrongly classified samples of one class.
    Class(u32),
    /// All samples.
    All,
}

/// What is asked to be repaired.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Which of the images.
    pub choice: &'a SampleChoice,
    /// Images that it chooses from.
    pub origin: SampleOrigin<'a>,
}

impl FromStr for SampleChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse::<u32>().map_err(|_| format!("{digits:?} is no number"));
        match text.split_once(':') {
            Some(("wrong", digits)) => match number(digits)? {
                0 => Err("0 samples are none: ask for at least one".into()),
                count => Ok(Self::Wrong(count as usize)),
            },
            Some(("worst", digits)) => match number(digits)? {
                0 => Err("0 samples are none: ask for at least one".into()),
                count => Ok(Self::Worst(count as usize)),
            },
            Some(("class", digits)) => Ok(Self::Class(number(digits)?)),
            _ if text.is_empty() => Err("name positions such as 3,17, a file, wrong:N, worst:N, class:K or all".into()),
            _ if text == "all" => Ok(Self::All),
            _ if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b',') => {
                let position = |digits: &str| match digits.parse::<usize>() {
                    Ok(position) => Ok(position),
                    Err(_) => Err(format!("{digits:?} is no position; write them like 3,17,42")),
                };
                Ok(Self::List(text.split(',').map(position).collect::<Result<_, _>>()?))
            }
            _ => Ok(Self::File(text.into())),
        }
    }
}

impl fmt::Display for SampleChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(positions) => {
                let text: Vec<String> = positions.iter().map(usize::to_string).collect();
                f.write_str(&text.join(","))
            }
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Wrong(count) => write!(f, "wrong:{count}"),
            Self::Worst(count) => write!(f, "worst:{count}"),
            Self::Class(class) => write!(f, "class:{class}"),
            Self::All => f.write_str("all"),
        }
    }
}

/// How samples are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ChoiceRule {
    /// Seed of what is drawn at random.
    pub seed: u64,
    /// How far an output may be from the wanted one and be right; for data with outputs.
    pub tolerance: Option<f64>,
}

/// Those of `indices` that the network classifies wrongly, or gives outputs of beyond the tolerance, in their order.
///
/// # Errors
/// [`TrainError::Model`] if the images do not fit the network.
pub fn wrong_samples(
    network: &Network,
    images: &Dataset,
    normalization: &Normalization,
    indices: &[usize],
    tolerance: Option<f64>,
) -> Result<Vec<usize>, TrainError> {
    let right = EvalSet::new(images, normalization, Some(indices))?.within(tolerance).right(network)?;
    Ok(indices.iter().zip(right).filter(|(_, right)| !right).map(|(&index, _)| index).collect())
}

/// The first `count` of [`wrong_samples`], fewer if there are no more: no more images than that takes run through the network.
fn first_wrong(
    network: &Network,
    (images, normalization): (&Dataset, &Normalization),
    indices: &[usize],
    tolerance: Option<f64>,
    count: usize,
) -> Result<Vec<usize>, TrainError> {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    while wrong.len() < count && seen < indices.len() {
        // As many as the rest would take at the share of wrong ones so far.
        let each = (seen as f64 + 1.0) / (wrong.len() as f64 + 1.0);
        let next = ((count - wrong.len()) as f64 * each) as usize;
        let part = &indices[seen..][..next.max(FEWEST).min(indices.len() - seen)];
        wrong.extend(wrong_samples(network, images, normalization, part, tolerance)?);
        seen += part.len();
    }
    wrong.truncate(count);
    Ok(wrong)
}

impl SampleChoice {
    /// At most `limit` of the samples, drawn at random, ascending.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn resolve_some(
        &self,
        network: &Network,
        origin: (SampleOrigin<'_>, &DataBundle),
        candidates: &[usize],
        (rule, limit): (ChoiceRule, Option<usize>),
    ) -> Result<Vec<usize>, TrainError> {
        let (mut samples, seed) = (self.resolve(network, origin, candidates, rule)?, rule.seed);
        if let Some(limit) = limit.filter(|limit| *limit < samples.len()) {
            shuffle_indices(&mut samples, seed, LIMIT_STREAM);
            samples.truncate(limit);
            samples.sort_unstable();
        }
        Ok(samples)
    }

    /// The samples among the images of `origin`, ascending; `wrong` and `class` choose among `candidates`.
    ///
    /// # Errors
    /// [`TrainError::Read`], [`TrainError::Samples`] if the choice is empty or names what is not there.
    pub fn resolve(
        &self,
        network: &Network,
        (origin, data): (SampleOrigin<'_>, &DataBundle),
        candidates: &[usize],
        rule: ChoiceRule,
    ) -> Result<Vec<usize>, TrainError> {
        self.choose(network, (origin.images(data), origin.name()), &data.normalization, candidates, rule)
    }

    /// The samples among any images, called `name` in messages, ascending.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn choose(
        &self,
        network: &Network,
        (images, name): (&Dataset, &str),
        normalization: &Normalization,
        candidates: &[usize],
        ChoiceRule { seed, tolerance }: ChoiceRule,
    ) -> Result<Vec<usize>, TrainError> {
        let fault = |reason: String| TrainError::Samples { choice: self.to_string(), reason };
        let count = images.len();
        let outside = |text: &str| fault(format!("{text} is no position in {count} {name}, 0 to {}", count - 1));
        let mut samples = match self {
            Self::List(positions) => match positions.iter().find(|position| **position >= count) {
                Some(position) => return Err(outside(&position.to_string())),
                None => positions.clone(),
            },
            Self::File(path) => {
                let text = std::fs::read_to_string(path).map_err(TrainError::reading(path))?;
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
                let parse = |line: &str| match line.parse::<usize>() {
                    Ok(index) if index < count => Ok(index),
                    _ => Err(outside(&format!("{line:?}"))),
                };
                lines.map(parse).collect::<Result<Vec<_>, _>>()?
            }
            Self::Wrong(count) => {
                let mut order = candidates.to_vec();
                shuffle_indices(&mut order, seed, STREAM);
                let wrong = first_wrong(network, (images, normalization), &order, tolerance, *count)?;
                if wrong.len() < *count {
                    return Err(fault(match tolerance {
                        None => format!("the network classifies only {} samples wrongly", wrong.len()),
                        Some(_) => format!("only {} samples are beyond the tolerance", wrong.len()),
                    }));
                }
                wrong
            }
            Self::Worst(count) => {
                if candidates.len() < *count {
                    return Err(fault(format!("there are only {} samples to choose from", candidates.len())));
                }
                let losses = EvalSet::new(images, normalization, Some(candidates))?.losses(network)?;
                let mut places: Vec<usize> = (0..candidates.len()).collect();
                places.sort_by(|&a, &b| losses[b].total_cmp(&losses[a]));
                places.into_iter().take(*count).map(|place| candidates[place]).collect()
            }
            Self::All => candidates.to_vec(),
            Self::Class(_) if images.outputs().is_some() => {
                return Err(fault("these data have outputs and no classes: choose worst:N".into()));
            }
            Self::Class(class) => {
                let of_class: Vec<usize> =
                    candidates.iter().copied().filter(|&i| u32::from(images.labels()[i]) == *class).collect();
                if of_class.is_empty() {
                    return Err(fault("there is no sample of that class".into()));
                }
                wrong_samples(network, images, normalization, &of_class, tolerance)?
            }
        };
        samples.sort_unstable();
        samples.dedup();
        if samples.is_empty() {
            return Err(fault("there is no such sample".into()));
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;
    use fbp_models::NetworkSpec;

    use super::*;

    #[test]
    fn wrong_samples_are_the_first_ones_of_a_random_order_and_the_rest_is_not_needed() {
        let pixels: Vec<u8> = (0..1000 * 4).map(|k| (k * 37 % 251) as u8).collect();
        let labels: Vec<u8> = (0..1000).map(|k| (k % 3) as u8).collect();
        let data = Dataset::new("own", FeatureShape::image(1, 2, 2), 3, pixels, labels).unwrap();
        let normalization = Normalization::from_images(&data).unwrap();
        let layers = r#"{ type = "flatten" }, { type = "linear", out_features = 3 }"#;
        let spec =
            format!("name = 'toy'\ninput = [1, 2, 2]\nclasses = 3\n[[stages]]\nname = 'out'\nlayers = [{layers}]");
        let network = Network::new(&NetworkSpec::from_toml(&spec).unwrap(), 0).unwrap();
        let candidates: Vec<usize> = (0..1000).filter(|k| k % 7 != 0).collect();
        let all = wrong_samples(&network, &data, &normalization, &candidates, None).unwrap();
        let choose = |count, seed| {
            let rule = ChoiceRule { seed, tolerance: None };
            SampleChoice::Wrong(count).choose(&network, (&data, "images"), &normalization, &candidates, rule)
        };
        for count in [1, 40, all.len()] {
            let found = choose(count, 3).unwrap();
            let mut order = candidates.clone();
            shuffle_indices(&mut order, 3, STREAM);
            let mut by_hand: Vec<usize> = order.into_iter().filter(|k| all.contains(k)).take(count).collect();
            by_hand.sort_unstable();
            assert_eq!(found, by_hand);
        }
        assert_ne!(choose(40, 3).unwrap(), choose(40, 4).unwrap());
        let text = choose(all.len() + 1, 3).unwrap_err().to_string();
        assert!(text.contains(&format!("only {} samples wrongly", all.len())), "{text}");
    }

    #[test]
    fn choices_are_read_as_they_are_written() {
        for text in ["all", "wrong:100", "worst:5", "class:6", "some/file.txt", "3,17,42", "5", "./5"] {
            assert_eq!(text.parse::<SampleChoice>().unwrap().to_string(), text);
        }
        assert!("wrong:0".parse::<SampleChoice>().is_err() && "class:x".parse::<SampleChoice>().is_err());
        assert!("3,,4".parse::<SampleChoice>().is_err() && "99999999999999999999999".parse::<SampleChoice>().is_err());
        assert!("".parse::<SampleChoice>().is_err());
    }
}
