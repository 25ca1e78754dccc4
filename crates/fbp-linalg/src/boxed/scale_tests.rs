//! Systems that are badly scaled, badly conditioned, degenerate or contradictory.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{BoxedPass, BoxedPlan, BoxedSample};
use crate::testkit::{for_seeds, normal_mat};
use crate::{Real, SolveReport};

/// What makes a system hard; each is drawn.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Rows and columns are scaled by powers of two up to this one.
    row_powers: i32,
    col_powers: i32,
    /// Condition of the matrix before that.
    condition: f64,
    /// Some rows repeat others, or are zero.
    dependent: bool,
    bounds: (f64, f64),
    /// Share of the rows that want a single number.
    points: f64,
}

impl Kind {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        let infinite = f64::INFINITY;
        Self {
            row_powers: [0, 3, 10, 20][rng.random_range(0..4)],
            col_powers: [0, 0, 10, 20][rng.random_range(0..4)],
            condition: 10.0_f64.powi([0, 2, 6, 9, 12][rng.random_range(0..5)]),
            dependent: rng.random_bool(0.3),
            bounds: [(0.0, infinite), (0.0, 1.0), (-infinite, infinite), (-1.0, 1.0)][rng.random_range(0..4)],
            points: [0.2, 0.6, 1.0][rng.random_range(0..3)],
        }
    }
}

/// One problem in the precision of `T`, for which `goal` attains the box.
#[derive(Clone, Debug)]
struct Problem<T> {
    a: Mat<T>,
    start: Vec<T>,
    image: Vec<T>,
    lower: Vec<T>,
    upper: Vec<T>,
    bounds: (T, T),
    goal: Vec<T>,
}

/// Orthonormal columns.
fn orthonormal(n: usize, k: usize, rng: &mut ChaCha8Rng) -> Mat<f64> {
    let mut q = normal_mat::<f64>(n, k, rng);
    for j in 0..k {
        for _ in 0..2 {
            for i in 0..j {
                let weight: f64 = (0..n).map(|r| q[(r, i)] * q[(r, j)]).sum();
                (0..n).for_each(|r| q[(r, j)] -= weight * q[(r, i)]);
            }
        }
        let norm = (0..n).map(|r| q[(r, j)].powi(2)).sum::<f64>().sqrt();
        (0..n).for_each(|r| q[(r, j)] /= norm);
    }
    q
}

impl<T: Real> Problem<T> {
    fn draw(m: usize, n: usize, kind: Kind, rng: &mut ChaCha8Rng) -> Self {
        let rank = m.min(n);
        let (left, right) = (orthonormal(m, rank, rng), orthonormal(n, rank, rng));
        let value = |k: usize| kind.condition.powf(-(k as f64) / (rank.max(2) - 1) as f64);
        let mut a = Mat::from_fn(m, n, |i, j| {
            (0..rank).map(|k| left[(i, k)] * value(k) * right[(j, k)]).sum::<f64>() * (n as f64).sqrt()
        });
        if kind.dependent && m > 3 {
            for j in 0..n {
                a[(1, j)] = a[(0, j)];
                a[(2, j)] = if rng.random_bool(0.5) { -3.0 * a[(0, j)] } else { a[(2, j)] };
                a[(3, j)] = 0.0;
            }
        }
        let mut power = |most: i32, len: usize| -> Vec<f64> {
            (0..len).map(|_| f64::from(rng.random_range(-most..=most)).exp2()).collect()
        };
        let (rows, cols) = (power(kind.row_powers, m), power(kind.col_powers, n));
        let a = Mat::from_fn(m, n, |i, j| T::from_f64(a[(i, j)] * rows[i] * cols[j]));
        let (low, high) = kind.bounds;
        let draw = |rng: &mut ChaCha8Rng| -> Vec<T> {
            (0..n).map(|_| T::from_f64((2.0 * rng.random::<f64>() - 1.0).clamp(low, high))).collect()
        };
        let (start, goal) = (draw(rng), draw(rng));
        let bias: Vec<f64> =
            (0..m).map(|i| if rng.random_bool(0.5) { rows[i] * (rng.random::<f64>() - 0.5) } else { 0.0 }).collect();
        let output =
            |v: &[T], i: usize| T::from_f64(bias[i] + (0..n).map(|j| a[(i, j)].to_f64() * v[j].to_f64()).sum::<f64>());
        let image: Vec<T> = (0..m).map(|i| output(&start, i)).collect();
        let reached: Vec<T> = (0..m).map(|i| output(&goal, i)).collect();
        let (mut lower, mut upper) = (Vec::new(), Vec::new());
        for i in 0..m {
            let width = T::from_f64(rows[i] * rng.random::<f64>());
            let (lo, hi) = if rng.random_bool(kind.points) {
                (reached[i], reached[i])
            } else {
                [(T::NEG_INFINITY, reached[i]), (reached[i], T::INFINITY), (reached[i] - width, reached[i])]
                    [rng.random_range(0..3)]
            };
            lower.push(lo);
            upper.push(hi);
        }
        let bounds = (T::from_f64(low), T::from_f64(high));
        Self { a, start, image, lower, upper, bounds, goal }
    }

    /// The most that a row misses by the definition of attained, in units of what it may, at any point.
    fn missed(&self, v: &[T]) -> f64 {
        let m = self.a.nrows();
        let mut worst = 0.0_f64;
        for i in 0..m {
            let image = self.image[i].to_f64();
            let (mut moved, mut scale, mut bias, mut terms) = (Twice::of(image), 0.0, Twice::of(image), 1.0);
            let mut observed = image.abs();
            for (j, (x, x0)) in v.iter().zip(&self.start).enumerate() {
                let (a, x, x0) = (self.a[(i, j)].to_f64(), x.to_f64(), x0.to_f64());
                moved.add_product(a, x);
                moved.add_product(-a, x0);
                bias.add_product(-a, x0);
                scale += (a * x).abs();
                observed += (a * x0).abs();
                terms += f64::from(u8::from(a != 0.0));
            }
            let (lower, upper) = (self.lower[i].to_f64(), self.upper[i].to_f64());
            let gap = if moved.high < lower || moved.high > upper {
                let end = if moved.high < lower { lower } else { upper };
                ((moved.high - end) + moved.low).abs()
            } else {
                0.0
            };
            let slack = 16.0 * T::EPSILON.to_f64() * f64::sqrt(terms) * (scale + bias.high.abs() + observed / 16.0);
            if gap > 0.0 {
                worst = worst.max(gap / slack);
            }
        }
        worst
    }

    fn distance(&self, v: &[T]) -> f64 {
        v.iter().zip(&self.start).map(|(v, s)| (v.to_f64() - s.to_f64()).powi(2)).sum::<f64>().sqrt()
    }

    fn solve_plan(&self) -> (Vec<T>, SolveReport) {
        let wide = Mat::from_fn(self.a.nrows(), self.a.ncols(), |i, j| self.a[(i, j)].to_f64());
        let plan = BoxedPlan::<T>::new(wide.as_ref()).unwrap();
        let column = |values: &[T]| Mat::from_fn(values.len(), 1, |i, _| values[i]);
        let mut solution = Mat::from_fn(self.start.len(), 1, |_, _| T::from_f64(f64::NAN));
        let mut memory = MemBuffer::new(plan.solve_scratch(1, Par::Seq));
        let [start, image, lower, upper] = [&self.start, &self.image, &self.lower, &self.upper].map(|v| column(v));
        let pass = BoxedPass {
            observed_in: start.as_ref(),
            observed_out: image.as_ref(),
            lower: lower.as_ref(),
            upper: upper.as_ref(),
            bounds: self.bounds,
            solution: solution.as_mut(),
        };
        let report = plan.solve(pass, Par::Seq, MemStack::new(&mut memory)).unwrap();
        (solution.col_as_slice(0).to_vec(), report)
    }

    fn solve_sample(&self) -> (Vec<T>, SolveReport) {
        let (m, n) = (self.a.nrows(), self.a.ncols());
        let rows = self.a.transpose().to_owned();
        let mut solution = vec![T::from_f64(f64::NAN); n];
        let mut memory = MemBuffer::new(BoxedSample::<T>::solve_scratch(m, n));
        let problem = BoxedSample {
            rows: rows.as_ref(),
            observed_in: &self.start,
            observed_out: &self.image,
            lower: &self.lower,
            upper: &self.upper,
            bounds: self.bounds.into(),
            solution: &mut solution,
        };
        let report = problem.solve(MemStack::new(&mut memory)).unwrap();
        (solution, report)
    }
}

/// A sum in twice the precision.
struct Twice {
    high: f64,
    low: f64,
}

impl Twice {
    fn of(high: f64) -> Self {
        Self { high, low: 0.0 }
    }

    fn add_product(&mut self, a: f64, b: f64) {
        let product = a * b;
        let rest = a.mul_add(b, -product);
        let sum = self.high + product;
        let part = sum - self.high;
        self.low += (self.high - (sum - part)) + (product - part) + rest;
        self.high = sum;
        let sum = self.high + self.low;
        self.low -= sum - self.high;
        self.high = sum;
    }
}

/// Draws 1,200 problems of every kind: nothing that misses is called attained, nothing lies farther than the point that is
/// known to attain its box, and attainable ones are found.
fn judge_kinds<T: Real>(solve: impl Fn(&Problem<T>) -> (Vec<T>, SolveReport)) {
    let (mut cases, mut lost, mut plain_lost) = (0, 0, 0);
    for (m, n) in [(2, 4), (4, 4), (5, 12), (12, 5), (10, 30), (16, 60)] {
        for_seeds(200, |rng| {
            let kind = Kind::draw(rng);
            let problem = Problem::<T>::draw(m, n, kind, rng);
            if problem.missed(&problem.goal) > 1.0 {
                return;
            }
            cases += 1;
            let (v, report) = solve(&problem);
            assert!(v.iter().all(|&v| problem.bounds.0 <= v && v <= problem.bounds.1), "{m} × {n}, {kind:?}: {v:?}");
            if report.unattained > 0 {
                lost += 1;
                plain_lost += usize::from(kind.col_powers == 0);
                return;
            }
            // The last bits of the scale are summed in another order.
            let missed = problem.missed(&v);
            assert!(missed <= 1.0 + 1e-6, "{m} × {n}, {kind:?}: missed {missed} times what is attained, {report:?}");
            let (moved, known) = (problem.distance(&v), problem.distance(&problem.goal));
            let rounding = 16.0 * T::EPSILON.to_f64() * (n as f64).sqrt();
            assert!(moved <= known * (1.0 + 1e-6) + rounding, "{m} × {n}, {kind:?}: {moved} > {known}, {report:?}");
        });
    }
    assert!(cases > 1100, "{cases} cases");
    println!(
        "{}: {lost} of {cases} attainable problems called unattained, {plain_lost} of them without scaled columns",
        T::NAME
    );
    // Scaled columns multiply the condition by up to 1e12, beyond what double precision resolves.
    assert!(1000 * plain_lost <= cases + 1000, "{plain_lost} of {cases} problems of plain columns");
    assert!(100 * lost <= cases, "{lost} of {cases} problems");
}

#[test]
fn plans_attain_what_can_be_attained() {
    judge_kinds::<f64>(Problem::solve_plan);
    judge_kinds::<f32>(Problem::solve_plan);
}

#[test]
fn samples_attain_what_can_be_attained() {
    judge_kinds::<f64>(Problem::solve_sample);
    judge_kinds::<f32>(Problem::solve_sample);
}

/// Rows of very different size, of which the small one is met by one solution only.
fn uneven<T: Real>() {
    let value = T::from_f64;
    let a = Mat::from_fn(2, 4, |i, j| value([[1.0, -2.0, 3.0, 1.0], [1e6, 2e6, -1e6, 2e6]][i][j]));
    let problem = Problem {
        a,
        start: [1.0, 0.0, 2.0, 0.0].map(value).to_vec(),
        image: [7.0, -1e6].map(value).to_vec(),
        lower: [1.0, 1e6].map(value).to_vec(),
        upper: [1.0, 1e6].map(value).to_vec(),
        bounds: (T::ZERO, T::INFINITY),
        goal: [0.0, 1.0, 1.0, 0.0].map(value).to_vec(),
    };
    for (v, report) in [problem.solve_plan(), problem.solve_sample()] {
        assert_eq!(report.unattained, 0, "{report:?}");
        assert!(report.iters <= 6, "{report:?}");
        let expected = [1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 0.0];
        let gap = v.iter().zip(expected).fold(0.0_f64, |gap, (v, e)| gap.max((v.to_f64() - e).abs()));
        assert!(gap <= 64.0 * T::EPSILON.to_f64(), "{}: off by {gap:e}, {v:?}", T::NAME);
        assert!(problem.missed(&v) <= 1.0);
    }
}

#[test]
fn rows_of_very_different_size_are_all_met() {
    uneven::<f32>();
    uneven::<f64>();
}

/// A box out of reach is missed by the least as the outputs are, whatever the sizes of the rows.
#[test]
fn uneven_rows_out_of_reach_are_missed_by_the_least() {
    for_seeds(40, |rng| {
        let (m, n) = (6, 4);
        let powers: Vec<f64> = (0..m).map(|_| f64::from(rng.random_range(-8..=8)).exp2()).collect();
        let normal = normal_mat::<f64>(m, n, rng);
        let a = Mat::from_fn(m, n, |i, j| normal[(i, j)] * powers[i]);
        let wanted: Vec<f64> = (0..m).map(|i| powers[i] * (rng.random::<f64>() - 0.5)).collect();
        let problem = Problem {
            image: vec![0.0; m],
            start: vec![0.0; n],
            lower: wanted.clone(),
            upper: wanted.clone(),
            bounds: (f64::NEG_INFINITY, f64::INFINITY),
            goal: vec![0.0; n],
            a,
        };
        let (v, report) = problem.solve_plan();
        assert_eq!(report.unattained, 1, "{report:?}");
        // The gradient of the squared distance, as a share of the sizes of its terms.
        let missed: Vec<f64> =
            (0..m).map(|i| (0..n).map(|j| problem.a[(i, j)] * v[j]).sum::<f64>() - wanted[i]).collect();
        for j in 0..n {
            let terms = (0..m).map(|i| problem.a[(i, j)] * missed[i]);
            let (slope, size) = terms.fold((0.0, 0.0_f64), |(slope, size), term| (slope + term, size + term.abs()));
            assert!(slope.abs() <= 1e-4 * size, "slope {slope:e} of {size:e}, {report:?}");
        }
    });
}

/// Problems about 0: rows whose ends meet there, which come within rounding of each other, or a start at 0, from where
/// badly scaled columns have to go far.
fn about_zero<T: Real>(solve: impl Fn(&Problem<T>) -> (Vec<T>, SolveReport)) {
    for_seeds(300, |rng| {
        let (m, n) = (rng.random_range(1..=6), rng.random_range(1..=6));
        let starts_there = rng.random_bool(0.5);
        let powers = if starts_there { [0, 16][rng.random_range(0..2)] } else { 0 };
        let scale: Vec<f64> = (0..n).map(|_| f64::from(rng.random_range(-powers..=powers)).exp2()).collect();
        let normal = normal_mat::<f64>(m, n, rng);
        let a = Mat::from_fn(m, n, |i, j| T::from_f64(normal[(i, j)] * scale[j]));
        let mut draw = |zero: bool| -> Vec<T> {
            (0..n).map(|_| if zero { T::ZERO } else { T::from_f64(rng.random::<f64>()) }).collect()
        };
        let (start, goal) = (draw(starts_there), draw(!starts_there));
        let output = |v: &[T], i: usize| (0..n).map(|j| a[(i, j)].to_f64() * v[j].to_f64()).sum::<f64>();
        let image = (0..m).map(|i| T::from_f64(output(&start, i))).collect();
        let reached: Vec<T> = (0..m).map(|i| T::from_f64(output(&goal, i))).collect();
        let open: Vec<bool> = (0..m).map(|_| rng.random_bool(0.3)).collect();
        let upper = (0..m).map(|i| if open[i] { T::INFINITY } else { reached[i] }).collect();
        let bounds = (T::ZERO, T::INFINITY);
        let problem = Problem { a, start, image, lower: reached, upper, bounds, goal };
        assert!(problem.missed(&problem.goal) <= 1.0);
        let (v, report) = solve(&problem);
        assert_eq!(report.unattained, 0, "{}: {problem:?}\n{v:?}, {report:?}", T::NAME);
        assert!(problem.missed(&v) <= 1.0 + 1e-6, "{}: {report:?}", T::NAME);
        let (moved, known) = (problem.distance(&v), problem.distance(&problem.goal));
        let rounding = 16.0 * T::EPSILON.to_f64() * (n as f64).sqrt();
        assert!(moved <= known * (1.0 + 1e-6) + rounding, "{}: {moved} > {known}", T::NAME);
    });
}

#[test]
fn boxes_about_zero_are_attained() {
    about_zero::<f64>(Problem::solve_plan);
    about_zero::<f32>(Problem::solve_plan);
    about_zero::<f64>(Problem::solve_sample);
    about_zero::<f32>(Problem::solve_sample);
}
