/// What one reverse pass did. Counts and sums are over the samples of the call; `Default` is the empty batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ReverseReport {
    /// Number of samples in the pass.
    pub samples: usize,
    /// Samples whose observed output already lay in the target box: their input is returned bit for bit.
    pub satisfied_before: usize,
    /// Samples with an entry that misses its target interval; [`fbp_linalg::attained`] says what counts as a miss, the same
    /// for every operator. Either their box has no preimage in the range, or [`stopped_early`](Self::stopped_early) is set.
    pub unattained: usize,
    /// Largest distance of an entry of `f(target_in.point)` to its target interval.
    pub violation_max: f64,
    /// Sum over the samples of each sample's largest violation; divide by `samples` for the mean.
    pub violation_sum: f64,
    /// `Σ |target_in - observed_in|²` over all samples.
    pub distance_sq: f64,
    /// `Σ |observed_in|²` over all samples.
    pub observed_sq: f64,
    /// Largest number of iterations that a sample needed; 0 for closed forms.
    pub iters: usize,
    /// Largest regularisation weight λ; 0 if nothing was regularised.
    pub lambda: f64,
    /// Numerical rank of the linear system, or the most that it can be where it is not formed; 0 for layers that have none.
    pub rank: usize,
    /// Whether the iteration of some sample ended at its limit of steps: its point need not be the nearest one.
    pub stopped_early: bool,
    /// Largest error of the optimality conditions at the points written, relative to their entries; measured by the
    /// solver of systems that are too large to be formed, 0 elsewhere.
    pub kkt_max: f64,
}

impl ReverseReport {
    /// The report of a pass over so many samples, before anything is known of them.
    pub fn of_samples(samples: usize) -> Self {
        Self { samples, ..Self::default() }
    }

    /// Mean over the samples of each sample's largest violation.
    pub fn violation_mean(&self) -> f64 {
        if self.samples == 0 { 0.0 } else { self.violation_sum / self.samples as f64 }
    }

    /// Distance moved relative to the observed input, `|target_in - observed_in| / |observed_in|` in Frobenius norms;
    /// 1 if that was zero.
    pub fn distance_relative(&self) -> f64 {
        match (self.distance_sq, self.observed_sq) {
            (0.0, _) => 0.0,
            (_, 0.0) => 1.0,
            (distance, observed) => (distance / observed).sqrt(),
        }
    }

    /// Combines the reports of two passes of one operator over different samples.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            samples: self.samples + other.samples,
            satisfied_before: self.satisfied_before + other.satisfied_before,
            unattained: self.unattained + other.unattained,
            violation_max: self.violation_max.max(other.violation_max),
            violation_sum: self.violation_sum + other.violation_sum,
            distance_sq: self.distance_sq + other.distance_sq,
            observed_sq: self.observed_sq + other.observed_sq,
            iters: self.iters.max(other.iters),
            lambda: self.lambda.max(other.lambda),
            rank: self.rank.max(other.rank),
            stopped_early: self.stopped_early | other.stopped_early,
            kkt_max: self.kkt_max.max(other.kkt_max),
        }
    }
}
