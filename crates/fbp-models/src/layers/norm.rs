use candle_core::{Tensor, Var};
use fbp_inverse::{NormParameters, NormReverse, ReverseOperator};
use fbp_linalg::FeatureShape;

use super::{LayerVars, bias_values};
use crate::ops::{self, NormGroups};
use crate::spec::{LayerPlan, NormSizes};
use crate::{Layer, LayerPass, ModelError};

/// Normalisation of every sample by its own statistics: layer, group, instance and RMS normalisation.
#[derive(Debug)]
pub(crate) struct NormLayer {
    kind: &'static str,
    groups: NormGroups,
    weight: Var,
    bias: Option<Var>,
}

impl NormLayer {
    pub(super) fn new(plan: &LayerPlan, sizes: &NormSizes, vars: &mut LayerVars) -> Result<Self, ModelError> {
        let &NormSizes { len, repeat, centred, eps, .. } = sizes;
        let groups = NormGroups { len, repeat, centred, eps };
        let bias = if centred { Some(vars.take("bias")?) } else { None };
        Ok(Self { kind: plan.spec.kind(), groups, weight: vars.take("weight")?, bias })
    }
}

impl Layer for NormLayer {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let weight = pass.tensor(&self.weight);
        let bias = match &self.bias {
            Some(bias) => pass.tensor(bias),
            None => self.weight.as_detached_tensor().zeros_like()?,
        };
        pass.run(ops::feature_norm_call(&pass.contiguous(x)?, &weight, &bias, self.groups))
    }

    fn parameters(&self) -> Vec<(&'static str, &Var)> {
        [("weight", &self.weight)].into_iter().chain(self.bias.iter().map(|bias| ("bias", bias))).collect()
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        let weight = self.weight.flatten_all()?.to_vec1::<f32>()?;
        let bias = match &self.bias {
            Some(bias) => bias.flatten_all()?.to_vec1::<f32>()?,
            None => bias_values(None, weight.len())?,
        };
        let NormGroups { len, repeat, centred, eps } = self.groups;
        let parameters = NormParameters { weight: &weight, bias: &bias, epsilon: eps };
        // Parameters per entry of a group, or per channel.
        let operator = match (centred, weight.len() == len && repeat == 1) {
            (false, _) => NormReverse::rms_norm(name, in_shape, len, parameters)?,
            (true, true) => NormReverse::layer_norm(name, in_shape, len, parameters)?,
            (true, false) => NormReverse::group_norm(name, in_shape, in_shape.len() / len, parameters)?,
        };
        Ok(Box::new(operator))
    }
}
