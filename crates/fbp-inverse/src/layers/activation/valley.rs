use fbp_linalg::Real;

use super::kind::{Entry, Preimage, ScalarMap, Setting};
use crate::Range;

/// A function that falls to one minimum and increases from there on without bound.
pub(crate) trait ValleyMap<T: Real>: Copy + Send + Sync {
    /// Whether the limit for `x -> -∞` is taken (hard swish) or infinite, not only approached.
    const ATTAINS_LEFT_END: bool;

    fn value(self, x: T) -> T;
    fn slope(self, x: T) -> T;
    /// Where the minimum is, and the minimum.
    fn minimum(self) -> (T, T);
    /// Limit for `x -> -∞`.
    fn left_end(self) -> T;
    /// The input right of the minimum that gives `y`, which is finite and at least the minimum.
    fn right_inverse(self, y: T) -> T;
    /// The input left of the minimum that gives `y`, between the minimum and the left end.
    fn left_inverse(self, y: T) -> T;
    /// See [`ScalarMap::output_scale`].
    fn output_scale(self) -> Option<T>;
}

/// Reverse of a valley: the preimage has an interval on either side of the minimum; the nearer one is returned, or both
/// as one if they meet. A side that misses the target interval by less (because of the input range) goes first.
#[derive(Clone, Copy)]
pub(crate) struct Valley<M>(pub(crate) M);

/// One side of the valley within the input range.
#[derive(Clone, Copy)]
struct Side<T> {
    domain: Range<T>,
    image: Range<T>,
    /// 0, or infinite if no input of the range lies on this side.
    penalty: T,
}

/// What the entries of a sample share.
#[derive(Clone, Copy)]
pub(crate) struct ValleyContext<T> {
    range: Range<T>,
    left: Side<T>,
    right: Side<T>,
    minimum: T,
    /// Outputs above this count as the left end.
    top: T,
    /// Whether the minimum itself lies in the range.
    connected: bool,
}

impl<T: Real> Side<T> {
    /// Distance between the target interval and what this side can produce.
    #[inline(always)]
    fn miss(&self, entry: &Entry<T>) -> T {
        let (short, over) = (entry.lower - self.image.upper, self.image.lower - entry.upper);
        let miss = if short > over { short } else { over };
        (if miss > T::ZERO { miss } else { T::ZERO }) + self.penalty
    }
}

/// The function, and its limits at the infinite ends of a range.
fn value_at<T: Real, M: ValleyMap<T>>(map: M, x: T) -> T {
    if x == T::NEG_INFINITY {
        map.left_end()
    } else if x == T::INFINITY {
        T::INFINITY
    } else {
        map.value(x)
    }
}

impl<T: Real, M: ValleyMap<T>> ScalarMap<T> for Valley<M> {
    type Context = ValleyContext<T>;

    #[inline(always)]
    fn value(self, x: T) -> T {
        self.0.value(x)
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        self.0.slope(x)
    }

    fn image(self, range: Range<T>) -> Range<T> {
        let (bottom, least) = self.0.minimum();
        let (left, right) = (value_at(self.0, range.lower), value_at(self.0, range.upper));
        Range::new(if range.contains(bottom) { least } else { left.min(right) }, left.max(right))
    }

    fn output_scale(self) -> Option<T> {
        self.0.output_scale()
    }

    fn context(self, setting: Setting<T>) -> ValleyContext<T> {
        let range = setting.range;
        let (bottom, minimum) = self.0.minimum();
        let rounding = T::from_f64(8.0) * T::EPSILON * minimum.abs();
        let tolerance = if M::ATTAINS_LEFT_END { setting.tolerance } else { setting.tolerance.max(rounding) };
        let split = range.clip(bottom);
        let value = |x: T| if x == bottom { minimum } else { value_at(self.0, x) };
        let missing = |here: bool| if here { T::ZERO } else { T::INFINITY };
        let left = Side {
            domain: Range::new(range.lower, split),
            image: Range::new(value(split), value(range.lower)),
            penalty: missing(range.lower <= bottom),
        };
        let right = Side {
            domain: Range::new(split, range.upper),
            image: Range::new(value(split), value(range.upper)),
            penalty: missing(range.upper >= bottom),
        };
        let connected = range.contains(bottom);
        ValleyContext { range, left, right, minimum, top: self.0.left_end() - tolerance, connected }
    }

    #[inline(always)]
    fn preimage<const POINT: bool>(self, entry: Entry<T>, context: &ValleyContext<T>) -> Preimage<T> {
        let ValleyContext { range, left, right, minimum, top, connected } = *context;
        // Right: increasing, so the ends keep their order.
        let (lo, hi) = (right.image.clip(entry.lower), right.image.clip(entry.upper));
        let finite = |y: T| if y < T::INFINITY { y } else { minimum };
        let right_lower = self.0.right_inverse(finite(lo));
        let right_upper = if POINT { right_lower } else { self.0.right_inverse(finite(hi)) };
        let right_upper = if hi < T::INFINITY { right_upper } else { T::INFINITY };
        let (right_lower, right_upper) = (right.domain.clip(right_lower), right.domain.clip(right_upper));
        // Left: decreasing, so the ends change places.
        let (lo, hi) = (left.image.clip(entry.lower), left.image.clip(entry.upper));
        let inner = |y: T| {
            let y = if M::ATTAINS_LEFT_END { finite(y) } else { y.clip(minimum, top) };
            self.0.left_inverse(y)
        };
        let left_upper = inner(lo);
        let left_lower = if POINT { left_upper } else { inner(hi) };
        let left_lower = if hi < top { left_lower } else { T::NEG_INFINITY };
        let (left_lower, left_upper) = (left.domain.clip(left_lower), left.domain.clip(left_upper));
        let distance = |lower: T, upper: T| (entry.observed_in - entry.observed_in.clip(lower, upper)).abs();
        let (left_miss, right_miss) = (left.miss(&entry), right.miss(&entry));
        let nearer = distance(left_lower, left_upper) < distance(right_lower, right_upper);
        let goes_left = (left_miss < right_miss) | ((left_miss == right_miss) & nearer);
        let meet = connected & (entry.lower <= minimum);
        let lower = if goes_left | meet { left_lower } else { right_lower };
        let upper = if !goes_left | meet { right_upper } else { left_upper };
        Preimage::nearest(entry, range, lower, upper)
    }
}
