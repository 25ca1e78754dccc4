use fbp_linalg::Real;

use super::kind::{Entry, Preimage, ScalarMap, Setting};
use crate::Range;

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

impl<T: Real, M: IncreasingMap<T>> ScalarMap<T> for Increasing<M> {
    #[inline(always)]
    fn value(self, x: T) -> T {
        self.0.value(x)
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        self.0.slope(x)
    }

    #[inline(always)]
    fn image(self, range: Range<T>) -> Range<T> {
        let at = |x: T| {
            if x == T::NEG_INFINITY {
                self.0.infimum()
            } else if x == T::INFINITY {
                self.0.supremum()
            } else {
                self.0.value(x)
            }
        };
        Range::new(at(range.lower), at(range.upper))
    }

    fn output_scale(self) -> Option<T> {
        self.0.output_scale()
    }

    #[inline(always)]
    fn preimage(self, entry: Entry<T>, setting: Setting<T>, image: Range<T>) -> Preimage<T> {
        let Setting { range, tolerance } = setting;
        let (bottom, top) = (self.0.infimum() + tolerance, self.0.supremum() - tolerance);
        let (lo, hi) = (image.clip(entry.lower), image.clip(entry.upper));
        let (inner_lo, inner_hi) = if M::ATTAINS_ENDS {
            (lo, hi)
        } else {
            (if lo > top { top } else { lo }, if hi < bottom { bottom } else { hi })
        };
        let lower = if lo > bottom { self.0.inverse(inner_lo) } else { T::NEG_INFINITY };
        let upper = if hi < top { self.0.inverse(inner_hi) } else { T::INFINITY };
        let lower = range.clip(lower);
        let upper = range.clip(upper);
        let upper = if upper < lower { lower } else { upper };
        let observed = entry.observed_in;
        let satisfied =
            (entry.lower <= entry.observed_out) & (entry.observed_out <= entry.upper) & range.contains(observed);
        Preimage {
            point: if satisfied { observed } else { observed.clip(lower, upper) },
            lower: if satisfied & (observed < lower) { observed } else { lower },
            upper: if satisfied & (observed > upper) { observed } else { upper },
        }
    }
}
