//! Descriptions with fewer channels.

use std::collections::HashMap;

use super::{Branch, LayerPlan, LayerSpec, NamedLayer, NetworkSpec};
use crate::ModelError;

impl NetworkSpec {
    /// The same network with other numbers of output channels, or of outputs, for some convolutions and linear layers, by their
    /// paths; those of depthwise convolutions are their groups as well.
    ///
    /// A layer that is short for others is written out if one of them changes; the paths of all parameters stay as they are.
    ///
    /// # Errors
    /// [`ModelError::UnknownLayer`] for a path that is that of no such layer; as [`plan`](Self::plan), if the layers that follow
    /// do not fit.
    ///
    /// # Example
    /// ```
    /// use fbp_models::zoo;
    ///
    /// let spec = zoo::spec("resnet20")?;
    /// let slim = spec.with_outputs(&[("layer1.0.conv1".to_owned(), 10)].into())?;
    /// let saved = 6 * (9 * 16 + 9 * 16 + 2); // of conv1, of conv2 and of the norm between them
    /// assert_eq!(slim.plan()?.parameter_count(), spec.plan()?.parameter_count() - saved);
    /// # Ok::<(), fbp_models::ModelError>(())
    /// ```
    pub fn with_outputs(&self, outputs: &HashMap<String, usize>) -> Result<Self, ModelError> {
        let mut spec = self.clone();
        let mut changed = Vec::new();
        let plan = self.plan()?;
        for (stage, plan) in spec.stages.iter_mut().zip(&plan.stages) {
            set_all(&mut stage.layers, &plan.layers, outputs, &mut changed);
        }
        if let Some(path) = outputs.keys().find(|path| !changed.contains(path)) {
            let known = plan.parameters().filter_map(|(path, _)| Some(path.strip_suffix(".weight")?.to_owned()));
            return Err(ModelError::UnknownLayer { path: path.clone(), known: known.collect() });
        }
        spec.plan()?;
        Ok(spec)
    }
}

/// Whether one of the paths lies within the layers.
fn touches(layer: &LayerPlan, outputs: &HashMap<String, usize>) -> bool {
    outputs.contains_key(&layer.path) || layer.branches.iter().flatten().any(|inner| touches(inner, outputs))
}

fn set_all<'o>(
    layers: &mut [NamedLayer],
    plans: &[LayerPlan],
    outputs: &'o HashMap<String, usize>,
    changed: &mut Vec<&'o String>,
) {
    for (named, plan) in layers.iter_mut().zip(plans).filter(|(_, plan)| touches(plan, outputs)) {
        // What it is short for, if it is.
        let mut layer = plan.spec.clone();
        match &mut layer {
            LayerSpec::Block { layers } => set_all(layers, &plan.branches[0], outputs, changed),
            LayerSpec::Residual { layers, skip } => {
                set_all(layers, &plan.branches[0], outputs, changed);
                if let Some(Branch { layers, .. }) = skip {
                    set_all(layers, &plan.branches[1], outputs, changed);
                }
            }
            LayerSpec::Parallel { branches, .. } => {
                for (branch, plans) in branches.iter_mut().zip(&plan.branches) {
                    set_all(&mut branch.layers, plans, outputs, changed);
                }
            }
            other => set(other, plan, outputs, changed),
        }
        named.layer = layer;
    }
}

fn set<'o>(
    layer: &mut LayerSpec,
    plan: &LayerPlan,
    outputs: &'o HashMap<String, usize>,
    changed: &mut Vec<&'o String>,
) {
    let Some((path, &count)) = outputs.get_key_value(&plan.path) else { return };
    match layer {
        LayerSpec::Linear { out_features, .. } => *out_features = count,
        LayerSpec::Conv2d { out_channels, groups, .. } => {
            // A depthwise convolution has a group for every channel.
            if *groups > 1 && *groups == plan.input.shape.channels {
                *groups = count;
            }
            *out_channels = count;
        }
        _ => return,
    }
    changed.push(path);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    #[test]
    fn depthwise_convolutions_follow_and_shorthand_is_kept_elsewhere() {
        let spec = zoo::spec("mobilenet-v2").unwrap();
        let wanted =
            HashMap::from([("features.2.conv.0.0", 90), ("features.2.conv.1.0", 90)].map(|(p, n)| (p.to_owned(), n)));
        let slim = spec.with_outputs(&wanted).unwrap();
        let plan = slim.plan().unwrap();
        let dims = |path: &str| plan.parameters().find(|(name, _)| name == path).unwrap().1.dims.clone();
        assert_eq!(dims("features.2.conv.0.0.weight"), [90, 16, 1, 1]);
        assert_eq!(dims("features.2.conv.1.0.weight"), [90, 1, 3, 3]);
        assert_eq!(dims("features.2.conv.2.weight"), [24, 90, 1, 1]);
        assert_eq!(NetworkSpec::from_json(&slim.to_json().unwrap()).unwrap(), slim);
        assert!(slim.to_json().unwrap().contains("inverted_residual"));
        assert_eq!(spec.with_outputs(&HashMap::new()).unwrap(), spec);
    }

    #[test]
    fn paths_without_channels_are_named() {
        let spec = zoo::spec("resnet20").unwrap();
        let error = spec.with_outputs(&[("layer1.0.bn1".to_owned(), 3)].into()).unwrap_err();
        assert!(matches!(error, ModelError::UnknownLayer { path, .. } if path == "layer1.0.bn1"));
        // The other summand keeps its channels.
        assert!(spec.with_outputs(&[("layer1.0.conv2".to_owned(), 3)].into()).is_err());
    }
}
