use crate::LinalgError;
use crate::qp_oracle::{BoxQp, qp_closest, qp_distance_stationarity, qp_kkt_residual, qp_nearest};
use crate::testkit::{for_seeds, normal_mat, normal_vec, uniform_vec};
use faer::Mat;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};

use super::solver::{Problem, Solver};
use super::{LinearMap, MapScale};

/// A matrix by plain loops.
struct Loops(Mat<f64>);

impl LinearMap for Loops {
    fn shape(&self) -> (usize, usize) {
        self.0.shape()
    }

    fn scratch(&self) -> StackReq {
        StackReq::EMPTY
    }

    fn apply(&self, x: &[f64], image: &mut [f64], _: &mut MemStack) -> Result<(), LinalgError> {
        for (i, y) in image.iter_mut().enumerate() {
            *y = (0..x.len()).map(|j| self.0[(i, j)] * x[j]).sum();
        }
        Ok(())
    }

    fn adjoint(&self, weights: &[f64], sum: &mut [f64], _: &mut MemStack) -> Result<(), LinalgError> {
        for (j, x) in sum.iter_mut().enumerate() {
            *x = (0..weights.len()).map(|i| self.0[(i, j)] * weights[i]).sum();
        }
        Ok(())
    }

    fn row_squares(&self, _: &mut MemStack) -> Result<Vec<f64>, LinalgError> {
        Ok((0..self.0.nrows()).map(|i| (0..self.0.ncols()).map(|j| self.0[(i, j)].powi(2)).sum()).collect())
    }

    fn magnitudes(&self, x: &[f64], sizes: &mut [f64], _: &mut MemStack) -> Result<(), LinalgError> {
        for (i, y) in sizes.iter_mut().enumerate() {
            *y = (0..x.len()).map(|j| self.0[(i, j)].abs() * x[j]).sum();
        }
        Ok(())
    }

    fn row_terms(&self, _: &mut MemStack) -> Result<Vec<f64>, LinalgError> {
        let count = |i: usize| (0..self.0.ncols()).filter(|&j| self.0[(i, j)] != 0.0).count() as f64;
        Ok((0..self.0.nrows()).map(count).collect())
    }

    fn flops(&self) -> f64 {
        1.0
    }
}

/// Rows of every kind, duplicated rows, starts in and outside the bounds; `reachable` boxes hold a known point's image.
fn problem(m: usize, n: usize, reachable: bool, rng: &mut rand_chacha::ChaCha8Rng) -> BoxQp {
    let mut a = normal_mat::<f64>(m, n, rng);
    let draw = uniform_vec::<f64>(2 * m + 4, 0.0, 1.0, rng);
    if m > 2 && draw[0] < 0.3 {
        (0..n).for_each(|j| a[(1, j)] = a[(0, j)]);
    }
    let infinite = f64::INFINITY;
    let bounds = [(0.0, infinite), (0.0, 2.0), (-infinite, infinite), (-1.0, 1.0)][(draw[1] * 4.0) as usize];
    let clip = |v: f64| v.max(bounds.0).min(bounds.1);
    let v0: Vec<f64> = normal_vec::<f64>(n, rng).into_iter().map(clip).collect();
    let goal: Vec<f64> = normal_vec::<f64>(n, rng).into_iter().map(clip).collect();
    let b = normal_vec::<f64>(m, rng);
    let (mut lower_out, mut upper_out) = (Vec::new(), Vec::new());
    for i in 0..m {
        let image = b[i] + (0..n).map(|j| a[(i, j)] * goal[j]).sum::<f64>();
        let wanted = if reachable { image } else { 6.0 * draw[4 + i] - 3.0 };
        let width = draw[4 + m + i];
        let (low, high) = match (width * 5.0) as usize {
            0 | 1 => (wanted, wanted),
            2 => (-infinite, wanted),
            3 => (wanted, infinite),
            _ => (wanted - width, wanted + 0.5 * width),
        };
        lower_out.push(low);
        upper_out.push(high);
    }
    BoxQp { a, b, v0, lower_out, upper_out, lower_in: vec![bounds.0; n], upper_in: vec![bounds.1; n] }
}

fn solve(qp: &BoxQp) -> (Vec<f64>, super::solver::Solved) {
    let map = Loops(qp.a.clone());
    let scale = MapScale::of(&map).unwrap();
    let image = qp.output(&qp.v0);
    let size = image.iter().fold(1.0_f64, |size, y| size.max(y.abs()));
    let problem = Problem {
        start: &qp.v0,
        image: &image,
        lower: &qp.lower_out,
        upper: &qp.upper_out,
        bounds: (qp.lower_in[0], qp.upper_in[0]),
        tolerance: 64.0 * f64::EPSILON * size,
        precision: f64::EPSILON,
    };
    let mut memory = MemBuffer::new(StackReq::EMPTY);
    let mut solver = Solver::new(&map, scale);
    let solved = solver.solve(&problem, MemStack::new(&mut memory)).unwrap();
    (solver.solution().to_vec(), solved)
}

const SHAPES: [(usize, usize); 7] = [(1, 1), (1, 6), (4, 4), (5, 12), (12, 5), (10, 30), (20, 24)];

#[test]
fn reachable_boxes_give_the_point_of_the_oracle() {
    for (m, n) in SHAPES {
        for_seeds(60, |rng| {
            let qp = problem(m, n, true, rng);
            let (found, solved) = solve(&qp);
            let residual = qp_kkt_residual(&qp, &found);
            assert!(solved.converged && residual.max() <= 1e-8, "{m} × {n}: {residual:?} {solved:?}");
            assert!(solved.residual <= 1e-8, "{m} × {n}: {solved:?}");
            if let Ok(expected) = qp_nearest(&qp) {
                let gap = found.iter().zip(&expected).fold(0.0_f64, |gap, (x, y)| gap.max((x - y).abs()));
                assert!(gap <= 1e-7, "{m} × {n}: off by {gap:e}, {solved:?}");
            }
        });
    }
}

#[test]
fn unreachable_boxes_are_missed_by_the_least_and_then_nearest() {
    let (mut missed, mut worst) = (0, 0.0_f64);
    for (m, n) in SHAPES {
        for_seeds(60, |rng| {
            let qp = problem(m, n, false, rng);
            let (found, solved) = solve(&qp);
            let Ok(closest) = qp_closest(&qp) else { return };
            let length = |excess: &[f64]| excess.iter().map(|e| e * e).sum::<f64>().sqrt();
            let (ours, least) = (length(&qp.excess(&found)), length(&closest.excess));
            assert!(ours <= least * (1.0 + 1e-7) + 1e-8, "{m} × {n}: {ours} {least} {solved:?}");
            let stationary = qp_distance_stationarity(&qp, &found);
            assert!(stationary <= 1e-6, "{m} × {n}: {stationary:e} {solved:?}");
            let gap = found.iter().zip(&closest.v).fold(0.0_f64, |gap, (x, y)| gap.max((x - y).abs()));
            missed += usize::from(!closest.feasible);
            worst = worst.max(gap);
            assert!(gap <= 1e-5, "{m} × {n}: off by {gap:e}, {solved:?}");
        });
    }
    assert!(missed > 100, "{missed} of the boxes cannot be reached");
    println!("{missed} boxes out of reach, farthest from the oracle {worst:e}");
}
