//! Factor-once plans for dense affine systems `A v + b = y`: build in `f64`, apply to batches in `f32` or `f64`.
//!
//! | plan                 | problem                                              | needs                    | factors                      |
//! |----------------------|------------------------------------------------------|--------------------------|------------------------------|
//! | [`NearestPlan`]      | `min \|v - v0\|²` subject to `Av + b = y`            | full row rank, `m <= n`  | `Aᵀ = QR`: `Q`, `R⁻ᵀ`        |
//! | [`LeastSquaresPlan`] | `min \|Av + b - y\|²`                                | full column rank, `m >= n` | `A = QR`: `R⁻¹`, `Qᵀ`      |
//! | [`TruncatedPlan`]    | nearest to `v0` among the least-squares solutions    | nothing                  | SVD, small singular values dropped |
//! | [`RidgePlan`]        | `min \|Av + b - y\|² + λ\|v - v0\|²`                 | `λ > 0`                  | Cholesky of the smaller Gram matrix |
//! | [`AffinePlan`]       | nearest among the least-squares solutions, or ridge  | nothing                  | chosen by [`AffineRecipe`]   |
//!
//! Every plan keeps two factors with `v = v0 + outer·(inner·r)`, `r = y - (A v0 + b)`, so a batch costs a few matrix
//! products and no triangular solve; a step of iterative refinement with `A` itself removes what the rounding of the
//! factors to `f32` cost. A sample with `r = 0` gets its `v0` back bit for bit.

mod affine;
mod columns;
mod factor;
mod graded;
mod judge;
mod lstsq;
mod nearest;
mod pair;
mod pass;
mod recipe;
mod retry;
mod ridge;
mod svd;
mod truncated;
mod two_gemm;

#[cfg(test)]
mod tests;

pub use affine::AffinePlan;
pub use lstsq::LeastSquaresPlan;
pub use nearest::NearestPlan;
pub use pass::AffineSolve;
pub use recipe::{AffineRecipe, GramSide, SystemFacts};
pub use ridge::RidgePlan;
pub use svd::{Spectrum, thin_svd};
pub use truncated::TruncatedPlan;

/// The methods that all dense plans share; each plan is a wrapper of one `TwoGemm`.
macro_rules! plan_methods {
    ($plan:ident) => {
        impl<T: crate::Real> $plan<T> {
            /// Number of equations `m`.
            pub fn rows(&self) -> usize {
                self.core.weight.nrows()
            }

            /// Number of unknowns `n`.
            pub fn cols(&self) -> usize {
                self.core.weight.ncols()
            }

            /// Size, rank and condition number of the matrix.
            pub fn facts(&self) -> crate::dense::SystemFacts {
                self.core.facts
            }

            /// Ridge weight λ of this plan; 0 if it solves without one.
            pub fn lambda(&self) -> f64 {
                self.core.lambda
            }

            /// The matrix `A` (`m × n`) in the precision of the features.
            pub fn weight(&self) -> faer::MatRef<'_, T> {
                self.core.weight.as_ref()
            }

            /// The bias `b`, `m` values; all zero if the plan was built without one.
            pub fn bias(&self) -> &[T] {
                &self.core.bias
            }

            /// Workspace of [`solve`](Self::solve) for `batch` samples, in bytes.
            pub fn solve_scratch(&self, batch: usize, par: faer::Par) -> faer::dyn_stack::StackReq {
                self.core.solve_scratch(batch, par)
            }

            /// Solves for every column of `pass.target`.
            ///
            /// Allocates nothing. The remaining error in the report is `r - A(v - v0)` with the rounded `v`, where `r`
            /// is the target minus the observed output.
            ///
            /// # Errors
            /// [`LinalgError::Shape`](crate::LinalgError::Shape) and
            /// [`LinalgError::Strided`](crate::LinalgError::Strided) for views of another size or layout;
            /// [`LinalgError::NonFinite`](crate::LinalgError::NonFinite) for data that are not finite or overflow, in
            /// which case the solution holds no meaningful values.
            ///
            /// # Panics
            /// If `stack` is smaller than [`solve_scratch`](Self::solve_scratch) of the same batch and `par`.
            pub fn solve(
                &self,
                pass: crate::dense::AffineSolve<'_, T>,
                par: faer::Par,
                stack: &mut faer::dyn_stack::MemStack,
            ) -> Result<crate::SolveReport, crate::LinalgError> {
                self.core.solve(pass, par, stack)
            }
        }
    };
}
use plan_methods;
