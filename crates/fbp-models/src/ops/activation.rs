use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use pulp::Arch;

use super::{fill_pieces, math, values, with_values};
use crate::spec::Activation;

/// Values per task; an even multiple of every vector width.
const PIECE: usize = 1 << 13;

/// `f(x)` for every entry, with the gradient.
///
/// # Errors
/// Of a tensor that is not contiguous, not `f32`, or not on the CPU.
pub fn activate(x: &Tensor, function: Activation) -> Result<Tensor> {
    x.apply_op1(ActivationOp { function })
}

struct ActivationOp {
    function: Activation,
}

impl CustomOp1 for ActivationOp {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values("activation", storage, layout)?;
        let mut y = vec![0.0; x.len()];
        fill_pieces(&mut y, PIECE, x.len() * self.weight(), |piece, y| {
            let start = piece * PIECE;
            evaluate(self.function, &x[start..start + y.len()], y);
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let mut out = vec![0.0; arg.elem_count()];
        with_values("activation", arg, |x| {
            with_values("activation", res, |y| {
                with_values("activation", &grad, |g| {
                    fill_pieces(&mut out, PIECE, x.len() * self.weight(), |piece, out| {
                        let range = piece * PIECE..piece * PIECE + out.len();
                        let at = Point { x: &x[range.clone()], y: &y[range.clone()], g: &g[range] };
                        differentiate(self.function, at, out);
                    });
                    Ok(())
                })
            })
        })?;
        Tensor::from_vec(out, arg.shape(), arg.device()).map(Some)
    }
}

impl ActivationOp {
    /// Rough cost of one entry, so that cheap functions are not cut into threads too early.
    fn weight(&self) -> usize {
        match self.function {
            Activation::Relu | Activation::Relu6 | Activation::LeakyRelu { .. } | Activation::HardTanh { .. } => 1,
            Activation::HardSigmoid | Activation::HardSwish => 1,
            _ => 10,
        }
    }
}

/// Argument, value and incoming gradient, entry by entry.
struct Point<'a> {
    x: &'a [f32],
    y: &'a [f32],
    g: &'a [f32],
}

fn map(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = f(x);
            }
        },
    );
}

fn map_slope(at: Point<'_>, out: &mut [f32], slope: impl Fn(f32, f32) -> f32) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let n = out.len();
            let (x, y, g) = (&at.x[..n], &at.y[..n], &at.g[..n]);
            for i in 0..n {
                out[i] = g[i] * slope(x[i], y[i]);
            }
        },
    );
}

/// Limits `x` to `[low, high]`; NaN stays NaN.
#[inline(always)]
fn limit(x: f32, low: f32, high: f32) -> f32 {
    let raised = if x < low { low } else { x };
    if raised > high { high } else { raised }
}

#[inline(always)]
fn inside(x: f32, low: f32, high: f32) -> f32 {
    if x > low && x < high { 1.0 } else { 0.0 }
}

/// `√(2/π)` and the cubic coefficient of the tanh form of GELU.
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBE: f32 = 0.044_715;

fn evaluate(function: Activation, x: &[f32], y: &mut [f32]) {
    match function {
        Activation::Relu => map(
            x,
            y,
            #[inline(always)]
            |x| if x <= 0.0 { 0.0 } else { x },
        ),
        Activation::Relu6 => map(
            x,
            y,
            #[inline(always)]
            |x| limit(x, 0.0, 6.0),
        ),
        Activation::LeakyRelu { slope } => map(
            x,
            y,
            #[inline(always)]
            |x| if x > 0.0 { x } else { slope as f32 * x },
        ),
        Activation::HardTanh { min, max } => map(
            x,
            y,
            #[inline(always)]
            |x| limit(x, min as f32, max as f32),
        ),
        Activation::Tanh => map(
            x,
            y,
            #[inline(always)]
            |x| math::tanh(x),
        ),
        Activation::Sigmoid => map(
            x,
            y,
            #[inline(always)]
            |x| math::sigmoid(x),
        ),
        Activation::HardSigmoid => map(
            x,
            y,
            #[inline(always)]
            |x| limit(x + 3.0, 0.0, 6.0) / 6.0,
        ),
        Activation::Elu { alpha } => map(x, y, |x| if x > 0.0 { x } else { alpha as f32 * x.exp_m1() }),
        Activation::Softplus => map(x, y, |x| (-x.abs()).exp().ln_1p() + if x < 0.0 { 0.0 } else { x }),
        Activation::Gelu => map(x, y, |x| x * normal_distribution(x)),
        Activation::GeluTanh => map(
            x,
            y,
            #[inline(always)]
            |x| 0.5 * x * (1.0 + math::tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x))),
        ),
        Activation::Silu => map(
            x,
            y,
            #[inline(always)]
            |x| x * math::sigmoid(x),
        ),
        Activation::HardSwish => map(
            x,
            y,
            #[inline(always)]
            |x| x * limit(x + 3.0, 0.0, 6.0) / 6.0,
        ),
        Activation::Mish => map(
            x,
            y,
            #[inline(always)]
            |x| x * tanh_softplus(x),
        ),
    }
}

fn differentiate(function: Activation, at: Point<'_>, out: &mut [f32]) {
    match function {
        Activation::Relu => map_slope(
            at,
            out,
            #[inline(always)]
            |x, _| if x > 0.0 { 1.0 } else { 0.0 },
        ),
        Activation::Relu6 => map_slope(
            at,
            out,
            #[inline(always)]
            |x, _| inside(x, 0.0, 6.0),
        ),
        Activation::LeakyRelu { slope } => map_slope(
            at,
            out,
            #[inline(always)]
            |x, _| if x > 0.0 { 1.0 } else { slope as f32 },
        ),
        Activation::HardTanh { min, max } => map_slope(
            at,
            out,
            #[inline(always)]
            |x, _| inside(x, min as f32, max as f32),
        ),
        Activation::Tanh => map_slope(
            at,
            out,
            #[inline(always)]
            |_, y| 1.0 - y * y,
        ),
        Activation::Sigmoid => map_slope(
            at,
            out,
            #[inline(always)]
            |_, y| y * (1.0 - y),
        ),
        Activation::HardSigmoid => map_slope(
            at,
            out,
            #[inline(always)]
            |x, _| inside(x, -3.0, 3.0) / 6.0,
        ),
        Activation::Elu { alpha } => map_slope(
            at,
            out,
            #[inline(always)]
            |x, y| if x > 0.0 { 1.0 } else { y + alpha as f32 },
        ),
        Activation::Softplus => map_slope(
            at,
            out,
            #[inline(always)]
            |x, _| math::sigmoid(x),
        ),
        Activation::Gelu => map_slope(at, out, |x, _| {
            let density =
                (-0.5 * x * x).exp() * (0.5 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2);
            normal_distribution(x) + x * density
        }),
        Activation::GeluTanh => map_slope(
            at,
            out,
            #[inline(always)]
            |x, _| {
                let t = math::tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x));
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x * x)
            },
        ),
        Activation::Silu => map_slope(
            at,
            out,
            #[inline(always)]
            |x, _| {
                let s = math::sigmoid(x);
                s * (1.0 + x * (1.0 - s))
            },
        ),
        Activation::HardSwish => map_slope(
            at,
            out,
            #[inline(always)]
            |x, _| {
                if x < -3.0 {
                    0.0
                } else if x > 3.0 {
                    1.0
                } else {
                    x / 3.0 + 0.5
                }
            },
        ),
        Activation::Mish => map_slope(
            at,
            out,
            #[inline(always)]
            |x, _| {
                let t = tanh_softplus(x);
                t + x * (1.0 - t * t) * math::sigmoid(x)
            },
        ),
    }
}

/// `Φ(x)` by the complementary error function, which keeps the relative accuracy of the left tail.
fn normal_distribution(x: f32) -> f32 {
    0.5 * libm::erfcf(-x * std::f32::consts::FRAC_1_SQRT_2)
}

/// `tanh(ln(1 + e)) = (e² + 2e) / (e² + 2e + 2)` with `e = exp(x)`; 1 to rounding from `x = 20` on.
#[inline(always)]
fn tanh_softplus(x: f32) -> f32 {
    let e = math::exp(if x > 20.0 { 20.0 } else { x });
    let n = e * (e + 2.0);
    n / (n + 2.0)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::testing::assert_near;

    /// Value in double precision, from the formulas of the documentation.
    fn oracle(function: Activation, x: f64) -> f64 {
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        match function {
            Activation::Relu => x.max(0.0),
            Activation::Relu6 => x.clamp(0.0, 6.0),
            Activation::LeakyRelu { slope } => {
                if x >= 0.0 {
                    x
                } else {
                    x * slope
                }
            }
            Activation::HardTanh { min, max } => x.clamp(min, max),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::HardSigmoid => (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Activation::Elu { alpha } => {
                if x > 0.0 {
                    x
                } else {
                    alpha * x.exp_m1()
                }
            }
            Activation::Softplus => softplus(x),
            Activation::Gelu => x * 0.5 * (1.0 + libm::erf(x / 2.0_f64.sqrt())),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Activation::Mish => x * softplus(x).tanh(),
        }
    }

    const ALL: [Activation; 14] = [
        Activation::Relu,
        Activation::Relu6,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::HardTanh { min: -1.5, max: 2.0 },
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::HardSigmoid,
        Activation::Elu { alpha: 0.7 },
        Activation::Softplus,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::HardSwish,
        Activation::Mish,
    ];

    #[test]
    fn values_and_gradients_agree_with_double_precision() {
        // Odd step, so that no point falls on a kink; more than one piece, so that the cutting is tested too.
        let x: Vec<f32> = (0..20_011).map(|i| (i as f32 - 10_005.3) * 1e-3).collect();
        let g: Vec<f32> = x.iter().map(|x| 1.0 + 0.5 * (3.0 * x).sin()).collect();
        for function in ALL {
            let var = Var::from_slice(&x, x.len(), &Device::Cpu).unwrap();
            let y = activate(&var, function).unwrap();
            let weights = Tensor::from_slice(&g, x.len(), &Device::Cpu).unwrap();
            let grads = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
            let slope = grads.get(&var).unwrap().to_vec1::<f32>().unwrap();
            let value = y.to_vec1::<f32>().unwrap();
            for i in 0..x.len() {
                let at = f64::from(x[i]);
                let scale = f64::from(f32::EPSILON) * (1.0 + at.abs());
                let what = format!("{function:?} at {at}");
                assert_near(&what, value[i], oracle(function, at), 4.0 * scale);
                let h = 1e-5;
                let exact = (oracle(function, at + h) - oracle(function, at - h)) / (2.0 * h);
                // The second term is the error of the central difference, h² f''' / 6 and rounding / h.
                assert_near(&what, slope[i], f64::from(g[i]) * exact, 16.0 * scale + 1e-9);
            }
        }
    }

    #[test]
    fn nan_stays_nan_and_kinks_follow_the_left_side() {
        for function in ALL {
            let x = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
            assert!(activate(&x, function).unwrap().to_vec1::<f32>().unwrap()[0].is_nan(), "{function:?}");
        }
        let zero = Var::new(&[0.0_f32], &Device::Cpu).unwrap();
        let grads = activate(&zero, Activation::Relu).unwrap().backward().unwrap();
        assert_eq!(grads.get(&zero).unwrap().to_vec1::<f32>().unwrap(), [0.0]);
    }
}
