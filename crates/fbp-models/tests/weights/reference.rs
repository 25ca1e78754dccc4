//! Logits of PyTorch, torchvision and timm for weights that `tests/data/reference.py` describes.

use std::path::Path;

use candle_core::{Device, Tensor};
use fbp_models::spec::ParamPlan;
use fbp_models::weights::{ImportOptions, StateDict, import};
use fbp_models::{NetworkSpec, zoo};

use super::Folder;
use super::torch_file::TorchFile;

/// Numbers in [-1, 1) that follow from a name.
fn uniform(name: &str, count: usize) -> Vec<f64> {
    let fnv = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325, fnv);
    let number = |position: u64| {
        let mut z = seed.wrapping_add(position.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (1..=count as u64).map(number).collect()
}

/// The weights of a tensor.
fn values(name: &str, dims: &[usize]) -> Vec<f32> {
    let numbers = uniform(name, dims.iter().product());
    let is_weight = name.ends_with("weight");
    let map = |change: &dyn Fn(f64) -> f64| numbers.iter().map(|&u| change(u) as f32).collect();
    if name.ends_with("running_var") {
        map(&|u| 1.0 + u / 2.0)
    } else if name.ends_with("running_mean") {
        map(&|u| u / 10.0)
    } else if is_weight && dims.len() > 1 {
        let is_transformer = name.starts_with("blocks.") || name.starts_with("patch_embed.");
        let gain = if is_transformer { 1.5 } else { 6.0 };
        let scale = (gain / dims[1..].iter().product::<usize>() as f64).sqrt();
        map(&|u| u * scale)
    } else if is_weight {
        map(&|u| 1.0 + u / 4.0)
    } else {
        map(&|u| u / 10.0)
    }
}

/// The logits are those of PyTorch to 3e-5 of the largest one, with weights from a file that `save` makes.
fn agrees(name: &str, spec: &NetworkSpec, save: fn(&TorchFile) -> Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reference.safetensors");
    let expected = StateDict::open(&path).unwrap().read(name).unwrap();
    let plan = spec.plan().unwrap();
    let tensor = |(name, param): (String, &ParamPlan)| {
        let values = values(&name, &param.dims);
        (name, param.dims.clone(), values)
    };
    let tensors: Vec<_> = plan.parameters().map(tensor).collect();
    let folder = Folder::new();
    let weights = StateDict::open(&folder.write("w.pth", &save(&TorchFile::of(&tensors)))).unwrap();
    let network = import(spec, &weights, &ImportOptions::default()).unwrap().network;
    let [channels, height, width] = spec.input;
    let images: Vec<f32> = uniform("images", channels * height * width).iter().map(|u| (2.0 * u) as f32).collect();
    let images = Tensor::from_vec(images, (1, channels, height, width), &Device::Cpu).unwrap();
    let own: Vec<f32> = network.infer(&images).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(own.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let worst = own.iter().zip(&expected).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
    // What is demanded of a whole network, 3e-5. PyTorch's own rounding is up to 5e-6 of the largest logit here.
    let tolerance = 256.0 * f32::EPSILON;
    assert!(worst <= tolerance * largest, "{name}: off by {:.2e} of the largest logit", worst / largest);
}

/// [`agrees`] for a network of the zoo.
fn zoo_agrees(name: &str, save: fn(&TorchFile) -> Vec<u8>) {
    agrees(name, &zoo::spec(name).unwrap(), save);
}

#[test]
fn resnets_give_the_logits_of_torchvision() {
    zoo_agrees("resnet18", TorchFile::zip);
    zoo_agrees("resnet34", TorchFile::legacy);
}

#[test]
fn mobilenet_gives_the_logits_of_torchvision() {
    zoo_agrees("mobilenet-v2", TorchFile::tar);
}

#[test]
fn squeezenet_gives_the_logits_of_torchvision() {
    zoo_agrees("squeezenet1_1", TorchFile::legacy);
}

#[test]
fn a_vision_transformer_gives_the_logits_of_timm() {
    zoo_agrees("vit-tiny-patch16-224", TorchFile::zip);
}

/// `TensorFlowStyle` of `reference.py`.
const TENSORFLOW_STYLE: &str = r#"
name = "tensorflow-style"
input = [3, 35, 37]
classes = 7

[[stages]]
name = "stem"
layers = [
    { type = "conv2d", out_channels = 8, kernel = 3, stride = 2, padding = "same", bias = false },
    { type = "batch_norm", eps = 1e-3 },
    { type = "relu6" },
]

[[stages]]
name = "mix"
layers = [
    { type = "conv2d", out_channels = 8, kernel = 5, stride = 2, padding = "same", groups = 8, bias = false },
    { type = "batch_norm", eps = 1e-3 },
    { type = "relu6" },
    { type = "conv2d", out_channels = 24, kernel = 1, bias = false },
    { type = "batch_norm", eps = 1e-3 },
]

[[stages]]
name = "down"
layers = [
    { type = "conv2d", out_channels = 32, kernel = [3, 5], stride = [1, 2], padding = "same" },
    { type = "silu" },
    { type = "max_pool2d", kernel = 3, stride = 2, padding = 1 },
    { type = "global_avg_pool2d" },
]

[[stages]]
name = "head"
layers = [{ type = "flatten" }, { type = "linear", out_features = 7 }]
"#;

#[test]
fn a_network_outside_the_zoo_with_the_padding_of_tensorflow_gives_the_logits_of_pytorch() {
    agrees("tensorflow-style", &NetworkSpec::from_toml(TENSORFLOW_STYLE).unwrap(), TorchFile::zip);
}
