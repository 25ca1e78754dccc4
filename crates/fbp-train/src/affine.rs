//! The linear and convolutional layers of a network as matrices that act on columns of inputs.

use candle_core::Tensor;
use faer::Mat;
use fbp_models::spec::LayerPlan;
use fbp_models::{LayerPass, LayerPlace, LayerSpec, Network, bridge};

use crate::TrainError;
use crate::patches::Patches;

/// A linear or convolutional layer, as `W x̃` on the columns `x̃ = (x, 1)` of its input: the whole feature of a linear
/// layer, one token, or one patch for every output position of a convolution.
///
/// A *state* of a sample is the input of the layer and then whatever runs past it (shortcuts, other branches).
#[derive(Clone, Debug)]
pub(crate) struct AffineLayer {
    place: LayerPlace,
    shape: AffineShape,
    /// Length of the layer's input, which is the first part of a state.
    input_len: usize,
    /// Shapes of what runs past the layer, without the batch.
    beside: Vec<Vec<usize>>,
    /// Number of outputs: of the layer, or channels of a convolution.
    pub(crate) outputs: usize,
    /// Length of a column, without the constant.
    pub(crate) inputs: usize,
    /// 1, or 0 if the layer has no bias.
    pub(crate) constant: f32,
}

#[derive(Clone, Copy, Debug)]
enum AffineShape {
    Linear,
    /// A linear layer on so many tokens.
    Tokens(usize),
    Conv(Patches),
}

/// Whether a layer is a matrix on columns.
fn is_affine(plan: &LayerPlan) -> bool {
    matches!(plan.spec, LayerSpec::Linear { .. } | LayerSpec::Conv2d { groups: 1, .. })
}

/// The last such layer of a list, on the way past shortcuts.
fn last_affine(layers: &[LayerPlan]) -> Option<&LayerPlan> {
    layers.iter().rev().find_map(|layer| match &layer.spec {
        LayerSpec::Residual { .. } => layer.branches.iter().find_map(|branch| last_affine(branch)),
        _ if is_affine(layer) => Some(layer),
        _ => layer.branches.iter().rev().find_map(|branch| last_affine(branch)),
    })
}

/// The layer of this path that is a matrix on columns.
fn affine_at<'a>(layers: &'a [LayerPlan], path: &str) -> Option<&'a LayerPlan> {
    layers.iter().find_map(|layer| match layer.path == path && is_affine(layer) {
        true => Some(layer),
        false => layer.branches.iter().find_map(|branch| affine_at(branch, path)),
    })
}

impl AffineLayer {
    /// The layer of a path, for example `layer4.1.conv2`; or, by the name of a stage, its last linear or convolutional layer.
    ///
    /// # Errors
    /// [`TrainError::Model`] for neither, [`TrainError::Setting`] if it has no such layer, or the layer is of another kind.
    pub(crate) fn of(network: &Network, name: &str) -> Result<Self, TrainError> {
        let plan = network.spec().plan()?;
        if let Some(stage) = plan.stages.iter().find(|stage| stage.name == name)
            && let Some(layer) = last_affine(&stage.layers)
        {
            return Self::new(network, layer);
        }
        let is_stage = plan.stages.iter().any(|stage| stage.name == name);
        let found = plan.stages.iter().find_map(|stage| affine_at(&stage.layers, name));
        match found {
            Some(layer) => Self::new(network, layer),
            None if is_stage => {
                let reason = Self::no_layer(network)?;
                Err(TrainError::Setting { name: "stage", value: name.to_owned(), reason })
            }
            None => {
                // What has no dots was meant as a stage, and is none.
                let place = network.place(name).map_err(|unknown| match name.contains('.') {
                    true => unknown,
                    false => network.stage_index(name).err().unwrap_or(unknown),
                })?;
                let reason = format!(
                    "is a {} layer, and only a linear layer and a conv2d with groups = 1 can be solved for",
                    network.layer(&place)?.kind()
                );
                Err(TrainError::Setting { name: "stage", value: place.path, reason })
            }
        }
    }

    /// Why a stage cannot be solved for, and which ones can.
    fn no_layer(network: &Network) -> Result<String, TrainError> {
        let names = Self::stages(network)?;
        let advice = match &names[..] {
            [] => "and no other stage of this network has one".to_owned(),
            names => format!("choose one of {}", names.join(", ")),
        };
        Ok(format!("has no layer that can be solved for, which is a linear one or a conv2d with groups = 1: {advice}"))
    }

    /// The stages with a layer that can be solved for.
    pub(crate) fn stages(network: &Network) -> Result<Vec<String>, TrainError> {
        let plan = network.spec().plan()?;
        let stages = plan.stages.iter().filter(|stage| last_affine(&stage.layers).is_some());
        Ok(stages.map(|stage| stage.name.clone()).collect())
    }

    fn new(network: &Network, plan: &LayerPlan) -> Result<Self, TrainError> {
        let place = network.place(&plan.path)?;
        let has_bias = plan.params.iter().any(|param| param.name == "bias");
        let dims = plan.params.first().map(|param| param.dims.clone()).unwrap_or_default();
        let shape = match Patches::of(plan) {
            Some(patches) => AffineShape::Conv(patches),
            None if plan.input.is_tokens() => AffineShape::Tokens(plan.input.shape.channels),
            None => AffineShape::Linear,
        };
        let beside = network.dims_beside(&place)?;
        Ok(Self {
            place,
            shape,
            input_len: plan.input.len(),
            beside,
            outputs: dims.first().copied().unwrap_or(0),
            inputs: dims.iter().skip(1).product(),
            constant: if has_bias { 1.0 } else { 0.0 },
        })
    }

    /// Whether something runs past the layer within its stage.
    pub(crate) fn is_beside_others(&self) -> bool {
        !self.beside.is_empty()
    }

    /// Length of the state of a sample.
    pub(crate) fn state_len(&self) -> usize {
        self.input_len + self.beside.iter().map(|dims| dims.iter().product::<usize>()).sum::<usize>()
    }

    /// The stage that the layer belongs to.
    pub(crate) fn stage(&self) -> usize {
        self.place.stage
    }

    /// Name of its tensors without the last part, for example `fc1.1`.
    pub(crate) fn name(&self) -> &str {
        &self.place.path
    }

    /// Columns of one sample: 1, or the number of tokens or of output positions.
    pub(crate) fn positions(&self) -> usize {
        match self.shape {
            AffineShape::Linear => 1,
            AffineShape::Tokens(count) => count,
            AffineShape::Conv(patches) => patches.positions(),
        }
    }

    /// Place of one output at one position within the output of a sample.
    pub(crate) fn output_index(&self, output: usize, position: usize) -> usize {
        match self.shape {
            AffineShape::Tokens(_) => position * self.outputs + output,
            _ => output * self.positions() + position,
        }
    }

    fn tensor_name(&self, name: &str) -> String {
        format!("{}.{name}", self.place.path)
    }

    /// Weight and bias, `outputs × (inputs + 1)`; a bias that is not there is zero.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if a tensor cannot be read.
    pub(crate) fn weights(&self, network: &Network) -> Result<Mat<f64>, TrainError> {
        let mut weights = Mat::zeros(self.outputs, self.inputs + 1);
        for (name, var) in network.named_vars_of(self.stage()..self.stage() + 1)? {
            let values = var.flatten_all()?.to_vec1::<f32>()?;
            if name == self.tensor_name("weight") {
                for (k, value) in values.into_iter().enumerate() {
                    weights[(k / self.inputs, k % self.inputs)] = f64::from(value);
                }
            } else if name == self.tensor_name("bias") {
                for (k, value) in values.into_iter().enumerate() {
                    weights[(k, self.inputs)] = f64::from(value);
                }
            }
        }
        Ok(weights)
    }

    /// Writes weight and bias.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if a tensor cannot be written.
    pub(crate) fn set(&self, network: &Network, weights: &Mat<f64>) -> Result<(), TrainError> {
        for (name, var) in network.named_vars_of(self.stage()..self.stage() + 1)? {
            let values: Vec<f32> = if name == self.tensor_name("weight") {
                let entry = |k: usize| weights[(k / self.inputs, k % self.inputs)] as f32;
                (0..self.outputs * self.inputs).map(entry).collect()
            } else if name == self.tensor_name("bias") {
                (0..self.outputs).map(|k| weights[(k, self.inputs)] as f32).collect()
            } else {
                continue;
            };
            var.set(&Tensor::from_vec(values, var.dims(), var.device())?)?;
        }
        Ok(())
    }

    /// States of a batch of images, `[N, L]`.
    ///
    /// # Errors
    /// [`TrainError::Model`] for images of another shape.
    pub(crate) fn states(&self, network: &Network, images: &Tensor) -> Result<Tensor, TrainError> {
        let below = network.infer_before(&self.place, images)?;
        let mut parts = vec![below.input.flatten_from(1)?];
        for other in &below.beside {
            parts.push(other.flatten_from(1)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 1)? })
    }

    /// Output of the layer for a batch of states.
    ///
    /// # Errors
    /// [`TrainError::Model`] for states of another shape.
    pub(crate) fn output(&self, network: &Network, states: &Tensor) -> Result<Tensor, TrainError> {
        let n = states.dim(0)?;
        let input = states.narrow(1, 0, self.input_len)?.contiguous()?;
        let input = match self.shape {
            AffineShape::Linear => input,
            AffineShape::Tokens(count) => input.reshape((n, count, self.inputs))?,
            AffineShape::Conv(Patches { input: [c, h, w], .. }) => input.reshape((n, c, h, w))?,
        };
        Ok(network.layer(&self.place)?.forward(&input, LayerPass::FIXED)?)
    }

    /// Logits for a batch of outputs of the layer and the states they come from; gradients reach the outputs.
    ///
    /// # Errors
    /// [`TrainError::Model`] for outputs of another shape.
    pub(crate) fn logits(&self, network: &Network, states: &Tensor, output: &Tensor) -> Result<Tensor, TrainError> {
        let mut beside = Vec::with_capacity(self.beside.len());
        let mut start = self.input_len;
        for dims in &self.beside {
            let len = dims.iter().product();
            let dims: Vec<usize> = [&[states.dim(0)?], dims.as_slice()].concat();
            beside.push(states.narrow(1, start, len)?.contiguous()?.reshape(dims)?);
            start += len;
        }
        Ok(network.infer_after(&self.place, output, &beside)?)
    }

    /// The columns of one state, `(inputs + 1) × positions`, the last row constant.
    pub(crate) fn columns(&self, state: &[f32]) -> Mat<f64> {
        let input = &state[..self.input_len];
        let mut columns = Mat::zeros(self.inputs + 1, self.positions());
        columns.row_mut(self.inputs).fill(f64::from(self.constant));
        match self.shape {
            AffineShape::Linear | AffineShape::Tokens(_) => {
                for (k, value) in input.iter().enumerate() {
                    columns[(k % self.inputs, k / self.inputs)] = f64::from(*value);
                }
            }
            AffineShape::Conv(patches) => {
                let mut values = vec![0.0; patches.positions()];
                for row in 0..self.inputs {
                    patches.row(input, 0, row, &mut values);
                    for (position, value) in values.iter().enumerate() {
                        columns[(row, position)] = f64::from(*value);
                    }
                }
            }
        }
        columns
    }
}

/// Values of the features of a batch, one sample after the other.
pub(crate) fn flat(batch: &Tensor) -> Result<Vec<f32>, TrainError> {
    Ok(bridge::with_matrix(batch, |matrix| {
        matrix.col_iter().flat_map(|c| c.iter().copied().collect::<Vec<_>>()).collect()
    })?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use fbp_models::NetworkSpec;

    use super::*;

    const SPEC: &str = r#"
name = "odd"
input = [2, 7, 6]
classes = 3

[[stages]]
name = "conv"
layers = [
    { type = "conv2d", out_channels = 4, kernel = [3, 2], stride = [2, 1], padding = 1, dilation = [1, 2] },
    { type = "relu" },
]

[[stages]]
name = "out"
layers = [{ type = "flatten" }, { type = "linear", out_features = 3, bias = false }]
"#;

    /// Whether columns times weights are what the layer gives, and the layers above make of it what the network gives.
    fn check(network: &Network, layer: &AffineLayer, images: &Tensor) {
        let states = layer.states(network, images).unwrap();
        let output = layer.output(network, &states).unwrap();
        let logits = layer.logits(network, &states, &output).unwrap();
        let whole = network.infer(images).unwrap();
        for (a, b) in flat(&logits).unwrap().iter().zip(flat(&whole).unwrap()) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{}: {a} {b}", layer.name());
        }
        let output = flat(&output).unwrap();
        let product = layer.weights(network).unwrap() * layer.columns(&flat(&states).unwrap());
        assert_eq!(product.shape(), (layer.outputs, layer.positions()));
        for o in 0..layer.outputs {
            for p in 0..layer.positions() {
                let (ours, theirs) = (product[(o, p)], f64::from(output[layer.output_index(o, p)]));
                assert!((ours - theirs).abs() < 1e-5, "{} {o} {p}: {ours} {theirs}", layer.name());
            }
        }
    }

    #[test]
    fn layers_within_blocks_are_found_by_their_paths() {
        for (name, input, paths) in [
            ("resnet20", [1, 12, 12], ["layer2.0.conv1", "layer2.0.downsample.0", "layer3.2.conv2", "fc"]),
            ("simple-vit-v2", [1, 8, 8], ["patch_embed.proj", "blocks.0.mlp.fc1", "blocks.3.mlp.fc2", "head"]),
            (
                "squeezenet1_1",
                [1, 40, 40],
                ["features.3.squeeze", "features.4.expand1x1", "features.9.expand3x3", "classifier.1"],
            ),
        ] {
            let spec = fbp_models::zoo::spec(name).unwrap().adapted(input, 4).unwrap();
            let network = Network::new(&spec, 5).unwrap();
            let len: usize = input.iter().product();
            let values: Vec<f32> = (0..len).map(|k| ((k * 37) % 19) as f32 / 9.0 - 1.0).collect();
            let images = Tensor::from_vec(values, (1, len), &Device::Cpu).unwrap();
            for path in paths {
                check(&network, &AffineLayer::of(&network, path).unwrap(), &images);
            }
        }
        let network = Network::new(&fbp_models::zoo::spec("resnet20").unwrap(), 5).unwrap();
        assert_eq!(AffineLayer::of(&network, "layer3").unwrap().name(), "layer3.2.conv2");
        assert!(AffineLayer::of(&network, "layer3.2.bn2").unwrap_err().to_string().contains("batch_norm"));
        assert!(AffineLayer::of(&network, "layer4").unwrap_err().to_string().contains("layer1, layer2, layer3"));
        assert!(AffineLayer::of(&network, "layer4.0").unwrap_err().to_string().contains("layer3.2.conv2"));
    }

    #[test]
    fn columns_times_weights_are_what_the_layer_gives() {
        let network = Network::new(&NetworkSpec::from_toml(SPEC).unwrap(), 3).unwrap();
        let values: Vec<f32> = (0..84).map(|k| ((k * 37) % 19) as f32 / 9.0 - 1.0).collect();
        let images = Tensor::from_vec(values, (1, 84), &Device::Cpu).unwrap();
        for (stage, constant) in [("conv", 1.0), ("out", 0.0)] {
            let layer = AffineLayer::of(&network, stage).unwrap();
            assert_eq!(layer.constant, constant);
            check(&network, &layer, &images);
        }
    }

    #[test]
    fn weights_round_trip_and_change_the_network() {
        let network = Network::new(&NetworkSpec::from_toml(SPEC).unwrap(), 3).unwrap();
        let layer = AffineLayer::of(&network, "conv").unwrap();
        let weights = layer.weights(&network).unwrap();
        let doubled = &weights * faer::Scale(2.0);
        layer.set(&network, &doubled).unwrap();
        assert_eq!(layer.weights(&network).unwrap(), doubled);
        assert!(AffineLayer::of(&network, "none").is_err());
    }
}
