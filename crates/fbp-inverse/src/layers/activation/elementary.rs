//! Elementary functions without branches, so that loops over them vectorise.
//!
//! Errors are a few rounding units relative to the result, over the range of arguments given at each function; beyond
//! it exponentials saturate instead of overflowing. NaN stays NaN.
//!
//! # Source
//! Argument reduction after Cody & Waite, *Software Manual for the Elementary Functions*, 1980; series by Taylor; the
//! normal tail by Chebyshev interpolation at 60 digits (own computation).

use fbp_linalg::Real;

/// Whether `T` is the short scalar; decided when the code is generated.
#[inline(always)]
const fn is_short<T>() -> bool {
    size_of::<T>() == 4
}

/// `Σ coefficients[i] xⁱ` by Horner's rule.
#[inline(always)]
fn polynomial<T: Real, const N: usize>(x: T, coefficients: &[f64; N]) -> T {
    let mut sum = T::from_f64(coefficients[N - 1]);
    for i in (0..N - 1).rev() {
        sum = sum.mul_add(x, T::from_f64(coefficients[i]));
    }
    sum
}

/// `ln 2` as a sum of two numbers, the first one rounded to `T`.
#[inline(always)]
fn ln_2<T: Real>() -> (T, T) {
    if is_short::<T>() {
        const HIGH: f32 = std::f32::consts::LN_2;
        (T::from_f64(HIGH as f64), T::from_f64(std::f64::consts::LN_2 - HIGH as f64))
    } else {
        (T::from_f64(std::f64::consts::LN_2), T::from_f64(2.319_046_813_846_299_6e-17))
    }
}

/// `1/2!, 1/3!, ..`, the series of `(eʳ - 1 - r) / r²`.
const EXP_LONG: [f64; 12] = [
    1.0 / 2.0,
    1.0 / 6.0,
    1.0 / 24.0,
    1.0 / 120.0,
    1.0 / 720.0,
    1.0 / 5_040.0,
    1.0 / 40_320.0,
    1.0 / 362_880.0,
    1.0 / 3_628_800.0,
    1.0 / 39_916_800.0,
    1.0 / 479_001_600.0,
    1.0 / 6_227_020_800.0,
];
const EXP_SHORT: [f64; 6] = [1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5_040.0];

/// Adding one of these rounds to an integer, by the spacing of numbers of its size.
const ROUND_SHORT: f64 = 12_582_912.0;
const ROUND_LONG: f64 = 6_755_399_441_055_744.0;

/// `(2ᵏ, eʳ - 1)` with `x = k ln 2 + r`, `|r| <= ln 2 / 2`, for `x` clipped to where `2ᵏ` is a normal number.
#[inline(always)]
fn reduced_exp<T: Real>(x: T) -> (T, T) {
    let (shift, low, high) = if is_short::<T>() { (ROUND_SHORT, -87.3, 88.3) } else { (ROUND_LONG, -708.3, 709.0) };
    let (k, rest) = split_exp(x.clip(T::from_f64(low), T::from_f64(high)), T::from_f64(shift));
    (k.exp2_integral(), rest)
}

/// `(k, eʳ - 1)` with `x = k ln 2 + r`; `shift` is a number whose spacing is 1.
#[inline(always)]
fn split_exp<T: Real>(x: T, shift: T) -> (T, T) {
    let k = x.mul_add(T::from_f64(std::f64::consts::LOG2_E), shift) - shift;
    let (ln_2_high, ln_2_low) = ln_2::<T>();
    let r = (-k).mul_add(ln_2_low, (-k).mul_add(ln_2_high, x));
    let series = if is_short::<T>() { polynomial(r, &EXP_SHORT) } else { polynomial(r, &EXP_LONG) };
    (k, (r * r).mul_add(series, r))
}

/// `eˣ`; never smaller than about the smallest normal number, never infinite.
#[inline(always)]
pub(crate) fn exp<T: Real>(x: T) -> T {
    let (power, rest) = reduced_exp(x);
    power.mul_add(rest, power)
}

/// `eˣ` for `x` up to 50 (constant above), which underflows gradually and is 0 far below.
#[inline(always)]
pub(crate) fn decay<T: Real>(x: T) -> T {
    // The power of two is raised by so much that it is a normal number down to half of the smallest subnormal one.
    let (shift, low, raise) = if is_short::<T>() { (ROUND_SHORT, -104.0, 24.0) } else { (ROUND_LONG, -745.2, 64.0) };
    let (k, rest) = split_exp(x.clip(T::from_f64(low), T::from_f64(50.0)), T::from_f64(shift));
    let power = (k + T::from_f64(raise)).exp2_integral();
    power.mul_add(rest, power) * T::from_f64(-raise).exp2_integral()
}

/// `eˣ - 1`, accurate also near 0.
#[inline(always)]
pub(crate) fn exp_m1<T: Real>(x: T) -> T {
    let (power, rest) = reduced_exp(x);
    power.mul_add(rest, power - T::ONE)
}

/// `2/3, 2/5, ..`, the series of `(ln m - 2s) / s³` in `s²` with `s = (m - 1) / (m + 1)`.
const LN_LONG: [f64; 10] = [
    2.0 / 3.0,
    2.0 / 5.0,
    2.0 / 7.0,
    2.0 / 9.0,
    2.0 / 11.0,
    2.0 / 13.0,
    2.0 / 15.0,
    2.0 / 17.0,
    2.0 / 19.0,
    2.0 / 21.0,
];
const LN_SHORT: [f64; 5] = [2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0, 2.0 / 11.0];

/// `ln x` for positive normal numbers; finite nonsense for others, infinity included.
#[inline(always)]
pub(crate) fn ln<T: Real>(x: T) -> T {
    let (mantissa, k) = x.split_exponent();
    let f = mantissa - T::ONE;
    let s = f / (f + T::from_f64(2.0));
    let square = s * s;
    let series = if is_short::<T>() { polynomial(square, &LN_SHORT) } else { polynomial(square, &LN_LONG) };
    // 2s = f - s·f, and the rounding of s then only enters with the small second term.
    let rest = s.mul_add(square * series - f, f);
    let (ln_2_high, ln_2_low) = ln_2::<T>();
    k.mul_add(ln_2_high, k.mul_add(ln_2_low, rest))
}

/// `ln(1 + x)` for finite `x > -1`, accurate also near 0.
#[inline(always)]
pub(crate) fn ln_1p<T: Real>(x: T) -> T {
    let u = T::ONE + x;
    ln(u) + (x - (u - T::ONE)) / u
}

/// `(1 + a) Q(a) e^(a²/2)` as a polynomial in `(a - 4) / (a + 4)`, `Q` the upper tail of the normal distribution.
const TAIL_LONG: [f64; 25] = [
    0.472_053_206_509_844_67,
    -0.096_703_477_326_526_07,
    0.013_999_634_724_424_333,
    0.028_600_364_053_577_49,
    -0.032_197_837_428_022_03,
    0.017_936_097_478_868_582,
    -0.005_002_378_592_511_486,
    -0.000_285_623_086_809_275_85,
    0.000_694_897_121_907_279_1,
    -9.443_033_944_244_258e-5,
    -8.785_330_394_801_563e-5,
    2.125_044_686_053_182e-5,
    1.362_739_528_651_361_6e-5,
    -3.433_372_229_764_42e-6,
    -2.614_410_176_113_483_8e-6,
    4.067_173_262_996_222_5e-7,
    5.548_340_595_472_767e-7,
    -1.237_184_797_524_080_7e-9,
    -1.144_685_263_977_813_8e-7,
    -1.793_209_733_003_711_6e-8,
    2.025_768_372_896_741_4e-8,
    5.474_697_740_426_273e-9,
    -2.618_042_747_635_093_4e-9,
    -6.763_246_357_655_389e-10,
    1.787_370_396_867_11e-10,
];
const TAIL_SHORT: [f64; 12] = [
    0.472_053_202_694_158_3,
    -0.096_703_470_427_459_23,
    0.013_999_913_667_926_737,
    0.028_600_168_143_397_546,
    -0.032_201_162_891_248_414,
    0.017_937_695_942_263_972,
    -0.004_987_714_249_865_996,
    -0.000_291_267_495_233_184_7,
    0.000_664_988_692_059_167,
    -8.455_401_787_143_994e-5,
    -5.809_123_525_871_365e-5,
    1.256_854_669_748_865_3e-5,
];

/// `(e^(-a²/2), Q(a) e^(a²/2))` for `a >= 0`: the normal density without its factor, and the scaled upper tail.
#[inline(always)]
pub(crate) fn normal_tail<T: Real>(a: T) -> (T, T) {
    // Far out both are 0, and squares would overflow.
    let far = T::from_f64(if is_short::<T>() { 16.0 } else { 40.0 });
    let a = if a > far { far } else { a };
    let four = T::from_f64(4.0);
    let t = (a - four) / (a + four);
    let series = if is_short::<T>() { polynomial(t, &TAIL_SHORT) } else { polynomial(t, &TAIL_LONG) };
    let square = a * a;
    // What squaring lost: e^(-(s + l)/2) = e^(-s/2) (1 - l/2).
    let lost = a.mul_add(a, -square);
    let half = T::from_f64(-0.5);
    let density = decay(square * half);
    (density.mul_add(lost * half, density), series / (T::ONE + a))
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<T: Real>(x: T) -> T {
    sigmoid_pair(x).0
}

/// `(σ(x), σ(-x))`, both accurate, `σ` the sigmoid.
#[inline(always)]
pub(crate) fn sigmoid_pair<T: Real>(x: T) -> (T, T) {
    let e = decay(-x.abs());
    let large = T::ONE / (T::ONE + e);
    let small = e * large;
    if x < T::ZERO { (small, large) } else { (large, small) }
}

/// `tanh x`.
#[inline(always)]
pub(crate) fn tanh<T: Real>(x: T) -> T {
    let two = T::from_f64(2.0);
    let t = exp_m1(x.abs() * -two);
    let magnitude = -t / (two + t);
    if x < T::ZERO { -magnitude } else { magnitude }
}
