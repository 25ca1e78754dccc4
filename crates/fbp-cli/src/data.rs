//! The options that say which data to use.

use std::path::PathBuf;

use clap::Args;
use fbp_train::TrainError;
use fbp_train::data::DropClass;
use fbp_train::input::{DataRequest, Input};

/// Which data to use.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// fashion-mnist, fashion-mnist-mini (ships with the repository), or idx:FOLDER with the four IDX files of MNIST
    #[arg(long, value_name = "NAME|idx:FOLDER")]
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
    drop_class: Vec<DropClass>,
    /// Give a class that was dropped back: post-training may get what pretraining lacked
    #[arg(long, value_name = "CLASS")]
    recover_class: Vec<u8>,
    /// Give this share of the training samples a wrong label [default: 0]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    label_noise: Option<f64>,
    /// Seed of what is dropped and mislabelled
    #[arg(long, value_name = "N", default_value_t = 0)]
    data_seed: u64,
}

impl DataArgs {
    /// Loads the data.
    pub(crate) fn load(&self) -> Result<Input, TrainError> {
        let request = DataRequest {
            name: self.data.clone(),
            data_dir: self.data_dir.clone(),
            train_size: self.train_size,
            classes: self.classes,
            drop_class: self.drop_class.clone(),
            recover_class: self.recover_class.clone(),
            label_noise: self.label_noise,
            data_seed: self.data_seed,
        };
        request.load()
    }
}
