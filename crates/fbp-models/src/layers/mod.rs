//! The layers: one kind, one file.

mod activation;
mod attention;
mod batch_norm;
mod branches;
mod conv2d;
mod dropout;
mod flatten;
mod linear;
mod norm;
mod pool;
mod softmax;
mod tokens;
mod zero_pad;

use candle_core::Var;
use fbp_inverse::AvgDivisor;

use crate::ops::Window;
use crate::spec::{LayerPlan, LayerSpec, Merge, Padding};
use crate::{Layer, ModelError, Sequence};

/// The tensors of one layer, by their names within it.
pub(crate) struct LayerVars {
    pub(crate) layer: String,
    pub(crate) vars: Vec<(&'static str, Var)>,
}

impl LayerVars {
    /// Takes a tensor that the layer cannot do without.
    fn take(&mut self, name: &str) -> Result<Var, ModelError> {
        let layer = self.layer.clone();
        self.take_optional(name).ok_or_else(|| ModelError::MissingParameter { layer, parameter: name.to_owned() })
    }

    fn take_optional(&mut self, name: &str) -> Option<Var> {
        let position = self.vars.iter().position(|(other, _)| *other == name)?;
        Some(self.vars.swap_remove(position).1)
    }
}

/// Values of a bias; zeros if there is none.
fn bias_values(bias: Option<&Var>, len: usize) -> Result<Vec<f32>, ModelError> {
    Ok(match bias {
        Some(bias) => bias.to_vec1()?,
        None => vec![0.0; len],
    })
}

/// Builds a layer from its checked description, its tensors, and the layers within.
pub(crate) fn build(
    plan: &LayerPlan,
    mut vars: LayerVars,
    branches: Vec<Sequence>,
) -> Result<Box<dyn Layer>, ModelError> {
    Ok(match plan.spec {
        LayerSpec::Block { .. } | LayerSpec::Residual { .. } => {
            Box::new(branches::BranchesLayer::new(plan.spec.kind(), branches, Merge::Sum))
        }
        LayerSpec::Parallel { merge, .. } => Box::new(branches::BranchesLayer::new(plan.spec.kind(), branches, merge)),
        LayerSpec::Tokens {} => Box::new(tokens::TokensLayer::new(plan.input)),
        LayerSpec::ClassToken {} => Box::new(tokens::ClassTokenLayer::new(&mut vars)?),
        LayerSpec::PositionEmbedding {} => Box::new(tokens::PositionEmbeddingLayer::new(&mut vars)?),
        LayerSpec::SelectToken { index } => Box::new(tokens::SelectTokenLayer::new(index, plan.input)?),
        LayerSpec::MeanTokens { first } => Box::new(tokens::MeanTokensLayer::new(first, plan.input)?),
        LayerSpec::Attention { heads, .. } => Box::new(attention::AttentionLayer::new(heads, plan.input, &mut vars)?),
        LayerSpec::Dropout { p } => Box::new(dropout::DropoutLayer::new("dropout", p, false, &plan.path)),
        LayerSpec::DropPath { p } => Box::new(dropout::DropoutLayer::new("drop_path", p, true, &plan.path)),
        LayerSpec::ZeroPad2d { padding: Padding::Sides { top, bottom, left, right } } => {
            Box::new(zero_pad::ZeroPad2dLayer::new(fbp_inverse::Padding { top, bottom, left, right }))
        }
        LayerSpec::Conv2d { .. }
        | LayerSpec::ConvTranspose2d { .. }
        | LayerSpec::Conv1d { .. }
        | LayerSpec::ConvTranspose1d { .. } => Box::new(conv2d::ConvLayer::new(plan, &mut vars)?),
        LayerSpec::Linear { .. } => Box::new(linear::LinearLayer::new(&mut vars)?),
        LayerSpec::MaxPool2d { kernel, stride, padding, ceil } => {
            Box::new(pool::MaxPool2dLayer::new(Window { kernel, stride: stride.unwrap_or(kernel), padding, ceil }))
        }
        LayerSpec::AvgPool2d { kernel, stride, padding, ceil, count_include_pad, divisor } => {
            let window = Window { kernel, stride: stride.unwrap_or(kernel), padding, ceil };
            let counted = if count_include_pad { AvgDivisor::Window } else { AvgDivisor::Sites };
            Box::new(pool::AvgPool2dLayer::new(window, divisor.map_or(counted, AvgDivisor::Fixed)))
        }
        LayerSpec::AdaptiveAvgPool2d { size } => Box::new(pool::AdaptiveAvgPool2dLayer::new(size)),
        LayerSpec::GlobalAvgPool2d {} => Box::new(pool::GlobalAvgPool2dLayer),
        LayerSpec::BatchNorm { eps } => Box::new(batch_norm::BatchNormLayer::new(eps, &mut vars)?),
        LayerSpec::Flatten {} => Box::new(flatten::FlattenLayer),
        LayerSpec::Softmax {} => Box::new(softmax::SoftmaxLayer),
        ref spec => match (spec.activation(), spec.norm_sizes(plan.input)) {
            (Some(function), _) => Box::new(activation::ActivationLayer::new(spec.kind(), function)),
            (None, Ok(Some(sizes))) => Box::new(norm::NormLayer::new(plan, &sizes, &mut vars)?),
            _ => return Err(ModelError::MissingParameter { layer: vars.layer, parameter: spec.kind().to_owned() }),
        },
    })
}
