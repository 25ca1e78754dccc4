//! The library's chain of a plain network, and its targets.

use faer::{Mat, Par};
use fbp_inverse::{
    Activation, ActivationReverse, BatchNormReverse, BatchNormStatistics, ChainGoal, ChainReport, ChainStage,
    ChainWorkspace, Conv2dReverse, Effort, EmbeddingPass, Interval, LinearReverse, Margins, MaxPoolReverse,
    OutputEmbedding, PoolWindow, ReverseChain, ReverseOperator, TargetBox, TargetMode,
};
use fbp_linalg::conv2d::Conv2dParams;
use fbp_linalg::{FeatureShape, Real};

use crate::network::{Layer, Network};
use crate::oracle::{Above, Problem};

pub(crate) const MARGIN: f64 = 1.0;

fn cast<T: Real>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&v| T::from_f64(v)).collect()
}

fn operator<T: Real>(layer: &Layer, name: &str) -> Box<dyn ReverseOperator<T>> {
    match layer {
        Layer::Conv { ci, co, side, weight, bias } => {
            let input = FeatureShape::image(*ci, *side, *side);
            let geometry = Conv2dParams::new(input, *co, [3, 3]).padding([1, 1]).check().unwrap();
            Box::new(Conv2dReverse::new(name, geometry, &cast::<T>(weight), &cast::<T>(bias)).unwrap())
        }
        Layer::Scale { pixels, scale, shift } => {
            let side = (*pixels as f64).sqrt().round() as usize;
            let shape = FeatureShape::image(scale.len(), side, side);
            let (zero, one) = (vec![T::ZERO; scale.len()], vec![T::ONE; scale.len()]);
            let (weight, bias) = (cast::<T>(scale), cast::<T>(shift));
            let statistics =
                BatchNormStatistics { weight: &weight, bias: &bias, mean: &zero, variance: &one, epsilon: 0.0 };
            Box::new(BatchNormReverse::new(name, shape, statistics).unwrap())
        }
        Layer::Relu { len } => {
            Box::new(ActivationReverse::new(name, Activation::Relu, FeatureShape::vector(*len)).unwrap())
        }
        Layer::Pool { channels, side } => {
            let shape = FeatureShape::image(*channels, *side, *side);
            Box::new(MaxPoolReverse::new(name, shape, PoolWindow::disjoint(2, 2)).unwrap())
        }
        Layer::Linear { rows, cols, weight, bias } => {
            let weight = Mat::from_fn(*rows, *cols, |i, j| T::from_f64(weight[i * cols + j]));
            Box::new(LinearReverse::new(name, weight.as_ref(), &cast::<T>(bias)).unwrap())
        }
    }
}

/// The whole network as a chain with images of `[0, 1]`.
pub(crate) fn chain_of<T: Real>(network: &Network) -> ReverseChain<T> {
    let mut ends = network.boundaries();
    ends.push(network.layers.len());
    let stages = ends.windows(2).map(|ends| ChainStage {
        name: format!("stage {}", ends[0]),
        operators: (ends[0]..ends[1]).map(|k| operator(&network.layers[k], &format!("layer {k}"))).collect(),
    });
    ReverseChain::new(stages.collect(), Interval::new(T::ZERO, T::ONE)).unwrap()
}

/// A reversed batch.
pub(crate) struct Reversal<T> {
    pub(crate) chain: ReverseChain<T>,
    pub(crate) work: ChainWorkspace<T>,
    pub(crate) report: ChainReport,
}

impl<T: Real> Reversal<T> {
    pub(crate) fn new(network: &Network, images: &[Vec<f64>], labels: &[usize], how: (TargetMode, Effort)) -> Self {
        let (mode, effort) = how;
        let mut chain = chain_of::<T>(network);
        chain.set_effort(effort);
        let batch = images.len();
        let mut work = chain.workspace(batch, Par::Seq);
        let input = Mat::from_fn(images[0].len(), batch, |i, j| T::from_f64(images[j][i]));
        let logits = chain.forward(input.as_ref(), &mut work).unwrap().to_owned();
        let mut target = Mat::zeros(logits.nrows(), batch);
        let mut satisfied = vec![false; batch];
        let pass =
            EmbeddingPass { logits: logits.as_ref(), labels, target: target.as_mut(), satisfied: &mut satisfied };
        OutputEmbedding::Margin(MARGIN).embed(pass, Par::Seq).unwrap();
        let margins = Some(Margins { labels, margin: MARGIN });
        let goal = ChainGoal { target_out: TargetBox::point(target.as_ref()), margins };
        let report = chain.reverse(goal, mode, &mut work).unwrap();
        Self { chain, work, report }
    }

    /// The target of a sample at a boundary, if it reaches the goal.
    pub(crate) fn attained(&self, boundary: usize, sample: usize) -> Option<Vec<f64>> {
        let target = self.chain.target(boundary, &self.work);
        let target = target.col(sample).iter().map(|v| v.to_f64()).collect();
        self.chain.attained(boundary, sample, &self.work).then_some(target)
    }
}

/// The problem of a sample at the boundary before layer `first`, posed to the oracles.
pub(crate) fn problem<'a>(network: &'a Network, first: usize, image: &[f64], label: usize) -> Problem<'a> {
    let observed = network.trace(0, image)[first].clone();
    let range = (0.0, if first == 0 { 1.0 } else { f64::INFINITY });
    Problem { rest: Box::new(Above { network, first }), observed, label, margin: MARGIN, range }
}
