use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{env, fs};

use super::dataset::check_labels;
use super::{DataBundle, DataError, Dataset, Normalization, idx, planner, tensors};

/// Environment variable with the folder that holds the data sets, each in a folder of its own.
pub const DATA_DIR_VARIABLE: &str = "FBP_DATA_DIR";

/// Number of classes of Fashion-MNIST, and of IDX folders unless told otherwise.
const CLASSES: usize = 10;

/// The classes of Fashion-MNIST, in the order of its labels.
pub const FASHION_MNIST_CLASSES: [&str; CLASSES] =
    ["T-shirt/top", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];

/// The four files of an IDX folder, as MNIST named them.
const TRAIN: [&str; 2] = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"];
const TEST: [&str; 2] = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// Data by name; see the [module](super) for the names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataSource {
    /// All of Fashion-MNIST.
    FashionMnist,
    /// The part of Fashion-MNIST that ships with the repository.
    FashionMnistMini,
    /// A folder with the four IDX files.
    Idx(PathBuf),
    /// A safetensors file with inputs, and labels or outputs.
    Tensors(PathBuf),
    /// Trajectories of a vehicle, made when they are loaded.
    Planner,
}

impl FromStr for DataSource {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        match name {
            "fashion-mnist" => Ok(Self::FashionMnist),
            "fashion-mnist-mini" => Ok(Self::FashionMnistMini),
            "planner" => Ok(Self::Planner),
            _ => match name.split_once(':') {
                Some(("idx", folder)) if !folder.is_empty() => Ok(Self::Idx(folder.into())),
                Some(("tensors", file)) if !file.is_empty() => Ok(Self::Tensors(file.into())),
                _ => {
                    let known =
                        "fashion-mnist, fashion-mnist-mini, planner, idx:FOLDER, tensors:FILE.safetensors".to_owned();
                    Err(DataError::UnknownName { name: name.to_owned(), known })
                }
            },
        }
    }
}

impl std::fmt::Display for DataSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FashionMnist => f.write_str("fashion-mnist"),
            Self::FashionMnistMini => f.write_str("fashion-mnist-mini"),
            Self::Idx(folder) => write!(f, "idx:{}", folder.display()),
            Self::Tensors(file) => write!(f, "tensors:{}", file.display()),
            Self::Planner => f.write_str("planner"),
        }
    }
}

/// Where to look for data and how to read them.
///
/// | field      | default | meaning                                                                             |
/// |------------|---------|-------------------------------------------------------------------------------------|
/// | `data_dir` | none    | the one folder to look for `fashion-mnist/` and `fashion-mnist-mini/` in            |
/// | `classes`  | 10      | number of classes of an `idx:` folder, 1 to 256; of a `tensors:` file one more than its largest label by default |
///
/// Without `data_dir`, these are tried in turn: the folder that the environment variable `FBP_DATA_DIR` names,
/// `datasets/` in the current folder and in every folder above it, and `datasets/` of the workspace that this crate was
/// built from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The one folder to look for data sets in.
    pub data_dir: Option<PathBuf>,
    /// Number of classes of an `idx:` folder or a `tensors:` file.
    pub classes: Option<usize>,
}

/// Loads data by name.
///
/// # Errors
/// [`DataError::UnknownName`] with the known names, and those of [`DataSource::load`].
pub fn load(name: &str, options: &LoadOptions) -> Result<DataBundle, DataError> {
    name.parse::<DataSource>()?.load(options)
}

impl DataSource {
    /// Reads training and test images.
    ///
    /// # Errors
    /// [`DataError::NotFound`] with the places looked at and the command that fetches the data,
    /// [`DataError::MissingFile`], the errors of [`idx::read_images`], [`DataError::Counts`], [`DataError::Label`],
    /// [`DataError::Shapes`], [`DataError::Constant`], [`DataError::Parameter`] for a number of classes out of range.
    pub fn load(&self, options: &LoadOptions) -> Result<DataBundle, DataError> {
        match self {
            Self::Tensors(file) => return tensors::read(file, &self.to_string(), options.classes),
            Self::Planner => return planner::bundle(planner::SAMPLES, planner::SEED),
            _ => {}
        }
        let classes = match self {
            Self::Idx(_) => options.classes.unwrap_or(CLASSES),
            _ => CLASSES,
        };
        let folder = self.find(&places(options, env::var_os(DATA_DIR_VARIABLE).map(PathBuf::from)))?;
        let name = self.to_string();
        let (train, test) = rayon::join(
            || read_part(&folder, format!("{name} (training)"), TRAIN, classes),
            || read_part(&folder, format!("{name} (test)"), TEST, classes),
        );
        let (train, test) = (train?, test?);
        if train.shape() != test.shape() {
            return Err(DataError::Shapes { folder, train: train.shape(), test: test.shape() });
        }
        let normalization = match self {
            Self::Idx(_) => Normalization::from_images(&train)?,
            _ => Normalization::fashion_mnist(),
        };
        let names: &[&str] = if matches!(self, Self::Idx(_)) { &[] } else { &FASHION_MNIST_CLASSES };
        let class_names = names.iter().map(|name| (*name).to_owned()).collect();
        tracing::debug!(data = name, train = train.len(), test = test.len(), folder = %folder.display(), "loaded");
        Ok(DataBundle { train, test, normalization, class_names, folder })
    }

    /// The folder with the files: the first place that has one of this name.
    fn find(&self, places: &[PathBuf]) -> Result<PathBuf, DataError> {
        let remedy = match self {
            // Opening it tells a folder that is not there from one that lacks a file.
            Self::Idx(folder) => {
                return fs::read_dir(folder).map(|_| folder.clone()).map_err(DataError::at(folder));
            }
            Self::FashionMnist => "run `cargo xtask fetch fashion-mnist`, or name the folder with the data sets",
            Self::FashionMnistMini => {
                "it ships with the repository in datasets/: run inside it, or name the folder with the data sets"
            }
            Self::Tensors(file) => return Ok(file.clone()),
            Self::Planner => return Ok(PathBuf::new()),
        };
        let name = self.to_string();
        let candidates: Vec<_> = places.iter().map(|place| place.join(&name)).collect();
        // An interrupted fetch leaves a folder with some of the files.
        let is_complete = |folder: &&PathBuf| TRAIN.iter().chain(&TEST).all(|file| find(folder, file).is_some());
        let found = candidates.iter().find(is_complete);
        match found {
            Some(folder) => Ok(folder.clone()),
            None => Err(DataError::NotFound { name, places: candidates, remedy }),
        }
    }
}

/// Folders that may hold data sets, the best first.
fn places(options: &LoadOptions, variable: Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(folder) = &options.data_dir {
        return vec![folder.clone()];
    }
    let mut places: Vec<_> = variable.filter(|folder| !folder.as_os_str().is_empty()).into_iter().collect();
    if let Ok(current) = env::current_dir() {
        places.extend(current.ancestors().map(|folder| folder.join("datasets")).filter(|folder| folder.is_dir()));
    }
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(|root| root.join("datasets"));
    places.extend(built_from.filter(|folder| !places.contains(folder)));
    places
}

/// The file in a folder, plain or with `.gz`; the plain one, which is read faster, is preferred.
fn find(folder: &Path, file: &str) -> Option<PathBuf> {
    [folder.join(file), folder.join(format!("{file}.gz"))].into_iter().find(|path| path.is_file())
}

/// Reads one pair of files.
fn read_part(folder: &Path, name: String, files: [&str; 2], classes: usize) -> Result<Dataset, DataError> {
    let [images, labels] = files.map(|file| {
        find(folder, file).ok_or_else(|| DataError::MissingFile { folder: folder.to_owned(), file: file.to_owned() })
    });
    let (images_path, labels_path) = (images?, labels?);
    let labels = idx::read_labels(&labels_path)?;
    let images = idx::read_images(&images_path)?;
    if images.count() != labels.len() {
        return Err(DataError::Counts {
            images: images_path.display().to_string(),
            image_count: images.count(),
            labels: labels_path.display().to_string(),
            label_count: labels.len(),
        });
    }
    check_labels(&labels_path.display().to_string(), &labels, classes)?;
    Dataset::new(name, images.shape, classes, images.pixels, labels)
}

#[cfg(test)]
mod tests;
