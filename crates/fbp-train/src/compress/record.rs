use serde::{Deserialize, Serialize};

use super::options::{Compression, Recover};
use crate::identity::DataIdentity;
use crate::outputs::RunRecord;
use crate::processor::Clock;

/// What a compression was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompressSettings {
    /// SHA-256 of the checkpoint to compress.
    pub checkpoint_sha256: String,
    /// Name of the network.
    pub model: String,
    /// The data that the calibration images are from.
    pub data: DataIdentity,
    /// How the network is made small.
    pub compression: Compression,
    /// Number of calibration images.
    pub calibrate: usize,
    /// How the result is put right.
    pub recover: Recover,
    /// Seed of the choice of images.
    pub seed: u64,
    /// Number of test images that judge; all of them if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_size: Option<usize>,
    /// Time of each training, in seconds; for fine-tuning only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
    /// What it is measured by, if not by the time that passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// Learning rates that are tried; for fine-tuning only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learning_rates: Vec<f64>,
}

/// A layer that stays as it is, at least in one way, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftAlone {
    /// Its path.
    pub layer: String,
    /// Why.
    pub reason: String,
}

/// What became of a layer that was solved for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Its path.
    pub layer: String,
    /// Number of its weights.
    pub weights: usize,
    /// How many of them are zero.
    pub zeros: usize,
    /// What is missing from its outputs on the calibration images, given what the layers below now give, with its largest weights, as
    /// many as stay, at their nearest levels: mean square, as a share of the variance of the original outputs.
    pub residual_before: f64,
    /// The same with the weights that were solved for.
    pub residual: f64,
    /// Damping of the solve, as a share of the mean diagonal entry of the Gram matrix.
    pub damping: f64,
}

/// Size of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SizeRecord {
    /// Bytes of all numbers in single precision, as a checkpoint has them.
    pub dense_bytes: usize,
    /// Bytes if zeros are left out and levels take their bits.
    pub packed_bytes: usize,
    /// Number of weights that can be compressed.
    pub weights: usize,
    /// How many of them are zero.
    pub zeros: usize,
}

impl SizeRecord {
    /// Share of zeros among the weights that can be compressed.
    pub fn zero_share(&self) -> f64 {
        self.zeros as f64 / self.weights.max(1) as f64
    }
}

/// How a fine-tuning went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedRecord {
    /// Learning rate of the run that was kept; 0 if what it began with was.
    pub learning_rate: f64,
    /// Number of its steps.
    pub steps: usize,
    /// Accuracy of what it began with on the images that were held back, where that might be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Rates tried, and the accuracy of each on the calibration images that were held back.
    pub tried: Vec<(f64, f64)>,
}

/// Record of a compression, kept beside its checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompressRecord {
    /// What was asked for.
    pub settings: CompressSettings,
    /// Number of worker threads; another number may give other last bits.
    pub threads: usize,
    /// Accuracy on the test set of the network as it was, 0 to 1; RMSE for data with outputs.
    pub test_before: f64,
    /// The same of the network that was only made small: by the size of its weights, or, if no layer is solved for, by the criterion
    /// asked for.
    pub test_compressed: f64,
    /// The same of the result. Where layers are solved for, other weights may be zero in it.
    pub test_recovered: f64,
    /// Whether these are accuracies.
    pub is_accuracy: bool,
    /// Size of the network as it was.
    pub size_before: SizeRecord,
    /// Size of the result.
    pub size: SizeRecord,
    /// The layers, in the order in which they were solved for; for the closed form only.
    pub layers: Vec<LayerRecord>,
    /// Layers that stay as they are, at least in one way.
    pub left_alone: Vec<LeftAlone>,
    /// The fine-tuning, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<TunedRecord>,
    /// Time of compressing and putting right, without reading data and the test set; with that of choosing the zeros.
    pub compress_seconds: f64,
    /// The same as time of the processor on all threads, if the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compress_processor_seconds: Option<f64>,
    /// File name of the compressed checkpoint.
    pub checkpoint: String,
    /// SHA-256 of the compressed checkpoint.
    pub checkpoint_sha256_after: String,
    /// Time of everything.
    pub seconds: f64,
}

impl RunRecord for CompressRecord {
    type Settings = CompressSettings;
    const COMMAND: &'static str = "compress";
    const WHAT: &'static str = "compression record";

    fn settings(&self) -> &CompressSettings {
        &self.settings
    }

    fn checkpoint_sha256(&self) -> &str {
        &self.checkpoint_sha256_after
    }
}
