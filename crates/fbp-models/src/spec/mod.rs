//! Networks as data: the one description used in TOML files, in checkpoints and in the zoo.

mod adapt;
mod init;
mod layer;
mod norm;
mod outline;
mod padding;
mod plan;
mod slim;
pub(crate) mod sugar;
#[cfg(test)]
mod tests;
mod tree;

use serde::{Deserialize, Serialize};

pub use crate::pair::Pair;
pub use fbp_inverse::Activation;
pub use init::WeightInit;
pub use layer::LayerSpec;
pub(crate) use norm::NormSizes;
pub use padding::Padding;
pub(crate) use plan::join;
pub use plan::{FeatureDims, FeatureKind, LayerPlan, NetworkPlan, ParamInit, ParamPlan, StagePlan};
pub use tree::{Branch, Merge, NamedLayer};

use crate::ModelError;

/// Description of a feed-forward network: a chain of stages, each a tree of layers.
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
    /// How fresh weights are drawn; as PyTorch's layers do by themselves if nothing is said.
    #[serde(default, skip_serializing_if = "WeightInit::is_default")]
    pub init: WeightInit,
    /// The stages, input side first.
    pub stages: Vec<StageSpec>,
}

/// Description of one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageSpec {
    /// Name of the stage: letters, digits, `-` and `_`.
    pub name: String,
    /// Where the paths of its parameters start; by default the name. Empty if they have nothing in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The layers, input side first.
    #[serde(deserialize_with = "tree::layers")]
    pub layers: Vec<NamedLayer>,
}

impl StageSpec {
    /// A stage of these layers, whose parameters' paths start with its name.
    pub fn new<L: Into<NamedLayer>>(name: impl Into<String>, layers: impl IntoIterator<Item = L>) -> Self {
        Self { name: name.into(), key: None, layers: layers.into_iter().map(Into::into).collect() }
    }

    /// The same with another start of its parameters' paths.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }
}

/// As [`NetworkSpec`], with layers that are not looked at yet, so that an error can name the stage and the layer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    name: String,
    input: [usize; 3],
    classes: usize,
    #[serde(default)]
    init: WeightInit,
    stages: Vec<RawStage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStage {
    name: String,
    #[serde(default)]
    key: Option<String>,
    layers: Vec<toml::Value>,
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
        Self::from_raw(toml::from_str(text).map_err(syntax)?)
    }

    /// Reads and checks a description in JSON.
    ///
    /// # Errors
    /// As [`from_toml`](Self::from_toml).
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let syntax = |e: serde_json::Error| ModelError::Syntax { format: "JSON", reason: e.to_string() };
        Self::from_raw(serde_json::from_str(text).map_err(syntax)?)
    }

    fn from_raw(raw: RawNetwork) -> Result<Self, ModelError> {
        let mut stages = Vec::new();
        for stage in raw.stages {
            let mut layers = Vec::new();
            for (layer, value) in stage.layers.into_iter().enumerate() {
                let kind = tree::kind_of(&value).to_owned();
                let layer = layer.to_string();
                let named = |reason| ModelError::Layer { stage: stage.name.clone(), layer, kind, reason };
                layers.push(tree::layer(value).map_err(named)?);
            }
            stages.push(StageSpec { name: stage.name, key: stage.key, layers });
        }
        let spec = Self { name: raw.name, input: raw.input, classes: raw.classes, init: raw.init, stages };
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
}
