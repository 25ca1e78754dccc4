//! Convolutions and transposed convolutions, in one and two dimensions.

mod geometry;
mod large;
mod map;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::conv2d::Conv2dGeometry;
use fbp_linalg::{BOXED_LIMIT, FeatureShape, LinalgError, Real, expect_finite};

pub use geometry::{Conv1dParams, ConvTranspose2dParams};

use self::large::LargeReverse;
use self::map::{ConvMap, MapBatch};
use super::affine::AffineReverse;
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass, expect_batch};

/// Reverse of a convolution with any stride, padding, dilation and groups, or of a transposed one.
///
/// Within a target box and an input range it solves `min |x - x0|², lo <= K * x + b <= hi, x in R` exactly, with the
/// true zero padding:
///
/// | size | point targets, no range | boxes or a range |
/// |---|---|---|
/// | up to [`BOXED_LIMIT`] inputs and outputs | factors of the matrix, [`fbp_linalg::dense::AffinePlan`] | [`fbp_linalg::BoxedPlan`] |
/// | above | [`fbp_linalg::conv_solve::ConvSolvePlan`] | proximal method of multipliers with products alone |
///
/// Solvers are built when they are first needed. A layer in one dimension is one on images of height 1, see
/// [`Conv1dParams`]; a depthwise layer has as many groups as channels.
///
/// # Shapes
/// Weight `[out, in/groups, kh, kw]`, bias `[out]`; features `in·H·W × N` and `out·H'·W' × N`. For a transposed layer
/// the weight is that of the convolution that it transposes, `[in, out/groups, kh, kw]` in terms of the layer.
///
/// # Source
/// arXiv:2506.07188 (layer reversal as a linear system); boxes and ranges: own derivation, see
/// [`fbp_linalg::BoxedPlan`]. Without a matrix: Rockafellar, Math. Oper. Res. 1 (1976), with semismooth Newton steps by
/// conjugate gradients.
#[derive(Clone, Debug)]
pub struct Conv2dReverse<T: Real> {
    name: String,
    map: ConvMap<T>,
    bias: Vec<T>,
    plans: Plans<T>,
}

/// How the reverse is solved.
#[derive(Clone, Debug)]
enum Plans<T: Real> {
    /// Through the matrix, which is formed when it is first needed: most layers of most networks are only run forwards and
    /// differentiated, and a matrix may take a hundred megabytes.
    Dense(OnceLock<Result<Box<AffineReverse<T>>, LinalgError>>),
    Large(Box<LargeReverse<T>>),
}

impl<T: Real> Conv2dReverse<T> {
    /// A convolution.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if `weight` or `bias` has another length than the geometry needs,
    /// [`InverseError::Solve`] with [`LinalgError::NonFinite`](fbp_linalg::LinalgError::NonFinite) if a weight is not
    /// finite.
    pub fn new(name: &str, geometry: Conv2dGeometry, weight: &[T], bias: &[T]) -> Result<Self, InverseError> {
        Self::build(name, (geometry, false), (weight, bias), BOXED_LIMIT)
    }

    /// The transpose of a convolution, as a layer that takes what the convolution gives; `bias` has one value per input
    /// channel of the convolution. [`ConvTranspose2dParams`] finds the geometry.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn transposed(name: &str, geometry: Conv2dGeometry, weight: &[T], bias: &[T]) -> Result<Self, InverseError> {
        Self::build(name, (geometry, true), (weight, bias), BOXED_LIMIT)
    }

    /// Builds the layer with the largest number of inputs or outputs for which its matrix is formed.
    fn build(
        name: &str,
        (geometry, transposed): (Conv2dGeometry, bool),
        (weight, bias): (&[T], &[T]),
        limit: usize,
    ) -> Result<Self, InverseError> {
        let channels = if transposed { geometry.in_shape().channels } else { geometry.out_shape().channels };
        if bias.len() != channels || weight.len() != geometry.weight_len() {
            let (weights, biases) = (weight.len(), bias.len());
            let reason =
                format!("{weights} weights and {biases} biases, expected {} and {channels}", geometry.weight_len());
            return Err(InverseError::Layer { layer: name.to_owned(), reason });
        }
        let in_layer = || InverseError::in_layer(name);
        expect_finite("weight", MatRef::from_column_major_slice(weight, weight.len(), 1)).map_err(in_layer())?;
        expect_finite("bias", MatRef::from_column_major_slice(bias, bias.len(), 1)).map_err(in_layer())?;
        let map = ConvMap::new(geometry, weight, transposed).map_err(in_layer())?;
        let plans = if geometry.out_len().max(geometry.in_len()) > limit {
            Plans::Large(Box::new(LargeReverse::new()))
        } else {
            Plans::Dense(OnceLock::new())
        };
        Ok(Self { name: name.to_owned(), map, bias: bias.to_vec(), plans })
    }

    /// The layer as a matrix, with what solves for it.
    fn as_matrix(&self) -> Result<Box<AffineReverse<T>>, LinalgError> {
        let plane = self.map.out_shape().plane();
        let bias = self.bias.iter().flat_map(|b| std::iter::repeat_n(b.to_f64(), plane)).collect();
        Ok(Box::new(AffineReverse::new(self.map.dense()?).with_bias(bias)))
    }

    fn check_pair(
        &self,
        (below_name, below): (&'static str, MatRef<'_, T>),
        (above_name, above): (&'static str, MatRef<'_, T>),
    ) -> Result<(), InverseError> {
        let batch = below.ncols();
        expect_batch(&self.name, below_name, below, (self.in_shape().len(), batch))?;
        expect_batch(&self.name, above_name, above, (self.out_shape().len(), batch))
    }
}

operator_once!(Conv2dReverse);

impl<T: Real> LayerKernel<T> for Conv2dReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.map.in_shape()
    }

    fn out_shape(&self) -> FeatureShape {
        self.map.out_shape()
    }

    fn structure(&self) -> crate::Structure {
        crate::Structure::AFFINE
    }

    fn out_range(&self, _in_range: Interval<T>) -> Interval<T> {
        Interval::EVERYTHING
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.map.scratch(batch, par)
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.check_pair(("input", input), ("output", output.as_ref()))?;
        let applied = self.map.apply(MapBatch { input, output }, Some(&self.bias), par, stack);
        applied.map_err(InverseError::in_layer(&self.name))
    }

    fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        match &self.plans {
            Plans::Dense(_) => {
                let shape = (self.map.out_shape().len(), self.map.in_shape().len());
                AffineReverse::<T>::scratch_of(shape, batch, par)
            }
            Plans::Large(plans) => plans.reverse_scratch(batch, par),
        }
    }

    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError> {
        match &self.plans {
            Plans::Dense(matrix) => {
                // Formed on one thread, for which others that need it wait: each of them would take the same memory.
                let plans = matrix.get_or_init(|| self.as_matrix()).as_ref().map_err(Clone::clone);
                plans.map_err(InverseError::in_layer(&self.name))?.reverse(self, pass, par, stack)
            }
            Plans::Large(plans) => {
                pass.check(self)?;
                plans.reverse(&self.map, &self.bias, pass, par, stack).map_err(InverseError::in_layer(&self.name))
            }
        }
    }

    fn derivative_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.map.scratch(batch, par)
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        expect_batch(&self.name, "at", pass.at, (self.in_shape().len(), pass.tangent_in.ncols()))?;
        self.check_pair(("tangent_in", pass.tangent_in), ("tangent_out", pass.tangent_out.as_ref()))?;
        let batch = MapBatch { input: pass.tangent_in, output: pass.tangent_out };
        self.map.apply(batch, None, par, stack).map_err(InverseError::in_layer(&self.name))
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        expect_batch(&self.name, "at", pass.at, (self.in_shape().len(), pass.cotangent_out.ncols()))?;
        self.check_pair(("cotangent_in", pass.cotangent_in.as_ref()), ("cotangent_out", pass.cotangent_out))?;
        let batch = MapBatch { input: pass.cotangent_out, output: pass.cotangent_in };
        self.map.apply_transposed(batch, par, stack).map_err(InverseError::in_layer(&self.name))
    }
}
