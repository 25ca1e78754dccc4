use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{DataError, Dataset};

/// Seed of the split into training and validation samples: one for all runs, so that no run trains on samples that
/// another one is judged by.
pub const SPLIT_SEED: u64 = 0;

/// Random streams of one seed, so that split and epochs do not repeat each other's numbers.
const SPLIT_STREAM: u64 = u64::MAX;

/// Which samples are trained on and which are held back to choose parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Samples to train on, ascending.
    pub train: Vec<usize>,
    /// Samples held back, ascending; empty if the share is 0.
    pub validation: Vec<usize>,
}

impl Split {
    /// Holds back the same share of every class, chosen at random.
    ///
    /// The split of a part of some data in a [`Regime`](super::Regime) is that of the whole, as far as it is there.
    ///
    /// Of a class with `n` samples, `share · n` are held back, rounded to the nearest number, but never all of them.
    ///
    /// # Errors
    /// [`DataError::Parameter`] unless `0 <= share < 1`.
    pub fn stratified(data: &Dataset, share: f64, seed: u64) -> Result<Self, DataError> {
        if !(0.0..1.0).contains(&share) {
            return Err(DataError::Parameter { name: "validation share", value: share, range: "[0, 1)" });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(SPLIT_STREAM);
        let labels = data.origin().map_or(data.labels(), |origin| &origin.labels);
        let mut of_class = vec![Vec::new(); data.classes()];
        for (index, &label) in labels.iter().enumerate() {
            of_class[usize::from(label)].push(index);
        }
        let mut split = Self { train: Vec::with_capacity(data.len()), validation: Vec::new() };
        for mut indices in of_class {
            indices.shuffle(&mut rng);
            let held_back = (share * indices.len() as f64).round() as usize;
            let (validation, train) = indices.split_at(held_back.min(indices.len().saturating_sub(1)));
            split.validation.extend_from_slice(validation);
            split.train.extend_from_slice(train);
        }
        split.train.sort_unstable();
        split.validation.sort_unstable();
        if let Some(origin) = data.origin() {
            let place = |sample: &usize| origin.places.binary_search(sample).ok();
            for part in [&mut split.train, &mut split.validation] {
                *part = part.iter().filter_map(place).collect();
            }
        }
        Ok(split)
    }
}

/// Puts indices in a random order that follows from their present order, `seed` and `epoch` alone.
pub fn shuffle_indices(indices: &mut [usize], seed: u64, epoch: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    indices.shuffle(&mut rng);
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;

    use super::*;

    /// 100 samples of class 0, 10 of class 1, 1 of class 2, none of class 3.
    fn uneven() -> Dataset {
        let labels: Vec<u8> = (0..111).map(|i| if i < 100 { 0 } else { 1 + u8::from(i == 110) }).collect();
        Dataset::new("uneven", FeatureShape::vector(1), 4, vec![7; 111], labels).unwrap()
    }

    #[test]
    fn every_class_gives_its_share_and_no_sample_is_lost() {
        let data = uneven();
        let split = Split::stratified(&data, 0.2, 1).unwrap();
        assert_eq!(data.subset(&split.validation).unwrap().class_counts(), [20, 2, 0, 0]);
        let mut all = [split.train.clone(), split.validation.clone()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..111));
        assert!(split.train.is_sorted() && split.validation.is_sorted());
    }

    #[test]
    fn the_seed_decides() {
        let data = uneven();
        let split = |seed| Split::stratified(&data, 0.3, seed).unwrap();
        assert_eq!(split(5), split(5));
        assert_ne!(split(5), split(6));
    }

    #[test]
    fn some_of_every_class_stay_for_training() {
        let split = Split::stratified(&uneven(), 0.99, 0).unwrap();
        assert_eq!(uneven().subset(&split.train).unwrap().class_counts(), [1, 1, 1, 0]);
    }

    #[test]
    fn shares_out_of_range_are_refused() {
        assert!(Split::stratified(&uneven(), 0.0, 0).unwrap().validation.is_empty());
        for share in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(Split::stratified(&uneven(), share, 0), Err(DataError::Parameter { .. })), "{share}");
        }
    }

    #[test]
    fn shuffling_is_a_permutation_that_seed_and_epoch_decide() {
        let shuffled = |seed, epoch| {
            let mut indices: Vec<_> = (0..50).collect();
            shuffle_indices(&mut indices, seed, epoch);
            indices
        };
        assert_eq!(shuffled(1, 2), shuffled(1, 2));
        assert_ne!(shuffled(1, 2), shuffled(1, 3));
        assert_ne!(shuffled(1, 2), shuffled(2, 2));
        let mut sorted = shuffled(1, 2);
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..50));
    }
}
