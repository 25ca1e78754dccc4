//! Pooling: the largest and the average of windows.

use fbp_inverse::{AvgPoolReverse, MaxPoolReverse, PoolWindow};
use fbp_linalg::{FeatureShape, Real};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::Finding;
use super::affine::{Affine, ratio, slack};
use super::boxed;
use super::draw::{chance, decades, rounded};
use super::exact::{distance, norm};
use super::layer::{Wanted, fault, reverse};

/// Choices of sites that are tried for one plane.
const MOST_CHOICES: usize = 20_000;

/// One plane and the sites of every window.
struct Plane {
    shape: FeatureShape,
    window: PoolWindow,
    windows: Vec<Vec<usize>>,
}

fn plane(rng: &mut ChaCha8Rng) -> Plane {
    loop {
        let shape = FeatureShape::image(1, rng.random_range(1..=5), rng.random_range(1..=5));
        let kernel = [rng.random_range(1..=3), rng.random_range(1..=3)];
        let stride = if chance(rng, 0.4) { kernel } else { [rng.random_range(1..=3), rng.random_range(1..=3)] };
        let padding = if chance(rng, 0.3) { [kernel[0] / 2, kernel[1] / 2] } else { [0, 0] };
        let window = PoolWindow { kernel, stride, padding, ceil_mode: false };
        let Some([down, across]) = window.counts([shape.height, shape.width]) else { continue };
        let sites = |oy: usize, ox: usize| -> Vec<usize> {
            let along = |at: usize, axis: usize, size: usize| {
                let first = at * stride[axis];
                (first..first + kernel[axis]).filter_map(move |x| x.checked_sub(padding[axis]).filter(|x| *x < size))
            };
            along(oy, 0, shape.height)
                .flat_map(|y| along(ox, 1, shape.width).map(move |x| y * shape.width + x))
                .collect()
        };
        let windows = (0..down).flat_map(|oy| (0..across).map(move |ox| (oy, ox))).map(|(y, x)| sites(y, x)).collect();
        return Plane { shape, window, windows };
    }
}

/// Values of a plane within a range, some of them equal to others.
fn values<T: Real>(rng: &mut ChaCha8Rng, count: usize, (low, high): (f64, f64), ties: bool) -> Vec<f64> {
    let value = |rng: &mut ChaCha8Rng| {
        let x: f64 = rng.random_range(-2.0..2.0);
        rounded::<T>(if ties { (2.0 * x).round() / 2.0 } else { x }.clamp(low, high))
    };
    (0..count).map(|_| value(rng)).collect()
}

fn range(rng: &mut ChaCha8Rng) -> (f64, f64) {
    [(f64::NEG_INFINITY, f64::INFINITY), (0.0, f64::INFINITY), (-1.0, 1.0)][rng.random_range(0..3)]
}

pub(crate) fn max<T: Real>(rng: &mut ChaCha8Rng) -> Finding {
    let Plane { shape, window, windows } = plane(rng);
    let (range, ties, boxes) = (range(rng), chance(rng, 0.3), chance(rng, 0.4));
    let start = values::<T>(rng, shape.len(), range, ties);
    let known = values::<T>(rng, shape.len(), range, ties);
    let reached = |v: &[f64], sites: &[usize]| sites.iter().map(|&i| v[i]).fold(f64::NEG_INFINITY, f64::max);
    let (mut lower, mut upper) = (Vec::new(), Vec::new());
    for sites in &windows {
        let y = reached(&known, sites);
        let width = if boxes { decades(rng, -3.0, 0.0) } else { 0.0 };
        let open = boxes && chance(rng, 0.2);
        lower.push(if open { f64::NEG_INFINITY } else { rounded::<T>(y - width) });
        upper.push(rounded::<T>(y + width));
    }
    let kind = format!("{shape}, {window:?}, range {range:?}, ties {ties}, boxes {boxes}");
    let found = Finding { kind, feasible: true, ..Finding::default() };
    let solved = MaxPoolReverse::<T>::new("pool", shape, window)
        .and_then(|layer| reverse(&layer, &start, &Wanted { lower: &lower, upper: &upper, range }));
    let (answer, report) = match solved {
        Ok(solved) => solved,
        Err(error) => return Finding { broken: Some(error.to_string()), ..found },
    };
    if let Some(fault) = fault(&answer, range) {
        return Finding { broken: Some(fault), ..found };
    }
    let mut definition = 0.0_f64;
    for (sites, (lo, hi)) in windows.iter().zip(lower.iter().zip(&upper)) {
        let y = reached(&answer, sites);
        definition = definition.max(ratio((lo - y).max(y - hi).max(0.0), slack::<T>(1, y.abs())));
    }
    let moved = distance(&answer, &start);
    let attained = report.unattained == 0;
    let mut targets = lower.clone();
    targets.sort_by(f64::total_cmp);
    let distinct = !boxes && targets.windows(2).all(|pair| pair[0] < pair[1]);
    let once = (0..shape.len()).all(|site| windows.iter().filter(|sites| sites.contains(&site)).count() <= 1);
    // Elsewhere the layer promises a local optimum of a set cover.
    let optimum = if attained && (distinct || once) { cover(&windows, &start, &lower, &upper) } else { None };
    let rounding = 4.0 * T::EPSILON.to_f64() * (norm(&answer) + norm(&start));
    let reach = distance(&known, &start);
    Finding {
        attained,
        early: report.stopped_early,
        definition,
        optimality: optimum.map(|optimum| ratio((moved - optimum).max(0.0), 1e-6 * optimum + rounding)),
        distance: (attained && reach > 0.0).then_some(moved / reach),
        ..found
    }
}

/// Smallest distance over all choices of a witness for every window; `None` if there are too many.
fn cover(windows: &[Vec<usize>], start: &[f64], lower: &[f64], upper: &[f64]) -> Option<f64> {
    let ceiling = |site: usize| {
        let held = windows.iter().zip(upper).filter(|(sites, _)| sites.contains(&site));
        held.map(|(_, hi)| *hi).fold(f64::INFINITY, f64::min)
    };
    let ceilings: Vec<f64> = (0..start.len()).map(ceiling).collect();
    let base: Vec<f64> = start.iter().zip(&ceilings).map(|(x, u)| x.min(*u)).collect();
    let mut choices: Vec<(f64, Vec<usize>)> = Vec::new();
    for (sites, &lo) in windows.iter().zip(lower) {
        if sites.iter().all(|&i| base[i] < lo) {
            choices.push((lo, sites.iter().copied().filter(|&i| ceilings[i] >= lo).collect()));
        }
    }
    let count = choices.iter().try_fold(1_usize, |count, (_, sites)| count.checked_mul(sites.len()))?;
    if count > MOST_CHOICES {
        return None;
    }
    let mut best = f64::INFINITY;
    for mut code in 0..count {
        let mut x = base.clone();
        for (lo, sites) in &choices {
            let site = sites[code % sites.len()];
            code /= sites.len();
            x[site] = x[site].max(*lo);
        }
        best = best.min(distance(&x, start));
    }
    best.is_finite().then_some(best)
}

pub(crate) fn average<T: Real>(rng: &mut ChaCha8Rng) -> Finding {
    let Plane { shape, window, windows } = plane(rng);
    let (range, boxes) = (range(rng), chance(rng, 0.5));
    let start = values::<T>(rng, shape.len(), range, false);
    let known = values::<T>(rng, shape.len(), range, false);
    let size = (window.kernel[0] * window.kernel[1]) as f64;
    let row = |sites: &Vec<usize>| {
        let mut row = vec![0.0; shape.len()];
        sites.iter().for_each(|&i| row[i] = 1.0 / size);
        row
    };
    let rows: Vec<Vec<f64>> = windows.iter().map(row).collect();
    let m = rows.len();
    let mut problem = Affine {
        rows,
        bias: vec![0.0; m],
        start,
        lower: vec![0.0; m],
        upper: vec![0.0; m],
        range,
        observed: false,
        outputs: None,
    };
    for i in 0..m {
        let y = problem.image(i, &known).value();
        let width = if boxes { decades(rng, -3.0, 0.0) } else { 0.0 };
        let open = boxes && chance(rng, 0.2);
        problem.lower[i] = if open { f64::NEG_INFINITY } else { rounded::<T>(y - width) };
        problem.upper[i] = rounded::<T>(y + width);
    }
    let kind = format!("{shape}, {window:?}, range {range:?}, boxes {boxes}");
    let found = Finding { kind, feasible: true, ..Finding::default() };
    let wanted = Wanted { lower: &problem.lower, upper: &problem.upper, range };
    let solved = AvgPoolReverse::<T>::new("pool", shape, window)
        .and_then(|layer| reverse(&layer, &problem.start, &wanted))
        .map(|(point, report)| (point, report.unattained == 0, report.stopped_early));
    boxed::judge::<T>(&problem, Some(&known), solved.map_err(|error| error.to_string()), found)
}
