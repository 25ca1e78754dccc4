//! What the closed form solves with.

use faer::Mat;

use crate::TrainError;
use crate::cache::ridge_factor;

/// What one pass over the data accumulates: mean of `x̃ x̃ᵀ` and of `(ẑ - z) x̃ᵀ`.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    pub(super) inputs: Mat<f64>,
    pub(super) errors: Mat<f64>,
}

impl Moments {
    /// `ΔW` for one damping.
    ///
    /// # Errors
    /// [`TrainError::Singular`] for inputs that are not finite.
    pub(crate) fn change(&self, damping: f64) -> Result<Mat<f64>, TrainError> {
        let factor = ridge_factor(&self.inputs, damping, "the inputs of the layer")?;
        // The system is symmetric: ΔWᵀ = (E x̃ x̃ᵀ + μ I)⁻¹ (E (ẑ - z) x̃ᵀ)ᵀ.
        let transposed = factor.solve(self.errors.transpose());
        Ok(transposed.transpose().to_owned())
    }
}
