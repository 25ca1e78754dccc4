use faer::MatRef;

use crate::{LinalgError, Real, expect_box, expect_shape, holds_finite_number};

/// Bounds `l <= v <= u` of the entries of a point.
///
/// # Example
/// ```
/// use fbp_linalg::Bounds;
///
/// assert_eq!(Bounds::from((0.0, 1.0)).clip(7, 1.5), 1.0);
/// let each = Bounds::Each { lower: &[0.0, -1.0], upper: &[1.0, 2.0] };
/// assert_eq!(each.clip(1, 1.5), 1.5);
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Bounds<'a, T> {
    /// `l` and `u`, the same for every entry.
    Same(T, T),
    /// Those of every entry.
    Each {
        /// `l`: `n`.
        lower: &'a [T],
        /// `u`: `n`.
        upper: &'a [T],
    },
}

/// A loop over the items of an iterator and the bounds of the entries: one for each kind of bounds, so that it need not ask for
/// the kind, and no call that might not be inlined.
macro_rules! with_ends {
    ($bounds:expr, $entries:expr, $entry:pat, $ends:pat => $body:expr) => {
        match $bounds {
            $crate::boxed::bounds::Bounds::Same(low, high) => {
                for $entry in $entries {
                    let $ends = (low, high);
                    $body;
                }
            }
            $crate::boxed::bounds::Bounds::Each { lower, upper } => {
                for ($entry, (&low, &high)) in $entries.zip(lower.iter().zip(upper)) {
                    let $ends = (low, high);
                    $body;
                }
            }
        }
    };
}
pub(super) use with_ends;

impl<T> From<(T, T)> for Bounds<'_, T> {
    fn from((low, high): (T, T)) -> Self {
        Self::Same(low, high)
    }
}

impl<T: Real> Bounds<'_, T> {
    /// Those of one entry.
    ///
    /// # Panics
    /// If every entry has its own, and there is no such entry.
    #[inline(always)]
    pub fn at(&self, entry: usize) -> (T, T) {
        match self {
            Self::Same(low, high) => (*low, *high),
            Self::Each { lower, upper } => (lower[entry], upper[entry]),
        }
    }

    /// The nearest value within the bounds of an entry.
    ///
    /// # Panics
    /// If every entry has its own, and there is no such entry.
    #[inline(always)]
    pub fn clip(&self, entry: usize, value: T) -> T {
        let (low, high) = self.at(entry);
        value.clip(low, high)
    }

    /// Moves every entry of a point to the nearest value within its bounds.
    ///
    /// # Panics
    /// If every entry has its own, and there are fewer than the point has.
    #[inline(always)]
    pub fn clip_all(&self, point: &mut [T]) {
        with_ends!(self.first(point.len()), point.iter_mut(), v, (low, high) => *v = v.clip(low, high));
    }

    /// Whether every entry of a point is within its bounds.
    ///
    /// # Panics
    /// If every entry has its own, and there are fewer than the point has.
    #[inline(always)]
    pub fn contain(&self, point: &[T]) -> bool {
        let mut inside = true;
        with_ends!(self.first(point.len()), point.iter(), &v, (low, high) => inside &= (low <= v) & (v <= high));
        inside
    }

    /// Checks that there are bounds for `len` entries, and a finite number within those of each.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] for another number, [`LinalgError::EmptyBox`] where there is no such number.
    pub fn check(&self, what: &'static str, len: usize) -> Result<(), LinalgError> {
        match *self {
            Self::Same(low, high) if holds_finite_number(low, high) => Ok(()),
            Self::Same(..) => Err(LinalgError::EmptyBox { what, row: 0, column: 0 }),
            Self::Each { lower, upper } => {
                expect_shape(what, (lower.len(), upper.len()), (len, len))?;
                let [lower, upper] = [lower, upper].map(|ends| MatRef::from_column_major_slice(ends, len, 1));
                expect_box(what, lower, upper)
            }
        }
    }

    /// Those of the first `len` entries.
    #[inline(always)]
    fn first(&self, len: usize) -> Self {
        match self {
            Self::Same(..) => *self,
            Self::Each { lower, upper } => Self::Each { lower: &lower[..len], upper: &upper[..len] },
        }
    }

    /// Entries with bounds of their own: none if all have the same.
    pub(super) fn own(&self) -> usize {
        match self {
            Self::Same(..) => 0,
            Self::Each { lower, .. } => lower.len(),
        }
    }

    /// Whether the bounds leave one of `len` entries no choice.
    pub(super) fn fix_some(&self, len: usize) -> bool {
        (0..len.min(self.own().max(1))).any(|entry| self.at(entry).0 == self.at(entry).1)
    }

    /// The same in `f64`, where each [own](Self::own) pair is given.
    pub(super) fn widen<'w>(&self, lower: &'w [f64], upper: &'w [f64]) -> Bounds<'w, f64> {
        match self {
            Self::Same(low, high) => Bounds::Same(low.to_f64(), high.to_f64()),
            Self::Each { .. } => Bounds::Each { lower, upper },
        }
    }
}
