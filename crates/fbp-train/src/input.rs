//! What a command works on: data and networks by name.

use std::path::{Path, PathBuf};

use clap::Args;
use fbp_models::{NetworkSpec, zoo};
use serde::Deserialize;

use crate::TrainError;
use crate::data::{DataBundle, DataError, Dataset, DropClass, LoadOptions, Regime, load};
use crate::hash::bytes_sha256;
use crate::identity::DataIdentity;

/// Which data to use: on the command line, or as a table of a sweep.
#[derive(Clone, Debug, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataArgs {
    /// fashion-mnist, fashion-mnist-mini (ships with the repository), or idx:FOLDER with the four IDX files of MNIST
    #[arg(long, value_name = "NAME|idx:FOLDER")]
    #[serde(rename = "name")]
    data: String,
    /// Folder with the named data sets, each in a folder of its own
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Use only the first N training samples, equally many of every class
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    train_size: Option<u32>,
    /// Number of classes of idx:FOLDER [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    classes: Option<u16>,
    /// Take a share of a class away from the training data, for example 3:0.9; may be given several times
    #[arg(long, value_name = "CLASS:SHARE")]
    #[serde(default)]
    drop_class: Vec<DropClass>,
    /// Give a class that was dropped back: post-training may get what pretraining lacked
    #[arg(long, value_name = "CLASS")]
    #[serde(default)]
    recover_class: Vec<u8>,
    /// Give this share of the training samples a wrong label [default: 0]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    label_noise: Option<f64>,
    /// Seed of what is dropped and mislabelled
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[serde(default)]
    data_seed: u64,
}

/// Data with what tells them apart from others.
#[derive(Debug)]
pub struct Input {
    /// The data.
    pub bundle: DataBundle,
    /// What they are.
    pub identity: DataIdentity,
}

impl DataArgs {
    /// Loads the data.
    pub fn load(&self) -> Result<Input, TrainError> {
        let options = LoadOptions { data_dir: self.data_dir.clone(), classes: self.classes.map(usize::from) };
        let mut bundle = load(&self.data, &options)?;
        if let Some(size) = self.train_size {
            bundle.train = first_of_every_class(&bundle.train, size as usize)?;
        }
        let regime = self.regime();
        bundle.train = regime.apply(&bundle.train)?;
        let train = &bundle.train;
        // In a regime the split is not that of the samples alone.
        let text = regime.to_string();
        let sha256 = bytes_sha256(format!("{}\n{}\n{text}", train.sha256(), bundle.test.sha256()).as_bytes());
        let identity = DataIdentity { name: format!("{}{text}", self.data), sha256, samples: train.len() };
        Ok(Input { bundle, identity })
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

/// The first `size` samples, taking one of every class in turn, in their order in the data.
fn first_of_every_class(data: &Dataset, size: usize) -> Result<Dataset, DataError> {
    if !(1..=data.len()).contains(&size) {
        let range = "1 to the number of training samples";
        return Err(DataError::Parameter { name: "--train-size", value: size as f64, range });
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
pub fn network_spec(name: &str) -> Result<NetworkSpec, TrainError> {
    let path = Path::new(name);
    let is_toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
    if !is_toml {
        return Ok(zoo::spec(name)?);
    }
    let text = std::fs::read_to_string(path).map_err(TrainError::reading(path))?;
    Ok(NetworkSpec::from_toml(&text)?)
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
    fn unknown_networks_list_the_known_ones() {
        let error = network_spec("resnet-9000").unwrap_err().one_line();
        assert!(error.contains("simple-cnn-mnist-v2"), "{error}");
        assert!(network_spec("no-such-file.toml").unwrap_err().one_line().contains("no-such-file.toml"));
    }
}
