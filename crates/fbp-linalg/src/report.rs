/// Which problem a solve answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SolveSide {
    /// Nearest solution of a consistent system, `min |v - v0|` subject to `Av + b = y`.
    Nearest,
    /// Nearest least-squares solution of an inconsistent system.
    LeastSquares,
    /// Ridge problem `min |Av + b - y|² + λ|v - v0|²`; the report gives λ.
    Regularised,
    /// Nearest point of a box-constrained set, `lo <= Av + b <= hi`, `l <= v <= u`.
    Boxed,
}

/// Why an iteration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A direct method: there was nothing to iterate.
    Direct,
    /// The tolerance was reached for every sample.
    Converged,
    /// The iteration cap was reached for some samples; the residual in the report is theirs.
    MaxIterations,
}

impl StopReason {
    /// The less favourable of two reasons.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::MaxIterations, _) | (_, Self::MaxIterations) => Self::MaxIterations,
            (Self::Converged, _) | (_, Self::Converged) => Self::Converged,
            (Self::Direct, Self::Direct) => Self::Direct,
        }
    }
}

/// What a solve did, with the remaining error recomputed from the data it was given.
///
/// Numbers are worst cases over the samples of the call. `Default` is the report of an empty batch.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SolveReport {
    /// Which problem was answered.
    pub side: SolveSide,
    /// Why the solve ended.
    pub stop: StopReason,
    /// Largest number of iterations that a sample needed; 0 for direct methods.
    pub iters: usize,
    /// Numerical rank of the system matrix.
    pub rank: usize,
    /// Regularisation weight λ that was used; 0 if none.
    pub lambda: f64,
    /// Largest `|Av + b - y| / |y|` over the samples (`y` the wanted outputs; the absolute norm where `y = 0`).
    pub residual_relative: f64,
    /// Largest distance of an entry of `Av + b` to its box (equal to the largest residual for point targets).
    pub violation_max: f64,
    /// Sum over the samples of each sample's largest violation; divide by the batch size for the mean.
    pub violation_sum: f64,
    /// Samples whose given point already solved the problem: it is returned bit for bit.
    pub satisfied: usize,
    /// Samples with an entry that misses its target; [`attained`](crate::attained) says what counts as a miss.
    pub unattained: usize,
}

impl SolveReport {
    /// Report of a direct solve of the given side and rank, with no error measured yet.
    pub fn direct(side: SolveSide, rank: usize) -> Self {
        Self {
            side,
            stop: StopReason::Direct,
            iters: 0,
            rank,
            lambda: 0.0,
            residual_relative: 0.0,
            violation_max: 0.0,
            violation_sum: 0.0,
            satisfied: 0,
            unattained: 0,
        }
    }

    /// Worst case of two reports on different samples of one plan.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            side: other.side,
            stop: self.stop.worse(other.stop),
            iters: self.iters.max(other.iters),
            rank: self.rank.max(other.rank),
            lambda: self.lambda.max(other.lambda),
            residual_relative: self.residual_relative.max(other.residual_relative),
            violation_max: self.violation_max.max(other.violation_max),
            violation_sum: self.violation_sum + other.violation_sum,
            satisfied: self.satisfied + other.satisfied,
            unattained: self.unattained + other.unattained,
        }
    }
}
