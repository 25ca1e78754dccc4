mod sequence;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use candle_core::shape::ShapeWithOneHole;
use candle_core::{Tensor, Var};
use fbp_inverse::ReverseOperator;
use fbp_linalg::FeatureShape;

use crate::ops::{Call, Clip, FusedTail, Window};
use crate::tape::Tape;
use crate::{BatchGroup, ModelError};

pub use sequence::Sequence;
pub(crate) use sequence::{PlacedLayer, Route};

/// How a layer is run.
#[derive(Clone, Copy, Debug)]
pub struct LayerPass<'t> {
    /// Whether gradients are wanted for the layer's own parameters. Gradients always pass through to the input.
    pub trainable: bool,
    /// Whether the layer is trained: batch normalisation uses, and averages, the statistics of the batch instead of the running
    /// ones, and dropout drops.
    pub training: bool,
    /// Where the operations are remembered, if this crate and not candle runs back through them.
    pub(crate) tape: Option<&'t Tape>,
    /// With whom it is trained, if batches are sliced.
    pub(crate) group: Option<&'t Arc<dyn BatchGroup>>,
    /// Whether layers may run as one operation, see [`Network::set_fused`](crate::Network::set_fused).
    pub(crate) fused: bool,
}

impl LayerPass<'_> {
    /// Constant parameters and running statistics: the layer as a fixed function.
    pub const FIXED: LayerPass<'static> = LayerPass::new(false, false);

    /// A pass whose gradients candle computes.
    pub const fn new(trainable: bool, training: bool) -> Self {
        Self { trainable, training, tape: None, group: None, fused: true }
    }

    /// The same pass, in which layers may run as one or may not.
    pub(crate) const fn fused(self, fused: bool) -> Self {
        Self { fused, ..self }
    }

    /// Whether nothing of the layer is remembered or trained, so that constants may be folded into its parameters.
    pub(crate) fn folds(self) -> bool {
        self.fused && !self.trainable && !self.training && self.tape.is_none()
    }

    /// A parameter as this pass sees it: with its gradient, or as a constant that shares its memory.
    pub(crate) fn tensor(self, var: &Var) -> Tensor {
        if self.trainable { var.as_tensor().clone() } else { var.as_detached_tensor() }
    }

    /// Runs an operation.
    pub(crate) fn run(self, call: Call) -> Result<Tensor, ModelError> {
        Ok(self.tape.map_or_else(|| call.run(), |tape| tape.run(call.clone()))?)
    }

    /// The values of a tensor in another shape.
    pub(crate) fn reshape(self, x: &Tensor, shape: impl ShapeWithOneHole) -> Result<Tensor, ModelError> {
        Ok(match self.tape {
            Some(tape) => tape.reshape(x, shape)?,
            None => x.reshape(shape)?,
        })
    }

    /// A tensor, laid out row by row.
    pub(crate) fn contiguous(self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.tape.map_or_else(|| x.contiguous(), |tape| tape.contiguous(x))?)
    }

    /// Runs what is made of candle's operations.
    pub(crate) fn compose(
        self,
        inputs: &[Tensor],
        f: impl FnOnce(&[Tensor], Self) -> Result<Tensor, ModelError>,
    ) -> Result<Tensor, ModelError> {
        let without = Self { tape: None, ..self };
        match self.tape {
            Some(tape) => tape.compose(inputs, |inputs| f(inputs, without)),
            None => f(inputs, without),
        }
    }
}

/// One layer of a network: a function on batches, its parameters, and its inverse.
pub trait Layer: fmt::Debug + Send + Sync {
    /// Name of the kind of layer, as in descriptions.
    fn kind(&self) -> &'static str;

    /// Runs the layer on a batch `[N, ..]`.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the batch does not have the shape of the layer's input.
    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError>;

    /// Whether [`forward`](Self::forward) leaves what it does on the tape of such a pass; otherwise the layer is differentiated by
    /// candle.
    fn keeps_tape(&self, pass: LayerPass<'_>) -> bool {
        let _ = pass;
        false
    }

    /// Parameters that gradients train, with their names within the layer.
    fn parameters(&self) -> Vec<(&'static str, &Var)> {
        Vec::new()
    }

    /// Other tensors that belong to a checkpoint: running statistics.
    fn buffers(&self) -> Vec<(&'static str, &Var)> {
        Vec::new()
    }

    /// How often the layer has drawn random numbers; none in a layer that does not.
    fn draws(&self) -> Option<&AtomicU64> {
        None
    }

    /// Layers within, which all get the layer's input; none in a plain layer.
    fn branches(&self) -> &[Sequence] {
        &[]
    }

    /// Layers that run one after the other within it and are none of its description, with what the names of their parameters
    /// start with: those of attention. None in all other layers.
    fn parts(&self) -> Vec<(&'static str, &dyn Layer)> {
        Vec::new()
    }

    /// What the layer makes of the outputs of its branches.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if they do not fit.
    fn merge(&self, outputs: &[Tensor]) -> Result<Tensor, ModelError> {
        let _ = outputs;
        Err(candle_core::Error::Msg(format!("{} has no branches", self.kind())).into())
    }

    /// Whether the layer applies one nondecreasing function to every entry.
    fn is_nondecreasing_elementwise(&self) -> bool {
        false
    }

    /// Whether the layer can change places with such a function: true for max-pooling.
    fn commutes_with_nondecreasing(&self) -> bool {
        self.max_pool_window().is_some()
    }

    /// The window, if the layer is a max-pooling.
    fn max_pool_window(&self) -> Option<Window> {
        None
    }

    /// Runs the layer and then max-pooling as one operation; `None` if there is no such operation.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_pooled(&self, x: &Tensor, window: Window, pass: LayerPass<'_>) -> Result<Option<Tensor>, ModelError> {
        let _ = (x, window, pass);
        Ok(None)
    }

    /// Where the layer cuts off what is too small or too large, if it does nothing else: ReLU, ReLU6, hard tanh.
    fn clip(&self) -> Option<Clip> {
        None
    }

    /// Runs the layer and then such an activation as one operation; `None` if there is no such operation.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_clipped(&self, x: &Tensor, clip: Clip, pass: LayerPass<'_>) -> Result<Option<Tensor>, ModelError> {
        let _ = (x, clip, pass);
        Ok(None)
    }

    /// Scale and shift of every channel, if with constant parameters and running statistics the layer is nothing else: batch
    /// normalisation.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if parameters do not fit.
    fn channel_affine(&self) -> Result<Option<[Tensor; 2]>, ModelError> {
        Ok(None)
    }

    /// Whether [`forward_fused`](Self::forward_fused) runs the layer with what follows it: a convolution.
    fn takes_tail(&self) -> bool {
        false
    }

    /// Runs the layer, with constant parameters, and then what follows it as one operation; `None` if there is no such operation.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_fused(&self, x: &Tensor, tail: &FusedTail<'_>) -> Result<Option<Tensor>, ModelError> {
        let _ = (x, tail);
        Ok(None)
    }

    /// The layer's inverse for its present parameters, under the given name.
    ///
    /// # Errors
    /// [`ModelError::Reverse`] if the layer cannot be reversed in this geometry.
    fn reverse_operator(&self, name: &str, in_shape: FeatureShape)
    -> Result<Box<dyn ReverseOperator<f32>>, ModelError>;
}
