use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use super::circulant::{Circulant, GroupParts};
use super::symbol::Symbol;
use crate::conv_solve::inverse::apply::Apply;
use crate::conv_solve::inverse::apply::Forecast;
use crate::conv_solve::operator::grid::{End, Grid};

/// Periodic inverses `(M Mᴴ + shift)⁻¹` for shifts half a decade apart, from the largest to the smallest.
///
/// A regularised solve with any shift is preconditioned with the nearest rung, and the rungs forecast which shift gives
/// a wanted length.
#[derive(Clone, Debug)]
pub(crate) struct Ladder {
    shifts: Vec<f64>,
    rungs: Vec<Circulant<f32>>,
}

/// Rungs per decade, and decades below the largest eigenvalue: as far as an inverse rounded to `f32` stays definite.
const PER_DECADE: usize = 2;
const DECADES: usize = 6;
/// Most bytes that the rungs may take.
const LARGEST: usize = 256 << 20;
/// Most near planes of a group.
const PLANES: usize = 32;

impl Ladder {
    /// `None` where the inverses would take too much time or memory.
    pub(crate) fn new(grid: &Grid, near: End, symbols: &[Symbol], scale: f64) -> Option<Self> {
        let bytes: usize = symbols.iter().map(|s| 8 * s.p * s.p * s.freqs).sum();
        let rungs = PER_DECADE * DECADES + 1;
        if symbols.is_empty() || symbols.iter().any(|s| s.p > PLANES) || bytes * rungs > LARGEST {
            return None;
        }
        let mut ladder = Self { shifts: Vec::new(), rungs: Vec::new() };
        for rung in 0..rungs {
            let shift = scale * 10.0_f64.powf(-(rung as f64) / PER_DECADE as f64);
            let inverses: Option<Vec<_>> = symbols.iter().map(|s| s.gram_inverse(shift)).collect();
            let Some(inverses) = inverses else { break };
            let pairs = symbols.iter().zip(&inverses);
            let parts: Vec<_> =
                pairs.map(|(symbol, inverse)| GroupParts { symbol, inverse: &inverse.values }).collect();
            ladder.shifts.push(shift);
            ladder.rungs.push(Circulant::periodic(grid, near, &parts));
        }
        (!ladder.rungs.is_empty()).then_some(ladder)
    }

    pub(crate) fn scratch(&self, grid: &Grid, near: End, par: Par) -> StackReq {
        self.rungs.first().map_or(StackReq::EMPTY, |rung| rung.scratch(grid, near, 1, par))
    }

    /// `z <- M r` for one sample with the rung nearest to a shift.
    pub(crate) fn apply(&self, shift: f64, pass: Apply<'_>, at: (&Grid, End), stack: &mut MemStack) {
        let place = (self.shifts[0] / shift).log10() * PER_DECADE as f64;
        let rung = (place.round().max(0.0) as usize).min(self.rungs.len() - 1);
        self.rungs[rung].apply(pass, at, Par::Seq, stack);
    }

    /// The shift at which a falling length takes a given value, as the periodic operator sees it, and the length at the
    /// smallest shift.
    pub(crate) fn forecast(
        &self,
        wanted: f64,
        length: impl Fn(f64, Forecast) -> f64,
        pass: Apply<'_>,
        at: (&Grid, End),
        stack: &mut MemStack,
    ) -> (f64, f64) {
        let Apply { r, z } = pass;
        let mut at_rung = |rung: usize| {
            self.rungs[rung].apply(Apply { r, z: &mut *z }, at, Par::Seq, stack);
            length(self.shifts[rung], Forecast::of(r, z))
        };
        let last = self.rungs.len() - 1;
        let (mut low, mut high) = (0, last);
        let (mut length_low, mut length_high) = (None, at_rung(last));
        let largest = length_high;
        if length_high <= wanted {
            return (self.shifts[last], largest);
        }
        while low + 1 < high {
            let middle = (low + high) / 2;
            let found = at_rung(middle);
            if found > wanted {
                (high, length_high) = (middle, found);
            } else {
                (low, length_low) = (middle, Some(found));
            }
        }
        let length_low = length_low.unwrap_or_else(|| at_rung(low));
        if length_low >= wanted {
            return (self.shifts[low] * length_low / wanted, largest);
        }
        let share = (wanted / length_low).ln() / (length_high / length_low).ln();
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.5 };
        (self.shifts[low] * (self.shifts[high] / self.shifts[low]).powf(share), largest)
    }
}
