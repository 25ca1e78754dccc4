//! The nearest point of a box on which a sum has a given value: a clipped shift.

use fbp_linalg::Real;

/// Steps after which a Newton iteration on a piecewise linear function has long ended; each halves its bracket at least
/// every second time.
const MAX_STEPS: usize = 200;

/// Solves `Σ_i clip(v_i + τ, l_i, u_i) = total` for `τ`, where `entries` yields `(v_i, l_i, u_i)`; if the sum cannot
/// reach `total`, an end at which it is as near as possible.
///
/// `clip(v + τ, l, u)` is then the projection of `v` on `{l <= x <= u, Σ x_i = total}`. The sum is piecewise linear and
/// non-decreasing in `τ`, so Newton's method ends exactly on the right piece; a bracket makes it safe.
pub(crate) fn clipped_shift<T: Real, I: Iterator<Item = (T, T, T)>>(entries: impl Fn() -> I, total: f64) -> f64 {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    let (mut least, mut most, mut size) = (0.0, 0.0, 0.0);
    for (v, lower, upper) in entries() {
        let (v, lower, upper) = (v.to_f64(), lower.to_f64(), upper.to_f64());
        // Beyond these shifts every entry is at its end; a free end is reached only far away.
        low = low.min(lower - v);
        high = high.max(upper - v);
        (least, most, size) = (least + lower, most + upper, size + v.abs());
    }
    if total <= least {
        return low;
    }
    if total >= most {
        return high;
    }
    let tolerance = f64::EPSILON * (size + total.abs());
    let mut shift = 0.0_f64.clamp(low, high);
    for _ in 0..MAX_STEPS {
        let (sum, free) = entries().fold((0.0, 0_usize), |(sum, free), (v, lower, upper)| {
            let (moved, lower, upper) = (v.to_f64() + shift, lower.to_f64(), upper.to_f64());
            (sum + moved.clip(lower, upper), free + usize::from(lower < moved && moved < upper))
        });
        let gap = total - sum;
        if gap.abs() <= tolerance {
            break;
        }
        if gap > 0.0 {
            low = shift;
        } else {
            high = shift;
        }
        let newton = shift + gap / free as f64;
        let middle = 0.5 * (low + high);
        // With no free entry, or a step out of the bracket, bisect; an open bracket is widened by the gap.
        shift = if free > 0 && low < newton && newton < high {
            newton
        } else if middle.is_finite() {
            middle
        } else {
            shift + 2.0 * gap
        };
    }
    shift
}

#[cfg(test)]
mod tests {
    use super::clipped_shift;
    use fbp_linalg::testkit::{Tol, for_seeds, uniform_vec};
    use fbp_linalg::{Real, assert_close};

    /// Plain bisection.
    fn oracle(v: &[f64], l: &[f64], u: &[f64], total: f64) -> f64 {
        let sum = |t: f64| (0..v.len()).map(|i| (v[i] + t).clip(l[i], u[i])).sum::<f64>();
        let (mut low, mut high) = (-1e3, 1e3);
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if sum(middle) < total { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }

    #[test]
    fn sum_is_reached_as_by_bisection() {
        for_seeds(200, |rng| {
            let n = 1 + uniform_vec::<f64>(1, 0.0, 20.0, rng)[0] as usize;
            let v = uniform_vec::<f64>(n, -2.0, 2.0, rng);
            let l = uniform_vec::<f64>(n, -2.0, 0.0, rng);
            let u: Vec<f64> = uniform_vec::<f64>(n, 0.0, 2.0, rng);
            let (least, most) = (l.iter().sum::<f64>(), u.iter().sum::<f64>());
            let total = least + (most - least) * uniform_vec::<f64>(1, 0.01, 0.99, rng)[0];
            let entries = || (0..n).map(|i| (v[i], l[i], u[i]));
            let point = |t: f64| (0..n).map(|i| (v[i] + t).clip(l[i], u[i])).collect::<Vec<_>>();
            let found = point(clipped_shift(entries, total));
            assert_close!([found.iter().sum::<f64>()], [total], Tol::eps::<f64>().times(4 * n).scale(2.0));
            assert_close!(found, point(oracle(&v, &l, &u, total)), Tol::eps::<f64>().times(64 * n).scale(2.0));
        });
    }

    #[test]
    fn open_bounds_and_sums_out_of_reach() {
        let free = || [1.0, 2.0].into_iter().map(|v| (v, f64::NEG_INFINITY, f64::INFINITY));
        assert_close!([clipped_shift(free, 7.0)], [2.0], Tol::eps::<f64>().times(4));
        let half = || [-1.0, 2.0].into_iter().map(|v| (v, 0.0, f64::INFINITY));
        assert_close!([clipped_shift(half, 1.5)], [-0.5], Tol::eps::<f64>().times(4));
        assert_close!([clipped_shift(half, 100.0)], [49.5], Tol::eps::<f64>().times(4));
        let unit = || [0.25, 0.5].into_iter().map(|v| (v, 0.0, 1.0));
        assert_eq!((clipped_shift(unit, -3.0), clipped_shift(unit, 3.0)), (-0.5, 0.75));
    }
}
