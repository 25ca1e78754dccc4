use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};
use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_inverse::{Activation, ActivationReverse, DifferentiableOperator, ReverseOperator, VjpPass};
use fbp_linalg::FeatureShape;

use super::{Call, by_samples, par_for, values, with_values};

/// `f(x)` for every entry of a batch `[N, ..]`, with the gradient.
///
/// The functions are those of the reverse operators, so that a network and its reverse agree bit for bit.
///
/// # Errors
/// Of parameters outside their range, and of a tensor that is not contiguous, not `f32`, or not on the CPU.
pub fn activate(x: &Tensor, function: Activation) -> Result<Tensor> {
    activation_call(x, function)?.run()
}

pub(crate) fn activation_call(x: &Tensor, function: Activation) -> Result<Call> {
    let len = x.dims().split_first().map_or(1, |(_, rest)| rest.iter().product());
    let operator = ActivationReverse::new(NAME, function, FeatureShape::vector(len)).map_err(Error::wrap)?;
    Ok(Call::one(x, Elementwise { operator, len }))
}

const NAME: &str = "activation";

/// Rough cost of one entry, in multiplications.
const WEIGHT: usize = 4;

struct Elementwise {
    operator: ActivationReverse<f32>,
    len: usize,
}

impl Elementwise {
    fn view<'a>(&self, values: &'a [f32]) -> MatRef<'a, f32> {
        MatRef::from_column_major_slice(values, self.len, values.len() / self.len.max(1))
    }

    fn view_mut<'a>(&self, values: &'a mut [f32]) -> MatMut<'a, f32> {
        let batch = values.len() / self.len.max(1);
        MatMut::from_column_major_slice_mut(values, self.len, batch)
    }

    /// The values of a batch that belong to `out`, which starts at sample `first`.
    fn beside<'a>(&self, values: &'a [f32], first: usize, out: &[f32]) -> MatRef<'a, f32> {
        self.view(&values[first * self.len..][..out.len()])
    }
}

impl CustomOp1 for Elementwise {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(NAME, storage, layout)?;
        let y = by_samples(x.len(), self.len, par_for(x.len() * WEIGHT), |first, y| {
            let input = self.beside(x, first, y);
            self.operator.forward(input, self.view_mut(y), Par::Seq, MemStack::new(&mut [])).map_err(Error::wrap)
        })?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let out = with_values(NAME, arg, |x| {
            with_values(NAME, &grad, |g| {
                by_samples(x.len(), self.len, par_for(x.len() * WEIGHT), |first, out| {
                    let (at, cotangent_out) = (self.beside(x, first, out), self.beside(g, first, out));
                    let pass = VjpPass { at, cotangent_out, cotangent_in: self.view_mut(out) };
                    self.operator.vjp(pass, Par::Seq, MemStack::new(&mut [])).map_err(Error::wrap)
                })
            })
        })?;
        Tensor::from_vec(out, arg.shape(), arg.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::testing::assert_near;

    /// Value in double precision, from the formulas of PyTorch's documentation.
    fn oracle(function: Activation, x: f64) -> f64 {
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        match function {
            Activation::Relu => x.max(0.0),
            Activation::Relu6 => x.clamp(0.0, 6.0),
            Activation::LeakyRelu { slope } => x.max(0.0) + slope * x.min(0.0),
            Activation::HardTanh { min, max } => x.clamp(min, max),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::HardSigmoid => (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Activation::Elu { alpha } => x.max(0.0) + alpha * x.min(0.0).exp_m1(),
            Activation::Softplus => softplus(x),
            Activation::Gelu => x * 0.5 * libm::erfc(-x / 2.0_f64.sqrt()),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Activation::Mish => x * softplus(x).tanh(),
            other => panic!("no oracle for {other:?}"),
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
        // Odd step, so that no point falls on a kink; enough points for the parallel path.
        let x: Vec<f32> = (0..22 * 1_819).map(|i| (i as f32 - 20_009.3) * 5e-4).collect();
        let g: Vec<f32> = x.iter().map(|x| 1.0 + 0.5 * (3.0 * x).sin()).collect();
        for function in ALL {
            let var = Var::from_slice(&x, (22, 1_819), &Device::Cpu).unwrap();
            let y = activate(&var, function).unwrap();
            let weights = Tensor::from_slice(&g, y.shape(), &Device::Cpu).unwrap();
            let grads = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
            let slope = grads.get(&var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let value = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for i in 0..value.len() {
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
    fn nan_stays_nan_and_the_slope_of_relu_at_zero_is_zero() {
        for function in ALL {
            let x = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
            assert!(activate(&x, function).unwrap().to_vec1::<f32>().unwrap()[0].is_nan(), "{function:?}");
        }
        let zero = Var::new(&[0.0_f32], &Device::Cpu).unwrap();
        let grads = activate(&zero, Activation::Relu).unwrap().backward().unwrap();
        assert_eq!(grads.get(&zero).unwrap().to_vec1::<f32>().unwrap(), [0.0]);
        assert!(activate(&zero, Activation::HardTanh { min: 1.0, max: 0.0 }).is_err());
        let scalar = Tensor::new(-1.5_f32, &Device::Cpu).unwrap();
        assert_eq!(activate(&scalar, Activation::Relu).unwrap().to_scalar::<f32>().unwrap(), 0.0);
    }
}
