use std::time::Instant;

use candle_core::{Device, Tensor};
use faer::Mat;
use fbp_models::Network;

use super::change::WeightChange;
use super::problem::{Metric, column_moment};
use super::record::{Candidate, StateMeasures};
use super::rows::Subjects;
use super::samples::SampleChoice;
use crate::TrainError;
use crate::affine::{AffineLayer, flat};
use crate::cache::FeatureCache;
use crate::data::{DataBundle, Split, shuffle_indices};
use crate::pretrain::SPLIT_SEED;
use crate::progress::Progress;
use crate::settings::check;

/// Demanded leads and ridges, in the order in which they are tried.
const GRID: [(f64, f64); 6] = [(0.3, 0.01), (1.0, 0.01), (0.3, 0.3), (1.0, 0.3), (0.05, 0.01), (0.05, 0.3)];
/// Linearisations for each of them.
const ROUNDS: usize = 4;
/// Shares of a step, tried in turn until the loss on the validation part is within its bound.
const STEPS: [f64; 3] = [1.0, 0.5, 0.25];
/// Share of the margin by which more is asked for a sample that a state has not repaired.
const RAISE: f64 = 0.5;
/// Training samples that are watched: their features are the data to be left alone.
const WATCHED: usize = 10_000;
/// Watched samples that become conditions, at most: the cost of a solve grows with the cube of their number.
const GUARDS: usize = 400;
/// Lead that they keep.
const GUARD_MARGIN: f64 = 0.05;
/// Share of the mean squared length of the conditions that slack costs.
const SOFTNESS: f64 = 1e-5;
/// Samples that are evaluated at a time.
const BATCH: usize = 1000;
/// Random stream for the choice of watched samples.
const STREAM: u64 = u64::MAX - 2;

/// How to repair.
///
/// | field          | default | range    |
/// |----------------|---------|----------|
/// | `max_drawdown` | 0.013   | `[0, 1]` |
/// | `efficacy`     | 0.99    | `[0, 1]` |
/// | `validation`   | 0.1     | `(0, 1)` |
/// | `seed`         | 0       |          |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepairOptions {
    /// Largest loss of accuracy on the validation part.
    pub max_drawdown: f64,
    /// Share of repaired samples that is enough: no further margin or ridge is then tried.
    pub efficacy: f64,
    /// Share of the training data held back for validation.
    pub validation: f64,
    /// Seed of the choice of samples.
    pub seed: u64,
}

impl Default for RepairOptions {
    fn default() -> Self {
        Self { max_drawdown: 0.013, efficacy: 0.99, validation: 0.1, seed: 0 }
    }
}

impl RepairOptions {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] with the first field that is outside.
    pub fn check(&self) -> Result<(), TrainError> {
        check("--max-drawdown", self.max_drawdown, 0.0..=1.0, "[0, 1]")?;
        check("--efficacy", self.efficacy, 0.0..=1.0, "[0, 1]")?;
        check("--validation", self.validation, f64::MIN_POSITIVE..1.0, "(0, 1)")
    }
}

/// What a repair did.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// Positions of the samples in the training data.
    pub samples: Vec<usize>,
    /// Measures of the result.
    pub measures: StateMeasures,
    /// The state that was chosen; none if the network is unchanged.
    pub chosen: Option<Candidate>,
    /// Every state looked at.
    pub candidates: Vec<Candidate>,
    /// Name of the layer.
    pub layer: String,
    /// Length of the change relative to the weights of the layer.
    pub change_relative: f64,
    /// Which weights changed.
    pub weights: WeightChange,
    /// Time of caching, solving and choosing among states.
    pub seconds: f64,
}

/// Makes samples right in place, with the smallest change of the last linear or convolutional layer of a stage.
///
/// ```text
/// min tr(ΔW C ΔWᵀ)   subject to   (J_i ΔW x̃_i)_y - (J_i ΔW x̃_i)_j >= m - (z_y - z_j)   for every sample i, rival j
/// ```
///
/// `C` is the second moment of the layer's inputs over training samples to be left alone, `J_i` the derivative of the
/// logits by the outputs of the layer. The conditions are linearised again at every new state, and watched samples that
/// a state broke become conditions of the next one. A step that loses too much on the validation part is halved,
/// and more is asked for samples that are still wrong. Margins and ridges are tried in turn until enough samples are
/// repaired; of all states the one with the most repaired samples is kept that loses no more than `max_drawdown` on the
/// validation part, of equals the one that loses least. No change is one of the states.
///
/// # Errors
/// [`TrainError::Parameter`], [`TrainError::Samples`], [`TrainError::Mismatch`] for a stage without such a layer,
/// [`TrainError::Singular`] for data that are not finite.
///
/// # Source
/// Own derivation; smallest changes of a layer that satisfy linear conditions: Sotoudeh & Thakur, "Provable repair of
/// deep neural networks", PLDI 2021.
pub fn repair(
    network: &Network,
    stage: &str,
    choice: &SampleChoice,
    data: &DataBundle,
    options: &RepairOptions,
    progress: &dyn Progress,
) -> Result<Repaired, TrainError> {
    options.check()?;
    let layer = AffineLayer::of_stage(network, stage)?;
    let split = Split::stratified(&data.train, options.validation, SPLIT_SEED)?;
    let samples = choice.resolve(network, data, &split.train, options.seed)?;
    let begun = Instant::now();
    let mut watched: Vec<usize> = split.train.iter().copied().filter(|i| samples.binary_search(i).is_err()).collect();
    shuffle_indices(&mut watched, options.seed, STREAM);
    watched.truncate(WATCHED);
    let cached = |indices: &[usize]| {
        FeatureCache::new(&data.train, &data.normalization, indices, |images| layer.input(network, images))
            .map(|cache| FeatureCache { constant: layer.constant, ..cache })
    };
    let bench = Bench {
        targets: cached(&samples)?,
        watched: cached(&watched)?,
        validation: cached(&split.validation)?,
        old: layer.weights(network)?,
        network,
        layer,
    };
    let mut search = Search::new(&bench, options)?;
    progress.begin("repair", GRID.len() * ROUNDS, "solves");
    for (margin, ridge) in GRID {
        search.run(margin, ridge, progress)?;
        if search.best.as_ref().is_some_and(|(_, best)| best.measures.efficacy >= options.efficacy) {
            break;
        }
    }
    progress.end();
    let Search { best, candidates, start, .. } = search;
    let (change, chosen, measures) = match best {
        Some((change, candidate)) => (change, Some(candidate), candidate.measures),
        None => (Mat::zeros(bench.old.nrows(), bench.old.ncols()), None, start),
    };
    bench.layer.set(network, &(&bench.old + &change))?;
    let change_relative = change.norm_l2() / bench.old.norm_l2().max(f64::MIN_POSITIVE);
    let layer = bench.layer.name().to_owned();
    let weights = WeightChange::of(&bench.old, &change);
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Repaired { samples, measures, chosen, candidates, layer, change_relative, weights, seconds })
}

/// What every state is made from and measured on.
struct Bench<'a> {
    network: &'a Network,
    layer: AffineLayer,
    old: Mat<f64>,
    targets: FeatureCache,
    watched: FeatureCache,
    validation: FeatureCache,
}

impl Bench<'_> {
    /// Lead of the label over the strongest rival, for every cached sample, at the present weights.
    fn leads(&self, cache: &FeatureCache) -> Result<Vec<f32>, TrainError> {
        let mut leads = Vec::with_capacity(cache.samples());
        for (values, labels) in cache.values.chunks((BATCH * cache.len).max(1)).zip(cache.labels.chunks(BATCH)) {
            let input = Tensor::from_slice(values, (labels.len(), cache.len), &Device::Cpu)?;
            let logits = self.layer.logits(self.network, &self.layer.output(self.network, &input)?)?;
            let classes = logits.dim(1)?;
            for (row, &label) in flat(&logits)?.chunks_exact(classes).zip(labels) {
                let rivals = row.iter().enumerate().filter(|(class, _)| *class != label as usize);
                leads.push(row[label as usize] - rivals.map(|(_, &z)| z).fold(f32::NEG_INFINITY, f32::max));
            }
        }
        Ok(leads)
    }

    fn share_right(&self, cache: &FeatureCache) -> Result<f64, TrainError> {
        let right = self.leads(cache)?.into_iter().filter(|&lead| lead > 0.0).count();
        Ok(right as f64 / cache.samples().max(1) as f64)
    }
}

struct Search<'a> {
    bench: &'a Bench<'a>,
    options: &'a RepairOptions,
    moment: Mat<f64>,
    targets: Subjects,
    /// Watched samples that were right at the start.
    right: Vec<bool>,
    validation_before: f64,
    start: StateMeasures,
    best: Option<(Mat<f64>, Candidate)>,
    candidates: Vec<Candidate>,
}

impl<'a> Search<'a> {
    fn new(bench: &'a Bench<'a>, options: &'a RepairOptions) -> Result<Self, TrainError> {
        let all: Vec<usize> = (0..bench.targets.samples()).collect();
        let efficacy = bench.share_right(&bench.targets)?;
        Ok(Self {
            bench,
            options,
            moment: column_moment(&bench.layer, &bench.watched),
            targets: Subjects::new(&bench.layer, &bench.targets, &all)?,
            right: bench.leads(&bench.watched)?.into_iter().map(|lead| lead > 0.0).collect(),
            validation_before: bench.share_right(&bench.validation)?,
            start: StateMeasures { efficacy, drawdown_validation: 0.0 },
            best: None,
            candidates: Vec::new(),
        })
    }

    /// All rounds for one margin and ridge.
    fn run(&mut self, margin: f64, ridge: f64, progress: &dyn Progress) -> Result<(), TrainError> {
        let Bench { network, layer, old, watched, .. } = self.bench;
        let metric = Metric::new(&self.moment, ridge)?;
        let mut change = Mat::zeros(old.nrows(), old.ncols());
        let mut guarded: Vec<usize> = Vec::new();
        let mut margins = vec![margin; self.targets.labels.len()];
        layer.set(network, old)?;
        for round in 1..=ROUNDS {
            let rows = self.targets.rows(network, layer, &change, &margins, usize::MAX)?;
            let guards = Subjects::new(layer, watched, &guarded)?;
            let guard_margins = vec![GUARD_MARGIN; guarded.len()];
            let guard_rows = guards.rows(network, layer, &change, &guard_margins, 2)?;
            let wanted = metric.smallest_change(layer, &[(&self.targets, &rows), (&guards, &guard_rows)], SOFTNESS)?;
            let from = change.clone();
            for step in STEPS {
                change = &from + faer::Scale(step) * (&wanted - &from);
                layer.set(network, &(old + &change))?;
                let measures = self.measure()?;
                self.offer(&change, Candidate { margin, ridge, round, step, guards: guarded.len(), measures });
                if measures.drawdown_validation <= self.options.max_drawdown {
                    break;
                }
            }
            self.watch(&mut guarded)?;
            for (own, lead) in margins.iter_mut().zip(self.bench.leads(&self.bench.targets)?) {
                // The linearisation promised more than the network keeps.
                *own += if lead > 0.0 { 0.0 } else { RAISE * margin };
            }
            progress.advance(1);
        }
        Ok(())
    }

    /// Measures of the present weights.
    fn measure(&self) -> Result<StateMeasures, TrainError> {
        Ok(StateMeasures {
            efficacy: self.bench.share_right(&self.bench.targets)?,
            drawdown_validation: self.validation_before - self.bench.share_right(&self.bench.validation)?,
        })
    }

    /// Adds the watched samples that the present weights broke, the worst ones first.
    fn watch(&self, guarded: &mut Vec<usize>) -> Result<(), TrainError> {
        let leads = self.bench.leads(&self.bench.watched)?;
        let mut broken: Vec<usize> =
            (0..leads.len()).filter(|&k| self.right[k] && leads[k] <= 0.0 && !guarded.contains(&k)).collect();
        broken.sort_by(|&a, &b| leads[a].total_cmp(&leads[b]));
        guarded.extend(broken.into_iter().take(GUARDS - guarded.len()));
        Ok(())
    }

    fn offer(&mut self, change: &Mat<f64>, candidate: Candidate) {
        let StateMeasures { efficacy, drawdown_validation } = candidate.measures;
        tracing::info!(?candidate, "state");
        self.candidates.push(candidate);
        let best = self.best.as_ref().map_or(self.start, |(_, best)| best.measures);
        let better =
            efficacy > best.efficacy || efficacy == best.efficacy && drawdown_validation < best.drawdown_validation;
        if drawdown_validation <= self.options.max_drawdown && better {
            self.best = Some((change.clone(), candidate));
        }
    }
}
