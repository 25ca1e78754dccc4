//! The linear and convolutional layers of a network as matrices that act on columns of inputs.

use candle_core::Tensor;
use faer::Mat;
use fbp_models::{LayerPass, LayerSpec, Network, bridge};

use crate::TrainError;

/// A linear or convolutional layer, as `W x̃` on the columns `x̃ = (x, 1)` of its input: the whole feature of a linear
/// layer, one patch for every output position of a convolution.
#[derive(Clone, Debug)]
pub(crate) struct AffineLayer {
    stage: usize,
    layer: usize,
    /// Name of its tensors without the last part, for example `fc1.1`.
    name: String,
    shape: AffineShape,
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
    Conv {
        input: [usize; 3],
        output: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        dilation: [usize; 2],
    },
}

impl AffineLayer {
    /// The last linear or convolutional layer of a stage, by the stage's name.
    ///
    /// # Errors
    /// [`TrainError::Model`] for an unknown stage, [`TrainError::Setting`] if it has no such layer.
    pub(crate) fn of_stage(network: &Network, stage: &str) -> Result<Self, TrainError> {
        let index = network.stage_index(stage)?;
        let layers = &network.spec().stages[index].layers;
        match layers.iter().rposition(is_affine) {
            Some(layer) => Self::at(network, index, layer),
            None => {
                Err(TrainError::Setting { name: "stage", value: stage.to_owned(), reason: Self::no_layer(network) })
            }
        }
    }

    /// Why a stage cannot be solved for, and which ones can.
    fn no_layer(network: &Network) -> String {
        let names = Self::stages(network);
        let advice = match &names[..] {
            [] => "and no other stage of this network has one".to_owned(),
            names => format!("choose one of {}", names.join(", ")),
        };
        format!("has no layer that can be solved for, which is a linear one or a conv2d with groups = 1: {advice}")
    }

    /// The stages with a layer that can be solved for.
    pub(crate) fn stages(network: &Network) -> Vec<String> {
        let stages = network.spec().stages.iter().filter(|stage| stage.layers.iter().any(is_affine));
        stages.map(|stage| stage.name.clone()).collect()
    }

    /// The layer at a place that is known to be linear or a convolution with one group.
    pub(crate) fn at(network: &Network, stage: usize, layer: usize) -> Result<Self, TrainError> {
        let name = format!("{}.{layer}", network.stages()[stage].name());
        let plan = &network.spec().plan()?.stages[stage].layers[layer];
        let (input, output) = (plan.input.shape, plan.output.shape);
        let has_bias = plan.params.iter().any(|param| param.name == "bias");
        let dims = plan.params.first().map(|param| param.dims.clone()).unwrap_or_default();
        let shape = match plan.spec {
            LayerSpec::Conv2d { kernel, stride, padding, dilation, .. } => AffineShape::Conv {
                input: [input.channels, input.height, input.width],
                output: [output.height, output.width],
                kernel: kernel.dims(),
                stride: stride.dims(),
                padding: padding.dims(),
                dilation: dilation.dims(),
            },
            _ => AffineShape::Linear,
        };
        let outputs = dims.first().copied().unwrap_or(0);
        let inputs = dims.iter().skip(1).product();
        Ok(Self { stage, layer, name, shape, outputs, inputs, constant: if has_bias { 1.0 } else { 0.0 } })
    }

    /// Name of its tensors without the last part.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Columns of one sample: 1, or the number of output positions.
    pub(crate) fn positions(&self) -> usize {
        match self.shape {
            AffineShape::Linear => 1,
            AffineShape::Conv { output, .. } => output[0] * output[1],
        }
    }

    /// Weight and bias, `outputs × (inputs + 1)`; a bias that is not there is zero.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if a tensor cannot be read.
    pub(crate) fn weights(&self, network: &Network) -> Result<Mat<f64>, TrainError> {
        let mut weights = Mat::zeros(self.outputs, self.inputs + 1);
        for (name, var) in network.named_vars_of(self.stage..self.stage + 1)? {
            let values = var.flatten_all()?.to_vec1::<f32>()?;
            if name == format!("{}.weight", self.name) {
                for (k, value) in values.into_iter().enumerate() {
                    weights[(k / self.inputs, k % self.inputs)] = f64::from(value);
                }
            } else if name == format!("{}.bias", self.name) {
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
        for (name, var) in network.named_vars_of(self.stage..self.stage + 1)? {
            let values: Vec<f32> = if name == format!("{}.weight", self.name) {
                let entry = |k: usize| weights[(k / self.inputs, k % self.inputs)] as f32;
                (0..self.outputs * self.inputs).map(entry).collect()
            } else if name == format!("{}.bias", self.name) {
                (0..self.outputs).map(|k| weights[(k, self.inputs)] as f32).collect()
            } else {
                continue;
            };
            var.set(&Tensor::from_vec(values, var.dims(), var.device())?)?;
        }
        Ok(())
    }

    /// Input of the layer for a batch of images.
    ///
    /// # Errors
    /// [`TrainError::Model`] for images of another shape.
    pub(crate) fn input(&self, network: &Network, images: &Tensor) -> Result<Tensor, TrainError> {
        Ok(network.infer_before(self.stage, self.layer, images)?)
    }

    /// Output of the layer for a batch of its inputs, flat or not.
    ///
    /// # Errors
    /// [`TrainError::Model`] for inputs of another shape.
    pub(crate) fn output(&self, network: &Network, input: &Tensor) -> Result<Tensor, TrainError> {
        let n = input.dim(0)?;
        let input = match self.shape {
            AffineShape::Linear => input.reshape((n, self.inputs))?,
            AffineShape::Conv { input: [c, h, w], .. } => input.reshape((n, c, h, w))?,
        };
        Ok(network.stages()[self.stage].layers()[self.layer].forward(&input, LayerPass::FIXED)?)
    }

    /// Logits for a batch of outputs of the layer; gradients reach the outputs.
    ///
    /// # Errors
    /// [`TrainError::Model`] for outputs of another shape.
    pub(crate) fn logits(&self, network: &Network, output: &Tensor) -> Result<Tensor, TrainError> {
        Ok(network.infer_after(self.stage, self.layer, output)?)
    }

    /// The columns of one input, `(inputs + 1) × positions`, the last row constant.
    pub(crate) fn columns(&self, input: &[f32]) -> Mat<f64> {
        let mut columns = Mat::zeros(self.inputs + 1, self.positions());
        columns.row_mut(self.inputs).fill(f64::from(self.constant));
        match self.shape {
            AffineShape::Linear => {
                for (row, value) in input.iter().enumerate() {
                    columns[(row, 0)] = f64::from(*value);
                }
            }
            AffineShape::Conv { input: [channels, height, width], output, kernel, stride, padding, dilation } => {
                for row in 0..self.inputs {
                    let (channel, tap) = (row / (kernel[0] * kernel[1]), row % (kernel[0] * kernel[1]));
                    let (ky, kx) = (tap / kernel[1] * dilation[0], tap % kernel[1] * dilation[1]);
                    for position in 0..output[0] * output[1] {
                        let y = (position / output[1] * stride[0] + ky).checked_sub(padding[0]);
                        let x = (position % output[1] * stride[1] + kx).checked_sub(padding[1]);
                        if let (Some(y), Some(x)) = (y, x)
                            && y < height
                            && x < width
                            && channel < channels
                        {
                            columns[(row, position)] = f64::from(input[(channel * height + y) * width + x]);
                        }
                    }
                }
            }
        }
        columns
    }
}

/// Whether a layer can be solved for.
fn is_affine(spec: &LayerSpec) -> bool {
    matches!(spec, LayerSpec::Linear { .. } | LayerSpec::Conv2d { groups: 1, .. })
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

    #[test]
    fn columns_times_weights_are_what_the_layer_gives() {
        let network = Network::new(&NetworkSpec::from_toml(SPEC).unwrap(), 3).unwrap();
        let values: Vec<f32> = (0..84).map(|k| ((k * 37) % 19) as f32 / 9.0 - 1.0).collect();
        let images = Tensor::from_vec(values, (1, 84), &Device::Cpu).unwrap();
        for (stage, constant) in [("conv", 1.0), ("out", 0.0)] {
            let layer = AffineLayer::of_stage(&network, stage).unwrap();
            assert_eq!(layer.constant, constant);
            let input = layer.input(&network, &images).unwrap();
            let output = flat(&layer.output(&network, &input).unwrap()).unwrap();
            let product = layer.weights(&network).unwrap() * layer.columns(&flat(&input).unwrap());
            assert_eq!(product.shape(), (layer.outputs, layer.positions()));
            for (k, value) in output.iter().enumerate() {
                let ours = product[(k / layer.positions(), k % layer.positions())];
                assert!((ours - f64::from(*value)).abs() < 1e-5, "{stage} {k}: {ours} {value}");
            }
        }
    }

    #[test]
    fn weights_round_trip_and_change_the_network() {
        let network = Network::new(&NetworkSpec::from_toml(SPEC).unwrap(), 3).unwrap();
        let layer = AffineLayer::of_stage(&network, "conv").unwrap();
        let weights = layer.weights(&network).unwrap();
        let doubled = &weights * faer::Scale(2.0);
        layer.set(&network, &doubled).unwrap();
        assert_eq!(layer.weights(&network).unwrap(), doubled);
        assert!(AffineLayer::of_stage(&network, "none").is_err());
    }
}
