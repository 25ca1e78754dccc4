use fbp_models::Network;

use super::constraint::{Constraints, Tensors};
use super::layers::MatrixLayer;
use super::options::Bits;
use super::record::SizeRecord;
use crate::TrainError;

/// Bytes of a number in single precision.
const FLOAT: usize = size_of::<f32>();

/// Size of a compressed network: as the checkpoint has it, and packed.
///
/// Packed weights of a layer are whatever is least of: all of them one after the other; a bit for each that says whether it is zero,
/// then the others; or, in a pattern, two of every four with two bits each for their places. Levels take their bits, and every output
/// a scale. All else takes four bytes a number.
///
/// # Errors
/// [`TrainError::Tensor`] if a weight cannot be read.
pub(super) fn size_of_network(
    network: &Network,
    layers: &[MatrixLayer],
    constraints: &Constraints,
    bits: Option<Bits>,
    has_pattern: impl Fn(&str) -> bool,
) -> Result<SizeRecord, TrainError> {
    let tensors = Tensors::of(network);
    let numbers: usize = network.state().map(|(_, var)| var.elem_count()).sum();
    let mut size = SizeRecord { dense_bytes: FLOAT * numbers, ..SizeRecord::default() };
    let mut packed = FLOAT * numbers;
    for layer in layers {
        let weights = tensors.read(&layer.weight())?;
        let is_rounded = constraints.get(&layer.path).is_some_and(|constraint| constraint.levels.is_some());
        let bits = bits.filter(|_| is_rounded);
        let width = bits.map_or(8 * FLOAT, Bits::count);
        let (all, zeros) = (weights.len(), weights.iter().filter(|weight| **weight == 0.0).count());
        let mut least = (all * width).min(all + (all - zeros) * width);
        if has_pattern(&layer.path) {
            least = least.min(all / 2 * (width + 2));
        }
        let scales = if bits.is_some() { FLOAT * layer.all_outputs() } else { 0 };
        packed = packed - FLOAT * all + least.div_ceil(8) + scales;
        size.weights += all;
        size.zeros += zeros;
    }
    size.packed_bytes = packed;
    Ok(size)
}
