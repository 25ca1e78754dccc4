//! Layers that run one after the other, and what leads into the middle of them.

use std::ops::Range;
use std::sync::atomic::AtomicU64;

use candle_core::{Tensor, Var};
use fbp_inverse::{Block, ReverseOperator};

use super::{Layer, LayerPass};
use crate::ModelError;
use crate::ops::{Clip, FusedTail};
use crate::spec::{FeatureDims, join};

/// Layers that run one after the other.
#[derive(Debug)]
pub struct Sequence {
    layers: Vec<PlacedLayer>,
    /// The layers in the order in which they run.
    steps: Vec<Step>,
    input: FeatureDims,
    output: FeatureDims,
}

/// A layer and where it is.
#[derive(Debug)]
pub(crate) struct PlacedLayer {
    /// The path of its parameters without their own names.
    pub(crate) path: String,
    pub(crate) layer: Box<dyn Layer>,
    /// What comes out of it.
    pub(crate) output: FeatureDims,
}

/// One layer in the order of execution, and what it then gets.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    layer: usize,
    input: FeatureDims,
}

/// The way to a layer within a tree: a layer of the list, then one of its branches, and so on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Route {
    /// Place of the layer in the list.
    layer: usize,
    /// Which branch of it, and where in that; `None` at the end.
    inner: Option<(usize, Box<Route>)>,
}

impl Sequence {
    pub(crate) fn new(layers: Vec<PlacedLayer>, input: FeatureDims) -> Self {
        let output = layers.last().map_or(input, |last| last.output);
        let steps = execution_order(&layers, input);
        Self { layers, steps, input, output }
    }

    /// Number of its layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether it has no layers, and gives its input on.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Its layers, in the order of the description.
    pub fn layers(&self) -> impl Iterator<Item = &dyn Layer> {
        self.layers.iter().map(|placed| &*placed.layer)
    }

    /// The layers in the order in which they run, by their places, and what each then gets: a nondecreasing activation changes
    /// places with a max-pooling that directly follows it.
    pub fn order(&self) -> impl Iterator<Item = (usize, FeatureDims)> {
        self.steps.iter().map(|step| (step.layer, step.input))
    }

    /// What goes in.
    pub fn input(&self) -> FeatureDims {
        self.input
    }

    /// What comes out.
    pub fn output(&self) -> FeatureDims {
        self.output
    }

    /// Trainable tensors, and running statistics if wanted, with their paths.
    pub(crate) fn tensors(&self, buffers: bool, into: &mut Vec<(String, Var)>) {
        for PlacedLayer { path, layer, .. } in &self.layers {
            let extra = if buffers { layer.buffers() } else { Vec::new() };
            let own = layer.parameters().into_iter().chain(extra);
            into.extend(own.map(|(name, var)| (join(path, name), var.clone())));
            layer.branches().iter().for_each(|branch| branch.tensors(buffers, into));
        }
    }

    /// Counters of the layers that draw random numbers, in their order.
    pub(crate) fn draws<'a>(&'a self, into: &mut Vec<&'a AtomicU64>) {
        for PlacedLayer { layer, .. } in &self.layers {
            into.extend(layer.draws());
            layer.branches().iter().for_each(|branch| branch.draws(into));
        }
    }

    /// Runs all layers.
    ///
    /// # Errors
    /// As [`Layer::forward`].
    pub fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        self.run(0..self.steps.len(), x.clone(), None, pass)
    }

    /// Whether the layers end with a convolution, or one and a normalisation, so that a sum can be joined to it.
    pub(crate) fn takes_tail(&self) -> bool {
        let layer = |back: usize| {
            let step = self.steps.len().checked_sub(back).map(|at| self.steps[at]);
            step.map(|step| &*self.layers[step.layer].layer)
        };
        let normalised = layer(1).is_some_and(|last| last.kind() == "batch_norm");
        layer(if normalised { 2 } else { 1 }).is_some_and(Layer::takes_tail)
    }

    /// Runs all layers with constant parameters, adds a tensor to what comes out, and cuts it off.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub(crate) fn forward_with_tail(
        &self,
        x: &Tensor,
        tail: (&Tensor, Clip),
        pass: LayerPass<'_>,
    ) -> Result<Tensor, ModelError> {
        self.run(0..self.steps.len(), x.clone(), Some(tail), pass)
    }

    /// Runs some of the layers in the order of execution.
    fn run(
        &self,
        steps: Range<usize>,
        mut x: Tensor,
        tail: Option<(&Tensor, Clip)>,
        pass: LayerPass<'_>,
    ) -> Result<Tensor, ModelError> {
        let mut steps = self.steps[steps].iter().map(|step| &self.layers[step.layer].layer).peekable();
        while let Some(layer) = steps.next() {
            if pass.tape.is_some() && !layer.keeps_tape(pass) {
                x = pass.compose(&[x], |inputs, pass| layer.forward(&inputs[0], pass))?;
                continue;
            }
            if pass.folds() && layer.takes_tail() && !x.track_op() {
                let affine = steps.peek().map_or(Ok(None), |next| next.channel_affine())?;
                steps.next_if(|_| affine.is_some());
                let (addend, clip) = match (steps.peek(), tail) {
                    (None, Some((addend, clip))) => (Some(addend), clip),
                    (next, _) => (None, next.and_then(|next| next.clip()).unwrap_or(Clip::NONE)),
                };
                let fused = affine.is_some() || addend.is_some() || clip != Clip::NONE;
                let affine = affine.as_ref().map(|[scale, shift]| [scale, shift]);
                let tail = FusedTail { affine, addend, clip };
                if fused && let Some(y) = layer.forward_fused(&x, &tail)? {
                    steps.next_if(|next| addend.is_none() && next.clip().is_some());
                    x = y;
                    continue;
                }
            }
            let joined = match steps.peek().filter(|_| pass.fused).map(|next| (next.max_pool_window(), next.clip())) {
                Some((Some(window), _)) => layer.forward_pooled(&x, window, pass)?,
                Some((None, Some(clip))) => layer.forward_clipped(&x, clip, pass)?,
                _ => None,
            };
            if joined.is_some() {
                steps.next();
            }
            x = joined.map_or_else(|| layer.forward(&x, pass), Ok)?;
        }
        Ok(x)
    }

    /// The way to the layer with parameters of its own that has this path.
    pub(crate) fn route(&self, path: &str) -> Option<Route> {
        self.layers.iter().enumerate().find_map(|(layer, placed)| {
            let branches = placed.layer.branches().iter().enumerate();
            let mut within = branches.filter_map(|(branch, inner)| Some((branch, Box::new(inner.route(path)?))));
            match within.next() {
                Some(inner) => Some(Route { layer, inner: Some(inner) }),
                None if placed.path == path && !placed.layer.parameters().is_empty() => {
                    Some(Route { layer, inner: None })
                }
                None => None,
            }
        })
    }

    /// Paths of all layers with parameters of their own.
    pub(crate) fn paths(&self, into: &mut Vec<String>) {
        for PlacedLayer { path, layer, .. } in &self.layers {
            if !layer.parameters().is_empty() {
                into.push(path.clone());
            }
            layer.branches().iter().for_each(|branch| branch.paths(into));
        }
    }

    /// The layer at the end of a way.
    pub(crate) fn layer_at(&self, route: &Route) -> &dyn Layer {
        let layer = &*self.layers[route.layer].layer;
        match &route.inner {
            Some((branch, inner)) => layer.branches()[*branch].layer_at(inner),
            None => layer,
        }
    }

    /// Place of a layer in the order of execution; every layer has one.
    fn place(&self, layer: usize) -> usize {
        self.steps.iter().position(|step| step.layer == layer).unwrap_or(self.steps.len())
    }

    /// Input of the layer at the end of a way. What the other branches on the way give goes to `saved`, outermost first.
    pub(crate) fn forward_before(
        &self,
        route: &Route,
        x: &Tensor,
        saved: &mut Vec<Tensor>,
        pass: LayerPass<'_>,
    ) -> Result<Tensor, ModelError> {
        let below = self.run(0..self.place(route.layer), x.clone(), None, pass)?;
        let Some((chosen, inner)) = &route.inner else { return Ok(below) };
        let branches = self.layers[route.layer].layer.branches();
        for (_, branch) in branches.iter().enumerate().filter(|(index, _)| index != chosen) {
            saved.push(branch.forward(&below, pass)?);
        }
        branches[*chosen].forward_before(inner, &below, saved, pass)
    }

    /// Shapes, without the batch, of what [`forward_before`](Self::forward_before) saves.
    pub(crate) fn dims_beside(&self, route: &Route, into: &mut Vec<Vec<usize>>) {
        let Some((chosen, inner)) = &route.inner else { return };
        let branches = self.layers[route.layer].layer.branches();
        let others = branches.iter().enumerate().filter(|(index, _)| index != chosen);
        into.extend(others.map(|(_, branch)| branch.output.tensor_dims(1)[1..].to_vec()));
        branches[*chosen].dims_beside(inner, into);
    }

    /// What the layers above the end of a way make of its output, with what [`forward_before`](Self::forward_before) saved.
    pub(crate) fn forward_after(
        &self,
        route: &Route,
        output: &Tensor,
        saved: &[Tensor],
        pass: LayerPass<'_>,
    ) -> Result<Tensor, ModelError> {
        let layer = &self.layers[route.layer].layer;
        let x = match &route.inner {
            None => output.clone(),
            Some((chosen, inner)) => {
                let (own, deeper) = saved.split_at((layer.branches().len() - 1).min(saved.len()));
                let mut outputs = own.to_vec();
                outputs.insert(
                    (*chosen).min(own.len()),
                    layer.branches()[*chosen].forward_after(inner, output, deeper, pass)?,
                );
                layer.merge(&outputs)?
            }
        };
        self.run(self.place(route.layer) + 1..self.steps.len(), x, None, pass)
    }

    /// Reverse operators in the order in which the layers run; layers under one name stand for themselves.
    ///
    /// # Errors
    /// [`ModelError::Reverse`] for a layer that cannot be reversed, which it names.
    pub(crate) fn operators(&self) -> Result<Vec<Box<dyn ReverseOperator<f32>>>, ModelError> {
        let mut operators = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let PlacedLayer { path, layer, .. } = &self.layers[step.layer];
            match layer.branches() {
                [only] if layer.kind() == "block" => operators.extend(only.operators()?),
                _ => operators.push(layer.reverse_operator(&join(path, layer.kind()), step.input.shape)?),
            }
        }
        Ok(operators)
    }

    /// All layers as one reverse operator.
    ///
    /// # Errors
    /// As [`operators`](Self::operators).
    pub(crate) fn operator(&self, name: &str) -> Result<Block<f32>, ModelError> {
        Ok(Block::new(name, self.input.shape, self.operators()?)?)
    }
}

/// Order in which layers run: a nondecreasing function moves behind the max-poolings that directly follow it.
fn execution_order(layers: &[PlacedLayer], input: FeatureDims) -> Vec<Step> {
    let is_function = |layer: usize| layers[layer].layer.is_nondecreasing_elementwise();
    let mut order: Vec<usize> = (0..layers.len()).collect();
    let swaps = |a: usize, b: usize| is_function(a) && layers[b].layer.commutes_with_nondecreasing();
    while let Some(i) = (1..order.len()).find(|&i| swaps(order[i - 1], order[i])) {
        order.swap(i - 1, i);
    }
    let mut feature = input;
    let mut steps = Vec::with_capacity(order.len());
    for layer in order {
        steps.push(Step { layer, input: feature });
        if !is_function(layer) {
            feature = layers[layer].output;
        }
    }
    steps
}
