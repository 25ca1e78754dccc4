use faer::Mat;
use fbp_linalg::Cholesky;

use super::options::Bits;
use super::ridge::block;

/// Shares of the largest weight that are tried as the end of the scale.
const SHRINKS: usize = 20;

/// Levels of one output: multiples of a scale up to the largest one on both sides, zero among them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Levels {
    pub(super) scale: f32,
    pub(super) largest: i32,
}

impl Levels {
    /// The scale with the smallest squared error of rounding; smaller ones cut off large weights.
    pub(super) fn of(weights: &[f64], bits: Bits) -> Self {
        let largest = bits.largest();
        let end = weights.iter().fold(0.0_f64, |end, weight| end.max(weight.abs()));
        if end == 0.0 {
            return Self { scale: 0.0, largest };
        }
        let candidate = |step: usize| {
            let share = 1.0 - 0.5 * step as f64 / SHRINKS as f64;
            Self { scale: (share * end / f64::from(largest)) as f32, largest }
        };
        let error = |levels: &Self| weights.iter().map(|&weight| (weight - levels.round(weight)).powi(2)).sum::<f64>();
        let found = (0..SHRINKS).map(candidate).min_by(|a, b| error(a).total_cmp(&error(b)));
        found.unwrap_or(Self { scale: 0.0, largest })
    }

    /// The nearest level, as a number that `f32` holds.
    pub(super) fn round(self, weight: f64) -> f64 {
        let end = f64::from(self.largest);
        let level = (weight / f64::from(self.scale)).round().clamp(-end, end);
        // A level without a scale is zero.
        if level.is_finite() { f64::from(level as f32 * self.scale) } else { 0.0 }
    }
}

/// How far the later entries of a column move when an earlier one is moved: the rows of the upper Cholesky factor `U` of
/// `H⁻¹ = UᵀU`, `H` the damped Gram matrix of the support.
///
/// With `J` the reversal of the order, `J H J = L Lᵀ` gives `U = (J L J)⁻¹`.
#[derive(Clone, Debug)]
pub(super) struct Compensation {
    upper: Mat<f64>,
}

impl Compensation {
    /// None if the matrix is not positive definite with this damping.
    pub(super) fn new(gram: &Mat<f64>, order: &[usize], lambda: f64) -> Option<Self> {
        let reversed: Vec<usize> = order.iter().rev().copied().collect();
        let inverse = Cholesky::new(block(gram, &reversed, lambda).as_ref())?.inverse_lower();
        let n = order.len();
        // Rows of U as columns, so that each lies together.
        Some(Self { upper: Mat::from_fn(n, n, |j, i| inverse[(n - 1 - i, n - 1 - j)]) })
    }

    /// `(H⁻¹)_jj` of the entries from `place` on, which is what leaving out the entry costs, over its square.
    pub(super) fn slack(&self, place: usize) -> f64 {
        self.upper[(place, place)].powi(2)
    }

    /// Moves the entry at a place to `value`, and the later ones so that the least is missing.
    ///
    /// # Source
    /// Hassibi & Stork, "Second order derivatives for network pruning: optimal brain surgeon", NeurIPS 1992; column by column:
    /// Frantar et al., "GPTQ", ICLR 2023, eq. 4 and algorithm 1.
    pub(super) fn fix(&self, weights: &mut [f64], place: usize, value: f64) {
        let row = self.upper.col(place);
        let step = (weights[place] - value) / row[place];
        weights[place] = value;
        for (later, factor) in weights.iter_mut().zip(row.iter()).skip(place + 1) {
            *later -= step * factor;
        }
    }
}

/// Rounds the first `count` entries one after the other; the others, a bias, take up what they can.
pub(super) fn round_compensated(weights: &mut [f64], count: usize, levels: Levels, compensation: &Compensation) {
    for place in 0..count {
        let rounded = levels.round(weights[place]);
        compensation.fix(weights, place, rounded);
    }
}

/// Which entries of every four stay: two whose loss would cost most. Those that go move the later ones.
///
/// `weights` are in the order of the compensation, `fours` its places.
///
/// # Source
/// Frantar & Alistarh, "SparseGPT", ICML 2023, §3.
pub(super) fn choose_two_of_four(weights: &mut [f64], fours: &[[usize; 4]], compensation: &Compensation) -> Vec<usize> {
    let mut gone = Vec::with_capacity(2 * fours.len());
    for four in fours {
        let mut cheapest = *four;
        let cost = |place: usize| weights[place].powi(2) / compensation.slack(place);
        cheapest.sort_by(|&a, &b| cost(a).total_cmp(&cost(b)));
        let mut pair = [cheapest[0], cheapest[1]];
        pair.sort_unstable();
        for place in pair {
            compensation.fix(weights, place, 0.0);
            gone.push(place);
        }
    }
    gone
}
