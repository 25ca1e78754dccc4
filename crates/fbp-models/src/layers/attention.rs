use candle_core::{Tensor, Var};
use fbp_inverse::{Attention, Block, ReverseOperator};
use fbp_linalg::FeatureShape;

use super::LayerVars;
use super::linear::LinearLayer;
use crate::ops::Operation;
use crate::spec::FeatureDims;
use crate::{Layer, LayerPass, ModelError};

/// Multi-head self-attention with its two linear layers.
#[derive(Debug)]
pub(crate) struct AttentionLayer {
    heads: usize,
    qkv: LinearLayer,
    core: Operation,
    proj: LinearLayer,
}

impl AttentionLayer {
    pub(super) fn new(heads: usize, input: FeatureDims, vars: &mut LayerVars) -> Result<Self, ModelError> {
        let (tokens, width) = (input.shape.channels, input.shape.width);
        let core = Attention::new("attention", tokens, heads, width / heads)?;
        Ok(Self {
            heads,
            qkv: LinearLayer::of_part("qkv.weight", "qkv.bias", vars)?,
            core: Operation::new("attention", core, vec![tokens, width]),
            proj: LinearLayer::of_part("proj.weight", "proj.bias", vars)?,
        })
    }
}

impl Layer for AttentionLayer {
    fn kind(&self) -> &'static str {
        "attention"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let qkv = self.qkv.forward(x, pass)?;
        let mixed = pass.run(self.core.call(&qkv))?;
        self.proj.forward(&mixed, pass)
    }

    fn parameters(&self) -> Vec<(&'static str, &Var)> {
        let parts = [("qkv.weight", "qkv.bias", &self.qkv), ("proj.weight", "proj.bias", &self.proj)];
        let named = parts.into_iter().flat_map(|(weight, bias, layer)| {
            layer.parameters().into_iter().map(move |(name, var)| (if name == "weight" { weight } else { bias }, var))
        });
        named.collect()
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        let (tokens, width) = (in_shape.channels, in_shape.width);
        let core = Attention::<f32>::new(format!("{name}.heads"), tokens, self.heads, width / self.heads)?;
        let operators = vec![
            self.qkv.reverse_operator(&format!("{name}.qkv"), in_shape)?,
            Box::new(core),
            self.proj.reverse_operator(&format!("{name}.proj"), in_shape)?,
        ];
        Ok(Box::new(Block::new(name, in_shape, operators)?))
    }
}
