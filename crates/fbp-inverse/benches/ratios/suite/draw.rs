//! Random systems of the kinds that solvers find hard.

use fbp_linalg::Real;
use fbp_linalg::testkit::normal_vec;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::affine::Affine;
use super::exact::{Exact, dot, norm};

/// Rounds to the precision of the features.
pub(crate) fn rounded<T: Real>(x: f64) -> f64 {
    T::from_f64(x).to_f64()
}

/// Whether something of this probability happens.
pub(crate) fn chance(rng: &mut ChaCha8Rng, probability: f64) -> bool {
    rng.random::<f64>() < probability
}

/// `10^x` with `x` uniform.
pub(crate) fn decades(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    10.0_f64.powf(rng.random_range(low..=high))
}

/// A matrix, the scales of its columns, and the words for its kind.
pub(crate) struct Matrix {
    pub(crate) rows: Vec<Vec<f64>>,
    pub(crate) columns: Vec<f64>,
    pub(crate) kind: Vec<&'static str>,
}

/// A matrix in the precision of the features: any condition, dependent rows, and scales over twelve decades.
pub(crate) fn matrix<T: Real>(rng: &mut ChaCha8Rng, (m, n): (usize, usize)) -> Matrix {
    let mut kind = Vec::new();
    let mut rows = if chance(rng, 0.5) {
        kind.push("ill-conditioned");
        let condition = decades(rng, 0.0, 12.0);
        conditioned(rng, (m, n), condition)
    } else {
        (0..m).map(|_| normal_vec::<f64>(n, rng)).collect()
    };
    let mut columns = vec![1.0; n];
    if chance(rng, 0.3) {
        kind.push("scaled columns");
        columns.iter_mut().for_each(|scale| *scale = decades(rng, -6.0, 6.0));
        for row in &mut rows {
            row.iter_mut().zip(&columns).for_each(|(a, scale)| *a *= scale);
        }
    }
    if chance(rng, 0.5) {
        kind.push("scaled rows");
        for row in &mut rows {
            let scale = decades(rng, -6.0, 6.0);
            row.iter_mut().for_each(|a| *a *= scale);
        }
    }
    rows.iter_mut().flatten().for_each(|a| *a = rounded::<T>(*a));
    if m > 1 && chance(rng, 0.25) {
        kind.push("dependent rows");
        for i in 1..m {
            match rng.random_range(0..6) {
                0 => rows[i] = rows[rng.random_range(0..i)].clone(),
                1 => {
                    let factor = rng.random_range(-3.0..3.0);
                    rows[i] = rows[rng.random_range(0..i)].iter().map(|a| rounded::<T>(factor * a)).collect();
                }
                2 => {
                    let (p, q) = (rng.random_range(0..i), rng.random_range(0..i));
                    rows[i] = rows[p].iter().zip(&rows[q]).map(|(a, b)| rounded::<T>(a - b)).collect();
                }
                3 if chance(rng, 0.2) => rows[i] = vec![0.0; n],
                _ => {}
            }
        }
    }
    Matrix { rows, columns, kind }
}

/// Singular values evenly spread on a logarithmic scale.
fn conditioned(rng: &mut ChaCha8Rng, (m, n): (usize, usize), condition: f64) -> Vec<Vec<f64>> {
    let rank = m.min(n);
    let (left, right) = (orthonormal(rng, rank, m), orthonormal(rng, rank, n));
    let sigma = |k: usize| condition.powf(-(k as f64) / (rank.max(2) - 1) as f64);
    let entry = |i: usize, j: usize| (0..rank).map(|k| left[k][i] * sigma(k) * right[k][j]).sum();
    (0..m).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect()
}

/// Orthonormal vectors by Gram and Schmidt, twice.
fn orthonormal(rng: &mut ChaCha8Rng, count: usize, len: usize) -> Vec<Vec<f64>> {
    let mut found: Vec<Vec<f64>> = Vec::new();
    while found.len() < count {
        let mut x = normal_vec::<f64>(len, rng);
        for _ in 0..2 {
            for q in &found {
                let along = dot(q, &x);
                x.iter_mut().zip(q).for_each(|(x, q)| *x -= along * q);
            }
            let length = norm(&x);
            x.iter_mut().for_each(|x| *x /= length);
        }
        found.push(x);
    }
    found
}

/// A problem with what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    pub(crate) problem: Affine,
    pub(crate) kind: String,
    /// A point that attains every row, unless the problem has been spoilt.
    pub(crate) known: Option<Vec<f64>>,
}

/// Equations without bounds; some contradict each other.
pub(crate) fn equations<T: Real>(rng: &mut ChaCha8Rng) -> Drawn {
    let (m, n) = (rng.random_range(1..=12), rng.random_range(1..=16));
    let Matrix { rows, columns, mut kind } = matrix::<T>(rng, (m, n));
    kind.push(if m > n { "tall" } else { "wide" });
    let inverse = chance(rng, 0.25);
    let unit = |j: usize| if inverse { 1.0 / columns[j] } else { 1.0 };
    let step = decades(rng, -4.0, 1.0);
    let start: Vec<f64> = (0..n).map(|j| rounded::<T>(unit(j) * rng.random_range(-2.0..2.0))).collect();
    let known: Vec<f64> =
        (0..n).map(|j| rounded::<T>(start[j] + step * unit(j) * rng.random_range(-2.0..2.0))).collect();
    let bias = biases::<T>(rng, &rows);
    let everything = (f64::NEG_INFINITY, f64::INFINITY);
    let mut problem = Affine {
        rows,
        bias,
        start,
        lower: vec![0.0; m],
        upper: vec![0.0; m],
        range: everything,
        observed: false,
        outputs: None,
    };
    for i in 0..m {
        problem.lower[i] = rounded::<T>(problem.image(i, &known).value());
    }
    let mut consistent = true;
    if chance(rng, 0.15) {
        consistent = !contradict::<T>(rng, &mut problem, &known);
    }
    problem.upper.clone_from(&problem.lower);
    if !consistent {
        kind.push("contradictory");
    }
    Drawn { problem, kind: kind.join(", "), known: consistent.then_some(known) }
}

/// Biases about as large as the rows, or none.
pub(crate) fn biases<T: Real>(rng: &mut ChaCha8Rng, rows: &[Vec<f64>]) -> Vec<f64> {
    let none = chance(rng, 0.3);
    let bias = |row: &Vec<f64>| if none { 0.0 } else { rounded::<T>(norm(row) * rng.random_range(-1.0..1.0)) };
    rows.iter().map(bias).collect()
}

/// Makes one row the copy of another with a target that is clearly another one; `false`, and nothing changed, if there is
/// none.
fn contradict<T: Real>(rng: &mut ChaCha8Rng, problem: &mut Affine, known: &[f64]) -> bool {
    let m = problem.rows.len();
    if m < 2 {
        return false;
    }
    let (p, q) = (rng.random_range(0..m), rng.random_range(1..m));
    let q = (p + q) % m;
    let step = decades(rng, -1.0, 0.0) * norm(&problem.rows[p]) * norm(known);
    let other = rounded::<T>(problem.lower[p] + step);
    if other == problem.lower[p] {
        return false;
    }
    problem.rows[q] = problem.rows[p].clone();
    problem.bias[q] = problem.bias[p];
    problem.lower[q] = other;
    true
}

/// Boxes around a known point, ranges that bind, single numbers, half-lines; some contradict each other.
pub(crate) fn boxes<T: Real>(rng: &mut ChaCha8Rng, with_bias: bool) -> Drawn {
    let (m, n) = (rng.random_range(1..=10), rng.random_range(1..=14));
    let Matrix { rows, mut kind, .. } = matrix::<T>(rng, (m, n));
    let bias = if with_bias { biases::<T>(rng, &rows) } else { vec![0.0; m] };
    let range = match rng.random_range(0..6) {
        0 => (f64::NEG_INFINITY, f64::INFINITY),
        1 => (rounded::<T>(-0.17), f64::INFINITY),
        2 => (-1.0, 1.0),
        3 if chance(rng, 0.2) => (0.5, 0.5),
        _ => (0.0, f64::INFINITY),
    };
    let at_bound = [0.0, 0.3, 0.8][rng.random_range(0..3)];
    let step = decades(rng, -3.0, 1.0);
    let mut point = |near: Option<f64>| {
        let bounded = range.0.is_finite() && chance(rng, at_bound);
        let x = match near {
            _ if bounded => range.0,
            Some(start) => start + step * rng.random_range(-1.0..1.0),
            None => rng.random_range(-1.0..3.0),
        };
        rounded::<T>(x.clamp(range.0, range.1))
    };
    let start: Vec<f64> = (0..n).map(|_| point(None)).collect();
    let known: Vec<f64> = start.iter().map(|&start| point(Some(start))).collect();
    let mut problem =
        Affine { rows, bias, start, lower: vec![0.0; m], upper: vec![0.0; m], range, observed: true, outputs: None };
    let spread = decades(rng, -4.0, 0.0);
    for i in 0..m {
        let image: Exact = problem.image(i, &known);
        let (value, size) = (image.value(), problem.scale(i, &known));
        let (below, above) = (spread * size * rng.random::<f64>(), spread * size * rng.random::<f64>());
        let (lower, upper) = match rng.random_range(0..8) {
            0..3 => (value, value),
            3 => (value, f64::INFINITY),
            4 => (f64::NEG_INFINITY, value),
            5 => (value, value + above),
            6 => (f64::NEG_INFINITY, f64::INFINITY),
            _ => (value - below, value + above),
        };
        (problem.lower[i], problem.upper[i]) = (rounded::<T>(lower), rounded::<T>(upper));
    }
    let mut feasible = true;
    if chance(rng, 0.15) {
        let point = (problem.lower.clone(), problem.upper.clone());
        for i in 0..m {
            problem.lower[i] = rounded::<T>(problem.image(i, &known).value());
        }
        let equations = problem.lower.clone();
        feasible = !contradict::<T>(rng, &mut problem, &known);
        // Only the two rows that contradict each other become single numbers.
        let moved: Vec<bool> = problem.lower.iter().zip(&equations).map(|(a, b)| a != b).collect();
        let other = |i: usize| (0..m).any(|q| moved[q] && q != i && problem.rows[q] == problem.rows[i]);
        let single: Vec<bool> = (0..m).map(|i| !feasible && (moved[i] || other(i))).collect();
        for (i, single) in single.into_iter().enumerate() {
            (problem.lower[i], problem.upper[i]) =
                if single { (problem.lower[i], problem.lower[i]) } else { (point.0[i], point.1[i]) };
        }
    }
    if !feasible {
        kind.push("contradictory");
    }
    if at_bound > 0.5 {
        kind.push("many active bounds");
    }
    if range.0 == range.1 {
        kind.push("one value allowed");
    }
    Drawn { problem, kind: kind.join(", "), known: feasible.then_some(known) }
}
