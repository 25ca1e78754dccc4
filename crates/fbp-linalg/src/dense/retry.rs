//! Samples that the batched products left unattained, once more on their own with residuals in double precision.

use faer::MatRef;
use faer::dyn_stack::StackReq;

use super::columns::{column, column_mut};
use super::judge::{RowState, SURE, Seen};
use super::pair::Pair;
use super::two_gemm::{Temps, TwoGemm};
use crate::Real;
use crate::attained::attained_slack;
use crate::dense::AffineSolve;

/// Steps of refinement of a sample; convergence takes a few.
const STEPS: usize = 12;
/// Share of the slack that refinement aims at, so that the rounding of the point finds room.
const AIM: f64 = 0.25;
/// Miss, relative to a row's scale, that rounding of factors cannot explain.
const HOPELESS: f64 = 1e-2;

/// What is tried for a sample that is not attained.
#[derive(Clone, Debug)]
pub(super) enum Retry<T> {
    /// Nothing: the plan does not aim at the target.
    None,
    /// Refinement with the factors of the plan, then what was dropped from them.
    Refine(Spare<T>),
    /// The same with factors of the balanced system, in case the equations are consistent.
    Balanced(Pair<T>, Spare<T>),
}

/// What was dropped from a system of doubtful rank.
#[derive(Clone, Debug, Default)]
pub(super) struct Spare<T> {
    /// Factors of the singular values that the set-up's precision resolves, largest first.
    pub(super) dropped: Option<Pair<T>>,
    /// Factors of everything, by a triangle. Where columns differ by many decades they are far more exact than small
    /// singular values are.
    pub(super) whole: Option<Pair<T>>,
}

impl<T> Spare<T> {
    pub(super) const NONE: Self = Self { dropped: None, whole: None };

    fn is_empty(&self) -> bool {
        self.dropped.is_none() && self.whole.is_none()
    }
}

impl Spare<f64> {
    /// Factors of the system itself, from those of its rows times `scales`.
    pub(super) fn of_balanced(self, scales: &[f64]) -> Self {
        let turn = |pair: Option<Pair<f64>>| pair.map(|pair| pair.of_balanced(scales));
        Self { dropped: turn(self.dropped), whole: turn(self.whole) }
    }

    fn narrow<T: Real>(&self) -> Spare<T> {
        let narrow = |pair: &Option<Pair<f64>>| pair.as_ref().map(Pair::narrow);
        Spare { dropped: narrow(&self.dropped), whole: narrow(&self.whole) }
    }
}

impl Retry<f64> {
    pub(super) fn narrow<T: Real>(&self) -> Retry<T> {
        match self {
            Self::None => Retry::None,
            Self::Refine(spare) => Retry::Refine(spare.narrow()),
            Self::Balanced(factors, spare) => Retry::Balanced(factors.narrow(), spare.narrow()),
        }
    }
}

/// Memory of one sample.
pub(super) struct Wide<'a> {
    /// The point.
    point: &'a mut [f64],
    /// Target less output, row by row.
    rest: &'a mut [f64],
    /// Sums of the magnitudes of the terms.
    scale: &'a mut [f64],
    bias: &'a mut [f64],
    /// Smallest scales that count.
    least: &'a mut [f64],
}

impl<'a> Wide<'a> {
    pub(super) const fn len((rows, cols): (usize, usize)) -> usize {
        4 * rows + cols
    }

    pub(super) fn scratch(shape: (usize, usize)) -> StackReq {
        StackReq::new::<f64>(Self::len(shape))
    }

    pub(super) fn new(memory: &'a mut [f64], (rows, cols): (usize, usize)) -> Self {
        let (point, memory) = memory.split_at_mut(cols);
        let (rest, memory) = memory.split_at_mut(rows);
        let (scale, memory) = memory.split_at_mut(rows);
        let (bias, least) = memory.split_at_mut(rows);
        Self { point, rest, scale, bias, least }
    }
}

impl<T: Real> TwoGemm<T> {
    /// Solves sample `j` again, keeps the result if it is attained, and leaves its true residual in `temps.rest`.
    pub(super) fn try_again(&self, pass: &mut AffineSolve<'_, T>, temps: &mut Temps<'_, T>, j: usize) -> bool {
        let seen = Seen::of(pass, j);
        let wide = &mut temps.wide;
        for i in 0..wide.bias.len() {
            wide.bias[i] = self.bias_of(i, seen);
        }
        self.place(wide, column(pass.solution.as_ref(), j), seen);
        let (factors, spare) = match &self.retry {
            Retry::None => return false,
            Retry::Refine(spare) => {
                let far = wide.rest.iter().zip(&*wide.scale).any(|(rest, scale)| rest.abs() > HOPELESS * scale);
                if far && spare.is_empty() {
                    return false;
                }
                (self.factors(), spare)
            }
            Retry::Balanced(factors, spare) => (factors.views(), spare),
        };
        wide.least.fill(f64::INFINITY);
        self.start(wide, seen);
        self.refine(wide, seen, factors);
        let mut met = self.round(wide, seen);
        // At a point many times as large, rounding alone would make every target look attained.
        wide.least.copy_from_slice(wide.scale);
        if let (false, Some(dropped)) = (met, &spare.dropped) {
            let (inner, outer) = dropped.views();
            for k in 0..inner.nrows() {
                self.correct_sample(wide, (inner.subrows(k, 1), outer.subcols(k, 1)));
                self.measure(wide, seen);
                if self.worst(wide) <= AIM {
                    break;
                }
            }
            met = self.round(wide, seen);
        }
        if let (false, Some(whole)) = (met, &spare.whole) {
            self.start(wide, seen);
            self.refine(wide, seen, whole.views());
            met = self.round(wide, seen);
        }
        if met {
            let solution = column_mut(pass.solution.as_mut(), j);
            solution.iter_mut().zip(&*wide.point).for_each(|(to, v)| *to = T::from_f64(*v));
            let rest = column_mut(temps.rest.as_mut(), j);
            rest.iter_mut().zip(&*wide.rest).for_each(|(to, rest)| *to = T::from_f64(*rest));
        }
        met
    }

    /// Goes back to the point to stay near.
    fn start(&self, wide: &mut Wide<'_>, seen: Seen<'_, T>) {
        self.place(wide, seen.start, seen);
    }

    /// Takes a point and measures it.
    fn place(&self, wide: &mut Wide<'_>, point: &[T], seen: Seen<'_, T>) {
        wide.point.iter_mut().zip(point).for_each(|(to, v)| *to = v.to_f64());
        self.measure(wide, seen);
    }

    /// Residual and scale of every row at the point.
    fn measure(&self, wide: &mut Wide<'_>, seen: Seen<'_, T>) {
        let mut states = wide.rest.iter_mut().zip(wide.scale.iter_mut()).zip(seen.target.iter().zip(&*wide.bias));
        for ((rest, scale), (target, bias)) in states.by_ref() {
            (*rest, *scale) = (target.to_f64() - bias, bias.abs());
        }
        for (j, v) in wide.point.iter().enumerate() {
            for ((rest, scale), a) in
                wide.rest.iter_mut().zip(wide.scale.iter_mut()).zip(column(self.weight.as_ref(), j))
            {
                let term = a.to_f64() * v;
                *rest -= term;
                *scale += term.abs();
            }
        }
    }

    /// Largest residual over what counts as attained.
    fn worst(&self, wide: &Wide<'_>) -> f64 {
        let rows = wide.rest.iter().zip(&*wide.scale).zip(&*wide.least);
        let states = rows.map(|((rest, scale), least)| RowState { rest: *rest, scale: scale.min(*least) });
        let ratio = |row: RowState| match attained_slack::<T>(self.terms(), row.scale) {
            _ if row.rest == 0.0 => 0.0,
            slack => row.rest.abs() / slack,
        };
        // NaN counts as the worst of all.
        states.map(ratio).fold(0.0, |worst, ratio| if ratio <= worst { worst } else { ratio })
    }

    /// Iterative refinement: residuals in double precision, corrections by the factors as they are.
    ///
    /// # Source
    /// Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., §12.1.
    fn refine(&self, wide: &mut Wide<'_>, seen: Seen<'_, T>, factors: (MatRef<'_, T>, MatRef<'_, T>)) {
        let mut before = f64::INFINITY;
        for _ in 0..STEPS {
            let worst = self.worst(wide);
            // Falling by less than half, it has got as far as it can; the last step is harmless then.
            if worst <= AIM || worst.is_nan() || worst > 0.5 * before {
                break;
            }
            before = worst;
            self.correct_sample(wide, factors);
            self.measure(wide, seen);
        }
    }

    /// `point <- point + outer·(inner·rest)`, component by component.
    fn correct_sample(&self, wide: &mut Wide<'_>, (inner, outer): (MatRef<'_, T>, MatRef<'_, T>)) {
        for k in 0..inner.nrows() {
            let share: f64 = (0..inner.ncols()).map(|i| inner[(k, i)].to_f64() * wide.rest[i]).sum();
            for (v, direction) in wide.point.iter_mut().zip(column(outer, k)) {
                *v += share * direction.to_f64();
            }
        }
    }

    /// Rounds the point to the precision of the features, and tells whether it is attained there.
    fn round(&self, wide: &mut Wide<'_>, seen: Seen<'_, T>) -> bool {
        wide.point.iter_mut().for_each(|v| *v = T::from_f64(*v).to_f64());
        self.measure(wide, seen);
        wide.point.iter().all(|v| v.is_finite()) && self.worst(wide) <= SURE
    }
}
