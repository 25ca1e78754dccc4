use fbp_linalg::{Real, holds_finite_number};

/// The interval `[lower, upper]` that every entry of a feature, or of one of its channels, lies in: what a layer can produce.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval<T> {
    /// Smallest value, `-∞` if there is none.
    pub lower: T,
    /// Largest value, `∞` if there is none.
    pub upper: T,
}

impl<T: Real> Interval<T> {
    /// Every number: what an affine layer can produce, and what `point` targets assume of every layer.
    pub const EVERYTHING: Self = Self { lower: T::NEG_INFINITY, upper: T::INFINITY };

    /// The interval `[lower, upper]`.
    ///
    /// Passes and chains refuse ranges that are [empty](Self::is_empty) with [`LinalgError::EmptyBox`].
    ///
    /// [`LinalgError::EmptyBox`]: fbp_linalg::LinalgError::EmptyBox
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

    /// Whether no finite number is in the range: its ends are not ordered, one is NaN, or both are the same infinity.
    pub fn is_empty(&self) -> bool {
        !holds_finite_number(self.lower, self.upper)
    }

    /// The range without its infinite ends.
    #[inline(always)]
    pub(crate) fn finite(&self) -> Self {
        Self { lower: self.lower.max(-T::MAX), upper: self.upper.min(T::MAX) }
    }

    /// Whether every number is in the range.
    pub fn is_everything(&self) -> bool {
        self.lower == T::NEG_INFINITY && self.upper == T::INFINITY
    }
}
