//! Single images, as the network sees them and as people do.

use candle_core::{Device, Tensor};
use faer::Par;

use crate::TrainError;
use crate::data::{Dataset, Normalization};

/// One image as the network sees it, `[1, C·H·W]`.
///
/// # Errors
/// [`TrainError::Data`] if the sample is not there or the normalisation does not fit.
pub(crate) fn one_image(
    data: &Dataset,
    normalization: &Normalization,
    sample: usize,
) -> Result<(Vec<f32>, Tensor), TrainError> {
    let mut pixels = vec![0.0; data.shape().len()];
    data.normalise_into(&[sample], normalization, &mut pixels, Par::Seq)?;
    let tensor = Tensor::from_slice(&pixels, (1, pixels.len()), &Device::Cpu)?;
    Ok((pixels, tensor))
}

/// Shape `[C, H, W]` of the images.
pub(crate) fn image_shape(data: &Dataset) -> [usize; 3] {
    let shape = data.shape();
    [shape.channels, shape.height, shape.width]
}

/// Brightness, 0 to 1, of an image as the network sees it.
pub(crate) fn brightness(normalization: &Normalization, values: &[f32], [_, height, width]: [usize; 3]) -> Vec<f32> {
    let of = |(index, value): (usize, &f32)| {
        normalization.brightness(index / (height * width), *value).unwrap_or(0.0) as f32
    };
    values.iter().enumerate().map(of).collect()
}
