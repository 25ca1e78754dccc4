//! What a layer of this crate implements, and how it becomes a reverse operator whose code is compiled once.

use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real};

use crate::tape::{Tape, TapeMut};
use crate::{ChannelRanges, Interval, InverseError, JvpPass, ReversePass, ReverseReport, Structure, VjpPass};

/// The methods of [`ReverseOperator`](crate::ReverseOperator) and [`DifferentiableOperator`](crate::DifferentiableOperator)
/// in one trait, for layers that have them all.
pub(super) trait LayerKernel<T: Real>: Sync {
    fn name(&self) -> &str;
    fn in_shape(&self) -> FeatureShape;
    fn out_shape(&self) -> FeatureShape;
    fn out_range(&self, in_range: Interval<T>) -> Interval<T>;
    fn out_ranges(&self, in_ranges: &ChannelRanges<T>) -> ChannelRanges<T> {
        self.out_range(in_ranges.hull()).into()
    }

    fn forward_scratch(&self, _batch: usize, _par: Par) -> StackReq {
        StackReq::EMPTY
    }
    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError>;

    fn reverse_scratch(&self, _batch: usize, _par: Par) -> StackReq {
        StackReq::EMPTY
    }
    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError>;

    fn structure(&self) -> Structure {
        Structure::GENERAL
    }
    fn derivative_scratch(&self, _batch: usize, _par: Par) -> StackReq {
        StackReq::EMPTY
    }
    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError>;
    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError>;

    /// Whether the derivatives may be called; not so for layers made of others that have none.
    fn has_derivatives(&self) -> bool {
        true
    }
    fn tape_lens(&self) -> &[usize] {
        &[]
    }
    fn forward_on_tape(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        _tape: TapeMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.forward(input, output, par, stack)
    }
    fn jvp_on_tape(
        &self,
        pass: JvpPass<'_, T>,
        _tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.jvp(pass, par, stack)
    }
    fn vjp_on_tape(
        &self,
        pass: VjpPass<'_, T>,
        _tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.vjp(pass, par, stack)
    }
}

/// Makes a layer with a [`LayerKernel`] a reverse operator.
///
/// The kernel is called through a table of functions that this crate compiles for both scalars; a crate that uses the layer
/// compiles nothing but the calls.
macro_rules! operator_once {
    ($layer:ident) => {
        const _: () = {
            use faer::dyn_stack::{MemStack, StackReq};
            use faer::{MatMut, MatRef, Par};
            use fbp_linalg::{FeatureShape, Real, compile_once};

            use crate::layers::kernel::LayerKernel;
            use crate::tape::{Tape, TapeMut};
            use crate::{
                ChannelRanges, DifferentiableOperator, Interval, InverseError, JvpPass, ReverseOperator, ReversePass,
                ReverseReport, Structure, VjpPass,
            };

            fn kernel_of<T: Real>(layer: &$layer<T>) -> &dyn LayerKernel<T> {
                layer
            }

            compile_once! {
                fn kernel<'a, T>(layer: &'a $layer<T>) -> &'a dyn LayerKernel<T> = kernel_of::<T>;
            }

            impl<T: Real> ReverseOperator<T> for $layer<T> {
                fn name(&self) -> &str {
                    kernel(self).name()
                }
                fn in_shape(&self) -> FeatureShape {
                    kernel(self).in_shape()
                }
                fn out_shape(&self) -> FeatureShape {
                    kernel(self).out_shape()
                }
                fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
                    kernel(self).out_range(in_range)
                }
                fn out_ranges(&self, in_ranges: &ChannelRanges<T>) -> ChannelRanges<T> {
                    kernel(self).out_ranges(in_ranges)
                }
                fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
                    kernel(self).forward_scratch(batch, par)
                }
                fn forward(
                    &self,
                    input: MatRef<'_, T>,
                    output: MatMut<'_, T>,
                    par: Par,
                    stack: &mut MemStack,
                ) -> Result<(), InverseError> {
                    kernel(self).forward(input, output, par, stack)
                }
                fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
                    kernel(self).reverse_scratch(batch, par)
                }
                fn reverse(
                    &self,
                    pass: ReversePass<'_, T>,
                    par: Par,
                    stack: &mut MemStack,
                ) -> Result<ReverseReport, InverseError> {
                    kernel(self).reverse(pass, par, stack)
                }
                fn structure(&self) -> Structure {
                    kernel(self).structure()
                }
                fn differentiable(&self) -> Option<&dyn DifferentiableOperator<T>> {
                    if kernel(self).has_derivatives() { Some(self) } else { None }
                }
            }

            impl<T: Real> DifferentiableOperator<T> for $layer<T> {
                fn derivative_scratch(&self, batch: usize, par: Par) -> StackReq {
                    kernel(self).derivative_scratch(batch, par)
                }
                fn jvp(&self, pass: JvpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
                    kernel(self).jvp(pass, par, stack)
                }
                fn vjp(&self, pass: VjpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
                    kernel(self).vjp(pass, par, stack)
                }
                fn tape_lens(&self) -> &[usize] {
                    kernel(self).tape_lens()
                }
                fn forward_on_tape(
                    &self,
                    input: MatRef<'_, T>,
                    output: MatMut<'_, T>,
                    tape: TapeMut<'_, T>,
                    par: Par,
                    stack: &mut MemStack,
                ) -> Result<(), InverseError> {
                    kernel(self).forward_on_tape(input, output, tape, par, stack)
                }
                fn jvp_on_tape(
                    &self,
                    pass: JvpPass<'_, T>,
                    tape: Tape<'_, T>,
                    par: Par,
                    stack: &mut MemStack,
                ) -> Result<(), InverseError> {
                    kernel(self).jvp_on_tape(pass, tape, par, stack)
                }
                fn vjp_on_tape(
                    &self,
                    pass: VjpPass<'_, T>,
                    tape: Tape<'_, T>,
                    par: Par,
                    stack: &mut MemStack,
                ) -> Result<(), InverseError> {
                    kernel(self).vjp_on_tape(pass, tape, par, stack)
                }
            }
        };
    };
}
pub(super) use operator_once;

/// Makes a layer that wraps another kernel in its field 0 behave as that.
macro_rules! delegate_kernel {
    ($layer:ident) => {
        const _: () = {
            use faer::dyn_stack::{MemStack, StackReq};
            use faer::{MatMut, MatRef, Par};
            use fbp_linalg::{FeatureShape, Real};

            use crate::layers::kernel::LayerKernel;
            use crate::tape::{Tape, TapeMut};
            use crate::{
                ChannelRanges, Interval, InverseError, JvpPass, ReversePass, ReverseReport, Structure, VjpPass,
            };

            impl<T: Real> LayerKernel<T> for $layer<T> {
                fn name(&self) -> &str {
                    LayerKernel::name(&self.0)
                }
                fn in_shape(&self) -> FeatureShape {
                    LayerKernel::in_shape(&self.0)
                }
                fn out_shape(&self) -> FeatureShape {
                    LayerKernel::out_shape(&self.0)
                }
                fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
                    LayerKernel::out_range(&self.0, in_range)
                }
                fn out_ranges(&self, in_ranges: &ChannelRanges<T>) -> ChannelRanges<T> {
                    LayerKernel::out_ranges(&self.0, in_ranges)
                }
                fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
                    LayerKernel::forward_scratch(&self.0, batch, par)
                }
                fn forward(
                    &self,
                    input: MatRef<'_, T>,
                    output: MatMut<'_, T>,
                    par: Par,
                    stack: &mut MemStack,
                ) -> Result<(), InverseError> {
                    LayerKernel::forward(&self.0, input, output, par, stack)
                }
                fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
                    LayerKernel::reverse_scratch(&self.0, batch, par)
                }
                fn reverse(
                    &self,
                    pass: ReversePass<'_, T>,
                    par: Par,
                    stack: &mut MemStack,
                ) -> Result<ReverseReport, InverseError> {
                    LayerKernel::reverse(&self.0, pass, par, stack)
                }
                fn structure(&self) -> Structure {
                    LayerKernel::structure(&self.0)
                }
                fn derivative_scratch(&self, batch: usize, par: Par) -> StackReq {
                    LayerKernel::derivative_scratch(&self.0, batch, par)
                }
                fn jvp(&self, pass: JvpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
                    LayerKernel::jvp(&self.0, pass, par, stack)
                }
                fn vjp(&self, pass: VjpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
                    LayerKernel::vjp(&self.0, pass, par, stack)
                }
                fn tape_lens(&self) -> &[usize] {
                    LayerKernel::tape_lens(&self.0)
                }
                fn forward_on_tape(
                    &self,
                    input: MatRef<'_, T>,
                    output: MatMut<'_, T>,
                    tape: TapeMut<'_, T>,
                    par: Par,
                    stack: &mut MemStack,
                ) -> Result<(), InverseError> {
                    LayerKernel::forward_on_tape(&self.0, input, output, tape, par, stack)
                }
                fn jvp_on_tape(
                    &self,
                    pass: JvpPass<'_, T>,
                    tape: Tape<'_, T>,
                    par: Par,
                    stack: &mut MemStack,
                ) -> Result<(), InverseError> {
                    LayerKernel::jvp_on_tape(&self.0, pass, tape, par, stack)
                }
                fn vjp_on_tape(
                    &self,
                    pass: VjpPass<'_, T>,
                    tape: Tape<'_, T>,
                    par: Par,
                    stack: &mut MemStack,
                ) -> Result<(), InverseError> {
                    LayerKernel::vjp_on_tape(&self.0, pass, tape, par, stack)
                }
            }
        };
    };
}
pub(super) use delegate_kernel;
