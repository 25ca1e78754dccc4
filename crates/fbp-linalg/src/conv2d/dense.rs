use faer::{Mat, MatMut};

use super::Conv2d;
use super::kernel::expect_len;
use crate::{LinalgError, Real, expect_shape};

impl Conv2d {
    /// The exact matrix of the convolution for given weights, `out_len × in_len`, without the bias.
    ///
    /// # Errors
    /// [`LinalgError::Length`] if `weight` does not have [`weight_len`](super::Conv2dGeometry::weight_len) values.
    pub fn dense<T: Real>(&self, weight: &[T]) -> Result<Mat<f64>, LinalgError> {
        let mut matrix = Mat::zeros(self.geometry().out_len(), self.geometry().in_len());
        self.write_dense(weight, matrix.as_mut())?;
        Ok(matrix)
    }

    /// Writes the exact matrix of the convolution, `out_len × in_len`, over whatever `matrix` held.
    ///
    /// # Errors
    /// [`LinalgError::Length`] or [`LinalgError::Shape`] if an argument does not have its documented size.
    pub fn write_dense<T: Real>(&self, weight: &[T], mut matrix: MatMut<'_, f64>) -> Result<(), LinalgError> {
        let g = self.geometry();
        expect_len("conv2d: weight", weight.len(), g.weight_len())?;
        expect_shape("conv2d: dense matrix", matrix.shape(), (g.out_len(), g.in_len()))?;
        matrix.fill(0.0);
        let (input, output) = (g.in_shape(), g.out_shape());
        let [_, ci, kh, kw] = g.weight_shape();
        let co = g.out_channels_per_group();
        // Input cell under tap `k` at output cell `i`, unless it lies on the padding.
        let cell = |axis: usize, i: usize, k: usize, size: usize| {
            let cell = (i * g.stride()[axis] + k * g.dilation()[axis]).checked_sub(g.padding()[axis])?;
            (cell < size).then_some(cell)
        };
        for (index, w) in weight.iter().enumerate() {
            let (o, c, k, l) = (index / (ci * kh * kw), index / (kh * kw) % ci, index / kw % kh, index % kw);
            let (row0, col0) = (o * output.plane(), (o / co * ci + c) * input.plane());
            for i in 0..output.height {
                let Some(y) = cell(0, i, k, input.height) else { continue };
                for j in 0..output.width {
                    let Some(x) = cell(1, j, l, input.width) else { continue };
                    matrix[(row0 + i * output.width + j, col0 + y * input.width + x)] = w.to_f64();
                }
            }
        }
        Ok(())
    }
}
