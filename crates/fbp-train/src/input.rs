//! What a command works on: data and networks by name.

use std::path::{Path, PathBuf};

use fbp_models::{Checkpoint, Interpolation, NetworkSpec, Preprocessing, Resizing, zoo};
use serde::Deserialize;

use crate::TrainError;
use crate::data::{
    Corruption, DataBundle, DataError, DataSource, Dataset, DropClass, ImageOptions, ImageSize, LoadOptions,
    Normalization, Outputs, Regime,
};
use crate::hash::bytes_sha256;
use crate::identity::DataIdentity;
use crate::progress::{Progress, Silent};

/// Bytes that corrupted images of a folder may take, unless told otherwise: as decoded ones.
const MEMORY: u64 = 1 << 30;

/// Which data to use: also a table of a sweep.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRequest {
    /// Name of the data: see [`data`](crate::data).
    pub name: String,
    /// Folder with the named data sets, each in a folder of its own; by default the usual places.
    pub data_dir: Option<PathBuf>,
    /// Number of training samples that are used, equally many of every class; all by default.
    pub train_size: Option<u32>,
    /// Number of classes of IDX files; 10 by default.
    pub classes: Option<u16>,
    /// Shares of classes that are taken away from the training data.
    #[serde(default)]
    pub drop_class: Vec<DropClass>,
    /// Classes that were dropped and are given back.
    #[serde(default)]
    pub recover_class: Vec<u8>,
    /// Share of the training samples that get a wrong label; 0 by default.
    pub label_noise: Option<f64>,
    /// What all images are corrupted with, those of the test part too.
    pub corrupt: Option<Corruption>,
    /// Seed of what is dropped, mislabelled and corrupted.
    #[serde(default)]
    pub data_seed: u64,
    /// Side of the square that whole image files are resized to.
    pub size: Option<usize>,
    /// Length that the shorter side of image files gets before their centre is cut out.
    pub resize: Option<usize>,
    /// Side of the square that is cut out.
    pub crop: Option<usize>,
    /// How image files are resized; bilinear by default.
    pub interpolation: Option<Interpolation>,
    /// Leave out image files that are broken.
    #[serde(default)]
    pub skip_broken: bool,
    /// Folder of decoded images; that of the user by default.
    pub cache: Option<PathBuf>,
    /// Bytes that decoded images take in memory, more or less; 1 GiB by default.
    pub memory: Option<u64>,
}

/// Data with what tells them apart from others.
#[derive(Debug)]
pub struct Input {
    /// The data.
    pub bundle: DataBundle,
    /// What they are.
    pub identity: DataIdentity,
}

impl DataRequest {
    /// Loads the data.
    ///
    /// # Errors
    /// [`TrainError::Data`], [`TrainError::Setting`] for settings of image files that make no sense together.
    pub fn load(&self) -> Result<Input, TrainError> {
        self.load_for(None, &Silent)
    }

    /// Loads the data for a network that is there already: image files get its size and channels, unless another size is
    /// asked for.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_for(&self, network: Option<&Preprocessing>, progress: &dyn Progress) -> Result<Input, TrainError> {
        let source: DataSource = self.name.parse()?;
        let images = match source {
            DataSource::Folder(_) => self.image_options(network)?,
            _ => self.no_image_options()?,
        };
        if let Some(classes) = self.classes.filter(|classes| !(1..=256).contains(classes)) {
            let value = f64::from(classes);
            return Err(DataError::Parameter { name: "classes", value, range: "[1, 256]" }.into());
        }
        let size = images.size;
        let options = LoadOptions { data_dir: self.data_dir.clone(), classes: self.classes.map(usize::from), images };
        let mut bundle = source.load(&options, progress)?;
        if let Some(size) = self.train_size {
            bundle.train = first_of_every_class(&bundle.train, size as usize)?;
        }
        if let Some(corruption) = self.corrupt {
            self.corrupt(&mut bundle, corruption)?;
        }
        let regime = self.regime();
        bundle.train = regime.apply(&bundle.train)?;
        let train = &bundle.train;
        // In a regime the split is not that of the samples alone.
        let text = format!("{}{regime}", self.corrupt_text());
        let sha256 = bytes_sha256(format!("{}\n{}\n{text}", train.sha256(), bundle.test.sha256()).as_bytes());
        let size = size.map(|size| format!(", {size}")).unwrap_or_default();
        let broken = match bundle.broken.len() {
            0 => String::new(),
            count => format!(", without {count} broken files"),
        };
        let identity =
            DataIdentity { name: format!("{}{size}{broken}{text}", self.name), sha256, samples: train.len() };
        Ok(Input { bundle, identity })
    }

    /// Corrupts all images. The normalisation is then that of the corrupted ones: a network that is there already brings its own.
    fn corrupt(&self, bundle: &mut DataBundle, corruption: Corruption) -> Result<(), TrainError> {
        for (part, stream) in [(&mut bundle.train, 0), (&mut bundle.test, 1)] {
            let bytes = part.len() as u64 * part.shape().len() as u64;
            if part.is_mapped() && bytes > self.memory.unwrap_or(MEMORY) {
                let reason = format!(
                    "takes {bytes} bytes for the images of {}, more than --memory allows: use fewer with --train-size, or \
                     allow more",
                    part.name()
                );
                return Err(TrainError::Setting { name: "corrupt", value: corruption.to_string(), reason });
            }
            *part = corruption.apply(part, self.data_seed, stream)?;
        }
        bundle.normalization = Normalization::from_images(&bundle.train)?;
        Ok(())
    }

    /// `, fog:4`, and its seed if that is not the usual one and not told anyway.
    fn corrupt_text(&self) -> String {
        let seed = if self.data_seed != 0 && self.regime().is_clean() {
            format!(", data-seed {}", self.data_seed)
        } else {
            String::new()
        };
        self.corrupt.map(|corruption| format!(", {corruption}{seed}")).unwrap_or_default()
    }

    /// How image files are read.
    fn image_options(&self, network: Option<&Preprocessing>) -> Result<ImageOptions, TrainError> {
        let setting = |name, value: usize, reason: &str| {
            Err(TrainError::Setting { name, value: value.to_string(), reason: reason.to_owned() })
        };
        let interpolation = self.interpolation.unwrap_or_default();
        let size = match (self.size, self.resize, self.crop) {
            (Some(0), ..) | (_, Some(0), _) | (.., Some(0)) => {
                return setting("size", 0, "leaves no pixels: sizes are 1 or more");
            }
            (Some(size), None, None) => {
                Some(ImageSize { size: [size; 2], resizing: Resizing { shorter_side: None, interpolation } })
            }
            (None, Some(resize), Some(crop)) if crop <= resize => {
                Some(ImageSize { size: [crop; 2], resizing: Resizing { shorter_side: Some(resize), interpolation } })
            }
            (None, Some(_), Some(crop)) => {
                return setting("crop", crop, "is larger than the shorter side of the images");
            }
            (Some(size), ..) => {
                return setting("size", size, "is the whole image and makes no sense beside resize and crop");
            }
            (None, Some(resize), None) => return setting("resize", resize, "needs a crop: its centre is cut out"),
            (None, None, Some(crop)) => return setting("crop", crop, "needs a resize: how long the shorter side is"),
            (None, None, None) => {
                if let Some(interpolation) = self.interpolation {
                    let reason = "needs a size, or resize and crop".to_owned();
                    let value = interpolation.to_string();
                    return Err(TrainError::Setting { name: "interpolation", value, reason });
                }
                network.and_then(|network| {
                    let [_, height, width] = network.input();
                    network.resizing().map(|resizing| ImageSize { size: [height, width], resizing })
                })
            }
        };
        Ok(ImageOptions {
            size,
            channels: network.map(|network| network.input()[0]).filter(|channels| matches!(channels, 1 | 3)),
            skip_broken: self.skip_broken,
            cache: self.cache.clone(),
            memory: self.memory,
        })
    }

    /// Refuses settings of image files for other data.
    fn no_image_options(&self) -> Result<ImageOptions, TrainError> {
        let given = [
            ("size", self.size.map(|size| size.to_string())),
            ("resize", self.resize.map(|size| size.to_string())),
            ("crop", self.crop.map(|size| size.to_string())),
            ("interpolation", self.interpolation.map(|interpolation| interpolation.to_string())),
            ("skip_broken", self.skip_broken.then(|| "true".to_owned())),
        ];
        match given.into_iter().find_map(|(name, value)| value.map(|value| (name, value))) {
            Some((name, value)) => {
                let reason = format!("is for folder:DIR, and the data {} have one size", self.name);
                Err(TrainError::Setting { name, value, reason })
            }
            None => Ok(ImageOptions::default()),
        }
    }

    fn regime(&self) -> Regime {
        Regime {
            drop: self.drop_class.clone(),
            recover: self.recover_class.clone(),
            label_noise: self.label_noise.unwrap_or(0.0),
            seed: self.data_seed,
        }
    }

    /// The data before classes were given back, if that makes a difference.
    pub fn before_recovery(&self) -> Option<Self> {
        (!self.recover_class.is_empty()).then(|| Self { recover_class: Vec::new(), ..self.clone() })
    }
}

/// Which normalisation a network gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormalizationOrigin {
    /// That of its checkpoint.
    Checkpoint,
    /// That of the data, because that was asked for.
    Asked,
    /// That of the data, because the checkpoint tells none.
    Unknown,
}

impl DataBundle {
    /// Takes the normalisation and the names of the classes of a checkpoint, if it tells them.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] if the images are not of the size that the checkpoint's network takes.
    pub fn normalise_as(&mut self, preprocessing: &Preprocessing) -> Result<(), TrainError> {
        let shape = self.train.shape();
        let [channels, height, width] = preprocessing.input();
        if [shape.channels, shape.height, shape.width] != [channels, height, width] {
            return Err(TrainError::Mismatch {
                left: format!("the data {}", self.train.name()),
                right: "the network".into(),
                reason: format!(
                    "its images are {shape}, that is channels, height and width, and the network was trained on \
                     [{channels}, {height}, {width}]; name data of that size"
                ),
            });
        }
        self.normalization = Normalization::of(preprocessing)?;
        if !preprocessing.classes().is_empty() {
            self.class_names = preprocessing.classes().to_vec();
        }
        Ok(())
    }
}

impl Input {
    /// Prepares the images as the checkpoint's network wants them, or with `renormalise` as the data themselves say: then
    /// results are told apart from others by the name of the data.
    ///
    /// # Errors
    /// As [`DataBundle::normalise_as`].
    pub fn prepare_for(
        &mut self,
        checkpoint: &Checkpoint,
        renormalise: bool,
    ) -> Result<NormalizationOrigin, TrainError> {
        let Some(preprocessing) = &checkpoint.preprocessing else {
            return Ok(if renormalise { NormalizationOrigin::Asked } else { NormalizationOrigin::Unknown });
        };
        let own = self.bundle.normalization.clone();
        self.bundle.normalise_as(preprocessing)?;
        if !renormalise {
            return Ok(NormalizationOrigin::Checkpoint);
        }
        if own != self.bundle.normalization {
            self.identity.name.push_str(", renormalised");
            let text = format!("{}\n{:?} {:?}", self.identity.sha256, own.mean(), own.std());
            self.identity.sha256 = bytes_sha256(text.as_bytes());
            self.bundle.normalization = own;
        }
        Ok(NormalizationOrigin::Asked)
    }
}

/// The first `size` samples, taking one of every class in turn, in their order in the data.
fn first_of_every_class(data: &Dataset, size: usize) -> Result<Dataset, DataError> {
    if !(1..=data.len()).contains(&size) {
        let range = "1 to the number of training samples there are";
        return Err(DataError::Parameter { name: "train_size", value: size as f64, range });
    }
    let mut seen = vec![0_usize; data.classes()];
    let mut order: Vec<(usize, usize)> = Vec::with_capacity(data.len());
    for (index, &label) in data.labels().iter().enumerate() {
        let rank = &mut seen[usize::from(label)];
        order.push((*rank, index));
        *rank += 1;
    }
    order.sort_unstable();
    let mut indices: Vec<usize> = order.into_iter().take(size).map(|(_, index)| index).collect();
    indices.sort_unstable();
    data.subset(&indices)
}

/// A network by name, or from a TOML file.
///
/// # Errors
/// [`TrainError::Model`] for an unknown name, [`TrainError::Description`] for a file that describes none,
/// [`TrainError::Read`].
pub fn network_spec(name: &str) -> Result<NetworkSpec, TrainError> {
    if !is_toml(name) {
        return Ok(zoo::spec(name)?);
    }
    let path = Path::new(name);
    let text = std::fs::read_to_string(path).map_err(TrainError::reading(path))?;
    NetworkSpec::from_toml(&text)
        .map_err(|source| TrainError::Description { path: path.to_owned(), source: Box::new(source) })
}

impl Input {
    /// Checks that a network takes these images and has an output for every class.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] with the names and the shapes of both.
    pub fn check_fits(&self, network: &NetworkSpec) -> Result<(), TrainError> {
        let (data, shape) = (&self.bundle.train, self.bundle.train.shape());
        let image = [shape.channels, shape.height, shape.width];
        let outputs = data.outputs().map(Outputs::entries);
        let reason = if let Some(outputs) = outputs.filter(|outputs| *outputs != network.classes) {
            format!("it has {outputs} outputs, and the network gives {}", network.classes)
        } else if image != network.input {
            format!("its images are {image:?}, and the network takes {:?} (channels, height, width)", network.input)
        } else if data.classes() > network.classes {
            format!("it has {} classes, and the network tells {} apart", data.classes(), network.classes)
        } else {
            return Ok(());
        };
        Err(TrainError::Mismatch {
            left: format!("the data {}", self.identity.name),
            right: format!("the network {}", network.name),
            reason: format!("{reason}; choose others with --data, or another network"),
        })
    }
}

/// As [`network_spec`], for some data: a network of the zoo follows the shape of their images and the number of their classes
/// ([`NetworkSpec::adapted`]), or their outputs; a description from a file stays as it is.
///
/// # Errors
/// As [`network_spec`], and [`TrainError::Model`] for images that are too small for the network.
pub fn network_for(name: &str, data: &Dataset) -> Result<NetworkSpec, TrainError> {
    let spec = network_spec(name)?;
    let shape = data.shape();
    let input = [shape.channels, shape.height, shape.width];
    let classes = data.outputs().map_or(data.classes(), Outputs::entries);
    if is_toml(name) || (spec.input, spec.classes) == (input, classes) {
        return Ok(spec);
    }
    tracing::info!(network = name, ?input, classes, "the network follows the data");
    Ok(spec.adapted(input, classes)?)
}

fn is_toml(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"))
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;

    use super::*;

    #[test]
    fn a_part_of_the_data_has_equally_many_of_every_class() {
        let labels = vec![0, 0, 0, 0, 1, 1, 2, 0, 1, 2];
        let images: Vec<u8> = (0..10).collect();
        let data = Dataset::new("toy", FeatureShape::image(1, 1, 1), 3, images, labels).unwrap();
        assert_eq!(first_of_every_class(&data, 5).unwrap().images(), [0, 1, 4, 5, 6]);
        assert_eq!(first_of_every_class(&data, 10).unwrap().images(), data.images());
        assert!(first_of_every_class(&data, 11).is_err() && first_of_every_class(&data, 0).is_err());
    }

    #[test]
    fn sizes_of_image_files_have_to_make_sense() {
        let request = |text: &str| -> DataRequest { toml::from_str(&format!("name = \"folder:x\"\n{text}")).unwrap() };
        let size =
            |text: &str| request(text).image_options(None).map(|options| options.size.map(|size| size.to_string()));
        assert_eq!(size("").unwrap(), None);
        assert_eq!(size("size = 32").unwrap().unwrap(), "32 × 32, bilinear");
        let cut = size("resize = 256\ncrop = 224\ninterpolation = \"bicubic\"").unwrap().unwrap();
        assert_eq!(cut, "centre 224 × 224 of a shorter side of 256, bicubic");
        for text in [
            "size = 0",
            "size = 3\ncrop = 3",
            "resize = 3",
            "crop = 3",
            "resize = 3\ncrop = 4",
            "interpolation = \"bicubic\"",
        ] {
            assert!(matches!(size(text), Err(TrainError::Setting { .. })), "{text}");
        }
        let network = Preprocessing::imagenet(14, 14).unwrap();
        let options = request("").image_options(Some(&network)).unwrap();
        assert_eq!((options.channels, options.size.unwrap().resizing.shorter_side), (Some(3), Some(16)));
        assert_eq!(request("size = 9").image_options(Some(&network)).unwrap().size.unwrap().size, [9, 9]);
        let other = DataRequest { name: "mnist".into(), ..request("skip_broken = true") };
        assert!(matches!(other.load(), Err(TrainError::Setting { name: "skip_broken", .. })));
    }

    #[test]
    fn networks_of_the_zoo_follow_the_data() {
        let data = |size| {
            let images = vec![0; 6 * 2 * size * size];
            Dataset::new("toy", FeatureShape::image(2, size, size), 3, images, vec![0, 1, 2, 0, 1, 2]).unwrap()
        };
        let spec = network_for("resnet20", &data(9)).unwrap();
        assert_eq!((spec.input, spec.classes), ([2, 9, 9], 3));
        let error = network_for("simple-cnn-cifar-v1", &data(9)).unwrap_err().one_line();
        assert!(error.contains("stage conv2") && error.contains("exceeds"), "{error}");
    }

    #[test]
    fn unknown_networks_list_the_known_ones() {
        let error = network_spec("resnet-9000").unwrap_err().one_line();
        assert!(error.contains("simple-cnn-mnist-v2"), "{error}");
        assert!(network_spec("no-such-file.toml").unwrap_err().one_line().contains("no-such-file.toml"));
    }
}
