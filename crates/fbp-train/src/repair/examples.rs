use fbp_models::Network;
use serde::{Deserialize, Serialize};

use super::origin::Given;
use crate::TrainError;
use crate::affine::AffineLayer;
use crate::data::DataBundle;
use crate::images::{brightness, image_shape, one_image};
use crate::metrics::argmax;
use crate::targets::{Example, ExampleFeature};

/// A repaired image: its features are those of the changed stage, `observed` before and `target` after the repair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairedExample {
    /// The image, and the class that the network gave before.
    #[serde(flatten)]
    pub example: Example,
    /// The class that it gives after the repair.
    pub predicted_after: u32,
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
    count: usize,
) -> Result<Vec<RepairedExample>, TrainError> {
    let index = AffineLayer::of(before, stage)?.stage();
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    let images = given.origin.images(data);
    for &sample in given.samples {
        let (pixels, image) = one_image(images, &data.normalization, sample)?;
        let traces = [before.forward_recorded(&image)?, after.forward_recorded(&image)?];
        let mut features = Vec::new();
        let mut predicted = Vec::new();
        for trace in &traces {
            features.push(trace.stage_output(index)?.flatten_all()?.to_vec1()?);
            predicted.push(argmax(&trace.logits().flatten_all()?.to_vec1::<f32>()?) as u32);
        }
        let output = before.stages()[index].output().shape;
        let (target, observed) = (features.pop().unwrap_or_default(), features.pop().unwrap_or_default());
        let shape = [output.channels, output.height, output.width];
        let label = u32::from(images.labels()[sample]);
        let image_shape = image_shape(images);
        let example = Example {
            sample,
            label,
            predicted: predicted[0],
            shape: image_shape,
            image: brightness(&data.normalization, &pixels, image_shape),
            features: vec![ExampleFeature { stage: stage.to_owned(), shape, observed, target }],
        };
        let list = if predicted[1] == label { &mut right } else { &mut wrong };
        list.push(RepairedExample { example, predicted_after: predicted[1] });
        if right.len() == count {
            break;
        }
    }
    right.extend(wrong);
    right.truncate(count);
    Ok(right)
}
