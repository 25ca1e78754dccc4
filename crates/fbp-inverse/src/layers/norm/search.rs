//! A minimum on an interval without derivatives.

/// Share of an interval that a golden section cuts off.
const GOLDEN: f64 = 0.381_966_011_250_105_1;

/// Where `price` is smallest between `low` and `high`, to within `accuracy`, and what it is there.
///
/// Parabolas through the three best points, and golden sections where they do not help; infinite prices are allowed.
///
/// # Source
/// Brent, *Algorithms for Minimization Without Derivatives* (1973), ch. 5.
pub(super) fn minimise(
    (mut low, mut high): (f64, f64),
    accuracy: f64,
    mut price: impl FnMut(f64) -> f64,
) -> (f64, f64) {
    const STEPS: usize = 60;
    let mut best = low + GOLDEN * (high - low);
    let mut least = price(best);
    let (mut second, mut third) = ((best, least), (best, least));
    let (mut step, mut before) = (0.0_f64, 0.0_f64);
    for _ in 0..STEPS {
        let middle = 0.5 * (low + high);
        if (best - middle).abs() <= 2.0 * accuracy - 0.5 * (high - low) {
            break;
        }
        let (r, q) = ((best - second.0) * (least - third.1), (best - third.0) * (least - second.1));
        let (p, q) = ((best - third.0) * q - (best - second.0) * r, 2.0 * (q - r));
        let parabola = -p / q;
        let inside = low + accuracy < best + parabola && best + parabola < high - accuracy;
        // NaN, from prices that are infinite, is neither inside nor short.
        let golden = !(parabola.abs() < 0.5 * before.abs() && inside);
        (before, step) = if golden {
            let room = if best >= middle { low - best } else { high - best };
            (room, GOLDEN * room)
        } else {
            (step, parabola)
        };
        let at = best + if step.abs() >= accuracy { step } else { accuracy.copysign(step) };
        let found = price(at);
        if found <= least {
            *(if at >= best { &mut low } else { &mut high }) = best;
            (third, second) = (second, (best, least));
            (best, least) = (at, found);
        } else {
            *(if at < best { &mut low } else { &mut high }) = at;
            if found <= second.1 || second.0 == best {
                (third, second) = (second, (at, found));
            } else if found <= third.1 || third.0 == best || third.0 == second.0 {
                third = (at, found);
            }
        }
    }
    (best, least)
}

#[cfg(test)]
mod tests {
    use super::minimise;

    #[test]
    fn minima_of_smooth_kinked_and_half_infinite_functions() {
        let mut calls = 0;
        let (at, least) = minimise((-1.5, 1.5), 1e-7, |x| {
            calls += 1;
            (x - 0.3).powi(2) + 0.1 * (x - 0.3).powi(4) + 2.0
        });
        assert!((at - 0.3).abs() < 1e-6 && least - 2.0 < 1e-12 && calls < 16, "{at} {least} {calls}");
        let (at, _) = minimise((-1.5, 1.5), 1e-7, |x: f64| (x + 0.7).abs());
        assert!((at + 0.7).abs() < 1e-6, "{at}");
        let (at, _) = minimise((-1.5, 1.5), 1e-7, |x: f64| if x < 0.25 { f64::INFINITY } else { x });
        assert!((at - 0.25).abs() < 1e-6, "{at}");
        let (at, _) = minimise((-1.5, 1.5), 1e-7, |x: f64| x);
        assert!((at + 1.5).abs() < 1e-6, "{at}");
    }
}
