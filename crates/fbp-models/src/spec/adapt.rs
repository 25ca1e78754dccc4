//! Descriptions made of others, and compared with them.

use super::{LayerPlan, LayerSpec, NamedLayer, NetworkSpec, StageSpec};
use crate::ModelError;

impl NetworkSpec {
    /// The network for inputs of another shape and another number of classes: layers that depend on the input follow it, and
    /// the last layer with weights gets one output per class.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), if the layers do not fit the input.
    pub fn adapted(&self, input: [usize; 3], classes: usize) -> Result<Self, ModelError> {
        let mut spec = Self { input, classes, ..self.clone() };
        let stages = spec.stages.iter_mut().rev();
        let _ = stages.map(|stage| set_outputs(&mut stage.layers, classes)).find(|&found| found);
        spec.plan()?;
        Ok(spec)
    }

    /// The same network with a stage for every layer that has layers within: what targets of every block need. The paths of the
    /// parameters stay as they are.
    ///
    /// Plain layers belong to the stage of the one before them; those at the start of a stage to its first block.
    pub fn split_at_blocks(&self) -> Self {
        let stages = self.stages.iter().flat_map(split).collect();
        Self { stages, ..self.clone() }
    }

    /// Where this description first differs from another, in words; `None` if they describe the same computation.
    ///
    /// Names of networks do not count, and layers that are short for others are the same as those.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.input != other.input {
            return Some(format!("the inputs are {:?} and {:?}", self.input, other.input));
        }
        if self.classes != other.classes {
            return Some(format!("the numbers of classes are {} and {}", self.classes, other.classes));
        }
        let plans = (self.plan(), other.plan());
        for (index, (mine, theirs)) in self.stages.iter().zip(&other.stages).enumerate() {
            if mine.name != theirs.name {
                return Some(format!("stage {} is called {}", mine.name, theirs.name));
            }
            let difference = match &plans {
                (Ok(a), Ok(b)) => layers_differ(&a.stages[index].layers, &b.stages[index].layers),
                // Without a plan nobody knows what layers are short for.
                _ => (mine.layers != theirs.layers).then(|| "the layers differ".to_owned()),
            };
            if let Some(difference) = difference {
                return Some(format!("stage {}, {difference}", mine.name));
            }
            let (a, b) = (mine.layers.len(), theirs.layers.len());
            if a != b {
                return Some(format!("stage {} has {a} layers, not {b}", mine.name));
            }
        }
        let (a, b) = (self.stages.len(), other.stages.len());
        (a != b).then(|| format!("it has {a} stages, not {b}"))
    }
}

/// Gives the last layer with weights so many outputs; whether there is one.
fn set_outputs(layers: &mut [NamedLayer], outputs: usize) -> bool {
    layers.iter_mut().rev().any(|NamedLayer { layer, .. }| match layer {
        LayerSpec::Linear { out_features: own, .. }
        | LayerSpec::Conv2d { out_channels: own, .. }
        | LayerSpec::ConvTranspose2d { out_channels: own, .. }
        | LayerSpec::Conv1d { out_channels: own, .. }
        | LayerSpec::ConvTranspose1d { out_channels: own, .. } => {
            *own = outputs;
            true
        }
        LayerSpec::Block { layers } => set_outputs(layers, outputs),
        _ => false,
    })
}

/// One stage for every layer of a stage that has layers within.
fn split(stage: &StageSpec) -> Vec<StageSpec> {
    let key = stage.key.clone().unwrap_or_else(|| stage.name.clone());
    let mut parts: Vec<Vec<NamedLayer>> = vec![Vec::new()];
    for (position, own) in stage.layers.iter().enumerate() {
        let begun = parts.last().is_some_and(|part| part.iter().any(|own| is_composite(&own.layer)));
        if begun && is_composite(&own.layer) {
            parts.push(Vec::new());
        }
        let own = NamedLayer { name: Some(own.path_name(position)), layer: own.layer.clone() };
        if let Some(part) = parts.last_mut() {
            part.push(own);
        }
    }
    if parts.len() == 1 {
        return vec![stage.clone()];
    }
    let name = |index: usize| format!("{}-{index}", stage.name);
    let parts = parts.into_iter().enumerate();
    parts.map(|(index, layers)| StageSpec { name: name(index), key: Some(key.clone()), layers }).collect()
}

/// Whether a layer has layers within.
fn is_composite(layer: &LayerSpec) -> bool {
    matches!(
        layer,
        LayerSpec::Block { .. }
            | LayerSpec::Residual { .. }
            | LayerSpec::Parallel { .. }
            | LayerSpec::BasicBlock { .. }
            | LayerSpec::Bottleneck { .. }
            | LayerSpec::InvertedResidual { .. }
            | LayerSpec::Fire { .. }
            | LayerSpec::SqueezeExcite { .. }
            | LayerSpec::TransformerBlock { .. }
    )
}

/// The first difference between two lists of planned layers.
fn layers_differ(mine: &[LayerPlan], theirs: &[LayerPlan]) -> Option<String> {
    for (index, (a, b)) in mine.iter().zip(theirs).enumerate() {
        if a.path != b.path {
            return Some(format!("layer {index} is called {}, not {}", a.path, b.path));
        }
        let (own, other) = (without_inner(&a.spec), without_inner(&b.spec));
        if own != other {
            let json = |layer| serde_json::to_string(layer).unwrap_or_default();
            return Some(format!("layer {index} is {}, not {}", json(&own), json(&other)));
        }
        for (branch, (x, y)) in a.branches.iter().zip(&b.branches).enumerate() {
            let within = || format!("layer {index} ({}), branch {branch}", a.spec.kind());
            if let Some(difference) = layers_differ(x, y) {
                return Some(format!("{}, {difference}", within()));
            }
            if x.len() != y.len() {
                return Some(format!("{} has {} layers, not {}", within(), x.len(), y.len()));
            }
        }
        if a.branches.len() != b.branches.len() {
            return Some(format!("layer {index} has {} branches, not {}", a.branches.len(), b.branches.len()));
        }
    }
    None
}

/// A layer as its plan compares it: what is within has plans of its own.
fn without_inner(spec: &LayerSpec) -> LayerSpec {
    match spec {
        LayerSpec::Block { .. } => LayerSpec::Block { layers: Vec::new() },
        LayerSpec::Residual { .. } => LayerSpec::Residual { layers: Vec::new(), skip: None },
        LayerSpec::Parallel { merge, .. } => LayerSpec::Parallel { branches: Vec::new(), merge: *merge },
        other => other.clone(),
    }
}
