use std::error::Error;

use faer::{Mat, Par};
use fbp_models::Network;
use fbp_train::data::{Dataset, Normalization};

/// A network of linear layers with a ReLU between any two, as matrices on columns `(x, 1)`.
pub(crate) struct Mlp {
    /// Stages, input side first.
    pub(crate) names: Vec<String>,
    /// Weight and bias of each, `outputs × (inputs + 1)`.
    weights: Vec<Mat<f64>>,
}

/// What a layer gets of some samples, and what happens behind it.
pub(crate) struct Pass {
    /// The layer.
    layer: usize,
    /// Its inputs and a constant, one column per sample.
    pub(crate) x: Mat<f64>,
    /// Which units are active, of the layer and of the hidden ones behind it: 1 or 0.
    active: Vec<Mat<f64>>,
    /// Logits, one column per sample.
    pub(crate) logits: Mat<f64>,
}

impl Mlp {
    /// # Errors
    /// For a stage that is no linear layer.
    pub(crate) fn new(network: &Network) -> Result<Self, Box<dyn Error>> {
        let (mut names, mut weights) = (Vec::new(), Vec::new());
        for (index, stage) in network.stages().iter().enumerate() {
            let tensors = network.named_vars_of(index..index + 1)?;
            let [(_, weight), (_, bias)] = &tensors[..] else {
                return Err(format!("{} is not one linear layer", stage.name()).into());
            };
            let (weight, bias) = (weight.to_vec2::<f32>()?, bias.to_vec1::<f32>()?);
            let inputs = weight.first().map_or(0, Vec::len);
            let entry = |o: usize, i: usize| f64::from(if i < inputs { weight[o][i] } else { bias[o] });
            weights.push(Mat::from_fn(weight.len(), inputs + 1, entry));
            names.push(stage.name().to_owned());
        }
        Ok(Self { names, weights })
    }

    /// Number of weights and biases of a layer.
    pub(crate) fn len_of(&self, layer: usize) -> usize {
        self.weights[layer].nrows() * self.weights[layer].ncols()
    }

    /// Some samples up to a layer and behind it.
    ///
    /// # Errors
    /// If a sample is not there.
    pub(crate) fn pass(
        &self,
        layer: usize,
        images: &Dataset,
        samples: &[usize],
        normalization: &Normalization,
    ) -> Result<Pass, Box<dyn Error>> {
        let len = images.shape().len();
        let mut values = vec![0.0; samples.len() * len];
        images.normalise_into(samples, normalization, &mut values, Par::Seq)?;
        let entry = |i: usize, n: usize| if i < len { f64::from(values[n * len + i]) } else { 1.0 };
        let mut x = Mat::from_fn(len + 1, samples.len(), entry);
        for weight in &self.weights[..layer] {
            x = with_constant(&relu(weight * &x));
        }
        let mut active = Vec::new();
        let mut z = &self.weights[layer] * &x;
        for weight in &self.weights[layer + 1..] {
            active.push(Mat::from_fn(z.nrows(), z.ncols(), |i, n| if z[(i, n)] > 0.0 { 1.0 } else { 0.0 }));
            z = weight * with_constant(&relu(z));
        }
        Ok(Pass { layer, x, active, logits: z })
    }

    /// Logits of the decoupled network with a changed layer: which units are active is as it was.
    pub(crate) fn decoupled(&self, pass: &Pass, change: &Mat<f64>) -> Mat<f64> {
        let mut moved = change * &pass.x;
        for (active, weight) in pass.active.iter().zip(&self.weights[pass.layer + 1..]) {
            let on = Mat::from_fn(moved.nrows(), moved.ncols(), |i, n| moved[(i, n)] * active[(i, n)]);
            moved = weight.subcols(0, weight.ncols() - 1) * on;
        }
        &pass.logits + moved
    }

    /// Logits of the network itself with a changed layer.
    pub(crate) fn coupled(&self, pass: &Pass, change: &Mat<f64>) -> Mat<f64> {
        let mut z = (&self.weights[pass.layer] + change) * &pass.x;
        for weight in &self.weights[pass.layer + 1..] {
            z = weight * with_constant(&relu(z));
        }
        z
    }

    /// Derivatives of the logits of one sample by the outputs of the layer, `classes × outputs`.
    pub(crate) fn slopes(&self, pass: &Pass, sample: usize) -> Mat<f64> {
        let classes = pass.logits.nrows();
        let mut slopes: Mat<f64> = Mat::identity(classes, classes);
        for (active, weight) in pass.active.iter().zip(&self.weights[pass.layer + 1..]).rev() {
            let next = slopes * weight.subcols(0, weight.ncols() - 1);
            slopes = Mat::from_fn(next.nrows(), next.ncols(), |c, i| next[(c, i)] * active[(i, sample)]);
        }
        slopes
    }
}

fn relu(z: Mat<f64>) -> Mat<f64> {
    Mat::from_fn(z.nrows(), z.ncols(), |i, n| z[(i, n)].max(0.0))
}

fn with_constant(z: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(z.nrows() + 1, z.ncols(), |i, n| if i < z.nrows() { z[(i, n)] } else { 1.0 })
}

/// Lead of a label over the strongest other class, for every column.
pub(crate) fn leads(logits: &Mat<f64>, labels: &[usize]) -> Vec<f64> {
    let lead = |(n, &label): (usize, &usize)| {
        let others = (0..logits.nrows()).filter(|&class| class != label).map(|class| logits[(class, n)]);
        logits[(label, n)] - others.fold(f64::NEG_INFINITY, f64::max)
    };
    labels.iter().enumerate().map(lead).collect()
}
