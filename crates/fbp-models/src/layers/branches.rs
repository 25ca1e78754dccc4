use candle_core::Tensor;
use fbp_inverse::{Parallel, ReverseOperator};
use fbp_linalg::FeatureShape;

use crate::ops::Clip;
use crate::spec::Merge;
use crate::{Layer, LayerPass, ModelError, Sequence, ops};

/// Lists of layers with one input, whose outputs come together: `block`, `residual` and `parallel`.
#[derive(Debug)]
pub(crate) struct BranchesLayer {
    kind: &'static str,
    branches: Vec<Sequence>,
    merge: Merge,
}

impl BranchesLayer {
    pub(super) fn new(kind: &'static str, branches: Vec<Sequence>, merge: Merge) -> Self {
        Self { kind, branches, merge }
    }

    /// The clipped sum of two branches, the second added where the first ends; `None` if the pass may not join operations, or the
    /// first branch does not end in a way that allows it.
    fn fused_sum(&self, x: &Tensor, clip: Clip, pass: LayerPass<'_>) -> Result<Option<Tensor>, ModelError> {
        let [body, beside] = self.branches.as_slice() else { return Ok(None) };
        if self.merge != Merge::Sum || !pass.folds() || x.track_op() || !body.takes_tail() {
            return Ok(None);
        }
        let beside = beside.forward(x, pass)?.contiguous()?;
        body.forward_with_tail(x, (&beside, clip), pass).map(Some)
    }

    fn outputs(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Vec<Tensor>, ModelError> {
        self.branches.iter().map(|branch| branch.forward(x, pass)).collect()
    }
}

impl Layer for BranchesLayer {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        if let Some(sum) = self.fused_sum(x, Clip::NONE, pass)? {
            return Ok(sum);
        }
        let outputs = self.outputs(x, pass)?;
        match (outputs.as_slice(), self.merge) {
            ([only], _) => Ok(only.clone()),
            ([first, second], Merge::Sum) => {
                let call = ops::add_clipped_call(&pass.contiguous(first)?, &pass.contiguous(second)?, Clip::NONE);
                pass.run(call)
            }
            ([first, others @ ..], Merge::Concat) => others.iter().try_fold(first.clone(), |all, other| {
                pass.run(ops::concat_call(&pass.contiguous(&all)?, &pass.contiguous(other)?))
            }),
            (several, _) => pass.compose(several, |outputs, _| self.merge(outputs)),
        }
    }

    fn forward_clipped(&self, x: &Tensor, clip: Clip, pass: LayerPass<'_>) -> Result<Option<Tensor>, ModelError> {
        if self.merge != Merge::Sum || self.branches.len() != 2 {
            return Ok(None);
        }
        if let Some(sum) = self.fused_sum(x, clip, pass)? {
            return Ok(Some(sum));
        }
        let outputs = self.outputs(x, pass)?;
        let call = ops::add_clipped_call(&pass.contiguous(&outputs[0])?, &pass.contiguous(&outputs[1])?, clip);
        pass.run(call).map(Some)
    }

    fn branches(&self) -> &[Sequence] {
        &self.branches
    }

    fn merge(&self, outputs: &[Tensor]) -> Result<Tensor, ModelError> {
        let [first, others @ ..] = outputs else {
            return Err(candle_core::Error::Msg(format!("{} without branches", self.kind)).into());
        };
        if self.merge == Merge::Concat {
            return Ok(Tensor::cat(outputs, 1)?);
        }
        let join = |sum: Tensor, other: &Tensor| match self.merge {
            Merge::Product => sum.broadcast_mul(other),
            _ => &sum + other,
        };
        Ok(others.iter().try_fold(first.clone(), join)?)
    }

    fn reverse_operator(&self, name: &str, _: FeatureShape) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        let blocks = self.branches.iter().map(|branch| branch.operator(name)).collect::<Result<_, _>>()?;
        let merge = match self.merge {
            Merge::Sum => fbp_inverse::Merge::Sum,
            Merge::Concat => fbp_inverse::Merge::Concat,
            Merge::Product => fbp_inverse::Merge::Product,
        };
        Ok(Box::new(Parallel::new(name, blocks, merge)?))
    }
}
