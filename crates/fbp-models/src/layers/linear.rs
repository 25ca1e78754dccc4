use candle_core::{Tensor, Var};
use faer::MatRef;
use fbp_inverse::{LinearReverse, PerToken, ReverseOperator};
use fbp_linalg::FeatureShape;

use super::{LayerVars, bias_values};
use crate::ops::{self, with_values};
use crate::{Layer, LayerPass, ModelError};

/// `y = Wx + b` on flat features, or on every token.
#[derive(Debug)]
pub(crate) struct LinearLayer {
    weight: Var,
    bias: Option<Var>,
}

impl LinearLayer {
    pub(super) fn new(vars: &mut LayerVars) -> Result<Self, ModelError> {
        Self::of_part("weight", "bias", vars)
    }

    /// A linear layer within another one, with names of its own.
    pub(super) fn of_part(weight: &str, bias: &str, vars: &mut LayerVars) -> Result<Self, ModelError> {
        Ok(Self { weight: vars.take(weight)?, bias: vars.take_optional(bias) })
    }
}

impl Layer for LinearLayer {
    fn kind(&self) -> &'static str {
        "linear"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let bias = self.bias.as_ref().map(|bias| pass.tensor(bias));
        let (x, weight) = (pass.contiguous(x)?, pass.tensor(&self.weight));
        let run = |x: &Tensor| pass.run(ops::linear_call(x, &weight, bias.as_ref()));
        let &[n, tokens, width] = x.dims() else { return run(&x) };
        let rows = pass.reshape(&x, (n * tokens, width))?;
        pass.reshape(&run(&rows)?, (n, tokens, ()))
    }

    fn parameters(&self) -> Vec<(&'static str, &Var)> {
        [("weight", &self.weight)].into_iter().chain(self.bias.iter().map(|bias| ("bias", bias))).collect()
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        let (rows, columns) = self.weight.dims2()?;
        let bias = bias_values(self.bias.as_ref(), rows)?;
        let operator = with_values("linear", &self.weight, |weight| {
            Ok(LinearReverse::new(name, MatRef::from_row_major_slice(weight, rows, columns), &bias))
        })?;
        let operator = Box::new(operator?);
        // A flat feature has one column per sample, tokens have one per token.
        if in_shape.len() == columns {
            Ok(operator)
        } else {
            Ok(Box::new(PerToken::new(name, in_shape.channels, operator)?))
        }
    }
}
