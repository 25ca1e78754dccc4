use fbp_linalg::Real;

use super::kind::{Entry, EntryBlock, Preimage, ScalarMap, Setting};
use crate::Interval;

/// A continuous function that increases strictly between two ends, beyond (or towards) which it is flat.
pub(crate) trait IncreasingMap<T: Real>: Copy + Send + Sync {
    /// Whether a finite end of the range is taken (ReLU at 0), not only approached (the sigmoid at 0 and 1).
    const ATTAINS_ENDS: bool;

    fn value(self, x: T) -> T;
    fn slope(self, x: T) -> T;
    /// The inverse strictly inside the range; finite at an end that is taken.
    fn inverse(self, y: T) -> T;
    fn infimum(self) -> T;
    fn supremum(self) -> T;
    /// See [`ScalarMap::output_scale`].
    fn output_scale(self) -> Option<T>;
}

/// Reverse of an increasing function: `[f⁻¹(lo), f⁻¹(hi)]`, half-lines where an end of the range is reached.
///
/// The target interval is projected on what inputs within the range can produce first. Values within `tolerance` of
/// the end of the function's own range count as being there, because their preimage is a half-line or far away:
/// `lo <= inf f + tolerance` gives `-∞`, and for ends that are only approached the interval always reaches
/// `f⁻¹(inf f + tolerance)`; likewise above.
#[derive(Clone, Copy)]
pub(crate) struct Increasing<M>(pub(crate) M);

/// What the entries of a sample share: the image of the range, and where the flat ends begin.
#[derive(Clone, Copy)]
pub(crate) struct IncreasingContext<T> {
    range: Interval<T>,
    image: Interval<T>,
    bottom: T,
    top: T,
    tolerance: T,
}

impl<T: Real, M: IncreasingMap<T>> ScalarMap<T> for Increasing<M> {
    type Context = IncreasingContext<T>;

    #[inline(always)]
    fn value(self, x: T) -> T {
        self.0.value(x)
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        self.0.slope(x)
    }

    #[inline(always)]
    fn image(self, range: Interval<T>) -> Interval<T> {
        let at = |x: T| {
            if x == T::NEG_INFINITY {
                self.0.infimum()
            } else if x == T::INFINITY {
                self.0.supremum()
            } else {
                self.0.value(x)
            }
        };
        Interval::new(at(range.lower), at(range.upper))
    }

    fn output_scale(self) -> Option<T> {
        self.0.output_scale()
    }

    #[inline(always)]
    fn context(self, setting: Setting<T>) -> IncreasingContext<T> {
        let (least, most) = (self.0.infimum(), self.0.supremum());
        let rounding = T::from_f64(8.0) * T::EPSILON * self.0.output_scale().unwrap_or(T::ZERO);
        let tolerance = if M::ATTAINS_ENDS { setting.tolerance } else { setting.tolerance.max(rounding) };
        let image = self.image(setting.range);
        IncreasingContext { range: setting.range, image, bottom: least + tolerance, top: most - tolerance, tolerance }
    }

    #[inline(always)]
    fn allowance(self, y: T, context: &IncreasingContext<T>) -> T {
        let IncreasingContext { bottom, top, tolerance, .. } = *context;
        // The output that an end's preimage gives is that end up to rounding; infinite ends compare with NaN.
        let rounding = |end: T| T::from_f64(16.0) * T::EPSILON * (end.abs() + tolerance);
        let is_flat = (y <= bottom + rounding(bottom)) | (y >= top - rounding(top));
        if is_flat { tolerance } else { T::ZERO }
    }

    #[inline(always)]
    fn preimages<const POINT: bool>(self, block: &mut EntryBlock<'_, T>, context: &IncreasingContext<T>) {
        let mut block = block.trimmed();
        for i in 0..block.point.len() {
            block.write(i, self.preimage::<POINT, T>(block.entry(i), context));
        }
    }
}

impl<M> Increasing<M> {
    #[inline(always)]
    fn preimage<const POINT: bool, T: Real>(self, entry: Entry<T>, context: &IncreasingContext<T>) -> Preimage<T>
    where
        M: IncreasingMap<T>,
    {
        let IncreasingContext { range, image, bottom, top, .. } = *context;
        let (lo, hi) = (image.clip(entry.lower), image.clip(entry.upper));
        let (lower, upper) = if M::ATTAINS_ENDS {
            let lower = self.0.inverse(lo);
            (lower, if POINT { lower } else { self.0.inverse(hi) })
        } else {
            let lower = self.0.inverse(lo.clip(bottom, top));
            (lower, if POINT { lower } else { self.0.inverse(hi.clip(bottom, top)) })
        };
        let lower = if lo > bottom { lower } else { T::NEG_INFINITY };
        let upper = if hi < top { upper } else { T::INFINITY };
        Preimage::nearest(entry, range, range.clip(lower), range.clip(upper))
    }
}
