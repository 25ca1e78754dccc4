use std::path::Path;

use serde::{Deserialize, Serialize};

use super::MANIFEST_FILE;
use crate::TrainError;
use crate::hash::bytes_sha256;
use crate::identity::DataIdentity;
use crate::settings::{Effort, Embedding, Metric, TargetMode};

/// Version of the layout of the folder; raised when an old reader would misread a new store.
const FORMAT: u32 = 2;

/// One transitional stage of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageEntry {
    /// Name of the stage in the network.
    pub name: String,
    /// Shape `[C, H, W]` of one feature.
    pub shape: [usize; 3],
    /// Its dimensions in a shard, as the network has them: `[C, H, W]`, or `[F]` if it is flat.
    pub dims: Vec<usize>,
}

impl StageEntry {
    /// Dimensions of the tensor with the targets of some samples.
    pub fn tensor_dims(&self, samples: usize) -> Vec<usize> {
        [&[samples], self.dims.as_slice()].concat()
    }

    /// Number of entries of one feature.
    pub fn feature_len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One shard of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// File name within the folder.
    pub file: String,
    /// Place of its first sample among those that the targets were made for.
    pub start: usize,
    /// Number of samples.
    pub samples: usize,
}

/// What a store is made from and with: the choices a caller has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestParams {
    /// SHA-256 of the checkpoint file.
    pub checkpoint_sha256: String,
    /// Name of the network.
    pub model: String,
    /// Which samples, in which order.
    pub data: DataIdentity,
    /// Whether the targets stay within what the layers below can produce.
    pub mode: TargetMode,
    /// From label to target output.
    pub embedding: Embedding,
    /// Margin of the embedding; 0 if it has none.
    pub margin: f64,
    /// How far an output may be from the wanted one; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// In which metric they are nearest; left out for the Euclidean one.
    #[serde(default, skip_serializing_if = "Metric::is_euclidean")]
    pub metric: Metric,
    /// How much is spent on nearer targets; left out for the thorough one.
    #[serde(default, skip_serializing_if = "Effort::is_thorough")]
    pub effort: Effort,
    /// Samples per shard.
    pub shard_samples: usize,
    /// The transitional stages, from the input to the output.
    pub stages: Vec<StageEntry>,
}

/// Contents of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the layout.
    pub format: u32,
    /// SHA-256 of `params` as JSON: two stores with the same value hold the same targets.
    pub settings: String,
    /// What the store is made from and with.
    pub params: ManifestParams,
    /// All shards, also those still missing.
    pub shards: Vec<ShardEntry>,
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl Manifest {
    /// Plans the shards of a store.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] for an empty data set or shards of no samples, [`TrainError::Json`] for parameters without
    /// a JSON form.
    pub fn new(params: ManifestParams) -> Result<Self, TrainError> {
        if params.shard_samples == 0 {
            return Err(TrainError::Parameter { name: "shard size", value: "0".into(), range: "1 or more samples" });
        }
        if params.data.samples == 0 {
            return Err(TrainError::Parameter { name: "number of samples", value: "0".into(), range: "1 or more" });
        }
        let shards = (0..params.data.samples)
            .step_by(params.shard_samples)
            .enumerate()
            .map(|(index, start)| ShardEntry {
                file: format!("shard-{index:05}.safetensors"),
                start,
                samples: params.shard_samples.min(params.data.samples - start),
            })
            .collect();
        let settings = fingerprint(&params)?;
        Ok(Self { format: FORMAT, settings, params, shards })
    }

    /// Number of samples of all shards together.
    pub fn samples(&self) -> usize {
        self.params.data.samples
    }

    /// Parses a manifest and checks that it is consistent.
    ///
    /// # Errors
    /// [`TrainError::Json`], or [`TrainError::Store`] for another version or an edited manifest.
    pub(super) fn parse(folder: &Path, path: &Path, text: &[u8]) -> Result<Self, TrainError> {
        let json = |source| TrainError::Json { path: path.to_owned(), what: "manifest of a target store", source };
        let store = |reason: String| TrainError::Store { folder: folder.to_owned(), reason };
        // The version first: other versions may have other fields.
        let Version { format } = serde_json::from_slice(text).map_err(json)?;
        if format != FORMAT {
            let age = if format < FORMAT { "an older" } else { "a newer" };
            let reason = format!(
                "{age} version of this program wrote it (layout {format}, this one knows {FORMAT}); make the targets again \
                 with `fbp targets`, in another folder or with --force"
            );
            return Err(store(reason));
        }
        let found: Self = serde_json::from_slice(text).map_err(json)?;
        // Sizes first: planning the shards of a hostile manifest could take all memory.
        let sizes = found.params.data.samples.checked_div(found.params.shard_samples).unwrap_or(usize::MAX);
        let lengths = found.params.stages.iter().map(|stage| {
            let [channels, height, width] = stage.shape;
            channels.checked_mul(height)?.checked_mul(width)?.checked_mul(4)?.checked_mul(found.params.data.samples)
        });
        let same_len = |stage: &StageEntry| {
            let len = stage.dims.iter().try_fold(1_usize, |len, &dim| len.checked_mul(dim));
            len == Some(stage.feature_len())
        };
        let is_possible = sizes <= found.shards.len()
            && lengths.map(|len| len.unwrap_or(0)).all(|len| len > 0)
            && found.params.stages.iter().all(same_len);
        if !is_possible || Self::new(found.params.clone())? != found {
            return Err(store(
                "its manifest contradicts itself; delete it, or make the store in another folder".into(),
            ));
        }
        Ok(found)
    }

    /// The settings that differ from those of `other`, for an error message; empty if none do.
    pub(super) fn differences(&self, other: &Self) -> String {
        crate::json::differences(&self.params, &other.params)
    }
}

/// SHA-256 of the JSON of the parameters, whose order of fields is that of the struct.
///
/// # Errors
/// [`TrainError::Json`] for parameters without a JSON form: all of them would else have one fingerprint.
fn fingerprint(params: &ManifestParams) -> Result<String, TrainError> {
    let json = serde_json::to_vec(params);
    let json = json.map_err(|source| TrainError::Json { path: MANIFEST_FILE.into(), what: "manifest", source })?;
    Ok(bytes_sha256(&json))
}
