use serde::{Deserialize, Serialize};

use super::change::ChannelChange;
use super::{ExplainedSample, Explanation};
use crate::identity::DataIdentity;
use crate::settings::{Effort, Embedding, Every, Part, TargetMode};

/// Name of the summary.
pub const EXPLAIN_FILE: &str = "explain.json";
/// Name of the page.
pub const EXPLAIN_PAGE: &str = "explain.html";
/// Channels that the summary lists, the most changed ones.
const CHANNELS: usize = 10;
/// Pictures of every stage.
const PICTURES: [&str; 3] = ["observed", "target", "difference"];

/// What was asked to be explained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainSettings {
    /// SHA-256 of the checkpoint.
    pub checkpoint_sha256: String,
    /// Name of the network.
    pub model: String,
    /// The data that the images are from, or the images themselves if they are one's own.
    pub data: DataIdentity,
    /// The part of the data; left out for the training images.
    #[serde(default, skip_serializing_if = "Part::is_train")]
    pub part: Part,
    /// Whether the images are one's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
    /// Names of the classes that the checkpoint tells, in the order of the labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// The choice of samples, as it was written.
    pub samples: String,
    /// Most samples that are explained.
    pub limit: usize,
    /// Seed of the choice.
    pub seed: u64,
    /// The stages asked for; empty for all.
    pub stages: Vec<String>,
    /// Which preimages were looked for.
    pub mode: TargetMode,
    /// From label to target output.
    pub embedding: Embedding,
    /// Lead that the label should have.
    pub margin: f64,
    /// How far an output may be from the wanted one; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// How much is spent on nearer targets; left out for the thorough ones.
    #[serde(default, skip_serializing_if = "Effort::is_thorough")]
    pub effort: Effort,
    /// Which features are explained; left out for those of the stages.
    #[serde(default, skip_serializing_if = "Every::is_stage")]
    pub every: Every,
}

/// What all shards of an explanation are asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainShardSettings {
    /// Settings of the whole explanation.
    pub settings: ExplainSettings,
    /// Number of samples that the choice names.
    pub chosen: usize,
}

/// Contents of `explain.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainRecord {
    /// What was asked for.
    pub settings: ExplainSettings,
    /// Number of samples that the choice names.
    pub chosen: usize,
    /// Why the input is left out although nobody asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_note: Option<String>,
    /// The samples that are explained.
    pub samples: Vec<SampleRecord>,
    /// Every other file of this explanation in the same folder.
    pub files: Vec<String>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    /// Position among the images.
    pub sample: usize,
    /// Its class.
    pub label: u32,
    /// The class that the network gives.
    pub predicted: u32,
    /// Whether its output met the demand, so that nothing has to change.
    pub satisfied: bool,
    /// Output of the network.
    pub logits: Vec<f32>,
    /// What the output should have been; for data with outputs only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<f32>,
    /// Each stage, from the input to the output.
    pub stages: Vec<StageRecord>,
}

/// One stage of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// Name of the stage, or `input`, whose values are brightness from 0 to 1.
    pub stage: String,
    /// Shape `[C, H, W]`.
    pub shape: [usize; 3],
    /// Length of the change.
    pub distance: f64,
    /// Length of the change relative to the feature; 1 for one that was zero.
    pub distance_relative: f64,
    /// Whether the target fulfils the whole demand.
    pub attained: bool,
    /// What the unchanged rest of the network makes of the target.
    pub logits: Vec<f32>,
    /// The class that it gives.
    pub predicted: u32,
    /// The most changed channels, or entries of a vector.
    pub channels: Vec<ChannelChange>,
    /// Files with the feature as it was, as it should have been, and the difference.
    pub pictures: [String; 3],
}

impl ExplainRecord {
    /// Sums up an explanation; `chosen` is the number of samples that the choice names.
    pub fn new(settings: ExplainSettings, chosen: usize, explanation: &Explanation) -> Self {
        let samples: Vec<SampleRecord> = explanation.samples.iter().map(SampleRecord::new).collect();
        let pictures = samples.iter().flat_map(|sample| sample.stages.iter().flat_map(|stage| stage.pictures.clone()));
        let files = std::iter::once(EXPLAIN_PAGE.to_owned()).chain(pictures).collect();
        Self { settings, chosen, input_note: explanation.input_note.clone(), samples, files }
    }
}

impl SampleRecord {
    fn new(sample: &ExplainedSample) -> Self {
        let stages = sample.stages.iter().enumerate().map(|(index, stage)| {
            let change = stage.change();
            let mut channels = change.channels();
            channels.truncate(CHANNELS);
            // Stage names come from the network and may hold what file names may not.
            let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
            let name: String = stage.stage.chars().map(plain).take(40).collect();
            StageRecord {
                stage: stage.stage.clone(),
                shape: stage.shape,
                distance: change.distance(),
                distance_relative: change.distance_relative(),
                attained: stage.attained,
                logits: stage.logits.clone(),
                predicted: stage.predicted(),
                channels,
                pictures: PICTURES.map(|kind| format!("sample{:05}-{index}-{name}-{kind}.png", sample.sample)),
            }
        });
        Self {
            sample: sample.sample,
            label: sample.label,
            predicted: sample.predicted(),
            satisfied: sample.satisfied,
            logits: sample.logits.clone(),
            wanted: sample.wanted.clone(),
            stages: stages.collect(),
        }
    }
}
