use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::{temp_mat_scratch, temp_mat_zeroed};
use faer::mat::AsMatMut;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::conv_solve::inverse::apply::Apply;
use crate::conv_solve::inverse::apply::Forecast;
use crate::conv_solve::operator::grid::End;
use crate::conv_solve::operator::pair::Pair;

/// `B Bᵀ = U diag(λ) Uᵀ` of an operator that is small enough: every sample is solved with a shift of its own by two
/// products, and the shift that gives a wanted length is found without any.
///
/// # Source
/// Moré & Sorensen, *SIAM J. Sci. Stat. Comput.* 4 (1983) 553, for the search.
#[derive(Debug)]
pub(crate) struct Eigen {
    vectors: Mat<f64>,
    values: Vec<f64>,
}

/// Largest order; measured on two cores, 4096 take 14 s, less than three exact plans of that order.
pub(crate) const EIGEN_LIMIT: usize = 4096;
/// Largest order for samples that iterations leave short of their goal, whatever the recipe: 2048 take 2 s.
pub(crate) const RESCUE_LIMIT: usize = 2048;
/// Most searches for the shift of a sample, with smaller tolerances.
const MOST_SEARCHES: usize = 4;
/// Bisections of the logarithm of the shift, between the smallest shift and `LARGEST` times the largest eigenvalue.
const BISECTIONS: usize = 48;
const LARGEST: f64 = 1e30;

/// What a shift has to do for the sample with an index.
pub(crate) trait Search {
    /// Whether a shift is looked for.
    fn goes_on(&self, sample: usize) -> bool;
    /// Takes what was found.
    fn take(&mut self, sample: usize, shift: f64);
    /// The tolerance of the length to begin with.
    fn loosest(&self) -> f64;
    /// `|r|²`.
    fn squares(&self, sample: usize) -> f64;
    /// Whether it brings a length within its bound, less this tolerance.
    fn is_enough(&self, sample: usize, tolerance: f64, at: At) -> bool;
    /// The tolerance that the length needs near this shift.
    fn tolerance(&self, at: At) -> f64;
}

/// A shift, and what is known of the solution with it.
#[derive(Clone, Copy)]
pub(crate) struct At {
    /// `|r|²`.
    pub(crate) squares: f64,
    pub(crate) shift: f64,
    pub(crate) found: Forecast,
}

impl Eigen {
    /// `None`, with a warning, if the decomposition fails.
    pub(crate) fn new(pair: &Pair, par: Par) -> Option<Self> {
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
    pub(crate) fn scratch(order: usize, batch: usize) -> StackReq {
        temp_mat_scratch::<f64>(order, batch)
    }

    /// `z <- (B Bᵀ + shift)⁻¹ r` for every sample, with its own shift.
    pub(crate) fn apply(&self, shift: impl Fn(usize) -> f64, pass: Apply<'_>, par: Par, stack: &mut MemStack) {
        self.each(pass, par, stack, |j, c| divide(c, &self.values, shift(j)));
    }

    /// The smallest shift of every sample that goes on that is enough, and `z <- (B Bᵀ + shift)⁻¹ r` with it.
    pub(crate) fn solve(&self, floor: f64, search: &mut impl Search, pass: Apply<'_>, par: Par, stack: &mut MemStack) {
        let scale = self.values.last().copied().unwrap_or(0.0).max(floor);
        let (lowest, highest) = (floor.ln(), (LARGEST * scale).ln());
        self.each(pass, par, stack, |j, c| {
            if !search.goes_on(j) {
                return;
            }
            let mut tolerance = search.loosest();
            let mut shift = 0.0;
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
                shift = (0.5 * (low + high)).exp();
                let allowed = search.tolerance(at(shift));
                if allowed >= 0.5 * tolerance {
                    break;
                }
                tolerance = allowed;
            }
            search.take(j, shift);
            divide(c, &self.values, shift);
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

    use super::*;
    use crate::conv2d::{Conv2d, Conv2dParams};
    use crate::testkit::{Tol, normal_vec, rng};
    use crate::{FeatureShape, assert_close};

    /// Lengths of the solution that are wanted.
    struct Squares {
        lengths: [f64; 3],
        shifts: [f64; 3],
    }

    impl Search for Squares {
        fn goes_on(&self, _sample: usize) -> bool {
            true
        }

        fn take(&mut self, sample: usize, shift: f64) {
            self.shifts[sample] = shift;
        }

        fn loosest(&self) -> f64 {
            1e-4
        }

        fn squares(&self, _sample: usize) -> f64 {
            1.0
        }

        fn is_enough(&self, sample: usize, _tolerance: f64, at: At) -> bool {
            at.found.square.sqrt() <= self.lengths[sample]
        }

        fn tolerance(&self, _at: At) -> f64 {
            1e-4
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
            let mut memory = MemBuffer::new(Eigen::scratch(order, 3));
            let mut z = vec![f64::NAN; 3 * order];
            eigen.apply(|j| shifts[j], Apply { r: &r, z: &mut z }, Par::Seq, MemStack::new(&mut memory));
            // The largest eigenvalue is about 200, the smallest shift 1e-3.
            let tol = Tol::eps::<f64>().times(order).by(1e6);
            assert_close!(z, expected, tol);

            let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let lengths = std::array::from_fn(|j| length(&expected[j * order..][..order]));
            let mut search = Squares { lengths, shifts: [0.0; 3] };
            let pass = Apply { r: &r, z: &mut z };
            eigen.solve(1e-14, &mut search, pass, Par::Seq, MemStack::new(&mut memory));
            for (found, shift) in search.shifts.into_iter().zip(shifts) {
                // Where shifts are small beside eigenvalues, lengths hardly tell them apart.
                assert!((found / shift - 1.0).abs() < 1e-6, "{found} instead of {shift}");
            }
        }
    }
}
