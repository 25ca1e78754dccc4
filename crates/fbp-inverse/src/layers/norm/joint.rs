//! The nearest input with its normalised feature in a box: deviation and entries together.
//!
//! With `d = x - mean` and `r = √(|d|²/n + ε)` the feature is `d/r`, and the problem is
//!
//! ```text
//! min ½|d - d0|²   subject to   r a_i <= d_i <= r b_i,  Σ d = 0,  |d|² = n (r² - ε)
//! ```
//!
//! Its Lagrangian has `d_i = clip(κ d0_i - ω)` with `κ = 1/(1 + μ)`, `μ` the multiplier of the norm. As long as the same
//! entries are clipped, `κ` and `ω` follow from `r`, and `r` is the root of an increasing function of one unknown: the
//! derivative of the distance. Going from piece to piece in this way ends at a stationary point, which is the nearest one
//! of all if `κ >= 1`, since the Lagrangian is then convex.
//!
//! An input range adds constant bounds on `d`. Where they exclude an interval, the mean is moved until they do not.

use super::group::{Group, GroupMemory, Moments};

/// Pieces that are tried; a few are enough nearly always.
const PIECES: usize = 40;

/// Times that the mean is moved to bring intervals into the range.
const MOVES: usize = 12;

/// Steps of the scalar root.
const STEPS: usize = 60;

/// Entries that a loop handles together.
const LANES: usize = 8;

/// `d = clip(κ d0 - ω)` for the root `r`.
#[derive(Clone, Copy)]
struct Piece {
    root: f64,
    kappa: f64,
    omega: f64,
}

/// Sums over the entries of a piece: those that are free, at an end of their interval, or at an end of the input range.
#[derive(Clone, Copy, Default, PartialEq)]
struct Sums {
    free: f64,
    /// `Σ d0` and `Σ d0²` of the free ones.
    first: f64,
    second: f64,
    /// `Σ e`, `Σ e²`, `Σ e d0` with the ends `e` that entries are at.
    ends: f64,
    ends_second: f64,
    ends_observed: f64,
    /// `Σ c` and `Σ c²` of those at an end of the range.
    held: f64,
    held_second: f64,
}

impl Group<'_> {
    /// Writes the normalised feature of the nearest input with this mean into `u`; tells whether the iteration ended.
    #[inline(always)]
    pub(super) fn solve_jointly(&self, observed: Moments, memory: &mut GroupMemory<'_>, u: &mut [f64]) -> bool {
        let Moments { mut mean, deviation } = observed;
        let mut moves = 0;
        let start = (deviation * deviation + self.epsilon).sqrt();
        let mut piece = Piece { root: start, kappa: 1.0, omega: 0.0 };
        let mut last = None;
        if start == 0.0 {
            return false;
        }
        self.centre(mean, memory);
        for _ in 0..PIECES {
            let limits = (self.range.lower - mean, self.range.upper - mean);
            let (sums, conflict) = sums_of(piece, memory, limits);
            if conflict != 0.0 {
                // Some interval lies beyond the range with this mean.
                moves += 1;
                if !self.sphere.centred || !conflict.is_finite() || moves > MOVES {
                    return false;
                }
                mean += conflict + (1e-12 * piece.root).copysign(conflict);
                self.centre(mean, memory);
                last = None;
                continue;
            }
            if last == Some(sums) {
                let ends = memory.first.iter().zip(memory.last.iter());
                for ((u, &d0), (&a, &b)) in u.iter_mut().zip(memory.observed.iter()).zip(ends) {
                    *u = (clip(piece, d0, (a, b), limits)) / piece.root;
                }
                return piece.root < 100.0 * start && start < 100.0 * piece.root;
            }
            last = Some(sums);
            let Some(next) = self.next_piece(sums, piece.root, u.len() as f64) else { return false };
            piece = next;
        }
        false
    }

    /// The observed entries relative to a mean, into the memory.
    fn centre(&self, mean: f64, memory: &mut GroupMemory<'_>) {
        memory.observed.iter_mut().zip(self.input).for_each(|(d, x)| *d = x - mean);
    }

    /// The best `r`, and what follows from it, while the same entries are clipped.
    fn next_piece(&self, sums: Sums, guess: f64, n: f64) -> Option<Piece> {
        let Sums { free, first, second, ends, ends_second, ends_observed, held, held_second } = sums;
        // Without a mean to keep, nothing ties the free entries to the others.
        let tie = if self.sphere.centred { 1.0 / free } else { 0.0 };
        let spread = second - first * first * tie;
        // κ² · spread = q r² - 2 p r - w
        let (q, p) = (n - ends_second - ends * ends * tie, ends * held * tie);
        let w = held * held * tie + held_second + n * self.epsilon;
        let is_usable = free > 0.0 && q > 1e-12 * n;
        if !is_usable {
            return None;
        }
        let mut low = (p + (p * p + q * w).sqrt()) / q;
        let is_spread = spread > 1e-12 * second;
        if !is_spread {
            // Free entries without a spread follow from the mean, and the norm leaves one deviation.
            let omega = (first + low * ends + held) * tie;
            return (low > 0.0).then_some(Piece { root: low, kappa: 1.0, omega });
        }
        // Grows with r, from -∞ where κ = 0.
        let slope = |r: f64| {
            let square = ((q * r - 2.0 * p) * r - w).max(0.0);
            let inverse = (spread / square).sqrt();
            let moved = r * ends_second - ends_observed + ends * (r * ends + held + first) * tie;
            (moved + (1.0 - inverse) * (q * r - p), square, inverse)
        };
        let mut high = f64::INFINITY;
        let mut root = guess.max(low * (1.0 + 1e-9));
        for _ in 0..STEPS {
            let (value, square, inverse) = slope(root);
            if value > 0.0 {
                high = root;
            } else {
                low = root;
            }
            let curvature = ends_second
                + ends * ends * tie
                + (1.0 - inverse) * q
                + inverse * (q * root - p) * (q * root - p) / square;
            let newton = root - value / curvature;
            let next = if low < newton && newton < high {
                newton
            } else if high.is_finite() {
                0.5 * (low + high)
            } else {
                2.0 * root
            };
            let settled = (next - root).abs() <= 4.0 * f64::EPSILON * root;
            root = next;
            if settled {
                break;
            }
        }
        let kappa = (((q * root - 2.0 * p) * root - w) / spread).sqrt();
        let omega = (kappa * first + root * ends + held) * tie;
        (kappa > 0.0 && kappa < f64::INFINITY).then_some(Piece { root, kappa, omega })
    }
}

/// An entry of a piece.
#[inline(always)]
fn clip(piece: Piece, d0: f64, (a, b): (f64, f64), limits: (f64, f64)) -> f64 {
    let (low, high) = (piece.root * a, piece.root * b);
    let value = piece.kappa * d0 - piece.omega;
    let value = if value < low { low } else { value };
    let value = if value > high { high } else { value };
    let value = if value < limits.0 { limits.0 } else { value };
    if value > limits.1 { limits.1 } else { value }
}

/// The sums of a piece, and by how much the mean has to move for all intervals to reach into the range: 0 if they do, not
/// finite if no move is enough.
#[inline(always)]
fn sums_of(piece: Piece, memory: &GroupMemory<'_>, limits: (f64, f64)) -> (Sums, f64) {
    let mut lanes = [Sums::default(); LANES];
    let mut gaps = [[0.0_f64; LANES]; 2];
    let (observed, observed_rest) = memory.observed.as_chunks::<LANES>();
    let (first, first_rest) = memory.first.as_chunks::<LANES>();
    let (last, last_rest) = memory.last.as_chunks::<LANES>();
    for ((d0, a), b) in observed.iter().zip(first).zip(last) {
        for k in 0..LANES {
            let [up, down] = add(&mut lanes[k], piece, d0[k], (a[k], b[k]), limits);
            gaps[0][k] = if up > gaps[0][k] { up } else { gaps[0][k] };
            gaps[1][k] = if down > gaps[1][k] { down } else { gaps[1][k] };
        }
    }
    for ((&d0, &a), &b) in observed_rest.iter().zip(first_rest).zip(last_rest) {
        let [up, down] = add(&mut lanes[0], piece, d0, (a, b), limits);
        gaps[0][0] = gaps[0][0].max(up);
        gaps[1][0] = gaps[1][0].max(down);
    }
    let total = |part: fn(&Sums) -> f64| lanes.iter().map(part).sum::<f64>();
    let sums = Sums {
        free: total(|s| s.free),
        first: total(|s| s.first),
        second: total(|s| s.second),
        ends: total(|s| s.ends),
        ends_second: total(|s| s.ends_second),
        ends_observed: total(|s| s.ends_observed),
        held: total(|s| s.held),
        held_second: total(|s| s.held_second),
    };
    let [up, down] = gaps.map(|lanes| lanes.into_iter().fold(0.0, f64::max));
    let conflict = if up > 0.0 && down > 0.0 { f64::INFINITY } else { up - down };
    (sums, conflict)
}

/// Adds an entry; tells by how much its interval lies below the range, or above it.
#[inline(always)]
fn add(sums: &mut Sums, piece: Piece, d0: f64, (a, b): (f64, f64), limits: (f64, f64)) -> [f64; 2] {
    let value = piece.kappa * d0 - piece.omega;
    let (low, high) = (piece.root * a, piece.root * b);
    let (floor, ceiling) = (if low > limits.0 { low } else { limits.0 }, if high < limits.1 { high } else { limits.1 });
    let (below, above) = (value < floor, value > ceiling);
    let at_end = (below & (low >= limits.0)) | (above & (high <= limits.1));
    let at_limit = (below & (low < limits.0)) | (above & (high > limits.1));
    let end = if at_end { if below { a } else { b } } else { 0.0 };
    let limit = if at_limit { if below { limits.0 } else { limits.1 } } else { 0.0 };
    let free = if below | above { 0.0 } else { 1.0 };
    let inside = if below | above { 0.0 } else { d0 };
    sums.free += free;
    sums.first += inside;
    sums.second += inside * inside;
    sums.ends += end;
    sums.ends_second += end * end;
    sums.ends_observed += end * d0;
    sums.held += limit;
    sums.held_second += limit * limit;
    [limits.0 - high, low - limits.1]
}
