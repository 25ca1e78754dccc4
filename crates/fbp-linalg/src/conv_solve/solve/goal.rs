use crate::conv_solve::inverse::apply::Forecast;

/// What the iteration of one sample works towards.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
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
pub(crate) enum Length {
    /// `|d|`, which falls as the shift grows.
    Distance,
    /// `|A d - r|`, which grows with it.
    Residual,
}

impl Length {
    /// A length, or the inverse of one, that falls as the shift grows, from what is known of `x = (H + shift)⁻¹ g`;
    /// `squares` is `|r|²`.
    pub(crate) fn falling(self, in_unknowns: bool, squares: f64) -> impl Fn(f64, Forecast) -> f64 {
        move |shift, found| {
            let Forecast { product, square } = found;
            match (self, in_unknowns) {
                (Self::Distance, true) => square.sqrt(),
                (Self::Distance, false) => (product - shift * square).max(0.0).sqrt(),
                (Self::Residual, true) => 1.0 / (squares - product - shift * square).max(LOST * squares).sqrt(),
                (Self::Residual, false) => 1.0 / (shift * shift * square).max(f64::MIN_POSITIVE).sqrt(),
            }
        }
    }

    /// The value of [`falling`](Self::falling) where the length is this share below its bound.
    pub(crate) fn falling_to(self, bound: f64, tolerance: f64) -> f64 {
        let aim = (1.0 - tolerance) * bound;
        if self == Self::Distance { aim } else { 1.0 / aim }
    }

    /// Square of what is minimised: of the length that is not bounded, in units of the squared residual.
    fn objective(self, shift: f64, (distance, misfit): (f64, f64)) -> f64 {
        if self == Self::Distance { misfit * misfit } else { shift * distance * distance }
    }

    /// How close to its bound the length of the ridge solution with this shift has to be for an objective that is optimal
    /// up to [`OPTIMAL`], in so far as `rounding` leaves that.
    ///
    /// The solution minimises `|A d - r|² + shift·|d|²`. So nothing within a bound `ρ` of `|d|` has a squared residual less
    /// than its own by more than `shift·(ρ² - |d|²)`, and nothing within a bound `ε` of the residual a square of the
    /// distance less by more than `(ε² - |A d - r|²) / shift`.
    pub(crate) fn tolerance(self, shift: f64, lengths: (f64, f64), rounding: f64) -> f64 {
        let other = if self == Self::Distance { Self::Residual } else { Self::Distance };
        let (objective, bounded) = (self.objective(shift, lengths), other.objective(shift, lengths));
        // A length within twice the tolerance has a square within four times as much. An objective within `OPTIMAL` has a
        // square within twice as much, of which a fifth is left to the error of the solution itself.
        let allowed = 0.4 * OPTIMAL * objective / bounded;
        if allowed.is_nan() { ROOT_TOL } else { allowed.max(rounding).min(ROOT_TOL) }
    }

    /// `|d|` and `|A d - r|` of a forecast.
    pub(crate) fn lengths(in_unknowns: bool, squares: f64, shift: f64, found: Forecast) -> (f64, f64) {
        let length = |length: Self| length.falling(in_unknowns, squares)(shift, found);
        (length(Self::Distance), 1.0 / length(Self::Residual))
    }
}

/// Search for the shift at which `length` is a little below a bound: the secant rule on logarithms, kept within a bracket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    length: Length,
    bound: f64,
    /// Logarithms of shifts known to be too small and too large.
    bracket: [f64; 2],
    /// Logarithm of the last shift and the excess found there.
    last: Option<(f64, f64)>,
    evaluations: usize,
    /// Share of the error of a solution that is asked for: less where preconditioners hid what was left of it.
    care: f64,
    floor: f64,
    /// Relative error of the solution at the shift that ends the search.
    accuracy: f64,
    /// Relative error of a length that rounding leaves anyway.
    rounding: f64,
    /// `|d|` of the nearest solution that was seen to miss the bound on the residual: no point within it is nearer.
    pub(crate) nearest: f64,
}

/// Largest number of shifts that a search tries.
const MAX_SHIFTS: usize = 40;
/// Largest relative error of the length that ends a search, and how far below its bound it is aimed at.
pub(crate) const ROOT_TOL: f64 = 1e-4;
/// Relative excess of a distance or residual over the optimum that counts as none.
pub(crate) const OPTIMAL: f64 = 1e-3;
/// Share of `|r|²` that cancellation leaves of a squared residual.
const LOST: f64 = 1e-12;
/// Roundings of what is wanted that an error of least squares ends at.
const HALF: f64 = 0.5;
/// What the error of a solution is brought down by where solutions contradict each other.
const CARE: f64 = 0.1;
/// Steepest slope of a length against the shift, both in logarithms, and some more for the error of either.
const STEEPEST: f64 = 3.0;
/// Least relative error of a length that iterations are asked for.
const LEAST_TOL: f64 = 1e-12;

/// What the iteration of a sample knows after an application of the preconditioner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) shift: f64,
    /// `√<res, M res>`: the error in the norm of the system.
    pub(crate) energy: f64,
    /// Norm of the residual of the shifted system.
    pub(crate) residual: f64,
    /// Its start.
    pub(crate) start: f64,
    /// `|d|`.
    pub(crate) distance: f64,
    /// `|A d - r|`.
    pub(crate) misfit: f64,
    /// `|r|`.
    pub(crate) wanted: f64,
    /// Whether the iteration lives in the space of the unknowns.
    pub(crate) in_unknowns: bool,
    /// Whether nothing but rounding is left of the residual of the shifted system.
    pub(crate) rounded: bool,
}

/// What to do with a sample next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
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
    pub(crate) fn within(tolerance: f64, excess: f64) -> Self {
        Self::Fixed { tolerance, excess, give_up: f64::INFINITY }
    }

    /// Whether a solution at least this far away is of no use.
    pub(crate) fn gives_up(&self, distance: f64) -> bool {
        matches!(self, Self::Fixed { give_up, .. } if distance > *give_up)
    }

    /// Whether a shift is searched for.
    pub(crate) fn is_search(&self) -> bool {
        matches!(self, Self::Root(_))
    }

    /// `|d|` below which nothing keeps the bound on the residual, as far as a search knows.
    pub(crate) fn nearest(&self) -> f64 {
        if let Self::Root(root) = self { root.nearest } else { 0.0 }
    }

    pub(crate) fn judge(&mut self, now: &Moment) -> Verdict {
        match self {
            Goal::Fixed { tolerance, excess, give_up } => {
                let met = if now.in_unknowns {
                    // Past the optimum of equations that contradict each other by roundings only, steps lead away from it.
                    let error = (*excess * now.misfit).max(HALF * f64::EPSILON * now.wanted);
                    now.misfit <= *tolerance * now.wanted || now.energy <= error
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
    /// A search that starts at the shift of the first solve and never goes below `floor`, for features of a precision.
    pub(crate) fn new(length: Length, bound: f64, floor: f64, accuracy: f64, epsilon: f64) -> Self {
        let (bracket, rounding) = ([f64::NEG_INFINITY, f64::INFINITY], least_tolerance(epsilon));
        Self { length, bound, bracket, last: None, evaluations: 0, care: 1.0, floor, accuracy, rounding, nearest: 0.0 }
    }

    /// Positive where the shift is too small, negative where it is too large: the logarithm of a ratio of lengths.
    fn excess(&self, now: &Moment, tolerance: f64) -> f64 {
        let aim = (1.0 - tolerance) * self.bound;
        match self.length {
            Length::Distance => (now.distance / aim).ln(),
            Length::Residual => (aim / now.misfit).ln(),
        }
    }

    /// Whether the solution for the shift of this moment is known so well that lengths err by this share only.
    fn is_settled(&self, now: &Moment, share: f64) -> bool {
        let scale = if now.in_unknowns { now.shift.sqrt() } else { 1.0 };
        now.rounded
            || match self.length {
                Length::Distance => now.energy <= share * scale * now.distance,
                Length::Residual if now.in_unknowns => now.energy <= share * now.misfit,
                Length::Residual => now.residual <= share * now.misfit,
            }
    }

    /// Whether the objective of the solution for the shift of this moment is that of the ridge problem.
    fn is_optimal(&self, now: &Moment) -> bool {
        // In the space of the unknowns the smallest eigenvalue is at least the shift, whatever the preconditioner is.
        let error = if now.in_unknowns { now.energy.min(now.residual / now.shift.sqrt()) } else { now.residual };
        error * error <= 0.25 * OPTIMAL * self.length.objective(now.shift, (now.distance, now.misfit))
    }

    fn judge(&mut self, now: &Moment) -> Verdict {
        let lengths = (now.distance, now.misfit);
        let tolerance = self.length.tolerance(now.shift, lengths, self.rounding);
        let excess = self.excess(now, tolerance);
        // Accurate enough for its sign to be trusted, and no more.
        let found = excess.abs() <= tolerance;
        let share = if found { self.accuracy } else { (0.1 * excess.abs()).clamp(0.4 * tolerance, 0.05) };
        if !self.is_settled(now, self.care * share) || (found && !self.is_optimal(now)) {
            return Verdict::Go;
        }
        if found {
            return Verdict::Stop;
        }
        let at = now.shift.ln();
        self.evaluations += 1;
        if excess < 0.0 && self.length == Length::Residual {
            self.nearest = self.nearest.max(now.distance);
        }
        if excess < 0.0 && now.shift <= self.floor {
            return if self.is_exact(now) { Verdict::Stop } else { Verdict::Fail };
        }
        if self.evaluations >= MAX_SHIFTS {
            return Verdict::Fail;
        }
        self.bracket[usize::from(excess < 0.0)] = at;
        let slope = match self.last {
            Some((before, then)) if (at - before).abs() > 1e-12 => ((excess - then) / (at - before)).clamp(-2.0, -1e-5),
            _ => -0.4,
        };
        self.last = Some((at, excess));
        let mut next = at - excess / slope;
        if STEEPEST * (self.bracket[1] - self.bracket[0]) < excess.abs() {
            self.bracket = [f64::NEG_INFINITY, f64::INFINITY];
            self.care *= CARE;
        }
        let [low, high] = self.bracket;
        if next <= low || next >= high {
            next = if low.is_finite() && high.is_finite() { 0.5 * (low + high) } else { at + 2.0 * excess.signum() };
        }
        let shift = next.clamp(at - 5.0, at + 5.0).exp().max(self.floor);
        if shift == now.shift { Verdict::Fail } else { Verdict::Shift(shift) }
    }

    /// Whether the smallest shift leaves a residual that is that of the exact solution, or of rounding, within a bound of
    /// the distance.
    fn is_exact(&self, now: &Moment) -> bool {
        let gained = now.shift * self.bound * self.bound;
        let as_good = gained <= OPTIMAL * now.misfit * now.misfit && self.is_optimal(now);
        self.length == Length::Distance && (as_good || now.misfit <= self.rounding * now.wanted)
    }
}

/// Least relative error of a length that a search asks for, for features of a precision.
pub(crate) fn least_tolerance(epsilon: f64) -> f64 {
    (4.0 * epsilon).max(LEAST_TOL)
}
