use crate::SolveConfig;

/// Size, numerical rank and condition number of a system matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SystemFacts {
    /// Number of equations `m`.
    pub rows: usize,
    /// Number of unknowns `n`.
    pub cols: usize,
    /// Number of singular values above the rank tolerance.
    pub rank: usize,
    /// Largest singular value over the smallest one above the rank tolerance; 1 for a matrix of zeros.
    ///
    /// Exact where the rank was in doubt, otherwise an estimate, low by 10 % at most in practice.
    pub condition: f64,
}

/// Which of the two Gram matrices a ridge plan factorises: the smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GramSide {
    /// `AᵀA + λI`, for more equations than unknowns.
    Primal,
    /// `AAᵀ + λI`, for at most as many equations as unknowns.
    Dual,
}

impl GramSide {
    /// The side with the smaller matrix.
    pub fn smaller(rows: usize, cols: usize) -> Self {
        if rows <= cols { Self::Dual } else { Self::Primal }
    }
}

/// How [`AffinePlan`](crate::dense::AffinePlan) solves a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffineRecipe {
    /// Independent equations: QR of `Aᵀ`, every target is attained.
    Nearest,
    /// Independent unknowns: QR of `A`.
    LeastSquares,
    /// Neither: singular value decomposition with the small singular values dropped.
    Truncated,
    /// The caller's λ applies: Cholesky of the given Gram matrix.
    Ridge(GramSide),
}

impl AffineRecipe {
    /// Chooses from the facts alone; nothing is solved here.
    ///
    /// A ridge is used if λ > 0 and the condition number is above `ridge_above`; a system without full rank counts
    /// as infinitely ill-conditioned.
    ///
    /// ```
    /// use fbp_linalg::SolveParams;
    /// use fbp_linalg::dense::{AffineRecipe, GramSide, SystemFacts};
    ///
    /// let facts = SystemFacts { rows: 10, cols: 64, rank: 10, condition: 1e5 };
    /// assert_eq!(AffineRecipe::choose(&facts, &SolveParams::new().check()?), AffineRecipe::Nearest);
    /// let careful = SolveParams::new().lambda(1e-6).ridge_above(1e4).check()?;
    /// assert_eq!(AffineRecipe::choose(&facts, &careful), AffineRecipe::Ridge(GramSide::Dual));
    /// # Ok::<(), fbp_linalg::LinalgError>(())
    /// ```
    pub fn choose(facts: &SystemFacts, config: &SolveConfig) -> Self {
        let full = facts.rank == facts.rows.min(facts.cols);
        let condition = if full { facts.condition } else { f64::INFINITY };
        // A condition number cannot be below 1, so `ridge_above = 1` means always, rounding in the estimate or not.
        let ill = condition > config.ridge_above() || config.ridge_above() == 1.0;
        if config.lambda() > 0.0 && ill {
            Self::Ridge(GramSide::smaller(facts.rows, facts.cols))
        } else if !full {
            Self::Truncated
        } else if facts.rows <= facts.cols {
            Self::Nearest
        } else {
            Self::LeastSquares
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SolveParams;

    fn choice(rows: usize, cols: usize, rank: usize, condition: f64, params: SolveParams) -> AffineRecipe {
        AffineRecipe::choose(&SystemFacts { rows, cols, rank, condition }, &params.check().unwrap())
    }

    #[test]
    fn without_a_ridge_shape_and_rank_decide() {
        let plain = SolveParams::new();
        assert_eq!(choice(3, 7, 3, 10.0, plain), AffineRecipe::Nearest);
        assert_eq!(choice(7, 3, 3, 10.0, plain), AffineRecipe::LeastSquares);
        assert_eq!(choice(5, 5, 5, 1e12, plain), AffineRecipe::Nearest);
        for (rows, cols, rank) in [(3, 7, 2), (7, 3, 2), (5, 5, 4), (5, 5, 0)] {
            assert_eq!(choice(rows, cols, rank, 1.0, plain), AffineRecipe::Truncated);
        }
    }

    #[test]
    fn a_ridge_applies_above_its_condition_number() {
        let always = SolveParams::new().lambda(0.1);
        assert_eq!(choice(3, 7, 3, 1.0, always), AffineRecipe::Ridge(GramSide::Dual));
        assert_eq!(choice(7, 3, 3, 1.0, always), AffineRecipe::Ridge(GramSide::Primal));
        let above = always.ridge_above(1e4);
        assert_eq!(choice(3, 7, 3, 1e4, above), AffineRecipe::Nearest);
        assert_eq!(choice(3, 7, 3, 1.01e4, above), AffineRecipe::Ridge(GramSide::Dual));
        assert_eq!(choice(3, 7, 2, 1.0, above), AffineRecipe::Ridge(GramSide::Dual), "rank-deficient");
        let never = always.ridge_above(f64::INFINITY);
        assert_eq!(choice(3, 7, 2, 1.0, never), AffineRecipe::Truncated);
    }
}
