use std::sync::Arc;

use faer::Mat;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftNum, FftPlanner};

use crate::Real;

/// Scalars that the transforms work in.
pub(crate) trait Precision: Real + FftNum {
    /// Rounds a matrix.
    fn rounded(matrix: Mat<f64>) -> Mat<Self>;
}

impl Precision for f32 {
    fn rounded(matrix: Mat<f64>) -> Mat<f32> {
        Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)] as f32)
    }
}

impl Precision for f64 {
    fn rounded(matrix: Mat<f64>) -> Mat<f64> {
        matrix
    }
}

/// Two-dimensional Fourier transform of real planes of one size.
///
/// A spectrum holds the columns `0..=cols/2` of the half plane, each column contiguous.
#[derive(Clone)]
pub(crate) struct PlaneFft<P: Precision> {
    rows: usize,
    cols: usize,
    half: usize,
    along_rows: Arc<dyn RealToComplex<P>>,
    back_rows: Arc<dyn ComplexToReal<P>>,
    along_cols: Arc<dyn Fft<P>>,
    back_cols: Arc<dyn Fft<P>>,
    scratch: usize,
}

impl<P: Precision> std::fmt::Debug for PlaneFft<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlaneFft").field("rows", &self.rows).field("cols", &self.cols).finish_non_exhaustive()
    }
}

impl<P: Precision> PlaneFft<P> {
    pub(crate) fn new([rows, cols]: [usize; 2]) -> Self {
        let (mut real, mut complex) = (RealFftPlanner::<P>::new(), FftPlanner::<P>::new());
        let (along_rows, back_rows) = (real.plan_fft_forward(cols), real.plan_fft_inverse(cols));
        let (along_cols, back_cols) = (complex.plan_fft_forward(rows), complex.plan_fft_inverse(rows));
        let half = cols / 2 + 1;
        let inner = [
            along_rows.get_scratch_len(),
            back_rows.get_scratch_len(),
            along_cols.get_inplace_scratch_len(),
            back_cols.get_inplace_scratch_len(),
        ];
        let scratch = half + inner.into_iter().max().unwrap_or(0);
        Self { rows, cols, half, along_rows, back_rows, along_cols, back_cols, scratch }
    }

    /// Values of one spectrum.
    pub(crate) fn spectrum_len(&self) -> usize {
        self.half * self.rows
    }

    /// Frequencies along the rows.
    pub(crate) fn half(&self) -> usize {
        self.half
    }

    /// Cells of one plane.
    pub(crate) fn plane_len(&self) -> usize {
        self.rows * self.cols
    }

    /// Complex values of scratch memory that both directions need.
    pub(crate) fn scratch_len(&self) -> usize {
        self.scratch
    }

    /// Transforms a plane, whose values are lost.
    pub(crate) fn forward(&self, plane: &mut [P], spectrum: &mut [Complex<P>], scratch: &mut [Complex<P>]) {
        let (line, scratch) = scratch.split_at_mut(self.half);
        for (r, row) in plane.chunks_exact_mut(self.cols).enumerate() {
            // Fails for wrong lengths only.
            let done = self.along_rows.process_with_scratch(row, line, scratch);
            debug_assert!(done.is_ok());
            spectrum[r..].iter_mut().step_by(self.rows).zip(line.iter()).for_each(|(to, from)| *to = *from);
        }
        self.along_cols.process_with_scratch(spectrum, scratch);
    }

    /// Transforms spectra back along their columns only; the result is `rows` times the spectra along the rows.
    pub(crate) fn inverse_along_columns(&self, spectra: &mut [Complex<P>]) {
        self.back_cols.process(spectra);
    }

    /// Transforms a spectrum back, whose values are lost; the result is `rows·cols` times the plane.
    pub(crate) fn inverse(&self, spectrum: &mut [Complex<P>], plane: &mut [P], scratch: &mut [Complex<P>]) {
        let (line, scratch) = scratch.split_at_mut(self.half);
        self.back_cols.process_with_scratch(spectrum, scratch);
        let zero = <P as Real>::ZERO;
        for (r, row) in plane.chunks_exact_mut(self.cols).enumerate() {
            line.iter_mut().zip(spectrum[r..].iter().step_by(self.rows)).for_each(|(to, from)| *to = *from);
            // Both are real up to rounding, and the transform insists on it.
            line[0].im = zero;
            if self.cols.is_multiple_of(2) {
                line[self.half - 1].im = zero;
            }
            let done = self.back_rows.process_with_scratch(line, row, scratch);
            debug_assert!(done.is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;
    use crate::testkit::{Tol, normal_vec, rng};

    /// The definition, term by term.
    fn naive(plane: &[f64], [rows, cols]: [usize; 2]) -> Vec<f64> {
        let half = cols / 2 + 1;
        let mut values = Vec::new();
        for (v, u) in (0..half).flat_map(|v| (0..rows).map(move |u| (v, u))) {
            let (mut re, mut im) = (0.0, 0.0);
            for (i, x) in plane.iter().enumerate() {
                let turns = (u * (i / cols)) as f64 / rows as f64 + (v * (i % cols)) as f64 / cols as f64;
                let (sin, cos) = (-std::f64::consts::TAU * turns).sin_cos();
                (re, im) = (re + x * cos, im + x * sin);
            }
            values.extend([re, im]);
        }
        values
    }

    #[test]
    fn transforms_follow_the_definition_and_return() {
        let mut rng = rng(1);
        for size in [[1, 1], [1, 6], [5, 1], [4, 4], [7, 9], [6, 5], [9, 8]] {
            let fft = PlaneFft::<f64>::new(size);
            let plane = normal_vec::<f64>(size[0] * size[1], &mut rng);
            let mut spectrum = vec![Complex::new(f64::NAN, 0.0); fft.spectrum_len()];
            let mut scratch = vec![Complex::new(f64::NAN, 0.0); fft.scratch_len()];
            fft.forward(&mut plane.clone(), &mut spectrum, &mut scratch);
            let flat: Vec<f64> = spectrum.iter().flat_map(|z| [z.re, z.im]).collect();
            let tol = Tol::eps::<f64>().times(16 * plane.len()).scale(1.0);
            assert_close!(flat, naive(&plane, size), tol, "{size:?}");
            let mut back = vec![f64::NAN; plane.len()];
            fft.inverse(&mut spectrum, &mut back, &mut scratch);
            back.iter_mut().for_each(|x| *x /= plane.len() as f64);
            assert_close!(back, plane, tol, "{size:?}");
        }
    }
}
