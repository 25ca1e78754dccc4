use fbp_linalg::Real;

/// What [`check_reverse_operator`](super::check_reverse_operator) tries, and how exact it expects the answers to be.
///
/// | field | default | meaning |
/// |---|---|---|
/// | `ranges` | all numbers, `[0, ∞)`, `[-1, 1]` | input ranges that are tried |
/// | `scale` | 2 | inputs are drawn from `[-scale, scale]` within the range |
/// | `tolerance` | 512 | allowed violation, in rounding units times the size of the outputs |
/// | `nearest` | 4 | how much nearer another input may be, in `√eps` times the distance moved |
/// | `seeds` | 12 | number of random batches per range |
/// | `batch` | 5 | samples per batch |
/// | `attains` | true | whether targets that have a preimage must be attained |
/// | `points_only` | false | whether the answer has to be the nearest for point targets only |
/// | `iterative` | none | the tolerance of layers that are reversed by an iteration, see [`iterative`](Self::iterative) |
/// | `miss_factor` | 1 | how many times the smallest possible miss a target without a preimage may be missed by |
#[derive(Clone, Debug, PartialEq)]
pub struct ReverseCheck {
    pub(super) ranges: Vec<(f64, f64)>,
    pub(super) scale: f64,
    pub(super) tolerance: f64,
    pub(super) nearest: f64,
    pub(super) seeds: u64,
    pub(super) batch: usize,
    pub(super) attains: bool,
    pub(super) points_only: bool,
    pub(super) miss_factor: f64,
    pub(super) iterative: Option<f64>,
}

impl Default for ReverseCheck {
    fn default() -> Self {
        let ranges = vec![(f64::NEG_INFINITY, f64::INFINITY), (0.0, f64::INFINITY), (-1.0, 1.0)];
        Self {
            ranges,
            scale: 2.0,
            tolerance: 512.0,
            nearest: 4.0,
            seeds: 12,
            batch: 5,
            attains: true,
            points_only: false,
            miss_factor: 1.0,
            iterative: None,
        }
    }
}

impl ReverseCheck {
    /// The defaults of the table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the input ranges, as `(lower, upper)`; ends may be infinite.
    #[must_use]
    pub fn ranges(self, ranges: &[(f64, f64)]) -> Self {
        Self { ranges: ranges.to_vec(), ..self }
    }

    /// Sets the scale of the inputs.
    #[must_use]
    pub fn scale(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// Sets the allowed violation, in rounding units times the largest output.
    #[must_use]
    pub fn tolerance(self, multiple: f64) -> Self {
        Self { tolerance: multiple, ..self }
    }

    /// Sets how much nearer another input may be, in `√eps` times the distance moved.
    #[must_use]
    pub fn nearest(self, multiple: f64) -> Self {
        Self { nearest: multiple, ..self }
    }

    /// Sets the number of random batches per range.
    #[must_use]
    pub fn seeds(self, seeds: u64) -> Self {
        Self { seeds, ..self }
    }

    /// Sets the number of samples per batch.
    #[must_use]
    pub fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Looks for nearer inputs only where the target is a point: for layers that are not exact for wider boxes.
    #[must_use]
    pub fn nearest_for_points_only(self) -> Self {
        Self { points_only: true, ..self }
    }

    /// Accepts that targets without a preimage are missed by up to `factor` times as much as necessary, and then not by
    /// the nearest such input: for layers whose smallest miss is a combinatorial problem.
    #[must_use]
    pub fn misses_within(self, factor: f64) -> Self {
        Self { miss_factor: factor, ..self }
    }

    /// Accepts that the layer misses targets that have a preimage, as long as its report says so.
    #[must_use]
    pub fn may_miss(self) -> Self {
        Self { attains: false, ..self }
    }

    /// The level for layers that are reversed by an iteration (blocks without a closed form), up to `tolerance` times the
    /// distance of the observed output to the target box. All of the contract stays checked but this:
    ///
    /// * targets may be missed by so much, and count as attained then;
    /// * one sample and a batch, one thread and several, may end one step apart: points agree within 32 tolerances;
    /// * the answer need not be the nearest: its output has to be no farther from the target box than the observed one, and where
    ///   the target is a point, no step back to the observed input by a quarter of the way or more may do as well.
    #[must_use]
    pub fn iterative(self, tolerance: f64) -> Self {
        Self { iterative: Some(tolerance), ..self }
    }

    /// By how much answers may depend on the make-up of the batch and on threads, relative to their largest entry.
    pub(super) fn agreement<T: Real>(&self) -> f64 {
        (self.tolerance * T::EPSILON.to_f64()).max(32.0 * self.iterative.unwrap_or(0.0))
    }
}
