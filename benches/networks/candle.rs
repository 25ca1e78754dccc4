use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;

use candle_core::{D, Tensor, Var};
use candle_nn::optim::{Optimizer, ParamsAdamW};
use candle_nn::{BatchNorm, Module, ModuleT};
use fbp_models::Network;
use fbp_models::spec::{LayerPlan, LayerSpec, Padding};

use crate::case::Work;

/// A network of convolutions, normalisations, ReLU and sums on candle's operations alone.
pub(crate) struct Rival {
    stages: Vec<Vec<Layer>>,
    vars: Vec<Var>,
}

enum Layer {
    Conv(candle_nn::Conv2d),
    Norm(BatchNorm),
    Linear(candle_nn::Linear),
    Relu,
    GlobalPool,
    Flatten,
    /// The sum of some lists; an empty one gives what it takes.
    Sum(Vec<Vec<Layer>>),
}

/// Variables by path, each a copy of the network's.
struct Source {
    state: HashMap<String, Var>,
    vars: Vec<Var>,
}

impl Source {
    fn take(&mut self, path: &str, trained: bool) -> Result<Tensor, Box<dyn Error>> {
        let own = self.state.get(path).ok_or_else(|| format!("candle's copy lacks {path}"))?;
        let var = Var::from_tensor(&own.as_detached_tensor().copy()?)?;
        let tensor = var.as_tensor().clone();
        if trained {
            self.vars.push(var);
        }
        Ok(tensor)
    }

    /// The layers of a list; `None` if candle has not all of them.
    fn layers(&mut self, plans: &[LayerPlan]) -> Result<Option<Vec<Layer>>, Box<dyn Error>> {
        plans.iter().map(|plan| self.layer(plan)).collect()
    }

    fn layer(&mut self, plan: &LayerPlan) -> Result<Option<Layer>, Box<dyn Error>> {
        let path = &plan.path;
        Ok(Some(match &plan.spec {
            LayerSpec::Conv2d { stride, padding, groups: 1, bias: false, .. } => {
                let &Padding::Sides { top, bottom, left, right } = padding else { return Ok(None) };
                if stride.h != stride.w || [bottom, left, right] != [top; 3] {
                    return Ok(None);
                }
                let config = candle_nn::Conv2dConfig { stride: stride.h, padding: top, ..Default::default() };
                Layer::Conv(candle_nn::Conv2d::new(self.take(&format!("{path}.weight"), true)?, None, config))
            }
            LayerSpec::BatchNorm { eps } => {
                let (mean, variance) = (format!("{path}.running_mean"), format!("{path}.running_var"));
                let (mean, variance) = (self.take(&mean, false)?, self.take(&variance, false)?);
                let weight = self.take(&format!("{path}.weight"), true)?;
                let bias = self.take(&format!("{path}.bias"), true)?;
                Layer::Norm(BatchNorm::new(weight.elem_count(), mean, variance, weight, bias, *eps)?)
            }
            LayerSpec::Linear { bias: true, .. } => {
                let weight = self.take(&format!("{path}.weight"), true)?;
                Layer::Linear(candle_nn::Linear::new(weight, Some(self.take(&format!("{path}.bias"), true)?)))
            }
            LayerSpec::Relu {} => Layer::Relu,
            LayerSpec::GlobalAvgPool2d {} => Layer::GlobalPool,
            LayerSpec::Flatten {} => Layer::Flatten,
            LayerSpec::Block { .. } | LayerSpec::Residual { .. } => {
                let branches = plan.branches.iter().map(|layers| self.layers(layers));
                match branches.collect::<Result<Option<_>, _>>()? {
                    Some(branches) => Layer::Sum(branches),
                    None => return Ok(None),
                }
            }
            _ => return Ok(None),
        }))
    }
}

fn run(layers: &[Layer], x: &Tensor, train: bool) -> candle_core::Result<Tensor> {
    layers.iter().try_fold(x.clone(), |x, layer| match layer {
        Layer::Conv(conv) => conv.forward(&x),
        Layer::Norm(norm) => norm.forward_t(&x, train),
        Layer::Linear(linear) => linear.forward(&x),
        Layer::Relu => x.relu(),
        Layer::GlobalPool => x.mean_keepdim(D::Minus1)?.mean_keepdim(D::Minus2),
        Layer::Flatten => x.flatten_from(1),
        Layer::Sum(branches) => {
            let sum = |sum: Option<Tensor>, branch: &Vec<Layer>| {
                let output = run(branch, &x, train)?;
                sum.map_or(Ok(output.clone()), |sum| sum + output).map(Some)
            };
            Ok(branches.iter().try_fold(None, sum)?.unwrap_or(x))
        }
    })
}

impl Rival {
    /// The same network and weights; `None` if candle has not all of its layers.
    pub(crate) fn new(network: &Network) -> Result<Option<Self>, Box<dyn Error>> {
        let mut source = Source { state: network.state().collect(), vars: Vec::new() };
        let mut stages = Vec::new();
        for stage in network.spec().plan()?.stages {
            match source.layers(&stage.layers)? {
                Some(layers) => stages.push(layers),
                None => return Ok(None),
            }
        }
        Ok(Some(Self { stages, vars: source.vars }))
    }

    fn forward(&self, images: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        self.stages.iter().try_fold(images.clone(), |x, layers| run(layers, &x, train))
    }

    pub(crate) fn run(&self, work: Work, images: &Tensor, labels: &[u32]) -> Result<(), Box<dyn Error>> {
        if work != Work::Step {
            black_box(self.forward(images, false)?);
            return Ok(());
        }
        let labels = Tensor::from_slice(labels, labels.len(), images.device())?;
        let mut optimiser = candle_nn::AdamW::new(self.vars.clone(), ParamsAdamW::default())?;
        Ok(optimiser.backward_step(&candle_nn::loss::cross_entropy(&self.forward(images, true)?, &labels)?)?)
    }
}
