use std::sync::OnceLock;

use faer::Par;

use super::border::Border;
use super::circulant::{Circulant, GroupParts};
use super::fft::PlaneFft;
use super::symbol::symbols;
use crate::conv_solve::inverse::preconditioner::Preconditioner;
use crate::conv_solve::operator::grid::Grid;
use crate::conv_solve::operator::pair::Pair;
use crate::get_or_make;

/// Decades of shifts, as shares of the largest eigenvalue, that may have values of their own: from 1e-3 down.
const FIRST: i32 = 3;
const DECADES: usize = 5;

/// A value for every decade of small shifts of a system, made when a sample needs it; `None` where that failed.
#[derive(Debug)]
pub(crate) struct Decades<V>([OnceLock<Option<V>>; DECADES]);

/// Direct factors of `B Bᵀ + shift·I`.
///
/// Factors for a shift within half a decade leave the preconditioned system a condition number of three, whatever the
/// border of the image does. Where periodic inverses serve as well, they are used, for they cost nothing to set up.
pub(crate) type Shifted = Decades<Factors>;

/// Windows along the border for periodic inverses with small shifts.
pub(crate) type Borders = Decades<Border>;

/// `(B Bᵀ + shift)⁻¹`, but for rounding.
#[derive(Debug)]
pub(crate) struct Factors {
    pub(crate) shift: f64,
    pub(crate) inverse: Preconditioner,
}

/// The system that is to be factored.
pub(crate) struct Unshifted<'a> {
    pub(crate) pair: &'a Pair,
    pub(crate) grid: &'a Grid,
    /// Its largest eigenvalue.
    pub(crate) scale: f64,
}

/// Smallest shift, as a share of the largest eigenvalue, whose factors are rounded to `f32`: rounding moves what is
/// smallest in them by a tenth at most.
const SINGLE: f64 = 1e-5;
/// Largest ratio of a shift to that of the factors used for it.
pub(crate) const REACH: f64 = 30.0;

impl<V> Default for Decades<V> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; DECADES])
    }
}

impl<V> Decades<V> {
    fn index(share: f64) -> Option<usize> {
        let decade = ((-share.log10()).round() as i32).saturating_sub(FIRST);
        usize::try_from(decade).ok().map(|decade| decade.min(DECADES - 1))
    }

    /// Makes the value for a shift from the share of its decade, unless that was tried before.
    fn make(&self, share: f64, value: impl FnOnce(f64) -> Option<V>) {
        let Some(decade) = Self::index(share) else { return };
        get_or_make(&self.0[decade], || value(10.0_f64.powi(-(FIRST + decade as i32))));
    }

    /// The value for a shift, or for one a decade away.
    pub(crate) fn nearest(&self, share: f64) -> Option<&V> {
        let decade = Self::index(share)?;
        let made = |decade: usize| self.0.get(decade)?.get()?.as_ref();
        made(decade).or_else(|| made(decade + 1)).or_else(|| made(decade.checked_sub(1)?))
    }
}

impl Shifted {
    /// Makes the factors for a shift.
    pub(crate) fn prepare(&self, share: f64, system: &Unshifted<'_>, par: Par) {
        self.make(share, |share| factor(system, share, par));
    }

    /// Factors that serve for all of these shifts of a system with this largest eigenvalue.
    pub(crate) fn common(&self, shifts: impl Iterator<Item = f64> + Clone, scale: f64) -> Option<&Factors> {
        let (count, sum) = shifts.clone().fold((0.0, 0.0), |(count, sum), shift| (count + 1.0, sum + shift.ln()));
        let factors = self.nearest((sum / count).exp() / scale)?;
        let near = |shift: f64| (factors.shift / REACH..=factors.shift * REACH).contains(&shift);
        shifts.into_iter().all(near).then_some(factors)
    }
}

impl Borders {
    /// Makes the windows for a shift.
    pub(crate) fn prepare(&self, share: f64, system: &Unshifted<'_>, par: Par) {
        self.make(share, |share| {
            let fft = PlaneFft::new(system.grid.size());
            let symbols = symbols(system.pair, system.grid, &system.pair.weight, &fft);
            Border::new(system.grid, system.pair.near, &symbols, share * system.scale, &fft, par)
        });
    }
}

fn factor(system: &Unshifted<'_>, share: f64, par: Par) -> Option<Factors> {
    let Unshifted { pair, grid, scale } = *system;
    let shift = share * scale;
    tracing::debug!(share, "conv solve: factors for shifts like this share of the largest eigenvalue");
    let fft = PlaneFft::new(grid.size());
    let symbols = symbols(pair, grid, &pair.weight, &fft);
    let inverses: Vec<_> = symbols.iter().map(|symbol| symbol.gram_inverse(shift)).collect::<Option<_>>()?;
    let pairs = symbols.iter().zip(&inverses);
    let parts: Vec<_> = pairs.map(|(symbol, inverse)| GroupParts { symbol, inverse: &inverse.values }).collect();
    let inverse = if share >= 0.9 * SINGLE {
        Circulant::with_boundary(grid, pair.near, &parts, true, &fft, par).map(Preconditioner::Single)
    } else {
        Circulant::with_boundary(grid, pair.near, &parts, true, &fft, par).map(Preconditioner::Double)
    };
    let inverse =
        inverse.inspect_err(|error| tracing::warn!(%error, shift, "no direct factors for this shift")).ok()?;
    Some(Factors { shift, inverse })
}
