//! What a layer of this crate implements, and how it becomes a reverse operator whose code is compiled once.

use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real};

use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// The methods of [`ReverseOperator`](crate::ReverseOperator) and [`DifferentiableOperator`](crate::DifferentiableOperator)
/// in one trait, for layers that have them all.
pub(super) trait LayerKernel<T: Real> {
    fn name(&self) -> &str;
    fn in_shape(&self) -> FeatureShape;
    fn out_shape(&self) -> FeatureShape;
    fn out_range(&self, in_range: Interval<T>) -> Interval<T>;

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

    fn derivative_scratch(&self, _batch: usize, _par: Par) -> StackReq {
        StackReq::EMPTY
    }
    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError>;
    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError>;
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
            use crate::{
                DifferentiableOperator, Interval, InverseError, JvpPass, ReverseOperator, ReversePass, ReverseReport,
                VjpPass,
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
                fn differentiable(&self) -> Option<&dyn DifferentiableOperator<T>> {
                    Some(self)
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
            }
        };
    };
}
pub(super) use operator_once;
