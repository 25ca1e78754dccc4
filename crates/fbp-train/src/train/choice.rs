use fbp_models::{Network, WeightAverage};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::scores::ChosenScores;
use crate::settings::{Keep, Measure};

/// Which state of a run was kept, and how good it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// Epoch (or candidate, in modes without epochs) after which it was taken; 0 is the start.
    pub epoch: usize,
    /// Its accuracies, or RMSE for data with outputs.
    #[serde(flatten)]
    pub scores: ChosenScores,
}

/// The best state so far on the validation part.
#[derive(Debug)]
pub(super) struct Choice {
    keep: Keep,
    measure: Measure,
    epoch: usize,
    score: Option<f64>,
    best: Option<Network>,
}

impl Choice {
    /// The start is the first candidate; `score` is its score on the validation part, none without one.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the network cannot be copied.
    pub(super) fn new(
        (keep, measure): (Keep, Measure),
        start: &Network,
        score: Option<f64>,
    ) -> Result<Self, TrainError> {
        let best = (keep == Keep::Best && score.is_some()).then(|| start.duplicate()).transpose()?;
        Ok(Self { keep, measure, epoch: 0, score, best })
    }

    /// Looks at the state after an epoch; the earlier of two equals stays.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the network cannot be copied.
    pub(super) fn offer(&mut self, epoch: usize, network: &Network, score: Option<f64>) -> Result<(), TrainError> {
        let better = match (self.keep, score, self.score) {
            (Keep::Best, Some(new), Some(old)) => self.measure.is_better(new, old),
            _ => true,
        };
        if better {
            (self.epoch, self.score) = (epoch, score);
            if self.best.is_some() {
                self.best = Some(network.duplicate()?);
            }
        }
        Ok(())
    }

    /// Epoch and score of the best state so far, and that state if it is not the latest.
    pub(super) fn kept(&self) -> (usize, Option<f64>, Option<&Network>) {
        (self.epoch, self.score, self.best.as_ref())
    }

    /// Goes on from what [`kept`](Self::kept) gave.
    pub(super) fn go_on(&mut self, epoch: usize, score: Option<f64>, best: Option<Network>) {
        (self.epoch, self.score, self.best) = (epoch, score, best);
    }

    /// Puts the kept state into `network`; returns its epoch and score.
    pub(super) fn restore(self, network: &mut Network) -> (usize, Option<f64>) {
        if let Some(best) = self.best {
            *network = best;
        }
        (self.epoch, self.score)
    }
}

/// The network that is judged and kept: the one that is trained, or the running average of its weights.
#[derive(Debug)]
pub(super) struct Judged {
    average: Option<WeightAverage>,
}

impl Judged {
    /// The average begins with the present weights; without a decay there is none.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the network cannot be copied.
    pub(super) fn new(network: &Network, decay: Option<f64>) -> Result<Self, TrainError> {
        Ok(Self { average: decay.map(|decay| WeightAverage::new(network, decay)).transpose()? })
    }

    /// A step was taken.
    ///
    /// # Errors
    /// [`TrainError::Model`] if a weight cannot be read.
    pub(super) fn step(&self) -> Result<(), TrainError> {
        self.average.iter().try_for_each(|average| Ok(average.update()?))
    }

    /// The network to judge.
    pub(super) fn network<'a>(&'a self, trained: &'a Network) -> &'a Network {
        self.average.as_ref().map_or(trained, WeightAverage::network)
    }

    /// The running average, if there is one.
    pub(super) fn average(&self) -> Option<&Network> {
        self.average.as_ref().map(WeightAverage::network)
    }

    /// Puts what was judged last into `trained`.
    pub(super) fn take(self, trained: &mut Network) {
        if let Some(average) = self.average {
            *trained = average.into_network();
        }
    }
}

#[cfg(test)]
mod tests {
    use fbp_models::zoo;

    use super::*;

    fn network(seed: u64) -> Network {
        Network::new(&zoo::spec("simple-cnn-mnist-v1").unwrap(), seed).unwrap()
    }

    fn first_weight(network: &Network) -> f32 {
        network.vars_of(0..1).unwrap()[0].flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
    }

    fn kept(how: (Keep, Measure), scores: [Option<f64>; 3]) -> (usize, Option<f64>, f32) {
        let mut choice = Choice::new(how, &network(0), scores[0]).unwrap();
        for (epoch, score) in scores.into_iter().enumerate().skip(1) {
            choice.offer(epoch, &network(epoch as u64), score).unwrap();
        }
        let mut last = network(2);
        let (epoch, score) = choice.restore(&mut last);
        (epoch, score, first_weight(&last))
    }

    #[test]
    fn the_start_stays_unless_something_is_better() {
        let weights = [0, 1, 2].map(|seed| first_weight(&network(seed)));
        let some = |list: [f64; 3]| list.map(Some);
        let (best, last) = ((Keep::Best, Measure::Accuracy), (Keep::Last, Measure::Accuracy));
        assert_eq!(kept(best, some([0.9, 0.8, 0.9])), (0, Some(0.9), weights[0]));
        assert_eq!(kept(best, some([0.7, 0.9, 0.8])), (1, Some(0.9), weights[1]));
        assert_eq!(kept(last, some([0.9, 0.8, 0.7])), (2, Some(0.7), weights[2]));
        assert_eq!(kept(best, [None; 3]), (2, None, weights[2]));
        // Of errors the smallest.
        let least = (Keep::Best, Measure::Rmse);
        assert_eq!(kept(least, some([0.7, 0.5, 0.6])), (1, Some(0.5), weights[1]));
        assert_eq!(kept(least, some([0.5, 0.5, 0.6])), (0, Some(0.5), weights[0]));
    }
}
