use std::collections::HashMap;

use fbp_models::Network;

use super::layers::MatrixLayer;
use super::options::Bits;
use super::rounding::Levels;
use crate::TrainError;

/// What the weights of a layer must keep to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Constraint {
    /// Which weights may be other than zero, in the order of the tensor; all of them if there is none.
    pub(super) kept: Option<Vec<bool>>,
    /// Levels of every output; any numbers if there are none.
    pub(super) levels: Option<Vec<Levels>>,
}

impl Constraint {
    /// The nearest weights that keep to it.
    pub(super) fn apply(&self, weights: &mut [f32]) {
        if let Some(kept) = &self.kept {
            weights.iter_mut().zip(kept).filter(|(_, kept)| !**kept).for_each(|(weight, _)| *weight = 0.0);
        }
        if let Some(levels) = &self.levels {
            let width = weights.len() / levels.len().max(1);
            for (row, levels) in weights.chunks_exact_mut(width.max(1)).zip(levels) {
                row.iter_mut().for_each(|weight| *weight = levels.round(f64::from(*weight)) as f32);
            }
        }
    }

    /// Levels for the rows of a weight.
    pub(super) fn set_levels(&mut self, weights: &[f32], outputs: usize, bits: Bits) {
        let rows = weights.chunks_exact((weights.len() / outputs.max(1)).max(1));
        let of = |row: &[f32]| Levels::of(&row.iter().map(|&weight| f64::from(weight)).collect::<Vec<_>>(), bits);
        self.levels = Some(rows.map(of).collect());
    }
}

/// The constraints of all layers, by their paths.
pub(super) type Constraints = HashMap<String, Constraint>;

/// Weights of a network by name, for reading and writing.
pub(super) struct Tensors {
    vars: HashMap<String, candle_core::Var>,
}

impl Tensors {
    pub(super) fn of(network: &Network) -> Self {
        Self { vars: network.state().collect() }
    }

    /// Values of a tensor; none for a name that is not there.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if it cannot be read.
    pub(super) fn read(&self, name: &str) -> Result<Vec<f32>, TrainError> {
        Ok(match self.vars.get(name) {
            Some(var) => var.flatten_all()?.to_vec1::<f32>()?,
            None => Vec::new(),
        })
    }

    /// Dimensions of a tensor.
    pub(super) fn dims(&self, name: &str) -> Vec<usize> {
        self.vars.get(name).map(|var| var.dims().to_vec()).unwrap_or_default()
    }

    /// Writes a tensor; a name that is not there is left out.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if it has another number of values.
    pub(super) fn write(&self, name: &str, values: &[f32]) -> Result<(), TrainError> {
        if let Some(var) = self.vars.get(name) {
            var.set(&candle_core::Tensor::from_slice(values, var.shape(), var.device())?)?;
        }
        Ok(())
    }
}

/// Makes all layers keep to their constraints.
///
/// # Errors
/// [`TrainError::Tensor`] if a weight cannot be read or written.
pub(super) fn apply_all(
    network: &Network,
    layers: &[MatrixLayer],
    constraints: &Constraints,
) -> Result<(), TrainError> {
    let tensors = Tensors::of(network);
    for layer in layers {
        if let Some(constraint) = constraints.get(&layer.path) {
            let mut weights = tensors.read(&layer.weight())?;
            constraint.apply(&mut weights);
            tensors.write(&layer.weight(), &weights)?;
        }
    }
    Ok(())
}
