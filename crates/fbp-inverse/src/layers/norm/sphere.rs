//! Normalised features: which `u` with `Σ u = 0` (if centred) and `|u|² <= n` to ask for.

/// Steps of the root searches, which converge in about ten.
const STEPS: usize = 100;

/// Relative accuracy of the roots.
const ACCURACY: f64 = 1e-15;

/// Times that the largest feature found becomes the next anchor.
const ANCHORS: usize = 12;

/// Doublings of `κ`, few enough that its rounding does not show.
const DOUBLINGS: usize = 16;

/// Steps from piece to piece before the slower search takes over.
const PIECES: usize = 24;

/// Largest `κ` of a step.
const MOST_KAPPA: f64 = 65536.0;

/// `κ` and `κ ν` of `u = clip(κ (anchor - ν))`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    kappa: f64,
    omega: f64,
}

impl Piece {
    /// The anchor itself.
    pub(super) const START: Self = Self { kappa: 1.0, omega: 0.0 };
}

/// The set of normalised features of one group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sphere {
    /// Whether the mean is subtracted.
    pub(super) centred: bool,
    /// Whether only the sphere `|u|² = n` itself can be reached, not the ball in it: `ε = 0`.
    pub(super) hollow: bool,
}

fn squared(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum()
}

impl Sphere {
    /// The nearest of `gain · u` to `wanted`, into `u`.
    ///
    /// `u_i = (gain_i wanted_i - ν)/(gain_i² + λ)` with `ν` from the mean and `λ` from the norm; `λ = 0` inside the ball.
    pub(super) fn nearest(&self, gain: &[f64], wanted: &[f64], u: &mut [f64]) {
        let n = u.len() as f64;
        let (least, most) =
            gain.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), g| (low.min(g * g), high.max(g * g)));
        // Nothing beside any gain but 0, whose entries only have to balance the others.
        let floor = (1e-30 * most).max(f64::MIN_POSITIVE);
        if !self.hollow && self.at(gain, wanted, floor, u) <= n {
            return;
        }
        // The norm falls with λ, from ∞ at the pole.
        let mut low = if self.hollow { (1e-9 - 1.0) * least } else { floor };
        let mut high = (squared(wanted).sqrt() * most.sqrt() / n.sqrt()).max(floor).max(2.0 * low.abs());
        while self.at(gain, wanted, high, u) > n && high < f64::MAX * 0.25 {
            high *= 4.0;
        }
        let gap = |norm_sq: f64| 1.0 / norm_sq.sqrt().max(f64::MIN_POSITIVE) - 1.0 / n.sqrt();
        let (mut gap_low, mut gap_high) = (gap(self.at(gain, wanted, low, u)), gap(self.at(gain, wanted, high, u)));
        let mut last = 0;
        for _ in 0..STEPS {
            // 1/|u| is nearly linear in λ: false position, an end that stays counts half (Illinois).
            let middle = if gap_high > gap_low && gap_low < 0.0 && gap_high.is_finite() {
                low + (high - low) * (-gap_low / (gap_high - gap_low)).clamp(1e-6, 1.0 - 1e-6)
            } else {
                0.5 * (low + high)
            };
            let found = gap(self.at(gain, wanted, middle, u));
            if found.abs() * n.sqrt() <= ACCURACY || high - low <= ACCURACY * high.abs() {
                break;
            }
            if found < 0.0 {
                (low, gap_low) = (middle, found);
                gap_high *= if last == -1 { 0.5 } else { 1.0 };
                last = -1;
            } else {
                (high, gap_high) = (middle, found);
                gap_low *= if last == 1 { 0.5 } else { 1.0 };
                last = 1;
            }
        }
        let norm = squared(u).sqrt();
        if norm > 0.0 {
            u.iter_mut().for_each(|u| *u *= n.sqrt() / norm);
        }
    }

    /// Fills `u` for one `λ` and gives `|u|²`.
    fn at(&self, gain: &[f64], wanted: &[f64], lambda: f64, u: &mut [f64]) -> f64 {
        let (mut above, mut below) = (0.0, 0.0);
        if self.centred {
            for (g, t) in gain.iter().zip(wanted) {
                let share = 1.0 / (g * g + lambda);
                above += g * t * share;
                below += share;
            }
        }
        let nu = if self.centred { above / below } else { 0.0 };
        let mut norm_sq = 0.0;
        for (u, (g, t)) in u.iter_mut().zip(gain.iter().zip(wanted)) {
            *u = (g * t - nu) / (g * g + lambda);
            norm_sq += *u * *u;
        }
        norm_sq
    }

    /// A `u` in the box `[lower, upper]` with `|u|² = wanted` if one is found: `u = clip(κ (anchor - ν))`, the nearest to
    /// the anchor among those of its norm. Tells whether there is any; the norm may have to be another one.
    ///
    /// The anchor is `observed` at first. If even large `κ` give too small a norm, the box asks for other signs than the
    /// observed ones, and the largest `u` found is the next anchor, as long as the norm grows.
    pub(super) fn within(
        &self,
        observed: &[f64],
        wanted: f64,
        (lower, upper): (&[f64], &[f64]),
        (anchor, u): (&mut [f64], &mut [f64]),
        piece: &mut Piece,
    ) -> bool {
        if lower.iter().zip(upper).any(|(a, b)| a > b) {
            return false;
        }
        let n = u.len() as f64;
        if self.piecewise(wanted, observed, (lower, upper), u, piece) {
            return true;
        }
        *piece = Piece::START;
        anchor.copy_from_slice(observed);
        let Some(smallest) = self.clipped(0.0, anchor, (lower, upper), u) else { return false };
        if smallest >= wanted {
            return if self.hollow { smallest <= n * (1.0 + 1e-9) } else { smallest < n };
        }
        let mut before = 0.0;
        for _ in 0..ANCHORS {
            let (mut low, mut high, mut largest) = (0.0, 1.0, 0.0);
            for _ in 0..DOUBLINGS {
                largest = self.clipped(high, anchor, (lower, upper), u).unwrap_or(0.0);
                if largest >= wanted {
                    self.root(wanted, (low, high), anchor, (lower, upper), u);
                    return true;
                }
                (low, high) = (high, 2.0 * high);
            }
            if largest <= before * (1.0 + 1e-9) {
                break;
            }
            before = largest;
            anchor.copy_from_slice(u);
        }
        !self.hollow
    }

    /// As [`within`](Self::within) from where the last search ended: on the piece of the entries that are not clipped now,
    /// `κ` and `ν` have a closed form, and if it leads to the same piece it is the solution.
    ///
    /// Tells whether that worked; it does in a few steps nearly always.
    fn piecewise(
        &self,
        wanted: f64,
        observed: &[f64],
        (lower, upper): (&[f64], &[f64]),
        u: &mut [f64],
        piece: &mut Piece,
    ) -> bool {
        let mut last = [f64::NAN; 4];
        for _ in 0..PIECES {
            let Piece { kappa, omega } = *piece;
            let (mut free, mut sum, mut squares, mut held, mut held_squares) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for ((u, &v), (&a, &b)) in u.iter_mut().zip(observed).zip(lower.iter().zip(upper)) {
                let value = kappa * v - omega;
                let is_free = a < value && value < b;
                *u = value.max(a).min(b);
                let (inside, outside) = if is_free { (1.0, 0.0) } else { (0.0, 1.0) };
                free += inside;
                sum += inside * v;
                squares += inside * v * v;
                held += outside * *u;
                held_squares += outside * *u * *u;
            }
            let found = [free, sum, held, held_squares];
            if found == last {
                return true;
            }
            last = found;
            let (spread, rest) = if self.centred {
                (squares - sum * sum / free, wanted - held_squares - held * held / free)
            } else {
                (squares, wanted - held_squares)
            };
            let next = (rest / spread).sqrt();
            // Not a number if nothing is free, or if what is held is too large already.
            if !(next > 0.0 && next < MOST_KAPPA && spread > 1e-12 * squares) {
                return false;
            }
            *piece = Piece { kappa: next, omega: if self.centred { (next * sum + held) / free } else { 0.0 } };
        }
        false
    }

    /// Fills `u` for the `κ` between two ends at which the norm is `√wanted`.
    fn root(
        &self,
        wanted: f64,
        (mut low, mut high): (f64, f64),
        anchor: &[f64],
        ends: (&[f64], &[f64]),
        u: &mut [f64],
    ) {
        let mut gap = |kappa: f64| self.clipped(kappa, anchor, ends, u).unwrap_or(0.0).sqrt() - wanted.sqrt();
        let (mut gap_low, mut gap_high) = (gap(low), gap(high));
        let mut last = 0;
        for _ in 0..STEPS {
            let share = -gap_low / (gap_high - gap_low);
            let middle = if share.is_finite() { low + (high - low) * share.clamp(1e-6, 1.0 - 1e-6) } else { high };
            let found = gap(middle);
            if found.abs() <= ACCURACY * wanted.sqrt() || high - low <= ACCURACY * high {
                return;
            }
            if found < 0.0 {
                (low, gap_low) = (middle, found);
                gap_high *= if last == -1 { 0.5 } else { 1.0 };
                last = -1;
            } else {
                (high, gap_high) = (middle, found);
                gap_low *= if last == 1 { 0.5 } else { 1.0 };
                last = 1;
            }
        }
    }

    /// `u = clip(κ observed - ω)` with `ω` such that the mean is 0; gives `|u|²`, or `None` if no `ω` does.
    fn clipped(&self, kappa: f64, observed: &[f64], (lower, upper): (&[f64], &[f64]), u: &mut [f64]) -> Option<f64> {
        let mut omega = 0.0;
        let (mut low, mut high, mut step) = (f64::NEG_INFINITY, f64::INFINITY, 1.0);
        for round in 0..STEPS {
            let (mut sum, mut size, mut free) = (0.0, 0.0, 0_usize);
            let ends = lower.iter().zip(upper);
            for (u, (v, (&a, &b))) in u.iter_mut().zip(observed.iter().zip(ends)) {
                let value = kappa * v - omega;
                free += usize::from(a < value && value < b);
                *u = value.max(a).min(b);
                sum += *u;
                size += u.abs();
            }
            if !self.centred || sum.abs() <= ACCURACY * size || low == high {
                break;
            }
            if sum > 0.0 {
                low = omega
            } else {
                high = omega
            }
            let newton = omega + sum / free as f64;
            let next = if free > 0 && low < newton && newton < high {
                newton
            } else if low.is_finite() && high.is_finite() {
                0.5 * (low + high)
            } else {
                step *= 4.0;
                omega + if sum > 0.0 { step } else { -step }
            };
            // No free entry is left and none will be: the sum of the ends has the wrong sign.
            if next == omega || round + 1 == STEPS || !next.is_finite() {
                let scale = size.max(u.len() as f64);
                return (sum.abs() <= 1e-9 * scale).then(|| squared(u));
            }
            omega = next;
        }
        Some(squared(u))
    }
}
