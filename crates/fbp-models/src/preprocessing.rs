use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// Metadata key of the preprocessing in a checkpoint, in JSON.
pub const PREPROCESSING_KEY: &str = "fbp.preprocessing";

/// Means of red, green and blue over ImageNet, in units of the full brightness.
const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// Their standard deviations.
const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

/// How values between the pixels of an image are found when its size changes.
///
/// Both are those of Pillow: where an image gets smaller, the filter gets wider, so that every pixel counts (antialiasing).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// The triangle filter, which most networks were trained with.
    #[default]
    Bilinear,
    /// The cubic filter with a = -1/2.
    Bicubic,
}

impl Interpolation {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Bilinear, Self::Bicubic];
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
        })
    }
}

impl FromStr for Interpolation {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let found = Self::ALL.into_iter().find(|value| value.to_string() == text);
        found.ok_or_else(|| ModelError::Preprocessing {
            reason: format!("there is no interpolation {text:?}, only bilinear and bicubic"),
        })
    }
}

/// How an image file of any size gets the size that a network takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resizing {
    /// Length of the shorter side before the centre is cut out, with the proportions kept; without it the whole image gets
    /// the size of the network, whatever its proportions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shorter_side: Option<usize>,
    /// How values between pixels are found.
    #[serde(default)]
    pub interpolation: Interpolation,
}

/// What an image goes through before a network sees it: `(brightness - mean) / std`, channel by channel.
///
/// It belongs to the network: its weights fit numbers of this kind and no others, whatever images it is given later. So a
/// checkpoint carries it, under [`PREPROCESSING_KEY`].
///
/// # Units
/// Mean and standard deviation are in units of the full brightness: black is 0, white is 1, as after PyTorch's `ToTensor`.
///
/// # Example
/// ```
/// use fbp_models::Preprocessing;
///
/// let own = Preprocessing::new([1, 28, 28], vec![0.2860], vec![0.3530])?;
/// let torchvision = Preprocessing::imagenet(224, 224)?;
/// assert_eq!(own.mean(), [0.2860]);
/// assert_eq!(torchvision.std(), [0.229, 0.224, 0.225]);
/// # Ok::<(), fbp_models::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Preprocessing {
    input: [usize; 3],
    mean: Vec<f64>,
    std: Vec<f64>,
    classes: Vec<String>,
    resizing: Option<Resizing>,
}

impl Preprocessing {
    /// For images of shape `[C, H, W]`, with one mean and one standard deviation for each channel.
    ///
    /// # Errors
    /// [`ModelError::Preprocessing`] for images without pixels, another number of means or deviations than channels, a mean
    /// that is not finite, or a deviation that is not positive and finite.
    pub fn new(input: [usize; 3], mean: Vec<f64>, std: Vec<f64>) -> Result<Self, ModelError> {
        let wrong = |reason: String| Err(ModelError::Preprocessing { reason });
        let channels = input[0];
        if input.contains(&0) {
            return wrong(format!("images of shape {input:?} have no pixels"));
        }
        if mean.len() != channels || std.len() != channels {
            let (means, stds) = (mean.len(), std.len());
            return wrong(format!("{channels} channels need as many means and deviations, found {means} and {stds}"));
        }
        if let Some(mean) = mean.iter().find(|mean| !mean.is_finite()) {
            return wrong(format!("the mean {mean} is not finite"));
        }
        if let Some(std) = std.iter().find(|std| !(f64::MIN_POSITIVE..f64::INFINITY).contains(*std)) {
            return wrong(format!("the standard deviation {std} is not a positive number"));
        }
        Ok(Self { input, mean, std, classes: Vec::new(), resizing: None })
    }

    /// What torchvision's networks for ImageNet expect: the usual means and deviations of red, green and blue, of the centre
    /// of an image whose shorter side is 8/7 of what is cut out, as 256 is of 224.
    ///
    /// # Errors
    /// [`ModelError::Preprocessing`] for images without pixels.
    pub fn imagenet(height: usize, width: usize) -> Result<Self, ModelError> {
        let resizing = Resizing { shorter_side: Some(height.max(width).saturating_mul(8) / 7), ..Resizing::default() };
        Self::new([3, height, width], IMAGENET_MEAN.to_vec(), IMAGENET_STD.to_vec())?.with_resizing(Some(resizing))
    }

    /// The same with names of the classes, in the order of the labels; none if they are not known.
    #[must_use]
    pub fn with_classes(self, classes: Vec<String>) -> Self {
        Self { classes, ..self }
    }

    /// The same with what image files of another size go through; none if it is not known.
    ///
    /// # Errors
    /// [`ModelError::Preprocessing`] if the shorter side is smaller than what is cut out.
    pub fn with_resizing(self, resizing: Option<Resizing>) -> Result<Self, ModelError> {
        let [_, height, width] = self.input;
        if let Some(side) = resizing.and_then(|resizing| resizing.shorter_side)
            && side < height.max(width)
        {
            let reason = format!("a shorter side of {side} pixels is too short to cut {width} × {height} out of it");
            return Err(ModelError::Preprocessing { reason });
        }
        Ok(Self { resizing, ..self })
    }

    /// Shape `[C, H, W]` of the images.
    pub fn input(&self) -> [usize; 3] {
        self.input
    }

    /// Mean of every channel.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Standard deviation of every channel.
    pub fn std(&self) -> &[f64] {
        &self.std
    }

    /// Names of the classes, in the order of the labels; empty if they are not known.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// What image files of another size go through; none if it is not known.
    pub fn resizing(&self) -> Option<Resizing> {
        self.resizing
    }

    /// It as metadata of a checkpoint.
    ///
    /// # Errors
    /// [`ModelError::Syntax`] if it has no JSON form, which does not happen for values that were checked.
    pub fn to_metadata(&self) -> Result<BTreeMap<String, String>, ModelError> {
        let json = serde_json::to_string(self);
        let json = json.map_err(|error| ModelError::Syntax { format: "JSON", reason: error.to_string() })?;
        Ok(BTreeMap::from([(PREPROCESSING_KEY.to_owned(), json)]))
    }

    /// What [`to_metadata`](Self::to_metadata) wrote.
    ///
    /// # Errors
    /// [`ModelError::Preprocessing`] for text that is none, or asks for a step that this version does not know.
    pub(crate) fn from_json(json: &str) -> Result<Self, ModelError> {
        serde_json::from_str(json).map_err(|error| ModelError::Preprocessing { reason: error.to_string() })
    }
}

/// What is written to files. A field that is not known may be a step, which nobody may leave out unnoticed.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Preprocessing", deny_unknown_fields)]
struct Unchecked {
    input: [usize; 3],
    mean: Vec<f64>,
    std: Vec<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    classes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resize: Option<Resizing>,
}

impl TryFrom<Unchecked> for Preprocessing {
    type Error = ModelError;

    fn try_from(Unchecked { input, mean, std, classes, resize }: Unchecked) -> Result<Self, ModelError> {
        Self::new(input, mean, std)?.with_classes(classes).with_resizing(resize)
    }
}

impl From<Preprocessing> for Unchecked {
    fn from(Preprocessing { input, mean, std, classes, resizing }: Preprocessing) -> Self {
        Self { input, mean, std, classes, resize: resizing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_holds() {
        let new = |input, mean: &[f64], std: &[f64]| Preprocessing::new(input, mean.to_vec(), std.to_vec());
        assert!(new([1, 2, 2], &[0.5], &[0.25]).is_ok());
        for (input, mean, std) in [
            ([1, 0, 2], &[0.5][..], &[0.25][..]),
            ([3, 2, 2], &[0.5], &[0.25]),
            ([1, 2, 2], &[], &[]),
            ([1, 2, 2], &[f64::NAN], &[0.25]),
            ([1, 2, 2], &[f64::INFINITY], &[0.25]),
            ([1, 2, 2], &[0.5], &[0.0]),
            ([1, 2, 2], &[0.5], &[-1.0]),
            ([1, 2, 2], &[0.5], &[f64::NAN]),
            ([1, 2, 2], &[0.5], &[f64::INFINITY]),
        ] {
            assert!(
                matches!(new(input, mean, std), Err(ModelError::Preprocessing { .. })),
                "{input:?} {mean:?} {std:?}"
            );
        }
    }

    #[test]
    fn json_is_checked_and_unknown_steps_are_refused() {
        let own = Preprocessing::imagenet(8, 8).unwrap().with_classes(vec!["cat".into(), "dog".into()]);
        let metadata = own.to_metadata().unwrap();
        assert_eq!(Preprocessing::from_json(&metadata[PREPROCESSING_KEY]).unwrap(), own);
        let text = |json: &str| Preprocessing::from_json(json).unwrap_err().to_string();
        assert!(text(r#"{"input":[1,2,2],"mean":[0],"std":[0]}"#).contains("positive"));
        assert!(text(r#"{"input":[1,2,2],"mean":[0],"std":[1],"crop":7}"#).contains("crop"));
        assert!(text(r#"{"input":[1,2,2],"mean":[0],"std":[1],"resize":{"shorter_side":1}}"#).contains("too short"));
        assert!(text(r#"{"input":[1,2,2],"mean":[0],"std":[1],"resize":{"interpolation":"box"}}"#).contains("box"));
    }

    #[test]
    fn images_for_imagenet_are_cut_out_of_larger_ones() {
        let own = Preprocessing::imagenet(224, 224).unwrap();
        let resizing = own.resizing().unwrap();
        assert_eq!(resizing, Resizing { shorter_side: Some(256), interpolation: Interpolation::Bilinear });
        assert_eq!(Preprocessing::imagenet(8, 8).unwrap().resizing().unwrap().shorter_side, Some(9));
        assert_eq!("bicubic".parse::<Interpolation>().unwrap(), Interpolation::Bicubic);
        assert!("box".parse::<Interpolation>().is_err());
    }
}
