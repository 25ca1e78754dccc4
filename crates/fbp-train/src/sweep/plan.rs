use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::grid::RunPlan;
use crate::settings::{Objective, TargetPolicy};
use crate::targets::TargetsOptions;
use crate::train::PostTrainOptions;

/// One run of a sweep, for a list of them.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedRun {
    /// Name of its start.
    pub start: String,
    /// Name of its record, without extension.
    pub name: String,
    /// Whether its record is there.
    pub done: bool,
    #[serde(rename = "what")]
    pub(super) text: String,
}

impl fmt::Display for PlannedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.done { "done" } else { "to do" };
        write!(f, "{state:5}  {}  {}: {}", self.name, self.start, self.text)
    }
}

/// Targets that several runs share.
#[derive(Debug)]
pub(super) struct TargetPlan {
    pub(super) start: usize,
    pub(super) options: TargetsOptions,
    pub(super) folder: PathBuf,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Task {
    Start(usize),
    Targets(usize),
    Run(usize),
    /// Of targets that no run needs any more.
    Remove(usize),
}

/// Everything to do, each task after those it needs.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) tasks: Vec<Task>,
    pub(super) needs: Vec<Vec<usize>>,
    pub(super) targets: Vec<TargetPlan>,
}

impl Plan {
    pub(super) fn add(&mut self, task: Task, needs: Vec<usize>) -> usize {
        self.tasks.push(task);
        self.needs.push(needs);
        self.tasks.len() - 1
    }
}

/// What distinguishes a run, in a line.
pub(super) fn describe(run: &RunPlan) -> String {
    let options = &run.options;
    let mut text = format!("{} {}", options.objective, run.stage);
    let mut add = |part: String| {
        text.push_str(", ");
        text.push_str(&part);
    };
    if options.objective == Objective::Joint {
        add(format!("alpha {}", options.alpha));
    }
    if let Some(targets) = run.targets {
        add(match targets.tolerance {
            Some(tolerance) => format!("tolerance {tolerance}"),
            None => format!("margin {}", targets.margin),
        });
        if !run.of_output {
            add(targets.mode.to_string());
            if !targets.metric.is_euclidean() {
                add(targets.metric.to_string());
            }
        }
        if run.of_output || options.policy != TargetPolicy::Static {
            add(options.policy.to_string());
        }
    }
    if options.objective.takes_steps() {
        let PostTrainOptions { learning_rate, schedule, epochs, .. } = options;
        add(format!("rate {learning_rate} {schedule}, {epochs} epochs"));
    }
    if let Some(decay) = options.ema {
        add(format!("ema {decay}"));
    }
    add(format!("seed {}", options.seed));
    text
}
