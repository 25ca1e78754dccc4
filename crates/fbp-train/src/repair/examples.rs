use fbp_models::Network;
use serde::{Deserialize, Serialize};

use super::origin::Given;
use crate::TrainError;
use crate::affine::AffineLayer;
use crate::data::DataBundle;
use crate::evaluate::{EvalSet, largest_error};
use crate::images::{brightness, image_shape, one_image};
use crate::metrics::argmax;
use crate::targets::{Example, ExampleFeature, OutputExample};

/// A repaired image: its features are those of the changed stage, `observed` before and `target` after the repair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairedExample {
    /// The image, and the class that the network gave before.
    #[serde(flatten)]
    pub example: Example,
    /// The class that it gives after the repair.
    pub predicted_after: u32,
    /// What it gives after the repair; for data with outputs only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found_after: Vec<f32>,
}

/// Lead of the label of every sample before and after, of whole passes through both networks; what the largest error leaves of the
/// tolerance for data with outputs. None where there is one class, which has no other to lead.
///
/// # Errors
/// [`TrainError::Model`] if networks and data do not fit.
pub fn repaired_leads(
    [before, after]: [&Network; 2],
    data: &DataBundle,
    given: Given<'_>,
    tolerance: Option<f64>,
) -> Result<Vec<[f32; 2]>, TrainError> {
    // One class has none to lead over.
    if tolerance.is_none() && data.train.classes() == 1 {
        return Ok(Vec::new());
    }
    let own = EvalSet::new(given.origin.images(data), &data.normalization, Some(given.samples))?.within(tolerance);
    Ok(own.leads(before)?.into_iter().zip(own.leads(after)?).map(|(before, after)| [before, after]).collect())
}

/// A few of the samples, first those that the repair made right, with the output of the stage before and after.
///
/// # Errors
/// [`TrainError::Model`] if networks, stage and data do not fit.
pub fn repaired_examples(
    [before, after]: [&Network; 2],
    stage: &str,
    data: &DataBundle,
    given: Given<'_>,
    (count, tolerance): (usize, Option<f64>),
) -> Result<Vec<RepairedExample>, TrainError> {
    let index = AffineLayer::of(before, stage)?.stage();
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    let images = given.origin.images(data);
    for &sample in given.samples {
        let (pixels, image) = one_image(images, &data.normalization, sample)?;
        let traces = [before.forward_recorded(&image)?, after.forward_recorded(&image)?];
        let mut features = Vec::new();
        let (mut predicted, mut logits) = (Vec::new(), Vec::new());
        for trace in &traces {
            features.push(trace.stage_output(index)?.flatten_all()?.to_vec1()?);
            logits.push(trace.logits().flatten_all()?.to_vec1::<f32>()?);
            predicted.push(logits.last().map_or(0, |logits| argmax(logits)) as u32);
        }
        let output = before.stages()[index].output().shape;
        let (target, observed) = (features.pop().unwrap_or_default(), features.pop().unwrap_or_default());
        let shape = [output.channels, output.height, output.width];
        let label = u32::from(images.labels()[sample]);
        let (found_after, found) = (logits.pop().unwrap_or_default(), logits.pop().unwrap_or_default());
        let outputs = images.outputs().map(|outputs| {
            let (wanted, pose) = (outputs.of(sample).to_vec(), outputs.pose());
            OutputExample { wanted, found, pose }
        });
        let is_right = match &outputs {
            Some(outputs) => largest_error(&found_after, &outputs.wanted) <= tolerance.unwrap_or(0.0),
            None => predicted[1] == label,
        };
        let found_after = if outputs.is_some() { found_after } else { Vec::new() };
        let image_shape = image_shape(images);
        let example = Example {
            sample,
            label,
            predicted: predicted[0],
            shape: image_shape,
            image: brightness(&data.normalization, &pixels, image_shape),
            outputs,
            features: vec![ExampleFeature { stage: stage.to_owned(), shape, observed, target }],
        };
        let list = if is_right { &mut right } else { &mut wrong };
        list.push(RepairedExample { example, predicted_after: predicted[1], found_after });
        if right.len() == count {
            break;
        }
    }
    right.extend(wrong);
    right.truncate(count);
    Ok(right)
}
