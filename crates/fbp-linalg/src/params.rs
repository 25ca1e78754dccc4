use crate::LinalgError;

/// Parameters of the direct solvers, to be checked with [`check`](Self::check).
///
/// | name           | default                       | range     | meaning                                                        |
/// |----------------|-------------------------------|-----------|----------------------------------------------------------------|
/// | `lambda`       | 0 (no ridge)                  | `[0, ∞)`  | weight λ of `\|v - v0\|²`, in units of squared matrix entries  |
/// | `ridge_above`  | 1 (always, if λ > 0)          | `[1, ∞]`  | λ is used only if the condition number exceeds this            |
/// | `rank_tol`     | `max(m, n)·ε` of the weights  | `[0, 1)`  | singular values up to `rank_tol·σ_max` count as zero, rows brought to equal size |
/// | `refine_steps` | 1                             | `0..=10`  | steps of iterative refinement                                  |
///
/// ```
/// use fbp_linalg::SolveParams;
///
/// let config = SolveParams::new().lambda(1e-3).refine_steps(2).check()?;
/// assert_eq!(config.lambda(), 1e-3);
/// assert!(SolveParams::new().lambda(-1.0).check().is_err());
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolveParams {
    lambda: f64,
    ridge_above: f64,
    rank_tol: Option<f64>,
    refine_steps: usize,
}

impl Default for SolveParams {
    fn default() -> Self {
        Self { lambda: 0.0, ridge_above: 1.0, rank_tol: None, refine_steps: 1 }
    }
}

impl SolveParams {
    /// The defaults of the table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the ridge weight λ; 0 turns the ridge off.
    #[must_use]
    pub fn lambda(self, lambda: f64) -> Self {
        Self { lambda, ..self }
    }

    /// Keeps the ridge for systems whose condition number exceeds `condition`.
    #[must_use]
    pub fn ridge_above(self, condition: f64) -> Self {
        Self { ridge_above: condition, ..self }
    }

    /// Sets the relative size up to which a singular value counts as zero.
    #[must_use]
    pub fn rank_tol(self, rank_tol: f64) -> Self {
        Self { rank_tol: Some(rank_tol), ..self }
    }

    /// Sets the number of refinement steps.
    #[must_use]
    pub fn refine_steps(self, refine_steps: usize) -> Self {
        Self { refine_steps, ..self }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`LinalgError::Parameter`] for the first parameter outside its range; NaN is outside every range.
    pub fn check(self) -> Result<SolveConfig, LinalgError> {
        let refine_steps = self.refine_steps as f64;
        let rank_tol = self.rank_tol.unwrap_or(0.0);
        expect_in("lambda", self.lambda, (0.0..f64::INFINITY).contains(&self.lambda), "[0, ∞)")?;
        expect_in("ridge_above", self.ridge_above, (1.0..=f64::INFINITY).contains(&self.ridge_above), "[1, ∞]")?;
        expect_in("rank_tol", rank_tol, (0.0..1.0).contains(&rank_tol), "[0, 1)")?;
        expect_in("refine_steps", refine_steps, (0..=10).contains(&self.refine_steps), "0..=10")?;
        Ok(SolveConfig(self))
    }
}

fn expect_in(name: &'static str, value: f64, inside: bool, range: &'static str) -> Result<(), LinalgError> {
    if inside { Ok(()) } else { Err(LinalgError::Parameter { name, value, range }) }
}

/// Checked [`SolveParams`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolveConfig(SolveParams);

impl Default for SolveConfig {
    /// The defaults of [`SolveParams`], which are inside their ranges.
    fn default() -> Self {
        Self(SolveParams::default())
    }
}

impl SolveConfig {
    /// Ridge weight λ; 0 if there is none.
    pub fn lambda(&self) -> f64 {
        self.0.lambda
    }

    /// Condition number above which λ is used.
    pub fn ridge_above(&self) -> f64 {
        self.0.ridge_above
    }

    /// Relative size of a singular value that counts as zero, for an `m × n` matrix given with precision `epsilon`.
    pub fn rank_tol(&self, rows: usize, cols: usize, epsilon: f64) -> f64 {
        self.0.rank_tol.unwrap_or(rows.max(cols) as f64 * epsilon)
    }

    /// Number of refinement steps.
    pub fn refine_steps(&self) -> usize {
        self.0.refine_steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(params: SolveParams) -> &'static str {
        match params.check() {
            Err(LinalgError::Parameter { name, .. }) => name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_bound_of_the_table_holds() {
        let new = SolveParams::new;
        assert_eq!(new().check().unwrap(), SolveConfig::default());
        for lambda in [-f64::MIN_POSITIVE, f64::INFINITY, f64::NAN] {
            assert_eq!(refused(new().lambda(lambda)), "lambda");
        }
        for lambda in [0.0, 1e-300, 1e300] {
            assert_eq!(new().lambda(lambda).check().unwrap().lambda(), lambda);
        }
        for condition in [0.999, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(refused(new().ridge_above(condition)), "ridge_above");
        }
        for condition in [1.0, 1e6, f64::INFINITY] {
            assert_eq!(new().ridge_above(condition).check().unwrap().ridge_above(), condition);
        }
        for tol in [-1e-9, 1.0, f64::NAN] {
            assert_eq!(refused(new().rank_tol(tol)), "rank_tol");
        }
        for tol in [0.0, 0.999] {
            assert_eq!(new().rank_tol(tol).check().unwrap().rank_tol(5, 7, 1.0), tol);
        }
        assert_eq!(refused(new().refine_steps(11)), "refine_steps");
        assert_eq!(new().refine_steps(10).check().unwrap().refine_steps(), 10);
        assert_eq!(new().refine_steps(0).check().unwrap().refine_steps(), 0);
    }

    #[test]
    fn the_default_rank_tolerance_follows_the_precision_of_the_weights() {
        let config = SolveConfig::default();
        assert_eq!(config.rank_tol(3, 8, 0.25), 2.0);
        assert_eq!(config.rank_tol(8, 3, 0.25), 2.0);
    }
}
