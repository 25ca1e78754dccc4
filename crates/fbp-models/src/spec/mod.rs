//! Networks as data: the one description used in TOML files, in checkpoints and in the zoo.

mod layer;
mod norm;
mod outline;
mod plan;
#[cfg(test)]
mod tests;

use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};

pub use crate::pair::Pair;
pub use fbp_inverse::Activation;
pub use layer::LayerSpec;
pub(crate) use norm::NormSizes;
pub(crate) use plan::param_name;
pub use plan::{FeatureDims, LayerPlan, NetworkPlan, ParamInit, ParamPlan, StagePlan};

use crate::ModelError;

/// Description of a feed-forward network: a chain of stages, each a chain of layers.
///
/// # Example
/// ```
/// use fbp_models::NetworkSpec;
///
/// let spec = NetworkSpec::from_toml(
///     r#"
///     name = "tiny"
///     input = [1, 8, 8]
///     classes = 10
///
///     [[stages]]
///     name = "conv1"
///     layers = [
///         { type = "conv2d", out_channels = 2, kernel = 3 },
///         { type = "relu" },
///         { type = "max_pool2d", kernel = 2 },
///     ]
///
///     [[stages]]
///     name = "out"
///     layers = [{ type = "flatten" }, { type = "linear", out_features = 10 }]
///     "#,
/// )?;
/// assert_eq!(spec.plan()?.parameter_count(), (2 * 9 + 2) + (18 * 10 + 10));
/// # Ok::<(), fbp_models::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Name of the network.
    pub name: String,
    /// Shape `[C, H, W]` of one input.
    pub input: [usize; 3],
    /// Number of classes: length of the last stage's output.
    pub classes: usize,
    /// The stages, input side first.
    pub stages: Vec<StageSpec>,
}

/// Description of one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageSpec {
    /// Name of the stage: letters, digits, `-` and `_`.
    pub name: String,
    /// The layers, input side first.
    pub layers: Vec<LayerSpec>,
}

/// As [`NetworkSpec`], with layers that are not looked at yet, so that an error can name the stage and the layer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork<V> {
    name: String,
    input: [usize; 3],
    classes: usize,
    stages: Vec<RawStage<V>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStage<V> {
    name: String,
    layers: Vec<V>,
}

/// A parsed value that may become a layer, and what its `type` key says.
trait RawLayer: DeserializeOwned {
    fn kind(&self) -> Option<&str>;
    fn layer(self) -> Result<LayerSpec, String>;
}

impl RawLayer for toml::Value {
    fn kind(&self) -> Option<&str> {
        self.get("type").and_then(Self::as_str)
    }
    fn layer(self) -> Result<LayerSpec, String> {
        layer_of(self)
    }
}

impl RawLayer for serde_json::Value {
    fn kind(&self) -> Option<&str> {
        self.get("type").and_then(Self::as_str)
    }
    fn layer(self) -> Result<LayerSpec, String> {
        layer_of(self)
    }
}

fn layer_of<'de, D: Deserializer<'de>>(value: D) -> Result<LayerSpec, String> {
    LayerSpec::deserialize(value).map_err(|e| e.to_string().trim_end().to_owned())
}

impl NetworkSpec {
    /// Reads and checks a description in TOML.
    ///
    /// # Errors
    /// [`ModelError::Syntax`] if it is not TOML or has unknown or missing keys; [`ModelError::Layer`] for a layer that
    /// is unknown, has unknown keys or does not fit; [`ModelError::Stage`] and [`ModelError::Network`] as in
    /// [`plan`](Self::plan).
    pub fn from_toml(text: &str) -> Result<Self, ModelError> {
        let syntax =
            |e: toml::de::Error| ModelError::Syntax { format: "TOML", reason: e.to_string().trim().to_owned() };
        Self::from_raw(toml::from_str::<RawNetwork<toml::Value>>(text).map_err(syntax)?)
    }

    /// Reads and checks a description in JSON.
    ///
    /// # Errors
    /// As [`from_toml`](Self::from_toml).
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let syntax = |e: serde_json::Error| ModelError::Syntax { format: "JSON", reason: e.to_string() };
        Self::from_raw(serde_json::from_str::<RawNetwork<serde_json::Value>>(text).map_err(syntax)?)
    }

    fn from_raw<V: RawLayer>(raw: RawNetwork<V>) -> Result<Self, ModelError> {
        let mut stages = Vec::new();
        for stage in raw.stages {
            let mut layers = Vec::new();
            for (layer, value) in stage.layers.into_iter().enumerate() {
                let kind = value.kind().unwrap_or("no type").to_owned();
                let named = |reason| ModelError::Layer { stage: stage.name.clone(), layer, kind, reason };
                layers.push(value.layer().map_err(named)?);
            }
            stages.push(StageSpec { name: stage.name, layers });
        }
        let spec = Self { name: raw.name, input: raw.input, classes: raw.classes, stages };
        spec.plan()?;
        Ok(spec)
    }

    /// The description in TOML.
    ///
    /// # Errors
    /// [`ModelError::Syntax`] if a size does not fit TOML's 64-bit integers.
    pub fn to_toml(&self) -> Result<String, ModelError> {
        toml::to_string(self).map_err(|e| ModelError::Syntax { format: "TOML", reason: e.to_string() })
    }

    /// The description in JSON, on one line.
    ///
    /// # Errors
    /// [`ModelError::Syntax`] if a number cannot be written.
    pub fn to_json(&self) -> Result<String, ModelError> {
        serde_json::to_string(self).map_err(|e| ModelError::Syntax { format: "JSON", reason: e.to_string() })
    }

    /// Where this description first differs from another, in words; `None` if they describe the same computation.
    ///
    /// The name does not count.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.input != other.input {
            return Some(format!("the inputs are {:?} and {:?}", self.input, other.input));
        }
        if self.classes != other.classes {
            return Some(format!("the numbers of classes are {} and {}", self.classes, other.classes));
        }
        for (mine, theirs) in self.stages.iter().zip(&other.stages) {
            if mine.name != theirs.name {
                return Some(format!("stage {} is called {}", mine.name, theirs.name));
            }
            for (index, (a, b)) in mine.layers.iter().zip(&theirs.layers).enumerate() {
                if a != b {
                    let json = |layer| serde_json::to_string(layer).unwrap_or_default();
                    return Some(format!("stage {}, layer {index} is {}, not {}", mine.name, json(a), json(b)));
                }
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
