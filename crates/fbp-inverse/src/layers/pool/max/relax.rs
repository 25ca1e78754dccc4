//! Targets that contradict each other: the nearest ones that do not.

use fbp_linalg::Real;

use crate::Interval;
use crate::layers::pool::window::Windows;

/// Sweeps of the projection over a plane.
const SWEEPS: usize = 400;

/// Change of a sweep, relative to the largest conflict, below which the projection has settled.
const SETTLED: f64 = 1e-13;

/// Times that witnesses are chosen.
const ROUNDS: usize = 4;

/// Raised ceilings are multiples of this share of the largest conflict.
const GRID: f64 = 1e-9;

/// Memory of [`relax`], in entries per window.
pub(super) struct RelaxMemory<'a> {
    /// One multiplier per window and window that shares its witness.
    pub(super) multipliers: &'a mut [f64],
    /// One per window.
    pub(super) floors: &'a mut [f64],
    /// One per window.
    pub(super) ceilings: &'a mut [f64],
    /// One per window.
    pub(super) best: &'a mut [f64],
    /// Two per window: multipliers of the input range.
    pub(super) holds: &'a mut [[f64; 2]],
    /// One per window.
    pub(super) witness: &'a mut [usize],
}

/// One plane of a target that may contradict itself.
pub(super) struct Wanted<'a, T> {
    pub(super) windows: &'a Windows,
    /// The intervals of the windows.
    pub(super) lower: &'a [T],
    pub(super) upper: &'a [T],
    /// What the inputs are limited to.
    pub(super) range: Interval<T>,
}

/// Sets every top to the smallest ceiling of the windows that hold the site; `most` where there is none.
fn opening<T: Real>(windows: &Windows, ceilings: &[T], most: T, tops: &mut [T]) {
    tops.fill(most);
    for (window, &ceiling) in ceilings.iter().enumerate() {
        windows.sites(window).for_each(|site| tops[site] = tops[site].min(ceiling));
    }
}

/// The highest value that a window can reach.
fn reach<T: Real>(windows: &Windows, window: usize, tops: &[T]) -> T {
    windows.sites(window).map(|site| tops[site]).fold(T::NEG_INFINITY, T::max)
}

/// Raises ceilings and lowers floors until some site of every window can reach its floor.
///
/// A window that cannot reach its floor names as *witness* the site where it exceeds the ceilings of the other windows
/// least. With the witnesses fixed, the smallest change in the sense of least squares is the projection on the order
/// `floor of a window <= ceilings of the windows that hold its witness` (Hildreth's method, one multiplier per pair).
/// As a raised ceiling can make another witness better, this is repeated while it helps. The floors are then set to
/// what the raised ceilings allow exactly.
///
/// `floors` and `ceilings` are the wanted intervals within the range, `tops` their [`opening`].
pub(super) fn relax<T: Real>(
    wanted: &Wanted<'_, T>,
    (floors, ceilings): (&mut [T], &mut [T]),
    tops: &mut [T],
    memory: &mut RelaxMemory<'_>,
) {
    let windows = wanted.windows;
    for (best, &ceiling) in memory.best.iter_mut().zip(&*ceilings) {
        *best = ceiling.to_f64();
    }
    let (mut least, mut grid) = (f64::INFINITY, 0.0);
    for _ in 0..ROUNDS {
        let largest = choose_witnesses(windows, floors, tops, memory);
        project(wanted, SETTLED * largest, memory);
        let square = |(wide, narrow): (&f64, &T)| {
            let change = wide - narrow.to_f64();
            if change.is_finite() { change * change } else { 0.0 }
        };
        let changed: f64 = memory.floors.iter().zip(wanted.lower).map(square).sum::<f64>()
            + memory.ceilings.iter().zip(wanted.upper).map(square).sum::<f64>();
        if changed >= least * (1.0 - SETTLED) {
            break;
        }
        // Ceilings that should be equal are made so, or sites would be raised for the difference.
        grid = (largest * GRID).max(grid);
        least = changed;
        memory.best.copy_from_slice(memory.ceilings);
    }
    for (ceiling, &raised) in ceilings.iter_mut().zip(memory.best.iter()) {
        if raised > ceiling.to_f64() {
            let step = grid.max(4.0 * T::EPSILON.to_f64() * raised.abs());
            *ceiling = ceiling.max(T::from_f64((raised / step).round() * step));
        }
    }
    opening(windows, ceilings, wanted.range.upper, tops);
    for (window, floor) in floors.iter_mut().enumerate() {
        *floor = floor.min(reach(windows, window, tops));
    }
}

/// Names a witness for every window that cannot reach its floor, given the best ceilings so far; tells by how much the
/// floors exceed these at most.
fn choose_witnesses<T: Real>(windows: &Windows, floors: &[T], tops: &[T], memory: &mut RelaxMemory<'_>) -> f64 {
    let mut largest = 0.0_f64;
    for (window, &floor) in floors.iter().enumerate() {
        memory.witness[window] = usize::MAX;
        if reach(windows, window, tops) >= floor {
            continue;
        }
        let over = |q: usize| (floor.to_f64() - memory.best[q]).max(0.0);
        let sites = windows.sites(window).map(|site| (site, windows.windows(site).map(|q| over(q) * over(q)).sum()));
        let best = sites.reduce(|best: (usize, f64), next| if next.1 < best.1 { next } else { best });
        if let Some((site, excess)) = best {
            memory.witness[window] = site;
            largest = largest.max(excess.sqrt());
        }
    }
    largest
}

/// Hildreth's method on `floors[window] <= ceilings[q]` for every `q` that holds the witness of `window`, with both
/// within the range.
fn project<T: Real>(wanted: &Wanted<'_, T>, settled: f64, memory: &mut RelaxMemory<'_>) {
    let (windows, overlap) = (wanted.windows, wanted.windows.overlap());
    let (least, most) = (wanted.range.lower.to_f64(), wanted.range.upper.to_f64());
    for (window, (&lower, &upper)) in wanted.lower.iter().zip(wanted.upper).enumerate() {
        (memory.floors[window], memory.ceilings[window]) = (lower.to_f64(), upper.to_f64());
    }
    memory.multipliers.fill(0.0);
    memory.holds.fill([0.0; 2]);
    for _ in 0..SWEEPS {
        let mut change = 0.0_f64;
        for window in 0..memory.floors.len() {
            let [raised, lowered] = &mut memory.holds[window];
            let step = (least - memory.ceilings[window]).max(-*raised);
            *raised += step;
            memory.ceilings[window] += step;
            let step_down = (memory.floors[window] - most).max(-*lowered);
            *lowered += step_down;
            memory.floors[window] -= step_down;
            change = change.max(step.abs()).max(step_down.abs());
            let witness = memory.witness[window];
            if witness == usize::MAX {
                continue;
            }
            let multipliers = &mut memory.multipliers[window * overlap..(window + 1) * overlap];
            for (q, multiplier) in windows.windows(witness).zip(multipliers).filter(|(q, _)| *q != window) {
                let gap = 0.5 * (memory.floors[window] - memory.ceilings[q]);
                let step = gap.max(-*multiplier);
                // An infinite ceiling is never exceeded.
                if step != 0.0 && step.is_finite() {
                    *multiplier += step;
                    memory.floors[window] -= step;
                    memory.ceilings[q] += step;
                    change = change.max(step.abs());
                }
            }
        }
        if change <= settled {
            return;
        }
    }
}
