use std::sync::Arc;

use candle_core::{CustomOp1, CustomOp2, CustomOp3, Result, Tensor};

/// An operation with its arguments, which can be run, and asked for its gradients later.
#[derive(Clone)]
pub(crate) enum Call {
    /// Of one argument.
    One(Tensor, Arc<Box<dyn CustomOp1 + Send + Sync>>),
    /// Of two arguments.
    Two([Tensor; 2], Arc<Box<dyn CustomOp2 + Send + Sync>>),
    /// Of three arguments.
    Three([Tensor; 3], Arc<Box<dyn CustomOp3 + Send + Sync>>),
}

impl Call {
    pub(crate) fn one(x: &Tensor, op: impl CustomOp1 + Send + Sync + 'static) -> Self {
        Self::One(x.clone(), Arc::new(Box::new(op)))
    }

    pub(crate) fn two(x: &Tensor, y: &Tensor, op: impl CustomOp2 + Send + Sync + 'static) -> Self {
        Self::Two([x.clone(), y.clone()], Arc::new(Box::new(op)))
    }

    pub(crate) fn three(x: &Tensor, y: &Tensor, z: &Tensor, op: impl CustomOp3 + Send + Sync + 'static) -> Self {
        Self::Three([x.clone(), y.clone(), z.clone()], Arc::new(Box::new(op)))
    }

    /// The operation on weights, and on a bias if there is one.
    pub(crate) fn affine<O: CustomOp2 + CustomOp3 + Send + Sync + 'static>(
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        op: O,
    ) -> Self {
        match bias {
            Some(bias) => Self::three(x, weight, bias, op),
            None => Self::two(x, weight, op),
        }
    }

    /// Runs the operation, as a node of candle's graph.
    pub(crate) fn run(&self) -> Result<Tensor> {
        match self {
            Self::One(x, op) => x.apply_op1_arc(op.clone()),
            Self::Two([x, y], op) => x.apply_op2_arc(y, op.clone()),
            Self::Three([x, y, z], op) => x.apply_op3_arc(y, z, op.clone()),
        }
    }

    /// What it was called with.
    pub(crate) fn arguments(&self) -> &[Tensor] {
        match self {
            Self::One(x, _) => std::slice::from_ref(x),
            Self::Two(arguments, _) => arguments,
            Self::Three(arguments, _) => arguments,
        }
    }

    /// Gradients of the arguments that want one, given the output and its gradient.
    pub(crate) fn gradients(&self, output: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; 3]> {
        Ok(match self {
            Self::One(x, op) => [op.bwd(x, output, gradient)?, None, None],
            Self::Two([x, y], op) => {
                let (x, y) = op.bwd(x, y, output, gradient)?;
                [x, y, None]
            }
            Self::Three([x, y, z], op) => {
                let (x, y, z) = op.bwd(x, y, z, output, gradient)?;
                [x, y, z]
            }
        })
    }
}
