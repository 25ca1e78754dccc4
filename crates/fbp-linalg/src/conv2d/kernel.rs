use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use super::correlate::Correlation;
use super::kept::{Kept, Weights};
use super::output::{Output, fresh};
use super::threads::{CorrelateArgs, Exec};
use super::weight_grad::WeightGrad;
use super::winograd::{Winograd, WinogradGrad};
use super::{Conv2dGeometry, Epilogue, plan};
use crate::{LinalgError, PerScalar, Real, compile_once};

/// Arguments of [`Conv2d::forward`].
///
/// # Shapes
/// `input`: `[N, C, H, W]`; `weight`: `[out_channels, C / groups, kernel height, kernel width]`; `bias`:
/// `[out_channels]`; `output` (overwritten): `[N, out_channels, out height, out width]`. All row-major.
#[derive(Debug)]
pub struct ConvForward<'a, T> {
    /// Features before the layer.
    pub input: &'a [T],
    /// Weights of the layer.
    pub weight: &'a [T],
    /// Bias per output channel; `None` is zero.
    pub bias: Option<&'a [T]>,
    /// Features after the layer; whatever it held is lost.
    pub output: &'a mut [T],
}

/// Arguments of [`Conv2d::adjoint`].
///
/// # Shapes
/// `cotangent`: as the output of the forward pass; `input_grad` (overwritten): as its input.
#[derive(Debug)]
pub struct ConvAdjoint<'a, T> {
    /// Gradient with respect to the output.
    pub cotangent: &'a [T],
    /// Weights of the layer.
    pub weight: &'a [T],
    /// Gradient with respect to the input; whatever it held is lost.
    pub input_grad: &'a mut [T],
}

/// Arguments of [`Conv2d::weight_grad`].
///
/// # Shapes
/// `input` and `cotangent`: as the input and the output of the forward pass; `weight_grad` and `bias_grad`
/// (overwritten): as its weights and its bias. Both gradients are sums over the batch.
#[derive(Debug)]
pub struct ConvWeightGrad<'a, T> {
    /// Features before the layer.
    pub input: &'a [T],
    /// Gradient with respect to the output.
    pub cotangent: &'a [T],
    /// Gradient with respect to the weights; whatever it held is lost.
    pub weight_grad: &'a mut [T],
    /// Gradient with respect to the bias, if wanted; whatever it held is lost.
    pub bias_grad: Option<&'a mut [T]>,
}

/// Kernel object of one convolution geometry: immutable, `Send + Sync`, shared by every batch and both scalars.
///
/// With weights `w`, stride `s`, padding `p` and dilation `d` (written for one axis and one group)
/// `y[o, i] = b[o] + Σ_{c,k} w[o, c, k] x[c, i·s + k·d - p]`, where `x` is 0 outside the image.
///
/// The number of samples follows from the length of the slices. Nothing is allocated: scratch memory comes from the
/// caller, who asks the `*_scratch` methods for its size once.
///
/// ```
/// use faer::{Par, dyn_stack::{MemBuffer, MemStack}};
/// use fbp_linalg::{FeatureShape, conv2d::{Conv2d, Conv2dParams, ConvForward}};
///
/// let geometry = Conv2dParams::new(FeatureShape::image(1, 2, 3), 1, [1, 2]).check()?;
/// let conv = Conv2d::new(geometry);
/// let mut output = [0.0_f32; 4];
/// let mut memory = MemBuffer::new(conv.forward_scratch::<f32>(1, Par::Seq));
/// conv.forward(
///     ConvForward { input: &[1., 2., 4., 3., 5., 9.], weight: &[-1., 1.], bias: None, output: &mut output },
///     Par::Seq,
///     MemStack::new(&mut memory),
/// )?;
/// assert_eq!(output, [1., 2., 2., 4.]);
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Conv2d {
    geometry: Conv2dGeometry,
    arch: pulp::Arch,
    forward: Correlation,
    adjoint: Correlation,
    weight_grad: WeightGrad,
    fast: Fast,
}

/// What fewer products have to cost at most, of what the plain ones cost, to be worth their rounding.
const GAIN: f64 = 0.9;

/// What is computed with fewer products, in `f32`.
#[derive(Clone, Debug, Default)]
struct Fast {
    forward: Option<Winograd>,
    adjoint: Option<Winograd>,
    weight_grad: Option<WinogradGrad>,
}

impl Conv2d {
    /// Kernel object of a geometry, every sum as exact as its terms allow.
    pub fn new(geometry: Conv2dGeometry) -> Self {
        Self {
            geometry,
            arch: pulp::Arch::new(),
            forward: plan::forward(&geometry),
            adjoint: plan::adjoint(&geometry),
            weight_grad: plan::weight_grad(&geometry),
            fast: Fast::default(),
        }
    }

    /// Kernel object for networks: in `f32`, 3×3 kernels of stride 1 with enough channels take fewer products, whose rounding is
    /// up to some 1e-6 of the largest sum of absolute products. Everything else is as [`new`](Self::new) has it, `f64` as a whole.
    ///
    /// Which way is taken depends on the geometry alone, so that a sample has the same results in every batch. The gradient of the
    /// weights then allocates short lists of the parts of its scratch memory at every call.
    pub fn for_networks(geometry: Conv2dGeometry) -> Self {
        let plain = Self::new(geometry);
        let [forward, adjoint, sums] = [plain.forward.cost(), plain.adjoint.cost(), plain.weight_grad.cost()];
        let fast = Fast {
            forward: Winograd::forward(&geometry).filter(|plan| plan.cost() < GAIN * forward),
            adjoint: Winograd::adjoint(&geometry).filter(|plan| plan.cost() < GAIN * adjoint),
            weight_grad: WinogradGrad::new(&geometry).filter(|plan| plan.cost() < GAIN * sums),
        };
        Self { fast, ..plain }
    }

    /// Takes fewer products wherever the method fits, whatever it costs, also in `f64`.
    #[cfg(test)]
    pub(super) fn with_few_products(geometry: Conv2dGeometry) -> Self {
        let fast = Fast {
            forward: Winograd::forward(&geometry),
            adjoint: Winograd::adjoint(&geometry),
            weight_grad: WinogradGrad::new(&geometry),
        };
        Self { fast, ..Self::new(geometry) }
    }

    /// Whether forward pass, adjoint and weight gradient take fewer products in `f32`.
    #[cfg(test)]
    pub(super) fn takes_few_products(&self) -> [bool; 3] {
        [self.fast.forward.is_some(), self.fast.adjoint.is_some(), self.fast.weight_grad.is_some()]
    }

    /// The same kernel on another instruction set of this machine.
    #[cfg(test)]
    pub(super) fn on(self, arch: pulp::Arch) -> Self {
        Self { arch, ..self }
    }

    /// The geometry.
    pub const fn geometry(&self) -> &Conv2dGeometry {
        &self.geometry
    }

    /// Scratch memory of [`forward`](Self::forward) for up to `batch` samples.
    pub fn forward_scratch<T: Real>(&self, batch: usize, par: Par) -> StackReq {
        let fast = single::<T, _>(&self.fast.forward).map(|plan| plan.scratch::<T>(batch, par));
        fast.unwrap_or_else(|| self.forward.scratch::<T>(batch, par))
    }

    /// The same of a call whose weights are kept.
    pub(super) fn forward_scratch_without_weights<T: Real>(&self, batch: usize, par: Par) -> StackReq {
        let fast = single::<T, _>(&self.fast.forward).map(|plan| plan.scratch_without_weights::<T>(batch, par));
        fast.unwrap_or_else(|| self.forward.scratch_without_weights::<T>(batch, par))
    }

    /// Applies the convolution to every sample of a batch.
    ///
    /// # Errors
    /// [`LinalgError::Length`] if a slice does not have the documented shape.
    ///
    /// # Panics
    /// If `stack` holds less than [`forward_scratch`](Self::forward_scratch).
    pub fn forward<T: Real>(
        &self,
        args: ConvForward<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        self.run_forward(args, None, None, par, stack)
    }

    /// [`forward`](Self::forward) of input and weights into a vector of its own, whose memory is written but once, and then an
    /// epilogue on every output if there is one.
    ///
    /// # Errors
    /// As [`forward_then`](Self::forward_then).
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_to_vec<T: Real>(
        &self,
        [input, weight]: [&[T]; 2],
        bias: Option<&[T]>,
        epilogue: Option<Epilogue<'_, T>>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<Vec<T>, LinalgError> {
        self.run_forward_to_vec((input, Weights { values: weight, kept: None }), bias, epilogue, par, stack)
    }

    pub(super) fn run_forward_to_vec<T: Real>(
        &self,
        (input, weight): (&[T], Weights<'_, T>),
        bias: Option<&[T]>,
        epilogue: Option<Epilogue<'_, T>>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<Vec<T>, LinalgError> {
        let batch = self.check_forward(input, weight.values, bias)?;
        let len = batch * self.geometry.out_len();
        if let Some(addend) = epilogue.and_then(|epilogue| epilogue.addend) {
            expect_len("conv2d: addend", addend.len(), len)?;
        }
        let write =
            |output: Output<'_, T>| self.correlate(CorrelateArgs { input, weight, bias, output, epilogue }, par, stack);
        #[expect(unsafe_code, reason = "fresh memory has no values before it is written")]
        // SAFETY: every kernel cuts its output as its input, and runs through all parts of both.
        let output = unsafe { fresh(len, write) };
        Ok(output)
    }

    /// [`forward`](Self::forward), and then an epilogue on every output.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), also of an addend that is not as long as the output.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_then<T: Real>(
        &self,
        args: ConvForward<'_, T>,
        epilogue: Epilogue<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        if let Some(addend) = epilogue.addend {
            expect_len("conv2d: addend", addend.len(), args.output.len())?;
        }
        self.run_forward(args, None, Some(epilogue), par, stack)
    }

    pub(super) fn run_forward<T: Real>(
        &self,
        args: ConvForward<'_, T>,
        kept: Option<&Kept<T>>,
        epilogue: Option<Epilogue<'_, T>>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let ConvForward { input, weight, bias, output } = args;
        let batch = self.check_forward(input, weight, bias)?;
        expect_len("conv2d: output", output.len(), batch * self.geometry.out_len())?;
        let (weight, output) = (Weights { values: weight, kept }, Output::of(output));
        self.correlate(CorrelateArgs { input, weight, bias, output, epilogue }, par, stack);
        Ok(())
    }

    /// Checks all lengths but that of the output, and gives the number of samples.
    fn check_forward<T: Real>(&self, input: &[T], weight: &[T], bias: Option<&[T]>) -> Result<usize, LinalgError> {
        let g = &self.geometry;
        let batch = batch_of("conv2d: input", input.len(), g.in_len())?;
        expect_len("conv2d: weight", weight.len(), g.weight_len())?;
        if let Some(bias) = bias {
            expect_len("conv2d: bias", bias.len(), g.out_shape().channels)?;
        }
        Ok(batch)
    }

    fn correlate<T: Real>(&self, args: CorrelateArgs<'_, T>, par: Par, stack: &mut MemStack) {
        let exec = Exec { arch: self.arch, par };
        match single::<T, _>(&self.fast.forward) {
            Some(plan) => T::per_scalar::<FewProducts>((plan, args, exec, stack)),
            None => correlate(&self.forward, args, exec, stack),
        }
    }

    /// Scratch memory of [`adjoint`](Self::adjoint) for up to `batch` samples.
    pub fn adjoint_scratch<T: Real>(&self, batch: usize, par: Par) -> StackReq {
        let fast = single::<T, _>(&self.fast.adjoint).map(|plan| plan.scratch::<T>(batch, par));
        fast.unwrap_or_else(|| self.adjoint.scratch::<T>(batch, par))
    }

    /// The same of a call whose weights are kept.
    pub(super) fn adjoint_scratch_without_weights<T: Real>(&self, batch: usize, par: Par) -> StackReq {
        let fast = single::<T, _>(&self.fast.adjoint).map(|plan| plan.scratch_without_weights::<T>(batch, par));
        fast.unwrap_or_else(|| self.adjoint.scratch_without_weights::<T>(batch, par))
    }

    /// Applies the transposed linear map to every sample: the gradient with respect to the input.
    ///
    /// # Errors
    /// [`LinalgError::Length`] if a slice does not have the documented shape.
    ///
    /// # Panics
    /// If `stack` holds less than [`adjoint_scratch`](Self::adjoint_scratch).
    pub fn adjoint<T: Real>(
        &self,
        args: ConvAdjoint<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        self.run_adjoint(args, None, par, stack)
    }

    pub(super) fn run_adjoint<T: Real>(
        &self,
        args: ConvAdjoint<'_, T>,
        kept: Option<&Kept<T>>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let ConvAdjoint { cotangent, weight, input_grad } = args;
        let batch = self.check_adjoint(cotangent, weight)?;
        expect_len("conv2d: input gradient", input_grad.len(), batch * self.geometry.in_len())?;
        let weight = Weights { values: weight, kept };
        self.correlate_back((cotangent, weight), Output::of(input_grad), par, stack);
        Ok(())
    }

    /// [`adjoint`](Self::adjoint) of cotangent and weights into a vector of its own, whose memory is written but once.
    ///
    /// # Errors
    /// As [`adjoint`](Self::adjoint).
    ///
    /// # Panics
    /// As [`adjoint`](Self::adjoint).
    pub fn adjoint_to_vec<T: Real>(
        &self,
        [cotangent, weight]: [&[T]; 2],
        par: Par,
        stack: &mut MemStack,
    ) -> Result<Vec<T>, LinalgError> {
        let batch = self.check_adjoint(cotangent, weight)?;
        let len = batch * self.geometry.in_len();
        let weight = Weights { values: weight, kept: None };
        let write = |output: Output<'_, T>| self.correlate_back((cotangent, weight), output, par, stack);
        #[expect(unsafe_code, reason = "fresh memory has no values before it is written")]
        // SAFETY: as in `forward_to_vec`.
        let output = unsafe { fresh(len, write) };
        Ok(output)
    }

    /// Checks all lengths but that of the result, and gives the number of samples.
    fn check_adjoint<T: Real>(&self, cotangent: &[T], weight: &[T]) -> Result<usize, LinalgError> {
        let batch = batch_of("conv2d: cotangent", cotangent.len(), self.geometry.out_len())?;
        expect_len("conv2d: weight", weight.len(), self.geometry.weight_len())?;
        Ok(batch)
    }

    fn correlate_back<T: Real>(
        &self,
        (input, weight): (&[T], Weights<'_, T>),
        output: Output<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) {
        let args = CorrelateArgs { input, weight, bias: None, output, epilogue: None };
        let exec = Exec { arch: self.arch, par };
        match single::<T, _>(&self.fast.adjoint) {
            Some(plan) => T::per_scalar::<FewProducts>((plan, args, exec, stack)),
            None => correlate(&self.adjoint, args, exec, stack),
        }
    }

    /// Scratch memory of [`weight_grad`](Self::weight_grad) for up to `batch` samples.
    pub fn weight_grad_scratch<T: Real>(&self, batch: usize, par: Par) -> StackReq {
        let fast = single::<T, _>(&self.fast.weight_grad).map(|plan| plan.scratch::<T>(batch));
        fast.unwrap_or_else(|| self.weight_grad.scratch::<T>(batch, par))
    }

    /// Gradients with respect to the weights and, if wanted, the bias, summed over the batch; 0 for an empty batch.
    ///
    /// # Errors
    /// [`LinalgError::Length`] if a slice does not have the documented shape.
    ///
    /// # Panics
    /// If `stack` holds less than [`weight_grad_scratch`](Self::weight_grad_scratch).
    pub fn weight_grad<T: Real>(
        &self,
        args: ConvWeightGrad<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let g = &self.geometry;
        let batch = batch_of("conv2d: input", args.input.len(), g.in_len())?;
        expect_len("conv2d: cotangent", args.cotangent.len(), batch * g.out_len())?;
        expect_len("conv2d: weight gradient", args.weight_grad.len(), g.weight_len())?;
        if let Some(bias_grad) = &args.bias_grad {
            expect_len("conv2d: bias gradient", bias_grad.len(), g.out_shape().channels)?;
        }
        let exec = Exec { arch: self.arch, par };
        match single::<T, _>(&self.fast.weight_grad) {
            Some(plan) => T::per_scalar::<FewSums>((plan, args, exec, stack)),
            None => sum_products(&self.weight_grad, args, exec, stack),
        }
        Ok(())
    }
}

compile_once! {
    fn correlate<'a, T>(plan: &'a Correlation, args: CorrelateArgs<'a, T>, exec: Exec, stack: &'a mut MemStack) -> () =
        Correlation::run::<T>;
    fn sum_products<'a, T>(plan: &'a WeightGrad, args: ConvWeightGrad<'a, T>, exec: Exec, stack: &'a mut MemStack) -> () =
        WeightGrad::run::<T>;
}

/// What there is of a plan for `f32` alone; tests run it in `f64` too, where rounding hides nothing.
fn single<T: Real, P>(plan: &Option<P>) -> Option<&P> {
    plan.as_ref().filter(|_| cfg!(test) || size_of::<T>() == size_of::<f32>())
}

/// Work with a plan that [`single`] has given, compiled here and for `f32` alone.
macro_rules! in_single {
    ($name:ident, $plan:ty, $args:ident) => {
        struct $name;

        impl PerScalar for $name {
            type Args<'a, T: Real> = (&'a $plan, $args<'a, T>, Exec, &'a mut MemStack);
            type Output<'a, T: Real> = ();

            #[inline(never)]
            fn single<'a>((plan, args, exec, stack): Self::Args<'a, f32>) -> Self::Output<'a, f32> {
                plan.run(args, exec, stack);
            }

            #[cfg(not(test))]
            fn double<'a>(_: Self::Args<'a, f64>) -> Self::Output<'a, f64> {
                unreachable!("`single` gives no plan in `f64`");
            }

            #[cfg(test)]
            fn double<'a>((plan, args, exec, stack): Self::Args<'a, f64>) -> Self::Output<'a, f64> {
                plan.run(args, exec, stack);
            }
        }
    };
}

in_single!(FewProducts, Winograd, CorrelateArgs);
in_single!(FewSums, WinogradGrad, ConvWeightGrad);

pub(super) fn expect_len(what: &'static str, found: usize, expected: usize) -> Result<(), LinalgError> {
    if found == expected { Ok(()) } else { Err(LinalgError::Length { what, expected, found }) }
}

/// Number of samples in a slice; the error names the next larger whole number of samples.
fn batch_of(what: &'static str, found: usize, sample: usize) -> Result<usize, LinalgError> {
    let batch = found.div_ceil(sample);
    expect_len(what, found, batch * sample).map(|()| batch)
}
