use std::path::PathBuf;

use fbp_models::{ModelError, Preprocessing, Resizing};

use super::{Dataset, Normalization};

/// Training and test images of one data set, with the normalisation for both.
#[derive(Clone, Debug)]
pub struct DataBundle {
    /// Training images.
    pub train: Dataset,
    /// Test images; of a folder the validation images.
    pub test: Dataset,
    /// The documented constants for MNIST and Fashion-MNIST; otherwise mean and standard deviation of the training images; for
    /// inputs that are no pixels, none.
    pub normalization: Normalization,
    /// Names of the classes, in the order of the labels; empty if they are not known.
    pub class_names: Vec<String>,
    /// The folder that the files were read from.
    pub folder: PathBuf,
    /// What image files of another size went through, if they did.
    pub resizing: Option<Resizing>,
    /// Image files that are broken and were left out.
    pub broken: Vec<PathBuf>,
}

impl DataBundle {
    /// Data whose classes have no names and whose images are as they were read, from `folder`.
    pub fn new(train: Dataset, test: Dataset, normalization: Normalization, folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self { train, test, normalization, class_names: Vec::new(), folder, resizing: None, broken: Vec::new() }
    }

    /// What the images go through, for a checkpoint of a network that sees them.
    ///
    /// # Errors
    /// [`ModelError::Preprocessing`](fbp_models::ModelError::Preprocessing) if the normalisation has another number of
    /// channels than the images.
    pub fn preprocessing(&self) -> Result<Preprocessing, ModelError> {
        let shape = self.train.shape();
        let input = [shape.channels, shape.height, shape.width];
        let (mean, std) = (self.normalization.mean().to_vec(), self.normalization.std().to_vec());
        Preprocessing::new(input, mean, std)?.with_classes(self.class_names.clone()).with_resizing(self.resizing)
    }
}
