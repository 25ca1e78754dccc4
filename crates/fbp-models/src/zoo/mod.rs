//! Networks by name.
//!
//! | Name | Input | Stages | Parameters |
//! |---|---|---|---|
//! | `mlp` | 1×28×28 | linear 784→128→64→10 | 109,386 |
//! | `mlp-planner` | 8 numbers | linear 8→512→512→512→16: state and command to a path of 8 poses | 538,128 |
//! | `simple-cnn-mnist-v1` | 1×28×28 | conv 5×5 1→2, pool, conv 5×5 2→4, pool, linear 64→10 | 906 |
//! | `simple-cnn-mnist-v2` | 1×28×28 | conv 5×5 1→3, pool, conv 5×5 3→3, pool, linear 48→10 | 796 |
//! | `cnn-mnist-large` | 1×28×28 | conv 5×5 1→10, pool, conv 5×5 10→20, pool, linear 320→64→10 | 26,474 |
//! | `simple-cnn-cifar-v1` | 3×32×32 | channels 3→5→10→15, linear 240→128→10 | 34,343 |
//! | `simple-cnn-cifar-v2` | 3×32×32 | channels 3→10→10→10, linear 160→128→10 | 24,478 |
//! | `simple-cnn-cifar-v3` | 3×32×32 | channels 3→15→10→5, linear 80→128→10 | 14,613 |
//! | `simple-cnn-cifar-v4` | 3×32×32 | channels 3→5→10→15, linear 240→64→10 | 18,279 |
//! | `simple-cnn-cifar-v5` | 3×32×32 | channels 3→15→10→5, linear 80→64→10 | 8,789 |
//!
//! The CIFAR networks are conv 5×5, pool, conv 3×3, pool, conv 3×3, linear, linear. Every convolution and every linear
//! layer but the last is followed by a ReLU; a name with the ending `-tanh` means the same network with tanh. A pool
//! is a maximum over disjoint 2×2 windows and comes after the activation.
//!
//! Networks of other people, with their parameters' names, for [`NetworkSpec::adapted`] to other inputs and classes:
//!
//! | Name | Input | Parameters | As in |
//! |---|---|---|---|
//! | `resnet18`, `resnet34` | 3×224×224 | 11,689,512 and 21,797,672 | torchvision |
//! | `resnet18-cifar`, `resnet34-cifar` | 3×32×32 | 11,173,962 and 21,282,122 | the same with a 3×3 stem |
//! | `resnet20` | 3×32×32 | 272,474 | He et al., CIFAR, 1×1 shortcuts |
//! | `mobilenet-v2`, `mobilenet-v2-035` | 3×224×224 | 3,504,872 and 1,677,128 | torchvision, width 1 and 0.35 |
//! | `squeezenet1_1` | 3×224×224 | 1,235,496 | torchvision |
//! | `se-resnet20` | 3×32×32 | 274,847 | `resnet20` with squeeze-excite blocks |
//! | `vit-tiny-patch16-224` | 3×224×224 | 5,717,416 | timm |
//! | `simple-vit`, `simple-vit-v2` | 3×32×32 | | patch 4, 64 wide, 4 blocks and heads; the second one with normalisation |
//! | `vit-192-9-12` | 3×32×32 | | patch 4, 192 wide, 9 blocks, 12 heads, MLP ratio 2 |
//!
//! # Source
//! The `simple-cnn` networks and the sizes of the small transformers are those of arXiv:2506.07188; the others are common
//! references.

mod mlp;
mod mobilenet;
mod resnet;
mod small_cnn;
mod squeezenet;
#[cfg(test)]
mod tests;
mod vit;

use crate::spec::LayerSpec;
use crate::{ModelError, NetworkSpec};

const NAMES: [&str; 32] = [
    "mlp",
    "mlp-tanh",
    "mlp-planner",
    "simple-cnn-mnist-v1",
    "simple-cnn-mnist-v1-tanh",
    "simple-cnn-mnist-v2",
    "simple-cnn-mnist-v2-tanh",
    "cnn-mnist-large",
    "cnn-mnist-large-tanh",
    "simple-cnn-cifar-v1",
    "simple-cnn-cifar-v1-tanh",
    "simple-cnn-cifar-v2",
    "simple-cnn-cifar-v2-tanh",
    "simple-cnn-cifar-v3",
    "simple-cnn-cifar-v3-tanh",
    "simple-cnn-cifar-v4",
    "simple-cnn-cifar-v4-tanh",
    "simple-cnn-cifar-v5",
    "simple-cnn-cifar-v5-tanh",
    "resnet18",
    "resnet34",
    "resnet18-cifar",
    "resnet34-cifar",
    "resnet20",
    "se-resnet20",
    "mobilenet-v2",
    "mobilenet-v2-035",
    "squeezenet1_1",
    "vit-tiny-patch16-224",
    "simple-vit",
    "simple-vit-v2",
    "vit-192-9-12",
];

/// Every name that [`spec`] knows.
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// Description of a network of the zoo.
///
/// # Errors
/// [`ModelError::UnknownModel`], which lists the known names.
///
/// # Example
/// ```
/// use fbp_models::{Network, zoo};
///
/// let network = Network::new(&zoo::spec("simple-cnn-mnist-v2")?, 0)?;
/// assert_eq!(network.parameter_count(), 796);
/// assert!(zoo::spec("resnet-1000").is_err_and(|e| e.to_string().contains("cnn-mnist-large")));
/// # Ok::<(), fbp_models::ModelError>(())
/// ```
pub fn spec(name: &str) -> Result<NetworkSpec, ModelError> {
    let (base, activation) = match name.strip_suffix("-tanh") {
        Some(base) => (base, LayerSpec::Tanh {}),
        None => (name, LayerSpec::Relu {}),
    };
    Ok(match base {
        "mlp" => mlp::spec(name, activation),
        "simple-cnn-mnist-v1" => small_cnn::mnist(name, [2, 4], &[], activation),
        "simple-cnn-mnist-v2" => small_cnn::mnist(name, [3, 3], &[], activation),
        "cnn-mnist-large" => small_cnn::mnist(name, [10, 20], &[64], activation),
        "simple-cnn-cifar-v1" => small_cnn::cifar(name, [5, 10, 15], 128, activation),
        "simple-cnn-cifar-v2" => small_cnn::cifar(name, [10, 10, 10], 128, activation),
        "simple-cnn-cifar-v3" => small_cnn::cifar(name, [15, 10, 5], 128, activation),
        "simple-cnn-cifar-v4" => small_cnn::cifar(name, [5, 10, 15], 64, activation),
        "simple-cnn-cifar-v5" => small_cnn::cifar(name, [15, 10, 5], 64, activation),
        _ => return real(name),
    })
}

/// The networks of other people.
fn real(name: &str) -> Result<NetworkSpec, ModelError> {
    let small =
        vit::Sizes { image: 32, patch: 4, width: 64, depth: 4, heads: 4, mlp_ratio: 2, norm: false, classes: 10 };
    Ok(match name {
        "mlp-planner" => mlp::planner(name),
        "resnet18" => resnet::imagenet(name, [2, 2, 2, 2]),
        "resnet34" => resnet::imagenet(name, [3, 4, 6, 3]),
        "resnet18-cifar" => resnet::cifar_stem(name, [2, 2, 2, 2]),
        "resnet34-cifar" => resnet::cifar_stem(name, [3, 4, 6, 3]),
        "resnet20" => resnet::cifar(name, 3),
        "se-resnet20" => resnet::squeeze_excite(name, 3),
        "mobilenet-v2" => mobilenet::v2(name, 100),
        "mobilenet-v2-035" => mobilenet::v2(name, 35),
        "squeezenet1_1" => squeezenet::v1_1(name),
        "simple-vit" => vit::spec(name, &small),
        "simple-vit-v2" => vit::spec(name, &vit::Sizes { norm: true, ..small }),
        "vit-192-9-12" => vit::spec(name, &vit::Sizes { width: 192, depth: 9, heads: 12, norm: true, ..small }),
        "vit-tiny-patch16-224" => {
            let sizes = vit::Sizes {
                image: 224,
                patch: 16,
                width: 192,
                depth: 12,
                heads: 3,
                mlp_ratio: 4,
                norm: true,
                classes: 1000,
            };
            vit::spec(name, &sizes)
        }
        _ => return Err(ModelError::UnknownModel { name: name.to_owned(), known: NAMES.to_vec() }),
    })
}
