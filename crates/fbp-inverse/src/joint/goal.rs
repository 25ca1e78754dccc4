use faer::MatRef;
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{Real, expect_box};

use crate::{InverseError, OutputEmbedding, expect_batch};

/// Share of the largest output by which a box that is a point in some entry may be missed and still count as reached: what
/// single precision leaves of an equation after a few layers.
const SLACK: f64 = 1e-3;
/// Share of the width of a box by which conditions ask for less than its ends, so that rounding and small bends end inside.
const INSET: f64 = 0.01;

/// Reached, for a classifier: the label's logit exceeds every other one by the margin.
#[derive(Clone, Copy, Debug)]
pub struct Margins<'a> {
    /// Class of every sample.
    pub labels: &'a [usize],
    /// The wanted margin, at least 0.
    pub margin: f64,
}

/// What the output of a frozen rest should be, for a batch.
#[derive(Clone, Copy, Debug)]
pub enum JointGoal<'a, T> {
    /// The label's logit exceeds every other one by the margin.
    Margins(Margins<'a>),
    /// Every entry lies in its interval, which may be a point.
    ///
    /// Intervals with room, as those within a tolerance of wanted outputs, are looked for by linearised steps, and where these
    /// fail by damped ones from several starts. Points are looked for by linearised steps alone, and those that are far from
    /// the observed output in many entries are often not found.
    Box {
        /// Lower ends: `out × N`, `-∞` where there is none.
        lower: MatRef<'a, T>,
        /// Upper ends, `∞` where there is none.
        upper: MatRef<'a, T>,
    },
}

impl<'a, T: Real> JointGoal<'a, T> {
    /// Checks sizes, labels, margin and ends once for outputs of `out × batch`; `layer` is named in errors.
    pub(crate) fn check(&self, layer: &str, (out, batch): (usize, usize)) -> Result<(), InverseError> {
        match *self {
            Self::Margins(Margins { labels, margin }) => {
                OutputEmbedding::Margin(margin).check()?;
                if labels.len() != batch {
                    let (layer, what) = (layer.to_owned(), "labels");
                    return Err(InverseError::Shape { layer, what, expected: (batch, 1), found: (labels.len(), 1) });
                }
                match labels.iter().position(|&label| label >= out) {
                    Some(sample) => Err(InverseError::Label { sample, label: labels[sample], classes: out }),
                    None => Ok(()),
                }
            }
            Self::Box { lower, upper } => {
                expect_batch(layer, "target_out.lower", lower, (out, batch))?;
                expect_batch(layer, "target_out.upper", upper, (out, batch))?;
                expect_box("target_out", lower, upper).map_err(InverseError::in_layer(layer))
            }
        }
    }

    /// The margin, if the goal is one.
    pub(crate) fn margin(&self) -> Option<f64> {
        match self {
            Self::Margins(margins) => Some(margins.margin),
            Self::Box { .. } => None,
        }
    }

    /// Whether it is a box with room in every entry.
    pub(crate) fn is_wide(&self) -> bool {
        match *self {
            Self::Margins(_) => false,
            Self::Box { lower, upper } => {
                let mut columns = lower.col_iter().zip(upper.col_iter());
                columns.all(|(lower, upper)| lower.iter().zip(upper.iter()).all(|(lower, upper)| lower < upper))
            }
        }
    }

    /// The goal of one sample.
    pub(crate) fn of(&self, sample: usize) -> SampleGoal<'a, T> {
        match *self {
            Self::Margins(Margins { labels, margin }) => SampleGoal::Margin { label: labels[sample], margin },
            Self::Box { lower, upper } => {
                let column = |view| fbp_linalg::column("goal", view, sample).expect("checked by `check`");
                SampleGoal::Box { lower: column(lower), upper: column(upper) }
            }
        }
    }
}

/// The goal of one sample at the output.
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
    /// The condition that every output meets.
    pub(crate) const NONE: Self = Self { plus: 0, minus: None, lower: T::NEG_INFINITY, upper: T::INFINITY };
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

impl<T: Real> SampleGoal<'_, T> {
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
                let equation = if self.width() > 0.0 { 0.0 } else { SLACK * scale };
                attained_slack::<T>(output.len(), scale) + equation
            }
        }
    }

    /// Least width of a box; none for a margin.
    fn width(&self) -> f64 {
        match *self {
            Self::Margin { .. } => 0.0,
            Self::Box { lower, upper } => {
                let widths = lower.iter().zip(upper).map(|(lower, upper)| upper.to_f64() - lower.to_f64());
                widths.fold(f64::INFINITY, f64::min)
            }
        }
    }

    /// Whether the output reaches the goal.
    pub(crate) fn is_reached(&self, output: &[T]) -> bool {
        let violation = self.violation(output);
        violation < f64::INFINITY && violation <= self.tolerance(output)
    }

    /// Writes the conditions with the least slack at `output`, tightest first, as many as there is room for; returns
    /// their number. Conditions of a margin ask for half the tolerance more, so that rounding leaves the margin whole; those of
    /// a box that is no point ask for a little less than its ends.
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
                let surplus = 0.5 * self.tolerance(output);
                for (plus, (&lower, &upper)) in lower.iter().zip(upper).enumerate() {
                    let width = upper.to_f64() - lower.to_f64();
                    let inset = if width > 0.0 && surplus.is_finite() { surplus } else { 0.0 };
                    let inset = if width.is_finite() { (inset + INSET * width).min(0.25 * width) } else { inset };
                    let inset = T::from_f64(inset);
                    let (lower, upper) = (lower + inset, upper - inset);
                    offer(Condition { plus, minus: None, lower, upper });
                }
            }
        }
        count
    }

    /// Writes the gradient of the tightest condition with respect to the output, 0 where there is none.
    pub(crate) fn write_tightest_gradient(&self, output: &[T], gradient: &mut [T]) {
        let mut tightest = [Condition::NONE];
        match self.tightest(output, &mut tightest) {
            0 => gradient.fill(T::ZERO),
            _ => tightest[0].write_gradient(gradient),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_is_no_number_reaches_no_goal() {
        let margin: SampleGoal<'_, f32> = SampleGoal::Margin { label: 0, margin: 0.0 };
        for output in [[f32::NAN, 0.0], [0.0, f32::NAN], [f32::INFINITY, 0.0], [1.0, f32::NEG_INFINITY]] {
            assert!(!margin.is_reached(&output), "{output:?}");
        }
        assert!(margin.is_reached(&[1.0, 0.0]));
        let wide: SampleGoal<'_, f32> = SampleGoal::Box { lower: &[f32::NEG_INFINITY], upper: &[f32::INFINITY] };
        assert!(wide.is_reached(&[3.0]) && !wide.is_reached(&[f32::INFINITY]));
    }
}
