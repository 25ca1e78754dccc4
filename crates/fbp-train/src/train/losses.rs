use candle_core::Tensor;

use super::curves::PostTrainCurves;
use crate::TrainError;

/// The loss of a batch that is descended, and what it is made of.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) total: Tensor,
    pub(super) parts: Losses,
}

impl Loss {
    /// A loss that is its own only part, noted as that of the data.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if it is not one number.
    pub(super) fn alone(total: Tensor) -> Result<Self, TrainError> {
        let parts = Losses { data: Some(value(&total)?), ..Losses::default() };
        Ok(Self { total, parts })
    }
}

/// The number that a loss is.
///
/// # Errors
/// [`TrainError::Tensor`] if it is not one number.
pub(super) fn value(loss: &Tensor) -> Result<f64, TrainError> {
    Ok(f64::from(loss.to_scalar::<f32>()?))
}

/// Losses of one batch; those that were not evaluated are left out.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Against labels or outputs.
    pub(super) data: Option<f64>,
    pub(super) distance: Option<f64>,
    pub(super) weight: Option<f64>,
}

/// Means over the samples of an epoch.
#[derive(Debug, Default)]
pub(super) struct Means {
    samples: f64,
    sums: [Option<f64>; 3],
}

impl Means {
    pub(super) fn add(&mut self, losses: &Losses, samples: usize) {
        let samples = samples as f64;
        self.samples += samples;
        for (sum, value) in self.sums.iter_mut().zip([losses.data, losses.distance, losses.weight]) {
            if let Some(value) = value {
                *sum = Some(sum.unwrap_or(0.0) + value * samples);
            }
        }
    }

    /// Number of samples and sums over them, to go on later.
    pub(super) fn kept(&self) -> (f64, [Option<f64>; 3]) {
        (self.samples, self.sums)
    }

    /// Goes on from what [`kept`](Self::kept) gave.
    pub(super) fn of_kept(samples: f64, sums: [Option<f64>; 3]) -> Self {
        Self { samples, sums }
    }

    pub(super) fn finite(&self) -> bool {
        self.sums.iter().flatten().all(|sum| sum.is_finite())
    }

    /// Loss of the data, distance and weight, as far as they were evaluated.
    pub(super) fn all(&self) -> [Option<f64>; 3] {
        self.sums.map(|sum| sum.map(|sum| sum / self.samples))
    }

    pub(super) fn store(&self, curves: &mut PostTrainCurves) {
        let lists = [&mut curves.scores.loss, &mut curves.target_distance, &mut curves.weight];
        for (list, mean) in lists.into_iter().zip(self.all()) {
            list.extend(mean);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_weigh_batches_by_their_samples_and_leave_out_what_was_not_evaluated() {
        let mut means = Means::default();
        means.add(&Losses { data: Some(1.0), ..Losses::default() }, 3);
        means.add(&Losses { data: Some(5.0), ..Losses::default() }, 1);
        let mut curves = PostTrainCurves::default();
        means.store(&mut curves);
        assert_eq!((curves.scores.loss, curves.target_distance), (vec![2.0], vec![]));
        means.add(&Losses { distance: Some(f64::NAN), ..Losses::default() }, 1);
        assert!(!means.finite());
    }
}
