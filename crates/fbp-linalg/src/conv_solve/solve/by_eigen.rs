use faer::Par;
use faer::dyn_stack::MemStack;

use super::cg::{State, dot};
use super::goal::{Length, ROOT_TOL, least_tolerance};
use super::{Fields, Vectors};
use crate::conv_solve::inverse::apply::Apply;
use crate::conv_solve::inverse::eigen::{At, Eigen, RESCUE_LIMIT, Search};
use crate::conv_solve::plan::{ConvSolvePlan, ShiftedBy};
use crate::{LinalgError, Real, get_or_make};

/// Looks for the shift at which a length is at its bound.
struct Bounds<'a> {
    states: &'a mut [State],
    length: Length,
    in_unknowns: bool,
    /// Largest length of every sample.
    limits: &'a [f64],
    /// `r` of every sample.
    wanted: &'a [f64],
    rounding: f64,
}

impl Search for Bounds<'_> {
    fn goes_on(&self, sample: usize) -> bool {
        !self.states[sample].stopped
    }

    fn take(&mut self, sample: usize, shift: f64) {
        self.states[sample].shift = shift;
    }

    fn loosest(&self) -> f64 {
        ROOT_TOL
    }

    fn squares(&self, sample: usize) -> f64 {
        let rows = self.wanted.len() / self.limits.len();
        let wanted = &self.wanted[sample * rows..][..rows];
        dot(wanted, wanted)
    }

    fn is_enough(&self, sample: usize, tolerance: f64, at: At) -> bool {
        let falling = self.length.falling(self.in_unknowns, at.squares);
        falling(at.shift, at.found) <= self.length.falling_to(self.limits[sample], tolerance)
    }

    fn tolerance(&self, at: At) -> f64 {
        let lengths = Length::lengths(self.in_unknowns, at.squares, at.shift, at.found);
        self.length.tolerance(at.shift, lengths, self.rounding)
    }
}

impl<T: Real> ConvSolvePlan<T> {
    /// Finds the shifts of all samples, and their solutions, by eigenvalues.
    pub(crate) fn solve_by_eigen(
        &self,
        eigen: &Eigen,
        (length, floor): (Length, f64),
        fields: &Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let panel = vectors.panel(fields.wanted);
        if self.operator.in_unknowns {
            self.operator.pair.to_near(panel.wanted, panel.res, par, stack)?;
        } else {
            panel.res.copy_from_slice(panel.wanted);
        }
        let (limits, wanted, rounding) = (&*fields.limits, &*fields.wanted, least_tolerance(T::EPSILON.to_f64()));
        let states = panel.states;
        let mut search = Bounds { states, length, in_unknowns: self.operator.in_unknowns, limits, wanted, rounding };
        let pass = Apply { r: panel.res, z: panel.x };
        eigen.solve(floor, &mut search, pass, par, stack);
        Ok(())
    }

    /// The eigenvalues of the system, made when they are needed first, if it is dense anyway and not too large.
    pub(crate) fn eigen(&self, par: Par) -> Option<&Eigen> {
        if self.inverses.by == ShiftedBy::Eigenvalues { self.eigenvalues(par) } else { None }
    }

    /// Whether eigenvalues may help samples that iterations leave short of their goal.
    pub(crate) fn rescue_pays(&self) -> bool {
        self.inverses.by != ShiftedBy::Eigenvalues && self.operator.pair.near_len() <= RESCUE_LIMIT
    }

    /// The eigenvalues of a system, however it is solved.
    pub(crate) fn eigenvalues(&self, par: Par) -> Option<&Eigen> {
        get_or_make(&self.inverses.eigenvalues, || Eigen::new(&self.operator.pair, par)).as_ref()
    }
}
