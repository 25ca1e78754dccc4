use std::fmt;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};
use faer::{MatMut, MatRef, Par};
use fbp_inverse::{DifferentiableOperator, VjpPass};

use super::scratch::ScratchPool;
use super::{Call, by_samples, par_for, values, with_values};

/// A layer without parameters as a differentiable tensor operation: its values and gradients are those of its reverse operator, so
/// that a network and its reverse agree bit for bit.
#[derive(Clone)]
pub struct Operation {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    operator: Box<dyn DifferentiableOperator<f32>>,
    /// Dimensions of one output, without the batch.
    output: Vec<usize>,
    scratch: ScratchPool,
}

struct Op(Arc<Shared>);

/// Rough cost of one entry, in multiplications.
const WEIGHT: usize = 16;

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Operation").field(&self.shared.name).finish()
    }
}

impl Operation {
    /// The operation of an operator whose outputs have the dimensions `output`, without the batch.
    pub fn new(name: &'static str, operator: impl DifferentiableOperator<f32> + 'static, output: Vec<usize>) -> Self {
        let shared = Shared { name, operator: Box::new(operator), output, scratch: ScratchPool::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Runs it on a batch `[N, ..]`.
    ///
    /// # Errors
    /// Of a batch whose samples have another length, and of a tensor that is not contiguous, not `f32`, or not on the CPU.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.call(x).run()
    }

    pub(crate) fn call(&self, x: &Tensor) -> Call {
        Call::one(x, Op(self.shared.clone()))
    }
}

impl Shared {
    /// Number of samples of a batch of so many values, and the threads for it.
    fn batch(&self, len: usize) -> Result<usize> {
        let own = self.operator.in_shape().len();
        if own == 0 || !len.is_multiple_of(own) {
            candle_core::bail!("{}: {len} values are no batch of samples of {own}", self.name);
        }
        Ok(len / own)
    }
}

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Shared { name, operator, output, scratch } = &*self.0;
        let x = values(name, storage, layout)?;
        let batch = self.0.batch(x.len())?;
        let (rows, out) = (operator.in_shape().len(), operator.out_shape().len());
        let y = by_samples(out * batch, out, par_for(x.len() * WEIGHT), |first, y| {
            let samples = y.len() / out;
            let input = MatRef::from_column_major_slice(&x[first * rows..][..samples * rows], rows, samples);
            scratch.with(operator.forward_scratch(samples, Par::Seq), |stack| {
                let output = MatMut::from_column_major_slice_mut(y, out, samples);
                operator.forward(input, output, Par::Seq, stack).map_err(Error::wrap)
            })
        })?;
        Ok((CpuStorage::F32(y), Shape::from([&[batch], output.as_slice()].concat())))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Shared { name, operator, scratch, .. } = &*self.0;
        let (rows, out) = (operator.in_shape().len(), operator.out_shape().len());
        let (arg, grad) = (arg.contiguous()?, grad.contiguous()?);
        self.0.batch(arg.elem_count())?;
        let result = with_values(name, &arg, |x| {
            with_values(name, &grad, |g| {
                by_samples(x.len(), rows, par_for(x.len() * WEIGHT), |first, cotangent| {
                    let samples = cotangent.len() / rows;
                    let at = MatRef::from_column_major_slice(&x[first * rows..][..samples * rows], rows, samples);
                    let g = MatRef::from_column_major_slice(&g[first * out..][..samples * out], out, samples);
                    scratch.with(operator.derivative_scratch(samples, Par::Seq), |stack| {
                        let cotangent_in = MatMut::from_column_major_slice_mut(cotangent, rows, samples);
                        let pass = VjpPass { at, cotangent_out: g, cotangent_in };
                        operator.vjp(pass, Par::Seq, stack).map_err(Error::wrap)
                    })
                })
            })
        })?;
        Tensor::from_vec(result, arg.shape(), arg.device()).map(Some)
    }
}
