use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{DataError, Dataset};

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
        let mut of_class = vec![Vec::new(); data.classes()];
        for (index, &label) in data.labels().iter().enumerate() {
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
        Ok(split)
    }
}

/// Puts indices in a random order that follows from their present order, `seed` and `epoch` alone.
pub fn shuffle_indices(indices: &mut [usize], seed: u64, epoch: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    indices.shuffle(&mut rng);
}
