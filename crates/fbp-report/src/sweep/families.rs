use std::collections::{BTreeMap, HashMap};

use fbp_train::settings::{Measure, Objective};
use fbp_train::train::{PostTrainRecord, PostTrainSettings};
use serde::{Deserialize, Serialize};

use crate::statistics::{BOOTSTRAP_SEED, PairedComparison, Spread};

/// End of the learning rates that were tried: where the best one lies there, a better one may lie beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateEdge {
    /// The smallest rate.
    Smallest,
    /// The largest rate.
    Largest,
}

impl RateEdge {
    /// `smallest` or `largest`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Smallest => "smallest",
            Self::Largest => "largest",
        }
    }
}

/// Runs that differ in nothing but their seed; or, if tuned, the best of several learning rates for each seed.
#[derive(Clone, Debug)]
pub(super) struct Family<'a> {
    /// Settings of one of the runs.
    pub(super) settings: &'a PostTrainSettings,
    /// The learning rate; none if it was tuned.
    pub(super) learning_rate: Option<f64>,
    /// One run for each seed.
    runs: BTreeMap<u64, &'a PostTrainRecord>,
    /// Which end of the rates tried is the best for more than half of the seeds; none if none is, or if it was not tuned.
    pub(super) rate_edge: Option<RateEdge>,
    /// Mean time of all runs that a seed took, those that were not chosen as well.
    pub(super) tuning_seconds: f64,
    /// Whether it is one of several learning rates of a tuned family: then it has no lines of its own.
    pub(super) is_candidate: bool,
}

/// Settings that tell families apart, without the learning rate. Each start has its own name, whatever its checkpoints.
fn key(settings: &PostTrainSettings) -> String {
    let of_start = settings.start.as_ref().unwrap_or(&settings.checkpoint_sha256);
    format!(
        "{of_start:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {} {} {:?} {} {:?} {:?}",
        settings.mode,
        settings.stage,
        settings.alpha,
        settings.margin,
        settings.tolerance,
        settings.embedding,
        settings.target_mode,
        settings.metric,
        settings.policy,
        settings.epochs,
        settings.batch,
        settings.schedule,
        settings.weight_decay,
        settings.keep,
        settings.ema,
    )
}

impl<'a> Family<'a> {
    /// All families: first those of one learning rate, then the tuned ones.
    pub(super) fn all(records: &'a [PostTrainRecord]) -> Vec<Self> {
        let mut families: Vec<Self> = Vec::new();
        let mut places = HashMap::new();
        // Learning rates of settings that are else the same.
        let mut rates: Vec<Vec<usize>> = Vec::new();
        let mut rate_places = HashMap::new();
        for run in records {
            let (key, rate) = (key(&run.settings), run.settings.learning_rate);
            let place = *places.entry((key.clone(), rate.to_bits())).or_insert_with(|| {
                let group = *rate_places.entry(key).or_insert_with(|| {
                    rates.push(Vec::new());
                    rates.len() - 1
                });
                rates[group].push(families.len());
                families.push(Self {
                    settings: &run.settings,
                    learning_rate: Some(rate),
                    runs: BTreeMap::new(),
                    rate_edge: None,
                    tuning_seconds: 0.0,
                    is_candidate: false,
                });
                families.len() - 1
            });
            families[place].runs.insert(run.settings.seed, run);
        }
        for family in &mut families {
            family.tuning_seconds = family.seconds();
        }
        for places in rates.into_iter().filter(|places| places.len() > 1) {
            if let Some(tuned) = Self::tuned(&families, &places) {
                places.into_iter().for_each(|place| families[place].is_candidate = true);
                families.push(tuned);
            }
        }
        families
    }

    /// For each seed the run with the best score on the validation part, of equals the one with the smallest learning rate.
    fn tuned(families: &[Self], places: &[usize]) -> Option<Self> {
        let mut rates: Vec<&Self> = places.iter().map(|&place| &families[place]).collect();
        rates.sort_by(|a, b| a.learning_rate.partial_cmp(&b.learning_rate).unwrap_or(std::cmp::Ordering::Equal));
        let mut best: BTreeMap<u64, (f64, &'a PostTrainRecord)> = BTreeMap::new();
        let mut seconds: BTreeMap<u64, f64> = BTreeMap::new();
        for (&seed, &run) in rates.iter().flat_map(|family| &family.runs) {
            *seconds.entry(seed).or_default() += run.training_seconds;
            let Some(score) = run.chosen.as_ref().and_then(|chosen| chosen.scores.validation) else { continue };
            if best.get(&seed).is_none_or(|(other, _)| run.measure().is_better(score, *other)) {
                best.insert(seed, (score, run));
            }
        }
        let seconds: Vec<f64> = seconds.into_values().collect();
        let runs: BTreeMap<_, _> = best.into_iter().map(|(seed, (_, run))| (seed, run)).collect();
        let settings = &runs.values().next()?.settings;
        let are_at = |edge: Option<&&Self>| {
            let chosen =
                |run: &&&PostTrainRecord| edge.and_then(|edge| edge.learning_rate) == Some(run.settings.learning_rate);
            2 * runs.values().filter(chosen).count() > runs.len()
        };
        let edges = [(rates.first(), RateEdge::Smallest), (rates.last(), RateEdge::Largest)];
        let rate_edge = edges.into_iter().find(|(rate, _)| are_at(*rate)).map(|(_, edge)| edge);
        Some(Self {
            settings,
            learning_rate: None,
            rate_edge,
            runs,
            tuning_seconds: Spread::of(&seconds)?.mean,
            is_candidate: false,
        })
    }

    /// Whether this is plain fine-tuning, of every stage or of those up to one.
    pub(super) fn is_plain(&self) -> bool {
        let settings = self.settings;
        settings.mode == Objective::Full || settings.mode == Objective::Joint && settings.alpha == Some(0.0)
    }

    /// Whether this is fine-tuning of the whole network with a tuned learning rate.
    pub(super) fn is_tuned_baseline(&self) -> bool {
        self.learning_rate.is_none() && self.settings.mode == Objective::Full
    }

    /// Whether both start from the same.
    pub(super) fn same_start(&self, other: &Self) -> bool {
        match (&self.settings.start, &other.settings.start) {
            (None, None) => self.settings.checkpoint_sha256 == other.settings.checkpoint_sha256,
            (one, another) => one == another,
        }
    }

    /// How much of the way of training, besides stage and objective, is the same: 0 to 6.
    pub(super) fn likeness(&self, other: &Self) -> usize {
        let (a, b) = (self.settings, other.settings);
        let same = [
            a.epochs == b.epochs,
            a.batch == b.batch,
            a.schedule == b.schedule,
            a.weight_decay == b.weight_decay,
            a.keep == b.keep,
            a.ema == b.ema,
        ];
        same.into_iter().filter(|same| *same).count()
    }

    /// Mean time of caching and training of a run that counts.
    pub(super) fn seconds(&self) -> f64 {
        self.mean(|run| run.training_seconds)
    }

    /// What was measured.
    pub(super) fn measure(&self) -> Measure {
        self.runs.values().next().map_or(Measure::Accuracy, |run| run.measure())
    }

    /// Mean test score of the results.
    pub(super) fn score(&self) -> f64 {
        self.mean(PostTrainRecord::result)
    }

    /// Mean test score of the starts.
    pub(super) fn score_before(&self) -> f64 {
        self.mean(|run| run.scores.before)
    }

    fn mean(&self, value: impl Fn(&PostTrainRecord) -> f64) -> f64 {
        let values: Vec<f64> = self.runs.values().map(|run| value(run)).collect();
        Spread::of(&values).map_or(0.0, |spread| spread.mean)
    }

    /// Gains of the results over another family, paired by seed; none without common seeds.
    pub(super) fn against(&self, other: &Self) -> Option<PairedComparison> {
        let pair = |(seed, run): (&u64, &&PostTrainRecord)| {
            Some(run.measure().gain(run.result(), other.runs.get(seed)?.result()))
        };
        let differences: Vec<f64> = self.runs.iter().filter_map(pair).collect();
        PairedComparison::of(&differences, BOOTSTRAP_SEED)
    }
}
