mod sequence;

use std::fmt;
use std::sync::atomic::AtomicU64;

use candle_core::{Tensor, Var};
use fbp_inverse::ReverseOperator;
use fbp_linalg::FeatureShape;

use crate::ModelError;
use crate::ops::{Clip, Window};

pub use sequence::Sequence;
pub(crate) use sequence::{PlacedLayer, Route};

/// How a layer is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPass {
    /// Whether gradients are wanted for the layer's own parameters. Gradients always pass through to the input.
    pub trainable: bool,
    /// Whether the layer is trained: batch normalisation uses, and averages, the statistics of the batch instead of the running
    /// ones, and dropout drops.
    pub training: bool,
}

impl LayerPass {
    /// Constant parameters and running statistics: the layer as a fixed function.
    pub const FIXED: Self = Self { trainable: false, training: false };

    /// A parameter as this pass sees it: with its gradient, or as a constant that shares its memory.
    pub(crate) fn tensor(self, var: &Var) -> Tensor {
        if self.trainable { var.as_tensor().clone() } else { var.as_detached_tensor() }
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
    fn forward(&self, x: &Tensor, pass: LayerPass) -> Result<Tensor, ModelError>;

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
    fn forward_pooled(&self, x: &Tensor, window: Window, pass: LayerPass) -> Result<Option<Tensor>, ModelError> {
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
    fn forward_clipped(&self, x: &Tensor, clip: Clip, pass: LayerPass) -> Result<Option<Tensor>, ModelError> {
        let _ = (x, clip, pass);
        Ok(None)
    }

    /// The layer's inverse for its present parameters, under the given name.
    ///
    /// # Errors
    /// [`ModelError::Reverse`] if the layer cannot be reversed in this geometry.
    fn reverse_operator(&self, name: &str, in_shape: FeatureShape)
    -> Result<Box<dyn ReverseOperator<f32>>, ModelError>;
}
