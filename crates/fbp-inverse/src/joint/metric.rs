use faer::{Mat, MatRef};
use fbp_linalg::{Cholesky, LinalgError, Real, expect_finite, expect_shape};

/// A metric for features: `(v - z)ᵀ C⁻¹ (v - z)` with a covariance `C`, so that changes along which features vary much are
/// short.
///
/// # Source
/// Mahalanobis, "On the generalised distance in statistics", Proc. Nat. Inst. Sci. India 2 (1936).
#[derive(Clone, Debug)]
pub struct FeatureMetric<T> {
    covariance: Mat<T>,
    precision: Mat<T>,
}

impl<T: Real> FeatureMetric<T> {
    /// The Mahalanobis metric of a covariance to whose diagonal `ridge` times the mean variance is added; only its shape
    /// matters, not its scale.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] for a matrix that is not square, [`LinalgError::NonFinite`], [`LinalgError::Parameter`] for
    /// a ridge outside `[0, ∞)`, [`LinalgError::Decomposition`] if the sum is not positive definite.
    pub fn mahalanobis(covariance: MatRef<'_, f64>, ridge: f64) -> Result<Self, LinalgError> {
        let n = covariance.nrows();
        expect_shape("metric: covariance", covariance.shape(), (n, n))?;
        expect_finite("metric: covariance", covariance)?;
        if !(0.0..f64::INFINITY).contains(&ridge) {
            return Err(LinalgError::Parameter { name: "ridge", value: ridge, range: "[0, ∞)" });
        }
        let singular =
            || LinalgError::Decomposition { what: "metric: covariance", reason: "it is not positive definite".into() };
        let mean = (0..n).map(|k| covariance[(k, k)]).sum::<f64>() / n.max(1) as f64;
        if mean <= 0.0 {
            return Err(singular());
        }
        let entry = |i: usize, j: usize| covariance[(i, j)] / mean + if i == j { ridge } else { 0.0 };
        let scaled = Mat::from_fn(n, n, entry);
        let precision = Cholesky::new(scaled.as_ref()).ok_or_else(singular)?.inverse();
        let cast = |mat: &Mat<f64>| Mat::from_fn(n, n, |i, j| T::from_f64(mat[(i, j)]));
        Ok(Self { covariance: cast(&scaled), precision: cast(&precision) })
    }

    /// Length of the features.
    pub(crate) fn len(&self) -> usize {
        self.covariance.nrows()
    }

    /// `C`, scaled.
    pub(crate) fn covariance(&self) -> MatRef<'_, T> {
        self.covariance.as_ref()
    }

    /// `C⁻¹`.
    pub(crate) fn precision(&self) -> MatRef<'_, T> {
        self.precision.as_ref()
    }
}
