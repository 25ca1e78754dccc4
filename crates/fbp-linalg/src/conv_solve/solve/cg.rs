use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use super::goal::{Goal, Moment, Verdict};
use crate::LinalgError;
use crate::conv_solve::operator::pair::Pair;
use crate::parallel::{SplitBatch, for_each_part};

/// Where one sample stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    pub(crate) goal: Goal,
    pub(crate) shift: f64,
    /// `<res, z>` of the last step; 0 starts afresh.
    product: f64,
    step: f64,
    start: f64,
    wanted: f64,
    best: f64,
    since_best: usize,
    pub(crate) stopped: bool,
    /// Whether it stopped because its goal was reached.
    pub(crate) reached: bool,
    pub(crate) iters: usize,
    /// `|d|` and `|A d - r|` when it stopped.
    pub(crate) distance: f64,
    pub(crate) misfit: f64,
}

impl State {
    pub(crate) fn new(goal: Goal, shift: f64) -> Self {
        Self {
            goal,
            shift,
            product: 0.0,
            step: 0.0,
            start: 0.0,
            wanted: 0.0,
            best: f64::INFINITY,
            since_best: 0,
            stopped: false,
            reached: false,
            iters: 0,
            distance: 0.0,
            misfit: 0.0,
        }
    }
}

/// The vectors of a panel of samples, one sample after the other in each.
///
/// The iteration solves `(B Bᵀ + shift) x = g`. In the space of the equations (`near` = outputs) `g = r` and the wanted
/// correction is `y = Bᵀ x`; in the space of the unknowns `g = B r` and the correction is `x`, with `y = A x`.
pub(crate) struct Panel<'a> {
    pub(crate) states: &'a mut [State],
    /// `r`, in the space of the equations.
    pub(crate) wanted: &'a [f64],
    /// Near fields.
    pub(crate) x: &'a mut [f64],
    pub(crate) p: &'a mut [f64],
    pub(crate) z: &'a mut [f64],
    pub(crate) res: &'a mut [f64],
    pub(crate) old: &'a mut [f64],
    /// Far fields.
    pub(crate) y: &'a mut [f64],
    pub(crate) q: &'a mut [f64],
}

impl SplitBatch for Panel<'_> {
    fn batch(&self) -> usize {
        self.states.len()
    }

    fn split_at(self, count: usize) -> (Self, Self) {
        let batch = self.states.len().max(1);
        let (states, states_rest) = self.states.split_at_mut(count);
        let (wanted, wanted_rest) = self.wanted.split_at(self.wanted.len() / batch * count);
        let cut = |slice: &[f64]| slice.len() / batch * count;
        let at = cut(self.x);
        let (x, x_rest) = self.x.split_at_mut(at);
        let (p, p_rest) = self.p.split_at_mut(at);
        let (z, z_rest) = self.z.split_at_mut(at);
        let (res, res_rest) = self.res.split_at_mut(at);
        let (old, old_rest) = self.old.split_at_mut(at);
        let at = cut(self.y);
        let (y, y_rest) = self.y.split_at_mut(at);
        let (q, q_rest) = self.q.split_at_mut(at);
        (
            Self { states, wanted, x, p, z, res, old, y, q },
            Self {
                states: states_rest,
                wanted: wanted_rest,
                x: x_rest,
                p: p_rest,
                z: z_rest,
                res: res_rest,
                old: old_rest,
                y: y_rest,
                q: q_rest,
            },
        )
    }
}

impl<'a> Panel<'a> {
    fn by_ref(&mut self) -> Panel<'_> {
        Panel {
            states: self.states,
            wanted: self.wanted,
            x: self.x,
            p: self.p,
            z: self.z,
            res: self.res,
            old: self.old,
            y: self.y,
            q: self.q,
        }
    }

    /// One sample after the other.
    fn for_each(self, mut run: impl FnMut(Panel<'_>)) {
        let mut rest = self;
        while rest.batch() > 0 {
            let (one, others) = rest.split_at(1);
            run(one);
            rest = others;
        }
    }
}

/// Preconditioned conjugate gradients on `B Bᵀ + shift`, for a panel in lockstep, every sample with its own shift and
/// goal; a sample that has stopped keeps its values.
///
/// # Source
/// Björck, *Numerical Methods for Least Squares Problems* (1996), §7.4 (CGLS and Craig's method); flexible direction:
/// Golub & Ye, *SIAM J. Sci. Comput.* 21 (1999) 1305. The residual of the normal equations is recomputed from that of
/// the equations, so that it does not drift.
pub(crate) struct Cg<'a, M> {
    pub(crate) pair: &'a Pair,
    /// Whether `near` is the space of the unknowns.
    pub(crate) in_unknowns: bool,
    /// Whether the iteration begins with the panel's `x`, and not with zero.
    pub(crate) goes_on: bool,
    /// `z <- M res` for the whole panel.
    pub(crate) precondition: M,
    pub(crate) max_iters: usize,
    /// Norm of `B`, nearly.
    pub(crate) norm: f64,
}

/// Roundings of a product that a residual is left with.
const ROUNDINGS: f64 = 16.0;

/// Steps without progress after which a sample stops.
const PATIENCE: usize = 300;

impl<M> Cg<'_, M>
where
    M: Fn(&[State], &[f64], &mut [f64], &mut MemStack) + Sync,
{
    /// Iterates until every sample has stopped.
    ///
    /// # Errors
    /// None, unless the panel does not fit the convolution.
    pub(crate) fn run(&self, mut panel: Panel<'_>, par: Par, stack: &mut MemStack) -> Result<(), LinalgError> {
        self.start(panel.by_ref(), par, stack)?;
        for _ in 0..self.max_iters {
            if panel.states.iter().all(|state| state.stopped) {
                return Ok(());
            }
            (self.precondition)(panel.states, panel.res, panel.z, stack);
            self.each(panel.by_ref(), par, stack, &|one| self.direction(one));
            if panel.states.iter().all(|state| state.stopped) {
                return Ok(());
            }
            self.pair.to_far(panel.p, panel.q, par, stack)?;
            self.each(panel.by_ref(), par, stack, &|one| self.advance(one));
            self.pair.to_near(panel.q, panel.z, par, stack)?;
            self.each(panel.by_ref(), par, stack, &|one| self.residual(one));
        }
        panel.for_each(|one| {
            let now = self.moment(&one, f64::NAN);
            let state = &mut one.states[0];
            if !state.stopped {
                (state.distance, state.misfit) = (now.distance, now.misfit);
            }
        });
        Ok(())
    }

    /// `y` and `res` of the panel's `x`.
    fn start(&self, panel: Panel<'_>, par: Par, stack: &mut MemStack) -> Result<(), LinalgError> {
        if self.goes_on {
            self.pair.to_far(panel.x, panel.y, par, stack)?;
        } else {
            panel.x.fill(0.0);
            panel.y.fill(0.0);
        }
        if self.in_unknowns {
            panel.q.iter_mut().zip(panel.wanted.iter().zip(&*panel.y)).for_each(|(q, (r, y))| *q = r - y);
            self.pair.to_near(panel.q, panel.res, par, stack)?;
        } else if self.goes_on {
            self.pair.to_near(panel.y, panel.res, par, stack)?;
            panel.res.iter_mut().zip(panel.wanted).for_each(|(res, r)| *res = r - *res);
        } else {
            panel.res.copy_from_slice(panel.wanted);
        }
        panel.p.fill(0.0);
        panel.for_each(|one| {
            let state = &mut one.states[0];
            one.res.iter_mut().zip(&*one.x).for_each(|(res, x)| *res -= state.shift * x);
            state.wanted = norm(one.wanted);
            state.start = if self.in_unknowns { norm(one.res) } else { state.wanted };
        });
        Ok(())
    }

    fn each(&self, panel: Panel<'_>, par: Par, stack: &mut MemStack, run: &(impl Fn(Panel<'_>) + Sync)) {
        let part = |part: Panel<'_>, _: &mut MemStack| part.for_each(run);
        for_each_part(panel, StackReq::EMPTY, par, stack, &part, &|(), ()| ());
    }

    fn moment(&self, one: &Panel<'_>, energy: f64) -> Moment {
        let state = &one.states[0];
        let shift = state.shift;
        let (distance, misfit) = if self.in_unknowns {
            let rest = one.wanted.iter().zip(&*one.y).map(|(r, y)| (r - y) * (r - y)).sum::<f64>();
            (norm(one.x), rest.sqrt())
        } else {
            let rest = one.res.iter().zip(&*one.x).map(|(r, x)| (r + shift * x) * (r + shift * x)).sum::<f64>();
            (norm(one.y), rest.sqrt())
        };
        let (start, wanted, in_unknowns, residual) = (state.start, state.wanted, self.in_unknowns, norm(one.res));
        // A residual of the normal equations that only rounding holds up is as good as it gets.
        let rounded = residual == 0.0 || (in_unknowns && residual <= ROUNDINGS * f64::EPSILON * self.norm * wanted);
        Moment { shift, energy, residual, start, distance, misfit, wanted, in_unknowns, rounded }
    }

    /// Judges the sample; if it goes on, `p <- z + β p` and `old <- res`.
    fn direction(&self, one: Panel<'_>) {
        if one.states[0].stopped {
            one.p.fill(0.0);
            return;
        }
        let product = dot(one.res, one.z);
        let now = self.moment(&one, product.max(0.0).sqrt());
        let Panel { states, x, p, z, res, old, .. } = one;
        let state = &mut states[0];
        let verdict = state.goal.judge(&now);
        let measure = if self.in_unknowns { now.energy } else { now.residual };
        if measure < 0.9 * state.best {
            (state.best, state.since_best) = (measure, 0);
        } else {
            state.since_best += 1;
        }
        let broken = product.is_nan() || product < 0.0;
        // A residual of zero is no obstacle to another shift.
        let stuck = broken || product == 0.0 || state.since_best > PATIENCE;
        match verdict {
            Verdict::Shift(shift) if !broken => {
                res.iter_mut().zip(&*x).for_each(|(res, x)| *res += (state.shift - shift) * x);
                (state.shift, state.product, state.best, state.since_best) = (shift, 0.0, f64::INFINITY, 0);
                p.fill(0.0);
            }
            Verdict::Go if !stuck => {
                let beta = if state.product > 0.0 { (product - dot(old, z)).max(0.0) / state.product } else { 0.0 };
                p.iter_mut().zip(&*z).for_each(|(p, z)| *p = z + beta * *p);
                old.copy_from_slice(res);
                state.product = product;
                state.iters += 1;
            }
            _ => {
                let rounded = now.residual <= ROUNDINGS * f64::EPSILON * self.norm * now.wanted;
                let exact = !state.goal.is_search() && (product == 0.0 || rounded);
                (state.stopped, state.reached) = (true, verdict == Verdict::Stop || exact);
                (state.distance, state.misfit) = (now.distance, now.misfit);
                p.fill(0.0);
            }
        }
    }

    /// `x += α p`, `y += α q`; then `q` is what the next product is taken of.
    fn advance(&self, one: Panel<'_>) {
        let Panel { states, x, p, y, q, wanted, .. } = one;
        let state = &mut states[0];
        let curvature = dot(q, q) + state.shift * dot(p, p);
        state.step = if curvature > 0.0 { state.product / curvature } else { 0.0 };
        let step = state.step;
        if !state.stopped && step != 0.0 {
            x.iter_mut().zip(&*p).for_each(|(x, p)| *x += step * p);
            y.iter_mut().zip(&*q).for_each(|(y, q)| *y += step * q);
        }
        if self.in_unknowns {
            q.iter_mut().zip(wanted.iter().zip(&*y)).for_each(|(q, (r, y))| *q = r - y);
        }
    }

    /// The residual of the shifted system from `z = B q`. A sample whose first step shows that its solution is too far away
    /// stops.
    ///
    /// With `H = B Bᵀ`, `z` the first direction and `g` the right-hand side, `⟨z, g⟩ = ⟨Hz, x⟩ ≤ |Hz| |x|` bounds the solution
    /// `x` from below, and `⟨z, g⟩ ≤ |Bᵀz| |Bᵀx|` the correction `Bᵀx`, whatever the preconditioner is.
    fn residual(&self, one: Panel<'_>) {
        let Panel { states, x, p, z, res, old, y, .. } = one;
        let state = &mut states[0];
        let (step, shift) = (state.step, state.shift);
        if state.stopped {
            return;
        }
        if self.in_unknowns {
            res.iter_mut().zip(z.iter().zip(&*x)).for_each(|(res, (z, x))| *res = z - shift * x);
        } else {
            res.iter_mut().zip(z.iter().zip(&*p)).for_each(|(res, (z, p))| *res -= step * (z + shift * p));
        }
        if state.iters == 1 && !self.goes_on && shift == 0.0 {
            let least = if self.in_unknowns {
                let image = old.iter().zip(&*res).map(|(old, res)| (old - res) * (old - res)).sum::<f64>().sqrt();
                step * state.product / image
            } else {
                norm(y)
            };
            state.stopped = state.goal.gives_up(least);
        }
    }
}

/// Partial sums, so that the loops vectorise.
const LANES: usize = 16;

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    pulp::Arch::new().dispatch(Dot { a, b })
}

struct Dot<'a> {
    a: &'a [f64],
    b: &'a [f64],
}

impl pulp::WithSimd for Dot<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> f64 {
        let (a, a_rest) = self.a.as_chunks::<LANES>();
        let (b, b_rest) = self.b.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for (a, b) in a.iter().zip(b) {
            for i in 0..LANES {
                sums[i] += a[i] * b[i];
            }
        }
        sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
    }
}

pub(crate) fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}
