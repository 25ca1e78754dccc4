//! What the features of chosen samples are, what they should have been, and where they differ.

mod change;
mod record;

pub use change::{Change, ChannelChange};
pub use record::{
    EXPLAIN_FILE, EXPLAIN_PAGE, ExplainRecord, ExplainSettings, ExplainShardSettings, SampleRecord, StageRecord,
};

use std::path::Path;

use candle_core::{Device, Tensor};
use fbp_inverse::{ChannelRanges, Interval};
use fbp_models::Network;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::data::{Normalization, Outputs};
use crate::images::{brightness, image_shape, one_image};
use crate::metrics::{all_finite, argmax};
use crate::share::ShardFolder;
use crate::targets::{Reversed, TargetsOptions, TargetsSource, reverse_samples, transitional_names};

/// Name of the network's input among the stages.
pub const INPUT: &str = "input";

/// Where the shards of an explanation are.
pub fn explain_shards(folder: &Path) -> ShardFolder<'_> {
    ShardFolder { folder, what: "explain" }
}

/// Puts the shards of an explanation together, in their order.
///
/// # Errors
/// As [`ShardFolder::all`].
pub fn merge_explain(folder: &Path) -> Result<(ExplainShardSettings, Explanation), TrainError> {
    let (settings, shards) = explain_shards(folder).all::<ExplainShardSettings, Explanation>()?;
    let mut whole = Explanation { input_note: None, samples: Vec::new() };
    for shard in shards {
        // A shard without samples has nothing to say about the input.
        whole.input_note = whole.input_note.or(shard.input_note);
        whole.samples.extend(shard.samples);
    }
    let stages = |sample: &ExplainedSample| sample.stages.iter().map(|stage| stage.stage.clone()).collect::<Vec<_>>();
    let first = whole.samples.first().map(stages);
    if whole.samples.iter().any(|sample| Some(stages(sample)) != first) {
        let reason = "they explain different stages: remove them and explain again".into();
        return Err(TrainError::Shards { folder: folder.to_owned(), reason });
    }
    Ok((settings, whole))
}

/// What to explain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExplainOptions {
    /// How targets are found.
    pub targets: TargetsOptions,
    /// Transitional stages, or [`INPUT`]; all of them, and the input where it can be reached, if there are none.
    pub stages: Vec<String>,
}

/// Samples with their features and what these should have been.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Why the input is left out although nobody asked for that.
    pub input_note: Option<String>,
    /// Each sample, in the order given.
    pub samples: Vec<ExplainedSample>,
}

/// One sample.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainedSample {
    /// Position among the images.
    pub sample: usize,
    /// Its class.
    pub label: u32,
    /// Output of the network.
    pub logits: Vec<f32>,
    /// What the output should have been; none for data with labels.
    pub wanted: Vec<f32>,
    /// Entries of a pose, if the outputs are a trajectory.
    pub pose: Option<usize>,
    /// Whether the output met the demand, so that nothing has to change.
    pub satisfied: bool,
    /// Shape `[C, H, W]` of the image.
    pub shape: [usize; 3],
    /// Brightness of the image, 0 to 1.
    pub image: Vec<f32>,
    /// The stages asked for, from the input to the output.
    pub stages: Vec<ExplainedStage>,
}

/// What one stage gave for a sample, and what it should have given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainedStage {
    /// Name of the stage, or [`INPUT`].
    pub stage: String,
    /// Shape `[C, H, W]` of its output.
    pub shape: [usize; 3],
    /// What it gave; brightness from 0 to 1 for the input.
    pub observed: Vec<f32>,
    /// What it should have given, in the same units.
    pub target: Vec<f32>,
    /// Whether the target fulfils the whole demand.
    pub attained: bool,
    /// What the unchanged rest of the network makes of the target.
    pub logits: Vec<f32>,
}

impl ExplainedSample {
    /// The class that the network gives.
    pub fn predicted(&self) -> u32 {
        argmax(&self.logits) as u32
    }
}

impl ExplainedStage {
    /// The class that the rest of the network gives on the target.
    pub fn predicted(&self) -> u32 {
        argmax(&self.logits) as u32
    }

    /// From what it gave to what it should have given.
    pub fn change(&self) -> Change<'_> {
        Change { shape: self.shape, before: &self.observed, after: &self.target, image: self.stage == INPUT }
    }
}

/// Checks that a network has the stages asked for, and gives all that it has.
///
/// # Errors
/// [`TrainError::UnknownStage`].
pub fn check_stages(network: &Network, stages: &[String]) -> Result<Vec<String>, TrainError> {
    let known = [&[INPUT.to_owned()][..], &transitional_names(network)].concat();
    match stages.iter().find(|stage| !known.contains(stage)) {
        Some(stage) => Err(TrainError::UnknownStage { stage: stage.clone(), known: known.join(", ") }),
        None => Ok(known),
    }
}

/// Computes the targets of some samples at every stage asked for.
///
/// The input is reversed too where its stage can be, to the nearest image found with brightness from 0 to 1 (or, of numbers that
/// are no pixels, without bounds) that the
/// network would have classified as the label: what it should have seen. Where none is found, the sample's stage is not
/// [`attained`](ExplainedStage::attained).
///
/// # Errors
/// [`TrainError::UnknownStage`], [`TrainError::Parameter`], [`TrainError::Data`] for a sample that is not there,
/// [`TrainError::Model`] or [`TrainError::Inverse`] if a layer cannot be reversed.
pub fn explain(
    source: TargetsSource<'_>,
    samples: &[usize],
    options: &ExplainOptions,
) -> Result<Explanation, TrainError> {
    let known = check_stages(source.network, &options.stages)?;
    let wanted = |stage: &String| options.stages.is_empty() || options.stages.contains(stage);
    let asked: Vec<usize> = (0..known.len()).filter(|&index| wanted(&known[index])).collect();
    // What numbers other than pixels can be is not known.
    let ranges =
        if source.data.is_pixels() { brightness_ranges(source.normalization) } else { Interval::EVERYTHING.into() };
    let run = |first: usize| {
        let take = |reversed: Reversed<'_>| explain_part(&source, &known, &asked, first, &reversed);
        // One by one, so that what is said of a sample does not depend on the others.
        let parts = reverse_samples(&source, &options.targets, (first, &ranges), (samples, 1), take)?;
        let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(parts.into_iter().flatten().collect::<Vec<_>>())
    };
    // From the input, if it is of interest; from the first stage otherwise, which always can be a start.
    match run(if asked.contains(&0) { 0 } else { 1 }) {
        Ok(samples) => Ok(Explanation { input_note: None, samples }),
        Err(error @ (TrainError::Model(_) | TrainError::Inverse(_)))
            if options.stages.is_empty() && known.len() > 1 =>
        {
            let note = format!("the first stage cannot be reversed: {}", error.one_line());
            Ok(Explanation { input_note: Some(note), samples: run(1)? })
        }
        Err(error) => Err(error),
    }
}

/// What the channels of images can be, as the network sees them.
fn brightness_ranges(normalization: &Normalization) -> ChannelRanges<f32> {
    let ends = normalization.mean().iter().zip(normalization.std()).map(|(mean, std)| {
        // With the roundings of the normalisation itself, so that black and white are within.
        let black = (-mean / std) as f32;
        Interval::new(black, 255.0 * (1.0 / (255.0 * std)) as f32 + black)
    });
    ends.collect::<Vec<_>>().into()
}

/// Number `index` is that of a stage's output among all known ones, 0 for the input of the network.
fn explain_part(
    source: &TargetsSource<'_>,
    known: &[String],
    asked: &[usize],
    first: usize,
    reversed: &Reversed<'_>,
) -> Result<Vec<ExplainedSample>, TrainError> {
    let Reversed { chain, work, samples, .. } = reversed;
    let (data, image_shape) = (source.data, image_shape(source.data));
    let bright = |values: &[f32]| brightness(source.normalization, values, image_shape);
    let last = chain.boundaries() - 1;
    let observed = |boundary: usize, sample: usize| column(chain.observed(boundary, work), sample);
    let target = |boundary: usize, sample: usize| column(chain.target(boundary, work), sample);
    let mut explained = Vec::with_capacity(samples.len());
    for (place, &sample) in samples.iter().enumerate() {
        let (pixels, _) = one_image(data, source.normalization, sample)?;
        let mut stages = Vec::new();
        for &index in asked.iter().filter(|index| **index >= first) {
            let boundary = index - first;
            let (mut before, mut after) = (observed(boundary, place), target(boundary, place));
            let logits = rest_of_network(source, index, &after)?;
            if index == 0 {
                (before, after) = (bright(&before), bright(&after));
            }
            let shape = chain.boundary_shape(boundary).map_or([0; 3], |s| [s.channels, s.height, s.width]);
            stages.push(ExplainedStage {
                stage: known[index].clone(),
                shape,
                observed: before,
                target: after,
                attained: chain.attained(boundary, place, work),
                logits,
            });
        }
        explained.push(ExplainedSample {
            sample,
            label: u32::from(data.labels()[sample]),
            wanted: data.outputs().map(|outputs| outputs.of(sample).to_vec()).unwrap_or_default(),
            pose: data.outputs().and_then(Outputs::pose),
            satisfied: observed(last, place) == target(last, place),
            logits: observed(last, place),
            shape: image_shape,
            image: bright(&pixels),
            stages,
        });
    }
    Ok(explained)
}

/// The features of one sample.
fn column(features: faer::MatRef<'_, f32>, sample: usize) -> Vec<f32> {
    features.col(sample).iter().copied().collect()
}

/// Logits for one output of stage `index - 1`, by the network's own layers; they must be numbers.
fn rest_of_network(source: &TargetsSource<'_>, index: usize, feature: &[f32]) -> Result<Vec<f32>, TrainError> {
    let feature = Tensor::from_slice(feature, (1, feature.len()), &Device::Cpu)?;
    let stages = index..source.network.stages().len();
    let logits = source.network.infer_stages(stages, &feature)?.flatten_all()?.to_vec1()?;
    if all_finite(&logits) { Ok(logits) } else { Err(TrainError::NonFiniteOutput) }
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;
    use fbp_models::NetworkSpec;

    use super::*;
    use crate::data::Dataset;

    const NETWORKS: [&str; 2] = [
        r#"
        name = "convolution"
        input = [3, 6, 6]
        classes = 3
        [[stages]]
        name = "a"
        layers = [{ type = "conv2d", out_channels = 4, kernel = 3 }, { type = "relu" }]
        [[stages]]
        name = "out"
        layers = [{ type = "flatten" }, { type = "linear", out_features = 3 }]
    "#,
        r#"
        name = "perceptron"
        input = [3, 6, 6]
        classes = 3
        [[stages]]
        name = "a"
        layers = [{ type = "flatten" }, { type = "linear", out_features = 48 }, { type = "relu" }]
        [[stages]]
        name = "out"
        layers = [{ type = "linear", out_features = 3 }]
    "#,
    ];

    #[test]
    fn every_colour_of_an_explained_image_is_one_that_images_can_have() {
        let images: Vec<u8> = (0..16 * 108_usize).map(|i| (i * i % 251) as u8).collect();
        let labels = (0..16).map(|sample| sample % 3).collect();
        let data = Dataset::new("colours", FeatureShape::image(3, 6, 6), 3, images, labels).unwrap();
        // Ends that differ much between the colours.
        let normalization = Normalization::new(vec![0.2, 0.5, 0.8], vec![0.1, 0.5, 1.0]).unwrap();
        let rounding = 1e3 * f64::from(f32::EPSILON);
        for text in NETWORKS {
            let network = Network::new(&NetworkSpec::from_toml(text).unwrap(), 3).unwrap();
            let source = TargetsSource { network: &network, data: &data, normalization: &normalization };
            let targets = TargetsOptions { margin: 0.5, ..TargetsOptions::default() };
            let options = ExplainOptions { targets, stages: vec![INPUT.to_owned()] };
            let found = explain(source, &(0..16).collect::<Vec<_>>(), &options).unwrap();
            let (mut moved, mut at_ends) = (0, 0);
            for sample in &found.samples {
                let stage = &sample.stages[0];
                assert!(stage.attained, "sample {}", sample.sample);
                for (&before, &after) in stage.observed.iter().zip(&stage.target) {
                    let after = f64::from(after);
                    assert!((-rounding..=1.0 + rounding).contains(&after), "sample {}: {after}", sample.sample);
                    moved += usize::from(f64::from(before) != after);
                    at_ends += usize::from(f64::from(before) != after && !(rounding..=1.0 - rounding).contains(&after));
                }
            }
            assert!(moved > 500 && at_ends > 10, "{moved} entries moved, {at_ends} to an end");
        }
    }
}
