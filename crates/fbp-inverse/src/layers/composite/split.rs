use fbp_linalg::Real;

use super::affine::AffineWhole;
use crate::sequence::OperatorList;

/// How the operators of a block are reversed, found once when it is built.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Split {
    /// Operators that are reversed together; those above go one by one, each exactly.
    pub(super) together: usize,
    /// Whether these are one affine map that is small enough to be written down.
    pub(super) written_down: bool,
}

impl Split {
    pub(super) fn of<T: Real>(list: &OperatorList<T>) -> Self {
        let single = |k: usize| list.operators[k].structure().separable;
        let mut together = list.operators.len();
        while together > 0 && single(together - 1) {
            together -= 1;
        }
        let alone = together == 1 && !list.operators[0].structure().iterated;
        if together == 0 || alone || !list.range(0, together).has_derivatives() {
            return Self::default();
        }
        let affine = list.operators[..together].iter().all(|operator| operator.structure().affine);
        let shape = (list.lens[together], list.lens[0]);
        Self { together, written_down: affine && AffineWhole::<T>::is_small(shape) }
    }

    /// Whether the reversal takes an iteration.
    pub(super) fn is_iterated(&self) -> bool {
        self.together > 0 && !self.written_down
    }
}
