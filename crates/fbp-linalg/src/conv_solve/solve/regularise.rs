//! Regularised solutions, with the shift that gives a wanted length.

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use super::cg::{Cg, State, dot, norm};
use super::goal::{Goal, Length, ROOT_TOL, Root};
use super::resolvent::{Resolvent, SETTLED, STEPS, with_resolvents};
use crate::conv_solve::inverse::apply::Apply;
use crate::conv_solve::inverse::eigen::Eigen;
use crate::conv_solve::inverse::shifted::{Factors, Unshifted};
use crate::conv_solve::plan::{ConvSolvePlan, ShiftedBy};
use crate::conv_solve::solve::{Done, Fields, Vectors};
use crate::parallel::{SplitBatch, for_each_part};
use crate::{LinalgError, Real};

/// Smallest shift of a regularised solve, as a share of the largest eigenvalue.
const SHIFT_FLOOR: f64 = 1e-14;
/// What a forecast shift is multiplied by in least squares with padding, where the periodic operator has unknowns in the
/// padding that there are not. Measured for 8 → 8, 12 and 16 channels, kernel 5, 32 × 32 and 64 × 64, condition 1e2 to
/// 1e5: 0.02 to 0.20, median 0.10; without padding 0.9 to 2.0.
const FORECAST_PADDED: f64 = 0.1;
/// Smallest forecast in least squares, as a share of the largest eigenvalue: below it the border decides. Measured where
/// the forecast was less, for a distance of ten norms: 6e-6 to 9e-5, median 6e-5 (8 → 16 channels, 32 × 32 and 64 × 64).
const LEAST_FORECAST: f64 = 4e-5;
/// Shifts, as shares of the largest eigenvalue, below which the system is factored: periodic inverses hang on the border
/// of the image there (measured: 8 -> 8 channels, kernel 5, padding 2, 64 × 64, share 1e-5: no end in 1000 steps against
/// 10), and in least squares already at larger shifts.
const SMALL_SHIFT: f64 = 3e-4;
const SMALL_SHIFT_LEAST_SQUARES: f64 = 3e-3;
/// Applications of factors after which the search for a shift looks whether others are nearer: the first where it has
/// found the shift with less than this residual, the second in any case; and how far from the wanted shift, as a ratio,
/// they have to be for that.
const GLANCES: [usize; 2] = [3, 6];
const TRUSTED: f64 = 0.2;
const FAR: f64 = 4.0;
/// Most such looks: with each the search can move on by more than a decade.
const MOST_GLANCES: usize = 4;
/// Steps of a solve with a small shift and periodic inverses.
const HARD_STEPS: usize = 200;

impl<T: Real> ConvSolvePlan<T> {
    /// Factors the system for shifts like this one, if it is so small that periodic inverses would hang on the border of
    /// the image. Done once for every decade of shifts.
    fn prepare_shift(&self, shift: f64, par: Par) {
        let share = shift / self.operator.scale;
        let largest = if self.operator.in_unknowns { SMALL_SHIFT_LEAST_SQUARES } else { SMALL_SHIFT };
        if share > largest {
            return;
        }
        let system = Unshifted { pair: &self.operator.pair, grid: &self.operator.grid, scale: self.operator.scale };
        if self.inverses.by == ShiftedBy::Factors {
            self.inverses.factors.prepare(share, &system, par);
        } else if self.inverses.ladder.is_some() && self.facts().border_pays(HARD_STEPS) {
            self.inverses.windows.prepare(share, &system, par);
        }
    }

    /// A shift to start from, and the length at the smallest shift of the ladder.
    pub(crate) fn forecast(
        &self,
        length: Length,
        j: usize,
        fields: &Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> (f64, f64) {
        let Some(ladder) = &self.inverses.ladder else { return (self.blind_shift(), 0.0) };
        let ((near, _), rows) = (self.lens(), self.rows());
        let wanted = &fields.wanted[j * rows..][..rows];
        let squares = dot(wanted, wanted);
        let (g, z) = vectors.near[..2 * near].split_at_mut(near);
        if self.operator.in_unknowns {
            if self.operator.pair.to_near(wanted, g, par, stack).is_err() {
                return (self.blind_shift(), 0.0);
            }
        } else {
            g.copy_from_slice(wanted);
        }
        let at = (&self.operator.grid, self.operator.pair.near);
        let falling = length.falling(self.operator.in_unknowns, squares);
        ladder.forecast(length.falling_to(fields.limits[j], ROOT_TOL), falling, Apply { r: g, z }, at, stack)
    }

    /// A shift to start from where there is no forecast: one with factors, which show where to go, if they pay.
    fn blind_shift(&self) -> f64 {
        let share = if self.inverses.by != ShiftedBy::Factors {
            1e-3
        } else if self.operator.in_unknowns {
            SMALL_SHIFT_LEAST_SQUARES
        } else {
            SMALL_SHIFT
        };
        share * self.operator.scale
    }

    /// Looks for the shifts of all samples, and their solutions, with factors for a shift nearby.
    fn foresee<'a>(
        &'a self,
        length: Length,
        mut factors: &'a Factors,
        fields: &Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let (near, rows) = (self.operator.pair.near_len(), self.rows());
        let at = (&self.operator.grid, self.operator.pair.near);
        with_resolvents(near, vectors.states.len(), stack, |resolvents, bases, stack| {
            let panel = vectors.panel(fields.wanted);
            if self.operator.in_unknowns {
                self.operator.pair.to_near(panel.wanted, panel.res, par, stack)?;
            } else {
                panel.res.copy_from_slice(panel.wanted);
            }
            panel.p.copy_from_slice(panel.res);
            let find = |j: usize, resolvent: &Resolvent, factored: f64| {
                let wanted = &panel.wanted[j * rows..][..rows];
                let falling = length.falling(self.operator.in_unknowns, dot(wanted, wanted));
                resolvent.find(length.falling_to(fields.limits[j], ROOT_TOL), factored, falling)
            };
            let (mut applications, mut glances) = (0, 0);
            while applications <= STEPS {
                applications += 1;
                factors.inverse.apply(Apply { r: panel.p, z: panel.z }, at, par, stack);
                let (z, p) = (&mut *panel.z, &mut *panel.p);
                let samples = Extension { resolvents: &mut *resolvents, bases: &mut *bases, g: panel.res, z, p };
                let extend = |samples: Extension<'_>, _: &mut MemStack| samples.run();
                for_each_part(samples, StackReq::EMPTY, par, stack, &extend, &|(), ()| ());
                let active = || panel.states.iter().enumerate().filter(|(_, state)| !state.stopped);
                let found = |j: usize| find(j, &resolvents[j], factors.shift);
                if applications < GLANCES[0] {
                    continue;
                }
                let rest = active().map(|(j, _)| resolvents[j].residual(found(j) - factors.shift)).fold(0.0, f64::max);
                if glances < MOST_GLANCES && (rest <= TRUSTED || applications == GLANCES[1]) {
                    glances += 1;
                    if let Some(better) = self.better_factors(factors, active().map(|(j, _)| found(j)), par) {
                        factors = better;
                        applications = 0;
                        resolvents.fill(Resolvent::default());
                        panel.p.copy_from_slice(panel.res);
                        continue;
                    }
                }
                if rest <= SETTLED {
                    break;
                }
            }
            for (j, state) in panel.states.iter_mut().enumerate().filter(|(_, state)| !state.stopped) {
                state.shift = find(j, &resolvents[j], factors.shift);
                let basis = &bases[j * STEPS * near..][..STEPS * near];
                resolvents[j].solution(state.shift - factors.shift, basis, &mut panel.x[j * near..][..near]);
            }
            Ok(())
        })
    }

    /// Factors that suit these shifts better by much; they are made if there are none.
    fn better_factors(&self, factors: &Factors, shifts: impl Iterator<Item = f64>, par: Par) -> Option<&Factors> {
        let (count, sum) = shifts.fold((0.0, 0.0), |(count, sum), shift| (count + 1.0, sum + shift.ln()));
        let shift = (sum / count).exp();
        if (factors.shift / FAR..=factors.shift * FAR).contains(&shift) {
            return None;
        }
        self.prepare_shift(shift, par);
        self.inverses.factors.nearest(shift / self.operator.scale).filter(|better| better.shift != factors.shift)
    }

    /// Regularised solutions of the samples that are not solved yet, with the shift that gives the wanted length; small
    /// systems whose iterations end short of it are solved by eigenvalues.
    pub(crate) fn regularise(
        &self,
        length: Length,
        fields: &mut Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        // A residual of zero is that of the exact solution, as is one without a bound, and weights of zero have no other.
        let skips =
            |done: &Done, limit: f64| done.solved || limit == 0.0 || limit.is_infinite() || self.operator.scale == 0.0;
        let mut open = 0;
        for (done, limit) in fields.done.iter_mut().zip(&*fields.limits) {
            done.searched = !skips(done, *limit);
            open += usize::from(done.searched);
        }
        if open == 0 {
            return Ok(());
        }
        self.search(length, self.eigen(par), fields, vectors, par, stack)?;
        for done in fields.done.iter_mut() {
            done.searched &= !done.reached;
        }
        let short = self.rescue_pays() && fields.done.iter().any(|done| done.searched);
        if let Some(eigen) = short.then(|| self.eigenvalues(par)).flatten() {
            self.search(length, Some(eigen), fields, vectors, par, stack)?;
        }
        self.settle(length, fields);
        Ok(())
    }

    /// Looks for the shifts of the samples that are searched for, and their solutions.
    fn search(
        &self,
        length: Length,
        eigen: Option<&Eigen>,
        fields: &mut Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let floor = SHIFT_FLOOR * self.operator.scale;
        // The objective errs by its square.
        let epsilon = T::EPSILON.to_f64();
        let accuracy = 0.5 * self.config.tolerance(epsilon).sqrt();
        for j in 0..fields.done.len() {
            let root = Root::new(length, fields.limits[j], floor, accuracy, epsilon);
            let mut state = State::new(Goal::Root(root), floor);
            if !fields.done[j].searched {
                state.stopped = true;
            } else if eigen.is_none() {
                state.shift = self.first_shift(length, j, fields, vectors, par, stack);
                self.prepare_shift(state.shift, par);
            }
            vectors.states[j] = state;
        }
        let at = (&self.operator.grid, self.operator.pair.near);
        let near = self.operator.pair.near_len();
        let common = |states: &[State]| {
            let shifts = states.iter().filter(|state| !state.stopped).map(|state| state.shift);
            self.inverses.factors.common(shifts, self.operator.scale)
        };
        let precondition = |states: &[State], res: &[f64], z: &mut [f64], par: Par, stack: &mut MemStack| {
            if let Some(eigen) = eigen {
                return eigen.apply(|j| states[j].shift, Apply { r: res, z }, par, stack);
            }
            if let Some(factors) = common(states) {
                return factors.inverse.apply(Apply { r: res, z }, at, par, stack);
            }
            let samples = res.chunks_exact(near).zip(z.chunks_exact_mut(near));
            for ((res, z), state) in samples.zip(states).filter(|(_, state)| !state.stopped) {
                match (&self.inverses.ladder, self.inverses.factors.nearest(state.shift / self.operator.scale)) {
                    (_, Some(factors)) => factors.inverse.apply(Apply { r: res, z }, at, par, stack),
                    (Some(ladder), None) => {
                        ladder.apply(state.shift, Apply { r: res, z: &mut *z }, at, stack);
                        if let Some(border) = self.inverses.windows.nearest(state.shift / self.operator.scale) {
                            border.add(Apply { r: res, z }, Par::Seq, stack);
                        }
                    }
                    (None, None) => {
                        let scale = state.shift.max(1e-4 * self.operator.scale);
                        z.iter_mut().zip(res).for_each(|(z, r)| *z = r / scale);
                    }
                }
            }
        };
        let (in_unknowns, max_iters) = (self.operator.in_unknowns, self.config.max_iters());
        // Factors are read from memory once for all samples, which then go together.
        let common = if eigen.is_none() { common(vectors.states) } else { None };
        let together = eigen.is_some() || common.is_some();
        if let Some(eigen) = eigen {
            self.solve_by_eigen(eigen, (length, floor), fields, vectors, par, stack)?;
        } else if let Some(factors) = common {
            self.foresee(length, factors, fields, vectors, par, stack)?;
        }
        let threads = if together { par } else { Par::Seq };
        let precondition = move |states: &[State], res: &[f64], z: &mut [f64], stack: &mut MemStack| {
            precondition(states, res, z, threads, stack);
        };
        let size = self.operator.scale.sqrt();
        let cg = Cg { pair: &self.operator.pair, in_unknowns, goes_on: together, precondition, max_iters, norm: size };
        let panel = vectors.panel(fields.wanted);
        if together {
            cg.run(panel, par, stack)?
        } else {
            self.in_parts(panel, &cg, par, stack)?
        }
        self.take_correction(fields, vectors);
        for (done, state) in fields.done.iter_mut().zip(vectors.states.iter()).filter(|(done, _)| done.searched) {
            (done.nearest, done.misfit) = (done.nearest.max(state.goal.nearest()), state.misfit);
        }
        Ok(())
    }

    /// The shift at which the search for that of a sample begins.
    fn first_shift(
        &self,
        length: Length,
        j: usize,
        fields: &Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> f64 {
        let known = fields.done[j].hopeless.filter(|_| length == Length::Distance);
        let shift = known.unwrap_or_else(|| self.forecast(length, j, fields, vectors, par, stack).0);
        let padded = !self.operator.grid.sites(self.operator.pair.near).missing.is_empty();
        match self.operator.in_unknowns {
            true if padded => (FORECAST_PADDED * shift).max(LEAST_FORECAST * self.operator.scale),
            true => shift.max(LEAST_FORECAST * self.operator.scale),
            false => shift.max(SHIFT_FLOOR * self.operator.scale),
        }
    }

    /// Whether regularised solutions are what was asked for; those a little too long are shortened.
    fn settle(&self, length: Length, fields: &mut Fields<'_>) {
        for (j, done) in fields.done.iter_mut().enumerate().filter(|(_, done)| !done.solved) {
            match length {
                Length::Distance => {
                    let moved = &mut fields.moved[j * self.cols()..][..self.cols()];
                    // The search ends below the bound but for rounding, unless it was given up.
                    let share = fields.limits[j] / norm(moved);
                    if share < 1.0 {
                        moved.iter_mut().for_each(|d| *d *= share);
                    }
                    done.solved = true;
                }
                Length::Residual => {
                    done.solved = fields.limits[j] > 0.0 && done.reached && done.misfit <= fields.limits[j];
                    if !done.solved {
                        done.shift = 0.0;
                    }
                }
            }
        }
    }
}

/// The bases of some samples, and the vectors that extend them.
struct Extension<'a> {
    resolvents: &'a mut [Resolvent],
    bases: &'a mut [f64],
    g: &'a [f64],
    z: &'a mut [f64],
    p: &'a mut [f64],
}

impl Extension<'_> {
    fn run(self) {
        let near = self.g.len() / self.resolvents.len().max(1);
        let vectors = self.g.chunks_exact(near).zip(self.z.chunks_exact_mut(near)).zip(self.p.chunks_exact_mut(near));
        let bases = self.resolvents.iter_mut().zip(self.bases.chunks_exact_mut(STEPS * near));
        for ((resolvent, basis), ((g, z), p)) in bases.zip(vectors) {
            resolvent.extend(basis, g, z, p);
        }
    }
}

impl SplitBatch for Extension<'_> {
    fn batch(&self) -> usize {
        self.resolvents.len()
    }

    fn split_at(self, count: usize) -> (Self, Self) {
        let near = self.g.len() / self.resolvents.len().max(1);
        let (resolvents, resolvents_rest) = self.resolvents.split_at_mut(count);
        let (bases, bases_rest) = self.bases.split_at_mut(count * STEPS * near);
        let (g, g_rest) = self.g.split_at(count * near);
        let (z, z_rest) = self.z.split_at_mut(count * near);
        let (p, p_rest) = self.p.split_at_mut(count * near);
        (
            Self { resolvents, bases, g, z, p },
            Self { resolvents: resolvents_rest, bases: bases_rest, g: g_rest, z: z_rest, p: p_rest },
        )
    }
}
