//! Whether the returned point is the nearest one, and whether the box around it does as well.
//!
//! No solver is used: other inputs are tried, and one that lies in the target box and nearer is a counterexample. The
//! tries include moves along the surface on which the active outputs keep their value, found from differences of the
//! forward pass, so that a point which is not stationary is found out also where random inputs never hit the box.

use faer::Mat;
use fbp_linalg::Real;
use fbp_linalg::testkit::{rng, uniform_vec};

use super::cases::{Answer, Case, Conditions, forward, widened};
use super::outcome::{ConformanceError, Ledger};
use super::params::ReverseCheck;
use crate::{InverseError, ReverseOperator};

/// An input to try, and where it comes from.
type Candidate = (&'static str, Vec<f64>);

/// One reversed sample, widened.
struct Place<'a, T: Real> {
    op: &'a dyn ReverseOperator<T>,
    sample: &'a Case<T>,
    observed: Vec<f64>,
    point: Vec<f64>,
    lower: Vec<f64>,
    upper: Vec<f64>,
    output: Vec<f64>,
    scale: f64,
}

pub(super) fn check_nearest<T: Real>(
    op: &dyn ReverseOperator<T>,
    check: &ReverseCheck,
    sample: &Case<T>,
    answer: &Answer<T>,
    ledger: &mut Ledger,
) -> Result<(), ConformanceError> {
    let place = Place::new(op, check, sample, answer);
    let place = place.map_err(|error| ledger.failure("forward works", error.to_string()))?;
    let failed = |error: InverseError, ledger: &Ledger| ledger.failure("forward works", error.to_string());
    place.check_box(check, answer.report.unattained == 0, ledger)?;
    let surface = place.surface(check).map_err(|error| failed(error, ledger))?;
    let mut candidates = place.simple_moves();
    candidates.extend(place.surface_moves(&surface));
    let outputs = place.outputs(&candidates).map_err(|error| failed(error, ledger))?;
    place.judge(check, &surface, (&candidates, &outputs), ledger)
}

/// What holds of an iteration that stops when the target is near enough: it ends no farther from the target than it began,
/// the box it returns does as well as the point, and it does not run far beyond a target that is a point.
pub(super) fn check_progress<T: Real>(
    op: &dyn ReverseOperator<T>,
    check: &ReverseCheck,
    sample: &Case<T>,
    answer: &Answer<T>,
    ledger: &mut Ledger,
) -> Result<(), ConformanceError> {
    let place = Place::new(op, check, sample, answer);
    let place = place.map_err(|error| ledger.failure("forward works", error.to_string()))?;
    let attained = answer.report.unattained == 0;
    place.check_box(check, attained, ledger)?;
    let before = sample.distance(0, &widened(sample.output.as_ref(), 0));
    let (left, allowed) = (sample.distance(0, &place.output), sample.allowed(check, 0));
    // An observed input outside the range has to move, whatever that does to the output.
    let inside = place.observed.iter().all(|&x| sample.range.contains(T::from_f64(x)));
    ledger.expect("the output does not move away from the target", !inside || left <= before + allowed, || {
        format!("{}: distance {before:e} before, {left:e} after", sample.origin)
    })?;
    // Within wider boxes, an overshoot may do as well as what it overshoots.
    if attained && inside && sample.lower == sample.upper {
        let back = |t: f64| place.point.iter().zip(&place.observed).map(|(x, x0)| x + t * (x0 - x)).collect();
        let tries: Vec<Candidate> = [0.25, 0.5, 0.75, 1.0].map(|t| ("a step back", back(t))).into();
        let outputs = place.outputs(&tries).map_err(|error| ledger.failure("forward works", error.to_string()))?;
        for (output, t) in outputs.iter().zip(["a quarter", "half", "three quarters", "all"]) {
            let gap = sample.violation(0, output);
            ledger.expect("a long step back does worse", gap > allowed, || {
                format!("{}: {t} of the way back, the target is missed by {gap:e}, allowed {allowed:e}", sample.origin)
            })?;
        }
    }
    Ok(())
}

impl<'a, T: Real> Place<'a, T> {
    fn new(
        op: &'a dyn ReverseOperator<T>,
        check: &ReverseCheck,
        sample: &'a Case<T>,
        answer: &Answer<T>,
    ) -> Result<Self, InverseError> {
        let output = forward(op, answer.point.as_ref())?;
        Ok(Self {
            op,
            sample,
            observed: widened(sample.input.as_ref(), 0),
            point: widened(answer.point.as_ref(), 0),
            lower: widened(answer.lower.as_ref(), 0),
            upper: widened(answer.upper.as_ref(), 0),
            output: widened(output.as_ref(), 0),
            scale: check.scale,
        })
    }

    /// Outputs of a list of inputs, moved into the range first.
    fn outputs(&self, candidates: &[Candidate]) -> Result<Vec<Vec<f64>>, InverseError> {
        let range = self.sample.range;
        let input =
            Mat::from_fn(self.point.len(), candidates.len(), |i, k| range.clip(T::from_f64(candidates[k].1[i])));
        let output = forward(self.op, input.as_ref())?;
        Ok((0..candidates.len()).map(|k| widened(output.as_ref(), k)).collect())
    }

    fn clip(&self, values: &[f64]) -> Vec<f64> {
        values.iter().map(|&v| self.sample.range.clip(T::from_f64(v)).to_f64()).collect()
    }

    /// Ends of the returned box within the range, infinite ones replaced by far away numbers.
    fn finite_box(&self, i: usize) -> (f64, f64) {
        let (range, far) = (self.sample.range, 4.0 * self.scale + self.point[i].abs());
        let lower = self.lower[i].max(range.lower.to_f64()).max(self.point[i] - far);
        let upper = self.upper[i].min(range.upper.to_f64()).min(self.point[i] + far);
        (lower, upper)
    }

    /// Points all over the returned box must do as well as the point, and none of them may be nearer.
    fn check_box(&self, check: &ReverseCheck, attained: bool, ledger: &mut Ledger) -> Result<(), ConformanceError> {
        let n = self.point.len();
        let corner = |choose: &dyn Fn(usize, f64, f64) -> f64| -> Vec<f64> {
            (0..n).map(|i| self.finite_box(i)).enumerate().map(|(i, (lo, hi))| choose(i, lo, hi)).collect()
        };
        let mut tries: Vec<Candidate> = vec![
            ("all lower ends", corner(&|_, lo, _| lo)),
            ("all upper ends", corner(&|_, _, hi| hi)),
            ("the point of the box nearest to the observed input", corner(&|i, lo, hi| self.observed[i].clip(lo, hi))),
        ];
        let mut random = rng(n as u64);
        for _ in 0..16 {
            let (kind, t) =
                (uniform_vec::<f64>(n, 0.0, 4.0, &mut random), uniform_vec::<f64>(n, 0.0, 1.0, &mut random));
            let pick = |i: usize, lo: f64, hi: f64| match kind[i] as usize {
                0 => lo,
                1 => hi,
                2 => self.point[i],
                _ => lo + t[i] * (hi - lo),
            };
            tries.push(("a random point of the box", corner(&pick)));
        }
        let outputs = self.outputs(&tries).map_err(|error| ledger.failure("forward works", error.to_string()))?;
        let tolerance = check.tolerance * T::EPSILON.to_f64() * self.sample.output_size(0);
        let score = |output: &[f64]| {
            if attained { self.sample.violation(0, output) } else { self.sample.distance(0, output) }
        };
        let allowed = score(&self.output) + tolerance;
        for ((what, x), output) in tries.iter().zip(&outputs) {
            ledger.expect("the whole box does as well as the point", score(output) <= allowed, || {
                let worst = (0..n).max_by(|&a, &b| (x[a] - self.point[a]).abs().total_cmp(&(x[b] - self.point[b]).abs()));
                format!(
                    "{}: {what} misses the target by {:e}, allowed {allowed:e}; it is farthest from the point at entry {}",
                    self.sample.origin, score(output), worst.unwrap_or(0),
                )
            })?;
        }
        let (best, moved) = (distance(&tries[2].1, &self.observed), distance(&self.point, &self.observed));
        let slack = self.slack(check, moved);
        ledger.expect("the point is the nearest of its box", best >= moved - slack, || {
            format!("{}: the point moved by {moved:e}, the box allows {best:e}", self.sample.origin)
        })
    }

    /// Distance that the layer moves if the target box is widened to take in `output`, or is that point only.
    fn moved_for(&self, output: &[f64], points_only: bool, ledger: &Ledger) -> Result<f64, ConformanceError> {
        let mut wider = self.sample.sample(0);
        for (i, &y) in output.iter().enumerate() {
            let y = T::from_f64(y);
            wider.lower[(i, 0)] = if points_only { y } else { wider.lower[(i, 0)].min(y) };
            wider.upper[(i, 0)] = if points_only { y } else { wider.upper[(i, 0)].max(y) };
            wider.point[(i, 0)] = wider.output[(i, 0)].clip(wider.lower[(i, 0)], wider.upper[(i, 0)]);
        }
        let answer = wider.reverse(self.op, Conditions::PLAIN);
        let answer = answer.map_err(|error| ledger.failure("reverse works", format!("{}: {error}", wider.origin)))?;
        Ok(distance(&widened(answer.point.as_ref(), 0), &self.observed))
    }

    /// How much nearer another input may be.
    fn slack(&self, check: &ReverseCheck, moved: f64) -> f64 {
        let eps = T::EPSILON.to_f64();
        let size = self.observed.iter().chain(&self.point).fold(0.0_f64, |s, x| s.max(x.abs()));
        check.nearest * eps.sqrt() * (moved + 0.1 * size) + 16.0 * eps * size
    }

    /// Inputs on the way back to the observed one, entry by entry and together, and random ones.
    fn simple_moves(&self) -> Vec<Candidate> {
        let n = self.point.len();
        let between =
            |a: &[f64], b: &[f64], t: f64| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + t * (b - a)).collect() };
        let mut moves = vec![("the observed input", self.observed.clone())];
        for t in [1e-3, 1e-2, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99] {
            moves.push(("a step back to the observed input", between(&self.point, &self.observed, t)));
        }
        if let Some(witness) = &self.sample.witness {
            let witness = widened(witness.as_ref(), 0);
            for k in 0..20 {
                let t = f64::from(k) / 20.0;
                moves.push(("a step from the preimage used to make the target", between(&witness, &self.observed, t)));
            }
        }
        for i in (0..n).filter(|&i| self.point[i] != self.observed[i]) {
            for t in [1e-2, 0.1, 0.5, 1.0] {
                let mut x = self.point.clone();
                x[i] += t * (self.observed[i] - x[i]);
                moves.push(("a step back of one entry", x));
            }
        }
        let mut random = rng(7 * n as u64);
        let moved = distance(&self.point, &self.observed);
        for k in 0..32 {
            let radius = moved * 0.5_f64.powi(k % 4) / (n as f64).sqrt();
            let step = uniform_vec::<f64>(n, -1.7 * radius, 1.7 * radius, &mut random);
            moves.push(("a random input", self.observed.iter().zip(&step).map(|(x, d)| x + d).collect()));
        }
        moves
    }

    /// Differences of the forward pass at the point, and which outputs are at an end of their interval.
    fn surface(&self, check: &ReverseCheck) -> Result<Surface, InverseError> {
        let n = self.point.len();
        let h = T::EPSILON.to_f64().cbrt() * self.scale;
        let steps: Vec<Candidate> = (0..n)
            .flat_map(|i| [(i, h), (i, -h)])
            .map(|(i, h)| {
                let mut x = self.point.clone();
                x[i] += h;
                ("", self.clip(&x))
            })
            .collect();
        let outputs = self.outputs(&steps)?;
        let tolerance = check.tolerance * T::EPSILON.to_f64() * self.sample.output_size(0);
        let is_active = |k: usize| {
            let (y, lo, hi) = (self.output[k], self.sample.lower[(k, 0)].to_f64(), self.sample.upper[(k, 0)].to_f64());
            y <= lo + tolerance || y >= hi - tolerance
        };
        let slope = |k: usize, i: usize| {
            let width = steps[2 * i].1[i] - steps[2 * i + 1].1[i];
            if width > 0.0 { (outputs[2 * i][k] - outputs[2 * i + 1][k]) / width } else { 0.0 }
        };
        let active = (0..self.output.len()).filter(|&k| is_active(k));
        let rows = active.map(|k| (0..n).map(|i| slope(k, i)).collect()).collect::<Vec<Vec<f64>>>();
        let misses = (0..self.output.len()).map(|k| {
            let (y, lo, hi) = (self.output[k], self.sample.lower[(k, 0)].to_f64(), self.sample.upper[(k, 0)].to_f64());
            (lo - y).max(0.0) - (y - hi).max(0.0)
        });
        let descent = misses.enumerate().fold(vec![0.0; n], |mut sum, (k, miss)| {
            if miss != 0.0 {
                sum.iter_mut().enumerate().for_each(|(i, s)| *s += miss * slope(k, i));
            }
            sum
        });
        Ok(Surface { rows, descent })
    }

    /// Moves towards the observed input along which active outputs keep their value, to first order.
    fn surface_moves(&self, surface: &Surface) -> Vec<Candidate> {
        let (n, range) = (self.point.len(), self.sample.range);
        let back: Vec<f64> = (0..n).map(|i| self.observed[i] - self.point[i]).collect();
        // An entry at the end of the range cannot go further.
        let free = |i: usize, d: f64| {
            let beyond = T::from_f64(self.point[i] + d);
            range.contains(beyond) || range.clip(beyond).to_f64() != self.point[i]
        };
        let (count, mut random) = (surface.rows.len(), rng(13 * n as u64));
        let mut moves = Vec::new();
        for attempt in 0..count.min(6) + 8 {
            let draw = uniform_vec::<f64>(n + count, 0.0, 1.0, &mut random);
            // All active rows; all but one; random rows; random entries.
            let keep_row = |k: usize| match attempt {
                0 => true,
                a if a <= count.min(6) => k != (a - 1) * count / count.clamp(1, 6),
                a if a % 2 == 0 => draw[n + k] < 0.5,
                _ => true,
            };
            let keep_entry = |i: usize| attempt <= count.min(6) || attempt % 2 == 0 || draw[i] < 0.6;
            let mask: Vec<bool> = (0..n).map(|i| free(i, back[i]) && keep_entry(i)).collect();
            let masked =
                |v: &[f64]| -> Vec<f64> { v.iter().zip(&mask).map(|(v, &m)| if m { *v } else { 0.0 }).collect() };
            let rows = surface.rows.iter().enumerate().filter(|(k, _)| keep_row(*k)).map(|(_, row)| masked(row));
            let mut step = masked(&back);
            for q in orthonormal(rows).0 {
                let along = dot(&q, &step);
                step.iter_mut().zip(&q).for_each(|(s, q)| *s -= along * q);
            }
            for t in [1.0, 0.5, 0.1, 0.03, 0.01, 1e-3] {
                let x = self.point.iter().zip(&step).map(|(x, s)| x + t * s).collect();
                moves.push(("a step along the active constraints", x));
            }
        }
        let squared = dot(&surface.descent, &surface.descent);
        if squared > 0.0 {
            let miss = self.sample.distance(0, &self.output);
            for t in [1.0, 0.1, 0.01] {
                let step = t * miss * miss / squared;
                let x = self.point.iter().zip(&surface.descent).map(|(x, g)| x + step * g).collect();
                moves.push(("a step towards the target", x));
            }
        }
        moves
    }

    /// No candidate may be nearer and do as well, and none may miss by less.
    fn judge(
        &self,
        check: &ReverseCheck,
        surface: &Surface,
        tried: (&[Candidate], &[Vec<f64>]),
        ledger: &mut Ledger,
    ) -> Result<(), ConformanceError> {
        let (eps, moved) = (T::EPSILON.to_f64(), distance(&self.point, &self.observed));
        let tolerance = check.tolerance * eps * self.sample.output_size(0);
        let (violation, miss) = (self.sample.violation(0, &self.output), self.sample.distance(0, &self.output));
        let missed = violation > tolerance;
        let judged =
            (!check.points_only || self.sample.lower == self.sample.upper) && !(missed && check.miss_factor > 1.0);
        // Where the outputs are flat, many inputs round to one output; the gap to a missed target grows with the square
        // of a move across it, so that moves of `√eps · miss` do not show, longer ones where outputs hardly depend on them;
        // and what misses may do so by the tolerance more.
        let pivot = orthonormal(surface.rows.iter().cloned()).1;
        let hidden = if missed { (check.nearest * eps.sqrt() * miss + 8.0 * tolerance) / pivot } else { 0.0 };
        let slack = self.slack(check, moved) + 8.0 * eps * self.sample.output_size(0) / pivot + hidden;
        for ((what, x), output) in tried.0.iter().zip(tried.1) {
            let x = self.clip(x);
            let (distance, gap) = (distance(&x, &self.observed), self.sample.distance(0, output));
            let better = missed && gap * check.miss_factor < miss * (1.0 - check.nearest * eps.sqrt()) - tolerance;
            ledger.expect("a missed target is missed by as little as possible", !better, || {
                format!("{}: {what} misses by {gap:e}, the answer by {miss:e}", self.sample.origin)
            })?;
            let nearer = judged && distance < moved - slack;
            let does_as_well = if missed { gap <= miss } else { self.sample.excess(output, &self.output) == 0.0 };
            let nearly = !missed && self.sample.violation(0, output) <= violation + tolerance;
            // What misses a little more may be nearer, but not than the answer for a target that it meets.
            let nearer = nearer
                && (does_as_well
                    || nearly
                        && self.moved_for(output, check.points_only, ledger)? > distance + self.slack(check, moved));
            ledger.expect("no nearer input does as well", !nearer, || {
                let gains = |i: &usize| (self.point[*i] - self.observed[*i]).abs() - (x[*i] - self.observed[*i]).abs();
                let entry = (0..x.len()).max_by(|a, b| gains(a).total_cmp(&gains(b))).unwrap_or(0);
                format!(
                    "{}: {what} at distance {distance:e} misses the target by {gap:e}; the answer at {moved:e} by {miss:e}. \
                     The largest gain is at entry {entry}: observed {:e}, answer {:e}, nearer {:e}",
                    self.sample.origin, self.observed[entry], self.point[entry], x[entry],
                )
            })?;
        }
        Ok(())
    }
}

/// The active outputs near the point, linearised.
struct Surface {
    /// Gradients of the active outputs.
    rows: Vec<Vec<f64>>,
    /// Direction in which the distance to the target box falls fastest.
    descent: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

/// Gram-Schmidt, twice per row; rows that depend on earlier ones are left out. Also gives the smallest pivot.
fn orthonormal(rows: impl Iterator<Item = Vec<f64>>) -> (Vec<Vec<f64>>, f64) {
    let (mut basis, mut pivot): (Vec<Vec<f64>>, f64) = (Vec::new(), f64::INFINITY);
    for mut row in rows {
        let norm = dot(&row, &row).sqrt();
        for q in basis.iter().chain(&basis) {
            let along = dot(q, &row);
            row.iter_mut().zip(q).for_each(|(r, q)| *r -= along * q);
        }
        let rest = dot(&row, &row).sqrt();
        if rest > 1e-6 * norm && rest > 0.0 {
            pivot = pivot.min(rest);
            row.iter_mut().for_each(|r| *r /= rest);
            basis.push(row);
        }
    }
    (basis, pivot)
}
