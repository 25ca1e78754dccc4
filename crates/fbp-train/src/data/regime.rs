use std::fmt;
use std::str::FromStr;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use serde::Deserialize;

use super::{DataError, Dataset};

/// Random streams of one seed, apart from those of splits and epochs.
const NOISE_STREAM: u64 = u64::MAX - 1;
const DROP_STREAM: u64 = u64::MAX - 2;
const PIXEL_STREAM: u64 = u64::MAX - 3;

/// A share of the samples of one class, written `3:0.9`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct DropClass {
    /// The class.
    pub class: u8,
    /// Share of its samples, `(0, 1]`.
    pub share: f64,
}

impl FromStr for DropClass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(class, share)| Some((class.parse().ok()?, share.parse().ok()?)));
        match parsed {
            Some((class, share)) if share > 0.0 && share <= 1.0 => Ok(Self { class, share }),
            _ => Err(format!("{text:?} is not CLASS:SHARE with a share in (0, 1], as in 3:0.9")),
        }
    }
}

impl TryFrom<String> for DropClass {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for DropClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.class, self.share)
    }
}

/// What is wrong with training data, on purpose.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Regime {
    /// Samples that are taken away, for each class at most once.
    pub drop: Vec<DropClass>,
    /// Classes that are given back in full, as if they had not been dropped.
    pub recover: Vec<u8>,
    /// Share of the samples that get a wrong label, `[0, 1]`.
    pub label_noise: f64,
    /// Seed of the choice of samples and labels.
    pub seed: u64,
}

impl fmt::Display for Regime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for drop in self.dropped() {
            write!(f, ", drop-class {drop}")?;
        }
        if self.label_noise > 0.0 {
            write!(f, ", label-noise {}", self.label_noise)?;
        }
        if !self.is_clean() && self.seed != 0 {
            write!(f, ", data-seed {}", self.seed)?;
        }
        Ok(())
    }
}

impl Regime {
    /// Whether it leaves the data as they are.
    pub fn is_clean(&self) -> bool {
        self.label_noise == 0.0 && self.dropped().next().is_none()
    }

    fn dropped(&self) -> impl Iterator<Item = &DropClass> {
        self.drop.iter().filter(|drop| !self.recover.contains(&drop.class))
    }

    /// The data in this regime. Which samples are held back for validation stays as it was, and which labels are wrong
    /// does not depend on what is dropped, so that runs in different regimes do not see what others are judged by.
    ///
    /// # Errors
    /// [`DataError::Parameter`] for a class that there is not, that is dropped twice or recovered without being dropped,
    /// or a share out of range, [`DataError::Empty`] if nothing is left.
    pub fn apply(&self, data: &Dataset) -> Result<Dataset, DataError> {
        self.check(data)?;
        if self.is_clean() {
            return Ok(data.clone());
        }
        let mut labels = data.labels().to_vec();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(NOISE_STREAM);
        for label in &mut labels {
            // Two draws for every sample, or one wrong label would change all that follow.
            let (draw, step): (f64, usize) = (rng.random(), rng.random_range(1..data.classes().max(2)));
            if draw < self.label_noise {
                *label = ((usize::from(*label) + step) % data.classes()) as u8;
            }
        }
        let mut kept = vec![true; data.len()];
        for drop in self.dropped() {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(DROP_STREAM - u64::from(drop.class) * 4);
            let of_class = |&sample: &usize| data.labels()[sample] == drop.class;
            let mut samples: Vec<usize> = (0..data.len()).filter(of_class).collect();
            samples.shuffle(&mut rng);
            samples.truncate((drop.share * samples.len() as f64).round() as usize);
            samples.into_iter().for_each(|sample| kept[sample] = false);
        }
        let places: Vec<usize> = (0..data.len()).filter(|&sample| kept[sample]).collect();
        data.part_with_labels(places, &labels)
    }

    fn check(&self, data: &Dataset) -> Result<(), DataError> {
        let wrong = |name, value: f64, range| Err(DataError::Parameter { name, value, range });
        if let (Some(_), Some(drop)) = (data.outputs(), self.drop.first()) {
            return wrong("drop_class", f64::from(drop.class), "nothing for data with outputs, which have no classes");
        }
        if !(0.0..=1.0).contains(&self.label_noise) {
            return wrong("label_noise", self.label_noise, "[0, 1]");
        }
        if self.label_noise > 0.0 && data.classes() < 2 {
            return wrong("label_noise", self.label_noise, "only 0 with data of one class");
        }
        for (index, drop) in self.drop.iter().enumerate() {
            if usize::from(drop.class) >= data.classes() {
                return wrong("drop_class", f64::from(drop.class), "one of the classes, counted from 0");
            }
            if !(drop.share > 0.0 && drop.share <= 1.0) {
                return wrong("drop_class", drop.share, "a share in (0, 1]");
            }
            if self.drop[..index].iter().any(|other| other.class == drop.class) {
                return wrong("drop_class", f64::from(drop.class), "every class at most once");
            }
        }
        match self.recover.iter().find(|class| !self.drop.iter().any(|drop| drop.class == **class)) {
            Some(&class) => wrong("recover_class", f64::from(class), "classes that are dropped, with --drop-class"),
            None => Ok(()),
        }
    }
}

/// The data with normal noise on every pixel, in units of brightness, where 1 is the difference of black and white;
/// the result is cut to what a byte holds.
///
/// # Errors
/// [`DataError::Parameter`] unless `sigma` is in `[0, 10]`.
pub fn with_pixel_noise(data: &Dataset, sigma: f64, seed: u64) -> Result<Dataset, DataError> {
    let wrong = || DataError::Parameter { name: "noise", value: sigma, range: "[0, 10]" };
    if !(0.0..=10.0).contains(&sigma) {
        return Err(wrong());
    }
    if sigma == 0.0 {
        return Ok(data.clone());
    }
    if !data.is_pixels() || data.outputs().is_some() {
        return Err(DataError::Parameter {
            name: "noise",
            value: sigma,
            range: "only 0 for inputs that are no images with labels",
        });
    }
    let normal = Normal::new(0.0, 255.0 * sigma).map_err(|_| wrong())?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(PIXEL_STREAM);
    let noisy = |&pixel: &u8| (f64::from(pixel) + normal.sample(&mut rng)).round().clamp(0.0, 255.0) as u8;
    let images = (0..data.len()).filter_map(|index| data.image(index)).flatten().map(noisy).collect();
    Dataset::new(data.name(), data.shape(), data.classes(), images, data.labels().to_vec())
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;

    use super::*;
    use crate::data::Split;

    /// 400 samples of 4 classes; the two bytes of an image are its number.
    fn numbered() -> Dataset {
        let images = (0..400_u16).flat_map(u16::to_le_bytes).collect();
        let labels = (0..400).map(|sample| (sample % 4) as u8).collect();
        Dataset::new("numbered", FeatureShape::vector(2), 4, images, labels).unwrap()
    }

    fn number(data: &Dataset, sample: usize) -> usize {
        usize::from(u16::from_le_bytes([data.images()[2 * sample], data.images()[2 * sample + 1]]))
    }

    fn numbers(data: &Dataset, samples: &[usize]) -> Vec<usize> {
        samples.iter().map(|&sample| number(data, sample)).collect()
    }

    fn dropping(text: &str) -> Regime {
        Regime { drop: vec![text.parse().unwrap()], ..Regime::default() }
    }

    #[test]
    fn a_share_of_one_class_goes_and_the_split_of_the_rest_stays() {
        let data = numbered();
        let part = dropping("2:0.9").apply(&data).unwrap();
        assert_eq!(part.class_counts(), [100, 100, 10, 100]);
        let (whole, some) = (Split::stratified(&data, 0.2, 0).unwrap(), Split::stratified(&part, 0.2, 0).unwrap());
        let there = |list: Vec<usize>| -> Vec<usize> {
            let kept = numbers(&part, &(0..part.len()).collect::<Vec<_>>());
            list.into_iter().filter(|number| kept.contains(number)).collect()
        };
        assert_eq!(numbers(&part, &some.validation), there(whole.validation));
        assert_eq!(numbers(&part, &some.train), there(whole.train));
        assert_eq!(dropping("2:1").apply(&data).unwrap().class_counts(), [100, 100, 0, 100]);
        let recovered = Regime { recover: vec![2], ..dropping("2:0.9") };
        assert!(recovered.is_clean());
        assert_eq!(recovered.apply(&data).unwrap(), data);
        assert_ne!(part.sha256(), data.sha256());
    }

    #[test]
    fn noisy_labels_are_wrong_as_often_as_asked_and_independent_of_what_is_dropped() {
        let data = numbered();
        let noisy = Regime { label_noise: 0.3, ..Regime::default() }.apply(&data).unwrap();
        let is_wrong = |sample: &usize| noisy.labels()[*sample] != data.labels()[*sample];
        let wrong = (0..400).filter(is_wrong).count();
        // Binomial with n = 400, p = 0.3: mean 120, deviation 9.2.
        assert!((92..=148).contains(&wrong), "{wrong}");
        let all = Regime { label_noise: 1.0, ..Regime::default() }.apply(&data).unwrap();
        assert!(all.labels().iter().zip(data.labels()).all(|(a, b)| a != b));
        let both = Regime { label_noise: 0.3, ..dropping("1:0.5") }.apply(&data).unwrap();
        assert_eq!(both.len(), 350);
        for sample in 0..both.len() {
            assert_eq!(both.labels()[sample], noisy.labels()[number(&both, sample)]);
        }
        let other = Regime { label_noise: 0.3, seed: 1, ..Regime::default() }.apply(&data).unwrap();
        assert_ne!(other.labels(), noisy.labels());
        // The split is that of the clean labels.
        assert_eq!(Split::stratified(&noisy, 0.2, 0).unwrap(), Split::stratified(&data, 0.2, 0).unwrap());
    }

    #[test]
    fn regimes_that_make_no_sense_are_refused() {
        for text in ["3", "3:", ":0.5", "3:0", "3:1.5", "3:nan", "300:0.5", "-1:0.5"] {
            assert!(text.parse::<DropClass>().is_err(), "{text}");
        }
        let data = numbered();
        let refused = |regime: Regime| assert!(matches!(regime.apply(&data), Err(DataError::Parameter { .. })));
        refused(dropping("4:0.5"));
        refused(Regime { drop: vec!["1:0.5".parse().unwrap(); 2], ..Regime::default() });
        refused(Regime { recover: vec![1], ..dropping("2:0.5") });
        for label_noise in [-0.1, 1.1, f64::NAN] {
            refused(Regime { label_noise, ..Regime::default() });
        }
        let everything = (0..4).map(|class| DropClass { class, share: 1.0 }).collect();
        assert!(matches!(Regime { drop: everything, ..Regime::default() }.apply(&data), Err(DataError::Empty { .. })));
    }

    #[test]
    fn pixel_noise_has_its_deviation_and_follows_from_the_seed() {
        let grey = Dataset::new("grey", FeatureShape::vector(100), 1, vec![128; 10_000], vec![0; 100]).unwrap();
        let noisy = with_pixel_noise(&grey, 0.1, 3).unwrap();
        let squares: f64 = noisy.images().iter().map(|&pixel| (f64::from(pixel) - 128.0).powi(2)).sum();
        // The deviation of the estimate is 25.5 / √20000.
        assert!(((squares / 10_000.0).sqrt() - 25.5).abs() < 5.0 * 25.5 / 20_000_f64.sqrt());
        assert_eq!(noisy, with_pixel_noise(&grey, 0.1, 3).unwrap());
        assert_ne!(noisy, with_pixel_noise(&grey, 0.1, 4).unwrap());
        assert_eq!(with_pixel_noise(&grey, 0.0, 3).unwrap(), grey);
        for sigma in [-0.1, 10.1, f64::NAN] {
            assert!(with_pixel_noise(&grey, sigma, 0).is_err(), "{sigma}");
        }
    }
}
