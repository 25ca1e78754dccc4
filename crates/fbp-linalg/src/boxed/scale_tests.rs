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
        let bias: Vec<f64> = (0..m).map(|i| if rng.random_bool(0.5) { rows[i] * (rng.random::<f64>() - 0.5) } else { 0.0 }).collect();
        let output = |v: &[T], i: usize| {
            T::from_f64(bias[i] + (0..n).map(|j| a[(i, j)].to_f64() * v[j].to_f64()).sum::<f64>())
        };
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
        let (m, n) = (self.a.nrows(), self.a.ncols());
        let mut worst = 0.0_f64;
        for i in 0..m {
            let image = self.image[i].to_f64();
            let (mut moved, mut scale, mut bias, mut terms) = (Twice::of(image), 0.0, Twice::of(image), 1.0);
            let mut observed = image.abs();
            for j in 0..n {
                let (a, x, x0) = (self.a[(i, j)].to_f64(), v[j].to_f64(), self.start[j].to_f64());
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
            bounds: self.bounds,
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

fn explore<T: Real>(solve: impl Fn(&Problem<T>) -> (Vec<T>, SolveReport), name: &str) {
    let (mut cases, mut lost, mut lied, mut far) = (0, 0, 0, 0);
    let clock = std::time::Instant::now();
    let mut slowest = (0.0, String::new());
    for (m, n) in [(2, 4), (4, 4), (5, 12), (12, 5), (10, 30), (16, 60)] {
        for_seeds(200, |rng| {
            let kind = Kind::draw(rng);
            let problem = Problem::<T>::draw(m, n, kind, rng);
            if problem.missed(&problem.goal) > 1.0 {
                return;
            }
            cases += 1;
            let clock = std::time::Instant::now();
            let (v, report) = solve(&problem);
            let took = clock.elapsed().as_secs_f64();
            if took > slowest.0 {
                slowest = (took, format!("{m}x{n} {kind:?} {report:?}"));
            }
            let missed = problem.missed(&v);
            if report.unattained > 0 {
                lost += 1;
                if lost <= 6 {
                    eprintln!("{name} {}: {m} × {n} lost, missed {missed:.2e}, {kind:?}, {} its {:?}", T::NAME, report.iters, report.stop);
                }
            } else if missed > 1.0 + 1.0 / 16.0 {
                lied += 1;
                eprintln!("{name} {}: {m} × {n} lied, missed {missed:.2e}, {kind:?}", T::NAME);
            }
            if problem.distance(&v) > problem.distance(&problem.goal) * (1.0 + 1e-6) + 1e-6 {
                far += 1;
                if far <= 5 { eprintln!("{name} {}: {m} × {n} far {:e} {:e} {kind:?} {report:?}", T::NAME, problem.distance(&v), problem.distance(&problem.goal)); }
            }
        });
    }
    eprintln!("{name} {}: {cases} cases, {lost} lost, {lied} lied, {far} far, {:?}; slowest {slowest:?}", T::NAME, clock.elapsed());
}

#[test]
fn explore_all() {
    explore::<f64>(|p| p.solve_plan(), "plan");
    explore::<f32>(|p| p.solve_plan(), "plan");
    explore::<f64>(|p| p.solve_sample(), "sample");
    explore::<f32>(|p| p.solve_sample(), "sample");
}
