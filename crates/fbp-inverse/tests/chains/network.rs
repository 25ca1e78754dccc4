//! A plain network in `f64`, which shares no code with the library: what the oracles run.

use crate::dice::Dice;

/// Samples per step of the training.
const TRAIN_BATCH: usize = 16;

/// One layer on features of channels × side × side entries.
#[derive(Clone)]
pub(crate) enum Layer {
    /// Kernel of side 3 with padding 1; `weight[(o * ci + i) * 9 + t]`.
    Conv {
        ci: usize,
        co: usize,
        side: usize,
        weight: Vec<f64>,
        bias: Vec<f64>,
    },
    /// One scale and shift per channel: a batch normalisation that is only evaluated.
    Scale {
        pixels: usize,
        scale: Vec<f64>,
        shift: Vec<f64>,
    },
    Relu {
        len: usize,
    },
    /// Maxima of disjoint windows of side 2.
    Pool {
        channels: usize,
        side: usize,
    },
    /// Row-major weight.
    Linear {
        rows: usize,
        cols: usize,
        weight: Vec<f64>,
        bias: Vec<f64>,
    },
}

/// Calls `visit(output entry, input entry, tap)` for every product of one pair of channels of a convolution.
fn each_product(side: usize, mut visit: impl FnMut(usize, usize, usize)) {
    for tap in 0..9 {
        let (down, right) = (tap / 3, tap % 3);
        for row in 0..side {
            for col in 0..side {
                let (r, c) = (row + down, col + right);
                if (1..=side).contains(&r) && (1..=side).contains(&c) {
                    visit(row * side + col, (r - 1) * side + c - 1, tap);
                }
            }
        }
    }
}

/// The entry that a pooling window takes.
fn largest_of(x: &[f64], window: usize, side: usize) -> usize {
    let half = side / 2;
    let (channel, row, col) = (window / (half * half), window / half % half, window % half);
    let first = channel * side * side + 2 * row * side + 2 * col;
    let mut best = first;
    for at in [first + 1, first + side, first + side + 1] {
        if x[at] > x[best] {
            best = at;
        }
    }
    best
}

impl Layer {
    pub(crate) fn forward(&self, x: &[f64]) -> Vec<f64> {
        match self {
            Self::Conv { ci, co, side, weight, bias } => {
                let n = side * side;
                let mut y: Vec<f64> = (0..co * n).map(|k| bias[k / n]).collect();
                for pair in 0..co * ci {
                    let (to, from) = (&mut y[pair / ci * n..], &x[pair % ci * n..]);
                    each_product(*side, |out, input, tap| to[out] += weight[pair * 9 + tap] * from[input]);
                }
                y
            }
            Self::Scale { pixels, scale, shift } => {
                x.iter().enumerate().map(|(k, v)| v * scale[k / pixels] + shift[k / pixels]).collect()
            }
            Self::Relu { .. } => x.iter().map(|v| v.max(0.0)).collect(),
            Self::Pool { channels, side } => {
                (0..channels * (side / 2) * (side / 2)).map(|window| x[largest_of(x, window, *side)]).collect()
            }
            Self::Linear { rows, cols, weight, bias } => {
                (0..*rows).map(|i| bias[i] + dot(&weight[i * cols..(i + 1) * cols], x)).collect()
            }
        }
    }

    /// The transposed Jacobian at `x` times `g`; adds the gradients of weights and biases, one after the other.
    pub(crate) fn backward(&self, x: &[f64], g: &[f64], weights: &mut [f64]) -> Vec<f64> {
        let mut back = vec![0.0; x.len()];
        let wanted = !weights.is_empty();
        match self {
            Self::Conv { ci, co, side, weight, .. } => {
                let n = side * side;
                for pair in 0..co * ci {
                    let (out, input) = (pair / ci * n, pair % ci * n);
                    each_product(*side, |to, from, tap| {
                        back[input + from] += weight[pair * 9 + tap] * g[out + to];
                        if wanted {
                            weights[pair * 9 + tap] += g[out + to] * x[input + from];
                        }
                    });
                }
                for k in 0..if wanted { co * n } else { 0 } {
                    weights[co * ci * 9 + k / n] += g[k];
                }
            }
            Self::Scale { pixels, scale, .. } => {
                for k in 0..x.len() {
                    back[k] = g[k] * scale[k / pixels];
                    if wanted {
                        weights[k / pixels] += g[k] * x[k];
                        weights[scale.len() + k / pixels] += g[k];
                    }
                }
            }
            Self::Relu { .. } => {
                for k in 0..x.len() {
                    back[k] = if x[k] > 0.0 { g[k] } else { 0.0 };
                }
            }
            Self::Pool { side, .. } => {
                for (window, g) in g.iter().enumerate() {
                    back[largest_of(x, window, *side)] += g;
                }
            }
            Self::Linear { rows, cols, weight, .. } => {
                for k in 0..rows * cols {
                    back[k % cols] += weight[k] * g[k / cols];
                    if wanted {
                        weights[k] += g[k / cols] * x[k % cols];
                    }
                }
                for i in 0..if wanted { *rows } else { 0 } {
                    weights[rows * cols + i] += g[i];
                }
            }
        }
        back
    }

    fn parameters(&mut self) -> Option<(&mut Vec<f64>, &mut Vec<f64>)> {
        match self {
            Self::Conv { weight, bias, .. } | Self::Linear { weight, bias, .. } => Some((weight, bias)),
            Self::Scale { scale, shift, .. } => Some((scale, shift)),
            Self::Relu { .. } | Self::Pool { .. } => None,
        }
    }
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What to draw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) batch_norm: bool,
    pub(crate) convs: usize,
    pub(crate) hidden: bool,
    pub(crate) pool: bool,
    pub(crate) channels: usize,
    pub(crate) side: usize,
    pub(crate) classes: usize,
}

impl Plan {
    /// Chains of 3 to 9 layers by turns, with and without batch normalisation.
    pub(crate) fn number(chain: usize, dice: &mut Dice) -> Self {
        let kind = chain % 6;
        Self {
            batch_norm: matches!(kind, 1 | 3 | 5),
            convs: [1, 2, 2, 1, 3, 2][kind],
            hidden: matches!(kind, 1 | 4),
            pool: matches!(kind, 0 | 2 | 3 | 5),
            channels: 3 + dice.below(2),
            side: 8,
            classes: 5,
        }
    }

    /// Images of `[0, 1]` around one template per class.
    pub(crate) fn images(&self, count: usize, dice: &mut Dice) -> (Vec<Vec<f64>>, Vec<usize>) {
        let mut fixed = Dice::new(4242);
        let blobs: Vec<[f64; 4]> = (0..3 * self.classes)
            .map(|_| [fixed.uniform(), fixed.uniform(), 0.1 + 0.2 * fixed.uniform(), fixed.uniform()])
            .collect();
        let side = self.side as f64;
        let template = |class: usize, k: usize| {
            let (row, col) = ((k / self.side) as f64 / side, (k % self.side) as f64 / side);
            let bump =
                |b: &[f64; 4]| b[3] * (-((row - b[0]).powi(2) + (col - b[1]).powi(2)) / (2.0 * b[2] * b[2])).exp();
            blobs[3 * class..3 * class + 3].iter().map(bump).sum::<f64>()
        };
        let labels: Vec<usize> = (0..count).map(|_| dice.below(self.classes)).collect();
        let image = |&label: &usize| {
            let gain = 0.5 + dice.uniform();
            (0..self.side * self.side)
                .map(|k| (template(label, k) * gain + 0.35 * dice.normal()).clamp(0.0, 1.0))
                .collect()
        };
        (labels.iter().map(image).collect(), labels)
    }
}

/// Layers in forward order.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) layers: Vec<Layer>,
}

impl Network {
    /// Random weights of the usual scales; normalisations by the statistics of 64 images.
    pub(crate) fn draw(plan: &Plan, dice: &mut Dice) -> Self {
        let mut network = Self { layers: Vec::new() };
        let (mut features, _) = plan.images(64, dice);
        let (mut ci, mut side) = (1, plan.side);
        for k in 0..plan.convs {
            let (co, n) = (plan.channels, side * side);
            let weight = dice.normals(co * ci * 9, (2.0 / (ci as f64 * 9.0)).sqrt());
            network.push(Layer::Conv { ci, co, side, weight, bias: dice.normals(co, 0.1) }, &mut features);
            if plan.batch_norm {
                let statistics = (0..co).map(|c| mean_and_variance(&features, c * n..(c + 1) * n));
                let (mut scale, mut shift) = (Vec::new(), Vec::new());
                for (mean, variance) in statistics {
                    scale.push((0.5 + dice.uniform()) / (variance + 1e-5).sqrt());
                    shift.push(0.3 * dice.normal() - scale[scale.len() - 1] * mean);
                }
                network.push(Layer::Scale { pixels: n, scale, shift }, &mut features);
            }
            network.push(Layer::Relu { len: co * n }, &mut features);
            ci = co;
            if plan.pool && k == 0 {
                network.push(Layer::Pool { channels: ci, side }, &mut features);
                side /= 2;
            }
        }
        let mut cols = ci * side * side;
        for (rows, gain) in [(24, 2.0), (plan.classes, 1.0)] {
            if rows == plan.classes || plan.hidden {
                let weight = dice.normals(rows * cols, (gain / cols as f64).sqrt());
                network.push(Layer::Linear { rows, cols, weight, bias: dice.normals(rows, 0.1) }, &mut features);
                cols = rows;
                if rows != plan.classes {
                    network.push(Layer::Relu { len: rows }, &mut features);
                }
            }
        }
        network
    }

    fn push(&mut self, layer: Layer, features: &mut [Vec<f64>]) {
        features.iter_mut().for_each(|x| *x = layer.forward(x));
        self.layers.push(layer);
    }

    /// Every feature from the input of layer `first` to the output.
    pub(crate) fn trace(&self, first: usize, x: &[f64]) -> Vec<Vec<f64>> {
        let mut all = vec![x.to_vec()];
        for layer in &self.layers[first..] {
            let above = layer.forward(&all[all.len() - 1]);
            all.push(above);
        }
        all
    }

    /// Gradient with respect to the input of layer `first`.
    pub(crate) fn pull(&self, first: usize, trace: &[Vec<f64>], mut g: Vec<f64>) -> Vec<f64> {
        for k in (first..self.layers.len()).rev() {
            g = self.layers[k].backward(&trace[k - first], &g, &mut []);
        }
        g
    }

    /// Stochastic gradient descent with momentum on the cross-entropy.
    pub(crate) fn train(&mut self, (images, labels): &(Vec<Vec<f64>>, Vec<usize>), epochs: usize, rate: f64) {
        let sizes = self.layers.iter_mut().map(|layer| layer.parameters().map_or(0, |(w, b)| w.len() + b.len()));
        let mut velocity: Vec<Vec<f64>> = sizes.map(|size| vec![0.0; size]).collect();
        for _ in 0..epochs {
            for (images, labels) in images.chunks(TRAIN_BATCH).zip(labels.chunks(TRAIN_BATCH)) {
                let mut gradient: Vec<Vec<f64>> = velocity.iter().map(|v| vec![0.0; v.len()]).collect();
                for (image, &label) in images.iter().zip(labels) {
                    let trace = self.trace(0, image);
                    let mut g = softmax(&trace[self.layers.len()]);
                    g[label] -= 1.0;
                    for k in (0..self.layers.len()).rev() {
                        g = self.layers[k].backward(&trace[k], &g, &mut gradient[k]);
                    }
                }
                let norm = gradient.iter().map(|g| dot(g, g)).sum::<f64>().sqrt() / TRAIN_BATCH as f64;
                let length = rate / norm.max(1.0) / TRAIN_BATCH as f64;
                for ((layer, velocity), gradient) in self.layers.iter_mut().zip(&mut velocity).zip(&gradient) {
                    let Some((weight, bias)) = layer.parameters() else { continue };
                    let entries = weight.iter_mut().chain(bias.iter_mut());
                    for ((parameter, v), g) in entries.zip(velocity).zip(gradient) {
                        *v = 0.9 * *v - length * g;
                        *parameter += *v;
                    }
                }
            }
        }
    }

    /// Where features are reconstructed: at the input, and behind every activation with its pooling.
    pub(crate) fn boundaries(&self) -> Vec<usize> {
        let ends_stage = |k: usize| match (&self.layers[k - 1], &self.layers[k]) {
            (Layer::Relu { .. }, Layer::Pool { .. }) => false,
            (below, _) => matches!(below, Layer::Relu { .. } | Layer::Pool { .. }),
        };
        (0..self.layers.len()).filter(|&k| k == 0 || ends_stage(k)).collect()
    }
}

fn softmax(y: &[f64]) -> Vec<f64> {
    let top = y.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = y.iter().map(|v| (v - top).exp()).sum();
    y.iter().map(|v| (v - top).exp() / sum).collect()
}

fn mean_and_variance(features: &[Vec<f64>], entries: std::ops::Range<usize>) -> (f64, f64) {
    let all: Vec<f64> = features.iter().flat_map(|x| x[entries.clone()].iter().copied()).collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    (mean, all.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / all.len() as f64)
}
