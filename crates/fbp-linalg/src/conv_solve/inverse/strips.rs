use rustfft::num_complex::Complex;

use super::fft::Precision;
use super::symbol::C64;
use crate::Real;
use crate::conv_solve::inverse::products::multiply;

/// The boundary system on whole missing rows of the grid, solved.
///
/// Along its rows the system is periodic, so that it falls apart into one small system for every frequency.
#[derive(Clone, Debug)]
pub(crate) struct Strips<P> {
    near: Vec<MissingRow>,
    far: Vec<MissingRow>,
    /// A wave for every row that is missing somewhere.
    waves: Vec<Wave<P>>,
    /// Inverses of the small systems, times minus the number of columns: `[line][line][frequency]`.
    inverse: Vec<Complex<P>>,
}

/// A missing row of a plane, and the wave that belongs to it.
#[derive(Clone, Copy, Debug)]
struct MissingRow {
    plane: usize,
    wave: usize,
}

/// `cos` and `sin` of `2π·row·k/rows` for every frequency `k`, each twice: once for a real part, once for an imaginary one.
#[derive(Clone, Debug)]
struct Wave<P> {
    cos: Vec<[P; 2]>,
    sin: Vec<[P; 2]>,
}

impl<P: Precision> Wave<P> {
    fn new(row: usize, rows: usize) -> Self {
        let angle = |k: usize| std::f64::consts::TAU * (row * k % rows) as f64 / rows as f64;
        let twice = |x: f64| [<P as Real>::from_f64(x); 2];
        let (cos, sin) = (0..rows).map(|k| (twice(angle(k).cos()), twice(angle(k).sin()))).unzip();
        Self { cos, sin }
    }
}

/// Spectra of both fields of one sample.
pub(crate) struct Spectra<'a, P> {
    /// The field, which is read.
    pub(crate) near: &'a [Complex<P>],
    /// What is added to its sources.
    pub(crate) near_source: &'a mut [Complex<P>],
    /// The far field, which is replaced by its sources.
    pub(crate) far: &'a mut [Complex<P>],
}

impl<P: Precision> Strips<P> {
    /// From missing rows as `plane·rows + row`, and inverses `[frequency][line][line]` (row-major).
    pub(crate) fn new([near, far]: [&[u32]; 2], [rows, cols]: [usize; 2], inverses: &[C64]) -> Self {
        let lines = near.len() + far.len();
        let half = cols / 2 + 1;
        let mut known: Vec<usize> = near.iter().chain(far).map(|&line| line as usize % rows).collect();
        known.sort_unstable();
        known.dedup();
        let line = |&line: &u32| {
            let (plane, row) = (line as usize / rows, line as usize % rows);
            MissingRow { plane, wave: known.binary_search(&row).unwrap_or(0) }
        };
        let mut inverse = vec![Complex { re: <P as Real>::ZERO, im: <P as Real>::ZERO }; lines * lines * half];
        for (frequency, one) in inverses.chunks_exact(lines * lines).enumerate() {
            for (at, value) in one.iter().enumerate() {
                let real = |x: f64| <P as Real>::from_f64(-(cols as f64) * x);
                inverse[at * half + frequency] = Complex { re: real(value.re), im: real(value.im) };
            }
        }
        Self {
            near: near.iter().map(line).collect(),
            far: far.iter().map(line).collect(),
            waves: known.iter().map(|&row| Wave::new(row, rows)).collect(),
            inverse,
        }
    }

    /// Whether rows of the far field are missing.
    pub(crate) fn reach_far(&self) -> bool {
        !self.far.is_empty()
    }

    /// Finds the sources on the missing rows that make the fields vanish there; `found` and `wanted` hold a spectrum along
    /// the columns for every line.
    pub(crate) fn solve(&self, spectra: Spectra<'_, P>, found: &mut [Complex<P>], wanted: &mut [Complex<P>]) {
        let half = found.len() / (self.near.len() + self.far.len()).max(1);
        let Spectra { near, near_source, far } = spectra;
        let (near_found, far_found) = found.split_at_mut(self.near.len() * half);
        self.each(&self.near, near_found, |wave, value, at| *value = wave.gather(&near[at..]));
        self.each(&self.far, far_found, |wave, value, at| *value = wave.gather(&far[at..]));
        multiply(&self.inverse, found, wanted, half);
        far.fill(Complex { re: <P as Real>::ZERO, im: <P as Real>::ZERO });
        let (near_wanted, far_wanted) = wanted.split_at_mut(self.near.len() * half);
        self.each(&self.near, near_wanted, |wave, value, at| wave.scatter(*value, &mut near_source[at..]));
        self.each(&self.far, far_wanted, |wave, value, at| wave.scatter(*value, &mut far[at..]));
    }

    /// Runs `run` for every column of every line: with its wave, its value, and where the column begins in a spectrum.
    fn each(
        &self,
        lines: &[MissingRow],
        values: &mut [Complex<P>],
        mut run: impl FnMut(&Wave<P>, &mut Complex<P>, usize),
    ) {
        let half = values.len() / lines.len().max(1);
        for (line, values) in lines.iter().zip(values.chunks_exact_mut(half.max(1))) {
            let wave = &self.waves[line.wave];
            for (column, value) in values.iter_mut().enumerate() {
                run(wave, value, (line.plane * half + column) * wave.cos.len());
            }
        }
    }
}

/// Complex numbers that are summed side by side.
const WIDTH: usize = 8;

impl<P: Precision> Wave<P> {
    /// `Σ x[k] exp(i·angle[k])`: what a spectrum's column, with which `x` begins, has in the row of the wave.
    fn gather(&self, x: &[Complex<P>]) -> Complex<P> {
        pulp::Arch::new().dispatch(Gather { wave: self, x: &x[..self.cos.len()] })
    }

    /// `y[k] += value·exp(-i·angle[k])`.
    fn scatter(&self, value: Complex<P>, y: &mut [Complex<P>]) {
        pulp::Arch::new().dispatch(Scatter { wave: self, value, y: &mut y[..self.cos.len()] });
    }
}

struct Gather<'a, P> {
    wave: &'a Wave<P>,
    x: &'a [Complex<P>],
}

impl<P: Precision> pulp::WithSimd for Gather<'_, P> {
    type Output = Complex<P>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Complex<P> {
        let zero = <P as Real>::ZERO;
        let (mut by_cos, mut by_sin) = ([[zero; 2]; WIDTH], [[zero; 2]; WIDTH]);
        let (x, rest) = self.x.as_chunks::<WIDTH>();
        let (cos, cos_rest) = self.wave.cos.as_chunks::<WIDTH>();
        let (sin, sin_rest) = self.wave.sin.as_chunks::<WIDTH>();
        for ((x, cos), sin) in x.iter().zip(cos).zip(sin) {
            for l in 0..WIDTH {
                by_cos[l] = [by_cos[l][0] + x[l].re * cos[l][0], by_cos[l][1] + x[l].im * cos[l][1]];
                by_sin[l] = [by_sin[l][0] + x[l].re * sin[l][0], by_sin[l][1] + x[l].im * sin[l][1]];
            }
        }
        for ((x, cos), sin) in rest.iter().zip(cos_rest).zip(sin_rest) {
            by_cos[0] = [by_cos[0][0] + x.re * cos[0], by_cos[0][1] + x.im * cos[1]];
            by_sin[0] = [by_sin[0][0] + x.re * sin[0], by_sin[0][1] + x.im * sin[1]];
        }
        let sum = |lanes: &[[P; 2]; WIDTH], part: usize| lanes.iter().fold(zero, |sum, lane| sum + lane[part]);
        Complex { re: sum(&by_cos, 0) - sum(&by_sin, 1), im: sum(&by_cos, 1) + sum(&by_sin, 0) }
    }
}

struct Scatter<'a, P> {
    wave: &'a Wave<P>,
    value: Complex<P>,
    y: &'a mut [Complex<P>],
}

impl<P: Precision> pulp::WithSimd for Scatter<'_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Complex { re, im } = self.value;
        for ((y, cos), sin) in self.y.iter_mut().zip(&self.wave.cos).zip(&self.wave.sin) {
            y.re = y.re + re * cos[0] + im * sin[0];
            y.im = y.im + im * cos[1] - re * sin[1];
        }
    }
}
