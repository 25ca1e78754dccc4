use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Side};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::MetricSample;
use crate::qp_oracle::{BoxQp, qp_nearest};
use crate::testkit::{for_seeds, normal_mat};
use crate::{LinalgError, Real, SolveReport, StopReason};

/// A random problem in f64.
struct Problem {
    covariance: Mat<f64>,
    /// `Aᵀ`.
    rows: Mat<f64>,
    start: Vec<f64>,
    image: Vec<f64>,
    lower: Vec<f64>,
    bounds: (f64, f64),
}

impl Problem {
    /// Correlated entries, many of them at a bound; rows that some point within the bounds reaches, some of them twice.
    fn random(m: usize, n: usize, rng: &mut ChaCha8Rng) -> Self {
        let factor = normal_mat::<f64>(n, n, rng);
        let ridge = Mat::<f64>::identity(n, n);
        let covariance = &factor * factor.transpose() + faer::Scale(0.05 * n as f64) * ridge;
        let mut rows = normal_mat::<f64>(n, m, rng);
        if m > 2 && rng.random_bool(0.5) {
            let first = rows.col(0).to_owned();
            rows.col_mut(1).copy_from(&first);
        }
        let bounds = [(0.0, f64::INFINITY), (0.0, 1.0), (f64::NEG_INFINITY, f64::INFINITY)][rng.random_range(0..3)];
        let mut point = || -> Vec<f64> {
            let values = normal_mat::<f64>(n, 1, rng);
            values.col(0).iter().map(|v| v.max(bounds.0).min(bounds.1)).collect()
        };
        let (start, goal) = (point(), point());
        let product = |v: &[f64], i: usize| rows.col(i).iter().zip(v).map(|(a, v)| a * v).sum::<f64>();
        let image: Vec<f64> = (0..m).map(|i| product(&start, i)).collect();
        let lower = (0..m).map(|i| product(&goal, i) - rng.random::<f64>()).collect();
        Self { covariance, rows, start, image, lower, bounds }
    }

    fn solve<T: Real>(&self) -> (Vec<f64>, SolveReport) {
        let (n, m) = self.rows.shape();
        let cast = |mat: &Mat<f64>| Mat::from_fn(mat.nrows(), mat.ncols(), |i, j| T::from_f64(mat[(i, j)]));
        let list = |values: &[f64]| values.iter().map(|v| T::from_f64(*v)).collect::<Vec<_>>();
        let mut solution = vec![T::from_f64(f64::NAN); n];
        let mut memory = MemBuffer::new(MetricSample::<T>::solve_scratch(m, n));
        memory.fill(std::mem::MaybeUninit::new(0xA5));
        let report = MetricSample {
            covariance: cast(&self.covariance).as_ref(),
            rows: cast(&self.rows).as_ref(),
            mapped: cast(&(&self.covariance * &self.rows)).as_ref(),
            observed_in: &list(&self.start),
            observed_out: &list(&self.image),
            lower: &list(&self.lower),
            bounds: (T::from_f64(self.bounds.0), T::from_f64(self.bounds.1)).into(),
            solution: &mut solution,
        }
        .solve(MemStack::new(&mut memory))
        .unwrap();
        (solution.into_iter().map(Real::to_f64).collect(), report)
    }

    /// The same problem in coordinates in which the metric is Euclidean: `v = v0 + L u`, with the bounds as rows.
    fn oracle(&self) -> Vec<f64> {
        let (n, m) = self.rows.shape();
        let factor = self.covariance.llt(Side::Lower).unwrap().L().to_owned();
        let mut a = Mat::zeros(m + n, n);
        a.as_mut().subrows_mut(0, m).copy_from(self.rows.transpose() * &factor);
        a.as_mut().subrows_mut(m, n).copy_from(&factor);
        let problem = BoxQp {
            a,
            b: [&self.image[..], &self.start].concat(),
            v0: vec![0.0; n],
            lower_out: [&self.lower[..], &vec![self.bounds.0; n]].concat(),
            upper_out: [vec![f64::INFINITY; m], vec![self.bounds.1; n]].concat(),
            lower_in: vec![f64::NEG_INFINITY; n],
            upper_in: vec![f64::INFINITY; n],
        };
        let whitened = qp_nearest(&problem).unwrap();
        (0..n).map(|i| self.start[i] + (0..n).map(|j| factor[(i, j)] * whitened[j]).sum::<f64>()).collect()
    }
}

#[test]
fn points_are_nearest_in_the_metric_within_the_bounds() {
    let mut at_bounds = 0;
    for (m, n) in [(1, 1), (1, 6), (3, 12), (6, 30)] {
        for_seeds(20, |rng| {
            let problem = Problem::random(m, n, rng);
            let expected = problem.oracle();
            let (found, report) = problem.solve::<f64>();
            assert_eq!((report.stop, report.unattained), (StopReason::Converged, 0), "{m} × {n}: {report:?}");
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst <= 1e-8, "{m} × {n}: {worst:e}, {report:?}");
            let moved = |at: usize| problem.start[at] != found[at] && found[at] == problem.bounds.0;
            at_bounds += (0..n).filter(|&at| moved(at)).count();
            let (single, report) = problem.solve::<f32>();
            let worst = single.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst <= 2e-3, "{m} × {n}: {worst:e}, {report:?}");
        });
    }
    assert!(at_bounds > 20, "{at_bounds}: the bounds have to matter");
}

#[test]
fn a_point_that_meets_its_rows_is_returned_bit_for_bit() {
    for_seeds(5, |rng| {
        let mut problem = Problem::random(3, 8, rng);
        problem.lower = problem.image.iter().map(|value| value - 0.1).collect();
        let (found, report) = problem.solve::<f64>();
        assert_eq!((found, report.satisfied), (problem.start.clone(), 1));
    });
}

#[test]
fn rows_out_of_reach_give_a_point_within_the_bounds_and_say_so() {
    for_seeds(5, |rng| {
        let mut problem = Problem::random(2, 8, rng);
        problem.bounds = (0.0, 1.0);
        problem.start.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
        problem.lower = vec![1e3; 2];
        let (found, report) = problem.solve::<f64>();
        assert_eq!(report.unattained, 1);
        assert!(found.iter().all(|v| (0.0..=1.0).contains(v)), "{found:?}");
    });
}

#[test]
fn wrong_sizes_and_nan_are_errors() {
    let solve = |size: usize, start: f64, bounds: (f64, f64)| {
        let (covariance, rows) = (Mat::<f64>::identity(size, size), Mat::<f64>::zeros(3, 1));
        let mut memory = MemBuffer::new(MetricSample::<f64>::solve_scratch(1, 3));
        let mut solution = [0.0; 3];
        MetricSample {
            covariance: covariance.as_ref(),
            rows: rows.as_ref(),
            mapped: rows.as_ref(),
            observed_in: &[start; 3],
            observed_out: &[0.0],
            lower: &[0.0],
            bounds: bounds.into(),
            solution: &mut solution,
        }
        .solve(MemStack::new(&mut memory))
    };
    assert!(solve(3, 0.5, (0.0, 1.0)).is_ok());
    assert!(matches!(solve(2, 0.5, (0.0, 1.0)), Err(LinalgError::Shape { .. })));
    assert!(matches!(solve(3, f64::NAN, (0.0, 1.0)), Err(LinalgError::NonFinite { .. })));
    assert!(matches!(solve(3, 0.5, (1.0, 0.0)), Err(LinalgError::EmptyBox { .. })));
}
