use fbp_linalg::{FeatureShape, LinalgError};

/// What can be wrong with a reverse pass.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InverseError {
    /// A view of the pass does not have the layer's shape.
    #[error("layer {layer}: {what} must be {} × {}, found {} × {}", expected.0, expected.1, found.0, found.1)]
    Shape {
        /// Name of the layer.
        layer: String,
        /// Which view, for example `"observed_in"`.
        what: &'static str,
        /// Feature length and batch size that the layer needs.
        expected: (usize, usize),
        /// Rows and columns found.
        found: (usize, usize),
    },
    /// The layer cannot be built from these weights or sizes.
    #[error("layer {layer}: {reason}")]
    Layer {
        /// Name of the layer.
        layer: String,
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// Two neighbouring layers do not fit.
    #[error("layer {layer} takes {expected}, but the layer below gives {found}")]
    Chain {
        /// Name of the upper layer.
        layer: String,
        /// Its input shape.
        expected: FeatureShape,
        /// Output shape of the layer below.
        found: FeatureShape,
    },
    /// A target label that is not a class.
    #[error("sample {sample}: label {label} is not below the number of classes, {classes}")]
    Label {
        /// Index of the sample in the batch.
        sample: usize,
        /// The label.
        label: usize,
        /// Number of classes.
        classes: usize,
    },
    /// A parameter outside its documented range.
    #[error("parameter {name} = {value} is outside {range}")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The documented range.
        range: &'static str,
    },
    /// The numeric solve of a layer failed, or its input was not usable.
    #[error("layer {layer}: {source}")]
    Solve {
        /// Name of the layer.
        layer: String,
        /// The error of the solver.
        source: LinalgError,
    },
    /// Whoever asked for the work asked it to end before it was done.
    #[error("stopped as it was asked to, before it was done")]
    Stopped,
}

impl InverseError {
    /// Wraps a solver error with the name of the layer it happened in; for `map_err`.
    pub fn in_layer(layer: &str) -> impl FnOnce(LinalgError) -> Self + '_ {
        move |source| Self::Solve { layer: layer.to_owned(), source }
    }
}
