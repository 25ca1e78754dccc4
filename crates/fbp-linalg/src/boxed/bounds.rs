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

/// Evaluates an expression with `$ends`, which gives the bounds of an entry below `$len`: once for each kind of bounds, so
/// that loops do not ask for the kind.
macro_rules! with_ends {
    ($bounds:expr, $len:expr, |$ends:ident| $body:expr) => {
        match $bounds {
            $crate::boxed::bounds::Bounds::Same(low, high) => {
                let $ends = |_: usize| (low, high);
                $body
            }
            $crate::boxed::bounds::Bounds::Each { lower, upper } => {
                let (lower, upper) = (&lower[..$len], &upper[..$len]);
                let $ends = |entry: usize| (lower[entry], upper[entry]);
                $body
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
    pub fn clip_all(&self, point: &mut [T]) {
        let n = point.len();
        with_ends!(*self, n, |ends| for (entry, v) in point.iter_mut().enumerate() {
            let (low, high) = ends(entry);
            *v = v.clip(low, high);
        });
    }

    /// Whether every entry of a point is within its bounds.
    ///
    /// # Panics
    /// If every entry has its own, and there are fewer than the point has.
    pub fn contain(&self, point: &[T]) -> bool {
        let n = point.len();
        with_ends!(*self, n, |ends| point.iter().enumerate().fold(true, |inside, (entry, &v)| {
            let (low, high) = ends(entry);
            inside & (low <= v) & (v <= high)
        }))
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

    /// Entries with bounds of their own: none if all have the same.
    pub(super) fn own(&self) -> usize {
        match self {
            Self::Same(..) => 0,
            Self::Each { lower, .. } => lower.len(),
        }
    }

    /// Whether the bounds leave one of `len` entries no choice.
    pub(super) fn fix_some(&self, len: usize) -> bool {
        with_ends!(*self, len, |ends| (0..len.min(self.own().max(1))).any(|entry| ends(entry).0 == ends(entry).1))
    }

    /// The same in `f64`, where each [own](Self::own) pair is given.
    pub(super) fn widen<'w>(&self, lower: &'w [f64], upper: &'w [f64]) -> Bounds<'w, f64> {
        match self {
            Self::Same(low, high) => Bounds::Same(low.to_f64(), high.to_f64()),
            Self::Each { .. } => Bounds::Each { lower, upper },
        }
    }
}
