mod weights;

use std::path::{Path, PathBuf};

use fbp_inverse::InverseError;
use fbp_linalg::LinalgError;

pub use weights::{Mismatch, WeightsFault};

/// What can be wrong with a network, its description, its inputs or its checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The text of a network description cannot be read.
    #[error("the network description is not valid {format}: {reason}")]
    Syntax {
        /// `"TOML"` or `"JSON"`.
        format: &'static str,
        /// What the parser says, with the position.
        reason: String,
    },
    /// Something about a network description as a whole.
    #[error("network {network}: {reason}")]
    Network {
        /// Name of the network.
        network: String,
        /// What is wrong.
        reason: String,
    },
    /// A stage of a network description.
    #[error("stage {stage}: {reason}")]
    Stage {
        /// Name of the stage.
        stage: String,
        /// What is wrong.
        reason: String,
    },
    /// A layer of a network description.
    #[error("stage {stage}, layer {layer} ({kind}): {reason}")]
    Layer {
        /// Name of the stage.
        stage: String,
        /// Where the layer is in its stage: names and positions from 0, joined by dots.
        layer: String,
        /// Kind of the layer, as written in the description.
        kind: String,
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// A name that is not in the zoo.
    #[error("unknown model {name:?}; known models are {}", known.join(", "))]
    UnknownModel {
        /// The name asked for.
        name: String,
        /// Every name of the zoo.
        known: Vec<&'static str>,
    },
    /// A stage name that the network does not have.
    #[error("unknown stage {name:?}; the stages are {}", known.join(", "))]
    UnknownStage {
        /// The name asked for.
        name: String,
        /// The stages of the network, input side first.
        known: Vec<String>,
    },
    /// A path that leads to no layer.
    #[error("there is no layer {path:?}; layers with parameters are {}", known.join(", "))]
    UnknownLayer {
        /// The path asked for.
        path: String,
        /// The paths of all layers with parameters of their own.
        known: Vec<String>,
    },
    /// A stage index or range that the network does not have.
    #[error("stages {start}..{end} are not a range of the network's {stages} stages")]
    StageRange {
        /// First stage asked for.
        start: usize,
        /// One past the last stage asked for.
        end: usize,
        /// Number of stages of the network.
        stages: usize,
    },
    /// An input tensor of another shape than the stage takes.
    #[error("{what}: expected a batch of {expected}, found a tensor of shape {found:?}")]
    InputShape {
        /// Which input.
        what: String,
        /// What one sample must look like.
        expected: String,
        /// Dimensions of the tensor.
        found: Vec<usize>,
    },
    /// A tensor that is not made of single-precision floats in the processor's memory.
    #[error("{what}: expected an f32 tensor on the CPU, found {found}")]
    InputKind {
        /// Which tensor.
        what: &'static str,
        /// Its type and device.
        found: String,
    },
    /// Labels that do not fit the logits.
    #[error("label {label} of sample {sample} is not below the number of classes, {classes}")]
    Label {
        /// Index of the sample in the batch.
        sample: usize,
        /// The label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// A setting outside its documented range.
    #[error("{name} = {value} is out of range: it takes {range}")]
    Parameter {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The documented range.
        range: &'static str,
    },
    /// An operation on tensors failed.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A numeric kernel refused its arguments.
    #[error("{what}: {source}")]
    Kernel {
        /// The operation.
        what: &'static str,
        /// The error of the kernel.
        source: LinalgError,
    },
    /// The reverse operator of a layer cannot be built.
    #[error(transparent)]
    Reverse(#[from] InverseError),
    /// A layer without one of its tensors.
    #[error("layer {layer} has no {parameter}")]
    MissingParameter {
        /// Full name of the layer.
        layer: String,
        /// Name of the tensor.
        parameter: String,
    },
    /// A description of what images go through that cannot be used.
    #[error("the preprocessing of images cannot be used: {reason}")]
    Preprocessing {
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, for example `"write"`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A checkpoint that does not fit.
    #[error("checkpoint {}: {fault}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: CheckpointFault,
    },
    /// A file of weights from somewhere else that cannot be used.
    #[error("weights {}: {fault}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: WeightsFault,
    },
}

/// What can be wrong with a checkpoint file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointFault {
    /// Not a safetensors file, or a truncated one.
    #[error("not a complete safetensors file ({0})")]
    Format(String),
    /// The metadata name no architecture.
    #[error(
        "no architecture in its metadata (key {:?}), so it was not written by this software",
        crate::checkpoint::NETWORK_KEY
    )]
    NoArchitecture,
    /// The architecture in the metadata cannot be read.
    #[error("its architecture cannot be used: {0}")]
    BadArchitecture(Box<ModelError>),
    /// The preprocessing in the metadata cannot be used, or is that of images of another size.
    #[error("{0}; it was written by other or newer software")]
    BadPreprocessing(Box<ModelError>),
    /// Another network than the one asked for.
    #[error("it holds the network {found}, but {expected} was asked for: {difference}")]
    OtherArchitecture {
        /// Name of the network asked for.
        expected: String,
        /// Name of the network in the file.
        found: String,
        /// The first difference.
        difference: String,
    },
    /// A tensor of the architecture is not in the file.
    #[error("tensor {0} is missing")]
    MissingTensor(String),
    /// A tensor in the file is not of the architecture.
    #[error("tensor {0} is not part of the network")]
    UnexpectedTensor(String),
    /// A tensor of another shape.
    #[error("tensor {tensor} has shape {found:?}, but the network needs {expected:?}")]
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// Shape that the network needs.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor of another type of number.
    #[error("tensor {tensor} has numbers of type {found}, but the network needs F32")]
    Dtype {
        /// Name of the tensor.
        tensor: String,
        /// Type in the file.
        found: String,
    },
    /// NaN or infinity among the weights.
    #[error("tensor {tensor} is not finite at position {index}")]
    NonFinite {
        /// Name of the tensor.
        tensor: String,
        /// Position of the first such value, in row-major order.
        index: usize,
    },
}

impl ModelError {
    /// Wraps a kernel error with the name of the operation; for `map_err`.
    pub(crate) fn in_kernel(what: &'static str) -> impl FnOnce(LinalgError) -> Self {
        move |source| Self::Kernel { what, source }
    }

    /// Wraps an input or output error with what was tried; for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

impl CheckpointFault {
    /// The fault of a given file.
    pub(crate) fn of(self, path: &Path) -> ModelError {
        ModelError::Checkpoint { path: path.to_owned(), fault: self }
    }
}
