use std::sync::OnceLock;

use faer::Par;

use super::border::Border;
use super::cg::Pair;
use super::circulant::{Circulant, GroupParts};
use super::fft::PlaneFft;
use super::grid::Grid;
use super::plan::{Preconditioner, symbols};

/// Decades of shifts, as shares of the largest eigenvalue, that may have factors of their own: from 1e-3 down.
const FIRST: i32 = 3;
const DECADES: usize = 5;

/// Direct factors of `B Bᵀ + shift·I`, one for every decade of small shifts, made when a sample needs them.
///
/// Factors for a shift within half a decade leave the preconditioned system a condition number of three, whatever the
/// border of the image does. Where periodic inverses serve as well, they are used, for they cost nothing to set up.
#[derive(Debug, Default)]
pub(super) struct Shifted {
    decades: [OnceLock<Option<Factors>>; DECADES],
}

/// `(B Bᵀ + shift)⁻¹`, but for rounding.
#[derive(Debug)]
pub(super) struct Factors {
    pub(super) shift: f64,
    pub(super) inverse: Preconditioner,
}

/// Windows along the border for periodic inverses with small shifts, for every decade, made when a sample needs them.
#[derive(Debug, Default)]
pub(super) struct Borders {
    decades: [OnceLock<Option<Border>>; DECADES],
}

impl Borders {
    /// Makes the windows for a shift, as a share of the largest eigenvalue, unless they are there.
    pub(super) fn prepare(&self, share: f64, system: &Unshifted<'_>, par: Par) {
        let Some(decade) = Shifted::decade(share) else { return };
        self.decades[decade].get_or_init(|| {
            let fft = PlaneFft::new(system.grid.size());
            let symbols = symbols(system.pair, system.grid, &system.pair.weight, &fft);
            Border::new(system.grid, system.pair.near, &symbols, of_decade(decade) * system.scale, &fft, par)
        });
    }

    /// The windows for a shift, or for one a decade away.
    pub(super) fn nearest(&self, share: f64) -> Option<&Border> {
        nearest(&self.decades, Shifted::decade(share)?)
    }
}

/// The shift of a decade, as a share of the largest eigenvalue.
fn of_decade(decade: usize) -> f64 {
    10.0_f64.powi(-(FIRST + decade as i32))
}

/// What there is for a decade, or for the next one.
fn nearest<V>(decades: &[OnceLock<Option<V>>], decade: usize) -> Option<&V> {
    let made = |decade: usize| decades.get(decade)?.get()?.as_ref();
    made(decade).or_else(|| made(decade + 1)).or_else(|| made(decade.checked_sub(1)?))
}

/// The system that is to be factored.
pub(super) struct Unshifted<'a> {
    pub(super) pair: &'a Pair,
    pub(super) grid: &'a Grid,
    /// Its largest eigenvalue.
    pub(super) scale: f64,
}

/// Smallest shift, as a share of the largest eigenvalue, whose factors are rounded to `f32`: rounding moves what is
/// smallest in them by a tenth at most.
const SINGLE: f64 = 1e-5;
/// Largest ratio of a shift to that of the factors used for it.
const REACH: f64 = 30.0;

impl Shifted {
    fn decade(share: f64) -> Option<usize> {
        let decade = (-share.log10()).round() as i32 - FIRST;
        usize::try_from(decade).ok().map(|decade| decade.min(DECADES - 1))
    }

    /// Whether a shift, as a share of the largest eigenvalue, wants factors that nobody has tried to make.
    pub(super) fn is_missing(&self, share: f64) -> bool {
        Self::decade(share).is_some_and(|decade| self.decades[decade].get().is_none())
    }

    /// Makes the factors for a shift. Two threads may do so at once; one of the results is kept.
    pub(super) fn prepare(&self, share: f64, system: &Unshifted<'_>, par: Par) {
        let Some(decade) = Self::decade(share) else { return };
        let _ = self.decades[decade].set(factor(system, of_decade(decade), par));
    }

    /// The factors for a shift, or for one a decade away.
    pub(super) fn nearest(&self, share: f64) -> Option<&Factors> {
        nearest(&self.decades, Self::decade(share)?)
    }

    /// Factors that serve for all of these shifts of a system with this largest eigenvalue.
    pub(super) fn common(&self, shifts: impl Iterator<Item = f64> + Clone, scale: f64) -> Option<&Factors> {
        let (count, sum) = shifts.clone().fold((0.0, 0.0), |(count, sum), shift| (count + 1.0, sum + shift.ln()));
        let factors = self.nearest((sum / count).exp() / scale)?;
        let near = |shift: f64| (factors.shift / REACH..=factors.shift * REACH).contains(&shift);
        shifts.into_iter().all(near).then_some(factors)
    }
}

fn factor(system: &Unshifted<'_>, share: f64, par: Par) -> Option<Factors> {
    let Unshifted { pair, grid, scale } = *system;
    let shift = share * scale;
    let fft = PlaneFft::new(grid.size());
    let symbols = symbols(pair, grid, &pair.weight, &fft);
    let inverses: Vec<_> = symbols.iter().map(|symbol| symbol.gram_inverse(shift)).collect::<Option<_>>()?;
    let pairs = symbols.iter().zip(&inverses);
    let parts: Vec<_> = pairs.map(|(symbol, inverse)| GroupParts { symbol, inverse: &inverse.values }).collect();
    let inverse = if share >= 0.9 * SINGLE {
        Circulant::with_boundary(grid, pair.near, &parts, &fft, par).map(Preconditioner::Single)
    } else {
        Circulant::with_boundary(grid, pair.near, &parts, &fft, par).map(Preconditioner::Double)
    };
    let inverse =
        inverse.inspect_err(|error| tracing::warn!(%error, shift, "no direct factors for this shift")).ok()?;
    Some(Factors { shift, inverse })
}
