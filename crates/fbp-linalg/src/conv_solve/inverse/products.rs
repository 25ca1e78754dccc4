//! Products of complex matrices that lie frequency by frequency.

use rustfft::num_complex::Complex;

use super::fft::Precision;
use crate::Real;

/// `y <- H x`, `H` of as many rows as `y` has spectra.
pub(crate) fn multiply<P: Precision>(h: &[Complex<P>], x: &[Complex<P>], y: &mut [Complex<P>], freqs: usize) {
    y.fill(Complex { re: <P as Real>::ZERO, im: <P as Real>::ZERO });
    add_product(h, x, y, freqs);
}

/// `y <- y + H x`.
pub(crate) fn add_product<P: Precision>(h: &[Complex<P>], x: &[Complex<P>], y: &mut [Complex<P>], freqs: usize) {
    pulp::Arch::new().dispatch(Products::<P, false> { h, x, y, freqs });
}

/// `y <- Hᴴ x`.
pub(crate) fn multiply_adjoint<P: Precision>(h: &[Complex<P>], x: &[Complex<P>], y: &mut [Complex<P>], freqs: usize) {
    y.fill(Complex { re: <P as Real>::ZERO, im: <P as Real>::ZERO });
    pulp::Arch::new().dispatch(Products::<P, true> { h, x, y, freqs });
}

/// `y += H x`, or `y += Hᴴ x`, at every frequency.
struct Products<'a, P, const ADJOINT: bool> {
    h: &'a [Complex<P>],
    x: &'a [Complex<P>],
    y: &'a mut [Complex<P>],
    freqs: usize,
}

impl<P: Precision, const ADJOINT: bool> pulp::WithSimd for Products<'_, P, ADJOINT> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { h, x, y, freqs } = self;
        let (ins, outs) = (x.len() / freqs, y.len() / freqs);
        for (i, y) in y.chunks_exact_mut(freqs).enumerate() {
            let entry = |k: usize| {
                let at = if ADJOINT { k * outs + i } else { i * ins + k };
                (&h[at * freqs..][..freqs], &x[k * freqs..][..freqs])
            };
            let whole = ins / TERMS * TERMS;
            for k in (0..whole).step_by(TERMS) {
                add_terms::<P, ADJOINT, TERMS>(std::array::from_fn(|term| entry(k + term)), y);
            }
            (whole..ins).for_each(|k| add_terms::<P, ADJOINT, 1>([entry(k)], y));
        }
    }
}

/// Products that are added at a time, so that the sums are read and written less often.
const TERMS: usize = 4;

/// A factor at every frequency, and what it multiplies.
type Term<'a, P> = (&'a [Complex<P>], &'a [Complex<P>]);

/// `y += Σ h x`, or with the conjugates of `h`, entry by entry.
#[inline(always)]
fn add_terms<P: Precision, const ADJOINT: bool, const N: usize>(terms: [Term<'_, P>; N], y: &mut [Complex<P>]) {
    let terms = terms.map(|(h, x)| (&h[..y.len()], &x[..y.len()]));
    for (at, y) in y.iter_mut().enumerate() {
        let Complex { mut re, mut im } = *y;
        for (h, x) in terms {
            let (h, x) = (h[at], x[at]);
            let turned = if ADJOINT { -h.im } else { h.im };
            re = re + h.re * x.re - turned * x.im;
            im = im + h.re * x.im + turned * x.re;
        }
        *y = Complex { re, im };
    }
}
