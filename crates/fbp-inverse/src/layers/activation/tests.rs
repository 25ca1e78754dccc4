use fbp_linalg::Real;

use super::elementary::{exp, exp_m1, ln, ln_1p, normal_tail, sigmoid, tanh};

/// Points of `[low, high]`, evenly spaced.
fn grid(low: f64, high: f64) -> impl Iterator<Item = f64> {
    let count = 200_003;
    (0..=count).map(move |i| low + (high - low) * f64::from(i) / f64::from(count))
}

/// Largest error of `f` on the grid relative to `oracle` (in f64, at the rounded argument), in rounding units.
fn worst_units<T: Real>(range: (f64, f64), f: impl Fn(T) -> T, oracle: impl Fn(f64) -> f64) -> f64 {
    grid(range.0, range.1).fold(0.0, |worst, x| {
        let x = T::from_f64(x);
        let (actual, expected) = (f(x).to_f64(), oracle(x.to_f64()));
        let error = (actual - expected).abs() / (T::EPSILON.to_f64() * expected.abs().max(f64::MIN_POSITIVE));
        assert!(!error.is_nan(), "{x}: {actual} instead of {expected}");
        f64::max(worst, if actual == expected { 0.0 } else { error })
    })
}

fn elementary_functions<T: Real>(exponents: (f64, f64)) -> Vec<(&'static str, f64)> {
    let upper_tail = |a: f64| {
        // erfc at a/√2, corrected for the rounding of that argument, which e^(-a²/2) would magnify.
        let b = a * std::f64::consts::FRAC_1_SQRT_2;
        let lost = libm::fma(a, std::f64::consts::FRAC_1_SQRT_2, -b) - a * 4.833_646_656_726_457e-17;
        0.5 * libm::erfc(b) - lost * std::f64::consts::FRAC_2_SQRT_PI * 0.5 * libm::exp(-b * b)
    };
    let tail = |a: T| {
        let (density, scaled) = normal_tail(a);
        density * scaled
    };
    vec![
        ("exp", worst_units::<T>(exponents, exp, libm::exp)),
        ("exp_m1", worst_units::<T>((-2.0, 2.0), exp_m1, libm::expm1)),
        ("exp_m1 wide", worst_units::<T>(exponents, exp_m1, libm::expm1)),
        ("ln", worst_units::<T>((1e-3, 4.0), ln, libm::log)),
        ("ln wide", worst_units::<T>((1e-30, 1e30), ln, libm::log)),
        ("ln_1p", worst_units::<T>((-0.9, 2.0), ln_1p, libm::log1p)),
        ("sigmoid", worst_units::<T>((-60.0, 60.0), sigmoid, |x| 1.0 / (1.0 + libm::exp(-x)))),
        ("tanh", worst_units::<T>((-10.0, 10.0), tanh, libm::tanh)),
        ("normal tail", worst_units::<T>((0.0, 12.0), tail, upper_tail)),
    ]
}

#[test]
fn elementary_functions_are_accurate_to_a_few_units() {
    let cases = [elementary_functions::<f32>((-87.0, 88.0)), elementary_functions::<f64>((-708.0, 709.0))];
    for (function, units) in cases.concat() {
        println!("{function}: {units:.2}");
        assert!(units <= 6.0, "{function}: {units} rounding units");
    }
}

#[test]
fn exponentials_saturate_and_keep_nan() {
    assert!(exp(-1e30_f64) < 1e-300 && exp(1e30_f64).is_finite() && exp(f64::NEG_INFINITY) < 1e-300);
    assert!(exp(-1e30_f32) < 1e-37 && exp(1e30_f32).is_finite());
    assert_eq!((tanh(-1e30_f32), tanh(1e30_f64), sigmoid(1e30_f32)), (-1.0, 1.0, 1.0));
    assert!(exp(f32::NAN).is_nan() && tanh(f64::NAN).is_nan() && normal_tail(f64::NAN).0.is_nan());
}
