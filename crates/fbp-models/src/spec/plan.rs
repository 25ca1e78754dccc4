use std::collections::HashSet;
use std::fmt;

use fbp_linalg::FeatureShape;

use super::{LayerSpec, NetworkSpec, StageSpec};
use crate::ModelError;

/// Largest length of one feature and largest number of values of one parameter that a description may ask for.
pub(super) const MAX_LEN: usize = 1 << 30;
/// Most parameters of a network: 1 GiB, and four times as much with gradients and the two averages of AdamW.
const MAX_PARAMETERS: usize = 1 << 28;

/// What one sample looks like between two layers: an image `[C, H, W]`, or a flat feature of that many entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureDims {
    /// Channels, height and width; `[n, 1, 1]` if flat.
    pub shape: FeatureShape,
    /// Whether the batch is a tensor `[N, n]` instead of `[N, C, H, W]`.
    pub flat: bool,
}

impl FeatureDims {
    /// An image feature.
    pub const fn image(channels: usize, height: usize, width: usize) -> Self {
        Self { shape: FeatureShape::image(channels, height, width), flat: false }
    }

    /// A flat feature.
    pub const fn flat(len: usize) -> Self {
        Self { shape: FeatureShape::vector(len), flat: true }
    }

    /// Number of entries of one feature.
    #[expect(clippy::len_without_is_empty, reason = "a checked feature is never empty")]
    pub const fn len(&self) -> usize {
        self.shape.len()
    }

    /// Dimensions of the tensor that holds a batch of `n` features.
    pub fn tensor_dims(&self, n: usize) -> Vec<usize> {
        let FeatureShape { channels, height, width } = self.shape;
        if self.flat { vec![n, channels] } else { vec![n, channels, height, width] }
    }
}

impl fmt::Display for FeatureDims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.flat { write!(f, "[{}]", self.shape.channels) } else { write!(f, "{}", self.shape) }
    }
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamInit {
    /// Uniform in `±1/√fan_in`: PyTorch's default for linear and convolutional layers, weight and bias.
    Uniform {
        /// Number of inputs of one output.
        fan_in: usize,
    },
    /// The same value everywhere.
    Constant(f32),
}

/// One tensor of a layer, before it exists.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamPlan {
    /// Name within the layer, for example `"weight"`.
    pub name: &'static str,
    /// Dimensions.
    pub dims: Vec<usize>,
    /// Starting values.
    pub init: ParamInit,
    /// Whether gradients train it; running statistics are not.
    pub trainable: bool,
}

/// One layer with its checked sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerPlan {
    /// Its description.
    pub spec: LayerSpec,
    /// What goes in.
    pub input: FeatureDims,
    /// What comes out.
    pub output: FeatureDims,
    /// Its tensors.
    pub params: Vec<ParamPlan>,
}

/// One stage with its checked sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePlan {
    /// Its name.
    pub name: String,
    /// Its layers.
    pub layers: Vec<LayerPlan>,
}

/// A checked network description with all sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkPlan {
    /// The stages, input side first.
    pub stages: Vec<StagePlan>,
}

impl NetworkPlan {
    /// Every tensor with its full name, `stage.layer.name`, in the order of the layers.
    pub fn parameters(&self) -> impl Iterator<Item = (String, &ParamPlan)> {
        self.stages.iter().flat_map(|stage| {
            stage.layers.iter().enumerate().flat_map(move |(layer, plan)| {
                plan.params.iter().map(move |param| (param_name(&stage.name, layer, param.name), param))
            })
        })
    }

    /// Number of trainable numbers.
    pub fn parameter_count(&self) -> usize {
        let trainable = self.parameters().filter(|(_, param)| param.trainable);
        trainable.map(|(_, param)| param.dims.iter().product::<usize>()).sum()
    }
}

/// Full name of a parameter, for example `conv1.0.weight`.
pub(crate) fn param_name(stage: &str, layer: usize, param: &str) -> String {
    format!("{stage}.{layer}.{param}")
}

impl NetworkSpec {
    /// Checks the description and works out the size of every feature and parameter. Allocates no weights.
    ///
    /// # Errors
    /// [`ModelError::Network`] for a network without stages, an empty input, or an output that is not one flat value per
    /// class; [`ModelError::Stage`] for a stage without layers, or with a name that is faulty or used twice;
    /// [`ModelError::Layer`] for a layer whose sizes are zero, too large or do not fit its input.
    pub fn plan(&self) -> Result<NetworkPlan, ModelError> {
        let network = |reason: String| ModelError::Network { network: self.name.clone(), reason };
        let [channels, height, width] = self.input;
        match channels.checked_mul(height).and_then(|plane| plane.checked_mul(width)) {
            Some(1..=MAX_LEN) => {}
            Some(0) => return Err(network(format!("input {:?} has a size of zero", self.input))),
            _ => return Err(network(format!("input {:?} is too large", self.input))),
        }
        if self.stages.is_empty() {
            return Err(network("it has no stages".into()));
        }
        let mut feature = self.input_dims();
        let mut names = HashSet::new();
        let mut stages = Vec::with_capacity(self.stages.len());
        for spec in &self.stages {
            if !names.insert(spec.name.as_str()) {
                return Err(spec.fault("another stage has the same name"));
            }
            let stage = spec.plan(feature)?;
            feature = stage.output(feature);
            stages.push(stage);
        }
        if !feature.flat || feature.len() != self.classes {
            return Err(network(format!(
                "the last stage gives {feature}, which is not one value for each of the {} classes",
                self.classes
            )));
        }
        let plan = NetworkPlan { stages };
        let lengths = plan.parameters().map(|(_, param)| param.dims.iter().product::<usize>());
        let parameters = lengths.fold(0_usize, usize::saturating_add);
        if parameters > MAX_PARAMETERS {
            return Err(network(format!("it has {parameters} parameters, and at most {MAX_PARAMETERS} are possible")));
        }
        Ok(plan)
    }

    /// What one input looks like.
    pub fn input_dims(&self) -> FeatureDims {
        let [channels, height, width] = self.input;
        FeatureDims::image(channels, height, width)
    }
}

impl StageSpec {
    fn fault(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Stage { stage: self.name.clone(), reason: reason.into() }
    }

    fn plan(&self, mut feature: FeatureDims) -> Result<StagePlan, ModelError> {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || !self.name.chars().all(letter) {
            return Err(self.fault("a stage name consists of letters, digits, '-' and '_'"));
        }
        if self.layers.is_empty() {
            return Err(self.fault("it has no layers"));
        }
        let mut layers = Vec::with_capacity(self.layers.len());
        for (layer, spec) in self.layers.iter().enumerate() {
            let named =
                |reason| ModelError::Layer { stage: self.name.clone(), layer, kind: spec.kind().into(), reason };
            let plan = spec.plan(feature).map_err(named)?;
            feature = plan.output;
            layers.push(plan);
        }
        Ok(StagePlan { name: self.name.clone(), layers })
    }
}

impl StagePlan {
    /// What comes out, given what goes in.
    pub(crate) fn output(&self, input: FeatureDims) -> FeatureDims {
        self.layers.last().map_or(input, |layer| layer.output)
    }
}
