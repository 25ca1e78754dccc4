//! Which sites to raise so that every window reaches its floor: a weighted set cover, solved by local search.

use fbp_linalg::Real;

use crate::layers::pool::window::{Axis, Windows, split};

/// Passes of the local search over a plane; it ends earlier where nothing can be gained.
const ROUNDS: usize = 16;

/// Merging looks at all sites of all windows of a site; beyond this many it would take too long.
const MERGE_LIMIT: usize = 4096;

/// Moves count as no longer than this, so that sums of their squares are finite.
const FAR: f64 = 1e150;

/// Share of a cost that has to be gained for a change to count.
const GAIN: f64 = 1e-9;

/// One channel of one sample.
pub(super) struct Plane<'a, T> {
    pub(super) windows: &'a Windows,
    /// Observed value of every site.
    pub(super) observed: &'a [T],
    /// What some site of every window has to reach.
    pub(super) floors: &'a [T],
    /// Largest value of every site.
    pub(super) tops: &'a [T],
    /// Smallest value of every site.
    pub(super) least: T,
}

/// Memory of [`Plane::cover`].
pub(super) struct CoverMemory<'a, T> {
    /// As many as windows of a plane.
    pub(super) order: &'a mut [usize],
    /// As many.
    pub(super) met: &'a mut [bool],
    /// As many: the last round of the local search that looks at a window, 0 for those that it leaves alone.
    pub(super) looks: &'a mut [u8],
    /// At least [`log_len`].
    pub(super) log: &'a mut [(usize, T)],
    /// As many as windows that hold one site.
    pub(super) open: &'a mut [usize],
}

/// Number of entries of [`CoverMemory::log`].
pub(super) const fn log_len(windows: &Windows) -> usize {
    windows.overlap() * (windows.rows.kernel * windows.cols.kernel + 1)
}

impl<T: Real> Plane<'_, T> {
    /// Nearest value of a site that no window needs.
    fn rest(&self, site: usize) -> T {
        self.observed[site].clip(self.least, self.tops[site])
    }

    fn cost(&self, site: usize, value: T) -> f64 {
        let moved = (value - self.observed[site]).to_f64().abs().min(FAR);
        moved * moved
    }

    /// What it costs to raise a site from its value.
    fn price(&self, site: usize, to: T, values: &[T]) -> f64 {
        self.cost(site, to) - self.cost(site, values[site])
    }

    fn is_met(&self, window: usize, values: &[T]) -> bool {
        self.windows.sites(window).any(|site| values[site] >= self.floors[window])
    }

    /// The least that a site must have if all others keep their values.
    fn need(&self, site: usize, values: &[T]) -> T {
        let rest = self.rest(site);
        self.windows.windows(site).fold(rest, |need, window| {
            let floor = self.floors[window];
            let others = || self.windows.sites(window).any(|other| other != site && values[other] >= floor);
            if floor > need && values[site] >= floor && !others() { floor } else { need }
        })
    }

    /// Raises sites from the nearest values that no window needs, as little as the local search finds, until every floor
    /// is reached; `reached` holds the largest value of every window.
    ///
    /// Every window needs a site whose top is at least its floor.
    pub(super) fn cover(&self, values: &mut [T], reached: &[T], memory: &mut CoverMemory<'_, T>) {
        let count = self.raise_greedily(values, reached, memory);
        if count < 2 {
            return;
        }
        let CoverMemory { order, looks, log, open, .. } = memory;
        looks.fill(0);
        order[..count].iter().for_each(|&window| looks[window] = 1);
        for round in 1..=ROUNDS {
            let (now, next) = (round as u8, round as u8 + 1);
            let mut gained = false;
            for &window in order[..count].iter().filter(|_| log_len(self.windows) <= MERGE_LIMIT) {
                if looks[window] >= now && self.merge(window, values, log) {
                    self.look_again_around(window, next, looks);
                    gained = true;
                }
            }
            for site in 0..values.len() {
                if values[site] <= self.rest(site) || self.windows.windows(site).all(|q| looks[q] < now) {
                    continue;
                }
                if self.replace(site, values, open, log) {
                    self.windows.windows(site).for_each(|q| self.look_again_around(q, next, looks));
                    gained = true;
                }
            }
            if !gained {
                return;
            }
        }
    }

    /// Raises the best site of every window that needs one, highest floors first; gives the number of those that could
    /// share a site with another, which are then at the front of `memory.order`.
    fn raise_greedily(&self, values: &mut [T], reached: &[T], memory: &mut CoverMemory<'_, T>) -> usize {
        let CoverMemory { order, met, .. } = memory;
        let mut count = 0;
        for (window, (met, (most, floor))) in met.iter_mut().zip(reached.iter().zip(self.floors)).enumerate() {
            *met = most >= floor;
            order[count] = window;
            count += usize::from(!*met);
        }
        // What a site reaches then also serves every later window that it lies in.
        let falling = |a: &usize, b: &usize| {
            let floors = (self.floors[*b], self.floors[*a]);
            floors.0.partial_cmp(&floors.1).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(b))
        };
        order[..count].sort_unstable_by(falling);
        let mut dependent = 0;
        for at in 0..count {
            let window = order[at];
            let shares = if met[window] {
                true
            } else {
                let (best, shares) = self.choose(window, (values, reached), met);
                if let Some(site) = best {
                    let floor = self.floors[window];
                    values[site] = floor;
                    self.windows.windows(site).for_each(|q| met[q] |= self.floors[q] <= floor);
                }
                shares
            };
            order[dependent] = window;
            dependent += usize::from(shares);
        }
        dependent
    }

    /// Marks the windows whose sites a change in the given one can make worth another look: merging looks three windows
    /// far.
    fn look_again_around(&self, window: usize, round: u8, looks: &mut [u8]) {
        let (rows, cols) = (&self.windows.rows, &self.windows.cols);
        let (row, col) = split(window, cols.count);
        let reach = |axis: &Axis, at: usize| {
            let far = 3 * (axis.overlap() - 1);
            at.saturating_sub(far)..(at + far + 1).min(axis.count)
        };
        for row in reach(rows, row) {
            for look in &mut looks[row * cols.count..][reach(cols, col)] {
                *look = if *look > 0 { round } else { 0 };
            }
        }
    }

    /// The site with the smallest price per window that it would meet, the first one on ties; and whether some site that
    /// could serve the window could serve another one too.
    ///
    /// Without such a site the choice is final: no other window that needs one can make use of what is raised here.
    fn choose(&self, window: usize, (values, reached): (&[T], &[T]), met: &[bool]) -> (Option<usize>, bool) {
        let floor = self.floors[window];
        let mut best: Option<(usize, f64)> = None;
        let mut shares = false;
        for site in self.windows.sites(window).filter(|&site| self.tops[site] >= floor) {
            let (mut serves, mut could) = (0, 0);
            for q in self.windows.windows(site) {
                serves += usize::from(self.floors[q] <= floor && !met[q]);
                could += usize::from(reached[q] < self.floors[q] && self.floors[q] <= self.tops[site]);
            }
            shares |= could > 1;
            let share = self.price(site, floor, values) / serves as f64;
            if best.is_none_or(|(_, least)| share < least) {
                best = Some((site, share));
            }
        }
        (best.map(|(site, _)| site), shares)
    }

    /// Raises one site of a window, if that lets others fall by more than it costs.
    fn merge(&self, window: usize, values: &mut [T], log: &mut [(usize, T)]) -> bool {
        let floor = self.floors[window];
        for site in self.windows.sites(window) {
            if self.tops[site] < floor || values[site] >= floor {
                continue;
            }
            let served = |q: &usize| self.floors[*q] <= floor;
            if self.windows.windows(site).filter(served).nth(1).is_none() {
                continue;
            }
            let price = self.price(site, floor, values);
            let lifted = self.windows.windows(site).filter(served).flat_map(|q| self.windows.sites(q));
            let lifted = lifted.filter(|&other| other != site && values[other] > self.rest(other));
            let most: f64 = lifted.map(|other| -self.price(other, self.rest(other), values)).sum();
            if most * (1.0 - GAIN) <= price {
                continue;
            }
            let (old, mut saved, mut count) = (values[site], 0.0, 0);
            values[site] = floor;
            for q in self.windows.windows(site).filter(served) {
                for other in self.windows.sites(q).filter(|&other| other != site) {
                    if values[other] > self.rest(other) {
                        let need = self.need(other, values);
                        if need < values[other] {
                            saved -= self.price(other, need, values);
                            log[count] = (other, values[other]);
                            count += 1;
                            values[other] = need;
                        }
                    }
                }
            }
            if saved * (1.0 - GAIN) > price {
                return true;
            }
            undo(values, &log[..count]);
            values[site] = old;
        }
        false
    }

    /// Lets a raised site fall as far as others can take over its windows for less.
    fn replace(&self, site: usize, values: &mut [T], open: &mut [usize], log: &mut [(usize, T)]) -> bool {
        let (old, paid) = (values[site], self.price(site, self.rest(site), values).abs());
        values[site] = self.rest(site);
        let mut count = 0;
        for window in self.windows.windows(site) {
            if !self.is_met(window, values) {
                open[count] = window;
                count += 1;
            }
        }
        let open = &mut open[..count];
        let Some(level) = open.iter().map(|&q| self.floors[q]).reduce(T::max) else { return old > values[site] };
        let keep = self.price(site, level, values);
        let shares = |other: &usize| {
            *other != site && self.tops[*other] >= level && open.iter().all(|&q| self.windows.holds(q, *other))
        };
        let single = self.windows.sites(open[0]).filter(shares).map(|other| (other, self.price(other, level, values)));
        let single = single.fold(None, cheaper);
        let single_price = single.map_or(f64::INFINITY, |(_, price)| price);
        let (mut parts, mut raised) = (0.0, 0);
        open.sort_unstable_by(|a, b| {
            let floors = (self.floors[*b], self.floors[*a]);
            floors.0.partial_cmp(&floors.1).unwrap_or(std::cmp::Ordering::Equal)
        });
        for &window in open.iter() {
            if self.is_met(window, values) {
                continue;
            }
            let floor = self.floors[window];
            let able = |other: &usize| *other != site && self.tops[*other] >= floor;
            let sites = self.windows.sites(window).filter(able);
            let Some((other, price)) = sites.map(|o| (o, self.price(o, floor, values))).fold(None, cheaper) else {
                parts = f64::INFINITY;
                break;
            };
            log[raised] = (other, values[other]);
            raised += 1;
            parts += price;
            values[other] = floor;
        }
        let best = keep.min(single_price).min(parts);
        if parts > best {
            undo(values, &log[..raised]);
            match single {
                Some((other, price)) if price == best => values[other] = level,
                _ => values[site] = level,
            }
        }
        best < paid * (1.0 - GAIN)
    }
}

/// The cheaper of two sites, the first one on ties.
fn cheaper(best: Option<(usize, f64)>, next: (usize, f64)) -> Option<(usize, f64)> {
    match best {
        Some(best) if best.1 <= next.1 => Some(best),
        _ => Some(next),
    }
}

/// Takes changes back, the last one first.
fn undo<T: Real>(values: &mut [T], log: &[(usize, T)]) {
    for &(site, value) in log.iter().rev() {
        values[site] = value;
    }
}
