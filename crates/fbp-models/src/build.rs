//! Layers with weights, from their plans.

use candle_core::{Tensor, Var};

use crate::layer::PlacedLayer;
use crate::layers::{self, LayerVars};
use crate::spec::{FeatureDims, LayerPlan, ParamPlan, join};
use crate::{ModelError, Sequence};

/// Where tensors of new layers come from: called with the path of each.
pub(crate) type Source<'a> = &'a mut dyn FnMut(&str, &ParamPlan) -> Result<Tensor, ModelError>;

/// Builds layers that run one after the other.
pub(crate) fn sequence(plans: &[LayerPlan], input: FeatureDims, source: Source<'_>) -> Result<Sequence, ModelError> {
    let mut placed = Vec::with_capacity(plans.len());
    for plan in plans {
        let mut vars = Vec::with_capacity(plan.params.len());
        for param in &plan.params {
            let tensor = source(&join(&plan.path, param.name), param)?;
            vars.push((param.name, Var::from_tensor(&tensor)?));
        }
        let mut branches = Vec::with_capacity(plan.branches.len());
        for branch in &plan.branches {
            branches.push(sequence(branch, plan.input, source)?);
        }
        let vars = LayerVars { layer: plan.path.clone(), vars };
        let layer = layers::build(plan, vars, branches)?;
        placed.push(PlacedLayer { path: plan.path.clone(), layer, output: plan.output });
    }
    Ok(Sequence::new(placed, input))
}
