use std::marker::PhantomData;

use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real};

use super::kernels::{Jacobian, Reverse, Softmax};
use crate::layers::columns::{MapPass, check_forward, check_jvp, check_vjp, map_columns, reverse_columns};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// Softmax over the channels, per pixel, and its reverse.
///
/// The wanted probabilities `p` sum to 1 and lie in the target box, or miss it by as little as possible; the input is
/// then `ln p` plus the constant that brings it nearest to the observed input. For point targets this is the nearest
/// input. For wider boxes `p` are the observed probabilities scaled and clipped to their intervals, which leaves the
/// inputs of free classes where they are up to the constant; the set of inputs is not convex there, and a nearer one
/// may exist. The result is a point.
///
/// # Tolerance
/// A target cannot ask for probabilities below a floor, `1e-6` by default, because their inputs are far away. What such
/// targets would have left to the other classes of their pixel may be missing there and still counts as attained;
/// targets above the floor are judged by [`fbp_linalg::attained`] as it stands.
///
/// # Shapes
/// `[C, H, W]` to the same; a vector is `[C, 1, 1]`.
///
/// # Source
/// Own derivation.
#[derive(Clone, Debug)]
pub struct SoftmaxReverse<T> {
    name: String,
    shape: FeatureShape,
    floor: f64,
    scalar: PhantomData<T>,
}

impl<T: Real> SoftmaxReverse<T> {
    /// Default of [`with_floor`](Self::with_floor).
    pub const DEFAULT_FLOOR: f64 = 1e-6;

    /// Softmax of features of the given shape.
    pub fn new(name: impl Into<String>, shape: FeatureShape) -> Self {
        Self { name: name.into(), shape, floor: Self::DEFAULT_FLOOR, scalar: PhantomData }
    }

    /// Sets the smallest probability that a target can ask for, in `[1e-30, 1/C)`.
    ///
    /// # Errors
    /// [`InverseError::Parameter`] outside that range.
    pub fn with_floor(mut self, floor: f64) -> Result<Self, InverseError> {
        if !(1e-30..1.0 / self.shape.channels as f64).contains(&floor) {
            return Err(InverseError::Parameter { name: "floor", value: floor, range: "[1e-30, 1/C)" });
        }
        self.floor = floor;
        Ok(self)
    }
}

operator_once!(SoftmaxReverse);

impl<T: Real> LayerKernel<T> for SoftmaxReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.shape
    }

    fn out_shape(&self) -> FeatureShape {
        self.shape
    }

    fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        // Largest and smallest where one input is at one end of the range and all others at the other.
        let (others, spread) = (self.shape.channels as f64 - 1.0, (in_range.upper - in_range.lower).to_f64());
        let share = |weight: f64| T::from_f64(1.0 / (1.0 + others * weight));
        if others == 0.0 {
            Interval::new(T::ONE, T::ONE)
        } else {
            Interval::new(share(spread.exp()), share((-spread).exp()))
        }
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        map_columns(&Softmax(self.shape), MapPass { first: input, second: input, out: output }, par);
        Ok(())
    }

    fn reverse(
        &self,
        pass: ReversePass<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        Ok(reverse_columns(&Reverse { shape: self.shape, floor: self.floor }, pass, par))
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let pass = MapPass { first: pass.at, second: pass.tangent_in, out: pass.tangent_out };
        map_columns(&Jacobian(Softmax(self.shape)), pass, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let pass = MapPass { first: pass.at, second: pass.cotangent_out, out: pass.cotangent_in };
        map_columns(&Jacobian(Softmax(self.shape)), pass, par);
        Ok(())
    }
}
