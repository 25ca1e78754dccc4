//! Targets that contradict each other: the nearest ones that do not.

use fbp_linalg::Real;

use crate::layers::pool::window::Windows;

/// Sweeps of the projection over a plane.
const SWEEPS: usize = 400;

/// Change of a sweep, relative to the largest conflict, below which the projection has settled.
const SETTLED: f64 = 1e-13;

/// Memory of [`relax`], in entries per window.
pub(super) struct RelaxMemory<'a> {
    /// One multiplier per window and window that shares its witness.
    pub(super) multipliers: &'a mut [f64],
    /// One per window.
    pub(super) floors: &'a mut [f64],
    /// One per window.
    pub(super) ceilings: &'a mut [f64],
    /// One per window.
    pub(super) witness: &'a mut [usize],
}

/// Sets every top to the smallest ceiling of the windows that hold the site; `most` where there is none.
pub(super) fn opening<T: Real>(windows: &Windows, ceilings: &[T], most: T, tops: &mut [T]) {
    tops.fill(most);
    for (window, &ceiling) in ceilings.iter().enumerate() {
        for site in windows.sites(window) {
            tops[site] = tops[site].min(ceiling);
        }
    }
}

/// The highest value that a window can reach.
fn reach<T: Real>(windows: &Windows, window: usize, tops: &[T]) -> T {
    windows.sites(window).map(|site| tops[site]).fold(T::NEG_INFINITY, T::max)
}

/// Raises ceilings and lowers floors until some site of every window can reach its floor. Tells whether it had to.
///
/// A window that cannot reach its floor names as *witness* the site where it exceeds the ceilings of the other windows
/// least. With the witnesses fixed, the smallest change in the sense of least squares is the projection on the order
/// `floor of a window <= ceilings of the windows that hold its witness` (Hildreth's method, one multiplier per pair).
/// The floors are then set to what the raised ceilings allow exactly.
pub(super) fn relax<T: Real>(
    windows: &Windows,
    floors: &mut [T],
    ceilings: &mut [T],
    (most, tops): (T, &mut [T]),
    memory: &mut RelaxMemory<'_>,
) -> bool {
    let conflict = |window: usize, floors: &[T], tops: &[T]| reach(windows, window, tops) < floors[window];
    if !(0..floors.len()).any(|window| conflict(window, floors, tops)) {
        return false;
    }
    let excess = |site: usize, floor: T| -> f64 {
        windows.windows(site).map(|q| (floor - ceilings[q]).to_f64().max(0.0)).map(|d| d * d).sum()
    };
    let mut largest = 0.0_f64;
    for window in 0..floors.len() {
        memory.witness[window] = usize::MAX;
        memory.floors[window] = floors[window].to_f64();
        memory.ceilings[window] = ceilings[window].to_f64();
        if conflict(window, floors, tops) {
            let sites = windows.sites(window).map(|site| (site, excess(site, floors[window])));
            let best = sites.reduce(|best, next| if next.1 < best.1 { next } else { best });
            if let Some((site, excess)) = best {
                memory.witness[window] = site;
                largest = largest.max(excess.sqrt());
            }
        }
    }
    project(windows, SETTLED * largest, memory);
    for (ceiling, &raised) in ceilings.iter_mut().zip(memory.ceilings.iter()) {
        *ceiling = ceiling.max(T::from_f64(raised));
    }
    opening(windows, ceilings, most, tops);
    for (window, floor) in floors.iter_mut().enumerate() {
        *floor = floor.min(reach(windows, window, tops));
    }
    true
}

/// Hildreth's method on `floors[window] <= ceilings[q]` for every `q` that holds the witness of `window`.
fn project(windows: &Windows, settled: f64, memory: &mut RelaxMemory<'_>) {
    let overlap = windows.overlap();
    memory.multipliers.fill(0.0);
    for _ in 0..SWEEPS {
        let mut change = 0.0_f64;
        for window in 0..memory.floors.len() {
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
