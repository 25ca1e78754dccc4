use crate::settings::Schedule;

/// The learning rate, step by step.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    rate: f64,
    schedule: Schedule,
    step: usize,
    steps: usize,
}

impl Pace {
    /// `rate` at the start of `steps` steps.
    pub(super) fn new(rate: f64, schedule: Schedule, steps: usize) -> Self {
        Self { rate, schedule, step: 0, steps }
    }

    /// The rate of the next step.
    pub(super) fn next(&mut self) -> f64 {
        let rate = self.rate * self.schedule.factor(self.step, self.steps);
        self.step += 1;
        rate
    }

    /// Number of steps so far.
    pub(super) fn steps_done(&self) -> usize {
        self.step
    }

    /// Goes on behind so many steps.
    pub(super) fn go_on_after(&mut self, steps: usize) {
        self.step = steps;
    }
}
