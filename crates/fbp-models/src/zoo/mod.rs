//! Networks by name.
//!
//! | Name | Input | Stages | Parameters |
//! |---|---|---|---|
//! | `mlp` | 1×28×28 | linear 784→128→64→10 | 109,386 |
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
//! # Source
//! The `simple-cnn` networks are those of arXiv:2506.07188; the others are common small references.

mod mlp;
mod small_cnn;
#[cfg(test)]
mod tests;

use crate::spec::LayerSpec;
use crate::{ModelError, NetworkSpec};

const NAMES: [&str; 18] = [
    "mlp",
    "mlp-tanh",
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
        _ => return Err(ModelError::UnknownModel { name: name.to_owned(), known: NAMES.to_vec() }),
    })
}
