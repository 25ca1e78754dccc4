//! Limited-memory BFGS for smooth convex functions.

use std::collections::VecDeque;

/// Pairs that are remembered.
const MEMORY: usize = 10;
/// Share of the predicted decrease that a step has to reach.
const ARMIJO: f64 = 1e-4;
/// Halvings of a step before the line search gives up.
const HALVINGS: usize = 30;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most steps.
    pub(super) max_iters: usize,
    /// Length of the gradient that counts as zero.
    pub(super) gradient: f64,
}

/// How the minimisation ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    /// Value at the end.
    pub(super) value: f64,
    /// Steps taken.
    pub(super) iters: usize,
}

/// Improves `x` in place; `f` writes the gradient at a point and returns the value.
///
/// Steps are backtracked until the decrease is a share of the predicted one (Armijo), so the value never grows.
///
/// # Source
/// Nocedal & Wright, *Numerical Optimization*, 2nd ed., algorithm 7.4 (two-loop recursion) and equation 7.20 (scaling).
pub(super) fn minimise(x: &mut [f64], limits: Limits, f: impl FnMut(&[f64], &mut [f64]) -> f64) -> Outcome {
    minimise_until(x, limits, &|| false, f)
}

/// As [`minimise`], and ends with the best point so far if `stop`, which is asked before every value but the first, says so.
pub(super) fn minimise_until(
    x: &mut [f64],
    limits: Limits,
    stop: &dyn Fn() -> bool,
    mut f: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Outcome {
    let n = x.len();
    let (mut gradient, mut next_gradient, mut next) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
    let mut value = f(x, &mut gradient);
    let mut pairs: VecDeque<Pair> = VecDeque::with_capacity(MEMORY);
    for iters in 0..limits.max_iters {
        if dot(&gradient, &gradient).sqrt() <= limits.gradient {
            return Outcome { value, iters };
        }
        let mut direction = descent(&gradient, &pairs);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 || !slope.is_finite() {
            pairs.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -dot(&gradient, &gradient);
        }
        let mut step = 1.0;
        let mut accepted = None;
        for _ in 0..HALVINGS {
            if stop() {
                break;
            }
            for ((next, x), d) in next.iter_mut().zip(&*x).zip(&direction) {
                *next = x + step * d;
            }
            let new = f(&next, &mut next_gradient);
            if new <= value + ARMIJO * step * slope {
                accepted = Some(new);
                break;
            }
            step *= 0.5;
        }
        let Some(new) = accepted else { return Outcome { value, iters } };
        let s: Vec<f64> = next.iter().zip(&*x).map(|(a, b)| a - b).collect();
        let y: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        let curvature = dot(&s, &y);
        // A convex function has no negative curvature; what is left is rounding.
        if curvature > f64::EPSILON * dot(&y, &y) {
            if pairs.len() == MEMORY {
                pairs.pop_front();
            }
            pairs.push_back(Pair { s, y, curvature });
        }
        x.copy_from_slice(&next);
        std::mem::swap(&mut gradient, &mut next_gradient);
        value = new;
    }
    Outcome { value, iters: limits.max_iters }
}

/// A step, the change of the gradient along it, and their product.
struct Pair {
    s: Vec<f64>,
    y: Vec<f64>,
    curvature: f64,
}

/// Minus the approximate inverse Hessian times the gradient.
fn descent(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let alpha = dot(&pair.s, &q) / pair.curvature;
        add(&mut q, -alpha, &pair.y);
        alphas.push(alpha);
    }
    if let Some(last) = pairs.back() {
        let scale = last.curvature / dot(&last.y, &last.y);
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for (pair, alpha) in pairs.iter().zip(alphas.into_iter().rev()) {
        let beta = dot(&pair.y, &q) / pair.curvature;
        add(&mut q, alpha - beta, &pair.s);
    }
    q
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += factor * what;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const LIMITS: Limits = Limits { max_iters: 200, gradient: 1e-7 };

    #[test]
    fn ill_conditioned_quadratics_are_solved() {
        // ½ Σ c_k (x_k - k)², condition number 100.
        let scale = |k: usize| 10_f64.powf(2.0 * k as f64 / 29.0);
        let mut x = vec![0.0; 30];
        let outcome = minimise(&mut x, LIMITS, |x, g| {
            (0..30)
                .map(|k| {
                    g[k] = scale(k) * (x[k] - k as f64);
                    0.5 * g[k] * (x[k] - k as f64)
                })
                .sum()
        });
        assert!(outcome.iters < 200 && outcome.value < 1e-12, "{outcome:?}");
        assert!(x.iter().enumerate().all(|(k, x)| (x - k as f64).abs() < 1e-6), "{x:?}");
    }

    #[test]
    fn a_function_with_a_known_minimum_that_is_no_quadratic() {
        // ln cosh(x - 1) + ½ (y - 2)²
        let mut x = vec![-4.0, 9.0];
        let outcome = minimise(&mut x, LIMITS, |x, g| {
            (g[0], g[1]) = ((x[0] - 1.0).tanh(), x[1] - 2.0);
            (x[0] - 1.0).cosh().ln() + 0.5 * g[1] * g[1]
        });
        assert!((x[0] - 1.0).abs() < 1e-6 && (x[1] - 2.0).abs() < 1e-6 && outcome.iters < 40, "{x:?} {outcome:?}");
    }

    #[test]
    fn a_start_at_the_minimum_stays_and_few_steps_never_make_it_worse() {
        let mut x = vec![3.0];
        let square = |x: &[f64], g: &mut [f64]| {
            g[0] = 2.0 * (x[0] - 3.0);
            (x[0] - 3.0).powi(2)
        };
        assert_eq!(minimise(&mut x, LIMITS, square), Outcome { value: 0.0, iters: 0 });
        let mut x = vec![100.0];
        let outcome = minimise(&mut x, Limits { max_iters: 1, ..LIMITS }, square);
        assert!(outcome.value < 97.0 * 97.0 && outcome.iters == 1);
    }

    #[test]
    fn who_asks_for_the_end_gets_the_best_point_so_far() {
        let quartic = |x: &[f64], g: &mut [f64]| {
            g[0] = 4.0 * (x[0] - 3.0).powi(3);
            (x[0] - 3.0).powi(4)
        };
        let asked_for = |most: usize| {
            let (asked, mut values, mut x) = (Cell::new(0), Vec::new(), vec![5.3]);
            let stop = || asked.replace(asked.get() + 1) >= most;
            let outcome = minimise_until(&mut x, LIMITS, &stop, |x, g| {
                values.push(quartic(x, g));
                values[values.len() - 1]
            });
            assert_eq!(values.len(), most + 1);
            assert_eq!(outcome.value, quartic(&x, &mut [0.0]));
            assert_eq!(outcome.value, values.into_iter().fold(f64::INFINITY, f64::min));
            outcome
        };
        let first = asked_for(0);
        assert!(first.value > 27.0 && first.iters == 0, "{first:?}");
        assert!(asked_for(12).value < 1.0);
    }
}
