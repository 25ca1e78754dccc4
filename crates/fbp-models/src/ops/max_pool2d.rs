use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor, bail};
use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef};
use fbp_inverse::{DifferentiableOperator, MaxPoolReverse, ReverseOperator, VjpPass};
use fbp_linalg::{FeatureShape, dispatch, zeros};

use super::window::Planes;
use super::{Call, Window, make_pieces, par_for, values, with_values};
use crate::pair::Pair;

/// Largest value of every window of `x`, `[N, C, H, W]` to `[N, C, H', W']`, with the gradient.
///
/// Padding counts as -∞; NaN in a window gives NaN. The gradient of a window goes to its first largest value in
/// row-major order, as in PyTorch.
///
/// # Errors
/// Of a tensor that is not of rank 4, contiguous, `f32` and on the CPU, or too small for a window.
pub fn max_pool2d(x: &Tensor, window: Window) -> Result<Tensor> {
    max_pool2d_call(x, window).run()
}

pub(crate) fn max_pool2d_call(x: &Tensor, window: Window) -> Call {
    Call::one(x, MaxPool2d { window })
}

const NAME: &str = "max_pool2d";

struct MaxPool2d {
    window: Window,
}

impl MaxPool2d {
    fn is_two_by_two(&self) -> bool {
        self.window == Window::disjoint(Pair::both(2))
    }
}

impl CustomOp1 for MaxPool2d {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(NAME, storage, layout)?;
        let dims = layout.dims();
        let size = self.window.planes(NAME, dims)?;
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

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let size = self.window.planes(NAME, arg.dims())?;
        let out = with_values(NAME, arg, |x| {
            with_values(NAME, res, |y| {
                with_values(NAME, &grad, |g| {
                    if !self.is_two_by_two() {
                        return scatter(self.window, arg.dims(), x, g);
                    }
                    Ok(make_pieces(x.len(), size.in_len(), x.len(), |first, out| {
                        dispatch(
                            #[inline(always)]
                            || scatter_planes(size, Pooled { x, y, g }, first, out),
                        );
                    }))
                })
            })
        })?;
        Tensor::from_vec(out, arg.shape(), arg.device()).map(Some)
    }
}

/// Input, output and gradient of the output: of the whole batch or of one plane.
#[derive(Clone, Copy)]
struct Pooled<'a> {
    x: &'a [f32],
    y: &'a [f32],
    g: &'a [f32],
}

/// The larger value; NaN if one is NaN.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// Whether a value is the maximum `m` of its window: equal, or the NaN that made the maximum NaN.
#[inline(always)]
fn is_max(value: f32, m: f32) -> bool {
    value == m || value.is_nan()
}

impl MaxPool2d {
    /// One plane: first down the columns of each window row, which vectorises, then along the row.
    #[inline(always)]
    fn pool(&self, size: Planes, x: &[f32], y: &mut [f32], row: &mut [f32]) {
        for (oy, y) in y.chunks_exact_mut(size.out_w).enumerate() {
            let rows = self.window.rows(oy, size.h);
            row.copy_from_slice(&x[rows.start * size.w..][..size.w]);
            for iy in rows.start + 1..rows.end {
                for (m, &v) in row.iter_mut().zip(&x[iy * size.w..][..size.w]) {
                    *m = larger(*m, v);
                }
            }
            if self.is_two_by_two() {
                for (y, pair) in y.iter_mut().zip(row.chunks_exact(2)) {
                    *y = larger(pair[0], pair[1]);
                }
            } else {
                for (ox, y) in y.iter_mut().enumerate() {
                    let cols = &row[self.window.cols(ox, size.w)];
                    *y = cols[1..].iter().fold(cols[0], |m, &v| larger(m, v));
                }
            }
        }
    }
}

/// Gradients of whole planes of disjoint 2 × 2 windows, from plane number `first` on.
#[inline(always)]
fn scatter_planes(size: Planes, all: Pooled<'_>, first: usize, out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(size.in_len()).enumerate() {
        let (start, out_start) = ((first + i) * size.in_len(), (first + i) * size.out_len());
        let plane = Pooled {
            x: &all.x[start..start + size.in_len()],
            y: &all.y[out_start..out_start + size.out_len()],
            g: &all.g[out_start..out_start + size.out_len()],
        };
        scatter_two_by_two(size, plane, out);
    }
}

/// Gradient of any windows: that of their reverse operator.
fn scatter(window: Window, dims: &[usize], x: &[f32], g: &[f32]) -> Result<Vec<f32>> {
    let &[n, c, h, w] = dims else { bail!("{NAME}: expected [N, C, H, W], found {dims:?}") };
    let pool = MaxPoolReverse::<f32>::new(NAME, FeatureShape::image(c, h, w), window.into()).map_err(Error::wrap)?;
    let par = par_for(x.len());
    let mut out = zeros(x.len(), par);
    let pass = VjpPass {
        at: MatRef::from_column_major_slice(x, c * h * w, n),
        cotangent_out: MatRef::from_column_major_slice(g, pool.out_shape().len(), n),
        cotangent_in: MatMut::from_column_major_slice_mut(&mut out, c * h * w, n),
    };
    pool.vjp(pass, par, MemStack::new(&mut [])).map_err(Error::wrap)?;
    Ok(out)
}

/// Gradient of disjoint 2 × 2 windows: every input has at most one window, so this is a selection.
#[inline(always)]
fn scatter_two_by_two(size: Planes, plane: Pooled<'_>, out: &mut [f32]) {
    let used = 2 * size.out_w;
    for oy in 0..size.out_h {
        let (upper, lower) = (&plane.x[2 * oy * size.w..][..used], &plane.x[(2 * oy + 1) * size.w..][..used]);
        let (d_upper, d_lower) = out[2 * oy * size.w..].split_at_mut(size.w);
        let (d_upper, d_lower) = (&mut d_upper[..used], &mut d_lower[..used]);
        let y = &plane.y[oy * size.out_w..][..size.out_w];
        let g = &plane.g[oy * size.out_w..][..size.out_w];
        for i in 0..size.out_w {
            let (m, g) = (y[i], g[i]);
            let [a, b] = [is_max(upper[2 * i], m), is_max(upper[2 * i + 1], m)];
            let [c, d] = [is_max(lower[2 * i], m), is_max(lower[2 * i + 1], m)];
            d_upper[2 * i] = if a { g } else { 0.0 };
            d_upper[2 * i + 1] = if b & !a { g } else { 0.0 };
            d_lower[2 * i] = if c & !(a | b) { g } else { 0.0 };
            d_lower[2 * i + 1] = if d & !(a | b | c) { g } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::testing::{assert_close, gradients, random, random_var};

    fn window(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Window {
        Window { kernel: kernel.into(), stride: stride.into(), padding: padding.into(), ceil: false }
    }

    #[test]
    fn agrees_with_candle_on_disjoint_windows() {
        // Two of the sizes are large enough for the parallel path.
        for (dims, k) in [([2, 3, 6, 8], 2), ([40, 3, 24, 24], 2), ([3, 2, 9, 9], 3), ([30, 5, 24, 24], 4)] {
            let x = random_var(&dims, 1);
            let ours = max_pool2d(&x, Window::disjoint(k)).unwrap();
            let theirs = x.max_pool2d(k).unwrap();
            let weights = random(ours.dims(), 2);
            assert_close("value", &ours, &theirs, 0.0);
            let (a, b) = (gradients(&ours, &weights, &[&x]), gradients(&theirs, &weights, &[&x]));
            // candle 0.11.1 divides the gradient by the size of the window; the plain loops below do not.
            assert_close("gradient", &a[0], &(&b[0] * (k * k) as f64).unwrap(), 1e-6);
        }
    }

    /// Value and input gradient by plain loops over an explicitly padded image.
    fn oracle(x: &Tensor, weights: &Tensor, win: Window) -> (Vec<f32>, Vec<f32>) {
        let (n, c, h, w) = x.dims4().unwrap();
        let (_, _, oh, ow) = weights.dims4().unwrap();
        let data = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let g = weights.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (mut y, mut dx) = (Vec::new(), vec![0.0; data.len()]);
        for p in 0..n * c {
            for oy in 0..oh {
                for ox in 0..ow {
                    let (mut best, mut site) = (f32::NEG_INFINITY, None);
                    for ky in 0..win.kernel.h {
                        for kx in 0..win.kernel.w {
                            let (iy, ix) = (oy * win.stride.h + ky, ox * win.stride.w + kx);
                            let inside = (win.padding.h..h + win.padding.h).contains(&iy)
                                && (win.padding.w..w + win.padding.w).contains(&ix);
                            if inside {
                                let at = p * h * w + (iy - win.padding.h) * w + ix - win.padding.w;
                                if site.is_none() || data[at] > best {
                                    (best, site) = (data[at], Some(at));
                                }
                            }
                        }
                    }
                    dx[site.unwrap()] += g[y.len()];
                    y.push(best);
                }
            }
        }
        (y, dx)
    }

    #[test]
    fn any_window_stride_and_padding() {
        let windows = [
            window([3, 3], [2, 2], [1, 1]),
            window([3, 2], [1, 2], [2, 0]),
            window([2, 2], [2, 2], [0, 0]),
            window([5, 1], [3, 1], [0, 0]),
            window([2, 3], [3, 1], [1, 2]),
            window([2, 2], [2, 2], [1, 1]),
            Window { ceil: true, ..window([3, 3], [2, 2], [0, 1]) },
            Window { ceil: true, ..window([2, 2], [3, 2], [0, 0]) },
        ];
        for win in windows {
            for (h, w) in [(7, 9), (8, 8), (5, 11)] {
                // Whole numbers, so that there are ties.
                let x = (random(&[2, 3, h, w], 3) * 4.0).unwrap().round().unwrap();
                let x = Var::from_tensor(&x).unwrap();
                let y = max_pool2d(&x, win).unwrap();
                let weights = random(y.dims(), 4);
                let (value, slope) = oracle(&x, &weights, win);
                assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), value, "{win:?} {h}×{w}");
                let expected = Tensor::from_vec(slope, x.dims(), &Device::Cpu).unwrap();
                assert_close("gradient", &gradients(&y, &weights, &[&x])[0], &expected, 1e-6);
            }
        }
    }

    #[test]
    fn nan_reaches_the_output_and_its_gradient_the_nan() {
        let x = Var::new(&[[[[1.0_f32, f32::NAN], [3.0, 0.0]]]], &Device::Cpu).unwrap();
        let y = max_pool2d(&x, Window::disjoint(2)).unwrap();
        assert!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn faulty_calls_give_errors() {
        let x = random(&[1, 1, 3, 3], 5);
        assert!(max_pool2d(&x, Window::disjoint(4)).is_err());
        assert!(max_pool2d(&x, Window::disjoint(0)).is_err());
        assert!(max_pool2d(&x, window([2, 2], [1, 1], [2, 2])).is_err());
        assert!(max_pool2d(&x.flatten_all().unwrap(), Window::disjoint(2)).is_err());
        assert!(max_pool2d(&x.transpose(2, 3).unwrap(), Window::disjoint(2)).is_err());
    }
}
