//! Mean and deviation of a group of entries.

use fbp_linalg::Real;

/// Powers of two up to this one can be squared and added up without overflow or loss.
const SAFE: i32 = 480;

/// What normalises a group: entry `x` becomes `((x unit - mean) - rest) scale`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statistics {
    /// A power of two, 1 but for groups whose squares would overflow or vanish.
    pub(super) unit: f64,
    /// Mean in that unit, 0 if not centred, and what its rounding left out.
    mean: f64,
    rest: f64,
    /// `1/√(variance + ε)` in that unit; 0 if both are 0.
    scale: f64,
}

/// Exponent of a number, -1023 for 0 and subnormal numbers.
fn exponent(value: f64) -> i32 {
    ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// A power of two that makes the squares of the values, whose largest magnitude is given, safe to add up.
///
/// Tiny values stay as they are beside an `ε` that hides their squares anyway.
pub(super) fn unit_for(largest: f64, epsilon: f64) -> f64 {
    let size = exponent(largest);
    if (-SAFE..=SAFE).contains(&size) || largest == 0.0 {
        return 1.0;
    }
    let power = if size > SAFE {
        -size
    } else if epsilon > 0.0 {
        (-size).min(450 - exponent(epsilon) / 2).max(0)
    } else {
        -size
    };
    2.0_f64.powi(power.clamp(-1000, 1000))
}

/// Entries whose terms are added up side by side.
const LANES: usize = 16;

/// `N` sums of terms of the entries of three slices, in double precision; by lanes, so that it vectorises and rounds less.
#[inline(always)]
pub(super) fn sums<T: Real, const N: usize>(
    [a, b, c]: [&[T]; 3],
    terms: impl Fn(f64, f64, f64) -> [f64; N],
) -> [f64; N] {
    let mut lanes = [[0.0_f64; LANES]; N];
    let (a, b, c) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    for ((a, b), c) in a.0.iter().zip(b.0).zip(c.0) {
        for i in 0..LANES {
            let terms = terms(a[i].to_f64(), b[i].to_f64(), c[i].to_f64());
            lanes.iter_mut().zip(terms).for_each(|(lanes, term)| lanes[i] += term);
        }
    }
    // To lanes again and not behind their sum: lanes with a place that is not known keep together, in registers.
    for (i, ((a, b), c)) in a.1.iter().zip(b.1).zip(c.1).enumerate() {
        let terms = terms(a.to_f64(), b.to_f64(), c.to_f64());
        lanes.iter_mut().zip(terms).for_each(|(lanes, term)| lanes[i] += term);
    }
    lanes.map(|lanes| lanes.iter().sum())
}

/// Sum of a term per entry.
#[inline(always)]
fn sum<T: Real>(values: &[T], map: impl Fn(f64) -> f64) -> f64 {
    let [sum] = sums([values; 3], |x, _, _| [map(x)]);
    sum
}

impl Statistics {
    /// The statistics of a group; for RMS normalisation not `centred`.
    ///
    /// The mean is subtracted before anything is squared. In double precision it is kept as a sum of two numbers: its own
    /// rounding would show in groups that lie far from 0.
    #[inline(always)]
    pub(super) fn of<T: Real>(values: &[T], centred: bool, epsilon: f64) -> Self {
        let n = values.len() as f64;
        let is_short = size_of::<T>() == 4;
        let unit =
            if is_short { 1.0 } else { unit_for(values.iter().fold(0.0_f64, |m, x| m.max(x.to_f64().abs())), epsilon) };
        let mean = if centred { sum(values, |x| x * unit) / n } else { 0.0 };
        let rest = if centred && !is_short { sum(values, |x| x * unit - mean) / n } else { 0.0 };
        let variance = sum(values, |x| ((x * unit - mean) - rest) * ((x * unit - mean) - rest)) / n;
        let root = (variance + epsilon * unit * unit).sqrt();
        Self { unit, mean, rest, scale: if root > 0.0 { 1.0 / root } else { 0.0 } }
    }

    /// The normalised entry of an input.
    #[inline(always)]
    pub(super) fn normal<T: Real>(&self, x: T) -> f64 {
        self.normal_of(x.to_f64())
    }

    /// The same in double precision.
    #[inline(always)]
    pub(super) fn normal_of(&self, x: f64) -> f64 {
        ((x * self.unit - self.mean) - self.rest) * self.scale
    }

    /// `1/√(variance + ε)`.
    #[inline(always)]
    pub(super) fn slope(&self) -> f64 {
        self.scale * self.unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_two_that_keep_squares_safe() {
        for epsilon in [0.0, 1e-300, 1e-200, 1e-5] {
            for largest in [f64::MAX, 1e300, 1e150, 1.0, 1e-100, 1e-150, 1e-300, f64::MIN_POSITIVE, 5e-324] {
                let unit = unit_for(largest, epsilon);
                assert_eq!(unit.to_bits() << 12, 0, "{largest} {epsilon}: {unit}");
                let (square, shift) = ((largest * unit).powi(2), epsilon * unit * unit);
                assert!(square < 1e300 && shift < 1e300, "{largest} {epsilon}: {unit}");
                assert!(square.max(shift) > 1e-290, "{largest} {epsilon}: {unit}");
            }
        }
        assert_eq!(unit_for(0.0, 0.0), 1.0);
    }
}
