use std::collections::HashSet;
use std::fmt;

use fbp_linalg::FeatureShape;

use super::{Branch, LayerSpec, NamedLayer, NetworkSpec, StageSpec};
use crate::ModelError;

/// Largest length of one feature and largest number of values of one parameter that a description may ask for.
pub(super) const MAX_LEN: usize = 1 << 30;
/// Most parameters of a network: 1 GiB, and four times as much with gradients and the two averages of AdamW.
const MAX_PARAMETERS: usize = 1 << 28;

/// What one sample looks like between two layers: an image `[C, H, W]`, tokens `[T, D]`, or a flat feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureDims {
    /// Channels, height and width of an image; `[T, 1, D]` of tokens, `[n, 1, 1]` if flat.
    pub shape: FeatureShape,
    /// Which of them it is.
    pub kind: FeatureKind,
}

/// Kinds of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureKind {
    /// A batch is a tensor `[N, C, H, W]`.
    Image,
    /// A batch is a tensor `[N, T, D]`.
    Tokens,
    /// A batch is a tensor `[N, n]`.
    Flat,
}

impl FeatureDims {
    /// An image feature.
    pub const fn image(channels: usize, height: usize, width: usize) -> Self {
        Self { shape: FeatureShape::image(channels, height, width), kind: FeatureKind::Image }
    }

    /// `count` tokens of the given width.
    pub const fn tokens(count: usize, width: usize) -> Self {
        Self { shape: FeatureShape::image(count, 1, width), kind: FeatureKind::Tokens }
    }

    /// A flat feature.
    pub const fn flat(len: usize) -> Self {
        Self { shape: FeatureShape::vector(len), kind: FeatureKind::Flat }
    }

    /// Whether it is an image.
    pub const fn is_image(&self) -> bool {
        matches!(self.kind, FeatureKind::Image)
    }

    /// Whether it is made of tokens.
    pub const fn is_tokens(&self) -> bool {
        matches!(self.kind, FeatureKind::Tokens)
    }

    /// Whether it is flat.
    pub const fn is_flat(&self) -> bool {
        matches!(self.kind, FeatureKind::Flat)
    }

    /// Number of entries of one feature.
    #[expect(clippy::len_without_is_empty, reason = "a checked feature is never empty")]
    pub const fn len(&self) -> usize {
        self.shape.len()
    }

    /// Dimensions of the tensor that holds a batch of `n` features.
    pub fn tensor_dims(&self, n: usize) -> Vec<usize> {
        let FeatureShape { channels, height, width } = self.shape;
        match self.kind {
            FeatureKind::Image => vec![n, channels, height, width],
            FeatureKind::Tokens => vec![n, channels, width],
            FeatureKind::Flat => vec![n, channels],
        }
    }
}

impl fmt::Display for FeatureDims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FeatureShape { channels, width, .. } = self.shape;
        match self.kind {
            FeatureKind::Image => write!(f, "{}", self.shape),
            FeatureKind::Tokens => write!(f, "[{channels}, {width}]"),
            FeatureKind::Flat => write!(f, "[{channels}]"),
        }
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
    /// Uniform in `±√(6/fan_in)`: keeps the mean square of features through layers with a ReLU (He initialisation).
    HeUniform {
        /// Number of inputs of one output.
        fan_in: usize,
    },
    /// Normal with mean zero.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// The same value everywhere.
    Constant(f32),
}

/// One tensor of a layer, before it exists.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamPlan {
    /// Name within the layer, for example `"weight"`; empty if the path of the layer is that of the tensor.
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
    /// Where it is: the path of its parameters without their own names, for example `layer1.0.conv1`.
    pub path: String,
    /// Its description. What is short for other layers has become a [`LayerSpec::Block`] of them.
    pub spec: LayerSpec,
    /// What goes in.
    pub input: FeatureDims,
    /// What comes out.
    pub output: FeatureDims,
    /// Its tensors.
    pub params: Vec<ParamPlan>,
    /// The layers within: one branch for a block, two for a residual block (its layers, then its shortcut), and those of parallel
    /// ones.
    pub branches: Vec<Vec<LayerPlan>>,
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

impl LayerPlan {
    fn collect<'a>(&'a self, into: &mut Vec<(String, &'a ParamPlan)>) {
        into.extend(self.params.iter().map(|param| (join(&self.path, param.name), param)));
        self.branches.iter().flatten().for_each(|layer| layer.collect(into));
    }
}

impl StagePlan {
    /// Every tensor with its path, in the order of the layers.
    pub fn parameters(&self) -> Vec<(String, &ParamPlan)> {
        let mut all = Vec::new();
        self.layers.iter().for_each(|layer| layer.collect(&mut all));
        all
    }

    /// What comes out, given what goes in.
    pub(crate) fn output(&self, input: FeatureDims) -> FeatureDims {
        output_of(&self.layers, input)
    }
}

/// What a list of layers gives, given what goes in.
fn output_of(layers: &[LayerPlan], input: FeatureDims) -> FeatureDims {
    layers.last().map_or(input, |layer| layer.output)
}

impl NetworkPlan {
    /// Every tensor with its path, the key of a PyTorch state dict, in the order of the layers.
    pub fn parameters(&self) -> impl Iterator<Item = (String, &ParamPlan)> {
        self.stages.iter().flat_map(StagePlan::parameters)
    }

    /// Number of trainable numbers.
    pub fn parameter_count(&self) -> usize {
        let trainable = self.parameters().filter(|(_, param)| param.trainable);
        trainable.map(|(_, param)| param.dims.iter().product::<usize>()).sum()
    }
}

/// Two parts of a path; an empty one leaves no trace.
pub(crate) fn join(path: &str, name: &str) -> String {
    match (path, name) {
        ("", name) => name.to_owned(),
        (path, "") => path.to_owned(),
        (path, name) => format!("{path}.{name}"),
    }
}

/// What is wrong with a layer, and where within its stage.
struct LayerFault {
    layer: String,
    kind: &'static str,
    reason: String,
}

impl NetworkSpec {
    /// Checks the description and works out the size of every feature and parameter. Allocates no weights.
    ///
    /// # Errors
    /// [`ModelError::Network`] for a network without stages, an empty input, two parameters of one path, or an output that is not
    /// one flat value per class; [`ModelError::Stage`] for a stage without layers, or with a name that is faulty or used twice;
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
        let mut plan = NetworkPlan { stages };
        self.init.apply(&mut plan);
        let mut paths = HashSet::new();
        let mut parameters = 0_usize;
        for (path, param) in plan.parameters() {
            parameters = parameters.saturating_add(param.dims.iter().product());
            if paths.contains(&path) {
                return Err(network(format!("two parameters are called {path}; give their layers different names")));
            }
            paths.insert(path);
        }
        if parameters > MAX_PARAMETERS {
            return Err(network(format!("it has {parameters} parameters, and at most {MAX_PARAMETERS} are possible")));
        }
        if !feature.is_flat() || feature.len() != self.classes {
            return Err(network(format!(
                "the last stage gives {feature}, which is not one value for each of the {} classes",
                self.classes
            )));
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

    fn plan(&self, feature: FeatureDims) -> Result<StagePlan, ModelError> {
        if !is_name(&self.name) {
            return Err(self.fault("a stage name consists of letters, digits, '-' and '_'"));
        }
        let key = self.key.as_deref().unwrap_or(&self.name);
        if !is_path(key) {
            return Err(self.fault(format!("the key {key:?} is no path of names joined by dots")));
        }
        if self.layers.is_empty() {
            return Err(self.fault("it has no layers"));
        }
        let named = |fault: LayerFault| ModelError::Layer {
            stage: self.name.clone(),
            layer: fault.layer,
            kind: fault.kind.into(),
            reason: fault.reason,
        };
        let layers = plan_layers([key, ""], &self.layers, feature).map_err(named)?;
        Ok(StagePlan { name: self.name.clone(), layers })
    }
}

/// Whether it consists of letters, digits, `-` and `_`.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// Whether names of letters, digits, `-` and `_` are joined by dots; nothing at all is a path as well.
fn is_path(path: &str) -> bool {
    path.is_empty() || path.split('.').all(is_name)
}

/// Plans a list of layers. `place` is where they are: the path of their parameters, and the place within the stage for errors.
fn plan_layers(
    place: [&str; 2],
    layers: &[NamedLayer],
    mut feature: FeatureDims,
) -> Result<Vec<LayerPlan>, LayerFault> {
    let mut plans = Vec::with_capacity(layers.len());
    for (position, named) in layers.iter().enumerate() {
        let (own, layer) = (named.path_name(position), &named.layer);
        // A layer without a trace in paths is told by its position.
        let told = if own.is_empty() { position.to_string() } else { own.clone() };
        let (path, told) = (join(place[0], &own), join(place[1], &told));
        let fault = |reason| LayerFault { layer: told.clone(), kind: layer.kind(), reason };
        if !is_path(&own) {
            return Err(fault(format!("the name {own:?} is no path of names joined by dots")));
        }
        let (spec, expanded) = match layer.expansion(feature).map_err(fault)? {
            Some(layers) => (LayerSpec::Block { layers }, true),
            None => (layer.clone(), false),
        };
        let plan = plan_layer([&path, &told], spec, feature).map_err(|inner| match expanded {
            true => fault(inner.reason),
            false => inner,
        })?;
        feature = plan.output;
        plans.push(plan);
    }
    Ok(plans)
}

fn plan_layer(place: [&str; 2], spec: LayerSpec, input: FeatureDims) -> Result<LayerPlan, LayerFault> {
    let [path, told] = place;
    let fault = |reason| LayerFault { layer: told.to_owned(), kind: spec.kind(), reason };
    let branch = |branch: &Branch, default: String| {
        let name = branch.name.clone().unwrap_or(default);
        if !is_path(&name) {
            return Err(fault(format!("the name {name:?} of a branch is no path of names joined by dots")));
        }
        plan_layers([&join(path, &name), &join(told, &name)], &branch.layers, input)
    };
    let branches = match &spec {
        LayerSpec::Block { layers } => vec![plan_layers(place, layers, input)?],
        LayerSpec::Residual { layers, skip } => {
            let skip = skip.as_ref().map(|skip| branch(skip, "skip".into())).transpose()?;
            vec![plan_layers(place, layers, input)?, skip.unwrap_or_default()]
        }
        LayerSpec::Parallel { branches, .. } => {
            let planned = branches.iter().enumerate().map(|(k, inner)| branch(inner, k.to_string()));
            planned.collect::<Result<Vec<_>, _>>()?
        }
        _ => Vec::new(),
    };
    let outputs: Vec<FeatureDims> = branches.iter().map(|layers| output_of(layers, input)).collect();
    let (output, params) = spec.outline(input, &outputs).map_err(fault)?;
    Ok(LayerPlan { path: path.to_owned(), spec, input, output, params, branches })
}
