//! What *attained* means, once for all solvers and layers.
//!
//! A sample is **attained** if every entry of the output at the returned point lies within its target interval, up to the
//! rounding of that entry's own evaluation:
//!
//! ```text
//! distance of f(v)_i to [lower_i, upper_i]  <=  16 ε √k_i s_i
//! ```
//!
//! with `ε` the precision of the features, `k_i` the number of terms that the evaluation of entry `i` adds, and `s_i` the
//! sum of their magnitudes, the *scale* of the entry:
//!
//! | entry | terms | scale `s_i` |
//! |---|---|---|
//! | row of an affine map, average of a pooling window | its coefficients and the bias | `Σ_j abs(a_ij v_j) + abs(b_i)` |
//! | elementwise function, softmax | 1 | `abs(y_i) + abs(v_i f'(v_i))` |
//! | normalisation | 2 | `abs(γ_i) (abs(z_i) + mean_j abs(z_j)) + abs(β_i)`, `z` the normalised entries of the centred input |
//! | maximum of a pooling window | 1 | `abs(y_i)` |
//!
//! Solvers that are given observed outputs `A v0 + b` instead of the bias know `b` up to the rounding of these, and allow for
//! it: `ε √k_i` times the scale of the observed output ([`observed_slack`]). Without that, a row whose inputs all move to
//! zero would have no scale at all, and no point would attain `b` itself.
//!
//! A normalised entry is a difference: what the mean of the group is rounded by, an entry near the mean carries as well,
//! hence the second term (0 where nothing is centred). Scales below the smallest normal number count as that number, as
//! rounding falls no further.
//!
//! No entry is judged by the size of another one: a row of small weights beside one of large weights is held to what it can
//! resolve. What the features' precision cannot represent is a miss. Layers that are built with a tolerance of their own
//! (saturating activations, normalisations) add it, and say so.
//!
//! # Source
//! Componentwise backward error: Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., §7.2 (Oettli and
//! Prager); `√k` for rounding errors of random signs: the same book, §2.8. The factor 16 covers that the observed output
//! and the point carry such an error too, and leaves room for the constants of blocked products.

use crate::Real;

/// Roundings of a term that count as none.
const ROUNDINGS: f64 = 16.0;

/// Largest distance of an entry to its target interval that counts as attained, for the precision of `T`: `16 ε √terms
/// scale`, see the [module](self).
///
/// ```
/// use fbp_linalg::attained::attained_slack;
///
/// // A row of 100 coefficients whose terms add up to 3 in magnitude.
/// assert!((attained_slack::<f64>(100, 3.0) - 480.0 * f64::EPSILON).abs() < 1e-25);
/// ```
pub fn attained_slack<T: Real>(terms: usize, scale: f64) -> f64 {
    let (least, most) = (T::MIN_POSITIVE.to_f64(), T::MAX.to_f64());
    ROUNDINGS * T::EPSILON.to_f64() * (terms.max(1) as f64).sqrt() * scale.max(least).min(most)
}

/// Rounding of an observed output that a solver takes the bias from: `ε √terms scale`, see the [module](self).
///
/// ```
/// use fbp_linalg::attained::observed_slack;
///
/// assert!((observed_slack::<f64>(100, 3.0) - 30.0 * f64::EPSILON).abs() < 1e-25);
/// ```
pub fn observed_slack<T: Real>(terms: usize, scale: f64) -> f64 {
    T::EPSILON.to_f64() * (terms.max(1) as f64).sqrt() * scale
}
