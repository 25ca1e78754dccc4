use fbp_linalg::Real;
use fbp_linalg::attained::attained_slack;

use crate::chain::ChainGoal;

/// Share of the largest output by which a box (which may be a point) may be missed and still count as reached: what single
/// precision leaves of an equation after a few layers.
const SLACK: f64 = 1e-3;

/// The goal of one sample at the output of the chain.
#[derive(Clone, Copy)]
pub(crate) enum SampleGoal<'a, T> {
    /// The label's logit exceeds every other one by the margin.
    Margin { label: usize, margin: f64 },
    /// The output lies in the box.
    Box { lower: &'a [T], upper: &'a [T] },
}

/// One linear condition on the output: `lower <= output[plus] - output[minus] <= upper`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition<T> {
    pub(crate) plus: usize,
    pub(crate) minus: Option<usize>,
    pub(crate) lower: T,
    pub(crate) upper: T,
}

impl<T: Real> Condition<T> {
    /// The number that the condition is about.
    pub(crate) fn value(&self, output: &[T]) -> T {
        output[self.plus] - self.minus.map_or(T::ZERO, |minus| output[minus])
    }

    /// How far the output is inside the condition; negative outside.
    fn slack(&self, output: &[T]) -> T {
        let value = self.value(output);
        (value - self.lower).min(self.upper - value)
    }

    /// Writes the gradient of the value with respect to the output.
    pub(crate) fn write_gradient(&self, gradient: &mut [T]) {
        gradient.fill(T::ZERO);
        gradient[self.plus] = T::ONE;
        if let Some(minus) = self.minus {
            gradient[minus] = -T::ONE;
        }
    }
}

impl<'a, T: Real> SampleGoal<'a, T> {
    pub(crate) fn of(goal: &ChainGoal<'a, T>, sample: usize) -> Self {
        match goal.margins {
            Some(margins) => Self::Margin { label: margins.labels[sample], margin: margins.margin },
            None => Self::Box {
                lower: contiguous(goal.target_out.lower, sample),
                upper: contiguous(goal.target_out.upper, sample),
            },
        }
    }

    /// The label's logit minus the strongest other one.
    fn lead(output: &[T], label: usize) -> (f64, f64) {
        let rival = output.iter().enumerate().filter(|(class, _)| *class != label);
        let rival = rival.map(|(_, logit)| logit.to_f64()).fold(f64::NEG_INFINITY, f64::max);
        (output[label].to_f64() - rival, output[label].to_f64().abs() + rival.abs())
    }

    /// How far the output is inside the goal, negative outside; `-∞` for an output that is no number. A box counts as its
    /// boundary.
    pub(crate) fn excess(&self, output: &[T]) -> f64 {
        if !output.iter().all(|v| v.is_finite()) {
            return f64::NEG_INFINITY;
        }
        match *self {
            Self::Margin { label, margin } => Self::lead(output, label).0 - margin,
            Self::Box { lower, upper } => {
                let distance = |i: usize| (output[i].clip(lower[i], upper[i]) - output[i]).abs().to_f64();
                -(0..output.len()).map(distance).fold(0.0, f64::max)
            }
        }
    }

    /// How far the output is from the goal; 0 if it is reached, infinite for an output that is no number.
    pub(crate) fn violation(&self, output: &[T]) -> f64 {
        (-self.excess(output)).max(0.0)
    }

    /// Violation that counts as reached: for a margin the rounding of a difference of two outputs.
    pub(crate) fn tolerance(&self, output: &[T]) -> f64 {
        match *self {
            Self::Margin { label, .. } => attained_slack::<T>(2, Self::lead(output, label).1),
            Self::Box { .. } => {
                let scale = output.iter().map(|v| v.abs().to_f64()).fold(0.0, f64::max);
                attained_slack::<T>(output.len(), scale) + SLACK * scale
            }
        }
    }

    /// Whether the output reaches the goal.
    pub(crate) fn is_reached(&self, output: &[T]) -> bool {
        let violation = self.violation(output);
        violation < f64::INFINITY && violation <= self.tolerance(output)
    }

    /// Writes the conditions with the least slack at `output`, tightest first, as many as there is room for; returns
    /// their number. Conditions of a margin ask for half the tolerance more, so that rounding leaves the margin whole.
    pub(crate) fn tightest(&self, output: &[T], room: &mut [Condition<T>]) -> usize {
        let mut count = 0;
        let mut offer = |condition: Condition<T>| {
            let slack = condition.slack(output);
            let at = room[..count].iter().position(|other| slack < other.slack(output)).unwrap_or(count);
            if at < room.len() {
                count = (count + 1).min(room.len());
                room[at..count].rotate_right(1);
                room[at] = condition;
            }
        };
        match *self {
            Self::Margin { label, margin } => {
                let surplus = 0.5 * self.tolerance(output);
                let surplus = if surplus.is_finite() { surplus } else { 0.0 };
                let (lower, upper) = (T::from_f64(margin + surplus), T::INFINITY);
                for rival in (0..output.len()).filter(|&class| class != label) {
                    offer(Condition { plus: label, minus: Some(rival), lower, upper });
                }
            }
            Self::Box { lower, upper } => {
                for (plus, (&lower, &upper)) in lower.iter().zip(upper).enumerate() {
                    offer(Condition { plus, minus: None, lower, upper });
                }
            }
        }
        count
    }
}

/// A column of a view that `check_goal` has found contiguous.
fn contiguous<'a, T: Real>(view: faer::MatRef<'a, T>, index: usize) -> &'a [T] {
    fbp_linalg::column("chain", view, index).unwrap_or(&[])
}
