//! What the optimum is, without the library's solvers.
//!
//! * Exact, images up to 16 × 16: a dense QR decomposition in `f64`.
//! * Exact, larger: the library's own plan in `f64`; its residual and distance are measured with [`Plain`]. Nothing else
//!   finishes in reasonable time.
//! * Bounded, every size: a lower bound that holds whoever computed the point it is taken from ([`Plain::least_residual`]).
//! * Practical layers up to 4096 equations: a dense QR or eigenvalue decomposition in `f64`.

use faer::linalg::solvers::SelfAdjointEigen;
use faer::{Mat, Side};
use fbp_linalg::conv2d::Conv2dGeometry;

/// A convolution as plain loops.
#[derive(Clone, Copy)]
pub(crate) struct Plain<'a> {
    pub(crate) geometry: Conv2dGeometry,
    pub(crate) weight: &'a [f64],
}

impl Plain<'_> {
    /// Calls `visit(weight, output, input)` for every product of one sample, with the same weight for a whole row.
    fn rows(&self, mut visit: impl FnMut(f64, std::ops::Range<usize>, usize, usize)) {
        let g = &self.geometry;
        let (input, output) = (g.in_shape(), g.out_shape());
        let ([kh, kw], [sh, sw], [ph, pw]) = (g.kernel(), g.stride(), g.padding());
        assert!(g.groups() == 1 && g.dilation() == [1, 1], "the cells have one group and no dilation");
        for (o, i) in (0..output.channels).flat_map(|o| (0..input.channels).map(move |i| (o, i))) {
            for (h, w) in (0..kh).flat_map(|h| (0..kw).map(move |w| (h, w))) {
                let weight = self.weight[((o * input.channels + i) * kh + h) * kw + w];
                for y in 0..output.height {
                    let Some(row) = (y * sh + h).checked_sub(ph).filter(|row| *row < input.height) else { continue };
                    // Outputs x whose input column x·s + w - p exists.
                    let first = pw.saturating_sub(w).div_ceil(sw);
                    let last = (input.width + pw).saturating_sub(w).div_ceil(sw).min(output.width);
                    if first < last {
                        let out = (o * output.height + y) * output.width;
                        let from = (i * input.height + row) * input.width + first * sw + w - pw;
                        visit(weight, out + first..out + last, from, sw);
                    }
                }
            }
        }
    }

    /// `output <- A input` for every sample.
    pub(crate) fn forward(&self, input: &[f64], output: &mut [f64]) {
        let (rows, cols) = (self.geometry.out_len(), self.geometry.in_len());
        for (input, output) in input.chunks_exact(cols).zip(output.chunks_exact_mut(rows)) {
            output.fill(0.0);
            self.rows(|weight, out, from, stride| {
                let input = input[from..].iter().step_by(stride);
                output[out].iter_mut().zip(input).for_each(|(y, x)| *y += weight * x);
            });
        }
    }

    /// `input <- Aᵀ output` for one sample.
    fn adjoint(&self, output: &[f64], input: &mut [f64]) {
        input.fill(0.0);
        self.rows(|weight, out, from, stride| {
            let input = input[from..].iter_mut().step_by(stride);
            output[out].iter().zip(input).for_each(|(y, x)| *x += weight * y);
        });
    }

    /// A number that `|A d - r|` of no `d` with `|d| <= limit` is below, from any point `d` for one sample; tight if that
    /// point is nearly optimal.
    ///
    /// # Source
    /// Own derivation. With `e = Aᵀ(A d - r) + λ d` the Lagrangian `|A x - r|² + λ(|x|² - limit²)` is strongly convex in
    /// `x` and nowhere below its value at `d` minus `|e|²/λ` (Boyd and Vandenberghe, *Convex Optimization*, 9.1.2), and
    /// by weak duality the optimum is not below that either. For `λ = 0`: the tangent plane at `d`, over the ball.
    pub(crate) fn least_residual(&self, wanted: &[f64], d: &[f64], limit: f64) -> f64 {
        let (mut rest, mut gradient) = (vec![0.0; wanted.len()], vec![0.0; d.len()]);
        self.forward(d, &mut rest);
        rest.iter_mut().zip(wanted).for_each(|(rest, r)| *rest -= r);
        self.adjoint(&rest, &mut gradient);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (square, length) = (dot(&rest, &rest), dot(d, d));
        let tangent = square - 2.0 * dot(&gradient, &gradient).sqrt() * (limit + length.sqrt());
        let lambda = -dot(&gradient, d) / length.max(f64::MIN_POSITIVE);
        let mut best = tangent.max(0.0);
        if lambda > 0.0 {
            let error: f64 = gradient.iter().zip(d).map(|(g, d)| (g + lambda * d).powi(2)).sum();
            best = best.max(square + lambda * (length - limit * limit) - error / lambda);
        }
        best.sqrt()
    }
}

/// A convolution as a dense matrix.
pub(crate) struct Dense {
    matrix: Mat<f64>,
}

impl Dense {
    pub(crate) fn new(system: &Plain<'_>) -> Self {
        let (rows, cols) = (system.geometry.out_len(), system.geometry.in_len());
        let mut matrix = Mat::zeros(rows, cols);
        system.rows(|weight, out, from, stride| {
            out.enumerate().for_each(|(step, row)| matrix[(row, from + step * stride)] += weight);
        });
        Self { matrix }
    }

    /// Of every sample the shortest `d` with `A d = r`, or with the least `|A d - r|`. The matrix must have full rank.
    pub(crate) fn nearest(&self, wanted: &[f64], batch: usize) -> Vec<f64> {
        let (rows, cols) = self.matrix.shape();
        let wanted = Mat::from_fn(rows, batch, |i, j| wanted[j * rows + i]);
        let moved = if rows < cols {
            // Aᵀ = Q R: d = Q R⁻ᵀ r.
            let qr = self.matrix.transpose().qr();
            let mut inner = wanted;
            qr.thin_R().transpose().solve_lower_triangular_in_place(inner.as_mut());
            qr.compute_thin_Q() * inner
        } else {
            let qr = self.matrix.qr();
            let mut inner = qr.compute_thin_Q().transpose() * wanted;
            qr.thin_R().solve_upper_triangular_in_place(inner.as_mut());
            inner
        };
        moved.col_iter().flat_map(|column| column.iter().copied().collect::<Vec<_>>()).collect()
    }

    /// Of every sample the shortest `d` with `|A d - r| <= limit`, by the eigenvalues of `A Aᵀ` and bisection for λ.
    pub(crate) fn nearest_within(&self, wanted: &[f64], limits: &[f64]) -> Vec<f64> {
        let rows = self.matrix.nrows();
        let gram = &self.matrix * self.matrix.transpose();
        let Ok(eigen) = SelfAdjointEigen::new(gram.as_ref(), Side::Lower) else {
            return vec![f64::NAN; self.matrix.ncols() * limits.len()];
        };
        let (values, vectors) = (eigen.S().column_vector(), eigen.U());
        let mut moved = Vec::new();
        for (wanted, &limit) in wanted.chunks_exact(rows).zip(limits) {
            let turned = vectors.transpose() * Mat::from_fn(rows, 1, |i, _| wanted[i]);
            // A d - r = -λ (A Aᵀ + λ)⁻¹ r grows with λ.
            let missed = |lambda: f64| {
                let part = |i: usize| lambda * turned[(i, 0)] / (values[i].max(0.0) + lambda);
                (0..rows).map(|i| part(i) * part(i)).sum::<f64>().sqrt()
            };
            let (mut low, mut high) = (-40.0_f64, 40.0_f64);
            for _ in 0..200 {
                let middle = 0.5 * (low + high);
                if missed(middle.exp()) > limit { high = middle } else { low = middle }
            }
            let lambda = low.exp();
            let inner = Mat::from_fn(rows, 1, |i, _| turned[(i, 0)] / (values[i].max(0.0) + lambda));
            let d = self.matrix.transpose() * (vectors * inner);
            moved.extend((0..d.nrows()).map(|i| d[(i, 0)]));
        }
        moved
    }
}
