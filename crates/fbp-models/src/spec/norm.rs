//! Sizes of the layers that normalise every sample by its own statistics.

use super::{FeatureDims, LayerSpec, ParamInit, ParamPlan};

/// Sizes of layer, group, instance and RMS normalisation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NormSizes {
    /// Entries that are normalised together, next to each other.
    pub(crate) len: usize,
    /// Entries next to each other that share a scale and a shift.
    pub(crate) repeat: usize,
    /// Whether the mean is subtracted, and a bias added.
    pub(crate) centred: bool,
    /// Added to the variance.
    pub(crate) eps: f64,
    /// Dimensions of the scales and shifts.
    dims: Vec<usize>,
}

impl NormSizes {
    /// The tensors of the layer.
    pub(super) fn params(&self) -> Vec<ParamPlan> {
        let tensor = |name, value| ParamPlan {
            name,
            dims: self.dims.clone(),
            init: ParamInit::Constant(value),
            trainable: true,
        };
        let weight = tensor("weight", 1.0);
        if self.centred { vec![weight, tensor("bias", 0.0)] } else { vec![weight] }
    }
}

impl LayerSpec {
    /// Checked sizes of a layer of this kind; `None` for every other layer.
    pub(crate) fn norm_sizes(&self, input: FeatureDims) -> Result<Option<NormSizes>, String> {
        let shape = input.shape;
        let (eps, centred, (len, repeat, dims)) = match *self {
            Self::LayerNorm { eps, last } => (eps, true, last_dims(input, last)?),
            Self::RmsNorm { eps, last } => (eps, false, last_dims(input, last)?),
            Self::GroupNorm { groups, eps } => (eps, true, channel_groups(input, groups)?),
            Self::InstanceNorm { eps } => (eps, true, channel_groups(input, shape.channels)?),
            _ => return Ok(None),
        };
        if !(eps.is_finite() && eps > 0.0) {
            return Err(format!("eps {eps} is not a positive number"));
        }
        if len == 1 {
            return Err(format!("would normalise single values of {input}, which leaves nothing of them"));
        }
        Ok(Some(NormSizes { len, repeat, centred, eps, dims }))
    }
}

/// Group length, repetition and parameter shape for the last dimensions of a feature.
fn last_dims(input: FeatureDims, last: Option<usize>) -> Result<(usize, usize, Vec<usize>), String> {
    let dims = &input.tensor_dims(1)[1..];
    let last = last.unwrap_or(if input.is_tokens() { 1 } else { dims.len() });
    if last == 0 || last > dims.len() {
        return Err(format!("last = {last} is not between 1 and the {} dimensions of {input}", dims.len()));
    }
    let dims = dims[dims.len() - last..].to_vec();
    Ok((dims.iter().product(), 1, dims))
}

/// The same for groups of channels.
fn channel_groups(input: FeatureDims, groups: usize) -> Result<(usize, usize, Vec<usize>), String> {
    let shape = input.shape;
    if input.is_tokens() {
        return Err(format!("takes an image or a flat feature, but gets the tokens {input}"));
    }
    if groups == 0 || !shape.channels.is_multiple_of(groups) {
        return Err(format!("groups = {groups} does not divide the {} channels of {input}", shape.channels));
    }
    Ok((shape.len() / groups, shape.plane(), vec![shape.channels]))
}
