use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use super::grid::End;
use crate::LinalgError;
use crate::conv2d::{Conv2d, ConvAdjoint, ConvForward};

/// The linear map `B` from the far field to the near field of a convolution, in `f64`.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) conv: Conv2d,
    pub(crate) weight: Vec<f64>,
    pub(crate) near: End,
}

impl Pair {
    pub(crate) fn near_len(&self) -> usize {
        let g = self.conv.geometry();
        if self.near == End::Output { g.out_len() } else { g.in_len() }
    }

    pub(crate) fn far_len(&self) -> usize {
        let g = self.conv.geometry();
        if self.near == End::Output { g.in_len() } else { g.out_len() }
    }

    pub(crate) fn scratch(&self, batch: usize, par: Par) -> StackReq {
        self.conv.forward_scratch::<f64>(batch, par).or(self.conv.adjoint_scratch::<f64>(batch, par))
    }

    /// The convolution or its adjoint with these weights.
    pub(crate) fn run_with(
        &self,
        weight: &[f64],
        forward: bool,
        (from, to): (&[f64], &mut [f64]),
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        if forward {
            self.conv.forward(ConvForward { input: from, weight, bias: None, output: to }, par, stack)
        } else {
            self.conv.adjoint(ConvAdjoint { cotangent: from, weight, input_grad: to }, par, stack)
        }
    }

    /// `near <- B far`.
    pub(crate) fn to_near(
        &self,
        far: &[f64],
        near: &mut [f64],
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        self.run_with(&self.weight, self.near == End::Output, (far, near), par, stack)
    }

    /// `far <- Bᵀ near`.
    pub(crate) fn to_far(
        &self,
        near: &[f64],
        far: &mut [f64],
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        self.run_with(&self.weight, self.near == End::Input, (near, far), par, stack)
    }
}
