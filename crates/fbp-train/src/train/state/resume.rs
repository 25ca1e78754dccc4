//! What a state holds, and how a training takes it up again.

use std::time::Instant;

use candle_core::{Device, Tensor};
use fbp_models::{AdamW, Moments, Network};

use super::super::aim::Aim;
use super::super::choice::{Choice, Judged};
use super::super::curves::PostTrainCurves;
use super::super::losses::Means;
use super::super::pace::Pace;
use super::kept::{Kept, Numbers};
use super::part::Part;
use crate::TrainError;

/// How far a training is.
#[derive(Debug, Default)]
pub(in super::super) struct Place {
    /// The present epoch, counted from 1.
    pub(in super::super) epoch: usize,
    /// Batches of it that are done.
    pub(in super::super) batches: usize,
    /// What they came to.
    pub(in super::super) means: Means,
    /// Time of its steps.
    pub(in super::super) seconds: f64,
}

/// Everything that decides how a training goes on, between two of its steps.
pub(in super::super) struct Moment<'m> {
    pub(in super::super) network: &'m Network,
    pub(in super::super) optimiser: &'m mut AdamW,
    pub(in super::super) judged: &'m Judged,
    pub(in super::super) pace: &'m mut Pace,
    pub(in super::super) choice: &'m mut Choice,
    pub(in super::super) curves: &'m mut PostTrainCurves,
    pub(in super::super) aim: &'m mut dyn Aim,
    /// Weights at the beginning of the epoch, where the aim depends on them.
    pub(in super::super) beginning: &'m mut Option<Network>,
    pub(in super::super) place: &'m mut Place,
}

const WEIGHTS: &str = "weights";
const AVERAGE: &str = "average";
const BEST: &str = "best";
const BEGINNING: &str = "beginning";

/// The lists of curves that grow with the epochs.
fn lists(curves: &mut PostTrainCurves) -> [&mut Vec<f64>; 5] {
    let PostTrainCurves { scores, target_distance, weight, .. } = curves;
    [&mut scores.loss, &mut scores.validation, &mut scores.test, target_distance, weight]
}

impl Moment<'_> {
    /// Keeps everything.
    ///
    /// # Errors
    /// As [`Part::save`].
    pub(in super::super) fn save(&mut self, part: &mut Part<'_>) -> Result<(), TrainError> {
        let begun = Instant::now();
        let (chosen_epoch, chosen_score, best) = self.choice.kept();
        let mut numbers = Numbers::new();
        let networks = [
            (WEIGHTS, Some(self.network)),
            (AVERAGE, self.judged.average()),
            (BEST, best),
            (BEGINNING, self.beginning.as_ref()),
        ];
        for (what, network) in networks {
            for (name, var) in network.into_iter().flat_map(Network::state) {
                numbers.insert(format!("{what}.{name}"), var.flatten_all()?.to_vec1()?);
            }
        }
        let Moments { steps: optimiser_steps, averages } = self.optimiser.moments();
        for (index, [first, second]) in averages.into_iter().enumerate() {
            numbers.insert(format!("first.{index}"), first);
            numbers.insert(format!("second.{index}"), second);
        }
        let (samples, sums) = self.place.means.kept();
        let kept = Kept {
            epoch: self.place.epoch,
            batches: self.place.batches,
            samples: samples.to_bits(),
            sums: sums.map(|sum| sum.map(f64::to_bits)),
            seconds: self.place.seconds.to_bits(),
            steps: self.pace.steps_done(),
            optimiser_steps,
            draws: self.network.draws(),
            aim: self.aim.averages().map(|averages| averages.map(f64::to_bits)),
            chosen_epoch,
            chosen_score: chosen_score.map(f64::to_bits),
            curves: lists(self.curves).map(|list| list.iter().map(|value| value.to_bits()).collect()),
            training_seconds: self.curves.training_seconds.to_bits(),
        };
        part.save(kept, numbers, begun)
    }

    /// Goes on from a state, if it fits: everything is then as it was when that was kept, and the epoch has begun if some of
    /// its batches are done.
    ///
    /// # Errors
    /// Those of the aim, and [`TrainError::Model`] if a network cannot be copied.
    pub(in super::super) fn load(&mut self, kept: Kept, mut numbers: Numbers) -> Result<bool, TrainError> {
        let Some(found) = self.found(&kept, &mut numbers)? else { return Ok(false) };
        self.optimiser.set_moments(found.moments)?;
        self.network.set_draws(&kept.draws)?;
        *self.place = Place {
            epoch: kept.epoch,
            batches: kept.batches,
            means: Means::of_kept(f64::from_bits(kept.samples), kept.sums.map(|sum| sum.map(f64::from_bits))),
            seconds: f64::from_bits(kept.seconds),
        };
        self.pace.go_on_after(kept.steps);
        if let Some(averages) = kept.aim {
            self.aim.set_averages(averages.map(f64::from_bits));
        }
        for (list, bits) in lists(self.curves).into_iter().zip(kept.curves) {
            *list = bits.into_iter().map(f64::from_bits).collect();
        }
        self.curves.training_seconds += f64::from_bits(kept.training_seconds);
        if let (Some(average), Some(values)) = (self.judged.average(), found.average) {
            set(average, values)?;
        }
        let best = found.best.map(|values| copy(self.network, values)).transpose()?;
        self.choice.go_on(kept.chosen_epoch, kept.chosen_score.map(f64::from_bits), best);
        if let Some(values) = found.beginning {
            *self.beginning = Some(copy(self.network, values)?);
        }
        if kept.batches > 0 {
            // The aim may depend on the weights of that time.
            if let Some(beginning) = &*self.beginning {
                self.network.copy_stages(beginning, 0..self.network.stages().len())?;
            }
            self.aim.begin(self.network, kept.epoch)?;
        }
        set(self.network, found.weights)?;
        Ok(true)
    }

    /// The tensors of a state; none if they are not those of this training.
    fn found(&self, kept: &Kept, numbers: &mut Numbers) -> Result<Option<Found>, TrainError> {
        let (_, _, best) = self.choice.kept();
        let has = |what: &str, numbers: &Numbers| numbers.keys().any(|name| name.split('.').next() == Some(what));
        if kept.draws.len() != self.network.draws().len() || best.is_some() != has(BEST, numbers) {
            return Ok(None);
        }
        let averages = self.optimiser.moments().averages;
        let mut moments = Moments { steps: kept.optimiser_steps, averages: Vec::new() };
        for (index, [first, second]) in averages.iter().enumerate() {
            let pair = (numbers.remove(&format!("first.{index}")), numbers.remove(&format!("second.{index}")));
            match pair {
                (Some(a), Some(b)) if a.len() == first.len() && b.len() == second.len() => {
                    moments.averages.push([a, b])
                }
                _ => return Ok(None),
            }
        }
        let average = self.judged.average().is_some();
        let begins = has(BEGINNING, numbers);
        let mut of = |what: &str, wanted: bool| match wanted {
            true => taken(self.network, what, numbers).map(|values| values.map(Some)),
            false => Ok(Some(None)),
        };
        let (weights, average) = (of(WEIGHTS, true)?, of(AVERAGE, average)?);
        let (best, beginning) = (of(BEST, best.is_some())?, of(BEGINNING, begins)?);
        Ok(match (weights, average, best, beginning) {
            (Some(Some(weights)), Some(average), Some(best), Some(beginning)) => {
                Some(Found { moments, weights, average, best, beginning })
            }
            _ => None,
        })
    }
}

/// Tensors of a state that fit a training.
struct Found {
    moments: Moments,
    weights: Vec<Tensor>,
    average: Option<Vec<Tensor>>,
    best: Option<Vec<Tensor>>,
    beginning: Option<Vec<Tensor>>,
}

/// One tensor for each of a network; none if one is missing or has another size.
fn taken(network: &Network, what: &str, numbers: &mut Numbers) -> Result<Option<Vec<Tensor>>, TrainError> {
    let mut tensors = Vec::new();
    for (name, var) in network.state() {
        match numbers.remove(&format!("{what}.{name}")) {
            Some(values) if values.len() == var.elem_count() => {
                tensors.push(Tensor::from_vec(values, var.shape(), &Device::Cpu)?);
            }
            _ => return Ok(None),
        }
    }
    Ok(Some(tensors))
}

fn set(network: &Network, values: Vec<Tensor>) -> Result<(), TrainError> {
    network.state().zip(values).try_for_each(|((_, var), value)| Ok(var.set(&value)?))
}

/// A network of the same description with other values.
fn copy(network: &Network, values: Vec<Tensor>) -> Result<Network, TrainError> {
    let copy = network.duplicate()?;
    set(&copy, values)?;
    Ok(copy)
}
