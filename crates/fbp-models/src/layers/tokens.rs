//! Layers between images, tokens and flat features.

use candle_core::{Tensor, Var};
use fbp_inverse::{ClassToken, ImageToTokens, MeanTokens, PositionEmbedding, ReverseOperator, SelectToken};
use fbp_linalg::FeatureShape;

use super::LayerVars;
use crate::ops::{Clip, Operation, add_clipped_call, concat_call, repeat_call};
use crate::spec::FeatureDims;
use crate::{Layer, LayerPass, ModelError};

/// `[N, C, H, W]` to `[N, H·W, C]`.
#[derive(Debug)]
pub(crate) struct TokensLayer {
    operation: Operation,
}

impl TokensLayer {
    pub(super) fn new(input: FeatureDims) -> Self {
        let shape = input.shape;
        let output = vec![shape.plane(), shape.channels];
        Self { operation: Operation::new("tokens", ImageToTokens::new("tokens", shape), output) }
    }
}

impl Layer for TokensLayer {
    fn kind(&self) -> &'static str {
        "tokens"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        pass.run(self.operation.call(&pass.contiguous(x)?))
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(ImageToTokens::new(name, in_shape)))
    }
}

/// A learned token before all others.
#[derive(Debug)]
pub(crate) struct ClassTokenLayer {
    token: Var,
}

impl ClassTokenLayer {
    pub(super) fn new(vars: &mut LayerVars) -> Result<Self, ModelError> {
        Ok(Self { token: vars.take("")? })
    }
}

impl Layer for ClassTokenLayer {
    fn kind(&self) -> &'static str {
        "class_token"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let token = pass.run(repeat_call(&pass.tensor(&self.token), x.dim(0)?))?;
        pass.run(concat_call(&token, &pass.contiguous(x)?))
    }

    fn parameters(&self) -> Vec<(&'static str, &Var)> {
        vec![("", &self.token)]
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        let token = self.token.flatten_all()?.to_vec1::<f32>()?;
        Ok(Box::new(ClassToken::new(name, in_shape.channels, &token)?))
    }
}

/// A learned vector added to every token.
#[derive(Debug)]
pub(crate) struct PositionEmbeddingLayer {
    embedding: Var,
}

impl PositionEmbeddingLayer {
    pub(super) fn new(vars: &mut LayerVars) -> Result<Self, ModelError> {
        Ok(Self { embedding: vars.take("")? })
    }
}

impl Layer for PositionEmbeddingLayer {
    fn kind(&self) -> &'static str {
        "position_embedding"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let embedding = pass.run(repeat_call(&pass.tensor(&self.embedding), x.dim(0)?))?;
        pass.run(add_clipped_call(&pass.contiguous(x)?, &embedding, Clip::NONE))
    }

    fn parameters(&self) -> Vec<(&'static str, &Var)> {
        vec![("", &self.embedding)]
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        let embedding = self.embedding.flatten_all()?.to_vec1::<f32>()?;
        Ok(Box::new(PositionEmbedding::new(name, (in_shape.channels, in_shape.width), &embedding)?))
    }
}

/// One of the tokens.
#[derive(Debug)]
pub(crate) struct SelectTokenLayer {
    index: usize,
    operation: Operation,
}

impl SelectTokenLayer {
    pub(super) fn new(index: usize, input: FeatureDims) -> Result<Self, ModelError> {
        let (tokens, width) = (input.shape.channels, input.shape.width);
        let select = SelectToken::new("select_token", (tokens, width), index)?;
        Ok(Self { index, operation: Operation::new("select_token", select, vec![width]) })
    }
}

impl Layer for SelectTokenLayer {
    fn kind(&self) -> &'static str {
        "select_token"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        pass.run(self.operation.call(&pass.contiguous(x)?))
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(SelectToken::new(name, (in_shape.channels, in_shape.width), self.index)?))
    }
}

/// The mean of the tokens.
#[derive(Debug)]
pub(crate) struct MeanTokensLayer {
    first: usize,
    operation: Operation,
}

impl MeanTokensLayer {
    pub(super) fn new(first: usize, input: FeatureDims) -> Result<Self, ModelError> {
        let (tokens, width) = (input.shape.channels, input.shape.width);
        let mean = MeanTokens::new("mean_tokens", (tokens, width), first)?;
        Ok(Self { first, operation: Operation::new("mean_tokens", mean, vec![width]) })
    }
}

impl Layer for MeanTokensLayer {
    fn kind(&self) -> &'static str {
        "mean_tokens"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        pass.run(self.operation.call(&pass.contiguous(x)?))
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(MeanTokens::new(name, (in_shape.channels, in_shape.width), self.first)?))
    }
}
