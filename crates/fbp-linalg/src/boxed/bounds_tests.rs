//! Bounds that differ from entry to entry.

use faer::Mat;
use faer::dyn_stack::{MemBuffer, MemStack};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Bounds, BoxedSample, MetricSample};
use crate::qp_oracle::{BoxQp, qp_kkt_residual};
use crate::testkit::{for_seeds, normal_mat};
use crate::{LinalgError, Real, SolveReport};

struct Problem {
    rows: Mat<f64>,
    start: Vec<f64>,
    image: Vec<f64>,
    lower: Vec<f64>,
    upper: Vec<f64>,
    low: Vec<f64>,
    high: Vec<f64>,
}

impl Problem {
    /// Entries bounded from below, from above, on both sides, not at all, and fixed; rows that a point within them reaches.
    fn random(m: usize, n: usize, rng: &mut ChaCha8Rng) -> Self {
        let rows = normal_mat::<f64>(n, m, rng);
        let ends = |rng: &mut ChaCha8Rng| {
            let (at, width) = (2.0 * rng.random::<f64>() - 1.0, rng.random::<f64>());
            match rng.random_range(0..5) {
                0 => (at, f64::INFINITY),
                1 => (f64::NEG_INFINITY, at),
                2 => (at, at + width),
                3 => (f64::NEG_INFINITY, f64::INFINITY),
                _ => (at, at),
            }
        };
        let (low, high): (Vec<f64>, Vec<f64>) = (0..n).map(|_| ends(rng)).unzip();
        let draws = normal_mat::<f64>(n, 2, rng);
        let start: Vec<f64> = (0..n).map(|i| draws[(i, 0)].clamp(low[i], high[i])).collect();
        let goal: Vec<f64> = (0..n).map(|i| (start[i] + draws[(i, 1)]).clamp(low[i], high[i])).collect();
        let product = |v: &[f64], row: usize| rows.col(row).iter().zip(v).map(|(a, v)| a * v).sum::<f64>();
        let image: Vec<f64> = (0..m).map(|row| product(&start, row)).collect();
        let reached = (0..m).map(|row| product(&goal, row));
        let (lower, upper) = reached.map(|w| if rng.random_bool(0.5) { (w, w) } else { (w, f64::INFINITY) }).unzip();
        Self { rows, start, image, lower, upper, low, high }
    }

    fn oracle(&self) -> BoxQp {
        BoxQp {
            a: self.rows.transpose().to_owned(),
            b: vec![0.0; self.image.len()],
            v0: self.start.clone(),
            lower_out: self.lower.clone(),
            upper_out: self.upper.clone(),
            lower_in: self.low.clone(),
            upper_in: self.high.clone(),
        }
    }

    fn solve<T: Real>(&self, [low, high]: [&[f64]; 2]) -> Result<(Vec<T>, SolveReport), LinalgError> {
        let cast = |values: &[f64]| values.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let (n, m) = self.rows.shape();
        let rows = Mat::from_fn(n, m, |i, j| T::from_f64(self.rows[(i, j)]));
        let mut solution = vec![T::from_f64(f64::NAN); n];
        let mut memory = MemBuffer::new(BoxedSample::<T>::solve_scratch(m, n));
        memory.fill(std::mem::MaybeUninit::new(0xA5));
        let report = BoxedSample {
            rows: rows.as_ref(),
            observed_in: &cast(&self.start),
            observed_out: &cast(&self.image),
            lower: &cast(&self.lower),
            upper: &cast(&self.upper),
            bounds: Bounds::Each { lower: &cast(low), upper: &cast(high) },
            solution: &mut solution,
        }
        .solve(MemStack::new(&mut memory))?;
        Ok((solution, report))
    }
}

#[test]
fn every_entry_keeps_its_bounds_and_the_point_is_optimal() {
    let mut at_bounds = 0;
    for (m, n) in [(1, 1), (1, 9), (2, 40), (4, 24), (8, 30), (3, 3)] {
        for_seeds(40, |rng| {
            let problem = Problem::random(m, n, rng);
            let (solution, report) = problem.solve::<f64>([&problem.low, &problem.high]).unwrap();
            assert_eq!(report.unattained, 0, "{m} × {n}: {report:?}");
            let residual = qp_kkt_residual(&problem.oracle(), &solution);
            assert!(residual.max() <= 1e-8, "{m} × {n}: {residual:?}, {report:?}");
            let is_free = |i: usize| problem.low[i] < problem.high[i] && problem.start[i] != solution[i];
            let moved = (0..n).filter(|&i| is_free(i));
            at_bounds += moved.filter(|&i| [problem.low[i], problem.high[i]].contains(&solution[i])).count();
            let (single, _) = problem.solve::<f32>([&problem.low, &problem.high]).unwrap();
            for (i, &v) in single.iter().enumerate() {
                assert!(problem.low[i] as f32 <= v && v <= problem.high[i] as f32, "{m} × {n}, entry {i}: {v}");
            }
        });
    }
    assert!(at_bounds > 100, "{at_bounds}: the bounds have to matter");
}

#[test]
fn equal_bounds_are_bounds_of_all() {
    for_seeds(20, |rng| {
        let problem = Problem::random(3, 20, rng);
        let (low, high) = (vec![-2.0; 20], vec![2.5; 20]);
        let start = problem.start.iter().map(|v| v.clamp(-2.0, 2.5)).collect();
        let problem = Problem { start, ..problem };
        let (each, _) = problem.solve::<f32>([&low, &high]).unwrap();
        let rows = Mat::from_fn(20, 3, |i, j| problem.rows[(i, j)] as f32);
        let cast = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let mut same = vec![f32::NAN; 20];
        let mut memory = MemBuffer::new(BoxedSample::<f32>::solve_scratch(3, 20));
        BoxedSample {
            rows: rows.as_ref(),
            observed_in: &cast(&problem.start),
            observed_out: &cast(&problem.image),
            lower: &cast(&problem.lower),
            upper: &cast(&problem.upper),
            bounds: (-2.0, 2.5).into(),
            solution: &mut same,
        }
        .solve(MemStack::new(&mut memory))
        .unwrap();
        assert_eq!(each, same, "bit for bit");
    });
}

#[test]
fn the_euclidean_metric_gives_the_euclidean_point() {
    for_seeds(20, |rng| {
        let mut problem = Problem::random(2, 12, rng);
        problem.upper.fill(f64::INFINITY);
        let (nearest, _) = problem.solve::<f64>([&problem.low, &problem.high]).unwrap();
        let covariance = Mat::<f64>::identity(12, 12);
        let mut solution = vec![f64::NAN; 12];
        let mut memory = MemBuffer::new(MetricSample::<f64>::solve_scratch(2, 12));
        let report = MetricSample {
            covariance: covariance.as_ref(),
            rows: problem.rows.as_ref(),
            mapped: problem.rows.as_ref(),
            observed_in: &problem.start,
            observed_out: &problem.image,
            lower: &problem.lower,
            bounds: Bounds::Each { lower: &problem.low, upper: &problem.high },
            solution: &mut solution,
        }
        .solve(MemStack::new(&mut memory))
        .unwrap();
        assert_eq!(report.unattained, 0);
        // Both solve systems of the two rows and the active entries in f64.
        let allowed = 1e4 * f64::EPSILON * 12.0;
        let size = nearest.iter().fold(1.0_f64, |size, v| size.max(v.abs()));
        for (v, expected) in solution.iter().zip(&nearest) {
            assert!((v - expected).abs() <= allowed * size, "{solution:?} and {nearest:?}");
        }
    });
}

#[test]
fn bounds_of_other_length_or_without_a_number_are_refused() {
    let mut seen = 0;
    for_seeds(1, |rng| {
        let problem = Problem::random(2, 4, rng);
        let short = problem.solve::<f64>([&problem.low[..3], &problem.high[..3]]);
        assert!(matches!(short, Err(LinalgError::Shape { .. })), "{short:?}");
        for wrong in [f64::NAN, f64::INFINITY] {
            let mut low = problem.low.clone();
            low[2] = wrong;
            let refused = problem.solve::<f64>([&low, &problem.high]);
            assert!(matches!(refused, Err(LinalgError::EmptyBox { row: 2, .. })), "{refused:?}");
        }
        seen += 1;
    });
    assert_eq!(seen, 1);
}
