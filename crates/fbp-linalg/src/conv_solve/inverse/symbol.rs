use rustfft::num_complex::Complex;

use super::fft::PlaneFft;
use crate::conv_solve::operator::grid::{End, Grid};
use crate::conv_solve::operator::pair::Pair;

/// A complex number in the precision of the set-up.
pub(crate) type C64 = Complex<f64>;

const ZERO: C64 = Complex { re: 0.0, im: 0.0 };

/// The symbol `M(ω)` (`p × q`) of one group, from the far field to the near field, at every frequency of a half plane.
///
/// `M = K` where the near field is the output of the convolution and `M = Kᴴ` where it is the input.
#[derive(Clone, Debug)]
pub(crate) struct Symbol {
    /// Planes of the near field.
    pub(crate) p: usize,
    /// Planes of the far field.
    pub(crate) q: usize,
    pub(crate) freqs: usize,
    /// `[near][far][frequency]`.
    pub(crate) values: Vec<C64>,
}

/// `(M Mᴴ + shift)⁻¹` at every frequency, with the extreme sizes that were met.
pub(crate) struct GramInverse {
    /// `[near][near][frequency]`.
    pub(crate) values: Vec<C64>,
    /// Smallest eigenvalue over all frequencies, from below within a factor `√p`.
    pub(crate) least: f64,
}

impl Symbol {
    /// The symbol of a group with these weights (`[out, in, kh, kw]` of the group).
    pub(crate) fn new(grid: &Grid, near: End, weight: &[f64], fft: &PlaneFft<f64>) -> Self {
        let (out, input, cells, freqs) = (grid.output.planes, grid.input.planes, grid.cells(), fft.spectrum_len());
        let (p, q) = if near == End::Output { (out, input) } else { (input, out) };
        let mut values = vec![ZERO; p * q * freqs];
        let mut planes = vec![0.0; input * cells];
        let mut scratch = vec![ZERO; fft.scratch_len()];
        let mut line = vec![ZERO; freqs];
        for o in 0..out {
            grid.kernel_planes(weight, o, &mut planes);
            for (c, plane) in planes.chunks_exact_mut(cells).enumerate() {
                fft.forward(plane, &mut line, &mut scratch);
                if near == End::Output {
                    values[(o * q + c) * freqs..][..freqs].copy_from_slice(&line);
                } else {
                    let to = &mut values[(c * q + o) * freqs..][..freqs];
                    to.iter_mut().zip(&line).for_each(|(to, from)| *to = from.conj());
                }
            }
        }
        Self { p, q, freqs, values }
    }

    /// `M Mᴴ` at one frequency, row-major.
    fn gram(&self, f: usize, gram: &mut [C64]) {
        let at = |i: usize, k: usize| self.values[(i * self.q + k) * self.freqs + f];
        for i in 0..self.p {
            for j in 0..=i {
                let sum = (0..self.q).fold(ZERO, |sum, k| sum + at(i, k) * at(j, k).conj());
                gram[i * self.p + j] = sum;
                gram[j * self.p + i] = sum.conj();
            }
        }
    }

    /// `M Mᴴ` at every frequency, `[near][near][frequency]`.
    pub(crate) fn grams(&self) -> Vec<C64> {
        let (p, freqs) = (self.p, self.freqs);
        let (mut grams, mut gram) = (vec![ZERO; p * p * freqs], vec![ZERO; p * p]);
        for f in 0..freqs {
            self.gram(f, &mut gram);
            gram.iter().enumerate().for_each(|(at, value)| grams[at * freqs + f] = *value);
        }
        grams
    }

    /// Largest eigenvalue of `M Mᴴ` over all frequencies, by a few steps of the power method from above-average starts;
    /// a lower bound within a few per cent.
    pub(crate) fn largest(&self) -> f64 {
        let p = self.p;
        let mut gram = vec![ZERO; p * p];
        let (mut x, mut y) = (vec![ZERO; p], vec![ZERO; p]);
        let mut largest = 0.0_f64;
        for f in 0..self.freqs {
            self.gram(f, &mut gram);
            let trace: f64 = (0..p).map(|i| gram[i * p + i].re).sum();
            if trace <= largest {
                continue;
            }
            // Start from the heaviest column, which is not orthogonal to the wanted vector.
            let heaviest = (0..p).max_by(|&i, &j| gram[i * p + i].re.total_cmp(&gram[j * p + j].re)).unwrap_or(0);
            (0..p).for_each(|i| x[i] = gram[i * p + heaviest]);
            for _ in 0..12 {
                let norm = x.iter().map(Complex::norm_sqr).sum::<f64>().sqrt();
                if norm == 0.0 {
                    break;
                }
                x.iter_mut().for_each(|x| *x /= norm);
                for i in 0..p {
                    y[i] = (0..p).fold(ZERO, |sum, j| sum + gram[i * p + j] * x[j]);
                }
                std::mem::swap(&mut x, &mut y);
                largest = largest.max(x.iter().map(Complex::norm_sqr).sum::<f64>().sqrt());
            }
        }
        largest
    }

    /// `(M Mᴴ + shift)⁻¹` by Cholesky factors; `None` where a frequency has no inverse.
    pub(crate) fn gram_inverse(&self, shift: f64) -> Option<GramInverse> {
        let (p, freqs) = (self.p, self.freqs);
        let mut values = vec![ZERO; p * p * freqs];
        let mut gram = vec![ZERO; p * p];
        let mut inverse = vec![ZERO; p * p];
        let mut least = f64::INFINITY;
        for f in 0..freqs {
            self.gram(f, &mut gram);
            (0..p).for_each(|i| gram[i * p + i].re += shift);
            if !invert(&mut gram, &mut inverse, p) {
                return None;
            }
            let size = inverse.iter().map(Complex::norm_sqr).sum::<f64>().sqrt();
            least = least.min(1.0 / size);
            for (at, value) in inverse.iter().enumerate() {
                values[at * freqs + f] = *value;
            }
        }
        Some(GramInverse { values, least })
    }

    /// `out[i] = Σ_j inverse[i][j] M[j][k]` for all `k`: the symbol of `(M Mᴴ + shift)⁻¹ M`.
    pub(crate) fn solved(&self, inverse: &[C64]) -> Vec<C64> {
        let (p, q, freqs) = (self.p, self.q, self.freqs);
        let mut product = vec![ZERO; p * q * freqs];
        for i in 0..p {
            for j in 0..p {
                let factor = &inverse[(i * p + j) * freqs..][..freqs];
                for k in 0..q {
                    let from = &self.values[(j * q + k) * freqs..][..freqs];
                    let to = &mut product[(i * q + k) * freqs..][..freqs];
                    to.iter_mut().zip(factor).zip(from).for_each(|((to, a), b)| *to += a * b);
                }
            }
        }
        product
    }

    /// `I - Mᴴ (M Mᴴ + shift)⁻¹ M`, from [`solved`](Self::solved).
    pub(crate) fn complement(&self, solved: &[C64]) -> Vec<C64> {
        let (p, q, freqs) = (self.p, self.q, self.freqs);
        let mut product = vec![ZERO; q * q * freqs];
        for k in 0..q {
            product[(k * q + k) * freqs..][..freqs].fill(Complex { re: 1.0, im: 0.0 });
            for l in 0..q {
                let to = &mut product[(k * q + l) * freqs..][..freqs];
                for i in 0..p {
                    let left = &self.values[(i * q + k) * freqs..][..freqs];
                    let right = &solved[(i * q + l) * freqs..][..freqs];
                    to.iter_mut().zip(left).zip(right).for_each(|((to, a), b)| *to -= a.conj() * b);
                }
            }
        }
        product
    }
}

/// One symbol per group.
pub(crate) fn symbols(pair: &Pair, grid: &Grid, weight: &[f64], fft: &PlaneFft<f64>) -> Vec<Symbol> {
    let groups = pair.conv.geometry().groups();
    let group = |weight: &[f64]| Symbol::new(grid, pair.near, weight, fft);
    weight.chunks_exact(weight.len() / groups).map(group).collect()
}

/// Largest eigenvalue of the periodic operator, or a bound from the weights; never zero.
pub(crate) fn scale(symbols: &[Symbol], weight: &[f64]) -> f64 {
    let largest = symbols.iter().map(Symbol::largest).fold(0.0, f64::max);
    let bound = weight.iter().map(|w| w * w).sum::<f64>();
    if largest > 0.0 {
        largest
    } else if bound > 0.0 {
        bound
    } else {
        1.0
    }
}

/// Inverse of a Hermitian positive definite matrix (row-major), whose values are lost; false if it has none.
fn invert(matrix: &mut [C64], inverse: &mut [C64], p: usize) -> bool {
    // L Lᴴ in the lower triangle.
    for j in 0..p {
        let pivot = matrix[j * p + j].re - (0..j).map(|k| matrix[j * p + k].norm_sqr()).sum::<f64>();
        // False for NaN, too.
        if !(pivot > 1e-14 * matrix[j * p + j].re && pivot.is_finite()) {
            return false;
        }
        let root = pivot.sqrt();
        matrix[j * p + j] = Complex { re: root, im: 0.0 };
        for i in j + 1..p {
            let sum = (0..j).fold(matrix[i * p + j], |sum, k| sum - matrix[i * p + k] * matrix[j * p + k].conj());
            matrix[i * p + j] = sum / root;
        }
    }
    // The lower triangle becomes L⁻¹.
    for j in 0..p {
        matrix[j * p + j] = Complex { re: 1.0 / matrix[j * p + j].re, im: 0.0 };
        for i in j + 1..p {
            let sum = (j..i).fold(ZERO, |sum, k| sum + matrix[i * p + k] * matrix[k * p + j]);
            // Row i beyond column j still holds L, and so does its diagonal.
            matrix[i * p + j] = -sum / matrix[i * p + i].re;
        }
    }
    for i in 0..p {
        for j in 0..=i {
            let sum = (i..p).fold(ZERO, |sum, k| sum + matrix[k * p + i].conj() * matrix[k * p + j]);
            inverse[i * p + j] = sum;
            inverse[j * p + i] = sum.conj();
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;
    use crate::testkit::{Tol, normal_vec, rng};

    #[test]
    fn the_inverse_of_a_hermitian_matrix() {
        let mut rng = rng(2);
        for p in [1, 2, 5, 9] {
            let parts = normal_vec::<f64>(2 * p * p, &mut rng);
            let root: Vec<C64> = parts.chunks(2).map(|z| Complex::new(z[0], z[1])).collect();
            let product = |a: &[C64], b: &[C64]| -> Vec<C64> {
                let entry = |at: usize| (0..p).fold(ZERO, |sum, k| sum + a[at / p * p + k] * b[k * p + at % p]);
                (0..p * p).map(entry).collect()
            };
            let adjoint: Vec<C64> = (0..p * p).map(|at| root[at % p * p + at / p].conj()).collect();
            let mut gram = product(&root, &adjoint);
            (0..p).for_each(|i| gram[i * p + i].re += 0.1);
            let mut inverse = vec![ZERO; p * p];
            assert!(invert(&mut gram.clone(), &mut inverse, p));
            let one = product(&gram, &inverse);
            let flat: Vec<f64> = one.iter().flat_map(|z| [z.re, z.im]).collect();
            let expected: Vec<f64> =
                (0..2 * p * p).map(|at| f64::from(at % 2 == 0 && at / 2 / p == at / 2 % p)).collect();
            assert_close!(flat, expected, Tol::eps::<f64>().times(1000 * p * p));
        }
        assert!(!invert(&mut [ZERO], &mut [ZERO], 1));
    }
}
