use std::fmt;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};
use faer::{MatMut, MatRef};
use fbp_inverse::{DifferentiableOperator, VjpPass};
use fbp_linalg::zeros;

use super::scratch::ScratchPool;
use super::{Call, par_for, values, with_values};

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
        let input = MatRef::from_column_major_slice(x, rows, batch);
        let par = par_for(x.len() * WEIGHT);
        let mut y = zeros(out * batch, par);
        scratch.with(operator.forward_scratch(batch, par), |stack| {
            let output = MatMut::from_column_major_slice_mut(&mut y, out, batch);
            operator.forward(input, output, par, stack).map_err(Error::wrap)
        })?;
        Ok((CpuStorage::F32(y), Shape::from([&[batch], output.as_slice()].concat())))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Shared { name, operator, scratch, .. } = &*self.0;
        let (rows, out) = (operator.in_shape().len(), operator.out_shape().len());
        let (arg, grad) = (arg.contiguous()?, grad.contiguous()?);
        let batch = self.0.batch(arg.elem_count())?;
        let par = par_for(arg.elem_count() * WEIGHT);
        let mut result = zeros(arg.elem_count(), par);
        with_values(name, &arg, |x| {
            with_values(name, &grad, |g| {
                scratch.with(operator.derivative_scratch(batch, par), |stack| {
                    let pass = VjpPass {
                        at: MatRef::from_column_major_slice(x, rows, batch),
                        cotangent_out: MatRef::from_column_major_slice(g, out, batch),
                        cotangent_in: MatMut::from_column_major_slice_mut(&mut result, rows, batch),
                    };
                    operator.vjp(pass, par, stack).map_err(Error::wrap)
                })
            })
        })?;
        Tensor::from_vec(result, arg.shape(), arg.device()).map(Some)
    }
}
