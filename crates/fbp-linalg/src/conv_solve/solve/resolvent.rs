use faer::dyn_stack::{MemStack, StackReq};

use super::cg::{dot, norm};
use crate::conv_solve::inverse::apply::Forecast;
use crate::conv_solve::inverse::shifted::REACH;

/// Most vectors of the basis of a sample: with factors within half a decade of the wanted shift the error of the last one
/// is about `((√10 - 1) / (√10 + 1))^8`, 2e-5 of the solution, and with factors a decade away 1e-3.
pub(crate) const STEPS: usize = 8;
/// Relative residual at which a basis is large enough: that which rounded factors leave anyway.
pub(crate) const SETTLED: f64 = 1e-3;
/// Bisections of the logarithm of the shift.
const BISECTIONS: usize = 40;
/// Length of a new direction, relative to the one before, below which the basis is complete.
const COMPLETE: f64 = 1e-10;

/// Solutions of `(H + a I) x = g` for every shift `a` at once, from a few applications of `P = (H + a₀ I)⁻¹`.
///
/// With `V` an orthonormal basis of `span {Pg, P²g, …}` and `T = Vᵀ P V`, which is tridiagonal,
///
/// ```text
/// x(a) = (I + (a - a₀) P)⁻¹ P g ≈ |Pg| V (I + (a - a₀) T)⁻¹ e₁
/// ```
///
/// so that the search for the shift that gives a wanted length costs nothing beside the basis.
///
/// # Source
/// Shift-and-invert Lanczos: van den Eshof & Hochbruck, *SIAM J. Sci. Comput.* 27 (2006) 1438; for the search see Moré &
/// Sorensen, *SIAM J. Sci. Stat. Comput.* 4 (1983) 553.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resolvent {
    /// Vectors of the basis.
    len: usize,
    /// Those among them whose image under `P` is known.
    known: usize,
    complete: bool,
    /// `|Pg|`.
    size: f64,
    /// `T`; below the last known vector the length of the next direction.
    diagonal: [f64; STEPS],
    beside: [f64; STEPS],
    /// `Vᵀ g`.
    products: [f64; STEPS],
}

impl Default for Resolvent {
    fn default() -> Self {
        let zeros = [0.0; STEPS];
        Self { len: 0, known: 0, complete: false, size: 0.0, diagonal: zeros, beside: zeros, products: zeros }
    }
}

impl Resolvent {
    /// Takes the next direction `z = P·(last)` into the basis (`STEPS` vectors, one after the other); `last` becomes the
    /// vector that `P` is applied to next.
    pub(crate) fn extend(&mut self, basis: &mut [f64], g: &[f64], z: &mut [f64], last: &mut [f64]) {
        if self.complete {
            return;
        }
        let n = g.len();
        let (known, rest) = basis.split_at_mut(self.len * n);
        let before = norm(z);
        if let Some(newest) = self.len.checked_sub(1) {
            self.diagonal[newest] = dot(&known[newest * n..], z);
            self.known = self.len;
        }
        // Twice is enough.
        for _ in 0..2 {
            for v in known.chunks_exact(n) {
                let share = dot(v, z);
                z.iter_mut().zip(v).for_each(|(z, v)| *z -= share * v);
            }
        }
        let length = norm(z);
        self.complete = length.is_nan() || length <= COMPLETE * before;
        match self.len.checked_sub(1) {
            _ if self.complete => return,
            Some(newest) => self.beside[newest] = length,
            None => self.size = length,
        }
        if self.len == STEPS {
            self.complete = true;
            return;
        }
        let v = &mut rest[..n];
        v.iter_mut().zip(&*z).for_each(|(v, z)| *v = z / length);
        self.products[self.len] = dot(v, g);
        last.copy_from_slice(v);
        self.len += 1;
    }

    /// Coefficients of the solution for `a - a₀`; `None` if rounding left no definite system.
    fn coefficients(&self, offset: f64) -> Option<[f64; STEPS]> {
        let mut x = [0.0; STEPS];
        let mut pivots = [0.0; STEPS];
        for i in 0..self.known {
            let (mut pivot, mut right) = (1.0 + offset * self.diagonal[i], if i == 0 { self.size } else { 0.0 });
            if i > 0 {
                let share = offset * self.beside[i - 1] / pivots[i - 1];
                pivot -= share * offset * self.beside[i - 1];
                right -= share * x[i - 1];
            }
            if pivot.is_nan() || pivot <= 0.0 {
                return None;
            }
            (pivots[i], x[i]) = (pivot, right);
        }
        for i in (0..self.known).rev() {
            let above = if i + 1 < self.known { offset * self.beside[i] * x[i + 1] } else { 0.0 };
            x[i] = (x[i] - above) / pivots[i];
        }
        Some(x)
    }

    /// Residual of the solution for `a - a₀`, relative to `|Pg|`: what the next direction would add.
    pub(crate) fn residual(&self, offset: f64) -> f64 {
        let Some(last) = self.known.checked_sub(1) else { return if self.complete { 0.0 } else { 1.0 } };
        let rest = |x: [f64; STEPS]| (offset * self.beside[last] * x[last]).abs() / self.size;
        self.coefficients(offset).map_or(1.0, rest)
    }

    fn forecast(&self, offset: f64) -> Option<Forecast> {
        let x = self.coefficients(offset)?;
        let product = x.iter().zip(&self.products).map(|(x, c)| x * c).sum();
        Some(Forecast { product, square: x.iter().map(|x| x * x).sum() })
    }

    /// The shift at which a falling length takes a given value, as near as the basis reaches from that of the factors.
    pub(crate) fn find(&self, wanted: f64, factored: f64, length: impl Fn(f64, Forecast) -> f64) -> f64 {
        let (mut low, mut high) = (-REACH.ln(), REACH.ln());
        let at = |log: f64| factored * log.exp();
        for _ in 0..BISECTIONS {
            let middle = 0.5 * (low + high);
            let shift = at(middle);
            // Not definite: the shift is too small.
            match self.forecast(shift - factored) {
                Some(found) if length(shift, found) <= wanted => high = middle,
                _ => low = middle,
            }
        }
        at(0.5 * (low + high))
    }

    /// `x <- x(factored + offset)`; leaves zeros if there is none.
    pub(crate) fn solution(&self, offset: f64, basis: &[f64], x: &mut [f64]) {
        x.fill(0.0);
        let Some(coefficients) = self.coefficients(offset) else { return };
        for (v, share) in basis.chunks_exact(x.len()).zip(coefficients).take(self.known) {
            x.iter_mut().zip(v).for_each(|(x, v)| *x += share * v);
        }
    }
}

/// Workspace for the bases of some samples, with near fields of `near` values.
pub(crate) fn resolvent_scratch(near: usize, samples: usize) -> StackReq {
    StackReq::new::<f64>(STEPS * near * samples).and(StackReq::new::<Resolvent>(samples))
}

/// Gives `run` empty bases for some samples.
pub(crate) fn with_resolvents<R>(
    near: usize,
    samples: usize,
    stack: &mut MemStack,
    run: impl FnOnce(&mut [Resolvent], &mut [f64], &mut MemStack) -> R,
) -> R {
    let (mut basis, stack) = stack.make_with(STEPS * near * samples, |_| 0.0_f64);
    let (mut resolvents, stack) = stack.make_with(samples, |_| Resolvent::default());
    run(&mut resolvents, &mut basis, stack)
}

#[cfg(test)]
mod tests {
    use faer::Mat;
    use faer::prelude::Solve;

    use super::*;
    use crate::assert_close;
    use crate::testkit::{Tol, normal_mat, normal_vec, rng};

    /// `(H + shift)⁻¹ g` by dense elimination.
    fn solved(h: &Mat<f64>, shift: f64, g: &[f64]) -> Vec<f64> {
        let shifted = h + shift * Mat::<f64>::identity(h.nrows(), h.nrows());
        let mut x = Mat::from_fn(g.len(), 1, |i, _| g[i]);
        shifted.partial_piv_lu().solve_in_place(x.as_mut());
        x.col(0).iter().copied().collect()
    }

    /// A basis from as many applications of the inverse for the shift `factored` as it takes.
    fn basis(h: &Mat<f64>, factored: f64, g: &[f64]) -> (Resolvent, Vec<f64>) {
        let (mut resolvent, mut vectors, mut p) = (Resolvent::default(), vec![0.0; STEPS * g.len()], g.to_vec());
        for _ in 0..=STEPS {
            let mut z = solved(h, factored, &p);
            resolvent.extend(&mut vectors, g, &mut z, &mut p);
        }
        (resolvent, vectors)
    }

    #[test]
    fn a_basis_settles_before_it_is_full() {
        let mut rng = rng(7);
        let root = normal_mat::<f64>(40, 60, &mut rng);
        let (h, g) = (&root * root.transpose(), normal_vec::<f64>(40, &mut rng));
        let (mut resolvent, mut vectors, mut p) = (Resolvent::default(), vec![0.0; STEPS * g.len()], g.clone());
        let (factored, offset) = (5.0, 2.0);
        let mut applications = 0;
        while resolvent.residual(offset) > SETTLED {
            let mut z = solved(&h, factored, &p);
            resolvent.extend(&mut vectors, &g, &mut z, &mut p);
            applications += 1;
        }
        assert!((3..STEPS).contains(&applications), "{applications} applications");
        let mut x = vec![0.0; g.len()];
        resolvent.solution(offset, &vectors, &mut x);
        // The preconditioned residual `Pg - (I + offset·P) x`, against its estimate.
        let (start, image) = (solved(&h, factored, &g), solved(&h, factored, &x));
        let rest: Vec<f64> = (0..x.len()).map(|i| start[i] - x[i] - offset * image[i]).collect();
        assert!(norm(&rest) <= (1.0 + 1e-6) * SETTLED * norm(&start), "{}", norm(&rest) / norm(&start));
    }

    #[test]
    fn a_full_basis_gives_every_shift() {
        let mut rng = rng(5);
        let root = normal_mat::<f64>(STEPS, STEPS, &mut rng);
        let (h, g) = (&root * root.transpose(), normal_vec::<f64>(STEPS, &mut rng));
        let (resolvent, vectors) = basis(&h, 0.5, &g);
        let tol = Tol::eps::<f64>().times(100_000);
        for shift in [0.05, 0.5, 3.0] {
            let (mut x, expected) = (vec![f64::NAN; STEPS], solved(&h, shift, &g));
            resolvent.solution(shift - 0.5, &vectors, &mut x);
            assert_close!(x, expected, tol);
            let found = resolvent.forecast(shift - 0.5).unwrap();
            assert_close!([found.square, found.product], [dot(&expected, &expected), dot(&expected, &g)], tol);
            // The bisection ends within 7/2⁴⁰ of the logarithm.
            let back = resolvent.find(norm(&expected), 0.5, |_, found| found.square.sqrt());
            assert!((back / shift - 1.0).abs() < 1e-9, "{back} instead of {shift}");
        }
    }

    #[test]
    fn a_basis_that_is_complete_early_is_enough() {
        // Two eigenvalues, so that two vectors span everything.
        let h = Mat::from_fn(20, 20, |i, j| if i == j { 1.0 + (i % 2) as f64 } else { 0.0 });
        let g = normal_vec::<f64>(20, &mut rng(6));
        let (resolvent, vectors) = basis(&h, 0.1, &g);
        assert_eq!((resolvent.len, resolvent.complete), (2, true));
        let mut x = vec![0.0; 20];
        resolvent.solution(0.9, &vectors, &mut x);
        assert_close!(x, solved(&h, 1.0, &g), Tol::eps::<f64>().times(1000));
    }

    #[test]
    fn nothing_comes_of_nothing() {
        let h = Mat::<f64>::identity(3, 3);
        let (resolvent, vectors) = basis(&h, 0.1, &[0.0; 3]);
        let mut x = vec![1.0; 3];
        resolvent.solution(0.5, &vectors, &mut x);
        assert_eq!((resolvent.len, x), (0, vec![0.0; 3]));
    }
}
