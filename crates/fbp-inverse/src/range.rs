use fbp_linalg::Real;

/// The interval `[lower, upper]` that every entry of a feature lies in: what a layer can produce.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range<T> {
    /// Smallest value, `-∞` if there is none.
    pub lower: T,
    /// Largest value, `∞` if there is none.
    pub upper: T,
}

impl<T: Real> Range<T> {
    /// Every number: what an affine layer can produce, and what `point` targets assume of every layer.
    pub const EVERYTHING: Self = Self { lower: T::NEG_INFINITY, upper: T::INFINITY };

    /// The interval `[lower, upper]`.
    pub const fn new(lower: T, upper: T) -> Self {
        Self { lower, upper }
    }

    /// The nearest value within the range.
    #[inline(always)]
    pub fn clip(&self, value: T) -> T {
        value.clip(self.lower, self.upper)
    }

    /// Whether the range contains `value`; never true for NaN.
    #[inline(always)]
    pub fn contains(&self, value: T) -> bool {
        self.lower <= value && value <= self.upper
    }

    /// Whether no value is in the range; also if an end is NaN.
    pub fn is_empty(&self) -> bool {
        let ordered = self.lower <= self.upper;
        !ordered
    }

    /// Whether every number is in the range.
    pub fn is_everything(&self) -> bool {
        self.lower == T::NEG_INFINITY && self.upper == T::INFINITY
    }
}
