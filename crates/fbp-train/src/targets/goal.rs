use faer::{MatMut, MatRef, Par};
use fbp_inverse::{EmbeddingPass, OutputEmbedding};

use crate::TrainError;
use crate::data::Dataset;
use crate::settings::Embedding;
use crate::store::ManifestParams;

use super::TargetsOptions;

/// Targets of the output: the last stage has no layers above that a target would have to come through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutputGoal {
    /// From label, or wanted outputs, to target output.
    pub embedding: Embedding,
    /// Lead of the label over every other class; for the margin embedding.
    pub margin: f64,
    /// How far an output may be from the wanted one; for the tolerance embedding.
    pub tolerance: f64,
}

/// What outputs are embedded towards: labels or outputs of the same samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WantedOutputs<'a> {
    pub(crate) labels: &'a [u32],
    /// One sample after the other; none where there are labels.
    pub(crate) outputs: &'a [f32],
}

impl OutputGoal {
    /// The targets of the output that belong to those of a store.
    pub fn of(params: &ManifestParams) -> Self {
        Self { embedding: params.embedding, margin: params.margin, tolerance: params.tolerance.unwrap_or(0.0) }
    }

    /// The targets of the output that are asked for.
    pub fn of_options(options: &TargetsOptions) -> Self {
        let TargetsOptions { embedding, margin, tolerance, .. } = *options;
        Self { embedding, margin, tolerance: tolerance.unwrap_or(0.0) }
    }

    /// That of labels; none for outputs.
    pub(crate) fn embedding(self) -> Option<OutputEmbedding> {
        match self.embedding {
            Embedding::Margin => Some(OutputEmbedding::Margin(self.margin)),
            Embedding::MaxAssign => Some(OutputEmbedding::MaxAssign),
            Embedding::OneHot => Some(OutputEmbedding::OneHot),
            Embedding::Tolerance => None,
        }
    }

    /// Checks that it is for such data.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`].
    pub(crate) fn check_fits(self, data: &Dataset) -> Result<(), TrainError> {
        let of_outputs = self.embedding == Embedding::Tolerance;
        if of_outputs == data.outputs().is_some() {
            return Ok(());
        }
        let (own, wanted) = if of_outputs { ("outputs", "labels") } else { ("labels", "outputs") };
        Err(TrainError::Mismatch {
            left: "the targets".into(),
            right: data.name().to_owned(),
            reason: format!("they are for data with {own}, and these have {wanted}"),
        })
    }

    /// Target outputs, one sample after the other: for wanted outputs the nearest within the tolerance.
    ///
    /// # Errors
    /// [`TrainError::Inverse`] for a label that is no class or an output that is no number.
    pub(crate) fn embed(self, found: &[f32], wanted: WantedOutputs<'_>) -> Result<Vec<f32>, TrainError> {
        let mut targets = vec![0.0; found.len()];
        match self.embedding() {
            None => {
                let tolerance = self.tolerance as f32;
                for ((target, &found), &wanted) in targets.iter_mut().zip(found).zip(wanted.outputs) {
                    *target = found.max(wanted - tolerance).min(wanted + tolerance);
                }
            }
            Some(embedding) => {
                let (samples, classes) = (wanted.labels.len(), found.len() / wanted.labels.len().max(1));
                let labels: Vec<usize> = wanted.labels.iter().map(|&label| label as usize).collect();
                embedding.embed(
                    EmbeddingPass {
                        logits: MatRef::from_column_major_slice(found, classes, samples),
                        labels: &labels,
                        target: MatMut::from_column_major_slice_mut(&mut targets, classes, samples),
                        satisfied: &mut vec![false; samples],
                    },
                    Par::Seq,
                )?;
            }
        }
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_outputs_have_the_margin_and_are_nearest() {
        // Sample 0 is right by 2, sample 1 wrong by 1: with margin 1 the pair moves by 1 each, towards each other.
        let goal = OutputGoal { embedding: Embedding::Margin, margin: 1.0, tolerance: 0.0 };
        let wanted = WantedOutputs { labels: &[0, 1], outputs: &[] };
        let targets = goal.embed(&[3.0, 1.0, -5.0, 2.0, 1.0, -5.0], wanted).unwrap();
        assert_eq!(targets, [3.0, 1.0, -5.0, 1.0, 2.0, -5.0]);
        let labels = WantedOutputs { labels: &[0], outputs: &[] };
        assert!(goal.embed(&[f32::NAN, 0.0], labels).is_err());
    }

    #[test]
    fn outputs_move_to_the_edge_of_the_tolerance_and_no_further() {
        let goal = OutputGoal { embedding: Embedding::Tolerance, margin: 0.0, tolerance: 0.5 };
        let wanted = WantedOutputs { labels: &[0; 2], outputs: &[1.0, 1.0, 0.0, -2.0] };
        assert_eq!(goal.embed(&[3.0, 1.25, -0.5, -4.0], wanted).unwrap(), [1.5, 1.25, -0.5, -2.5]);
    }
}
