//! Normalisations by the statistics of the sample.

use fbp_inverse::{NormParameters, NormReverse};
use fbp_linalg::testkit::normal_vec;
use fbp_linalg::{FeatureShape, Real};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::Finding;
use super::affine::{ratio, slack};
use super::draw::{chance, decades, rounded};
use super::exact::{Exact, distance, norm};
use super::layer::{Wanted, fault, reverse};

/// One normalised group.
struct Group {
    centred: bool,
    epsilon: f64,
    gain: Vec<f64>,
    shift: Vec<f64>,
}

impl Group {
    /// The input without its mean. Differences from the first entry are exact where they are small beside it, while the
    /// mean itself is as coarse as the entries are.
    fn centre(&self, v: &[f64]) -> Vec<f64> {
        let from = if self.centred { v[0] } else { 0.0 };
        let moved: Vec<f64> = v.iter().map(|x| x - from).collect();
        let mut sum = Exact::default();
        moved.iter().for_each(|&x| sum.add(x));
        let mean = if self.centred { sum.value() / v.len() as f64 } else { 0.0 };
        moved.iter().map(|x| x - mean).collect()
    }

    /// What the outputs were rounded by, as a change of the input: `ε` of every output and its shift, over the slope.
    fn rounding<T: Real>(&self, v: &[f64], reached: &[f64]) -> f64 {
        let centred = self.centre(v);
        let root = (norm(&centred).powi(2) / v.len() as f64 + self.epsilon).sqrt();
        let sizes = reached.iter().zip(&self.shift).zip(&self.gain);
        let shares: Vec<f64> = sizes.map(|((y, b), gain)| (y.abs() + b.abs()) / gain.abs()).collect();
        T::EPSILON.to_f64() * root * norm(&shares)
    }

    /// `γ z`, the output without the shift.
    fn scaled(&self, v: &[f64]) -> Vec<f64> {
        let centred = self.centre(v);
        let deviation = (norm(&centred).powi(2) / v.len() as f64 + self.epsilon).sqrt();
        centred.iter().zip(&self.gain).map(|(c, g)| g * c / deviation).collect()
    }
}

pub(crate) fn trial<T: Real>(rng: &mut ChaCha8Rng) -> Finding {
    let n = rng.random_range(2..=12);
    let centred = chance(rng, 0.7);
    let epsilon = [1e-5, 1e-3, 1e-12][rng.random_range(0..3)];
    let unit = if chance(rng, 0.3) { decades(rng, -4.0, 4.0) } else { 1.0 };
    let gain_scale = if chance(rng, 0.3) { decades(rng, -3.0, 3.0) } else { 1.0 };
    let gain: Vec<f64> = (0..n)
        .map(|_| rounded::<T>(gain_scale * rng.random_range(0.2..2.0) * if chance(rng, 0.2) { -1.0 } else { 1.0 }))
        .collect();
    let shift: Vec<f64> = normal_vec::<f64>(n, rng).iter().map(|b| rounded::<T>(gain_scale * b)).collect();
    // Far means cancel: what the precision leaves of the deviation cannot be chosen freely.
    let offset = if centred && chance(rng, 0.4) { decades(rng, 0.0, 6.0) } else { 0.0 };
    let place = |values: Vec<f64>, size: f64| -> Vec<f64> {
        values.iter().map(|x| rounded::<T>(unit * (offset + size * x))).collect()
    };
    let start = place(normal_vec(n, rng), 1.0);
    let size = decades(rng, -0.5, 0.5);
    let known = place(normal_vec(n, rng), size);
    let group = Group { centred, epsilon, gain, shift };
    let reached: Vec<f64> = group.scaled(&known).iter().zip(&group.shift).map(|(y, b)| y + b).collect();
    let point = chance(rng, 0.6);
    // Wide enough for the rounding of inputs so far from zero.
    let rounding = 64.0 * T::EPSILON.to_f64() * (1.0 + offset / size);
    let width = if point { 0.0 } else { gain_scale * (rounding + decades(rng, -4.0, 0.0)) };
    let ends = |sign: f64| -> Vec<f64> { reached.iter().map(|y| rounded::<T>(y + sign * width)).collect() };
    let (lower, upper) = (ends(-1.0), ends(1.0));
    let kind = format!(
        "{n} entries, centred {centred}, ε {epsilon:e}, mean {offset:.1e}, unit {unit:.1e}, gain {gain_scale:.1e}, {}",
        if point { "point" } else { "box" }
    );
    let feasible = !point || offset == 0.0;
    let found = Finding { kind, feasible, ..Finding::default() };
    let cast = |values: &[f64]| -> Vec<T> { values.iter().map(|&x| T::from_f64(x)).collect() };
    let (weight, bias) = (cast(&group.gain), cast(&group.shift));
    let parameters = NormParameters { weight: &weight, bias: &bias, epsilon };
    let shape = FeatureShape::vector(n);
    let layer = if centred {
        NormReverse::layer_norm("norm", shape, n, parameters)
    } else {
        NormReverse::rms_norm("norm", shape, n, parameters)
    };
    let wanted = Wanted { lower: &lower, upper: &upper, range: (f64::NEG_INFINITY, f64::INFINITY) };
    let solved = layer.and_then(|layer| reverse(&layer, &start, &wanted));
    let (answer, report) = match solved {
        Ok(solved) => solved,
        Err(error) => return Finding { broken: Some(error.to_string()), ..found },
    };
    if let Some(fault) = fault(&answer, wanted.range) {
        return Finding { broken: Some(fault), ..found };
    }
    let attained = report.unattained == 0;
    let moved = distance(&answer, &start);
    // The mean is free, so the known point may be shifted to the mean of the start.
    let reach = distance(&group.centre(&known), &group.centre(&start));
    let rounding =
        4.0 * T::EPSILON.to_f64() * (norm(&answer) + norm(&start)) + 4.0 * group.rounding::<T>(&known, &reached);
    let nearest = ratio((moved - reach).max(0.0), 1e-6 * reach + rounding);
    Finding {
        attained,
        early: report.stopped_early,
        definition: definition::<T>(&group, &answer, (&lower, &upper)),
        // For boxes the layer promises no nearest point; far from zero the known one is a coincidence of roundings.
        optimality: (attained && point && feasible).then_some(nearest),
        distance: attained.then_some(moved / reach),
        ..found
    }
}

/// Largest miss over the largest that counts as attained: two terms of `|γ| (|z| + mean |z|) + |β|`, and the layer's
/// tolerance of the amplitude.
fn definition<T: Real>(group: &Group, point: &[f64], (lower, upper): (&[f64], &[f64])) -> f64 {
    let scaled = group.scaled(point);
    let amplitude = scaled.iter().fold(0.0_f64, |most, y| most.max(y.abs()));
    let own = 2.0 * NormReverse::<T>::DEFAULT_TOLERANCE * amplitude;
    let sizes = scaled.iter().zip(&group.gain).map(|(y, gain)| (y / gain).abs());
    let mean = if group.centred { sizes.sum::<f64>() / scaled.len() as f64 } else { 0.0 };
    let mut worst = 0.0_f64;
    for (i, y) in scaled.iter().enumerate() {
        let value = y + group.shift[i];
        let miss = (lower[i] - value).max(value - upper[i]).max(0.0);
        let scale = y.abs() + group.gain[i].abs() * mean + group.shift[i].abs();
        worst = worst.max(ratio(miss, slack::<T>(2, scale) + own));
    }
    worst
}
