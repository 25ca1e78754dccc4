use serde::{Deserialize, Serialize};

use super::plan::{LayerPlan, NetworkPlan, ParamInit};

/// How fresh weights of linear and convolutional layers are drawn.
///
/// # Source
/// He, Zhang, Ren & Sun, "Delving deep into rectifiers", ICCV 2015, eq. 10.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightInit {
    /// As PyTorch's layers do by themselves: weights and biases uniform in `±1/√fan_in`. Every layer makes features smaller.
    #[default]
    Default,
    /// Weights uniform in `±√(6/fan_in)`, biases 0: features stay as large as they are through layers with a ReLU. For deep
    /// networks without normalisation, which otherwise give the same output for every image.
    He,
}

impl WeightInit {
    /// Whether it is what descriptions need not say.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::Default
    }

    /// Rewrites how the tensors of a plan start.
    pub(super) fn apply(self, plan: &mut NetworkPlan) {
        if self == Self::He {
            plan.stages.iter_mut().flat_map(|stage| &mut stage.layers).for_each(he);
        }
    }
}

fn he(layer: &mut LayerPlan) {
    for param in &mut layer.params {
        if let ParamInit::Uniform { fan_in } = param.init {
            // Biases have one dimension.
            param.init = if param.dims.len() > 1 { ParamInit::HeUniform { fan_in } } else { ParamInit::Constant(0.0) };
        }
    }
    layer.branches.iter_mut().flatten().for_each(he);
}
