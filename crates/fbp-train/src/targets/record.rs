use serde::{Deserialize, Serialize};

use crate::settings::{Effort, Embedding, Metric, TargetMode};

/// Statistics of one stage's targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// Name of the stage.
    pub name: String,
    /// Share of the samples for which the frozen rest gives the label on the target, or all outputs within the tolerance.
    pub frozen_rest_accuracy: f64,
    /// The same for the samples that the network classified wrongly before.
    pub frozen_rest_accuracy_of_wrong: f64,
    /// Largest shortfall of the demand at the output: of the lead over the other classes, or the distance of an entry
    /// to its target. What counts as attained: [`BoundaryReport`](fbp_inverse::BoundaryReport).
    pub violation_max: f64,
    /// `|target - observed| / |observed|` over all samples.
    pub distance_relative: f64,
    /// Samples whose observed feature was its own target.
    pub satisfied_before: usize,
    /// Samples for which no feature within the range reaches the target output (none was found).
    pub unattained: usize,
    /// Samples whose target was found in the second attempt: layer by layer, or for layer-wise targets jointly.
    pub corrected: usize,
}

/// Statistics of a finished target store; what `fbp targets --json` writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetsReport {
    /// Which preimages were looked for.
    pub mode: TargetMode,
    /// From label to target output.
    pub embedding: Embedding,
    /// Margin of the embedding.
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
    /// Number of samples.
    pub samples: usize,
    /// Time of the reconstruction, verification and writing, in all runs that it took; what a kill undid counts only up to
    /// the last shard.
    pub seconds: f64,
    /// Samples per second of that time.
    pub images_per_second: f64,
    /// Accuracy of the network on the same samples before, or the share of them within the tolerance.
    pub accuracy_before: f64,
    /// One entry for each transitional stage, from the input to the output.
    pub stages: Vec<StageReport>,
}

/// Features of one stage for an example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExampleFeature {
    /// Name of the stage.
    pub stage: String,
    /// Shape `[C, H, W]`.
    pub shape: [usize; 3],
    /// What the stage gave.
    pub observed: Vec<f32>,
    /// What it should have given.
    pub target: Vec<f32>,
}

/// What a network gave for a sample, and what was wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputExample {
    /// What was wanted.
    pub wanted: Vec<f32>,
    /// What the network gave.
    pub found: Vec<f32>,
    /// Entries of a pose, if the outputs are a trajectory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pose: Option<usize>,
}

/// An image that the network classified wrongly, with its features and their targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Position in the training data.
    pub sample: usize,
    /// The right class.
    pub label: u32,
    /// The class that the network gave.
    pub predicted: u32,
    /// Shape `[C, H, W]` of the image.
    pub shape: [usize; 3],
    /// Brightness of the image, 0 to 1.
    pub image: Vec<f32>,
    /// What it gave and should have given; for data with outputs only, which have no classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<OutputExample>,
    /// Its transitional features.
    pub features: Vec<ExampleFeature>,
}
