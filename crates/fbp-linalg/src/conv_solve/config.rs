use crate::LinalgError;

/// Which solution of `A v + b = y` is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ConvMode {
    /// The nearest solution, or the nearest least-squares solution where there is none, whatever its distance; dense systems
    /// take singular values for zero as [`SolveParams::rank_tol`](crate::SolveParams::rank_tol) says.
    Exact,
    /// The point nearest to `v0` with `|A v + b - y| <= δ|y|`, or the exact solution where no point has so small a residual.
    /// Its distance is within 1e-3 of the optimum, or the report says that iterations ended early.
    Tolerance(f64),
    /// The smallest residual within `|v - v0| <= ρ|v0|`; samples whose exact solution lies within it get that. The residual
    /// is within 1e-3 of the optimum, or the report says that iterations ended early.
    Bounded(f64),
    /// As `Bounded`, except that a sample with `v0 = 0`, which has no scale, is solved exactly.
    Auto(f64),
}

/// Parameters of a [`ConvSolvePlan`](super::ConvSolvePlan), to be checked with [`check`](Self::check).
///
/// | name               | default        | range        | meaning                                                          |
/// |--------------------|----------------|--------------|------------------------------------------------------------------|
/// | `mode`             | `Auto(10)`     | δ in `(0, 1)`, ρ in `(0, ∞)` | which solution is wanted                         |
/// | `samples_expected` | 1000           | at least 1   | samples that the set-up is spread over                           |
/// | `tolerance`        | ε/2 of the features, 1e-14 at least | `(0, 1)` | relative residual at which an exact solve ends  |
/// | `max_iters`        | 1000           | `1..=100000` | iterations per solve and sample                                  |
///
/// ```
/// use fbp_linalg::conv_solve::{ConvMode, ConvSolveParams};
///
/// let config = ConvSolveParams::new().mode(ConvMode::Exact).samples_expected(10).check()?;
/// assert_eq!(config.samples_expected(), 10);
/// assert!(ConvSolveParams::new().mode(ConvMode::Bounded(0.0)).check().is_err());
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvSolveParams {
    mode: ConvMode,
    samples_expected: usize,
    tolerance: Option<f64>,
    max_iters: usize,
}

impl Default for ConvSolveParams {
    fn default() -> Self {
        let mode = ConvMode::Auto(10.0);
        Self { mode, samples_expected: 1000, tolerance: None, max_iters: 1000 }
    }
}

impl ConvSolveParams {
    /// The defaults of the table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which solution is wanted.
    #[must_use]
    pub fn mode(self, mode: ConvMode) -> Self {
        Self { mode, ..self }
    }

    /// Sets how many samples will be solved with the plan, so that it does not factor for longer than it saves.
    #[must_use]
    pub fn samples_expected(self, samples_expected: usize) -> Self {
        Self { samples_expected, ..self }
    }

    /// Sets the relative residual at which an exact solve ends.
    #[must_use]
    pub fn tolerance(self, tolerance: f64) -> Self {
        Self { tolerance: Some(tolerance), ..self }
    }

    /// Sets the largest number of iterations.
    #[must_use]
    pub fn max_iters(self, max_iters: usize) -> Self {
        Self { max_iters, ..self }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`LinalgError::Parameter`] for the first parameter outside its range; NaN is outside every range.
    pub fn check(self) -> Result<ConvSolveConfig, LinalgError> {
        let outside = |name, value, range| Err(LinalgError::Parameter { name, value, range });
        match self.mode {
            ConvMode::Tolerance(delta) if !(f64::MIN_POSITIVE..1.0).contains(&delta) => {
                return outside("mode: tolerance", delta, "(0, 1)");
            }
            ConvMode::Bounded(rho) | ConvMode::Auto(rho) if !(f64::MIN_POSITIVE..f64::INFINITY).contains(&rho) => {
                return outside("mode: bound", rho, "(0, ∞)");
            }
            _ => {}
        }
        if self.samples_expected == 0 {
            return outside("samples_expected", 0.0, "at least 1");
        }
        if let Some(tolerance) = self.tolerance.filter(|tolerance| !(f64::MIN_POSITIVE..1.0).contains(tolerance)) {
            return outside("tolerance", tolerance, "(0, 1)");
        }
        if !(1..=100_000).contains(&self.max_iters) {
            return outside("max_iters", self.max_iters as f64, "1..=100000");
        }
        Ok(ConvSolveConfig(self))
    }
}

/// Checked [`ConvSolveParams`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvSolveConfig(ConvSolveParams);

impl Default for ConvSolveConfig {
    /// The defaults of [`ConvSolveParams`], which are inside their ranges.
    fn default() -> Self {
        Self(ConvSolveParams::default())
    }
}

impl ConvSolveConfig {
    /// Which solution is wanted.
    pub fn mode(&self) -> ConvMode {
        self.0.mode
    }

    /// Samples that the set-up is spread over.
    pub fn samples_expected(&self) -> usize {
        self.0.samples_expected
    }

    /// Relative residual at which an exact solve for features of precision `epsilon` ends.
    pub fn tolerance(&self, epsilon: f64) -> f64 {
        self.0.tolerance.unwrap_or((0.5 * epsilon).max(1e-14))
    }

    /// Largest number of iterations.
    pub fn max_iters(&self) -> usize {
        self.0.max_iters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(params: ConvSolveParams) -> &'static str {
        match params.check() {
            Err(LinalgError::Parameter { name, .. }) => name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_bound_of_the_table_holds() {
        let new = ConvSolveParams::new;
        assert_eq!(new().check().unwrap(), ConvSolveConfig::default());
        for bad in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            assert_eq!(refused(new().mode(ConvMode::Bounded(bad))), "mode: bound");
            assert_eq!(refused(new().mode(ConvMode::Auto(bad))), "mode: bound");
        }
        for bad in [0.0, -1.0, 1.0, f64::NAN] {
            assert_eq!(refused(new().mode(ConvMode::Tolerance(bad))), "mode: tolerance");
            assert_eq!(refused(new().tolerance(bad)), "tolerance");
        }
        assert_eq!(refused(new().samples_expected(0)), "samples_expected");
        for bad in [0, 100_001] {
            assert_eq!(refused(new().max_iters(bad)), "max_iters");
        }
        for mode in [ConvMode::Exact, ConvMode::Tolerance(0.5), ConvMode::Bounded(1e300), ConvMode::Auto(1e-300)] {
            let config = new().mode(mode).tolerance(0.1).max_iters(7).check().unwrap();
            assert_eq!((config.mode(), config.tolerance(1.0), config.max_iters()), (mode, 0.1, 7));
        }
    }
}
