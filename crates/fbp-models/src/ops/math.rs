//! Elementary functions without branches or calls, so that loops over them vectorise.

/// `exp(x)` to within 2 ulp; 0 below -104, ∞ above 88.73, NaN for NaN.
///
/// # Source
/// Reduction `x = n ln 2 + r` in two pieces and a polynomial of degree 7, as in Cephes `expf` (S. Moshier).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to an integer, held in the low bits
    let low = if x < -104.0 { -104.0 } else { x };
    let x = if low > 89.0 { 89.0 } else { low };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let whole = shifted - ROUND;
    let r = (x - whole * 0.693_359_4) + whole * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let value = (p * r) * r + r + 1.0;
    // 2ⁿ in two factors, so that results below the smallest normal number are reached too.
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    value * power(half) * power(n.wrapping_sub(half))
}

/// `tanh(x)` to within 3 ulp.
///
/// # Source
/// Cephes `tanhf` (S. Moshier): an odd polynomial near zero, `1 - 2 / (exp(2|x|) + 1)` elsewhere.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = -5.704_988_7e-3;
    let p = p * z + 2.063_908_9e-2;
    let p = p * z - 5.373_971_6e-2;
    let p = p * z + 1.333_144_2e-1;
    let p = p * z - 3.333_328_2e-1;
    let near = p * z * x + x;
    let far = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst_ulps(range: f32, f: impl Fn(f32) -> f32, oracle: impl Fn(f64) -> f64) -> f64 {
        let mut worst = 0.0_f64;
        for i in -20_000..=20_000 {
            let x = range * i as f32 / 20_000.0;
            let exact = oracle(f64::from(x));
            let ulp = (exact.abs() * f64::from(f32::EPSILON)).max(f64::from(f32::from_bits(1)));
            worst = worst.max((f64::from(f(x)) - exact).abs() / ulp);
        }
        worst
    }

    #[test]
    fn functions_agree_with_double_precision() {
        assert!(worst_ulps(87.0, exp, f64::exp) <= 2.0, "exp {}", worst_ulps(87.0, exp, f64::exp));
        assert!(worst_ulps(3.0, tanh, f64::tanh) <= 3.0, "tanh {}", worst_ulps(3.0, tanh, f64::tanh));
        assert!(worst_ulps(20.0, tanh, f64::tanh) <= 3.0);
        assert!(worst_ulps(30.0, sigmoid, |x| 1.0 / (1.0 + (-x).exp())) <= 3.0);
    }

    #[test]
    fn ends_and_nan() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(-40.0), -1.0);
        assert!(tanh(f32::NAN).is_nan());
        assert_eq!((sigmoid(-200.0), sigmoid(200.0)), (0.0, 1.0));
    }
}
