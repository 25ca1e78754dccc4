use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor, bail};
use fbp_inverse::{AverageAxes, AvgDivisor};
use fbp_linalg::{FeatureShape, dispatch};

use super::window::Planes;
use super::{Call, Window, make_pieces, values, with_values};
use crate::pair::Pair;

/// Mean of every window of `x`, `[N, C, H, W]` to `[N, C, H', W']`, with the gradient.
///
/// # Errors
/// Of a tensor that is not of rank 4, contiguous, `f32` and on the CPU, or too small for a window; of a divisor that is 0
/// or not finite.
pub fn avg_pool2d(x: &Tensor, window: Window, divisor: AvgDivisor) -> Result<Tensor> {
    avg_pool2d_call(x, window, divisor)?.run()
}

pub(crate) fn avg_pool2d_call(x: &Tensor, window: Window, divisor: AvgDivisor) -> Result<Call> {
    let axes = AverageAxes::windows(NAME, shape_of(x)?, window.into(), divisor);
    Ok(Call::one(x, AvgPool2d { axes: axes.map_err(Error::wrap)? }))
}

/// Mean of every channel of `x`, `[N, C, H, W]` to `[N, C, 1, 1]`, with the gradient.
///
/// # Errors
/// As [`avg_pool2d`].
pub fn global_avg_pool2d(x: &Tensor) -> Result<Tensor> {
    adaptive_avg_pool2d(x, Pair::both(1))
}

/// Means of `size` windows that cover the planes of `x` evenly, `[N, C, H, W]` to `[N, C, size]`, with the gradient:
/// window `i` of `n` goes from `⌊i · H / n⌋` to `⌈(i + 1) · H / n⌉`.
///
/// # Errors
/// Of a tensor that is not of rank 4, contiguous, `f32` and on the CPU, or a size of 0.
pub fn adaptive_avg_pool2d(x: &Tensor, size: Pair) -> Result<Tensor> {
    adaptive_avg_pool2d_call(x, size)?.run()
}

pub(crate) fn adaptive_avg_pool2d_call(x: &Tensor, size: Pair) -> Result<Call> {
    let axes = AverageAxes::adaptive(NAME, shape_of(x)?, size.dims());
    Ok(Call::one(x, AvgPool2d { axes: axes.map_err(Error::wrap)? }))
}

fn shape_of(x: &Tensor) -> Result<FeatureShape> {
    match *x.dims() {
        [_, c, h, w] => Ok(FeatureShape::image(c, h, w)),
        ref dims => bail!("{NAME}: expected [N, C, H, W], found {dims:?}"),
    }
}

const NAME: &str = "avg_pool2d";

struct AvgPool2d {
    axes: AverageAxes,
}

impl CustomOp1 for AvgPool2d {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(NAME, storage, layout)?;
        let dims = layout.dims();
        let size = self.planes(dims)?;
        let y = make_pieces(size.planes * size.out_len(), size.out_len(), x.len(), |first, y| {
            dispatch(
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
        let size = self.planes(arg.dims())?;
        let len = arg.elem_count();
        let out = with_values(NAME, &grad, |g| {
            Ok(make_pieces(len, size.in_len(), len, |first, out| {
                dispatch(
                    #[inline(always)]
                    || {
                        let mut row = vec![0.0; size.w];
                        let g = g[first * size.out_len()..].chunks_exact(size.out_len());
                        for (g, out) in g.zip(out.chunks_exact_mut(size.in_len())) {
                            self.spread(size, g, out, &mut row);
                        }
                    },
                );
            }))
        })?;
        Tensor::from_vec(out, arg.shape(), arg.device()).map(Some)
    }
}

impl AvgPool2d {
    fn planes(&self, dims: &[usize]) -> Result<Planes> {
        let &[n, c, h, w] = dims else { bail!("{NAME}: expected [N, C, H, W], found {dims:?}") };
        let (out_h, out_w) = (self.axes.rows.windows.len(), self.axes.cols.windows.len());
        Ok(Planes { planes: n * c, h, w, out_h, out_w })
    }

    /// One plane: sums down the columns of each window row, then along the row.
    #[inline(always)]
    fn pool(&self, size: Planes, x: &[f32], y: &mut [f32], row: &mut [f32]) {
        let AverageAxes { rows, cols } = &self.axes;
        let outputs = y.chunks_exact_mut(size.out_w).zip(rows.windows.iter().zip(&rows.weights));
        for (y, (&[first, end], row_weight)) in outputs {
            row.fill(0.0);
            for iy in first..end {
                for (sum, &v) in row.iter_mut().zip(&x[iy * size.w..][..size.w]) {
                    *sum += v;
                }
            }
            for (y, (&[first, end], col_weight)) in y.iter_mut().zip(cols.windows.iter().zip(&cols.weights)) {
                *y = (row_weight * col_weight) as f32 * row[first..end].iter().sum::<f32>();
            }
        }
    }

    /// The transpose of [`pool`](Self::pool) for one plane.
    #[inline(always)]
    fn spread(&self, size: Planes, g: &[f32], out: &mut [f32], row: &mut [f32]) {
        let AverageAxes { rows, cols } = &self.axes;
        for (g, (&[first, end], row_weight)) in g.chunks_exact(size.out_w).zip(rows.windows.iter().zip(&rows.weights)) {
            row.fill(0.0);
            for (&g, (&[first, end], col_weight)) in g.iter().zip(cols.windows.iter().zip(&cols.weights)) {
                let share = (row_weight * col_weight) as f32 * g;
                row[first..end].iter_mut().for_each(|v| *v += share);
            }
            for iy in first..end {
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
                ceil: false,
            };
            let ours = avg_pool2d(&x, window, AvgDivisor::Window).unwrap();
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
        let window = Window {
            kernel: Pair { h: 3, w: 2 },
            stride: Pair { h: 2, w: 1 },
            padding: Pair { h: 2, w: 1 },
            ceil: false,
        };
        let x = random_var(&[2, 2, 5, 7], 3);
        let y = avg_pool2d(&x, window, AvgDivisor::Window).unwrap();
        let padded = x.pad_with_zeros(2, 2, 2).unwrap().pad_with_zeros(3, 1, 1).unwrap();
        assert_close("value", &y, &padded.avg_pool2d_with_stride((3, 2), (2, 1)).unwrap(), 1e-6);
        // The operation is linear: <Ax, g> = <x, A'g>.
        let g = random(y.dims(), 4);
        let back = &gradients(&y, &g, &[&x])[0];
        let dot = |a: &Tensor, b: &Tensor| (a * b).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let (left, right) = (dot(&y, &g), dot(&x, back));
        assert!((left - right).abs() <= 1e-5 * (1.0 + left.abs()), "{left} {right}");
    }

    /// Averages by plain loops, with the sites and the divisor of every window counted one by one.
    fn oracle(x: &Tensor, window: Window, divisor: AvgDivisor, out: [usize; 2]) -> Vec<f64> {
        let (n, c, h, w) = x.dims4().unwrap();
        let data = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut means = Vec::new();
        for plane in 0..n * c {
            for (oy, ox) in (0..out[0]).flat_map(|oy| (0..out[1]).map(move |ox| (oy, ox))) {
                let (mut sum, mut sites, mut padded) = (0.0, 0, 0);
                for (ky, kx) in (0..window.kernel.h).flat_map(|ky| (0..window.kernel.w).map(move |kx| (ky, kx))) {
                    let (y, x) = (oy * window.stride.h + ky, ox * window.stride.w + kx);
                    if y >= h + 2 * window.padding.h || x >= w + 2 * window.padding.w {
                        continue;
                    }
                    padded += 1;
                    let inside = |at: usize, padding: usize, size: usize| at >= padding && at < padding + size;
                    if inside(y, window.padding.h, h) && inside(x, window.padding.w, w) {
                        let at = (plane * h + y - window.padding.h) * w + x - window.padding.w;
                        sum += f64::from(data[at]);
                        sites += 1;
                    }
                }
                means.push(match divisor {
                    AvgDivisor::Window => sum / f64::from(padded),
                    AvgDivisor::Sites => sum / f64::from(sites),
                    AvgDivisor::Fixed(value) => sum / value,
                });
            }
        }
        means
    }

    #[test]
    fn every_divisor_and_rounding_agrees_with_plain_loops() {
        // Counts in ceil mode, from PyTorch's rule: 8 rows, 3/2/1: 5; 7 columns, 2/2/0: 4.
        let window =
            Window { kernel: Pair { h: 3, w: 2 }, stride: Pair::both(2), padding: Pair { h: 1, w: 0 }, ceil: true };
        let x = random_var(&[2, 3, 8, 7], 7);
        for (ceil, out) in [(true, [5, 4]), (false, [4, 3])] {
            let window = Window { ceil, ..window };
            for divisor in [AvgDivisor::Window, AvgDivisor::Sites, AvgDivisor::Fixed(-2.5)] {
                let y = avg_pool2d(&x, window, divisor).unwrap();
                assert_eq!(&y.dims()[2..], out);
                let expected: Vec<f32> = oracle(&x, window, divisor, out).iter().map(|v| *v as f32).collect();
                let expected = Tensor::from_vec(expected, y.shape(), y.device()).unwrap();
                assert_close("value", &y, &expected, 1e-6);
                let g = random(y.dims(), 8);
                let back = &gradients(&y, &g, &[&x])[0];
                let dot = |a: &Tensor, b: &Tensor| (a * b).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
                let (left, right) = (dot(&y, &g), dot(&x, back));
                assert!((left - right).abs() <= 1e-5 * (1.0 + left.abs()), "{divisor:?}: {left} {right}");
            }
        }
        assert!(avg_pool2d(&x, window, AvgDivisor::Fixed(0.0)).is_err());
    }

    #[test]
    fn adaptive_windows_cover_the_plane() {
        // From 5 to 3 sites: 0..2, 1..4, 3..5.
        let x = Tensor::new(&[[[[1.0_f32, 2.0, 4.0, 8.0, 16.0]]]], &candle_core::Device::Cpu).unwrap();
        let y = adaptive_avg_pool2d(&x, Pair { h: 1, w: 3 }).unwrap();
        let expected = Tensor::new(&[[[[1.5_f32, 14.0 / 3.0, 12.0]]]], &candle_core::Device::Cpu).unwrap();
        assert_close("value", &y, &expected, 1e-6);
        let x = random_var(&[2, 2, 6, 4], 9);
        let y = adaptive_avg_pool2d(&x, Pair { h: 3, w: 2 }).unwrap();
        assert_close("value", &y, &avg_pool2d(&x, Window::disjoint(2), AvgDivisor::Window).unwrap(), 1e-6);
        assert!(adaptive_avg_pool2d(&x, Pair { h: 0, w: 1 }).is_err());
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
