//! What linear layers and convolutions share: the reverse of `y = A x + b` within boxes and ranges.

use std::sync::OnceLock;

use faer::dyn_stack::{MemStack, StackReq};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use fbp_linalg::dense::{AffinePlan, AffineSolve};
use fbp_linalg::matmul;
use fbp_linalg::matrix_free::{LinearMap, MapScale, boxes_scratch};
use fbp_linalg::{
    BOXED_LIMIT, BoxedPass, BoxedPlan, LinalgError, Real, SolveParams, SolveReport, column, column_mut, get_or_make,
};

use super::boxes::reverse_in_boxes;
use super::solved::{distance, solved_report};
use crate::{InverseError, ReverseOperator, ReversePass, ReverseReport, TargetBox};

/// Factor-once plans for one affine map `y = A x + b`.
///
/// Point targets without a range are a linear system and go to the factorised [`AffinePlan`]; everything else is a
/// box-constrained problem, for a [`BoxedPlan`] up to [`BOXED_LIMIT`] inputs and outputs and matrix-free beyond. All are
/// built when they are first needed.
#[derive(Clone, Debug)]
pub(super) struct AffineReverse<T: Real> {
    a: Mat<f64>,
    bias: Option<Vec<f64>>,
    boxed: OnceLock<Result<BoxedPlan<T>, LinalgError>>,
    points: OnceLock<Result<AffinePlan<T>, LinalgError>>,
    scale: OnceLock<Result<MapScale, LinalgError>>,
}

impl<T: Real> AffineReverse<T> {
    /// The map of `a` (`out × in`), all of it finite.
    pub(super) fn new(a: Mat<f64>) -> Self {
        Self { a, bias: None, boxed: OnceLock::new(), points: OnceLock::new(), scale: OnceLock::new() }
    }

    /// The same map with the bias of every output, which is otherwise only known as exactly as observed outputs are.
    pub(super) fn with_bias(self, bias: Vec<f64>) -> Self {
        Self { bias: Some(bias), ..self }
    }

    fn points(&self, par: Par) -> Result<&AffinePlan<T>, LinalgError> {
        let build = || {
            // The weights came in the precision of the features, which is what dependent equations differ by.
            let (rows, cols) = self.a.shape();
            let rank_tol = (rows.max(cols) as f64 * T::EPSILON.to_f64()).min(0.1);
            let params = SolveParams::new().rank_tol(rank_tol);
            AffinePlan::new(self.a.as_ref(), self.bias.as_deref(), &params.check()?, par)
        };
        get_or_make(&self.points, build).as_ref().map_err(Clone::clone)
    }

    fn boxed(&self) -> Result<&BoxedPlan<T>, LinalgError> {
        get_or_make(&self.boxed, || BoxedPlan::new(self.a.as_ref())).as_ref().map_err(Clone::clone)
    }

    fn is_beyond_boxed(&self) -> bool {
        self.a.nrows().max(self.a.ncols()) > BOXED_LIMIT
    }

    pub(super) fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        Self::scratch_of(self.a.shape(), batch, par)
    }

    /// Workspace of [`reverse`](Self::reverse) for any map of this shape.
    pub(super) fn scratch_of((m, n): (usize, usize), batch: usize, par: Par) -> StackReq {
        let points = AffinePlan::<T>::largest_scratch((m, n), batch, par);
        if m.max(n) > BOXED_LIMIT {
            return boxes_scratch(batch, par).or(points);
        }
        let widen = StackReq::all_of(&[StackReq::new::<[f64; 2]>(m).array(2), StackReq::new::<[bool; 2]>(n)]);
        BoxedPlan::<T>::largest_scratch((m, n), batch, par).or(points).or(widen)
    }

    /// The reverse pass of the layer that owns these plans.
    pub(super) fn reverse(
        &self,
        layer: &dyn ReverseOperator<T>,
        pass: ReversePass<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(layer)?;
        self.reverse_checked(layer.name(), pass, par, stack)
    }

    /// The same for a pass that has been checked.
    pub(super) fn reverse_checked(
        &self,
        name: &str,
        mut pass: ReversePass<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        if self.is_beyond_boxed() && !(pass.in_range.is_everything() && is_point(&pass.target_out)) {
            let scale = get_or_make(&self.scale, || MapScale::of(&DenseMap(self.a.as_ref()))).clone();
            let reversed =
                scale.and_then(|scale| reverse_in_boxes(&DenseMap(self.a.as_ref()), scale, pass, par, stack));
            return reversed.map_err(InverseError::in_layer(name));
        }
        let solved = self.solve(&mut pass, par, stack).map_err(InverseError::in_layer(name))?;
        let moved = distance(&pass).map_err(InverseError::in_layer(name))?;
        pass.target_in.collapse_to_point();
        self.widen(&mut pass, stack).map_err(InverseError::in_layer(name))?;
        Ok(solved_report(&pass, &solved, moved))
    }
}

impl<T: Real> AffineReverse<T> {
    fn solve(&self, pass: &mut ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        if pass.in_range.is_everything() && is_point(&pass.target_out) {
            let problem = AffineSolve {
                observed_in: pass.observed_in,
                observed_out: Some(pass.observed_out),
                target: pass.target_out.point,
                solution: pass.target_in.point.as_mut(),
            };
            return self.points(par)?.solve(problem, par, stack);
        }
        let problem = BoxedPass {
            observed_in: pass.observed_in,
            observed_out: pass.observed_out,
            lower: pass.target_out.lower,
            upper: pass.target_out.upper,
            bounds: (pass.in_range.lower, pass.in_range.upper),
            solution: pass.target_in.point.as_mut(),
        };
        self.boxed()?.solve(problem, par, stack)
    }
}

impl<T: Real> AffineReverse<T> {
    /// Opens the box of every moved sample towards inputs that would do as well.
    ///
    /// An entry may grow or fall if that brings no tight row closer to its end; all moves together share the slack of
    /// the other rows, so every combination of them stays in the target box. Samples with a row that wants a single
    /// number, or that missed their box, keep the point.
    fn widen(&self, pass: &mut ReversePass<'_, T>, stack: &mut MemStack) -> Result<(), LinalgError> {
        if pass.in_range.is_everything() && is_point(&pass.target_out) {
            return Ok(());
        }
        let (m, n) = self.a.shape();
        let (mut slack, stack) = stack.make_with(m, |_| [0.0_f64; 2]);
        let (mut harm, stack) = stack.make_with(m, |_| [0.0_f64; 2]);
        let (mut moves, _) = stack.make_with(n, |_| [false; 2]);
        for sample in 0..pass.batch() {
            let observed = column("observed_in", pass.observed_in, sample)?;
            let low = column("target_out.lower", pass.target_out.lower, sample)?;
            let high = column("target_out.upper", pass.target_out.upper, sample)?;
            let point = column("target_in.point", pass.target_in.point.as_ref(), sample)?;
            if point == observed || low.iter().zip(high).any(|(low, high)| low == high) {
                continue;
            }
            let start = column("observed_out", pass.observed_out, sample)?;
            slack.iter_mut().zip(start).for_each(|(slack, image)| *slack = [image.to_f64(); 2]);
            for (j, (&v, &v0)) in point.iter().zip(observed).enumerate().filter(|(_, (v, v0))| v != v0) {
                let moved = (v - v0).to_f64();
                slack.iter_mut().zip(self.a.col_as_slice(j)).for_each(|(image, a)| image[0] += a * moved);
            }
            for (slack, (low, high)) in slack.iter_mut().zip(low.iter().zip(high)) {
                *slack = [slack[0] - low.to_f64(), high.to_f64() - slack[0]];
            }
            let Some(reach) = self.reach(&slack, &mut harm, &mut moves) else { continue };
            let lower = column_mut("target_in.lower", pass.target_in.lower.as_mut(), sample)?;
            let upper = column_mut("target_in.upper", pass.target_in.upper.as_mut(), sample)?;
            let reach = T::from_f64(reach);
            for (j, [falls, grows]) in moves.iter().enumerate() {
                if *falls {
                    lower[j] = pass.in_range.clip(lower[j] - reach).min(lower[j]);
                }
                if *grows {
                    upper[j] = pass.in_range.clip(upper[j] + reach).max(upper[j]);
                }
            }
        }
        Ok(())
    }

    /// How far every allowed move may go; `moves[j]` says whether entry `j` may fall and grow. `None` if no move is
    /// possible. `slack[i]` is the distance of row `i` to its lower and upper end.
    fn reach(&self, slack: &[[f64; 2]], harm: &mut [[f64; 2]], moves: &mut [[bool; 2]]) -> Option<f64> {
        let finite = slack.iter().flatten().copied().filter(|slack| slack.is_finite());
        let (least, most) = finite.fold((f64::INFINITY, 0.0_f64), |(least, most), s| (least.min(s), most.max(s)));
        let tight = TIGHT_SHARE * most;
        if least < -tight || most == 0.0 {
            return None;
        }
        harm.fill([0.0; 2]);
        for (j, moves) in moves.iter_mut().enumerate() {
            let column = self.a.col_as_slice(j);
            // A falling entry lowers rows with a > 0 and raises the others; a growing one the other way round.
            let side = |a: f64, grows: bool| usize::from((a > 0.0) == grows);
            for (grows, allowed) in [false, true].into_iter().zip(moves.iter_mut()) {
                let mut hurt = column.iter().zip(slack).filter(|(a, _)| **a != 0.0);
                *allowed = hurt.all(|(&a, slack)| slack[side(a, grows)] > tight);
                if *allowed {
                    for (&a, harm) in column.iter().zip(harm.iter_mut()).filter(|(a, _)| **a != 0.0) {
                        harm[side(a, grows)] += a.abs();
                    }
                }
            }
        }
        let pairs = slack.iter().flatten().zip(harm.iter().flatten()).filter(|(_, harm)| **harm > 0.0);
        let reach = pairs.map(|(slack, harm)| slack / harm).fold(f64::INFINITY, f64::min);
        // Half of the slack, so that rounding cannot use it up.
        moves.iter().flatten().any(|allowed| *allowed).then_some(0.5 * reach)
    }
}

/// Rows whose slack is below this share of the largest slack of the sample count as tight.
const TIGHT_SHARE: f64 = 0.05;

/// A matrix as a map.
struct DenseMap<'a>(MatRef<'a, f64>);

impl LinearMap for DenseMap<'_> {
    fn shape(&self) -> (usize, usize) {
        self.0.shape()
    }

    fn scratch(&self) -> StackReq {
        StackReq::EMPTY
    }

    fn apply(&self, x: &[f64], image: &mut [f64], _stack: &mut MemStack) -> Result<(), LinalgError> {
        multiply(self.0, x, image);
        Ok(())
    }

    fn adjoint(&self, weights: &[f64], sum: &mut [f64], _stack: &mut MemStack) -> Result<(), LinalgError> {
        multiply(self.0.transpose(), weights, sum);
        Ok(())
    }

    fn row_squares(&self, _stack: &mut MemStack) -> Result<Vec<f64>, LinalgError> {
        let mut squares = vec![0.0; self.0.nrows()];
        for column in self.0.col_iter() {
            squares.iter_mut().zip(column.iter()).for_each(|(sum, a)| *sum += a * a);
        }
        Ok(squares)
    }

    fn magnitudes(&self, x: &[f64], sizes: &mut [f64], _stack: &mut MemStack) -> Result<(), LinalgError> {
        sizes.fill(0.0);
        for (column, x) in self.0.col_iter().zip(x).filter(|(_, x)| **x != 0.0) {
            sizes.iter_mut().zip(column.iter()).for_each(|(size, a)| *size += a.abs() * x);
        }
        Ok(())
    }

    fn row_terms(&self, _stack: &mut MemStack) -> Result<Vec<f64>, LinalgError> {
        let mut terms = vec![0.0; self.0.nrows()];
        for column in self.0.col_iter() {
            terms.iter_mut().zip(column.iter()).for_each(|(terms, a)| *terms += if *a == 0.0 { 0.0 } else { 1.0 });
        }
        Ok(terms)
    }

    fn flops(&self) -> f64 {
        4.0 * self.0.nrows() as f64 * self.0.ncols() as f64
    }
}

/// `out <- A x`.
fn multiply(a: MatRef<'_, f64>, x: &[f64], out: &mut [f64]) {
    let rows = out.len();
    let x = MatRef::from_column_major_slice(x, x.len(), 1);
    matmul(MatMut::from_column_major_slice_mut(out, rows, 1), Accum::Replace, a, x, 1.0, Par::Seq);
}

/// Whether every interval of the box is a single number.
pub(super) fn is_point<T: Real>(target: &TargetBox<'_, T>) -> bool {
    let equal = |a: MatRef<'_, T>, b: MatRef<'_, T>| a.as_ptr() == b.as_ptr() || a == b;
    equal(target.lower, target.upper) && equal(target.lower, target.point)
}
