//! A system `lo <= A v + b <= hi`, `l <= v <= u`, and what a point makes of it, measured without the solvers.

use fbp_linalg::Real;

use super::exact::{Exact, distance, norm};
use super::svd::Proof;

/// One problem, in numbers that the features' precision represents.
#[derive(Clone, Debug)]
pub(crate) struct Affine {
    pub(crate) rows: Vec<Vec<f64>>,
    pub(crate) bias: Vec<f64>,
    /// The point to stay near.
    pub(crate) start: Vec<f64>,
    pub(crate) lower: Vec<f64>,
    pub(crate) upper: Vec<f64>,
    /// Bounds of every entry of `v`.
    pub(crate) range: (f64, f64),
    /// Whether the solver knows the bias only by the observed output at the start, up to the rounding of that.
    pub(crate) observed: bool,
    /// The outputs at the start that the solver was given, which then stand for the bias.
    pub(crate) outputs: Option<Vec<f64>>,
}

/// What the rows of a point come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowRatios {
    /// Largest distance to a row's interval over the one that counts as attained.
    pub(crate) definition: f64,
    /// Largest distance over `ε n |a_i| |v|` (and the bias, and `|a_i| |v0|` where the observed output stands for it).
    pub(crate) residual: f64,
}

/// `16 ε √terms scale`: the definition of attained, written down a second time.
pub(crate) fn slack<T: Real>(terms: usize, scale: f64) -> f64 {
    let scale = scale.clamp(T::MIN_POSITIVE.to_f64(), T::MAX.to_f64());
    16.0 * T::EPSILON.to_f64() * (terms as f64).sqrt() * scale
}

/// `x / y` where both may be zero.
pub(crate) fn ratio(x: f64, y: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x / y }
}

/// Distance of an exact value to an interval.
pub(crate) fn distance_to(value: Exact, lower: f64, upper: f64) -> f64 {
    let less = |end: f64| {
        let mut rest = value;
        rest.add(-end);
        rest.value()
    };
    let below = if lower.is_finite() { -less(lower) } else { f64::NEG_INFINITY };
    let above = if upper.is_finite() { less(upper) } else { f64::NEG_INFINITY };
    below.max(above).max(0.0)
}

impl Affine {
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.rows.len(), self.start.len())
    }

    pub(crate) fn image(&self, i: usize, v: &[f64]) -> Exact {
        let mut sum = Exact::default();
        self.rows[i].iter().zip(v).for_each(|(&a, &v)| sum.add_product(a, v));
        match &self.outputs {
            None => sum.add(self.bias[i]),
            Some(outputs) => {
                self.rows[i].iter().zip(&self.start).for_each(|(&a, &v)| sum.add_product(a, -v));
                sum.add(outputs[i]);
            }
        }
        sum
    }

    pub(crate) fn scale(&self, i: usize, v: &[f64]) -> f64 {
        self.rows[i].iter().zip(v).map(|(a, v)| (a * v).abs()).sum::<f64>() + self.bias[i].abs()
    }

    /// What counts as no miss of row `i`: its coefficients, without zeros, and the bias are its terms.
    pub(crate) fn slack<T: Real>(&self, i: usize, v: &[f64]) -> f64 {
        let terms = 1 + self.rows[i].iter().filter(|a| **a != 0.0).count();
        let products = self.rows[i].iter().zip(&self.start).map(|(a, v)| (a * v).abs()).sum::<f64>();
        let output = self.image(i, &self.start).value().abs();
        let observed = if self.observed { products + output } else { 0.0 };
        slack::<T>(terms, self.scale(i, v)) + T::EPSILON.to_f64() * (terms as f64).sqrt() * observed
    }

    pub(crate) fn miss(&self, i: usize, v: &[f64]) -> f64 {
        distance_to(self.image(i, v), self.lower[i], self.upper[i])
    }

    pub(crate) fn ratios<T: Real>(&self, v: &[f64]) -> RowRatios {
        let mut worst = RowRatios::default();
        let length = norm(v);
        for i in 0..self.rows.len() {
            let miss = self.miss(i, v);
            let observed = if self.observed { norm(&self.start) } else { 0.0 };
            let size = norm(&self.rows[i]) * (length + observed) + self.bias[i].abs();
            worst.definition = worst.definition.max(ratio(miss, self.slack::<T>(i, v)));
            worst.residual = worst.residual.max(ratio(miss, T::EPSILON.to_f64() * v.len() as f64 * size));
        }
        worst
    }

    /// The point that the multipliers belong to: `v0 + Aᵀ m`, within the bounds.
    pub(crate) fn minimiser(&self, multipliers: &[f64]) -> Vec<f64> {
        let (l, u) = self.range;
        let entry = |(j, &start): (usize, &f64)| {
            let mut sum = Exact::default();
            sum.add(start);
            multipliers.iter().enumerate().for_each(|(i, &m)| sum.add_product(self.rows[i][j], m));
            sum.value().clamp(l, u)
        };
        self.start.iter().enumerate().map(entry).collect()
    }

    /// How far `½|v - v0|²` may lie above the optimum, proved by the multipliers of any dual point, over what is allowed.
    ///
    /// The dual function is a lower bound of the optimum for every choice of multipliers (positive ones push a row up to
    /// its lower end). Allowed are a millionth of the optimum, what the rows' slack is worth at these multipliers, to the
    /// first order and, where the sensitivity is known, to the second, and the rounding of `v`.
    pub(crate) fn excess<T: Real>(&self, v: &[f64], proof: &Proof) -> f64 {
        let multipliers = &proof.multipliers;
        let minimiser = self.minimiser(multipliers);
        let mut gap = Exact::default();
        for ((&v, &w), &start) in v.iter().zip(&minimiser).zip(&self.start) {
            gap.add_product(0.5 * (v - start), v - start);
            gap.add_product(-0.5 * (w - start), w - start);
        }
        let mut worth = 0.0;
        for (i, &m) in multipliers.iter().enumerate() {
            let end = if m > 0.0 { self.lower[i] } else { self.upper[i] };
            if m == 0.0 || !end.is_finite() {
                continue;
            }
            let mut rest = self.image(i, &minimiser);
            rest.add(-end);
            gap.add_product(m, rest.value());
            worth += m.abs() * self.slack::<T>(i, v);
        }
        for weights in &proof.sensitivity {
            let slack = |(i, w): (usize, &f64)| w.abs() * self.slack::<T>(i, v);
            worth += 0.5 * weights.iter().enumerate().map(slack).sum::<f64>().powi(2);
        }
        let eps = T::EPSILON.to_f64();
        let moved = distance(v, &self.start);
        let optimum = 0.5 * moved * moved;
        let rounding = eps * v.iter().zip(&self.start).map(|(v, s)| (v.abs() + s.abs()) * (v - s).abs()).sum::<f64>();
        ratio(gap.value().max(0.0), (1e-6 + 1e3 * eps) * optimum + worth + 4.0 * rounding)
    }

    /// Size of the normal equations of the least-squares problem at `v`, over `1e3 ε` of their terms.
    pub(crate) fn normal_equations<T: Real>(&self, v: &[f64]) -> f64 {
        let (m, n) = self.shape();
        let rest: Vec<f64> = (0..m)
            .map(|i| {
                let mut rest = self.image(i, v);
                rest.add(-self.lower[i]);
                rest.value()
            })
            .collect();
        let gradient: Vec<f64> = (0..n)
            .map(|j| {
                let mut sum = Exact::default();
                rest.iter().zip(&self.rows).for_each(|(&r, row)| sum.add_product(r, row[j]));
                sum.value()
            })
            .collect();
        let size = self.rows.iter().map(|row| norm(row)).fold(0.0_f64, f64::hypot);
        let terms = size * (size * (norm(v) + norm(&self.start)) + norm(&self.bias) + norm(&self.lower));
        ratio(norm(&gradient), 1e3 * T::EPSILON.to_f64() * terms)
    }
}
