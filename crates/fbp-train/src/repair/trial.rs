use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat};
use fbp_models::Network;
use rayon::prelude::*;

use super::deadline::Deadline;
use super::dual::factorise;
use super::problem::{PATCH_SAMPLES, column_moment, is_whole_moment, product};
use super::rows::Subjects;
use super::search::RIVALS;
use crate::TrainError;
use crate::affine::{AffineLayer, flat};
use crate::cache::FeatureCache;
use crate::data::{Dataset, Normalization};
use crate::evaluate::pool_par;

/// Samples that are tried.
const SAMPLES: usize = 64;
/// Sizes of the product and of the factorisation that are tried.
const SIZE: usize = 384;
/// Time for which each is tried again and again, in seconds: what else the machine has to do belongs to the answer.
const PATIENCE: f64 = 0.02;
/// How often at most.
const TRIES: usize = 20;

/// How long the parts of a search take on this machine as it is now, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    /// A sample up to the layer.
    pub(super) state: f64,
    /// A sample in the second moment.
    pub(super) moment: f64,
    /// Whether the second moment takes some of the watched samples.
    pub(super) is_sampled: bool,
    /// A sample from the layer to the logits.
    pub(super) look: f64,
    /// A sample's conditions.
    pub(super) slope: f64,
    /// The white columns of a sample.
    pub(super) white: f64,
    /// An operation of a product.
    pub(super) flop: f64,
    /// An operation of a factorisation.
    pub(super) factor: f64,
}

impl Trial {
    /// Runs every part a few times on the first few images.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the images do not fit the network, [`TrainError::TimeOver`].
    pub(super) fn run(
        network: &Network,
        layer: &AffineLayer,
        (images, normalization): (&Dataset, &Normalization),
        deadline: Deadline,
    ) -> Result<Self, TrainError> {
        let some: Vec<usize> = (0..SAMPLES.min(images.len())).collect();
        let each = 1.0 / some.len().max(1) as f64;
        let (state, cache) = timed(deadline, || {
            FeatureCache::new(images, normalization, &some, |images| layer.states(network, images))
        })?;
        let cache = FeatureCache { constant: layer.constant, ..cache };
        let (moment, second) = timed(deadline, || column_moment(layer, &cache, deadline))?;
        let (states, _) = cache.batch(&some)?;
        let look = || Ok(flat(&layer.logits(network, &states, &layer.output(network, &states)?)?)?);
        let (look, _) = timed(deadline, look)?;
        let (change, margins) = (Mat::zeros(layer.outputs, layer.inputs + 1), vec![1.0; some.len()]);
        let (slope, subjects) = timed(deadline, || {
            let subjects = Subjects::new(layer, &cache, &some)?;
            subjects.rows(network, layer, &change, &margins, RIVALS, deadline)?;
            Ok(subjects)
        })?;
        let (white, _) = timed(deadline, || {
            Ok(subjects.columns.par_iter().map(|x| product(&second, x.as_ref())).max_by_key(Mat::ncols))
        })?;
        let a = Mat::from_fn(SIZE, SIZE, |i, j| if i == j { SIZE as f64 } else { ((i * j) % 7) as f64 / 7.0 });
        let mut multiple = Mat::zeros(SIZE, SIZE);
        let (multiplied, ()) = timed(deadline, || {
            matmul(multiple.as_mut(), Accum::Replace, a.as_ref(), a.as_ref(), 1.0, pool_par());
            Ok(())
        })?;
        let (factorised, ()) = timed(deadline, || factorise(a.clone().as_mut(), deadline))?;
        let cube = (SIZE as f64).powi(3);
        Ok(Self {
            state: state * each,
            moment: moment * each,
            is_sampled: !is_whole_moment(layer, &cache),
            look: look * each,
            slope: slope * each,
            white: white * each,
            // Of a product of whole matrices; half of it is computed of a symmetric one.
            flop: multiplied / (2.0 * cube),
            factor: factorised / (cube / 3.0),
        })
    }

    /// Time of the second moment of so many watched samples.
    pub(super) fn moment(&self, watched: usize) -> f64 {
        self.moment * if self.is_sampled { watched.min(PATCH_SAMPLES) } else { watched } as f64
    }
}

/// Mean time of some tries, and what the last one gives. The first does not count: it starts threads and gets memory.
fn timed<R>(deadline: Deadline, mut run: impl FnMut() -> Result<R, TrainError>) -> Result<(f64, R), TrainError> {
    deadline.check()?;
    run()?;
    let (mut tries, begun) = (0, Instant::now());
    loop {
        deadline.check()?;
        let done = run()?;
        tries += 1;
        let seconds = begun.elapsed().as_secs_f64();
        if tries == TRIES || seconds > PATIENCE {
            return Ok((seconds / tries as f64, done));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_ends_with_the_deadline() {
        let mut runs = 0;
        let over = timed(Deadline::after(Some(0.0)), || {
            runs += 1;
            Ok(())
        });
        assert!(matches!(over, Err(TrainError::TimeOver)) && runs == 0);
        let mut runs = 0;
        let (seconds, last) = timed(Deadline::default(), || {
            runs += 1;
            Ok(runs)
        })
        .unwrap();
        assert!(seconds >= 0.0 && (2..=TRIES + 1).contains(&last));
    }
}
