use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::{temp_mat_scratch, temp_mat_zeroed};
use faer::mat::AsMatMut;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use super::cg::{Pair, State, dot};
use super::circulant::{Apply, Forecast};
use super::goal::{Length, ROOT_TOL, least_tolerance};
use super::grid::End;
use super::plan::ConvSolvePlan;
use super::solve::{Fields, Vectors};
use crate::{LinalgError, Real, get_or_make};

/// `B Bᵀ = U diag(λ) Uᵀ` of an operator that is small enough: every sample is solved with a shift of its own by two
/// products, and the shift that gives a wanted length is found without any.
///
/// # Source
/// Moré & Sorensen, *SIAM J. Sci. Stat. Comput.* 4 (1983) 553, for the search.
#[derive(Debug)]
pub(super) struct Eigen {
    vectors: Mat<f64>,
    values: Vec<f64>,
}

/// Largest order; measured on two cores, 4096 take 14 s, less than three exact plans of that order.
pub(super) const EIGEN_LIMIT: usize = 4096;
/// Largest order for samples that iterations leave short of their goal, whatever the recipe: 2048 take 2 s.
pub(super) const RESCUE_LIMIT: usize = 2048;
/// Most searches for the shift of a sample, with smaller tolerances.
const MOST_SEARCHES: usize = 4;
/// Bisections of the logarithm of the shift, between the smallest shift and `LARGEST` times the largest eigenvalue.
const BISECTIONS: usize = 48;
const LARGEST: f64 = 1e30;

/// What a shift has to do for the sample with an index.
pub(super) trait Search {
    /// `|r|²`.
    fn squares(&self, sample: usize) -> f64;
    /// Whether it brings a length within its bound, less this tolerance.
    fn is_enough(&self, sample: usize, tolerance: f64, at: At) -> bool;
    /// The tolerance that the length needs near this shift.
    fn tolerance(&self, at: At) -> f64;
}

/// A shift, and what is known of the solution with it.
#[derive(Clone, Copy)]
pub(super) struct At {
    /// `|r|²`.
    squares: f64,
    shift: f64,
    found: Forecast,
}

/// Looks for the shift at which a length is at its bound.
struct Bounds<'a> {
    length: Length,
    in_unknowns: bool,
    /// Largest length of every sample.
    limits: &'a [f64],
    /// `r` of every sample.
    wanted: &'a [f64],
    rounding: f64,
}

impl Search for Bounds<'_> {
    fn squares(&self, sample: usize) -> f64 {
        let rows = self.wanted.len() / self.limits.len();
        let wanted = &self.wanted[sample * rows..][..rows];
        dot(wanted, wanted)
    }

    fn is_enough(&self, sample: usize, tolerance: f64, at: At) -> bool {
        let falling = self.length.falling(self.in_unknowns, at.squares);
        falling(at.shift, at.found) <= self.length.falling_to(self.limits[sample], tolerance)
    }

    fn tolerance(&self, at: At) -> f64 {
        let lengths = Length::lengths(self.in_unknowns, at.squares, at.shift, at.found);
        self.length.tolerance(at.shift, lengths, self.rounding)
    }
}

impl Eigen {
    /// `None`, with a warning, if the decomposition fails.
    pub(super) fn new(pair: &Pair, par: Par) -> Option<Self> {
        let operator = pair.conv.dense(&pair.weight).ok()?;
        let (b, order) = match pair.near {
            End::Output => (operator.as_ref(), operator.nrows()),
            End::Input => (operator.transpose(), operator.ncols()),
        };
        let mut gram = Mat::zeros(order, order);
        matmul(gram.as_mut(), Accum::Replace, b, b.transpose(), 1.0, par);
        drop(operator);
        let (mut vectors, mut values) = (Mat::zeros(order, order), Diag::zeros(order));
        let scratch = self_adjoint_evd_scratch::<f64>(order, ComputeEigenvectors::Yes, par, Default::default());
        let mut memory = MemBuffer::new(scratch);
        let stack = MemStack::new(&mut memory);
        let (u, s) = (Some(vectors.as_mut()), values.as_mut());
        if let Err(error) = self_adjoint_evd(gram.as_ref(), s, u, par, stack, Default::default()) {
            tracing::warn!(?error, order, "no eigenvalues: regularised solves take longer");
            return None;
        }
        let values: Vec<f64> = values.column_vector().iter().map(|value| value.max(0.0)).collect();
        tracing::debug!(order, largest = values.last(), "eigenvalues of a convolution");
        Some(Self { vectors, values })
    }

    /// Workspace of [`apply`](Self::apply) and [`solve`](Self::solve).
    pub(super) fn scratch(order: usize, batch: usize) -> StackReq {
        temp_mat_scratch::<f64>(order, batch)
    }

    /// `z <- (B Bᵀ + shift)⁻¹ r` for every sample that goes on, with its own shift.
    pub(super) fn apply(&self, states: &[State], pass: Apply<'_>, par: Par, stack: &mut MemStack) {
        self.each(pass, par, stack, |j, c| divide(c, &self.values, states[j].shift));
    }

    /// The smallest shift of every sample that goes on that is enough, and `z <- (B Bᵀ + shift)⁻¹ r` with it.
    pub(super) fn solve(
        &self,
        states: &mut [State],
        floor: f64,
        search: &impl Search,
        pass: Apply<'_>,
        par: Par,
        stack: &mut MemStack,
    ) {
        let scale = self.values.last().copied().unwrap_or(0.0).max(floor);
        let (lowest, highest) = (floor.ln(), (LARGEST * scale).ln());
        self.each(pass, par, stack, |j, c| {
            let state = &mut states[j];
            if state.stopped {
                return;
            }
            let mut tolerance = ROOT_TOL;
            let squares = search.squares(j);
            let at = |shift: f64| At { squares, shift, found: forecast(c, &self.values, shift) };
            for _ in 0..MOST_SEARCHES {
                let (mut low, mut high) = (lowest, highest);
                for _ in 0..BISECTIONS {
                    let middle = 0.5 * (low + high);
                    if search.is_enough(j, tolerance, at(middle.exp())) {
                        high = middle;
                    } else {
                        low = middle;
                    }
                }
                state.shift = (0.5 * (low + high)).exp();
                let allowed = search.tolerance(at(state.shift));
                if allowed >= 0.5 * tolerance {
                    break;
                }
                tolerance = allowed;
            }
            divide(c, &self.values, state.shift);
        });
    }

    /// `z <- U change(Uᵀ r)`.
    fn each(&self, pass: Apply<'_>, par: Par, stack: &mut MemStack, mut change: impl FnMut(usize, &mut [f64])) {
        let order = self.values.len();
        let batch = pass.r.len() / order.max(1);
        let (mut c, _) = temp_mat_zeroed::<f64, _, _>(order, batch, stack);
        let mut c = c.as_mat_mut();
        let r = MatRef::from_column_major_slice(pass.r, order, batch);
        let z = MatMut::from_column_major_slice_mut(pass.z, order, batch);
        matmul(c.as_mut(), Accum::Replace, self.vectors.transpose(), r, 1.0, par);
        for (j, c) in c.as_mut().col_iter_mut().enumerate() {
            let c = c.try_as_col_major_mut().expect("columns of a matrix of this call's own are contiguous");
            change(j, c.as_slice_mut());
        }
        matmul(z, Accum::Replace, self.vectors.as_ref(), c.as_ref(), 1.0, par);
    }
}

impl<T: Real> ConvSolvePlan<T> {
    /// Finds the shifts of all samples, and their solutions, by eigenvalues.
    pub(super) fn solve_by_eigen(
        &self,
        eigen: &Eigen,
        (length, floor): (Length, f64),
        fields: &Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let panel = vectors.panel(fields.wanted);
        if self.in_unknowns {
            self.pair.to_near(panel.wanted, panel.res, par, stack)?;
        } else {
            panel.res.copy_from_slice(panel.wanted);
        }
        let (limits, wanted, rounding) = (&*fields.limits, &*fields.wanted, least_tolerance(T::EPSILON.to_f64()));
        let search = Bounds { length, in_unknowns: self.in_unknowns, limits, wanted, rounding };
        let pass = Apply { r: panel.res, z: panel.x };
        eigen.solve(panel.states, floor, &search, pass, par, stack);
        Ok(())
    }

    /// The eigenvalues of the system, made when they are needed first, if it is dense anyway and not too large.
    pub(super) fn eigen(&self, par: Par) -> Option<&Eigen> {
        if self.eigen_pays() { self.eigenvalues(par) } else { None }
    }

    /// Whether eigenvalues may help samples that iterations leave short of their goal.
    pub(super) fn rescue_pays(&self) -> bool {
        !self.eigen_pays() && self.pair.near_len() <= RESCUE_LIMIT
    }

    /// The eigenvalues of a system, however it is solved.
    pub(super) fn eigenvalues(&self, par: Par) -> Option<&Eigen> {
        get_or_make(&self.eigen, || Eigen::new(&self.pair, par)).as_ref()
    }
}

/// `c <- c / (λ + shift)`.
fn divide(c: &mut [f64], values: &[f64], shift: f64) {
    c.iter_mut().zip(values).for_each(|(c, value)| *c /= value + shift);
}

/// Partial sums, so that the loop vectorises.
const LANES: usize = 8;

/// `<x, g>` and `|x|²` of `x = c / (λ + shift)`.
fn forecast(c: &[f64], values: &[f64], shift: f64) -> Forecast {
    pulp::Arch::new().dispatch(Sums { c, values, shift })
}

struct Sums<'a> {
    c: &'a [f64],
    values: &'a [f64],
    shift: f64,
}

impl pulp::WithSimd for Sums<'_> {
    type Output = Forecast;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Forecast {
        let (c, c_rest) = self.c.as_chunks::<LANES>();
        let (values, values_rest) = self.values.as_chunks::<LANES>();
        let (mut products, mut squares) = ([0.0; LANES], [0.0; LANES]);
        for (c, values) in c.iter().zip(values) {
            for i in 0..LANES {
                let x = c[i] / (values[i] + self.shift);
                products[i] += x * c[i];
                squares[i] += x * x;
            }
        }
        let mut sums = Forecast { product: products.iter().sum(), square: squares.iter().sum() };
        for (c, value) in c_rest.iter().zip(values_rest) {
            let x = c / (value + self.shift);
            sums.product += x * c;
            sums.square += x * x;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use faer::prelude::Solve;

    use super::super::goal::Goal;
    use super::*;
    use crate::conv2d::{Conv2d, Conv2dParams};
    use crate::testkit::{Tol, normal_vec, rng};
    use crate::{FeatureShape, assert_close};

    /// Lengths of the solution that are wanted.
    struct Squares([f64; 3]);

    impl Search for Squares {
        fn squares(&self, _sample: usize) -> f64 {
            1.0
        }

        fn is_enough(&self, sample: usize, _tolerance: f64, at: At) -> bool {
            at.found.square.sqrt() <= self.0[sample]
        }

        fn tolerance(&self, _at: At) -> f64 {
            ROOT_TOL
        }
    }

    #[test]
    fn every_shift_is_solved_and_every_length_found() {
        let mut rng = rng(3);
        let params = Conv2dParams::new(FeatureShape::image(4, 5, 4), 6, [3, 3]).padding([1, 0]).groups(2);
        let geometry = params.check().unwrap();
        let weight = normal_vec(geometry.weight_len(), &mut rng);
        for near in [End::Output, End::Input] {
            let pair = Pair { conv: Conv2d::new(geometry), weight: weight.clone(), near };
            let a = pair.conv.dense(&pair.weight).unwrap();
            let h = if near == End::Output { &a * a.transpose() } else { a.transpose() * &a };
            let (order, shifts) = (h.nrows(), [1e-3, 2.0, 1e4]);
            let r = normal_vec(3 * order, &mut rng);
            let expected: Vec<f64> = (0..3)
                .flat_map(|j| {
                    let shifted = &h + shifts[j] * Mat::<f64>::identity(order, order);
                    let mut x = Mat::from_fn(order, 1, |i, _| r[j * order + i]);
                    shifted.partial_piv_lu().solve_in_place(x.as_mut());
                    (0..order).map(move |i| x[(i, 0)]).collect::<Vec<_>>()
                })
                .collect();
            let eigen = Eigen::new(&pair, Par::Seq).unwrap();
            let goal = Goal::within(1.0, 1.0);
            let mut memory = MemBuffer::new(Eigen::scratch(order, 3));
            let mut z = vec![f64::NAN; 3 * order];
            let states = shifts.map(|shift| State::new(goal, shift));
            eigen.apply(&states, Apply { r: &r, z: &mut z }, Par::Seq, MemStack::new(&mut memory));
            // The largest eigenvalue is about 200, the smallest shift 1e-3.
            let tol = Tol::eps::<f64>().times(order).by(1e6);
            assert_close!(z, expected, tol);

            let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let search = Squares(std::array::from_fn(|j| length(&expected[j * order..][..order])));
            let mut states = [0.0; 3].map(|shift| State::new(goal, shift));
            let pass = Apply { r: &r, z: &mut z };
            eigen.solve(&mut states, 1e-14, &search, pass, Par::Seq, MemStack::new(&mut memory));
            for (state, shift) in states.iter().zip(shifts) {
                // Where shifts are small beside eigenvalues, lengths hardly tell them apart.
                assert!((state.shift / shift - 1.0).abs() < 1e-6, "{} instead of {shift}", state.shift);
            }
        }
    }
}
