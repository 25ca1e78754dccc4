use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::conv2d::{Conv2d, Conv2dGeometry, ConvAdjoint, ConvForward};
use fbp_linalg::{
    BOXED_LIMIT, FeatureShape, LinalgError, Real, batch_slice, batch_slice_mut, column, column_mut, expect_finite,
};

use super::affine::AffineReverse;
use crate::{
    DifferentiableOperator, InverseError, JvpPass, Range, ReverseOperator, ReversePass, ReverseReport, VjpPass,
    expect_batch,
};

/// Reverse of a two-dimensional convolution with any stride, padding, dilation and groups.
///
/// Within a target box and an input range it solves `min |x - x0|², lo <= K * x + b <= hi, x in R` exactly, with the
/// true zero padding, by a dense plan of the exact operator. Systems of more than [`BOXED_LIMIT`] inputs or outputs
/// are refused by name and size.
///
/// # Shapes
/// Weight `[out, in/groups, kh, kw]`, bias `[out]`; features `in·H·W × N` and `out·H'·W' × N`.
///
/// # Source
/// arXiv:2506.07188 (layer reversal as a linear system); boxes and ranges: own derivation, see
/// [`fbp_linalg::BoxedPlan`].
#[derive(Clone, Debug)]
pub struct Conv2dReverse<T: Real> {
    name: String,
    kernel: Conv2d,
    weight: Vec<T>,
    bias: Vec<T>,
    affine: AffineReverse<T>,
}

impl<T: Real> Conv2dReverse<T> {
    /// Builds the layer and its plans.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if `weight` or `bias` has another length than the geometry needs,
    /// [`InverseError::Solve`] with [`LinalgError::TooLarge`] if the system is too large for a dense plan, or with
    /// [`LinalgError::NonFinite`] if a weight is not finite.
    pub fn new(name: &str, geometry: Conv2dGeometry, weight: &[T], bias: &[T]) -> Result<Self, InverseError> {
        let channels = geometry.out_shape().channels;
        if bias.len() != channels || weight.len() != geometry.weight_len() {
            let (weights, biases) = (weight.len(), bias.len());
            let reason =
                format!("{weights} weights and {biases} biases, expected {} and {channels}", geometry.weight_len());
            return Err(InverseError::Layer { layer: name.to_owned(), reason });
        }
        let in_layer = || InverseError::in_layer(name);
        expect_finite("weight", MatRef::from_column_major_slice(weight, weight.len(), 1)).map_err(in_layer())?;
        expect_finite("bias", MatRef::from_column_major_slice(bias, bias.len(), 1)).map_err(in_layer())?;
        let (rows, cols) = (geometry.out_len(), geometry.in_len());
        if rows.max(cols) > BOXED_LIMIT {
            let error = LinalgError::TooLarge { what: "conv2d reverse", rows, cols, limit: BOXED_LIMIT };
            return Err(in_layer()(error));
        }
        let kernel = Conv2d::new(geometry);
        let dense = kernel.dense(weight).map_err(in_layer())?;
        let affine = AffineReverse::new(name, dense.as_ref())?;
        Ok(Self { name: name.to_owned(), kernel, weight: weight.to_vec(), bias: bias.to_vec(), affine })
    }

    /// The convolution, with the bias or as the linear map alone.
    fn convolve(
        &self,
        input: MatRef<'_, T>,
        mut output: MatMut<'_, T>,
        bias: Option<&[T]>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let weight = &self.weight;
        if let (Some(input), Some(output)) = (batch_slice(input), batch_slice_mut(output.as_mut())) {
            return self.kernel.forward(ConvForward { input, weight, bias, output }, par, stack);
        }
        for sample in 0..input.ncols() {
            let input = column("input", input, sample)?;
            let output = column_mut("output", output.as_mut(), sample)?;
            self.kernel.forward(ConvForward { input, weight, bias, output }, Par::Seq, stack)?;
        }
        Ok(())
    }
}

impl<T: Real> ReverseOperator<T> for Conv2dReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.kernel.geometry().in_shape()
    }

    fn out_shape(&self) -> FeatureShape {
        self.kernel.geometry().out_shape()
    }

    fn out_range(&self, _in_range: Range<T>) -> Range<T> {
        Range::EVERYTHING
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.kernel.forward_scratch::<T>(batch, par).or(self.kernel.forward_scratch::<T>(1, Par::Seq))
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        expect_batch(&self.name, "input", input, (self.in_shape().len(), input.ncols()))?;
        expect_batch(&self.name, "output", output.as_ref(), (self.out_shape().len(), input.ncols()))?;
        self.convolve(input, output, Some(&self.bias), par, stack).map_err(InverseError::in_layer(&self.name))
    }

    fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.affine.reverse_scratch(batch, par)
    }

    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError> {
        self.affine.reverse(self, pass, par, stack)
    }

    fn differentiable(&self) -> Option<&dyn DifferentiableOperator<T>> {
        Some(self)
    }
}

impl<T: Real> DifferentiableOperator<T> for Conv2dReverse<T> {
    fn derivative_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.forward_scratch(batch, par)
            .or(self.kernel.adjoint_scratch::<T>(batch, par))
            .or(self.kernel.adjoint_scratch::<T>(1, Par::Seq))
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        let batch = pass.at.ncols();
        expect_batch(&self.name, "tangent_in", pass.tangent_in, (self.in_shape().len(), batch))?;
        expect_batch(&self.name, "tangent_out", pass.tangent_out.as_ref(), (self.out_shape().len(), batch))?;
        self.convolve(pass.tangent_in, pass.tangent_out, None, par, stack).map_err(InverseError::in_layer(&self.name))
    }

    fn vjp(&self, mut pass: VjpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        let batch = pass.at.ncols();
        expect_batch(&self.name, "cotangent_out", pass.cotangent_out, (self.out_shape().len(), batch))?;
        expect_batch(&self.name, "cotangent_in", pass.cotangent_in.as_ref(), (self.in_shape().len(), batch))?;
        let in_layer = || InverseError::in_layer(&self.name);
        let weight = &self.weight;
        if let (Some(cotangent), Some(input_grad)) =
            (batch_slice(pass.cotangent_out), batch_slice_mut(pass.cotangent_in.as_mut()))
        {
            let args = ConvAdjoint { cotangent, weight, input_grad };
            return self.kernel.adjoint(args, par, stack).map_err(in_layer());
        }
        for sample in 0..batch {
            let cotangent = column("cotangent_out", pass.cotangent_out, sample).map_err(in_layer())?;
            let input_grad = column_mut("cotangent_in", pass.cotangent_in.as_mut(), sample).map_err(in_layer())?;
            let args = ConvAdjoint { cotangent, weight, input_grad };
            self.kernel.adjoint(args, Par::Seq, stack).map_err(in_layer())?;
        }
        Ok(())
    }
}
