//! How layers nest: names, branches, and how branches come together.

use std::fmt;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use super::LayerSpec;

/// A layer within a list, and its name in the path of its parameters.
///
/// In TOML and JSON `name` is one more key of the layer. Paths are those of PyTorch: names joined by dots, a layer
/// without a name goes by its position, and an empty name leaves no trace.
///
/// # Example
/// ```
/// use fbp_models::LayerSpec;
///
/// let conv = LayerSpec::conv2d(8, 3, 1).named("conv1");
/// assert_eq!(conv.name.as_deref(), Some("conv1"));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NamedLayer {
    /// Name within the list; the position in it if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The layer.
    #[serde(flatten)]
    pub layer: LayerSpec,
}

impl NamedLayer {
    /// The name in paths, given the position in the list.
    pub(super) fn path_name(&self, position: usize) -> String {
        self.name.clone().unwrap_or_else(|| position.to_string())
    }
}

impl From<LayerSpec> for NamedLayer {
    fn from(layer: LayerSpec) -> Self {
        Self { name: None, layer }
    }
}

impl LayerSpec {
    /// The layer under a name of its own.
    pub fn named(self, name: impl Into<String>) -> NamedLayer {
        NamedLayer { name: Some(name.into()), layer: self }
    }
}

impl<'de> Deserialize<'de> for NamedLayer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut keys = toml::Table::deserialize(deserializer)?;
        let name = match keys.remove("name") {
            Some(toml::Value::String(name)) => Some(name),
            Some(other) => return Err(D::Error::custom(format!("the name of a layer is a text, not {other}"))),
            None => None,
        };
        let layer = LayerSpec::deserialize(keys).map_err(|e| D::Error::custom(e.to_string().trim_end()))?;
        Ok(Self { name, layer })
    }
}

/// Reads a list of layers; errors say which one.
pub(super) fn layers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NamedLayer>, D::Error> {
    let values = Vec::<toml::Value>::deserialize(deserializer)?;
    let read = |(position, value): (usize, toml::Value)| {
        let kind = kind_of(&value).to_owned();
        layer(value).map_err(|reason| D::Error::custom(format!("layer {position} ({kind}): {reason}")))
    };
    values.into_iter().enumerate().map(read).collect()
}

/// What the key `type` of a value says.
pub(super) fn kind_of(value: &toml::Value) -> &str {
    value.get("type").and_then(toml::Value::as_str).unwrap_or("no type")
}

/// A value as a layer.
pub(super) fn layer(value: toml::Value) -> Result<NamedLayer, String> {
    NamedLayer::deserialize(value).map_err(|e| e.to_string().trim_end().to_owned())
}

/// Layers that run one after the other beside other branches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// Name in the paths of its parameters. By default `skip` for that of a residual block, the position for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its layers, input side first; none for a branch that gives its input on.
    #[serde(default, deserialize_with = "layers", skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<NamedLayer>,
}

/// How the outputs of branches become one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// Their sum; all have one shape.
    Sum,
    /// One after the other along the channels; images of the same height and width, or flat features.
    Concat,
    /// Their product; one factor per channel `[C, 1, 1]` counts for the whole image.
    Product,
}

impl fmt::Display for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sum => "sum",
            Self::Concat => "concat",
            Self::Product => "product",
        })
    }
}
