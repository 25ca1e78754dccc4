use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::build::{Source, sequence};
use crate::layer::Route;
use crate::memory::keep_freed_memory;
use crate::spec::{FeatureDims, ParamInit, StagePlan};
use crate::tape::{Tape, run_with_tape};
use crate::{BatchGroup, Layer, LayerPass, ModelError, NetworkSpec, Sequence};

/// A feed-forward network: a chain of stages whose every feature and parameter can be reached.
///
/// Features are numbered like the stages: `forward_to(s)` gives the output of stage `s`, `forward_from(s, z)` starts
/// with the *input* of stage `s`, so `forward_from(s + 1, forward_to(s, x))` is `forward(x)`.
///
/// Within a stage a nondecreasing activation directly followed by max-pooling is run as pooling, then activation: the
/// result is the same and the activation has less to do.
///
/// # Example
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use fbp_models::{Network, zoo};
///
/// let network = Network::new(&zoo::spec("simple-cnn-mnist-v2")?, 0)?;
/// let images = Tensor::zeros((5, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// let features = network.forward_recorded(&images)?;
/// assert_eq!(features.stage_output(0)?.dims(), [5, 3, 12, 12]);
/// assert_eq!(features.logits().dims(), [5, 10]);
/// # Ok::<(), fbp_models::ModelError>(())
/// ```
#[derive(Debug)]
pub struct Network {
    spec: NetworkSpec,
    stages: Vec<Stage>,
    training: bool,
    group: Option<Arc<dyn BatchGroup>>,
    fused: bool,
}

/// One stage of a network.
#[derive(Debug)]
pub struct Stage {
    name: String,
    layers: Sequence,
    frozen: bool,
}

/// A layer with parameters somewhere in a network, found by its path with [`Network::place`].
#[derive(Clone, Debug, PartialEq)]
pub struct LayerPlace {
    /// The stage it belongs to.
    pub stage: usize,
    /// Its path: that of its parameters without their own names.
    pub path: String,
    route: Route,
}

/// What goes into a layer, and what runs past it: made by [`Network::infer_before`].
#[derive(Clone, Debug)]
pub struct LayerInput {
    /// Input of the layer.
    pub input: Tensor,
    /// Outputs of the branches beside those that the layer is in, outermost first.
    pub beside: Vec<Tensor>,
}

/// Input and output of every stage for one batch.
#[derive(Clone, Debug)]
pub struct ForwardTrace {
    features: Vec<Tensor>,
}

impl ForwardTrace {
    /// Every feature: the input, then the output of each stage.
    pub fn features(&self) -> &[Tensor] {
        &self.features
    }

    /// What went into stage `stage`.
    ///
    /// # Errors
    /// [`ModelError::StageRange`] if there is no such stage.
    pub fn stage_input(&self, stage: usize) -> Result<&Tensor, ModelError> {
        self.stage_output(stage).map(|_| &self.features[stage])
    }

    /// What came out of stage `stage`.
    ///
    /// # Errors
    /// [`ModelError::StageRange`] if there is no such stage.
    pub fn stage_output(&self, stage: usize) -> Result<&Tensor, ModelError> {
        let stages = self.features.len() - 1;
        let missing = ModelError::StageRange { start: stage, end: stage.saturating_add(1), stages };
        if stage < stages { Ok(&self.features[stage + 1]) } else { Err(missing) }
    }

    /// The output of the network.
    pub fn logits(&self) -> &Tensor {
        &self.features[self.features.len() - 1]
    }
}

impl Network {
    /// Builds a network with fresh weights: those that its description asks for, from a seeded generator of its own.
    ///
    /// Equal descriptions and seeds give equal weights, whatever else the program draws.
    ///
    /// # Errors
    /// As [`NetworkSpec::plan`].
    pub fn new(spec: &NetworkSpec, seed: u64) -> Result<Self, ModelError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self::build(spec, &mut |_, param| {
            let len = param.dims.iter().product();
            let values = match param.init {
                ParamInit::Constant(value) => vec![value; len],
                ParamInit::Uniform { fan_in } => uniform(&mut rng, len, 1.0 / (fan_in as f64).sqrt()),
                ParamInit::HeUniform { fan_in } => uniform(&mut rng, len, (6.0 / fan_in as f64).sqrt()),
                ParamInit::Normal { std } => normal(&mut rng, len, std),
            };
            Ok(Tensor::from_vec(values, param.dims.as_slice(), &Device::Cpu)?)
        })
    }

    /// Builds a network with tensors from `source`, which is asked in the order of [`NetworkPlan::parameters`](crate::spec::NetworkPlan::parameters).
    pub(crate) fn build(spec: &NetworkSpec, source: Source<'_>) -> Result<Self, ModelError> {
        keep_freed_memory();
        let mut input = spec.input_dims();
        let mut stages = Vec::new();
        for plan in spec.plan()?.stages {
            let stage = Stage::build(plan, input, source)?;
            input = stage.output();
            stages.push(stage);
        }
        Ok(Self { spec: spec.clone(), stages, training: false, group: None, fused: true })
    }

    /// A network of its own with the same weights, state of freezing and mode.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if a weight cannot be copied.
    pub fn duplicate(&self) -> Result<Self, ModelError> {
        let mut copy = self.rebuilt(&self.spec)?;
        copy.training = self.training;
        for (copy, stage) in copy.stages.iter_mut().zip(&self.stages) {
            copy.frozen = stage.frozen;
        }
        Ok(copy)
    }

    /// The same network with a stage for every block, as [`NetworkSpec::split_at_blocks`] cuts it, with weights of its own.
    ///
    /// # Errors
    /// As [`duplicate`](Self::duplicate).
    pub fn split_at_blocks(&self) -> Result<Self, ModelError> {
        self.rebuilt(&self.spec.split_at_blocks())
    }

    /// A copy with another description of the same parameters.
    fn rebuilt(&self, spec: &NetworkSpec) -> Result<Self, ModelError> {
        let state: HashMap<String, Var> = self.state().collect();
        let mut copy = Self::build(spec, &mut |name, _| match state.get(name) {
            Some(var) => Ok(var.as_detached_tensor().copy()?),
            None => Err(ModelError::MissingParameter { layer: name.to_owned(), parameter: "value".to_owned() }),
        })?;
        copy.fused = self.fused;
        Ok(copy)
    }

    /// Takes the weights and statistics of some stages from a network of the same description.
    ///
    /// # Errors
    /// [`ModelError::StageRange`] if there are no such stages, [`ModelError::Tensor`] if a weight has another shape.
    pub fn copy_stages(&self, other: &Self, stages: Range<usize>) -> Result<(), ModelError> {
        for (own, other) in self.range(stages.clone())?.iter().zip(other.range(stages)?) {
            for ((_, own), (_, other)) in own.tensors(true).iter().zip(other.tensors(true)) {
                own.set(&other)?;
            }
        }
        Ok(())
    }

    /// The description.
    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// The stages, input side first.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The stages whose features lie between input and output: all but the last one.
    pub fn transitional_stages(&self) -> &[Stage] {
        &self.stages[..self.stages.len().saturating_sub(1)]
    }

    /// Index of the stage of the given name.
    ///
    /// # Errors
    /// [`ModelError::UnknownStage`], which lists the stages.
    pub fn stage_index(&self, name: &str) -> Result<usize, ModelError> {
        let unknown = || ModelError::UnknownStage {
            name: name.to_owned(),
            known: self.stages.iter().map(|stage| stage.name.clone()).collect(),
        };
        self.stages.iter().position(|stage| stage.name == name).ok_or_else(unknown)
    }

    /// Number of numbers that gradients train.
    pub fn parameter_count(&self) -> usize {
        self.stages.iter().flat_map(|stage| stage.vars()).map(|(_, var)| var.elem_count()).sum()
    }

    /// The trainable variables of some stages, with names like `conv1.0.weight`.
    ///
    /// # Errors
    /// [`ModelError::StageRange`] if there are no such stages.
    pub fn named_vars_of(&self, stages: Range<usize>) -> Result<Vec<(String, Var)>, ModelError> {
        Ok(self.range(stages)?.iter().flat_map(Stage::vars).collect())
    }

    /// The trainable variables of some stages, for an optimiser.
    ///
    /// # Errors
    /// [`ModelError::StageRange`] if there are no such stages.
    pub fn vars_of(&self, stages: Range<usize>) -> Result<Vec<Var>, ModelError> {
        Ok(self.named_vars_of(stages)?.into_iter().map(|(_, var)| var).collect())
    }

    /// Every tensor of a checkpoint by its path: trainable variables and running statistics.
    pub fn state(&self) -> impl Iterator<Item = (String, Var)> {
        self.stages.iter().flat_map(|stage| stage.tensors(true))
    }

    /// The same of some stages.
    ///
    /// # Errors
    /// [`ModelError::StageRange`] if there are no such stages.
    pub fn state_of(&self, stages: Range<usize>) -> Result<Vec<(String, Var)>, ModelError> {
        Ok(self.range(stages)?.iter().flat_map(|stage| stage.tensors(true)).collect())
    }

    /// How often each layer with random numbers of its own (dropout) has drawn some in training: with the tensors of
    /// [`state`](Self::state) all that decides how training goes on.
    pub fn draws(&self) -> Vec<u64> {
        self.draw_counters().into_iter().map(|counter| counter.load(Ordering::Relaxed)).collect()
    }

    /// Sets what [`draws`](Self::draws) gives.
    ///
    /// # Errors
    /// [`ModelError::InputShape`] for another number of layers.
    pub fn set_draws(&self, draws: &[u64]) -> Result<(), ModelError> {
        let counters = self.draw_counters();
        if counters.len() != draws.len() {
            let (what, expected) = ("numbers of draws".to_owned(), format!("{} layers", counters.len()));
            return Err(ModelError::InputShape { what, expected, found: vec![draws.len()] });
        }
        counters.into_iter().zip(draws).for_each(|(counter, &draws)| counter.store(draws, Ordering::Relaxed));
        Ok(())
    }

    fn draw_counters(&self) -> Vec<&AtomicU64> {
        let mut counters = Vec::new();
        self.stages.iter().for_each(|stage| stage.layers.draws(&mut counters));
        counters
    }

    /// Makes some stages constant functions: no gradients for their parameters, running statistics in normalisations.
    /// All other stages become trainable. Gradients still pass through frozen stages to their input.
    ///
    /// # Errors
    /// [`ModelError::StageRange`] if there are no such stages.
    pub fn freeze(&mut self, stages: Range<usize>) -> Result<(), ModelError> {
        self.range(stages.clone())?;
        for (index, stage) in self.stages.iter_mut().enumerate() {
            stage.frozen = stages.contains(&index);
        }
        Ok(())
    }

    /// Chooses whether trainable stages are run as in training: batch normalisation uses the statistics of the batch instead of
    /// the running ones, and dropout drops. Recorded features and [`infer`](Self::infer) never do.
    pub fn set_training(&mut self, training: bool) {
        self.training = training;
    }

    /// Trains the network together with others, each on its slice of every batch; none ends that. A copy of the network is
    /// in no group.
    pub fn set_group(&mut self, group: Option<Arc<dyn BatchGroup>>) {
        self.group = group;
    }

    /// Chooses whether layers that follow each other may run as one operation, as they do in a new network and its copies:
    /// convolution with max-pooling, normalisation with activation, sums of residual blocks with what follows, and without
    /// gradients all of these with the convolution before them, the normalisation folded into its weights.
    ///
    /// Otherwise every layer is an operation of its own, convolutions are computed directly instead of with fewer products, and
    /// candle runs back through its own graph of these operations. Results differ by rounding alone; all is slower. It answers,
    /// when a layer of one's own or a training goes wrong, whether that comes from running layers as one.
    pub fn set_fused(&mut self, fused: bool) {
        self.fused = fused;
    }

    /// Whether layers may run as one operation.
    pub fn is_fused(&self) -> bool {
        self.fused
    }

    /// Constant parameters and running statistics.
    fn fixed(&self) -> LayerPass<'static> {
        LayerPass::FIXED.fused(self.fused)
    }

    /// Logits of a batch, with gradients for the parameters of all stages that are not frozen.
    ///
    /// # Shapes
    /// `x`: `[N, C, H, W]` or `[N, C·H·W]`; the result is `[N, classes]`.
    ///
    /// # Errors
    /// [`ModelError::InputShape`] for a batch of another shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        self.forward_stages(0..self.stages.len(), x)
    }

    /// Logits, given the input of stage `stage`.
    ///
    /// # Errors
    /// As [`forward_stages`](Self::forward_stages).
    pub fn forward_from(&self, stage: usize, feature: &Tensor) -> Result<Tensor, ModelError> {
        self.forward_stages(stage..self.stages.len(), feature)
    }

    /// Output of stage `stage`, given the input of the network.
    ///
    /// # Errors
    /// As [`forward_stages`](Self::forward_stages).
    pub fn forward_to(&self, stage: usize, x: &Tensor) -> Result<Tensor, ModelError> {
        self.forward_stages(0..stage.saturating_add(1), x)
    }

    /// Output of the last of some stages, given the input of the first, with gradients. No stages give the input back.
    ///
    /// # Errors
    /// [`ModelError::StageRange`] if there are no such stages, [`ModelError::InputShape`] for a feature of another shape.
    pub fn forward_stages(&self, stages: Range<usize>, feature: &Tensor) -> Result<Tensor, ModelError> {
        self.run(stages, feature, |stage| LayerPass::new(!stage.frozen, self.training && !stage.frozen))
    }

    /// Logits of a batch with all parameters constant: nothing is kept for gradients.
    ///
    /// Convolutions keep their weights in the order in which kernels read them, up to six times their memory, until they are trained.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn infer(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        self.infer_stages(0..self.stages.len(), x)
    }

    /// As [`forward_stages`](Self::forward_stages) with all parameters constant.
    ///
    /// # Errors
    /// As [`forward_stages`](Self::forward_stages).
    pub fn infer_stages(&self, stages: Range<usize>, feature: &Tensor) -> Result<Tensor, ModelError> {
        self.run(stages, feature, |_| LayerPass::FIXED)
    }

    /// The layer with parameters that has this path, for example `layer4.1.conv2`.
    ///
    /// # Errors
    /// [`ModelError::UnknownLayer`], which lists the paths.
    pub fn place(&self, path: &str) -> Result<LayerPlace, ModelError> {
        let found = self.stages.iter().enumerate().find_map(|(stage, own)| Some((stage, own.layers.route(path)?)));
        match found {
            Some((stage, route)) => Ok(LayerPlace { stage, path: path.to_owned(), route }),
            None => Err(ModelError::UnknownLayer { path: path.to_owned(), known: self.layer_paths() }),
        }
    }

    /// Paths of all layers with parameters of their own.
    pub fn layer_paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.stages.iter().for_each(|stage| stage.layers.paths(&mut paths));
        paths
    }

    /// The layer at a place.
    ///
    /// # Errors
    /// [`ModelError::StageRange`] for the place of another network.
    pub fn layer(&self, place: &LayerPlace) -> Result<&dyn Layer, ModelError> {
        Ok(self.stage_of(place)?.layers.layer_at(&place.route))
    }

    /// Input of one layer, given the input of the network, with all parameters constant.
    ///
    /// # Errors
    /// [`ModelError::StageRange`] for the place of another network, [`ModelError::InputShape`] for a batch of another shape.
    pub fn infer_before(&self, place: &LayerPlace, x: &Tensor) -> Result<LayerInput, ModelError> {
        let own = self.stage_of(place)?;
        let below = own.accept(&self.infer_stages(0..place.stage, x)?, self.fixed())?;
        let mut beside = Vec::new();
        let input = own.layers.forward_before(&place.route, &below, &mut beside, self.fixed())?;
        Ok(LayerInput { input, beside })
    }

    /// Logits, given the output of one layer (before any activation that follows) and what runs past it, with all parameters
    /// constant. Gradients pass through to `output`.
    ///
    /// # Errors
    /// As [`infer_before`](Self::infer_before).
    pub fn infer_after(&self, place: &LayerPlace, output: &Tensor, beside: &[Tensor]) -> Result<Tensor, ModelError> {
        let feature = self.stage_of(place)?.layers.forward_after(&place.route, output, beside, self.fixed())?;
        self.infer_stages(place.stage + 1..self.stages.len(), &feature)
    }

    /// Shapes, without the batch, of what runs past the layer at a place: those of [`LayerInput::beside`].
    ///
    /// # Errors
    /// [`ModelError::StageRange`] for the place of another network.
    pub fn dims_beside(&self, place: &LayerPlace) -> Result<Vec<Vec<usize>>, ModelError> {
        let mut dims = Vec::new();
        self.stage_of(place)?.layers.dims_beside(&place.route, &mut dims);
        Ok(dims)
    }

    fn stage_of(&self, place: &LayerPlace) -> Result<&Stage, ModelError> {
        Ok(&self.range(place.stage..place.stage.saturating_add(1))?[0])
    }

    /// Every transitional feature of a batch, as constants.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_recorded(&self, x: &Tensor) -> Result<ForwardTrace, ModelError> {
        let mut features = vec![self.stages[0].accept(&x.detach(), self.fixed())?];
        for stage in &self.stages {
            let next = stage.forward(&features[features.len() - 1], self.fixed())?;
            features.push(next);
        }
        Ok(ForwardTrace { features })
    }

    fn run(
        &self,
        stages: Range<usize>,
        feature: &Tensor,
        pass: impl Fn(&Stage) -> LayerPass<'static>,
    ) -> Result<Tensor, ModelError> {
        let stages = self.range(stages)?;
        let trained = stages.iter().filter(|stage| pass(stage).trainable).flat_map(Stage::vars);
        let parameters: Vec<Var> = trained.map(|(_, var)| var).collect();
        let run = |tape: Option<&Tape>| {
            let pass = |stage| LayerPass { tape, group: self.group.as_ref(), fused: self.fused, ..pass(stage) };
            stages.iter().try_fold(feature.clone(), |x, stage| stage.forward(&x, pass(stage)))
        };
        // Without a tape candle knows every operation.
        if !self.fused || (parameters.is_empty() && !feature.track_op()) {
            return run(None);
        }
        run_with_tape(feature, &parameters, |tape| run(Some(tape)))
    }

    pub(crate) fn range(&self, stages: Range<usize>) -> Result<&[Stage], ModelError> {
        let wrong = ModelError::StageRange { start: stages.start, end: stages.end, stages: self.stages.len() };
        self.stages.get(stages).ok_or(wrong)
    }
}

impl Stage {
    fn build(plan: StagePlan, input: FeatureDims, source: Source<'_>) -> Result<Self, ModelError> {
        let layers = sequence(&plan.layers, input, source)?;
        Ok(Self { name: plan.name, layers, frozen: false })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its layers.
    pub fn layers(&self) -> &Sequence {
        &self.layers
    }

    /// What goes in.
    pub fn input(&self) -> FeatureDims {
        self.layers.input()
    }

    /// What comes out.
    pub fn output(&self) -> FeatureDims {
        self.layers.output()
    }

    /// Whether its parameters get no gradients.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    fn vars(&self) -> Vec<(String, Var)> {
        self.tensors(false)
    }

    fn tensors(&self, buffers: bool) -> Vec<(String, Var)> {
        let mut all = Vec::new();
        self.layers.tensors(buffers, &mut all);
        all
    }

    /// The batch in the dimensions that the first layer takes.
    fn accept(&self, batch: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let input = self.input();
        let wrong = || ModelError::InputShape {
            what: format!("input of stage {}", self.name),
            expected: input.to_string(),
            found: batch.dims().to_vec(),
        };
        let (&n, rest) = batch.dims().split_first().ok_or_else(wrong)?;
        let dims = input.tensor_dims(n);
        if rest == &dims[1..] {
            return Ok(batch.clone());
        }
        // Flat rows are accepted for images and the other way round; any other shape is a mistake.
        let shape = input.shape;
        let image = [shape.channels, shape.height, shape.width];
        if rest == [input.len()] || rest == image { pass.reshape(batch, dims) } else { Err(wrong()) }
    }

    fn forward(&self, batch: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        self.layers.forward(&self.accept(batch, pass)?, pass)
    }
}

/// Uniform numbers of `[-bound, bound)`.
fn uniform(rng: &mut ChaCha8Rng, len: usize, bound: f64) -> Vec<f32> {
    let unit = |bits: u32| f64::from(bits) / f64::from(1_u32 << 31) - 1.0; // [-1, 1)
    (0..len).map(|_| (bound * unit(rng.next_u32())) as f32).collect()
}

/// Normal numbers by the method of Box and Muller.
fn normal(rng: &mut ChaCha8Rng, len: usize, std: f64) -> Vec<f32> {
    let unit = |bits: u32| (f64::from(bits) + 0.5) / 2.0_f64.powi(32); // (0, 1)
    let draw = |_| {
        let (radius, turn) = (unit(rng.next_u32()), unit(rng.next_u32()));
        (std * (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()) as f32
    };
    (0..len).map(draw).collect()
}

#[cfg(test)]
mod real_tests;
#[cfg(test)]
mod tests;
