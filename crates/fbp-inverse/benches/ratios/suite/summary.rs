//! Counts, histograms and the samples that break a rule.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Finding, RESIDUAL_LIMIT};

/// Smallest and largest decade of a histogram that has a line of its own.
const DECADES: (i32, i32) = (-9, 9);
/// Samples that are listed per rule.
const LISTED: usize = 40;

/// Numbers of samples by decade of a ratio; `0` has a line of its own.
#[derive(Clone, Debug, Default)]
struct Histogram {
    zero: u64,
    decades: BTreeMap<i32, u64>,
    worst: f64,
}

impl Histogram {
    fn take(&mut self, ratio: f64) {
        if ratio == 0.0 {
            self.zero += 1;
            return;
        }
        let decade = if ratio.is_finite() { ratio.log10().floor() } else { f64::INFINITY };
        *self.decades.entry(decade.clamp(f64::from(DECADES.0), f64::from(DECADES.1)) as i32).or_default() += 1;
        self.worst = if ratio > self.worst || ratio.is_nan() { ratio } else { self.worst };
    }

    fn json(&self) -> Value {
        let decades: BTreeMap<String, u64> =
            self.decades.iter().map(|(decade, count)| (format!("1e{decade}"), *count)).collect();
        // JSON has no infinity.
        let worst = if self.worst.is_finite() { json!(self.worst) } else { json!(self.worst.to_string()) };
        json!({ "zero": self.zero, "from": decades, "worst": worst })
    }

    fn text(&self) -> String {
        let decades = self.decades.iter().map(|(decade, count)| format!("1e{decade}:{count}"));
        let all: Vec<String> = std::iter::once(format!("0:{}", self.zero)).chain(decades).collect();
        format!("{} (worst {:.3e})", all.join(" "), self.worst)
    }
}

/// What the samples of one solver came to.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    solver: &'static str,
    cases: u64,
    seed: u64,
    feasible: u64,
    attained: u64,
    early: u64,
    undecided: u64,
    definition: Histogram,
    residual: Histogram,
    optimality: Histogram,
    distance: Histogram,
    /// Number of samples per rule, and the first of them.
    broken: BTreeMap<&'static str, (u64, Vec<String>)>,
}

impl Summary {
    pub(crate) fn new(solver: &'static str, cases: u64, seed: u64) -> Self {
        Self {
            solver,
            cases,
            seed,
            feasible: 0,
            attained: 0,
            early: 0,
            undecided: 0,
            definition: Histogram::default(),
            residual: Histogram::default(),
            optimality: Histogram::default(),
            distance: Histogram::default(),
            broken: BTreeMap::new(),
        }
    }

    pub(crate) fn take(&mut self, seed: u64, precision: &str, found: Finding) {
        let Finding { kind, feasible, attained, early, definition, residual, optimality, distance, broken } = found;
        let mut list = |rule: &'static str, what: String| {
            let (count, listed) = self.broken.entry(rule).or_default();
            *count += 1;
            if listed.len() < LISTED {
                listed.push(format!("seed {seed}, {precision}, {kind}: {what}"));
            }
        };
        if let Some(what) = broken {
            list("broken", what);
            return;
        }
        // Not a number fails.
        let kept = |ratio: f64, limit: f64| ratio <= limit;
        if attained && !kept(definition, 1.0) {
            list("attained-but-missed", format!("misses by {definition:.3e} of the slack"));
        }
        if feasible && !attained {
            list("feasible-but-unattained", format!("misses by {definition:.3e} of the slack"));
        }
        if let Some(ratio) = residual.filter(|ratio| attained && !kept(*ratio, RESIDUAL_LIMIT)) {
            list("residual", format!("residual {ratio:.3e}"));
        }
        if let Some(ratio) = optimality.filter(|ratio| !early && !kept(*ratio, 1.0)) {
            list("optimality", format!("{ratio:.3e} of what is allowed"));
        }
        self.feasible += u64::from(feasible);
        self.attained += u64::from(attained);
        self.early += u64::from(early);
        self.undecided += u64::from(optimality.is_none());
        if attained {
            self.definition.take(definition);
            residual.iter().for_each(|ratio| self.residual.take(*ratio));
        }
        optimality.iter().for_each(|ratio| self.optimality.take(*ratio));
        distance.iter().for_each(|ratio| self.distance.take(*ratio));
    }

    /// Number of samples that break a rule.
    pub(crate) fn count(&self, rule: &str) -> u64 {
        self.broken.get(rule).map_or(0, |(count, _)| *count)
    }

    /// The rules that the samples break: none may, except that one feasible sample in a thousand may be given up.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (rule, (count, listed)) in &self.broken {
            if *rule == "feasible-but-unattained" && count * 1000 <= self.feasible {
                continue;
            }
            found.push(format!("{}: {rule}: {count} samples\n  {}", self.solver, listed.join("\n  ")));
        }
        found
    }

    pub(crate) fn json(&self) -> Value {
        let broken: BTreeMap<_, _> = self
            .broken
            .iter()
            .map(|(rule, (count, listed))| (*rule, json!({ "samples": count, "first": listed })))
            .collect();
        json!({
            "solver": self.solver,
            "cases": self.cases,
            "seed": self.seed,
            "feasible": self.feasible,
            "called_attained": self.attained,
            "stopped_early": self.early,
            "without_oracle": self.undecided,
            "attained_but_missed": self.count("attained-but-missed"),
            "feasible_but_unattained": self.count("feasible-but-unattained"),
            "broken": broken,
            "miss_over_slack": self.definition.json(),
            "residual_over_eps": self.residual.json(),
            "optimality_over_allowed": self.optimality.json(),
            "distance_over_known_point": self.distance.json(),
        })
    }

    pub(crate) fn text(&self) -> String {
        let rules: Vec<String> = self.broken.iter().map(|(rule, (count, _))| format!("{rule} {count}")).collect();
        let rules = if rules.is_empty() { "all rules kept".to_owned() } else { rules.join(", ") };
        format!(
            "## {}: {} samples, {} feasible, {} called attained, {} stopped early, {} without oracle: {rules}\n\
             miss/slack        {}\nresidual/ε n|a||v| {}\noptimality/allowed {}\ndistance/known     {}",
            self.solver,
            self.cases,
            self.feasible,
            self.attained,
            self.early,
            self.undecided,
            self.definition.text(),
            self.residual.text(),
            self.optimality.text(),
            self.distance.text(),
        )
    }
}
