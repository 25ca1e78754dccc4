use fbp_models::Preprocessing;
use fbp_models::picture::scale_and_shift;
use serde::{Deserialize, Serialize};

use super::DataError;

/// Turns bytes into numbers of mean 0 and standard deviation 1: `(x / 255 - mean) / std`, per channel.
///
/// Mean and standard deviation are those of the *training* images and are used unchanged for validation and test
/// images. Networks that were trained in PyTorch with `ToTensor` and `Normalize` see the same numbers.
///
/// # Units
/// Mean and standard deviation are in units of the full brightness: white is 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Normalization {
    mean: Vec<f64>,
    std: Vec<f64>,
    /// `scale = 1 / (255 std)` and `shift = -mean / std` of every channel, rounded once from `f64`.
    affine: Vec<(f32, f32)>,
}

impl Normalization {
    /// Mean of the 60,000 training images of Fashion-MNIST, as commonly rounded.
    pub const FASHION_MNIST_MEAN: f64 = 0.2860;
    /// Standard deviation of the 60,000 training images of Fashion-MNIST, as commonly rounded.
    pub const FASHION_MNIST_STD: f64 = 0.3530;

    /// One mean and one standard deviation per channel.
    ///
    /// # Errors
    /// [`DataError::Length`] if the two differ in length or are empty, [`DataError::Parameter`] unless every mean is
    /// finite and every standard deviation positive, finite and not so small that it leaves the range of `f32`.
    pub fn new(mean: Vec<f64>, std: Vec<f64>) -> Result<Self, DataError> {
        if mean.len() != std.len() || mean.is_empty() {
            let (expected, found) = (mean.len().max(1), std.len());
            return Err(DataError::Length { what: "standard deviations, one per channel", expected, found });
        }
        let mut affine = Vec::with_capacity(mean.len());
        for (&mean, &std) in mean.iter().zip(&std) {
            let (scale, shift) = ((1.0 / (255.0 * std)) as f32, (-mean / std) as f32);
            if !(f64::MIN_POSITIVE..f64::INFINITY).contains(&std) || !scale.is_normal() {
                return Err(DataError::Parameter {
                    name: "std",
                    value: std,
                    range: "positive numbers that f32 can invert",
                });
            }
            if !mean.is_finite() || !shift.is_finite() {
                return Err(DataError::Parameter { name: "mean", value: mean, range: "finite numbers" });
            }
            affine.push((scale, shift));
        }
        Ok(Self { mean, std, affine })
    }

    /// The constants of Fashion-MNIST.
    pub fn fashion_mnist() -> Self {
        Self::grey(Self::FASHION_MNIST_MEAN, Self::FASHION_MNIST_STD)
    }

    /// Mean and standard deviation of the 60,000 training images of MNIST, as commonly rounded.
    pub fn mnist() -> Self {
        Self::grey(0.1307, 0.3081)
    }

    /// One channel, with constants that `f32` can invert.
    fn grey(mean: f64, std: f64) -> Self {
        let affine = vec![((1.0 / (255.0 * std)) as f32, (-mean / std) as f32)];
        Self { mean: vec![mean], std: vec![std], affine }
    }

    /// For `channels` channels of inputs that are taken as they are: mean 0 and deviation 1, so that pixels become their
    /// brightness.
    ///
    /// # Errors
    /// [`DataError::Length`] for no channels.
    pub fn none(channels: usize) -> Result<Self, DataError> {
        Self::new(vec![0.0; channels], vec![1.0; channels])
    }

    /// That of a checkpoint.
    ///
    /// # Errors
    /// [`DataError::Parameter`] for numbers that leave the range of `f32`.
    pub fn of(preprocessing: &Preprocessing) -> Result<Self, DataError> {
        Self::new(preprocessing.mean().to_vec(), preprocessing.std().to_vec())
    }

    /// Mean of every channel.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Standard deviation of every channel.
    pub fn std(&self) -> &[f64] {
        &self.std
    }

    /// The brightness, 0 to 1, that a normalised value of a channel stands for, if there is such a channel.
    pub fn brightness(&self, channel: usize, value: f32) -> Option<f64> {
        Some(f64::from(value) * self.std.get(channel)? + self.mean[channel])
    }

    pub(super) fn check_channels(&self, expected: usize) -> Result<(), DataError> {
        let found = self.mean.len();
        if found == expected {
            return Ok(());
        }
        Err(DataError::Length { what: "channels of the normalisation", expected, found })
    }

    /// Normalises some pixels of one channel.
    pub(super) fn apply_channel(&self, channel: usize, pixels: &[u8], out: &mut [f32]) {
        let (scale, shift) = self.affine[channel];
        scale_and_shift(pixels, [scale, shift], out);
    }

    /// What black is in a channel.
    pub(super) fn black(&self, channel: usize) -> f32 {
        self.affine[channel].1
    }

    /// Normalises one image; the channels divide its length.
    pub(super) fn apply(&self, pixels: &[u8], out: &mut [f32]) {
        let plane = pixels.len() / self.affine.len();
        let planes = pixels.chunks_exact(plane).zip(out.chunks_exact_mut(plane));
        for (&(scale, shift), (pixels, out)) in self.affine.iter().zip(planes) {
            scale_and_shift(pixels, [scale, shift], out);
        }
    }
}

/// What is written to files: the factors follow from it.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Normalization")]
struct Unchecked {
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl TryFrom<Unchecked> for Normalization {
    type Error = DataError;

    fn try_from(Unchecked { mean, std }: Unchecked) -> Result<Self, DataError> {
        Self::new(mean, std)
    }
}

impl From<Normalization> for Unchecked {
    fn from(Normalization { mean, std, .. }: Normalization) -> Self {
        Self { mean, std }
    }
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;

    use super::*;
    use crate::data::Dataset;

    #[test]
    fn bounds_are_checked() {
        for std in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60, 1e60] {
            let error = Normalization::new(vec![0.0], vec![std]).unwrap_err();
            assert!(matches!(error, DataError::Parameter { name: "std", .. }), "std {std}: {error}");
        }
        for mean in [f64::NAN, f64::INFINITY, 1e60] {
            let error = Normalization::new(vec![mean], vec![1.0]).unwrap_err();
            assert!(matches!(error, DataError::Parameter { name: "mean", .. }), "mean {mean}: {error}");
        }
        assert!(matches!(Normalization::new(vec![], vec![]), Err(DataError::Length { .. })));
        assert!(matches!(Normalization::new(vec![0.0], vec![1.0; 2]), Err(DataError::Length { .. })));
    }

    #[test]
    fn statistics_are_those_of_the_pixels() {
        let images = vec![0, 255, 10, 10, 255, 0, 10, 40];
        let data = Dataset::new("two channels", FeatureShape::image(2, 1, 2), 2, images, vec![0, 1]).unwrap();
        let norm = Normalization::from_images(&data).unwrap();
        let close = |found: f64, wanted: f64| (found - wanted).abs() <= 4.0 * f64::EPSILON * wanted;
        assert!(close(norm.mean()[0], 0.5) && close(norm.std()[0], 0.5), "{norm:?}");
        // 10, 10, 10, 40: mean 17.5, squared deviations 3 · 7.5² + 22.5², standard deviation √168.75.
        assert!(close(norm.mean()[1], 17.5 / 255.0) && close(norm.std()[1], 168.75_f64.sqrt() / 255.0), "{norm:?}");
    }

    #[test]
    fn one_grey_value_is_an_error() {
        let data = Dataset::new("grey", FeatureShape::vector(2), 2, vec![3, 1, 4, 1], vec![0, 1]).unwrap();
        let error = Normalization::from_images(&data).unwrap_err();
        assert!(matches!(error, DataError::Constant { channel: 1, .. }), "{error}");
    }

    #[test]
    fn survives_json_and_is_checked_on_the_way_back() {
        let norm = Normalization::fashion_mnist();
        let text = serde_json::to_string(&norm).unwrap();
        assert_eq!(text, r#"{"mean":[0.286],"std":[0.353]}"#);
        assert_eq!(serde_json::from_str::<Normalization>(&text).unwrap(), norm);
        assert_eq!(norm, Normalization::new(vec![0.2860], vec![0.3530]).unwrap());
        assert!(serde_json::from_str::<Normalization>(r#"{"mean":[0.3],"std":[0.0]}"#).is_err());
    }

    #[test]
    fn brightness_undoes_the_normalisation() {
        let norm = Normalization::fashion_mnist();
        let mut out = [0.0; 256];
        norm.apply(&(0..=255).collect::<Vec<_>>(), &mut out);
        for (pixel, &value) in (0_u8..=255).zip(&out) {
            let brightness = norm.brightness(0, value).unwrap();
            assert!((brightness * 255.0 - f64::from(pixel)).abs() <= 4.0 * 255.0 * f64::from(f32::EPSILON));
        }
        assert_eq!(norm.brightness(1, 0.0), None);
    }
}
