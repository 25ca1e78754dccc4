//! The border between tensors and matrix views: the only place where the two meet.
//!
//! A row-major batch `[N, C, H, W]` or `[N, F]` *is* a column-major `F × N` matrix, one column per sample, so a view
//! costs nothing.

use candle_core::{DType, Device, Tensor};
use faer::MatRef;

use crate::ModelError;
use crate::ops::with_values;
use crate::spec::FeatureDims;

/// Runs `f` on a batch seen as a matrix, one column per sample. Copies only if the tensor is not contiguous.
///
/// # Shapes
/// `batch`: `[N, ..]`; the view is `F × N`, `F` the product of the remaining dimensions.
///
/// # Errors
/// [`ModelError::InputKind`] if the tensor is not `f32` on the CPU or has no dimension.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use fbp_models::bridge;
///
/// let batch = Tensor::new(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu)?;
/// let last = bridge::with_matrix(&batch, |matrix| matrix[(2, 1)])?;
/// assert_eq!(last, 6.0);
/// # Ok::<(), fbp_models::ModelError>(())
/// ```
pub fn with_matrix<R>(batch: &Tensor, f: impl FnOnce(MatRef<'_, f32>) -> R) -> Result<R, ModelError> {
    if batch.rank() == 0 || batch.dtype() != DType::F32 || !batch.device().is_cpu() {
        let found = format!("{:?} on {:?}, shape {:?}", batch.dtype(), batch.device().location(), batch.dims());
        return Err(ModelError::InputKind { what: "batch", found });
    }
    let batch = batch.contiguous()?;
    let (rows, columns) = (batch.dims()[1..].iter().product(), batch.dims()[0]);
    Ok(with_values("batch", &batch, |values| Ok(f(MatRef::from_column_major_slice(values, rows, columns))))?)
}

/// Copies a matrix, one column per sample, into a batch tensor.
///
/// # Errors
/// [`ModelError::InputShape`] if the columns do not have the length of the feature.
pub fn tensor_from_matrix(matrix: MatRef<'_, f32>, feature: FeatureDims) -> Result<Tensor, ModelError> {
    if matrix.nrows() != feature.len() {
        let found = vec![matrix.ncols(), matrix.nrows()];
        return Err(ModelError::InputShape { what: "matrix".into(), expected: feature.to_string(), found });
    }
    let mut values = Vec::with_capacity(matrix.nrows() * matrix.ncols());
    for column in matrix.col_iter() {
        match column.try_as_col_major() {
            Some(dense) => values.extend_from_slice(dense.as_slice()),
            None => values.extend(column.iter()),
        }
    }
    tensor_from_vec(values, feature)
}

/// Makes a batch tensor of values in row-major order, without a copy.
///
/// # Errors
/// [`ModelError::InputShape`] if the number of values is no multiple of the length of the feature.
pub fn tensor_from_vec(values: Vec<f32>, feature: FeatureDims) -> Result<Tensor, ModelError> {
    if !values.len().is_multiple_of(feature.len().max(1)) {
        let found = vec![values.len()];
        return Err(ModelError::InputShape { what: "values".into(), expected: feature.to_string(), found });
    }
    let n = values.len() / feature.len().max(1);
    Ok(Tensor::from_vec(values, feature.tensor_dims(n), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_share_memory_and_round_trip() {
        let feature = FeatureDims::image(2, 3, 4);
        let values: Vec<f32> = (0..5 * 24).map(|i| i as f32).collect();
        let tensor = tensor_from_vec(values.clone(), feature).unwrap();
        assert_eq!(tensor.dims(), [5, 2, 3, 4]);
        let address = |t: &Tensor| with_values("test", t, |v| Ok(v.as_ptr() as usize)).unwrap();
        let (same, back) = with_matrix(&tensor, |m| {
            assert_eq!((m.shape(), m[(23, 4)], m[(4, 1)]), ((24, 5), 119.0, 28.0));
            (m.as_ptr() as usize == address(&tensor), tensor_from_matrix(m, feature).unwrap())
        })
        .unwrap();
        assert!(same, "a contiguous tensor is not copied");
        assert_eq!(back.flatten_all().unwrap().to_vec1::<f32>().unwrap(), values);
        let swapped = tensor.transpose(2, 3).unwrap();
        assert_eq!(with_matrix(&swapped, |m| m[(1, 0)]).unwrap(), 4.0);
        let rows = with_matrix(&tensor, |m| tensor_from_matrix(m.transpose(), FeatureDims::flat(5)).unwrap()).unwrap();
        assert_eq!(rows.to_vec2::<f32>().unwrap()[1][2], 49.0);
    }

    #[test]
    fn faulty_tensors_give_errors() {
        assert!(with_matrix(&Tensor::new(1.0_f32, &Device::Cpu).unwrap(), |_| ()).is_err());
        assert!(with_matrix(&Tensor::new(&[1.0_f64], &Device::Cpu).unwrap(), |_| ()).is_err());
        assert!(tensor_from_vec(vec![0.0; 7], FeatureDims::flat(3)).is_err());
        let view = faer::Mat::<f32>::zeros(4, 2);
        assert!(tensor_from_matrix(view.as_ref(), FeatureDims::flat(3)).is_err());
    }
}
