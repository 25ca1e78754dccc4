//! The one loop over epochs and batches, for every way to train.

use std::ops::Range;
use std::time::Instant;

use candle_core::Tensor;
use fbp_models::{AdamW, Network};

use super::aim::Aim;
use super::choice::{Choice, Judged};
use super::curves::PostTrainCurves;
use super::losses::{Loss, Means};
use super::pace::Pace;
use super::slices::Slices;
use super::source::Source;
use super::state::{Moment, Part, Place};
use crate::TrainError;
use crate::data::Batch;
use crate::objective::supervised;
use crate::progress::Progress;
use crate::settings::LossKind;

/// Loss of the labels or outputs behind some stages.
pub(super) struct Supervised {
    pub(super) stages: Range<usize>,
    pub(super) loss: LossKind,
}

impl Aim for Supervised {
    fn loss(&mut self, network: &Network, input: &Tensor, batch: Batch<'_>) -> Result<Loss, TrainError> {
        let output = network.forward_stages(self.stages.clone(), input)?;
        Loss::alone(supervised(self.loss, &output, batch)?)
    }
}

/// A training from its first step to its last.
pub(super) struct Course<'a> {
    pub(super) source: Source<'a>,
    pub(super) optimiser: AdamW,
    pub(super) judged: Judged,
    pub(super) pace: Pace,
    pub(super) epochs: usize,
    /// Seed of the order of the samples.
    pub(super) seed: u64,
    pub(super) progress: &'a dyn Progress,
    /// Where its state is kept, if it is.
    pub(super) state: Option<Part<'a>>,
    /// What makes it one of several ranks, if it is.
    pub(super) slices: Option<Slices>,
}

/// What a training has come to so far, epoch by epoch.
pub(super) struct Log {
    pub(super) choice: Choice,
    pub(super) curves: PostTrainCurves,
}

/// What an epoch came to.
pub(super) struct Epoch<'a> {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) means: Means,
    /// Time of its steps.
    pub(super) seconds: f64,
    /// The network to judge.
    pub(super) state: &'a Network,
}

impl Course<'_> {
    /// Does all epochs, or those that an earlier run has left, and shows `after` each what it came to.
    ///
    /// # Errors
    /// [`TrainError::Diverged`], [`TrainError::Stopped`], and those of `aim` and `after`.
    pub(super) fn run(
        &mut self,
        network: &Network,
        aim: &mut dyn Aim,
        log: &mut Log,
        after: &mut dyn FnMut(Epoch<'_>, &mut Log) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let (epochs, seed) = (self.epochs, self.seed);
        let Self { source, optimiser, judged, pace, progress, state, slices, .. } = self;
        let share = slices.as_ref().map(Slices::share);
        let mut place = Place { epoch: 1, ..Place::default() };
        let mut beginning = None;
        // Everything that makes a state.
        macro_rules! moment {
            () => {
                Moment {
                    network,
                    optimiser: &mut *optimiser,
                    judged: &*judged,
                    pace: &mut *pace,
                    choice: &mut log.choice,
                    curves: &mut log.curves,
                    aim: &mut *aim,
                    beginning: &mut beginning,
                    place: &mut place,
                }
            };
        }
        if let Some(line) = take_up(moment!(), state.as_mut(), slices.as_ref(), *progress)? {
            progress.note(&line);
            progress.advance((place.epoch - 1) * source.samples() + source.samples_of(place.batches));
        }
        while place.epoch <= epochs {
            let (number, begun, earlier) = (place.epoch, Instant::now(), place.seconds);
            if place.batches == 0 {
                match aim.begin(network, number) {
                    Err(TrainError::Stopped { .. }) => {
                        // What the epochs before came to is not lost, if a state is kept; of what was begun nothing is.
                        state.as_mut().map_or(Ok(()), |part| keep(moment!(), part, (true, *progress)))?;
                        return Err(stopped(&place, epochs, state.is_some() || share.is_some()));
                    }
                    begun => begun?,
                }
                let keeps = state.is_some() && aim.begins_with_weights();
                beginning = keeps.then(|| network.duplicate()).transpose()?;
            }
            source.each_batch(seed, (number, place.batches), share, |input, batch, whole| {
                optimiser.set_learning_rate(pace.next())?;
                let stop = progress.stop_asked();
                let (parts, stop) = match slices {
                    Some(slices) => slices.step((network, optimiser), aim, (input, batch, whole), stop)?,
                    None => {
                        let Loss { total, parts } = aim.loss(network, input, batch)?;
                        optimiser.backward_step(&total)?;
                        // Asked again, as a step may take long.
                        (parts, progress.stop_asked())
                    }
                };
                judged.step()?;
                place.means.add(&parts, whole);
                place.batches += 1;
                place.seconds = earlier + begun.elapsed().as_secs_f64();
                progress.advance(whole);
                if let Some(part) = state.as_mut()
                    && (part.is_due() || stop)
                {
                    keep(moment!(), part, (stop, *progress))?;
                }
                if stop { Err(stopped(&place, epochs, state.is_some() || share.is_some())) } else { Ok(()) }
            })?;
            let Place { means, seconds, .. } =
                std::mem::replace(&mut place, Place { epoch: number + 1, ..Place::default() });
            if !means.finite() {
                return Err(TrainError::Diverged { epoch: number });
            }
            after(Epoch { number, means, seconds, state: judged.network(network) }, log)?;
        }
        match state {
            Some(part) if part.keeps_end => keep(moment!(), part, (false, *progress)),
            _ => Ok(()),
        }
    }
}

/// Goes on from the state that was kept, if there is one that fits; of several ranks all from that of the first. Gives a line
/// that says so.
fn take_up(
    mut moment: Moment<'_>,
    mut part: Option<&mut Part<'_>>,
    slices: Option<&Slices>,
    progress: &dyn Progress,
) -> Result<Option<String>, TrainError> {
    let found = part.as_mut().and_then(|part| part.load(progress));
    let found = match slices {
        Some(slices) => slices.of_first(found)?,
        None => found,
    };
    let Some((kept, numbers)) = found else { return Ok(None) };
    let steps = kept.steps;
    match (moment.load(kept, numbers)?, part) {
        (true, part) => {
            let place = part.map(|part| format!(" from {}", part.place())).unwrap_or_default();
            Ok(Some(format!("goes on after {steps} steps{place}")))
        }
        (false, Some(part)) => {
            part.refuse(progress);
            Ok(None)
        }
        (false, None) => Ok(None),
    }
}

/// Keeps a state. A disk that is full is no reason to end a training, unless that is to stop.
fn keep(
    mut moment: Moment<'_>,
    part: &mut Part<'_>,
    (stop, progress): (bool, &dyn Progress),
) -> Result<(), TrainError> {
    match moment.save(part) {
        Err(error @ TrainError::Write { .. }) if !stop => {
            progress.note(&format!("the state of the training is not kept this time: {}", error.one_line()));
            Ok(())
        }
        kept => kept,
    }
}

fn stopped(place: &Place, epochs: usize, is_kept: bool) -> TrainError {
    let Place { epoch, batches, .. } = place;
    let left = match is_kept {
        true => format!(
            "its state after step {batches} of epoch {epoch} of {epochs} is kept; the same command goes on from there"
        ),
        false => format!(
            "no state was kept after step {batches} of epoch {epoch} of {epochs}; it would start from its beginning"
        ),
    };
    TrainError::Stopped { left }
}
