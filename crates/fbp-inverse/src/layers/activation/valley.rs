use fbp_linalg::Real;

use super::kind::{BLOCK, Entry, EntryBlock, Preimage, ScalarMap, Setting};
use crate::Interval;

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
    /// Replaces up to [`BLOCK`] outputs, finite and at least the minimum, by the inputs right of the minimum that give
    /// them.
    fn right_inverses(self, values: &mut [T]);
    /// Replaces up to [`BLOCK`] outputs between the minimum and the left end by the inputs left of the minimum that
    /// give them.
    fn left_inverses(self, values: &mut [T]);
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
    domain: Interval<T>,
    image: Interval<T>,
    /// Largest output at finite inputs.
    most: T,
    /// 0, or infinite if no input of the range lies on this side.
    penalty: T,
}

/// What the entries of a sample share.
#[derive(Clone, Copy)]
pub(crate) struct ValleyContext<T> {
    range: Interval<T>,
    left: Side<T>,
    right: Side<T>,
    minimum: T,
    /// Outputs above this count as the left end.
    top: T,
    tolerance: T,
    /// Whether the minimum itself lies in the range.
    connected: bool,
}

impl<T: Real> Side<T> {
    /// Distance between the target interval and what this side can produce.
    #[inline(always)]
    fn miss(&self, entry: &Entry<T>) -> T {
        let (short, over) = (entry.lower - self.most, self.image.lower - entry.upper);
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

    fn image(self, range: Interval<T>) -> Interval<T> {
        let (bottom, least) = self.0.minimum();
        let (left, right) = (value_at(self.0, range.lower), value_at(self.0, range.upper));
        Interval::new(if range.contains(bottom) { least } else { left.min(right) }, left.max(right))
    }

    fn output_scale(self) -> Option<T> {
        self.0.output_scale()
    }

    fn context(self, setting: Setting<T>) -> ValleyContext<T> {
        let range = setting.range;
        let (bottom, minimum) = self.0.minimum();
        let rounding = T::from_f64(16.0) * T::EPSILON * minimum.abs();
        let tolerance = if M::ATTAINS_LEFT_END { setting.tolerance } else { setting.tolerance.max(rounding) };
        let split = range.clip(bottom);
        let value = |x: T| if x == bottom { minimum } else { value_at(self.0, x) };
        let missing = |here: bool| if here { T::ZERO } else { T::INFINITY };
        let left = Side {
            domain: Interval::new(range.lower, split),
            image: Interval::new(value(split), value(range.lower)),
            most: value(range.finite().lower),
            penalty: missing(range.lower <= bottom),
        };
        let right = Side {
            domain: Interval::new(split, range.upper),
            image: Interval::new(value(split), value(range.upper)),
            most: value(range.finite().upper),
            penalty: missing(range.upper >= bottom),
        };
        let connected = range.contains(bottom);
        ValleyContext { range, left, right, minimum, top: self.0.left_end() - tolerance, tolerance, connected }
    }

    #[inline(always)]
    fn allowance(self, y: T, context: &ValleyContext<T>) -> T {
        // On either side of the left end: outputs of the other branch come just as near to it.
        let room = context.tolerance * T::from_f64(1.0 + 1e-3);
        let is_flat = (y - self.0.left_end()).abs() <= room;
        if is_flat { context.tolerance } else { T::ZERO }
    }

    #[inline(always)]
    fn preimages<const POINT: bool>(self, block: &mut EntryBlock<'_, T>, context: &ValleyContext<T>) {
        // Loop by loop, so that every one of them vectorises.
        let right_lower = self.right_ends(block.target_lower, context);
        let right_upper = if POINT { right_lower } else { self.right_ends(block.target_upper, context) };
        // The left side is decreasing, so the ends change places.
        let left_upper = self.left_ends(block.target_lower, context);
        let left_lower = if POINT { left_upper } else { self.left_ends(block.target_upper, context) };
        let mut block = block.trimmed();
        for i in 0..block.point.len() {
            let right = (right_lower[i], right_upper[i]);
            block.write(i, nearer_side(block.entry(i), (left_lower[i], left_upper[i]), right, context));
        }
    }
}

// Everything is inlined into the caller, or it would lose the vector instructions that the caller was compiled for.
impl<M> Valley<M> {
    /// Inputs right of the minimum that give these ends of targets.
    #[inline(always)]
    fn right_ends<T: Real>(self, ends: &[T], context: &ValleyContext<T>) -> [T; BLOCK]
    where
        M: ValleyMap<T>,
    {
        let mut roots = [T::ZERO; BLOCK];
        for (root, &end) in roots.iter_mut().zip(ends) {
            let y = context.right.image.clip(end);
            *root = if y < T::INFINITY { y } else { context.minimum };
        }
        self.0.right_inverses(&mut roots[..ends.len()]);
        roots
    }

    /// Inputs left of the minimum that give these ends of targets.
    #[inline(always)]
    fn left_ends<T: Real>(self, ends: &[T], context: &ValleyContext<T>) -> [T; BLOCK]
    where
        M: ValleyMap<T>,
    {
        let mut roots = [T::ZERO; BLOCK];
        for (root, &end) in roots.iter_mut().zip(ends) {
            let y = context.left.image.clip(end);
            let finite = if y < T::INFINITY { y } else { context.minimum };
            *root = if M::ATTAINS_LEFT_END { finite } else { y.clip(context.minimum, context.top) };
        }
        self.0.left_inverses(&mut roots[..ends.len()]);
        roots
    }
}

/// The better side for one entry, given the inputs that its ends have on both.
#[inline(always)]
fn nearer_side<T: Real>(
    entry: Entry<T>,
    (left_lower, left_upper): (T, T),
    (right_lower, right_upper): (T, T),
    context: &ValleyContext<T>,
) -> Preimage<T> {
    let ValleyContext { range, left, right, minimum, top, connected, .. } = *context;
    let right_upper = if right.image.clip(entry.upper) < T::INFINITY { right_upper } else { T::INFINITY };
    let (right_lower, right_upper) = (right.domain.clip(right_lower), right.domain.clip(right_upper));
    let left_lower = if left.image.clip(entry.upper) < top { left_lower } else { T::NEG_INFINITY };
    let (left_lower, left_upper) = (left.domain.clip(left_lower), left.domain.clip(left_upper));
    let left_distance = (entry.observed_in - entry.observed_in.clip(left_lower, left_upper)).abs();
    let right_distance = (entry.observed_in - entry.observed_in.clip(right_lower, right_upper)).abs();
    let (left_miss, right_miss) = (left.miss(&entry), right.miss(&entry));
    let goes_left = (left_miss < right_miss) | ((left_miss == right_miss) & (left_distance < right_distance));
    let meet = connected & (entry.lower <= minimum);
    let lower = if goes_left | meet { left_lower } else { right_lower };
    let upper = if !goes_left | meet { right_upper } else { left_upper };
    Preimage::nearest(entry, range, lower, upper)
}
