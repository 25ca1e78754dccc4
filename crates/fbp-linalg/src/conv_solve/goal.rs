use super::circulant::Forecast;

/// What the iteration of one sample works towards.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// The solution for a fixed shift.
    Fixed {
        /// Relative residual of the equations to reach.
        tolerance: f64,
        /// Relative excess of the residual over the least-squares optimum to reach.
        excess: f64,
        /// Distance beyond which the solution is of no use.
        give_up: f64,
    },
    /// The shift at which a length takes a given value.
    Root(Root),
}

/// Which length a shift is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// `|d|`, which falls as the shift grows.
    Distance,
    /// `|A d - r|`, which grows with it.
    Residual,
}

impl Length {
    /// A length, or the inverse of one, that falls as the shift grows, from what is known of `x = (H + shift)⁻¹ g`;
    /// `squares` is `|r|²`.
    pub(super) fn falling(self, in_unknowns: bool, squares: f64) -> impl Fn(f64, Forecast) -> f64 {
        move |shift, found| {
            let Forecast { product, square } = found;
            match (self, in_unknowns) {
                (Self::Distance, true) => square.sqrt(),
                (Self::Distance, false) => (product - shift * square).max(0.0).sqrt(),
                (Self::Residual, true) => 1.0 / (squares - product - shift * square).max(1e-12 * squares).sqrt(),
                (Self::Residual, false) => 1.0 / (shift * shift * square).max(1e-12 * squares).sqrt(),
            }
        }
    }

    /// The value of [`falling`](Self::falling) where the length is a little below this bound, as a search aims at.
    pub(super) fn falling_to(self, bound: f64) -> f64 {
        if self == Self::Distance { AIM * bound } else { 1.0 / (AIM * bound) }
    }
}

/// Search for the shift at which `length` is a little below a bound: the secant rule on logarithms, kept within a bracket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    length: Length,
    bound: f64,
    /// Logarithms of shifts known to be too small and too large.
    bracket: [f64; 2],
    /// Logarithm of the last shift and the excess found there.
    last: Option<(f64, f64)>,
    evaluations: usize,
    floor: f64,
    /// Relative error of the solution at the shift that ends the search.
    accuracy: f64,
}

/// Largest number of shifts that a search tries.
const MAX_SHIFTS: usize = 40;
/// Relative error of the length that ends a search.
const ROOT_TOL: f64 = 1e-4;
/// Share of the bound that a search aims at, so that where it ends the bound is kept.
const AIM: f64 = 1.0 - ROOT_TOL;

/// What the iteration of a sample knows after an application of the preconditioner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) shift: f64,
    /// `√<res, M res>`: the error in the norm of the system.
    pub(super) energy: f64,
    /// Norm of the residual of the shifted system.
    pub(super) residual: f64,
    /// Its start.
    pub(super) start: f64,
    /// `|d|`.
    pub(super) distance: f64,
    /// `|A d - r|`.
    pub(super) misfit: f64,
    /// `|r|`.
    pub(super) wanted: f64,
    /// Whether the iteration lives in the space of the unknowns.
    pub(super) in_unknowns: bool,
}

/// What to do with a sample next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    Go,
    /// The goal is reached, or the distance is beyond that at which it is given up.
    Stop,
    /// The goal cannot be reached.
    Fail,
    /// Go on with another shift.
    Shift(f64),
}

impl Goal {
    /// The solution without a shift, however far away.
    pub(super) fn within(tolerance: f64, excess: f64) -> Self {
        Self::Fixed { tolerance, excess, give_up: f64::INFINITY }
    }

    /// Whether a solution at least this far away is of no use.
    pub(super) fn gives_up(&self, distance: f64) -> bool {
        matches!(self, Self::Fixed { give_up, .. } if distance > *give_up)
    }

    pub(super) fn judge(&mut self, now: &Moment) -> Verdict {
        match self {
            Goal::Fixed { tolerance, excess, give_up } => {
                let met = if now.in_unknowns {
                    now.misfit <= *tolerance * now.wanted || now.energy <= *excess * now.misfit
                } else {
                    now.residual <= *tolerance * now.start
                };
                if met || now.distance > *give_up { Verdict::Stop } else { Verdict::Go }
            }
            Goal::Root(root) => root.judge(now),
        }
    }
}

impl Root {
    /// A search that starts at the shift of the first solve and never goes below `floor`.
    pub(super) fn new(length: Length, bound: f64, floor: f64, accuracy: f64) -> Self {
        let bracket = [f64::NEG_INFINITY, f64::INFINITY];
        Self { length, bound, bracket, last: None, evaluations: 0, floor, accuracy }
    }

    /// Positive where the shift is too small, negative where it is too large: the logarithm of a ratio of lengths.
    fn excess(&self, now: &Moment) -> f64 {
        match self.length {
            Length::Distance => (now.distance / (AIM * self.bound)).ln(),
            Length::Residual => (AIM * self.bound / now.misfit).ln(),
        }
    }

    fn judge(&mut self, now: &Moment) -> Verdict {
        let excess = self.excess(now);
        // Accurate enough for its sign to be trusted, and no more.
        let found = excess.abs() <= ROOT_TOL;
        let share = if found { self.accuracy } else { (0.1 * excess.abs()).clamp(0.4 * ROOT_TOL, 0.05) };
        let scale = if now.in_unknowns { now.shift.sqrt() } else { 1.0 };
        let settled = match self.length {
            Length::Distance => now.energy <= share * scale * now.distance,
            Length::Residual if now.in_unknowns => now.energy <= share * now.misfit,
            Length::Residual => now.residual <= share * now.misfit,
        };
        if !settled {
            return Verdict::Go;
        }
        if found {
            return Verdict::Stop;
        }
        let at = now.shift.ln();
        self.evaluations += 1;
        if self.evaluations >= MAX_SHIFTS || (excess < 0.0 && now.shift <= self.floor) {
            return Verdict::Fail;
        }
        self.bracket[usize::from(excess < 0.0)] = at;
        let slope = match self.last {
            Some((before, then)) if (at - before).abs() > 1e-12 => ((excess - then) / (at - before)).clamp(-2.0, -1e-5),
            _ => -0.4,
        };
        self.last = Some((at, excess));
        let mut next = at - excess / slope;
        if self.bracket[0] >= self.bracket[1] {
            self.bracket = [f64::NEG_INFINITY, f64::INFINITY];
        }
        let [low, high] = self.bracket;
        if next <= low || next >= high {
            next = if low.is_finite() && high.is_finite() { 0.5 * (low + high) } else { at + 2.0 * excess.signum() };
        }
        let shift = next.clamp(at - 5.0, at + 5.0).exp().max(self.floor);
        if shift == now.shift { Verdict::Fail } else { Verdict::Shift(shift) }
    }
}
