use candle_core::{Device, Tensor};
use faer::Par;

use super::TargetsSource;
use super::record::{Example, ExampleFeature, OutputExample};
use crate::TrainError;
use crate::data::Outputs;
use crate::evaluate::EvalSet;
use crate::images::{brightness, image_shape, one_image};
use crate::metrics::argmax;
use crate::store::{StageEntry, TargetStore};

/// Samples looked at for wrong ones.
const SEARCH: usize = 4096;
const BATCH: usize = 256;

/// A few samples that the network classifies wrongly, of as many classes as possible, with features and targets; of data with
/// outputs those with the largest errors.
///
/// Only the first 4,096 samples are looked at, in order, so the choice does not depend on chance.
///
/// # Errors
/// [`TrainError::Model`] if network and data do not fit, [`TrainError::UnknownStage`] if network and store do not.
pub fn wrong_examples(
    source: TargetsSource<'_>,
    store: &TargetStore,
    count: usize,
) -> Result<Vec<Example>, TrainError> {
    let mut examples = draft_examples(source, &store.manifest().params.stages, count)?;
    fill_examples(&mut examples, store)?;
    Ok(examples)
}

/// As [`wrong_examples`], but for the targets, which may not be there yet.
///
/// # Errors
/// As [`wrong_examples`].
pub(crate) fn draft_examples(
    source: TargetsSource<'_>,
    stages: &[StageEntry],
    count: usize,
) -> Result<Vec<Example>, TrainError> {
    if let Some(outputs) = source.data.outputs() {
        return worst_examples(&source, outputs, stages, count);
    }
    let wrong = wrong_samples(&source)?;
    let mut chosen: Vec<(usize, usize)> = Vec::new();
    // Round by round, one sample of every class.
    for round in 0..wrong.len() {
        for &(sample, predicted) in &wrong {
            let label = source.data.labels()[sample];
            let earlier = |&&(other, _): &&(usize, usize)| source.data.labels()[other] == label;
            let of_class = chosen.iter().filter(earlier).count();
            let taken = chosen.iter().any(|&(other, _)| other == sample);
            if chosen.len() < count && of_class == round && !taken {
                chosen.push((sample, predicted));
            }
        }
        if chosen.len() == count {
            break;
        }
    }
    chosen.sort_unstable();
    chosen.into_iter().map(|(sample, predicted)| example(&source, stages, sample, predicted)).collect()
}

/// Gives examples their targets.
///
/// # Errors
/// [`TrainError::UnknownStage`] for a stage that the store does not have, [`TrainError::Shards`] for a sample that it does not
/// have.
pub(crate) fn fill_examples(examples: &mut [Example], store: &TargetStore) -> Result<(), TrainError> {
    for example in examples {
        if example.sample >= store.manifest().samples() {
            let reason = format!("the examples tell of sample {}, which the store does not have", example.sample);
            return Err(TrainError::Shards { folder: store.folder().to_owned(), reason });
        }
        for feature in &mut example.features {
            feature.target = store.target(&feature.stage, example.sample)?.to_vec();
        }
    }
    Ok(())
}

/// The samples with the largest losses among the first ones, the largest first.
fn worst_examples(
    source: &TargetsSource<'_>,
    outputs: &Outputs,
    stages: &[StageEntry],
    count: usize,
) -> Result<Vec<Example>, TrainError> {
    let samples: Vec<usize> = (0..source.data.len().min(SEARCH)).collect();
    let losses = EvalSet::new(source.data, source.normalization, Some(&samples))?.losses(source.network)?;
    let mut order = samples;
    order.sort_by(|&a, &b| losses[b].total_cmp(&losses[a]));
    order.truncate(count);
    let of = |sample| {
        let example = example(source, stages, sample, 0)?;
        let (_, input) = one_image(source.data, source.normalization, sample)?;
        let found = source.network.infer(&input)?.flatten_all()?.to_vec1()?;
        let outputs = OutputExample { wanted: outputs.of(sample).to_vec(), found, pose: outputs.pose() };
        Ok(Example { outputs: Some(outputs), ..example })
    };
    order.into_iter().map(of).collect()
}

/// Wrongly classified samples among the first ones, with the class that the network gives.
fn wrong_samples(source: &TargetsSource<'_>) -> Result<Vec<(usize, usize)>, TrainError> {
    let pixels = source.data.shape().len();
    let samples: Vec<usize> = (0..source.data.len().min(SEARCH)).collect();
    let mut wrong = Vec::new();
    for batch in samples.chunks(BATCH) {
        let mut images = vec![0.0; batch.len() * pixels];
        source.data.normalise_into(batch, source.normalization, &mut images, Par::Seq)?;
        let logits = source.network.infer(&Tensor::from_vec(images, (batch.len(), pixels), &Device::Cpu)?)?;
        for (&sample, logits) in batch.iter().zip(logits.to_vec2::<f32>()?) {
            let predicted = argmax(&logits);
            if predicted != usize::from(source.data.labels()[sample]) {
                wrong.push((sample, predicted));
            }
        }
    }
    Ok(wrong)
}

fn example(
    source: &TargetsSource<'_>,
    stages: &[StageEntry],
    sample: usize,
    predicted: usize,
) -> Result<Example, TrainError> {
    let (pixels, input) = one_image(source.data, source.normalization, sample)?;
    let trace = source.network.forward_recorded(&input)?;
    let mut features = Vec::new();
    for entry in stages {
        let stage = source.network.stage_index(&entry.name)?;
        features.push(ExampleFeature {
            stage: entry.name.clone(),
            shape: entry.shape,
            observed: trace.stage_output(stage)?.flatten_all()?.to_vec1()?,
            target: Vec::new(),
        });
    }
    let shape = image_shape(source.data);
    Ok(Example {
        sample,
        label: u32::from(source.data.labels()[sample]),
        predicted: predicted as u32,
        shape,
        image: brightness(source.normalization, &pixels, shape),
        outputs: None,
        features,
    })
}
