//! Softmax.

use fbp_inverse::SoftmaxReverse;
use fbp_linalg::testkit::normal_vec;
use fbp_linalg::{FeatureShape, Real};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::Finding;
use super::affine::{ratio, slack};
use super::draw::{chance, decades, rounded};
use super::exact::{distance, norm};
use super::layer::{Wanted, fault, reverse};

fn probabilities(v: &[f64]) -> Vec<f64> {
    let largest = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = v.iter().map(|x| (x - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

fn centred(v: &[f64]) -> Vec<f64> {
    let mean = v.iter().sum::<f64>() / v.len() as f64;
    v.iter().map(|x| x - mean).collect()
}

pub(crate) fn trial<T: Real>(rng: &mut ChaCha8Rng) -> Finding {
    let n = rng.random_range(2..=10);
    let (size, offset) = (decades(rng, -2.0, 0.8), if chance(rng, 0.3) { decades(rng, 0.0, 3.0) } else { 0.0 });
    let place = |values: Vec<f64>| -> Vec<f64> { values.iter().map(|x| rounded::<T>(offset + size * x)).collect() };
    let (start, known) = (place(normal_vec(n, rng)), place(normal_vec(n, rng)));
    let wanted = probabilities(&known);
    let point = chance(rng, 0.5);
    let spoilt = chance(rng, 0.1);
    let width = if point { 0.0 } else { decades(rng, -5.0, -0.5) };
    let factor = if spoilt { rng.random_range(0.3..0.9) } else { 1.0 };
    // Probabilities that add up to less than 1 do not exist.
    let lower: Vec<f64> = wanted.iter().map(|p| rounded::<T>(factor * p - if spoilt { 0.0 } else { width })).collect();
    let upper: Vec<f64> = wanted.iter().map(|p| rounded::<T>(factor * p + if spoilt { 0.0 } else { width })).collect();
    let open = f64::INFINITY;
    let far = |v: &[f64]| v.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    let range = if chance(rng, 0.5) {
        (-open, open)
    } else {
        let end = rounded::<T>(1.5 * far(&known).max(far(&start)));
        (-end, end)
    };
    // Below the floor a target cannot ask for anything.
    let floor = SoftmaxReverse::<T>::DEFAULT_FLOOR;
    let least = wanted.iter().copied().fold(1.0, f64::min);
    let feasible = !spoilt && least > 4.0 * floor;
    let kind = format!(
        "{n} classes, size {size:.1e}, mean {offset:.1e}, least {least:.1e}, {}{}",
        if point { "point" } else { "box" },
        if spoilt { ", no probabilities" } else { "" }
    );
    let found = Finding { kind, feasible, ..Finding::default() };
    let layer = SoftmaxReverse::<T>::new("softmax", FeatureShape::vector(n));
    let (answer, report) = match reverse(&layer, &start, &Wanted { lower: &lower, upper: &upper, range }) {
        Ok(solved) => solved,
        Err(error) => return Finding { broken: Some(error.to_string()), ..found },
    };
    if let Some(fault) = fault(&answer, range) {
        return Finding { broken: Some(fault), ..found };
    }
    let attained = report.unattained == 0;
    let reached = probabilities(&answer);
    let mut definition = 0.0_f64;
    for (i, &p) in reached.iter().enumerate() {
        let miss = (lower[i] - p).max(p - upper[i]).max(0.0);
        let scale = p + (answer[i] * p * (1.0 - p)).abs();
        definition = definition.max(ratio(miss, slack::<T>(1, scale) + floor * n as f64));
    }
    let moved = distance(&answer, &start);
    // All inputs of the known probabilities are the known one, shifted; the shift to the mean of the start is nearest.
    let reach = distance(&centred(&known), &centred(&start));
    // Targets add up to 1 but for rounding, which matters most to the smallest one.
    let rounding = 16.0 * T::EPSILON.to_f64() * (norm(&answer) + norm(&start) + 1.0 / least) * (n as f64).sqrt();
    Finding {
        attained,
        early: report.stopped_early,
        definition,
        // For boxes the layer promises no nearest point; a range may not allow the shift.
        optimality: (attained && point && feasible && range.1 == open)
            .then_some(ratio((moved - reach).max(0.0), 1e-6 * reach + rounding)),
        distance: (attained && reach > 0.0).then_some(moved / reach),
        ..found
    }
}
