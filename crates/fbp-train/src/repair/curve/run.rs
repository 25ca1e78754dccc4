use std::time::Instant;

use fbp_models::Network;

use super::{ALL_STAGES, RepairMethod, RepairPoint, RepairSubject};
use crate::TrainError;
use crate::affine::AffineLayer;
use crate::data::{DataBundle, SPLIT_SEED, Split};
use crate::evaluate::check_labelled;
use crate::identity::DataIdentity;
use crate::progress::Progress;
use crate::repair::deadline::Deadline;
use crate::repair::demand::{Demand, ROUNDS};
use crate::repair::finetune::FineTuning;
use crate::repair::judge::{Gauge, Judge};
use crate::repair::record::StateMeasures;
use crate::repair::search::Search;
use crate::repair::{Asked, ChoiceRule, Given, RepairOptions, RivalOptions, SampleChoice, SampleOrigin, repair};
use crate::train::{SoftmaxFit, head_of};

/// Learning rates of fine-tuning.
const RATES: [f64; 4] = [1e-4, 3e-4, 1e-3, 3e-3];
/// Numbers of steps after which fine-tuning is looked at.
const STEPS: [usize; 7] = [5, 10, 20, 40, 80, 160, 320];
/// A run ends after so many looks with all samples right: further steps only lose more of the rest.
const ALL_RIGHT: usize = 2;
/// Dampings of head refits, strongest first: each fit starts where the one before ended.
const DAMPINGS: [f64; 8] = [1.0, 0.3, 0.1, 0.03, 1e-2, 1e-3, 1e-4, 1e-5];

/// What repairs are asked for: every combination is one point of the curve of a layer.
#[derive(Clone, Debug)]
pub struct CurveDemands {
    /// Demanded leads of the labels.
    pub margins: Vec<f64>,
    /// Shares of the mean variance added to the second moment.
    pub ridges: Vec<f64>,
    /// What missing a condition costs.
    pub slacks: Vec<f64>,
}

impl CurveDemands {
    fn all(&self) -> Vec<Demand> {
        let pairs = self.slacks.iter().flat_map(|&slack| self.ridges.iter().map(move |&ridge| (ridge, slack)));
        pairs
            .flat_map(|(ridge, slack)| self.margins.iter().map(move |&margin| Demand { margin, ridge, slack }))
            .collect()
    }
}

/// Makes the points of one checkpoint and one choice of samples.
pub struct Curves<'a> {
    start: &'a Network,
    data: &'a DataBundle,
    choice: &'a SampleChoice,
    options: RepairOptions,
    split: Split,
    samples: Vec<usize>,
    judge: Judge,
    subject: RepairSubject,
    progress: &'a dyn Progress,
}

/// Training samples.
fn given_of(samples: &[usize]) -> Given<'_> {
    Given { origin: SampleOrigin::default(), samples }
}

impl<'a> Curves<'a> {
    /// # Errors
    /// [`TrainError::Samples`], [`TrainError::Model`] if the images do not fit the network.
    pub fn new(
        (start, checkpoint_sha256): (&'a Network, String),
        (data, identity): (&'a DataBundle, &DataIdentity),
        choice: &'a SampleChoice,
        (seed, limit): (u64, Option<usize>),
        progress: &'a dyn Progress,
    ) -> Result<Self, TrainError> {
        check_labelled(&data.train, "a curve of repairs")?;
        let options = RepairOptions { seed, limit, ..RepairOptions::default() };
        let split = Split::stratified(&data.train, options.validation, SPLIT_SEED)?;
        let origin = (SampleOrigin::default(), data);
        let samples =
            choice.resolve_some(start, origin, &split.train, (ChoiceRule { seed, tolerance: None }, limit))?;
        let subject = RepairSubject {
            samples: choice.to_string(),
            count: samples.len(),
            seed,
            model: start.spec().name.clone(),
            data: identity.clone(),
            checkpoint_sha256,
        };
        let judge = Judge::new(start, data, choice, given_of(&samples), None)?;
        Ok(Self { start, data, choice, options, split, samples, judge, subject, progress })
    }

    /// The stages with a layer that can be repaired.
    pub fn stages(network: &Network) -> Vec<String> {
        let names = network.stages().iter().map(|stage| stage.name().to_owned());
        names.filter(|name| AffineLayer::of(network, name).is_ok()).collect()
    }

    /// Adds what `points` lacks: for every stage the repairs asked for and the one that [`repair`] chooses, then the
    /// rivals. `save` is called whenever there is more.
    ///
    /// # Errors
    /// As [`repair`], and those of `save`.
    pub fn complete<E: From<TrainError>>(
        &self,
        points: &mut Vec<RepairPoint>,
        stages: &[String],
        demands: &CurveDemands,
        mut save: impl FnMut(&[RepairPoint]) -> Result<(), E>,
    ) -> Result<(), E> {
        for stage in stages {
            let is_new = |demand: &Demand| {
                let method = RepairMethod::Repair { demand: Some(*demand), round: ROUNDS };
                !self.known(points, stage, |point| !point.chosen && point.method == method)
            };
            let missing: Vec<Demand> = demands.all().into_iter().filter(is_new).collect();
            let is_chosen = self.known(points, stage, |point| point.chosen && point.method.name() == "repair");
            if missing.is_empty() && is_chosen {
                continue;
            }
            let judge = self.judge_of(stage)?;
            if !missing.is_empty() {
                points.extend(self.repairs(stage, &missing, &judge)?);
                save(points)?;
            }
            if !is_chosen {
                points.push(self.chosen_repair(stage, &judge)?);
                save(points)?;
            }
        }
        if !self.known(points, ALL_STAGES, |_| true) {
            points.extend(self.fine_tuning()?);
            save(points)?;
        }
        let last = self.start.stages()[self.start.stages().len() - 1].name();
        let is_refit = |point: &RepairPoint| matches!(point.method, RepairMethod::HeadRefit { .. });
        if head_of(self.start).is_ok() && !self.known(points, last, is_refit) {
            points.extend(self.head_refits(last)?);
            save(points)?;
        }
        Ok(())
    }

    fn known(&self, points: &[RepairPoint], stage: &str, is_it: impl Fn(&RepairPoint) -> bool) -> bool {
        points.iter().any(|point| self.is_own(point) && point.stage == stage && is_it(point))
    }

    /// Whether a point is of this checkpoint and choice of samples.
    pub fn is_own(&self, point: &RepairPoint) -> bool {
        point.subject == self.subject
    }

    fn point(
        &self,
        (method, stage): (RepairMethod, &str),
        network: &Network,
        judge: &Judge,
        measures: StateMeasures,
        seconds: f64,
    ) -> Result<RepairPoint, TrainError> {
        let test = judge.measure(network)?;
        Ok(RepairPoint {
            method,
            stage: stage.to_owned(),
            subject: self.subject.clone(),
            start_test_accuracy: self.judge.score,
            chosen: false,
            efficacy: measures.efficacy,
            generalisation: test.generalisation,
            drawdown_pp: 100.0 * test.drawdown,
            drawdown_validation_pp: 100.0 * measures.drawdown_validation,
            seconds,
        })
    }

    /// A judge of networks in which one stage alone has changed.
    fn judge_of(&self, stage: &str) -> Result<Judge, TrainError> {
        Judge::of_layer(self.start, stage, self.data, self.choice, given_of(&self.samples), None)
    }

    /// The search for the given samples, without an end.
    fn search<'n>(&self, network: &'n Network, stage: &str) -> Result<Search<'n>, TrainError> {
        let (given, options) = (given_of(&self.samples), &self.options);
        Search::new(network, stage, given, self.data, &self.split, (options, None), Deadline::default())
    }

    /// The state after the last round for each demand, whatever it loses.
    fn repairs(&self, stage: &str, demands: &[Demand], judge: &Judge) -> Result<Vec<RepairPoint>, TrainError> {
        let (network, never) = (self.start.duplicate()?, Deadline::default());
        let begun = Instant::now();
        let search = self.search(&network, stage)?;
        let setup = begun.elapsed().as_secs_f64();
        self.progress.begin(&format!("repairs of {stage}"), demands.len() * ROUNDS, "solves");
        let mut points = Vec::with_capacity(demands.len());
        let options = RepairOptions { max_drawdown: f64::INFINITY, ..self.options };
        for &demand in demands {
            let begun = Instant::now();
            let rounds = search.run(demand, &options, never, self.progress)?;
            let seconds = setup + begun.elapsed().as_secs_f64();
            if let Some(last) = rounds.candidates.last() {
                let method = RepairMethod::Repair { demand: Some(demand), round: last.round };
                points.push(self.point((method, stage), &network, judge, last.measures, seconds)?);
            }
        }
        self.progress.end();
        Ok(points)
    }

    fn chosen_repair(&self, stage: &str, judge: &Judge) -> Result<RepairPoint, TrainError> {
        let network = self.start.duplicate()?;
        let asked = Asked { choice: self.choice, origin: SampleOrigin::default() };
        let repaired = repair(&network, &[stage], asked, self.data, &self.options, self.progress)?;
        let round = repaired.layer.chosen.map_or(0, |candidate| candidate.round);
        let method = RepairMethod::Repair { demand: repaired.layer.chosen.map(|candidate| candidate.demand), round };
        let point = self.point((method, stage), &network, judge, repaired.measures, repaired.seconds)?;
        Ok(RepairPoint { chosen: true, ..point })
    }

    /// All rates, each at several numbers of steps until all samples are right, and the state that early stopping chooses.
    fn fine_tuning(&self) -> Result<Vec<RepairPoint>, TrainError> {
        let mut points = Vec::new();
        let gauge = Gauge::new(self.start, given_of(&self.samples), self.data, &self.split, None)?;
        let tuning = FineTuning::new(self.start, given_of(&self.samples), self.data)?;
        self.progress.begin("fine-tuning", RATES.len() * STEPS.len(), "looks");
        for learning_rate in RATES {
            let mut left = STEPS.len();
            let (mut seconds, mut begun, mut right) = (0.0, Instant::now(), 0);
            tuning.run(learning_rate, STEPS, |steps, network| {
                seconds += begun.elapsed().as_secs_f64();
                let method = RepairMethod::FineTuning { learning_rate, steps };
                let measures = gauge.measure(network)?;
                points.push(self.point((method, ALL_STAGES), network, &self.judge, measures, seconds)?);
                self.progress.advance(1);
                left -= 1;
                right += usize::from(measures.efficacy >= 1.0);
                begun = Instant::now();
                Ok(right < ALL_RIGHT)
            })?;
            // Looks that a run did not need.
            self.progress.advance(left);
        }
        self.progress.end();
        let rival =
            RivalOptions::default().run(self.start, given_of(&self.samples), self.data, self.options.validation)?;
        let method = RepairMethod::FineTuning { learning_rate: rival.learning_rate, steps: rival.steps };
        let point = self.point((method, ALL_STAGES), &rival.network, &self.judge, rival.measures, rival.seconds)?;
        points.push(RepairPoint { chosen: true, ..point });
        Ok(points)
    }

    /// All dampings, and among them the state that the validation part chooses.
    fn head_refits(&self, stage: &str) -> Result<Vec<RepairPoint>, TrainError> {
        let (network, never) = (self.start.duplicate()?, Deadline::default());
        let begun = Instant::now();
        let search = self.search(&network, stage)?;
        let judge = self.judge_of(stage)?;
        let fit = SoftmaxFit::with_moment(&search.targets, search.moment.clone(), search.layer.outputs)?;
        let start = fit.to_white(search.old.as_ref());
        let (mut v, mut seconds) = (start.clone(), begun.elapsed().as_secs_f64());
        let (mut points, mut best) = (Vec::with_capacity(DAMPINGS.len() + 1), search.start);
        let mut chosen = None;
        for damping in DAMPINGS {
            let begun = Instant::now();
            fit.fit(&mut v, &start, damping);
            let measures = search.look(&(fit.unwhitened(&v) - &search.old), never)?;
            seconds += begun.elapsed().as_secs_f64();
            let point =
                self.point((RepairMethod::HeadRefit { damping }, stage), &network, &judge, measures, seconds)?;
            if measures.rank(self.options.efficacy) > best.rank(self.options.efficacy) {
                (best, chosen) = (measures, Some(point.clone()));
            }
            points.push(point);
        }
        points.extend(chosen.map(|point| RepairPoint { chosen: true, seconds, ..point }));
        Ok(points)
    }
}
