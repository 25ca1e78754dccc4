use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::conv_solve::{ConvMode, ConvSolveParams, ConvSolvePlan, ConvSystem};
use fbp_linalg::conv2d::{Conv2d, Conv2dGeometry, ConvAdjoint, ConvForward};
use fbp_linalg::dense::AffineSolve;
use fbp_linalg::{
    BOXED_LIMIT, FeatureShape, LinalgError, Real, batch_slice, batch_slice_mut, column, column_mut, expect_finite,
};

use super::affine::{AffineReverse, distance, is_point, solved_report};
use crate::{
    DifferentiableOperator, InverseError, JvpPass, Range, ReverseOperator, ReversePass, ReverseReport, VjpPass,
    expect_batch,
};

/// Reverse of a two-dimensional convolution with any stride, padding, dilation and groups.
///
/// Within a target box and an input range it solves `min |x - x0|², lo <= K * x + b <= hi, x in R` exactly, with the
/// true zero padding, by a dense plan of the exact operator. Systems of more than [`BOXED_LIMIT`] inputs or outputs
/// take point targets without a range, by a [`ConvSolvePlan`] that never forms the operator; boxes and ranges are
/// refused there by name and size.
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
    plans: Plans<T>,
}

/// How the reverse is solved.
#[derive(Clone, Debug)]
enum Plans<T: Real> {
    Dense(Box<AffineReverse<T>>),
    Large(Box<ConvSolvePlan<T>>),
}

impl<T: Real> Conv2dReverse<T> {
    /// Builds the layer and its plans.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if `weight` or `bias` has another length than the geometry needs,
    /// [`InverseError::Solve`] with [`LinalgError::NonFinite`] if a weight is not finite.
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
        let kernel = Conv2d::new(geometry);
        let plans = if geometry.out_len().max(geometry.in_len()) > BOXED_LIMIT {
            let system = ConvSystem { geometry, weight, bias: Some(bias), transposed: false };
            let config = ConvSolveParams::new().mode(ConvMode::Exact).check().map_err(in_layer())?;
            Plans::Large(Box::new(ConvSolvePlan::new(&system, &config, Par::rayon(0)).map_err(in_layer())?))
        } else {
            let dense = kernel.dense(weight).map_err(in_layer())?;
            Plans::Dense(Box::new(AffineReverse::new(name, dense.as_ref())?))
        };
        Ok(Self { name: name.to_owned(), kernel, weight: weight.to_vec(), bias: bias.to_vec(), plans })
    }

    /// The reverse of a system that is too large for a dense plan.
    fn reverse_large(
        &self,
        plan: &ConvSolvePlan<T>,
        mut pass: ReversePass<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        let in_layer = || InverseError::in_layer(&self.name);
        if !(pass.in_range.is_everything() && is_point(&pass.target_out)) {
            let (rows, cols) = (plan.rows(), plan.cols());
            let what = "conv2d reverse within boxes or a range";
            return Err(in_layer()(LinalgError::TooLarge { what, rows, cols, limit: BOXED_LIMIT }));
        }
        let problem = AffineSolve {
            observed_in: pass.observed_in,
            observed_out: Some(pass.observed_out),
            target: pass.target_out.point,
            solution: pass.target_in.point.as_mut(),
        };
        let solved = plan.solve(problem, par, stack).map_err(in_layer())?;
        let moved = distance(&pass).map_err(in_layer())?;
        pass.target_in.collapse_to_point();
        Ok(solved_report(&pass, &solved, moved))
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
        match &self.plans {
            Plans::Dense(plans) => plans.reverse_scratch(batch, par),
            Plans::Large(plan) => plan.solve_scratch(batch, par),
        }
    }

    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError> {
        match &self.plans {
            Plans::Dense(plans) => plans.reverse(self, pass, par, stack),
            Plans::Large(plan) => self.reverse_large(plan, pass, par, stack),
        }
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
