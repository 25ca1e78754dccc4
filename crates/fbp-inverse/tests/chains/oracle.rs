//! Nearest points by other means: projected Adam, projected ascent from many starts, and sequential quadratic programmes
//! with a line search, all in plain `f64` loops over the plain network.

use crate::dice::Dice;
use crate::network::{Network, dot};

/// A function of one feature, in plain loops.
pub(crate) trait Plain {
    /// Every inner feature, last the output.
    fn trace(&self, v: &[f64]) -> Vec<Vec<f64>>;

    /// The gradient with respect to the feature of the output's product with some weights.
    fn pull(&self, trace: &[Vec<f64>], weights: Vec<f64>) -> Vec<f64>;
}

/// A plain network from a layer on.
pub(crate) struct Above<'a> {
    pub(crate) network: &'a Network,
    pub(crate) first: usize,
}

impl Plain for Above<'_> {
    fn trace(&self, v: &[f64]) -> Vec<Vec<f64>> {
        self.network.trace(self.first, v)
    }

    fn pull(&self, trace: &[Vec<f64>], weights: Vec<f64>) -> Vec<f64> {
        self.network.pull(self.first, trace, weights)
    }
}

/// `min |v - z|` under the margin, in `[low, high]`.
pub(crate) struct Problem<'a> {
    pub(crate) rest: Box<dyn Plain + 'a>,
    pub(crate) observed: Vec<f64>,
    pub(crate) label: usize,
    pub(crate) margin: f64,
    pub(crate) range: (f64, f64),
}

/// One linearised condition: its gradient, and its value at the observed feature.
struct Row {
    gradient: Vec<f64>,
    value: f64,
}

/// Cycles of the dual coordinate ascent.
const CYCLES: usize = 30;
/// Halvings of a segment.
const HALVINGS: usize = 12;

fn along(a: &[f64], b: &[f64], t: f64) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + t * (b - a)).collect()
}

/// The root of a non-decreasing function above `least`, or `least` if it is positive there: regula falsi (Illinois).
fn root(value: impl Fn(f64) -> f64, least: f64, norm_sq: f64) -> f64 {
    let (mut low, mut below) = (least, value(least));
    if below >= 0.0 {
        return least;
    }
    let mut high = least.max(0.0) + 1.0 / norm_sq;
    let mut above = value(high);
    while above < 0.0 && high < 1e4 / norm_sq {
        (low, below, high) = (high, above, 2.0 * high + 1.0 / norm_sq);
        above = value(high);
    }
    for _ in 0..20 {
        if above < 1e-10 {
            break;
        }
        let at = low - below * (high - low) / (above - below);
        let found = value(at);
        if found < 0.0 {
            (low, below, above) = (at, found, 0.5 * above);
        } else {
            (high, above, below) = (at, found, 0.5 * below);
        }
    }
    high
}

impl Problem<'_> {
    pub(crate) fn distance(&self, v: &[f64]) -> f64 {
        v.iter().zip(&self.observed).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
    }

    fn rivals(&self, output: &[f64]) -> Vec<usize> {
        let mut rivals: Vec<usize> = (0..output.len()).filter(|&class| class != self.label).collect();
        rivals.sort_by(|&a, &b| output[b].total_cmp(&output[a]));
        rivals
    }

    /// The label's logit minus the strongest other one, minus the margin.
    pub(crate) fn excess(&self, v: &[f64]) -> f64 {
        let trace = self.rest.trace(v);
        let output = &trace[trace.len() - 1];
        output[self.label] - output[self.rivals(output)[0]] - self.margin
    }

    /// Rows for the strongest rivals, and the excess.
    fn rows(&self, v: &[f64], count: usize) -> (Vec<Row>, f64) {
        let trace = self.rest.trace(v);
        let output = &trace[trace.len() - 1];
        let rivals = self.rivals(output);
        let excess = output[self.label] - output[rivals[0]] - self.margin;
        let row = |&rival: &usize| {
            let mut weights = vec![0.0; output.len()];
            (weights[self.label], weights[rival]) = (1.0, -1.0);
            let gradient = self.rest.pull(&trace, weights);
            let back = dot(&gradient, &self.observed) - dot(&gradient, v);
            Row { value: output[self.label] - output[rival] + back, gradient }
        };
        (rivals.iter().take(count).map(row).collect(), excess)
    }

    fn clip(&self, v: f64) -> f64 {
        v.clamp(self.range.0, self.range.1)
    }

    /// The nearest point with every row at the margin: dual coordinate ascent, each coordinate by bisection of its root.
    fn quadratic(&self, rows: &[Row]) -> Vec<f64> {
        let mut sum = self.observed.clone();
        let mut weights = vec![0.0; rows.len()];
        for _ in 0..CYCLES {
            let mut largest = 0.0_f64;
            for (row, weight) in rows.iter().zip(&mut weights) {
                let norm_sq = dot(&row.gradient, &row.gradient);
                if norm_sq < 1e-18 {
                    continue;
                }
                let value = |by: f64| {
                    let entries = sum.iter().zip(&self.observed).zip(&row.gradient);
                    row.value - self.margin + entries.map(|((s, z), g)| g * (self.clip(s + by * g) - z)).sum::<f64>()
                };
                let by = root(value, -*weight, norm_sq);
                *weight += by;
                sum.iter_mut().zip(&row.gradient).for_each(|(s, g)| *s += by * g);
                largest = largest.max(by.abs() * norm_sq.sqrt());
            }
            if largest < 1e-9 {
                break;
            }
        }
        sum.iter().map(|&s| self.clip(s)).collect()
    }

    /// Sequential quadratic programmes from a point with the margin: every step that has it counts, others are shortened.
    /// Rows of the last points that missed stay for a while.
    pub(crate) fn improve(&self, start: Vec<f64>, steps: usize) -> Vec<f64> {
        let mut best = start;
        let mut kept: Vec<Row> = Vec::new();
        let mut idle = 0;
        for _ in 0..steps {
            let (mut rows, _) = self.rows(&best, 4);
            let violated = |row: &Row| {
                row.value + dot(&row.gradient, &best) - dot(&row.gradient, &self.observed) < self.margin - 1e-9
            };
            kept.retain(|row| !violated(row));
            rows.append(&mut kept);
            let before = self.distance(&best);
            let wanted = self.quadratic(&rows);
            if self.distance(&wanted) > (1.0 - 1e-4) * before {
                break;
            }
            let (mut low, mut high) = (0.0, 1.0);
            if self.excess(&wanted) < 0.0 {
                for _ in 0..HALVINGS {
                    let middle = 0.5 * (low + high);
                    if self.excess(&along(&best, &wanted, middle)) < 0.0 { high = middle } else { low = middle }
                }
            } else {
                low = 1.0;
            }
            let beyond = along(&best, &wanted, high);
            best = along(&best, &wanted, low);
            kept = rows.split_off(4.min(rows.len()));
            kept.truncate(12);
            kept.append(&mut self.rows(&beyond, 2).0);
            idle = if self.distance(&best) < (1.0 - 1e-4) * before { 0 } else { idle + 1 };
            if idle > 6 {
                break;
            }
        }
        best
    }

    /// Projected Adam on distance and hinge; the nearest iterate with the margin, moved to exactly the margin.
    pub(crate) fn adam(&self, steps: usize, rate: f64, pull: f64) -> Option<Vec<f64>> {
        let n = self.observed.len();
        let (mut mean, mut square) = (vec![0.0; n], vec![0.0; n]);
        let mut v = self.observed.clone();
        let mut best: Option<Vec<f64>> = None;
        let size = (dot(&v, &v) / n as f64).sqrt();
        for step in 0..steps {
            let (rows, excess) = self.rows(&v, 1);
            let inside = excess >= 0.0;
            if inside && best.as_ref().is_none_or(|b| self.distance(b) > self.distance(&v)) {
                best = Some(v.clone());
            }
            let left = (2.0 * (1.0 - step as f64 / steps as f64)).min(1.0);
            let [first, second] = [0.9_f64, 0.999].map(|decay| 1.0 - decay.powi(step as i32 + 1));
            for i in 0..n {
                let slope = pull * (v[i] - self.observed[i]) - if inside { 0.0 } else { rows[0].gradient[i] };
                mean[i] = 0.9 * mean[i] + 0.1 * slope;
                square[i] = 0.999 * square[i] + 0.001 * slope * slope;
                v[i] = self.clip(v[i] - rate * size * left * mean[i] / first / ((square[i] / second).sqrt() + 1e-12));
            }
        }
        best.map(|best| self.to_the_margin(best))
    }

    /// The point of the segment to the observed feature that has the margin, from the far end.
    fn to_the_margin(&self, v: Vec<f64>) -> Vec<f64> {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..2 * HALVINGS {
            let middle = 0.5 * (low + high);
            if self.excess(&along(&self.observed, &v, middle)) < 0.0 { low = middle } else { high = middle }
        }
        along(&self.observed, &v, high)
    }

    /// Projected ascent on the margin from start number `start`, the first at the observed feature.
    pub(crate) fn ascent(&self, start: usize, dice: &mut Dice) -> Option<Vec<f64>> {
        let n = self.observed.len();
        let bounded = self.range.1.is_finite();
        let size = if bounded { 1.0 } else { (dot(&self.observed, &self.observed) / n as f64).sqrt().max(0.1) };
        let entry = |&z: &f64| match (start, bounded) {
            (0, _) => z,
            (_, true) => z + (1 + start % 3) as f64 / 3.0 * (dice.uniform() - z),
            (_, false) => self.clip(z + size * dice.normal() * (1 + start % 3) as f64 / 3.0),
        };
        let mut v: Vec<f64> = self.observed.iter().map(entry).collect();
        let (mut mean, mut square) = (vec![0.0; n], vec![0.0; n]);
        for step in 0..100 {
            let (rows, excess) = self.rows(&v, 1);
            if excess >= 0.0 {
                return Some(v);
            }
            let [first, second] = [0.9_f64, 0.99].map(|decay| 1.0 - decay.powi(step + 1));
            for i in 0..n {
                let slope = rows[0].gradient[i];
                mean[i] = 0.9 * mean[i] + 0.1 * slope;
                square[i] = 0.99 * square[i] + 0.01 * slope * slope;
                v[i] = self.clip(v[i] + 0.05 * size * mean[i] / first / ((square[i] / second).sqrt() + 1e-12));
            }
        }
        None
    }

    /// The smallest distance that Adam of three kinds or quadratic programmes from their results and from other starts
    /// reach; none if none has the margin.
    pub(crate) fn nearest(&self, starts: usize, dice: &mut Dice) -> Option<f64> {
        let settings = [(0.02, 1.0), (0.02, 0.1), (0.005, 1.0)];
        let mut candidates: Vec<Vec<f64>> =
            settings.iter().filter_map(|&(rate, pull)| self.adam(500, rate, pull)).collect();
        candidates.extend((0..starts).filter_map(|start| self.ascent(start, dice)));
        candidates.sort_by(|a, b| self.distance(a).total_cmp(&self.distance(b)));
        let least = self.distance(candidates.first()?);
        let improved = candidates.into_iter().take(4).map(|candidate| self.distance(&self.improve(candidate, 20)));
        Some(improved.fold(least, f64::min))
    }
}
