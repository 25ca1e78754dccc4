use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use pulp::Arch;

use super::window::Planes;
use super::{Window, fill_pieces, values, with_values};
use crate::spec::Pair;

/// Mean of every window of `x`, `[N, C, H, W]` to `[N, C, H', W']`, with the gradient; padding counts as zeros.
///
/// # Errors
/// Of a tensor that is not of rank 4, contiguous, `f32` and on the CPU, or too small for a window.
pub fn avg_pool2d(x: &Tensor, window: Window) -> Result<Tensor> {
    x.apply_op1(AvgPool2d { window })
}

/// Mean of every channel of `x`, `[N, C, H, W]` to `[N, C, 1, 1]`, with the gradient.
///
/// # Errors
/// As [`avg_pool2d`].
pub fn global_avg_pool2d(x: &Tensor) -> Result<Tensor> {
    match *x.dims() {
        [_, _, h, w] => avg_pool2d(x, Window::disjoint(Pair { h, w })),
        ref dims => bail!("{NAME}: expected [N, C, H, W], found {dims:?}"),
    }
}

const NAME: &str = "avg_pool2d";

struct AvgPool2d {
    window: Window,
}

impl CustomOp1 for AvgPool2d {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(NAME, storage, layout)?;
        let dims = layout.dims();
        let size = self.window.planes(NAME, dims)?;
        let mut y = vec![0.0; size.planes * size.out_len()];
        fill_pieces(&mut y, size.out_len(), x.len(), |first, y| {
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let mut row = vec![0.0; size.w];
                    let x = x[first * size.in_len()..].chunks_exact(size.in_len());
                    for (x, y) in x.zip(y.chunks_exact_mut(size.out_len())) {
                        self.pool(size, x, y, &mut row);
                    }
                },
            );
        });
        Ok((CpuStorage::F32(y), Shape::from((dims[0], dims[1], size.out_h, size.out_w))))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let size = self.window.planes(NAME, arg.dims())?;
        let mut out = vec![0.0; arg.elem_count()];
        let work = out.len();
        with_values(NAME, &grad, |g| {
            fill_pieces(&mut out, size.in_len(), work, |first, out| {
                Arch::new().dispatch(
                    #[inline(always)]
                    || {
                        let mut row = vec![0.0; size.w];
                        let g = g[first * size.out_len()..].chunks_exact(size.out_len());
                        for (g, out) in g.zip(out.chunks_exact_mut(size.in_len())) {
                            self.spread(size, g, out, &mut row);
                        }
                    },
                );
            });
            Ok(())
        })?;
        Tensor::from_vec(out, arg.shape(), arg.device()).map(Some)
    }
}

impl AvgPool2d {
    fn scale(&self) -> f32 {
        1.0 / (self.window.kernel.h * self.window.kernel.w) as f32
    }

    /// One plane: sums down the columns of each window row, then along the row.
    #[inline(always)]
    fn pool(&self, size: Planes, x: &[f32], y: &mut [f32], row: &mut [f32]) {
        let scale = self.scale();
        for (oy, y) in y.chunks_exact_mut(size.out_w).enumerate() {
            row.fill(0.0);
            for iy in self.window.rows(oy, size.h) {
                for (sum, &v) in row.iter_mut().zip(&x[iy * size.w..][..size.w]) {
                    *sum += v;
                }
            }
            for (ox, y) in y.iter_mut().enumerate() {
                *y = scale * row[self.window.cols(ox, size.w)].iter().sum::<f32>();
            }
        }
    }

    /// The transpose of [`pool`](Self::pool) for one plane.
    #[inline(always)]
    fn spread(&self, size: Planes, g: &[f32], out: &mut [f32], row: &mut [f32]) {
        let scale = self.scale();
        for (oy, g) in g.chunks_exact(size.out_w).enumerate() {
            row.fill(0.0);
            for (ox, &g) in g.iter().enumerate() {
                for v in &mut row[self.window.cols(ox, size.w)] {
                    *v += scale * g;
                }
            }
            for iy in self.window.rows(oy, size.h) {
                for (v, &add) in out[iy * size.w..][..size.w].iter_mut().zip(&*row) {
                    *v += add;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, gradients, random, random_var};

    #[test]
    fn agrees_with_candle_without_padding() {
        for (dims, kernel, stride) in
            [([2, 3, 6, 8], (2, 2), (2, 2)), ([2, 3, 7, 9], (3, 2), (1, 2)), ([40, 3, 24, 24], (3, 3), (3, 3))]
        {
            let x = random_var(&dims, 1);
            let window = Window {
                kernel: Pair { h: kernel.0, w: kernel.1 },
                stride: Pair { h: stride.0, w: stride.1 },
                padding: Pair::default(),
            };
            let ours = avg_pool2d(&x, window).unwrap();
            let theirs = x.avg_pool2d_with_stride(kernel, stride).unwrap();
            assert_close("value", &ours, &theirs, 1e-6);
            if kernel == stride {
                let weights = random(ours.dims(), 2);
                let (a, b) = (gradients(&ours, &weights, &[&x]), gradients(&theirs, &weights, &[&x]));
                assert_close("gradient", &a[0], &b[0], 1e-6);
            }
        }
    }

    #[test]
    fn padding_counts_as_zeros_and_the_gradient_is_the_transpose() {
        let window = Window { kernel: Pair { h: 3, w: 2 }, stride: Pair { h: 2, w: 1 }, padding: Pair { h: 2, w: 1 } };
        let x = random_var(&[2, 2, 5, 7], 3);
        let y = avg_pool2d(&x, window).unwrap();
        let padded = x.pad_with_zeros(2, 2, 2).unwrap().pad_with_zeros(3, 1, 1).unwrap();
        assert_close("value", &y, &padded.avg_pool2d_with_stride((3, 2), (2, 1)).unwrap(), 1e-6);
        // The operation is linear: <Ax, g> = <x, A'g>.
        let g = random(y.dims(), 4);
        let back = &gradients(&y, &g, &[&x])[0];
        let dot = |a: &Tensor, b: &Tensor| (a * b).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let (left, right) = (dot(&y, &g), dot(&x, back));
        assert!((left - right).abs() <= 1e-5 * (1.0 + left.abs()), "{left} {right}");
    }

    #[test]
    fn global_pool_is_the_mean_of_the_plane() {
        let x = random_var(&[3, 4, 5, 6], 5);
        let y = global_avg_pool2d(&x).unwrap();
        let mean = x.flatten_from(2).unwrap().mean_keepdim(2).unwrap().unsqueeze(3).unwrap();
        assert_close("value", &y, &mean, 1e-6);
        let g = random(y.dims(), 6);
        let expected = (g.broadcast_as(x.shape()).unwrap() / 30.0).unwrap();
        assert_close("gradient", &gradients(&y, &g, &[&x])[0], &expected, 1e-6);
    }
}
