use fbp_inverse::OutputEmbedding;

use crate::settings::Embedding;
use crate::store::ManifestParams;

/// Targets of the output: the last stage has no layers above that a target would have to come through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutputGoal {
    /// From label to target output.
    pub embedding: Embedding,
    /// Lead of the label over every other class; for the margin embedding.
    pub margin: f64,
}

impl OutputGoal {
    /// The targets of the output that belong to those of a store.
    pub fn of(params: &ManifestParams) -> Self {
        Self { embedding: params.embedding, margin: params.margin }
    }

    pub(crate) fn embedding(self) -> OutputEmbedding {
        match self.embedding {
            Embedding::Margin => OutputEmbedding::Margin(self.margin),
            Embedding::MaxAssign => OutputEmbedding::MaxAssign,
            Embedding::OneHot => OutputEmbedding::OneHot,
        }
    }
}
