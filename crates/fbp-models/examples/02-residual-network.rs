//! A network with residual blocks, whose parameters have the names of a PyTorch state dict, cut at its blocks.
use candle_core::{DType, Device, Tensor};
use fbp_models::{ModelError, Network, NetworkSpec};

const SPEC: &str = r#"
    name = "small-resnet"
    input = [3, 32, 32]
    classes = 10

    [[stages]]
    name = "stem"
    key = ""                                       # parameters conv1.weight, bn1.weight, ..
    layers = [
      { type = "conv2d", name = "conv1", out_channels = 8, kernel = 3, padding = "same", bias = false },
      { type = "batch_norm", name = "bn1" }, { type = "relu" },
    ]

    [[stages]]
    name = "layer1"                                # parameters layer1.0.conv1.weight, layer1.1.downsample.0.weight, ..
    layers = [
      { type = "basic_block", channels = 8 },      # short for two convolutions beside a shortcut
      { type = "residual", layers = [
          { type = "conv2d", name = "conv1", out_channels = 16, kernel = 3, stride = 2, padding = 1 }, { type = "relu" },
        ], skip = { name = "downsample", layers = [{ type = "conv2d", out_channels = 16, kernel = 1, stride = 2 }] } },
    ]

    [[stages]]
    name = "head"
    key = ""
    layers = [{ type = "global_avg_pool2d" }, { type = "flatten" }, { type = "linear", name = "fc", out_features = 10 }]
"#;

fn main() -> Result<(), ModelError> {
    let spec = NetworkSpec::from_toml(SPEC)?;
    let paths: Vec<String> = spec.plan()?.parameters().map(|(path, _)| path).collect();
    assert!(paths.contains(&"layer1.0.bn2.running_mean".to_owned()));
    assert!(paths.contains(&"layer1.1.downsample.0.bias".to_owned()));

    // Stages are what targets are made for: here every block is one.
    let network = Network::new(&spec, 0)?.split_at_blocks()?;
    let names: Vec<&str> = network.stages().iter().map(|stage| stage.name()).collect();
    assert_eq!(names, ["stem", "layer1-0", "layer1-1", "head"]);
    let images = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
    assert_eq!(network.infer(&images)?.dims(), [2, 10]);
    Ok(())
}
