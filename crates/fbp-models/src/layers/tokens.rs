//! Layers between images, tokens and flat features.

use candle_core::{Tensor, Var};
use fbp_inverse::{ClassToken, ImageToTokens, MeanTokens, PositionEmbedding, ReverseOperator, SelectToken};
use fbp_linalg::FeatureShape;

use super::LayerVars;
use crate::{Layer, LayerPass, ModelError};

/// `[N, C, H, W]` to `[N, H·W, C]`.
#[derive(Debug)]
pub(crate) struct TokensLayer;

impl Layer for TokensLayer {
    fn kind(&self) -> &'static str {
        "tokens"
    }

    fn forward(&self, x: &Tensor, _: LayerPass<'_>) -> Result<Tensor, ModelError> {
        Ok(x.flatten_from(2)?.transpose(1, 2)?.contiguous()?)
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

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let (n, _, width) = x.dims3()?;
        let token = pass.tensor(&self.token).broadcast_as((n, 1, width))?.contiguous()?;
        Ok(Tensor::cat(&[&token, x], 1)?)
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

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        Ok(x.broadcast_add(&pass.tensor(&self.embedding))?)
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
}

impl SelectTokenLayer {
    pub(super) fn new(index: usize) -> Self {
        Self { index }
    }
}

impl Layer for SelectTokenLayer {
    fn kind(&self) -> &'static str {
        "select_token"
    }

    fn forward(&self, x: &Tensor, _: LayerPass<'_>) -> Result<Tensor, ModelError> {
        Ok(x.narrow(1, self.index, 1)?.squeeze(1)?.contiguous()?)
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
}

impl MeanTokensLayer {
    pub(super) fn new(first: usize) -> Self {
        Self { first }
    }
}

impl Layer for MeanTokensLayer {
    fn kind(&self) -> &'static str {
        "mean_tokens"
    }

    fn forward(&self, x: &Tensor, _: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let count = x.dim(1)?.saturating_sub(self.first);
        Ok(x.narrow(1, self.first, count)?.contiguous()?.mean(1)?)
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(MeanTokens::new(name, (in_shape.channels, in_shape.width), self.first)?))
    }
}
