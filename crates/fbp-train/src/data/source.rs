use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{env, fs};

use super::cifar::Cifar;
use super::content::find;
use super::dataset::check_labels;
use super::{DataBundle, DataError, Dataset, ImageOptions, Normalization, folder, idx, planner, tensors};
use crate::progress::{Progress, Silent};

/// Environment variable with the folder that holds the data sets, each in a folder of its own.
pub const DATA_DIR_VARIABLE: &str = "FBP_DATA_DIR";

/// Number of classes of Fashion-MNIST, and of IDX folders unless told otherwise.
const CLASSES: usize = 10;

/// The classes of Fashion-MNIST, in the order of its labels.
pub const FASHION_MNIST_CLASSES: [&str; CLASSES] =
    ["T-shirt/top", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];
/// Those of MNIST.
const DIGITS: [&str; CLASSES] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// The four files of an IDX folder, as MNIST named them.
const TRAIN: [&str; 2] = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"];
const TEST: [&str; 2] = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
/// What is said where one of them is missing.
const IDX_NEEDS: &str = "an IDX folder holds images and labels of `train` and `t10k`";

/// Data by name; see the [module](super) for the names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataSource {
    /// All of Fashion-MNIST.
    FashionMnist,
    /// The part of Fashion-MNIST that ships with the repository.
    FashionMnistMini,
    /// All of MNIST.
    Mnist,
    /// The binary release of CIFAR-10.
    Cifar10,
    /// The binary release of CIFAR-100, with its fine labels.
    Cifar100,
    /// Shapes and textures in colour, which ship with the repository.
    ShapesMini,
    /// A folder with the four IDX files.
    Idx(PathBuf),
    /// A folder with a training and a validation folder, both with a folder of image files for each class.
    Folder(PathBuf),
    /// A safetensors file with inputs, and labels or outputs.
    Tensors(PathBuf),
    /// Trajectories of a vehicle, made when they are loaded.
    Planner,
}

/// What there is to know about a data set that has a name.
struct Named {
    source: DataSource,
    /// The name, and other names that its folder may have.
    folders: &'static [&'static str],
    format: Format,
    remedy: &'static str,
}

#[derive(Clone, Copy)]
enum Format {
    Idx,
    Cifar(Cifar),
}

/// Name of the trajectories of a vehicle.
const PLANNER: &str = "planner";

const SHIPS: &str = "it ships with the repository in datasets/: run inside it, or name the folder with the data sets";

static NAMED: [Named; 6] = [
    Named {
        source: DataSource::FashionMnist,
        folders: &["fashion-mnist"],
        format: Format::Idx,
        remedy: "run `cargo xtask fetch fashion-mnist`, or name the folder with the data sets",
    },
    Named {
        source: DataSource::FashionMnistMini,
        folders: &["fashion-mnist-mini"],
        format: Format::Idx,
        remedy: SHIPS,
    },
    Named {
        source: DataSource::Mnist,
        folders: &["mnist", "MNIST/raw"],
        format: Format::Idx,
        remedy: "run `cargo xtask fetch mnist`, or name the folder with the data sets",
    },
    Named {
        source: DataSource::Cifar10,
        folders: &["cifar10", "cifar-10-batches-bin"],
        format: Format::Cifar(Cifar::Ten),
        remedy: "run `cargo xtask fetch cifar10`, or name the folder with the data sets",
    },
    Named {
        source: DataSource::Cifar100,
        folders: &["cifar100", "cifar-100-binary"],
        format: Format::Cifar(Cifar::Hundred),
        remedy: "run `cargo xtask fetch cifar100`, or name the folder with the data sets",
    },
    Named {
        source: DataSource::ShapesMini,
        folders: &["shapes-mini"],
        format: Format::Cifar(Cifar::Ten),
        remedy: SHIPS,
    },
];

impl FromStr for DataSource {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        if let Some(named) = NAMED.iter().find(|named| named.folders[0] == name) {
            return Ok(named.source.clone());
        }
        match name.split_once(':') {
            None if name == PLANNER => Ok(Self::Planner),
            Some(("idx", folder)) if !folder.is_empty() => Ok(Self::Idx(folder.into())),
            Some(("folder", folder)) if !folder.is_empty() => Ok(Self::Folder(folder.into())),
            Some(("tensors", file)) if !file.is_empty() => Ok(Self::Tensors(file.into())),
            _ => {
                let names = NAMED.iter().map(|named| named.folders[0]);
                let others = [PLANNER, "idx:FOLDER", "folder:DIR", "tensors:FILE.safetensors"];
                let known = names.chain(others).collect::<Vec<_>>().join(", ");
                Err(DataError::UnknownName { name: name.to_owned(), known })
            }
        }
    }
}

impl std::fmt::Display for DataSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Idx(folder) => write!(f, "idx:{}", folder.display()),
            Self::Folder(folder) => write!(f, "folder:{}", folder.display()),
            Self::Tensors(file) => write!(f, "tensors:{}", file.display()),
            Self::Planner => f.write_str(PLANNER),
            _ => f.write_str(self.named().map_or("", |named| named.folders[0])),
        }
    }
}

/// Where to look for data and how to read them.
///
/// | field      | default | meaning                                                                             |
/// |------------|---------|-------------------------------------------------------------------------------------|
/// | `data_dir` | none    | the one folder to look for named data sets in, each in a folder of its own          |
/// | `classes`  | 10      | number of classes of an `idx:` folder, 1 to 256; of a `tensors:` file one more than its largest label by default |
/// | `images`   |         | how image files are read: see [`ImageOptions`]                                      |
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
    /// How image files are read.
    pub images: ImageOptions,
}

/// Loads data by name.
///
/// # Errors
/// [`DataError::UnknownName`] with the known names, and those of [`DataSource::load`].
pub fn load(name: &str, options: &LoadOptions) -> Result<DataBundle, DataError> {
    load_with(name, options, &Silent)
}

/// [`load`] that tells how far it is.
///
/// # Errors
/// As [`load`].
pub fn load_with(name: &str, options: &LoadOptions, progress: &dyn Progress) -> Result<DataBundle, DataError> {
    name.parse::<DataSource>()?.load(options, progress)
}

impl DataSource {
    /// Reads training and test images.
    ///
    /// # Errors
    /// [`DataError::NotFound`] with the places looked at and the command that fetches the data,
    /// [`DataError::MissingFile`], the errors of [`idx::read_images`], [`DataError::Records`], [`DataError::Counts`],
    /// [`DataError::Label`], [`DataError::Shapes`], [`DataError::Constant`], [`DataError::Parameter`] for a number of classes
    /// out of range, [`DataError::Folder`] and [`DataError::Image`] for folders of image files.
    pub fn load(&self, options: &LoadOptions, progress: &dyn Progress) -> Result<DataBundle, DataError> {
        match self {
            Self::Tensors(file) => return tensors::read(file, &self.to_string(), options.classes),
            Self::Planner => return planner::bundle(planner::SAMPLES, planner::SEED),
            _ => {}
        }
        let name = self.to_string();
        if let Self::Folder(root) = self {
            return folder::load(root, &name, &options.images, progress);
        }
        let found = self.find(&places(options, env::var_os(DATA_DIR_VARIABLE).map(PathBuf::from)))?;
        let (train_name, test_name) = (format!("{name} (training)"), format!("{name} (test)"));
        let (train, test) = match self.format() {
            Format::Cifar(kind) => rayon::join(
                || kind.read(&found, train_name, kind.train_files()),
                || kind.read(&found, test_name, kind.test_files()),
            ),
            Format::Idx => {
                let classes = options.classes.filter(|_| matches!(self, Self::Idx(_))).unwrap_or(CLASSES);
                rayon::join(
                    || read_part(&found, train_name, TRAIN, classes),
                    || read_part(&found, test_name, TEST, classes),
                )
            }
        };
        let (train, test) = (train?, test?);
        if train.shape() != test.shape() {
            return Err(DataError::Shapes { folder: found, train: train.shape(), test: test.shape() });
        }
        let normalization = match self {
            Self::FashionMnist | Self::FashionMnistMini => Normalization::fashion_mnist(),
            Self::Mnist => Normalization::mnist(),
            _ => Normalization::from_images(&train)?,
        };
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let class_names = match (self, self.format()) {
            (Self::FashionMnist | Self::FashionMnistMini, _) => owned(&FASHION_MNIST_CLASSES),
            (Self::Mnist, _) => owned(&DIGITS),
            (_, Format::Cifar(kind)) => kind.class_names(&found),
            _ => Vec::new(),
        };
        tracing::debug!(data = name, train = train.len(), test = test.len(), folder = %found.display(), "loaded");
        Ok(DataBundle { class_names, ..DataBundle::new(train, test, normalization, found) })
    }

    fn named(&self) -> Option<&'static Named> {
        NAMED.iter().find(|named| named.source == *self)
    }

    fn format(&self) -> Format {
        self.named().map_or(Format::Idx, |named| named.format)
    }

    /// The folder with the files: the first place that has one of this name.
    fn find(&self, places: &[PathBuf]) -> Result<PathBuf, DataError> {
        // Opening it tells a folder that is not there from one that lacks a file.
        if let Self::Idx(folder) | Self::Folder(folder) = self {
            return fs::read_dir(folder).map(|_| folder.clone()).map_err(DataError::at(folder));
        }
        let (folders, remedy) = self.named().map_or((&[][..], SHIPS), |named| (named.folders, named.remedy));
        let candidates = places.iter().flat_map(|place| folders.iter().map(|folder| place.join(folder)));
        // An interrupted fetch leaves a folder with some of the files.
        let files = match self.format() {
            Format::Idx => [&TRAIN[..], &TEST].concat(),
            Format::Cifar(kind) => [kind.train_files(), kind.test_files()].concat(),
        };
        let is_complete = |folder: &PathBuf| files.iter().all(|file| find(folder, file).is_some());
        match candidates.clone().find(is_complete) {
            Some(folder) => Ok(folder),
            // Its own name is enough for whoever looks for it.
            None => {
                let places = places.iter().filter_map(|place| folders.first().map(|folder| place.join(folder)));
                Err(DataError::NotFound { name: self.to_string(), places: places.collect(), remedy })
            }
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

/// Reads one pair of files.
fn read_part(folder: &Path, name: String, files: [&str; 2], classes: usize) -> Result<Dataset, DataError> {
    let [images, labels] = files.map(|file| {
        find(folder, file).ok_or_else(|| DataError::MissingFile {
            folder: folder.to_owned(),
            file: file.to_owned(),
            needs: IDX_NEEDS,
        })
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
