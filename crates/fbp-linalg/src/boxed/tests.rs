use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{BoxedPass, BoxedPlan, BoxedSample};
use crate::qp_oracle::{BoxQp, qp_closest, qp_distance_stationarity, qp_kkt_residual};
use crate::testkit::{for_seeds, normal_mat};
use crate::{LinalgError, Real, SolveReport};

const BATCH: usize = 12;

/// A batch of problems that share `A` and the bounds of `v`.
struct Problems {
    a: Mat<f64>,
    start: Mat<f64>,
    image: Mat<f64>,
    lower: Mat<f64>,
    upper: Mat<f64>,
    bounds: (f64, f64),
}

#[derive(Clone, Copy, PartialEq)]
enum Reach {
    Feasible,
    Random,
}

impl Problems {
    /// Rows of every kind: equality, one-sided, two-sided and free; duplicated and zero rows; starts at a bound.
    fn random(m: usize, n: usize, reach: Reach, rng: &mut ChaCha8Rng) -> Self {
        let mut a = normal_mat::<f64>(m, n, rng);
        if m > 3 && rng.random_bool(0.3) {
            for j in 0..n {
                a[(1, j)] = a[(0, j)];
                a[(2, j)] = 0.0;
            }
        }
        let bounds =
            [(0.0, f64::INFINITY), (0.0, 2.0), (f64::NEG_INFINITY, f64::INFINITY), (-1.0, 1.0)][rng.random_range(0..4)];
        let inside = |v: f64| v.max(bounds.0).min(bounds.1);
        let start = normal_mat::<f64>(n, BATCH, rng);
        let start = Mat::from_fn(n, BATCH, |i, j| inside(start[(i, j)]));
        let goal = normal_mat::<f64>(n, BATCH, rng);
        let goal = Mat::from_fn(n, BATCH, |i, j| inside(start[(i, j)] + goal[(i, j)]));
        let (image, reached) = (&a * &start, &a * &goal);
        let (mut lower, mut upper) = (Mat::zeros(m, BATCH), Mat::zeros(m, BATCH));
        for j in 0..BATCH {
            for i in 0..m {
                let wanted = match reach {
                    Reach::Feasible => reached[(i, j)],
                    Reach::Random => 3.0 * (rng.random::<f64>() - 0.5),
                };
                let (down, up) = (rng.random::<f64>(), rng.random::<f64>());
                (lower[(i, j)], upper[(i, j)]) = match rng.random_range(0..5) {
                    0 | 1 => (wanted, wanted),
                    2 => (f64::NEG_INFINITY, wanted + up),
                    3 => (wanted - down, f64::INFINITY),
                    _ => (wanted - down, wanted + up),
                };
            }
        }
        Self { a, start, image, lower, upper, bounds }
    }

    fn oracle(&self, sample: usize) -> BoxQp {
        let column = |mat: &Mat<f64>| mat.col_as_slice(sample).to_vec();
        let n = self.a.ncols();
        BoxQp {
            a: self.a.clone(),
            b: vec![0.0; self.a.nrows()],
            v0: column(&self.start),
            lower_out: column(&self.lower),
            upper_out: column(&self.upper),
            lower_in: vec![self.bounds.0; n],
            upper_in: vec![self.bounds.1; n],
        }
    }

    fn solve<T: Real>(&self, plan: &BoxedPlan<T>, par: Par) -> (Mat<T>, SolveReport) {
        self.solve_columns(plan, 0, BATCH, par).unwrap()
    }

    fn solve_columns<T: Real>(
        &self,
        plan: &BoxedPlan<T>,
        first: usize,
        count: usize,
        par: Par,
    ) -> Result<(Mat<T>, SolveReport), LinalgError> {
        let cast = |mat: &Mat<f64>| Mat::from_fn(mat.nrows(), count, |i, j| T::from_f64(mat[(i, first + j)]));
        let (start, lower, upper) = (cast(&self.start), cast(&self.lower), cast(&self.upper));
        let image = cast(&self.image);
        // Write-only output and dirty scratch: neither may show in the result.
        let mut solution = Mat::from_fn(start.nrows(), count, |_, _| T::from_f64(f64::NAN));
        let mut memory = MemBuffer::new(plan.solve_scratch(count, par));
        memory.fill(std::mem::MaybeUninit::new(0xA5));
        let pass = BoxedPass {
            observed_in: start.as_ref(),
            observed_out: image.as_ref(),
            lower: lower.as_ref(),
            upper: upper.as_ref(),
            bounds: (T::from_f64(self.bounds.0), T::from_f64(self.bounds.1)),
            solution: solution.as_mut(),
        };
        let report = plan.solve(pass, par, MemStack::new(&mut memory))?;
        Ok((solution, report))
    }
}

const SHAPES: [(usize, usize); 7] = [(1, 1), (1, 6), (4, 4), (5, 12), (12, 5), (10, 30), (20, 24)];

#[test]
fn feasible_problems_meet_the_optimality_conditions() {
    for (m, n) in SHAPES {
        for_seeds(12, |rng| {
            let problems = Problems::random(m, n, Reach::Feasible, rng);
            let plan = BoxedPlan::<f64>::new(problems.a.as_ref()).unwrap();
            let (solution, report) = problems.solve(&plan, Par::Seq);
            assert_eq!(report.unattained, 0, "{m} × {n}: {report:?}");
            for sample in 0..BATCH {
                let residual = qp_kkt_residual(&problems.oracle(sample), solution.col_as_slice(sample));
                assert!(residual.max() <= 1e-8, "{m} × {n}, sample {sample}: {residual:?}, {report:?}");
            }
        });
    }
}

#[test]
fn a_sample_with_its_own_rows_meets_the_optimality_conditions() {
    for (m, n) in SHAPES.into_iter().filter(|(m, n)| m <= n) {
        for_seeds(12, |rng| {
            let problems = Problems::random(m, n, Reach::Feasible, rng);
            let rows = problems.a.transpose().to_owned();
            let mut memory = MemBuffer::new(BoxedSample::<f64>::solve_scratch(m, n));
            memory.fill(std::mem::MaybeUninit::new(0xA5));
            for sample in 0..BATCH {
                let mut solution = vec![f64::NAN; n];
                let problem = BoxedSample {
                    rows: rows.as_ref(),
                    observed_in: problems.start.col_as_slice(sample),
                    observed_out: problems.image.col_as_slice(sample),
                    lower: problems.lower.col_as_slice(sample),
                    upper: problems.upper.col_as_slice(sample),
                    bounds: problems.bounds.into(),
                    solution: &mut solution,
                };
                let report = problem.solve(MemStack::new(&mut memory)).unwrap();
                assert_eq!(report.unattained, 0, "{m} × {n}, sample {sample}: {report:?}");
                let residual = qp_kkt_residual(&problems.oracle(sample), &solution);
                assert!(residual.max() <= 1e-8, "{m} × {n}, sample {sample}: {residual:?}, {report:?}");
            }
        });
    }
}

#[test]
fn a_sample_of_wrong_size_or_with_nan_is_an_error() {
    let rows = Mat::<f64>::zeros(3, 2);
    let solve = |start: &[f64], image: &[f64], bounds: (f64, f64)| {
        let (mut solution, bounds) = ([0.0; 3], bounds.into());
        let (rows, lower, upper) = (rows.as_ref(), &[0.0; 2], &[1.0; 2]);
        let mut memory = MemBuffer::new(BoxedSample::<f64>::solve_scratch(2, 3));
        BoxedSample { rows, observed_in: start, observed_out: image, lower, upper, bounds, solution: &mut solution }
            .solve(MemStack::new(&mut memory))
    };
    assert!(solve(&[1.0; 3], &[0.5; 2], (0.0, 1.0)).is_ok());
    assert!(matches!(solve(&[1.0; 2], &[0.5; 2], (0.0, 1.0)), Err(LinalgError::Shape { .. })));
    assert!(matches!(solve(&[1.0; 3], &[0.5; 3], (0.0, 1.0)), Err(LinalgError::Shape { .. })));
    assert!(matches!(solve(&[f64::NAN; 3], &[0.5; 2], (0.0, 1.0)), Err(LinalgError::NonFinite { .. })));
    assert!(matches!(solve(&[1.0; 3], &[0.5; 2], (1.0, 0.0)), Err(LinalgError::EmptyBox { .. })));
}

#[test]
fn infeasible_problems_get_the_smallest_violation_and_then_the_nearest_point() {
    let mut infeasible = 0;
    for (m, n) in [(4, 4), (12, 5), (20, 24)] {
        for_seeds(12, |rng| {
            let problems = Problems::random(m, n, Reach::Random, rng);
            let plan = BoxedPlan::<f64>::new(problems.a.as_ref()).unwrap();
            let (solution, _) = problems.solve(&plan, Par::Seq);
            for sample in 0..BATCH {
                let problem = problems.oracle(sample);
                let Ok(closest) = qp_closest(&problem) else { continue };
                let point = solution.col_as_slice(sample);
                let distance = |excess: &[f64]| excess.iter().map(|p| p * p).sum::<f64>().sqrt();
                let (found, least) = (distance(&problem.excess(point)), distance(&closest.excess));
                let scale = 1.0 + problem.v0.iter().fold(0.0_f64, |s, v| s.max(v.abs()));
                assert!(found <= least + 1e-6 * scale, "{m} × {n}, sample {sample}: {found} against {least}");
                let stationary = qp_distance_stationarity(&problem, point);
                assert!(stationary <= 1e-5 * scale, "{m} × {n}, sample {sample}: stationarity {stationary:e}");
                let moved = |v: &[f64]| distance(&v.iter().zip(&problem.v0).map(|(a, b)| a - b).collect::<Vec<_>>());
                let (moved, nearest) = (moved(point), moved(&closest.v));
                assert!(moved <= nearest + 1e-4 * (scale + nearest), "{m} × {n}, sample {sample}: {moved} > {nearest}");
                infeasible += usize::from(!closest.feasible);
            }
        });
    }
    assert!(infeasible > 100, "only {infeasible} problems were infeasible");
}

#[test]
fn single_precision_agrees_with_double() {
    for (m, n) in SHAPES {
        for_seeds(6, |rng| {
            let problems = Problems::random(m, n, Reach::Feasible, rng);
            let (wide, _) = problems.solve(&BoxedPlan::<f64>::new(problems.a.as_ref()).unwrap(), Par::Seq);
            let plan = BoxedPlan::<f32>::new(problems.a.as_ref()).unwrap();
            let (narrow, report) = problems.solve(&plan, Par::Seq);
            // Rounded data may make a just feasible problem just infeasible: only by rounding.
            let eps = f64::from(f32::EPSILON);
            let rounding = 64.0 * eps * (n as f64 + problems.image.norm_max() + problems.a.norm_l2());
            assert!(report.violation_max <= rounding, "{m} × {n}: {report:?}");
            for sample in 0..BATCH {
                let problem = problems.oracle(sample);
                let point: Vec<f64> = narrow.col_as_slice(sample).iter().map(|&v| f64::from(v)).collect();
                assert!(problem.violation(&point) <= rounding, "{m} × {n}, sample {sample}");
                let moved = |v: &[f64]| v.iter().zip(&problem.v0).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                let (found, best) = (moved(&point), moved(wide.col_as_slice(sample)));
                assert!(found <= best * (1.0 + 1e-3) + 10.0 * rounding, "{m} × {n}, sample {sample}: {found} > {best}");
            }
        });
    }
}

#[test]
fn infeasible_problems_are_reported_in_single_precision() {
    let mut infeasible = 0;
    for (m, n) in [(4, 4), (12, 5)] {
        for_seeds(12, |rng| {
            let problems = Problems::random(m, n, Reach::Random, rng);
            let plan = BoxedPlan::<f32>::new(problems.a.as_ref()).unwrap();
            for sample in 0..BATCH {
                let Ok(closest) = qp_closest(&problems.oracle(sample)) else { continue };
                let least = closest.excess.iter().fold(0.0_f64, |worst, p| worst.max(p.abs()));
                if least > 1e-2 {
                    let (_, report) = problems.solve_columns(&plan, sample, 1, Par::Seq).unwrap();
                    assert_eq!(report.unattained, 1, "{m} × {n}, sample {sample}: {least} in {report:?}");
                    infeasible += 1;
                }
            }
        });
    }
    assert!(infeasible > 50, "only {infeasible} problems were infeasible");
}

#[test]
fn a_feasible_start_is_returned_bit_for_bit() {
    for_seeds(8, |rng| {
        let mut problems = Problems::random(6, 9, Reach::Feasible, rng);
        problems.lower = Mat::from_fn(6, BATCH, |i, j| problems.image[(i, j)] - 0.5 * (i % 2) as f64);
        problems.upper = problems.image.clone();
        let (solution, report) = problems.solve(&BoxedPlan::<f64>::new(problems.a.as_ref()).unwrap(), Par::Seq);
        assert_eq!(solution, problems.start);
        assert_eq!((report.satisfied, report.violation_max, report.iters), (BATCH, 0.0, 0));
    });
}

#[test]
fn a_batch_gives_the_bits_of_its_samples_on_any_number_of_threads() {
    for_seeds(4, |rng| {
        let problems = Problems::random(10, 14, Reach::Feasible, rng);
        let plan = BoxedPlan::<f32>::new(problems.a.as_ref()).unwrap();
        let (whole, report) = problems.solve(&plan, Par::Seq);
        let (parallel, parallel_report) = problems.solve(&plan, Par::rayon(3));
        assert_eq!(whole, parallel);
        assert_eq!(report.unattained, parallel_report.unattained);
        for sample in 0..BATCH {
            let (alone, _) = problems.solve_columns(&plan, sample, 1, Par::Seq).unwrap();
            assert_eq!(alone.col(0), whole.col(sample));
        }
    });
}

#[test]
fn bad_input_is_an_error() {
    let mut rng = crate::testkit::rng(1);
    let good = || Problems::random(4, 6, Reach::Feasible, &mut crate::testkit::rng(1));
    let plan = BoxedPlan::<f64>::new(good().a.as_ref()).unwrap();
    let outcome = |problems: &Problems| problems.solve_columns(&plan, 0, BATCH, Par::Seq).map(|_| ());

    let mut nan = good();
    nan.start[(2, 3)] = f64::NAN;
    assert!(matches!(outcome(&nan), Err(LinalgError::NonFinite { row: 2, column: 3, .. })));
    let mut nan = good();
    nan.image[(1, 0)] = f64::INFINITY;
    assert!(matches!(outcome(&nan), Err(LinalgError::NonFinite { row: 1, column: 0, .. })));
    let mut crossed = good();
    crossed.lower[(0, 5)] = crossed.upper[(0, 5)].max(0.0) + 1.0;
    crossed.upper[(0, 5)] = 0.0;
    assert!(matches!(outcome(&crossed), Err(LinalgError::EmptyBox { row: 0, column: 5, .. })));
    let mut nan = good();
    nan.upper[(3, 1)] = f64::NAN;
    assert!(matches!(outcome(&nan), Err(LinalgError::EmptyBox { row: 3, column: 1, .. })));
    let mut bounds = good();
    bounds.bounds = (1.0, f64::NAN);
    assert!(matches!(outcome(&bounds), Err(LinalgError::EmptyBox { .. })));
    let other = Problems::random(5, 6, Reach::Feasible, &mut rng);
    assert!(matches!(outcome(&other), Err(LinalgError::Shape { .. })));
    let mut weights = good().a;
    weights[(0, 0)] = f64::NAN;
    assert!(matches!(BoxedPlan::<f64>::new(weights.as_ref()), Err(LinalgError::NonFinite { .. })));
    let large = Mat::zeros(super::BOXED_LIMIT + 1, 1);
    assert!(matches!(BoxedPlan::<f64>::new(large.as_ref()), Err(LinalgError::TooLarge { rows: 4097, .. })));
}

#[test]
fn an_empty_batch_is_no_problem() {
    let problems = Problems::random(3, 4, Reach::Feasible, &mut crate::testkit::rng(0));
    let plan = BoxedPlan::<f64>::new(problems.a.as_ref()).unwrap();
    let (solution, report) = problems.solve_columns(&plan, 0, 0, Par::rayon(2)).unwrap();
    assert_eq!((solution.ncols(), report.unattained), (0, 0));
}
