use candle_core::{Device, Tensor};
use faer::Par;

use super::TargetsSource;
use super::record::{Example, ExampleFeature};
use crate::TrainError;
use crate::images::{brightness, image_shape, one_image};
use crate::metrics::argmax;
use crate::store::{StageTargets, TargetStore};

/// Samples looked at for wrong ones.
const SEARCH: usize = 4096;
const BATCH: usize = 256;

/// A few samples that the network classifies wrongly, of as many classes as possible, with features and targets.
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
    let stages = store.manifest().params.stages.iter().map(|entry| store.stage(&entry.name));
    let stages = stages.collect::<Result<Vec<_>, _>>()?;
    chosen.into_iter().map(|(sample, predicted)| example(&source, &stages, sample, predicted)).collect()
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
    stages: &[StageTargets<'_>],
    sample: usize,
    predicted: usize,
) -> Result<Example, TrainError> {
    let (pixels, input) = one_image(source.data, source.normalization, sample)?;
    let trace = source.network.forward_recorded(&input)?;
    let mut features = Vec::new();
    for targets in stages {
        let entry = targets.entry();
        let stage = source.network.stage_index(&entry.name)?;
        features.push(ExampleFeature {
            stage: entry.name.clone(),
            shape: entry.shape,
            observed: trace.stage_output(stage)?.flatten_all()?.to_vec1()?,
            target: targets.row(sample).to_vec(),
        });
    }
    let shape = image_shape(source.data);
    Ok(Example {
        sample,
        label: u32::from(source.data.labels()[sample]),
        predicted: predicted as u32,
        shape,
        image: brightness(source.normalization, &pixels, shape),
        features,
    })
}
