use candle_core::{Device, Tensor};
use faer::Mat;
use fbp_models::Network;

use super::deadline::Deadline;
use super::demand::{Demand, OUTPUT_ROUNDS, ROUNDS};
use super::judge::kin_of;
use super::options::RepairOptions;
use super::origin::Given;
use super::problem::{Metric, column_moment, output_sensitivity};
use super::record::{Candidate, StateMeasures};
use super::rows::{Leads, Subjects};
use crate::TrainError;
use crate::affine::{AffineLayer, flat};
use crate::cache::FeatureCache;
use crate::data::{DataBundle, Dataset, Split, shuffle_indices};
use crate::evaluate::largest_error;
use crate::metrics::lead;
use crate::progress::Progress;
use crate::settings::{Measure, Part, Preference};
use crate::train::head_of;

/// Strongest rivals of a sample whose leads are conditions; others become so when they are stronger in a later round.
const RIVALS: usize = 4;
/// Outputs of a sample that are conditions: those with the largest errors.
const OUTPUTS: usize = 64;
/// Share of the tolerance that a margin of 1 asks an output to lead by.
const LEAD: f64 = 0.9;
/// Largest share that is asked for.
const MOST: f64 = 0.98;
/// Shares of a step, tried in turn until the loss on the validation part is within its bound.
pub(super) const STEPS: [f64; 3] = [1.0, 0.5, 0.25];
/// Share of the margin by which more is asked for a sample that a state has not repaired.
const RAISE: f64 = 0.5;
/// Training samples that are watched at most: their features are the data to be left alone.
const WATCHED: usize = 10_000;
/// As many are enough for a layer of few inputs, or so many for each of them, where others of the kind should come right: `resnet20` at
/// `fc`, 100 wrong foggy images, 65.1 % of the others with 3,000 and 65.0 with 4,000. Where the least loss is looked for they are not: the same
/// layer, 100 wrong clean images, 98 right for 1.27 points with 3,000, 99 for 1.13 with 10,000.
const ENOUGH: [usize; 2] = [3000, 40];
/// Watched samples that are looked at in every round, those with the smallest leads: what a state breaks is among them.
pub(super) const CLOSE: usize = 3_000;
/// Watched samples that become conditions, at most: the cost of a solve grows with the cube of their number.
pub(super) const GUARDS: usize = 400;
/// Lead that they keep.
const GUARD_MARGIN: f64 = 0.05;
/// Samples that are evaluated at a time; few, for the reason that caches are filled with few.
const BATCH: usize = 100;
/// Random stream for the choice of watched samples.
const STREAM: u64 = u64::MAX - 2;

/// Changes of one layer that make samples right: what they are made from and measured on.
///
/// Every change that is looked at is left in the network.
pub(super) struct Search<'a> {
    pub(super) network: &'a Network,
    pub(super) layer: AffineLayer,
    /// Weights of the layer at the start.
    pub(super) old: Mat<f64>,
    pub(super) targets: FeatureCache,
    /// The watched samples, where the layer is the last one and can be refitted.
    pub(super) refitted: Option<FeatureCache>,
    pub(super) subjects: Subjects,
    /// Images beside the samples that are asked to come right as well.
    neighbours: Subjects,
    /// Validation samples of the same kind that were wrong at the start, where states are chosen by them.
    kin: Option<FeatureCache>,
    /// The watched samples that are looked at in every round.
    pub(super) close: FeatureCache,
    validation: FeatureCache,
    /// Second moment of the layer's input over the watched samples.
    pub(super) moment: Mat<f64>,
    pub(super) baseline: Baseline,
    /// Measures of the network as it is, before this layer changes.
    pub(super) start: StateMeasures,
    /// How far outputs may be from those wanted; none for labels.
    tolerance: Option<f64>,
    /// Most conditions of a sample.
    pub(super) rivals: usize,
    /// How the outputs of the network depend on those of the layer, over the watched samples; for outputs only.
    sensitivity: Option<Mat<f64>>,
}

/// Most conditions of a sample, in a network with so many outputs.
pub(super) fn rivals(data: &Dataset, outputs: usize) -> usize {
    if data.outputs().is_some() { OUTPUTS.min(outputs) } else { RIVALS.min(outputs.saturating_sub(1)).max(1) }
}

/// How many training samples are watched for the sake of a layer, of so many.
pub(super) fn watched(layer: &AffineLayer, prefer: Preference, others: usize) -> usize {
    let [least, each] = ENOUGH;
    let enough = match prefer {
        Preference::Accuracy => WATCHED,
        Preference::Generalisation => (each * (layer.inputs + 1)).clamp(least, WATCHED),
    };
    enough.min(others)
}

/// Whether a layer is refitted as well: nothing follows it but the decision, and the samples are all that is asked for.
pub(super) fn is_refitted(network: &Network, layer: &AffineLayer, options: &RepairOptions) -> bool {
    let is_last = head_of(network).is_ok_and(|head| head.name() == layer.name());
    is_last
        && layer.positions() == 1
        && !layer.is_beside_others()
        && options.tolerance.is_none()
        && options.neighbours == 0
}

/// What a network that changes layer after layer is compared with: itself before the first change.
#[derive(Clone)]
pub(super) struct Baseline {
    /// Watched samples that were right, those with the smallest leads, which come first.
    close: Vec<usize>,
    validation: f64,
    /// Validation samples of the kind that were wrong.
    kin: Vec<usize>,
}

/// The states that the rounds for one demand came through. Of their changes only the best one is kept: there may be more than a hundred.
pub(super) struct Rounds {
    /// What the states came to.
    pub(super) candidates: Vec<Candidate>,
    /// The best state that is allowed, the first one of equals.
    pub(super) best: Option<(Mat<f64>, Candidate)>,
    /// Whether the deadline came before the last round was done.
    pub(super) time_over: bool,
}

impl Rounds {
    pub(super) fn new() -> Self {
        Self { candidates: Vec::new(), best: None, time_over: false }
    }

    pub(super) fn push(&mut self, change: &Mat<f64>, candidate: Candidate, options: &RepairOptions) {
        let rank = |candidate: &Candidate| candidate.measures.rank(options.efficacy);
        if candidate.measures.loses_at_most(options.max_drawdown)
            && self.best.as_ref().is_none_or(|(_, best)| rank(&candidate) > rank(best))
        {
            self.best = Some((change.clone(), candidate));
        }
        self.candidates.push(candidate);
    }

    /// What the work that has filled it ended with: a deadline is no failure.
    pub(super) fn ended(mut self, end: Result<(), TrainError>) -> Result<Self, TrainError> {
        self.time_over = match end {
            Err(TrainError::TimeOver) => true,
            end => end.map(|()| false)?,
        };
        Ok(self)
    }
}

impl<'a> Search<'a> {
    /// Caches the states of the layer `stage`: a path, or the last linear or convolutional layer of a stage. Losses are against
    /// the baseline, or against the network as it is.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] for a stage without such a layer, [`TrainError::Model`] for data of another shape,
    /// [`TrainError::TimeOver`].
    pub(super) fn new(
        network: &'a Network,
        stage: &str,
        given: Given<'_>,
        data: &DataBundle,
        split: &Split,
        (options, baseline): (&RepairOptions, Option<&Baseline>),
        deadline: Deadline,
    ) -> Result<Self, TrainError> {
        let RepairOptions { seed, tolerance, .. } = *options;
        let layer = AffineLayer::of(network, stage)?;
        let mut watched: Vec<usize> =
            split.train.iter().copied().filter(|i| given.in_training().binary_search(i).is_err()).collect();
        shuffle_indices(&mut watched, seed, STREAM);
        watched.truncate(self::watched(&layer, options.prefer, watched.len()));
        let cached = |images: &Dataset, indices: &[usize]| {
            let states = |images: &Tensor| deadline.check().and_then(|()| layer.states(network, images));
            FeatureCache::new(images, &data.normalization, indices, states)
                .map(|cache| FeatureCache { constant: layer.constant, ..cache })
        };
        let (targets, watched, validation) = (
            cached(given.origin.images(data), given.samples)?,
            cached(&data.train, &watched)?,
            cached(&data.train, &split.validation)?,
        );
        let neighbours = match options.neighbours {
            0 => FeatureCache::default(),
            count => {
                let images = given.neighbours(data, count, seed)?;
                cached(&images, &(0..images.len()).collect::<Vec<_>>())?
            }
        };
        let kin = match options.prefer {
            Preference::Accuracy => None,
            Preference::Generalisation => {
                Some(cached(given.origin.kin(Part::Train, data), &kin_of(&split.validation))?)
            }
        };
        let subjects = |cache: &FeatureCache| Subjects::new(&layer, cache, &(0..cache.samples()).collect::<Vec<_>>());
        let mut search = Self {
            network,
            old: layer.weights(network)?,
            subjects: subjects(&targets)?,
            neighbours: subjects(&neighbours)?,
            kin: None,
            moment: column_moment(&layer, &watched, deadline)?,
            layer,
            targets,
            refitted: None,
            close: FeatureCache::default(),
            validation,
            baseline: Baseline { close: Vec::new(), validation: 0.0, kin: Vec::new() },
            start: StateMeasures {
                efficacy: 0.0,
                drawdown_validation: 0.0,
                generalisation_validation: None,
                error: None,
            },
            sensitivity: None,
            tolerance,
            rivals: rivals(&data.train, network.spec().classes),
        };
        search.baseline = match baseline {
            Some(baseline) => baseline.clone(),
            None => search.as_it_is(&watched, kin.as_ref(), deadline)?,
        };
        if tolerance.is_some() {
            search.sensitivity = Some(output_sensitivity(network, &search.layer, &watched)?);
        }
        search.close = watched.picked(&search.baseline.close);
        search.refitted = is_refitted(network, &search.layer, options).then_some(watched);
        search.kin = kin.map(|kin| kin.picked(&search.baseline.kin));
        search.start = search.measures(deadline)?;
        Ok(search)
    }

    /// The network as it is, to compare with.
    fn as_it_is(
        &self,
        watched: &FeatureCache,
        kin: Option<&FeatureCache>,
        deadline: Deadline,
    ) -> Result<Baseline, TrainError> {
        let leads = kin.map(|kin| self.leads(kin, deadline)).transpose()?.unwrap_or_default();
        Ok(Baseline {
            close: closest(&self.leads(watched, deadline)?),
            validation: self.score(&self.validation, deadline)?,
            kin: (0..leads.len()).filter(|&k| leads[k] <= 0.0).collect(),
        })
    }

    /// Lead of the label over the strongest rival, or what the largest error leaves of the tolerance, for every cached sample, at
    /// the present weights.
    pub(super) fn leads(&self, cache: &FeatureCache, deadline: Deadline) -> Result<Vec<f32>, TrainError> {
        let mut leads = Vec::with_capacity(cache.samples());
        let entries = cache.entries();
        for (values, labels) in cache.values.chunks((BATCH * cache.len).max(1)).zip(cache.labels.chunks(BATCH)) {
            deadline.check()?;
            let done = leads.len();
            let states = Tensor::from_slice(values, (labels.len(), cache.len), &Device::Cpu)?;
            let output = self.layer.output(self.network, &states)?;
            let logits = self.layer.logits(self.network, &states, &output)?;
            let classes = logits.dim(1)?;
            for (place, (row, &label)) in flat(&logits)?.chunks_exact(classes).zip(labels).enumerate() {
                if let Some(tolerance) = self.tolerance {
                    let wanted = &cache.outputs[(done + place) * entries..][..entries];
                    leads.push((tolerance - largest_error(row, wanted)) as f32);
                    continue;
                }
                leads.push(lead(row, label as usize));
            }
        }
        Ok(leads)
    }

    fn share_right(&self, cache: &FeatureCache, deadline: Deadline) -> Result<f64, TrainError> {
        let right = self.leads(cache, deadline)?.into_iter().filter(|&lead| lead > 0.0).count();
        Ok(right as f64 / cache.samples().max(1) as f64)
    }

    /// Accuracy of some samples at the present weights, or the RMSE of their outputs.
    fn score(&self, cache: &FeatureCache, deadline: Deadline) -> Result<f64, TrainError> {
        if self.tolerance.is_none() {
            return self.share_right(cache, deadline);
        }
        let outputs = |states: &Tensor| {
            deadline.check()?;
            self.layer.logits(self.network, states, &self.layer.output(self.network, states)?)
        };
        Ok(cache.score_of(outputs)?.unwrap_or(0.0))
    }

    /// Whether states may be polished: samples have labels, no others are asked for beside them, and there are no refits, which do more.
    pub(super) fn is_polished(&self) -> bool {
        self.tolerance.is_none() && self.neighbours.labels.is_empty() && self.refitted.is_none()
    }

    /// What is measured.
    fn measure(&self) -> Measure {
        if self.tolerance.is_some() { Measure::Rmse } else { Measure::Accuracy }
    }

    /// What a margin asks for: logits, or a share of the tolerance.
    fn lead(&self, margin: f64) -> f64 {
        self.tolerance.map_or(margin, |tolerance| (LEAD * margin).min(MOST) * tolerance)
    }

    /// Changes the layer and measures.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if the weights cannot be written, [`TrainError::TimeOver`].
    pub(super) fn look(&self, change: &Mat<f64>, deadline: Deadline) -> Result<StateMeasures, TrainError> {
        self.layer.set(self.network, &(&self.old + change))?;
        self.measures(deadline)
    }

    /// Measures of the network as it is.
    fn measures(&self, deadline: Deadline) -> Result<StateMeasures, TrainError> {
        Ok(StateMeasures {
            efficacy: self.share_right(&self.targets, deadline)?,
            drawdown_validation: 0.0
                - self.measure().gain(self.score(&self.validation, deadline)?, self.baseline.validation),
            generalisation_validation: self.kin.as_ref().map(|kin| self.share_right(kin, deadline)).transpose()?,
            error: self.tolerance.map(|_| self.score(&self.targets, deadline)).transpose()?,
        })
    }

    /// All rounds for one demand, or those until a deadline, with the states that they come through.
    ///
    /// # Errors
    /// [`TrainError::Singular`] for data that are not finite.
    pub(super) fn run(
        &self,
        demand: Demand,
        options: &RepairOptions,
        deadline: Deadline,
        progress: &dyn Progress,
    ) -> Result<Rounds, TrainError> {
        let mut rounds = Rounds::new();
        let end = self.rounds(demand, options, deadline, progress, &mut rounds);
        rounds.ended(end)
    }

    fn rounds(
        &self,
        demand: Demand,
        options: &RepairOptions,
        deadline: Deadline,
        progress: &dyn Progress,
        rounds: &mut Rounds,
    ) -> Result<(), TrainError> {
        let Self { network, layer, old, subjects, .. } = self;
        deadline.check()?;
        let metric = Metric::new(&self.moment, demand.ridge)?.weighed_by(self.sensitivity.as_ref())?;
        let mut change = Mat::zeros(old.nrows(), old.ncols());
        let mut guarded: Vec<usize> = Vec::new();
        let mut margins = vec![self.lead(demand.margin); subjects.labels.len()];
        let rivals = self.rivals;
        layer.set(network, old)?;
        for round in 1..=if self.tolerance.is_some() { OUTPUT_ROUNDS } else { ROUNDS } {
            deadline.check()?;
            let leads = Leads { margins: &margins, rivals, tolerance: self.tolerance };
            let rows = subjects.rows(network, layer, &change, leads, deadline)?;
            let guards = Subjects::new(layer, &self.close, &guarded)?;
            let guard_margins = vec![self.lead(GUARD_MARGIN); guarded.len()];
            let leads = Leads { margins: &guard_margins, rivals: 2, tolerance: self.tolerance };
            let guard_rows = guards.rows(network, layer, &change, leads, deadline)?;
            let beside = vec![self.lead(demand.margin); self.neighbours.labels.len()];
            let leads = Leads { margins: &beside, rivals, tolerance: self.tolerance };
            let beside = self.neighbours.rows(network, layer, &change, leads, deadline)?;
            let groups = [(subjects, &rows[..]), (&self.neighbours, &beside[..]), (&guards, &guard_rows[..])];
            let wanted = metric.smallest_change(layer, &groups, demand.slack, deadline)?;
            let from = change.clone();
            let mut best: Option<(f64, Mat<f64>)> = None;
            for step in STEPS {
                change = &from + faer::Scale(step) * (&wanted - &from);
                // Also of a solve that ended with the deadline.
                let measures = self.look(&change, deadline.with_grace())?;
                let candidate =
                    Candidate { demand, round, step, guards: guarded.len(), refit: None, polish: false, measures };
                tracing::info!(?candidate, "state");
                rounds.push(&change, candidate, options);
                let is_allowed = measures.loses_at_most(options.max_drawdown);
                match measures.error {
                    // Of outputs the step with the smallest error goes on: a whole one may have gone too far.
                    Some(error) if is_allowed && best.as_ref().is_none_or(|(least, _)| error < *least) => {
                        best = Some((error, change.clone()));
                    }
                    None if is_allowed => break,
                    _ => {}
                }
                deadline.check()?;
            }
            if let Some((_, best)) = best {
                change = best;
                layer.set(network, &(old + &change))?;
            }
            self.watch(&mut guarded, deadline)?;
            for (own, lead) in margins.iter_mut().zip(self.leads(&self.targets, deadline)?) {
                // The linearisation promised more than the network keeps.
                *own += if lead > 0.0 { 0.0 } else { self.lead(RAISE * demand.margin) };
                if let Some(tolerance) = self.tolerance {
                    *own = own.min(MOST * tolerance);
                }
            }
            progress.advance(1);
        }
        Ok(())
    }

    /// Adds the watched samples that the present weights broke, the worst ones first.
    pub(super) fn watch(&self, guarded: &mut Vec<usize>, deadline: Deadline) -> Result<(), TrainError> {
        let leads = self.leads(&self.close, deadline)?;
        let mut broken: Vec<usize> = (0..leads.len()).filter(|&k| leads[k] <= 0.0 && !guarded.contains(&k)).collect();
        broken.sort_by(|&a, &b| leads[a].total_cmp(&leads[b]));
        guarded.extend(broken.into_iter().take(GUARDS - guarded.len()));
        Ok(())
    }
}

/// Places of the positive leads, the smallest first, but not too many.
fn closest(leads: &[f32]) -> Vec<usize> {
    let mut right: Vec<usize> = (0..leads.len()).filter(|&k| leads[k] > 0.0).collect();
    right.sort_by(|&a, &b| leads[a].total_cmp(&leads[b]));
    right.truncate(CLOSE);
    right
}
