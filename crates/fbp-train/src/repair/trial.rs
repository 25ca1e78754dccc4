use std::time::Instant;

use faer::Mat;
use fbp_models::Network;
use rayon::prelude::*;

use super::deadline::Deadline;
use super::demand::{Demand, GRID};
use super::dual::factorise;
use super::origin::Given;
use super::problem::{Metric, PATCH_SAMPLES, column_moment, is_whole_moment};
use super::product::product;
use super::rows::{Leads, Subjects};
use crate::TrainError;
use crate::affine::{AffineLayer, flat};
use crate::cache::FeatureCache;
use crate::data::DataBundle;

/// Samples that are tried.
const SAMPLES: usize = 64;
/// Size of the factorisation that is tried.
const SIZE: usize = 384;
/// What the exchanges of a solve cost, more or less, as factorisations of the whole matrix: about ten of them, each with a third
/// to a half of the conditions, which are gathered and looked at besides.
const FACTORISATIONS: f64 = 2.0;
/// With fewer conditions than that a solve is all overhead, which does not grow.
const FEWEST: f64 = 64.0;
/// The demand that is tried: conditions that may hardly be missed take the longest.
const DEMAND: Demand = GRID[2];
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
    /// A whole solve with the conditions of the samples that were tried, without white columns and factorisations.
    solve: f64,
    /// The number of those conditions, or as many as would take as long.
    tried: f64,
    /// An operation of a factorisation.
    factor: f64,
}

impl Trial {
    /// Runs every part a few times on the first few of the samples to repair.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the images do not fit the network, [`TrainError::TimeOver`].
    pub(super) fn run(
        network: &Network,
        layer: &AffineLayer,
        given: Given<'_>,
        data: &DataBundle,
        (rivals, tolerance): (usize, Option<f64>),
        deadline: Deadline,
    ) -> Result<Self, TrainError> {
        let some = &given.samples[..SAMPLES.min(given.samples.len())];
        let images = given.origin.images(data);
        let each = 1.0 / some.len().max(1) as f64;
        let (state, cache) = timed(deadline, || {
            FeatureCache::new(images, &data.normalization, some, |images| layer.states(network, images))
        })?;
        let cache = FeatureCache { constant: layer.constant, ..cache };
        let (moment, second) = timed(deadline, || column_moment(layer, &cache, deadline))?;
        let all: Vec<usize> = (0..some.len()).collect();
        let (states, _) = cache.batch(&all)?;
        let look = || flat(&layer.logits(network, &states, &layer.output(network, &states)?)?);
        let (look, _) = timed(deadline, look)?;
        let (change, margins) = (Mat::zeros(layer.outputs, layer.inputs + 1), vec![DEMAND.margin; some.len()]);
        let (slope, (subjects, rows)) = timed(deadline, || {
            let subjects = Subjects::new(layer, &cache, &all)?;
            let leads = Leads { margins: &margins, rivals, tolerance };
            let rows = subjects.rows(network, layer, &change, leads, deadline)?;
            Ok((subjects, rows))
        })?;
        let (white, _) = timed(deadline, || {
            Ok(subjects.columns.par_iter().map(|x| product(&second, x.as_ref())).max_by_key(Mat::ncols))
        })?;
        let a = Mat::from_fn(SIZE, SIZE, |i, j| if i == j { SIZE as f64 } else { ((i * j) % 7) as f64 / 7.0 });
        let (factorised, ()) = timed(deadline, || factorise(a.clone().as_mut(), deadline))?;
        let (factor, tried) = (factorised / ((SIZE as f64).powi(3) / 3.0), rows.len() as f64);
        let metric = Metric::new(&second, DEMAND.ridge)?;
        let groups = [(&subjects, &rows[..])];
        let (solve, _) = timed(deadline, || metric.smallest_change(layer, &groups, DEMAND.slack, deadline))?;
        Ok(Self {
            state: state * each,
            moment: moment * each,
            is_sampled: !is_whole_moment(layer, &cache),
            look: look * each,
            slope: slope * each,
            white: white * each,
            solve: (solve - white - FACTORISATIONS * factor * tried.powi(3) / 3.0).max(0.0),
            tried: tried.max(FEWEST),
            factor,
        })
    }

    /// Time of a solve with so many subjects and conditions.
    pub(super) fn solve(&self, subjects: f64, conditions: f64) -> f64 {
        subjects * (self.slope + self.white)
            + self.solve * (conditions / self.tried).powi(2)
            + FACTORISATIONS * self.factor * conditions.powi(3) / 3.0
    }

    /// Invented times.
    #[cfg(test)]
    pub(super) fn example() -> Self {
        let (state, moment, is_sampled, look, slope, white) = (1e-5, 1e-5, true, 1e-6, 1e-4, 1e-5);
        Self { state, moment, is_sampled, look, slope, white, solve: 1e-2, tried: 256.0, factor: 1e-10 }
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
