use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const INF: f64 = f64::INFINITY;

fn problem(rows: &[&[f64]], v0: &[f64], out: &[(f64, f64)], inside: &[(f64, f64)]) -> BoxQp {
    let ends = |pairs: &[(f64, f64)]| pairs.iter().copied().unzip();
    let (lower_out, upper_out) = ends(out);
    let (lower_in, upper_in) = ends(inside);
    let a = Mat::from_fn(rows.len(), v0.len(), |i, j| rows[i][j]);
    BoxQp { a, b: vec![0.0; rows.len()], v0: v0.to_vec(), lower_out, upper_out, lower_in, upper_in }
}

fn assert_near(found: &[f64], wanted: &[f64], tol: f64) {
    assert_eq!(found.len(), wanted.len());
    let worst = found.iter().zip(wanted).map(|(x, y)| (x - y).abs()).fold(0.0, largest);
    assert!(worst <= tol, "{found:?} instead of {wanted:?}: off by {worst:e}");
}

/// Random problem with equalities, half-lines, free rows, ties and repeated rows; feasible if `anchor` is given.
fn random_problem(m: usize, n: usize, feasible: bool, rng: &mut ChaCha8Rng) -> BoxQp {
    let mut draw = |lo: f64, hi: f64| rng.random_range(lo..hi);
    let mut a = Mat::from_fn(m, n, |_, _| draw(-1.0, 1.0));
    if m > 3 && draw(0.0, 1.0) < 0.5 {
        for j in 0..n {
            a[(1, j)] = a[(0, j)];
            a[(2, j)] = -2.0 * a[(0, j)];
        }
    }
    let b: Vec<f64> = (0..m).map(|_| draw(-0.5, 0.5)).collect();
    let v0: Vec<f64> = (0..n).map(|_| draw(-1.0, 2.0)).collect();
    let anchor: Vec<f64> = (0..n).map(|_| if draw(0.0, 1.0) < 0.3 { 0.0 } else { draw(0.0, 1.0) }).collect();
    let range = |kind: f64| {
        if kind < 0.5 {
            (0.0, INF)
        } else if kind < 0.8 {
            (0.0, 1.0)
        } else {
            (-INF, INF)
        }
    };
    let (lower_in, upper_in): (Vec<f64>, Vec<f64>) = (0..n).map(|_| range(draw(0.0, 1.0))).unzip();
    let mut found = BoxQp { a, b, v0, lower_out: vec![], upper_out: vec![], lower_in, upper_in };
    for y in found.output(&anchor) {
        let y = if feasible { y } else { draw(-4.0, 4.0) };
        let (lower, upper) = match draw(0.0, 4.0) as usize {
            0 => (y, y),
            1 => (-INF, y),
            2 => (y, y + 0.3),
            _ => (y - 0.2, INF),
        };
        found.lower_out.push(lower);
        found.upper_out.push(upper);
    }
    found
}

#[test]
fn cases_solved_by_hand() {
    let free = (-INF, INF);
    let line = problem(&[&[1.0, 1.0]], &[0.0, 0.0], &[(2.0, 2.0)], &[free, free]);
    assert_near(&qp_nearest(&line).unwrap(), &[1.0, 1.0], 1e-14);
    let corner = problem(&[&[1.0, 2.0]], &[0.0, 0.0], &[(5.0, INF)], &[(-INF, 0.0), free]);
    assert_near(&qp_nearest(&corner).unwrap(), &[0.0, 2.5], 1e-14);
    let inside = problem(&[&[1.0, 1.0]], &[0.25, 0.5], &[(-INF, 1.0)], &[(0.0, 1.0), (0.0, 1.0)]);
    assert_eq!(qp_nearest(&inside).unwrap(), [0.25, 0.5], "a point that meets everything stays, bit for bit");
    // Projection of (1, 0.6, -2) on the unit simplex.
    let simplex = problem(&[&[1.0; 3]], &[1.0, 0.6, -2.0], &[(1.0, 1.0)], &[(0.0, INF); 3]);
    assert_near(&qp_nearest(&simplex).unwrap(), &[0.7, 0.3, 0.0], 1e-14);
    // The same row twice, once doubled, and a row of zeros that holds.
    let rows: [&[f64]; 4] = [&[1.0, 0.0], &[2.0, 0.0], &[1.0, 0.0], &[0.0, 0.0]];
    let out = [(3.0, 3.0), (6.0, 6.0), (-INF, 3.0), (-1.0, 0.0)];
    let repeated = problem(&rows, &[0.0, 7.0], &out, &[free, free]);
    assert_near(&qp_nearest(&repeated).unwrap(), &[3.0, 7.0], 1e-14);
}

#[test]
fn infeasible_cases_solved_by_hand() {
    let free = (-INF, INF);
    // Two contradicting copies of one equation: the mean is closest, and the nearest point of that line is taken.
    let rows: [&[f64]; 2] = [&[1.0, 1.0], &[1.0, 1.0]];
    let copies = problem(&rows, &[3.0, 1.0], &[(0.0, 0.0), (2.0, 2.0)], &[free, free]);
    assert_eq!(qp_nearest(&copies), Err(QpFailure::Infeasible));
    let found = qp_closest(&copies).unwrap();
    assert!(!found.feasible);
    assert_near(&found.v, &[1.5, -0.5], 1e-10);
    assert_near(&found.excess, &[1.0, -1.0], 1e-10);
    // The range stops the point short of its target; the other entry keeps its value.
    let short = problem(&[&[1.0, 0.0]], &[0.0, 5.0], &[(3.0, 4.0)], &[(0.0, 1.0), free]);
    let found = qp_closest(&short).unwrap();
    assert_near(&found.v, &[1.0, 5.0], 1e-10);
    assert_near(&found.excess, &[-2.0], 1e-10);
    let zero_row = problem(&[&[0.0, 0.0]], &[1.0, 2.0], &[(1.0, 2.0)], &[free, free]);
    assert_eq!(qp_nearest(&zero_row), Err(QpFailure::Infeasible));
    let found = qp_closest(&zero_row).unwrap();
    assert_near(&found.v, &[1.0, 2.0], 1e-12);
    assert_near(&found.excess, &[-1.0], 1e-12);
    let empty_range = problem(&[&[1.0]], &[0.0], &[(0.0, 1.0)], &[(2.0, 1.0)]);
    assert_eq!(qp_closest(&empty_range).unwrap_err(), QpFailure::Infeasible);
}

/// Cyclic projection with memory: slow, but a different method. `None` if it has not settled.
fn dykstra(problem: &BoxQp, tol: f64) -> Option<Vec<f64>> {
    let (m, n) = (problem.rows(), problem.cols());
    let mut v = problem.v0.clone();
    let mut memory = vec![0.0; m];
    let mut memory_in = vec![0.0; n];
    let squares: Vec<f64> = (0..m).map(|i| (0..n).map(|j| problem.a[(i, j)].powi(2)).sum()).collect();
    for _ in 0..100_000 {
        let mut change = 0.0_f64;
        for i in 0..m {
            let y = problem.b[i] + (0..n).map(|j| problem.a[(i, j)] * v[j]).sum::<f64>();
            let raised = y + memory[i] * squares[i];
            let step = (raised - raised.max(problem.lower_out[i]).min(problem.upper_out[i])) / squares[i];
            (0..n).for_each(|j| v[j] += (memory[i] - step) * problem.a[(i, j)]);
            change = change.max((memory[i] - step).abs());
            memory[i] = step;
        }
        for j in 0..n {
            let raised = v[j] + memory_in[j];
            v[j] = raised.max(problem.lower_in[j]).min(problem.upper_in[j]);
            change = change.max((raised - v[j] - memory_in[j]).abs());
            memory_in[j] = raised - v[j];
        }
        if change <= tol {
            return Some(v);
        }
    }
    None
}

#[test]
fn random_feasible_problems_meet_the_optimality_conditions() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut worst = 0.0;
    for case in 0..300 {
        let (m, n) = (rng.random_range(1..30), rng.random_range(1..30));
        let problem = random_problem(m, n, true, &mut rng);
        let v = qp_nearest(&problem).unwrap_or_else(|why| panic!("case {case}, {m} × {n}: {why}"));
        let kkt = qp_kkt_residual(&problem, &v);
        assert!(kkt.max() <= 1e-9, "case {case}, {m} × {n}: {kkt:?}");
        worst = largest(worst, kkt.max());
        let closest = qp_closest(&problem).unwrap();
        assert!(closest.feasible && closest.v == v);
    }
    println!("worst optimality residual {worst:e}");
}

#[test]
fn cyclic_projection_finds_the_same_points() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut compared = 0;
    for case in 0..60 {
        let (m, n) = (rng.random_range(1..5), rng.random_range(4..9));
        let problem = random_problem(m, n, true, &mut rng);
        let Some(other) = dykstra(&problem, 1e-13) else { continue };
        compared += 1;
        let v = qp_nearest(&problem).unwrap();
        let apart = v.iter().zip(&other).map(|(x, y)| (x - y).abs()).fold(0.0, largest);
        assert!(apart <= 1e-8, "case {case}, {m} × {n}: {apart:e} apart");
    }
    assert!(compared >= 50, "only {compared} cases settled");
}

/// Accelerated projected gradient on the distance of `Av + b` to its box, restarted when it climbs.
fn smallest_distance(problem: &BoxQp) -> Vec<f64> {
    let (m, n) = (problem.rows(), problem.cols());
    let bound: f64 = (0..m).map(|i| (0..n).map(|j| problem.a[(i, j)].powi(2)).sum::<f64>()).sum();
    let clip = |j: usize, x: f64| x.max(problem.lower_in[j]).min(problem.upper_in[j]);
    let mut v: Vec<f64> = (0..n).map(|j| clip(j, problem.v0[j])).collect();
    let (mut ahead, mut momentum) = (v.clone(), 1.0_f64);
    let mut value = INF;
    for _ in 0..200_000 {
        let excess = problem.excess(&ahead);
        let slope = |j: usize| (0..m).map(|i| problem.a[(i, j)] * excess[i]).sum::<f64>();
        let next: Vec<f64> = (0..n).map(|j| clip(j, ahead[j] - slope(j) / bound)).collect();
        let reached = norm(&problem.excess(&next));
        if reached > value {
            (ahead, momentum, value) = (v.clone(), 1.0, INF);
            continue;
        }
        let grown = 0.5 * (1.0 + (1.0 + 4.0 * momentum * momentum).sqrt());
        ahead = (0..n).map(|j| next[j] + (momentum - 1.0) / grown * (next[j] - v[j])).collect();
        let change = next.iter().zip(&v).map(|(x, y)| (x - y).abs()).fold(0.0, largest);
        (v, momentum, value) = (next, grown, reached);
        if change < 1e-15 {
            break;
        }
    }
    problem.excess(&v)
}

#[test]
fn random_infeasible_problems_reach_the_smallest_distance_first() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut infeasible = 0;
    for case in 0..120 {
        let (m, n) = (rng.random_range(1..30), rng.random_range(1..20));
        let problem = random_problem(m, n, false, &mut rng);
        let found = qp_closest(&problem).unwrap_or_else(|why| panic!("case {case}, {m} × {n}: {why}"));
        let still = qp_distance_stationarity(&problem, &found.v);
        assert!(still <= 1e-8, "case {case}, {m} × {n}: projected gradient {still:e}");
        let kkt = qp_kkt_residual(&problem.shifted(&found.excess), &found.v);
        assert!(kkt.max() <= 1e-8, "case {case}, {m} × {n}: {kkt:?}");
        assert_near(&problem.excess(&found.v), &found.excess, 1e-8);
        if !found.feasible {
            infeasible += 1;
            if case < 30 {
                assert_near(&smallest_distance(&problem), &found.excess, 1e-6);
            }
        }
    }
    assert!(infeasible >= 60, "only {infeasible} problems were infeasible");
}

#[test]
fn the_judge_rejects_points_that_are_off() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for _ in 0..50 {
        let problem = random_problem(6, 12, true, &mut rng);
        let v = qp_nearest(&problem).unwrap();
        let pushed: Vec<f64> = v.iter().map(|x| x + rng.random_range(-1e-2..1e-2)).collect();
        assert!(qp_kkt_residual(&problem, &pushed).max() > 1e-4, "a perturbed point passed");
        let mut spoilt = v;
        spoilt[3] = f64::NAN;
        let kkt = qp_kkt_residual(&problem, &spoilt);
        assert!(kkt.max().is_nan(), "a point with NaN passed: {kkt:?}");
    }
}

#[test]
fn no_sampled_feasible_point_is_nearer() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..20 {
        let problem = random_problem(5, 10, true, &mut rng);
        let v = qp_nearest(&problem).unwrap();
        let away = |x: &[f64]| norm(&x.iter().zip(&problem.v0).map(|(x, y)| x - y).collect::<Vec<_>>());
        for _ in 0..20 {
            // A feasible point found from another start.
            let v0 = v.iter().map(|x| x + rng.random_range(-1.0..1.0)).collect();
            let other = qp_nearest(&BoxQp { v0, ..problem.clone() }).unwrap();
            assert!(problem.violation(&other) <= 1e-10);
            assert!(away(&v) <= away(&other) + 1e-10);
        }
    }
}
