//! A network of one's own as data, and what its features should have been.
use candle_core::{Device, Tensor};
use faer::Par;
use fbp_inverse::{Interval, TargetMode};
use fbp_models::{ModelError, Network, NetworkSpec, bridge};

const SPEC: &str = r#"
    name = "own"
    input = [1, 8, 8]
    classes = 3
    [[stages]]
    name = "features"
    layers = [{ type = "conv2d", out_channels = 4, kernel = 3 }, { type = "relu" }, { type = "max_pool2d", kernel = 2 }]
    [[stages]]
    name = "out"
    layers = [{ type = "flatten" }, { type = "linear", out_features = 3 }]
"#;

fn main() -> Result<(), ModelError> {
    let network = Network::new(&NetworkSpec::from_toml(SPEC)?, 7)?;
    let pixels: Vec<f32> = (0..4 * 64).map(|i| ((i * i) % 11) as f32 / 10.0).collect();
    let images = Tensor::from_vec(pixels, (4, 1, 8, 8), &Device::Cpu)?;
    let labels = [0, 1, 2, 1];
    let chain = network.reverse_chain(0, Interval::new(0.0, 1.0))?;
    let made = bridge::with_matrix(&images, |input| {
        chain.targets(input, &labels, 0.1, TargetMode::Attainable, Par::rayon(0))
    })??;
    // The network itself says that its features should have been these.
    let stage = &network.stages()[1];
    let features = bridge::tensor_from_matrix(made.targets[1].as_ref(), stage.input())?;
    let logits = network.forward_from(1, &features)?.to_vec2::<f32>()?;
    assert!(logits.iter().zip(labels).all(|(row, label)| row.iter().all(|&other| other <= row[label])));
    Ok(())
}
