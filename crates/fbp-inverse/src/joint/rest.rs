use faer::dyn_stack::{MemStack, StackReq};
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{Bounds, Real};

use crate::tape::{Tape, TapeMut};
use crate::{Interval, InverseError};

/// A *frozen rest*: everything of a network above one of its features, with parameters that stay as they are.
///
/// This is all that the joint iteration needs of a network: outputs, and products with the transposed Jacobian. Plain chains
/// offer it ([`ReverseChain::rest`](crate::ReverseChain::rest)), and so can whatever is no chain: residual blocks, branches,
/// attention. None of its layers has to be reversed.
///
/// # Tape
/// The iteration asks for several products at one point. So that the rest need not run again for them, a forward pass
/// leaves what they need (inputs of inner layers, as a rule) on a *tape*: a list of features whose lengths the rest names.
/// Its memory belongs to the caller, who drops samples from it between passes. So every feature has one column per sample,
/// and no column says anything about another sample.
///
/// # Shapes
/// Points are `in_len × N`, outputs `out_len × N`, one contiguous column per sample; a column of the result depends on that
/// column alone, but for rounding.
///
/// # Source
/// Keeping inner values for the reverse sweep: Griewank & Walther, *Evaluating Derivatives*, 2nd ed., SIAM 2008, ch. 4.
pub trait FrozenRest<T: Real> {
    /// Name in errors.
    fn name(&self) -> &str {
        "rest"
    }

    /// Length of the feature that the rest takes.
    fn in_len(&self) -> usize;

    /// Length of the output.
    fn out_len(&self) -> usize;

    /// In which interval every entry of a target has to lie: that of the activation below.
    fn interval(&self) -> Interval<T> {
        Interval::EVERYTHING
    }

    /// The same for single entries, where more is known of them: all within [`interval`](Self::interval).
    fn bounds(&self) -> Bounds<'_, T> {
        let Interval { lower, upper } = self.interval();
        Bounds::Same(lower, upper)
    }

    /// Length per sample of each feature on the tape; the same at every call.
    fn tape_lens(&self) -> &[usize] {
        &[]
    }

    /// Whether [`vjp`](Self::vjp) may be called. Without derivatives there is no search, and targets are only judged and moved
    /// along the line to the observed feature.
    fn has_derivatives(&self) -> bool {
        true
    }

    /// Workspace of [`forward`](Self::forward) for `batch` samples.
    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        let _ = (batch, par);
        StackReq::EMPTY
    }

    /// Runs the rest, and leaves on the tape what products at the same points need.
    ///
    /// # Errors
    /// [`InverseError::Shape`] on other shapes.
    fn forward(&self, pass: RestForward<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError>;

    /// Workspace of [`vjp`](Self::vjp) for `batch` samples and up to `count` cotangents of each.
    fn vjp_scratch(&self, batch: usize, count: usize, par: Par) -> StackReq {
        let _ = (batch, count, par);
        StackReq::EMPTY
    }

    /// Multiplies several cotangents of the outputs with the transposed Jacobian at the points of the last forward pass.
    ///
    /// # Errors
    /// [`InverseError::Shape`] on other shapes.
    fn vjp(&self, pass: RestVjp<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError>;
}

/// The views of one forward pass of a [`FrozenRest`].
#[derive(Debug)]
pub struct RestForward<'a, T> {
    /// The points: `in_len × N`.
    pub at: MatRef<'a, T>,
    /// What the rest makes of them: `out_len × N`, write-only.
    pub output: MatMut<'a, T>,
    /// What products at these points need; write-only.
    pub tape: TapeMut<'a, T>,
}

/// The views of `count` vector-Jacobian products of a [`FrozenRest`] at the same `N` points.
#[derive(Debug)]
pub struct RestVjp<'a, T> {
    /// The points, as in the forward pass (samples may have left since): `in_len × N`.
    pub at: MatRef<'a, T>,
    /// What that pass has left there.
    pub tape: Tape<'a, T>,
    /// Weights on the outputs: `out_len × (count · N)`, first the first cotangent of all samples, then the second.
    pub cotangents_out: MatRef<'a, T>,
    /// Resulting weights on the points, in the same order: `in_len × (count · N)`, write-only.
    pub cotangents_in: MatMut<'a, T>,
}

impl<T: Real> RestVjp<'_, T> {
    /// Number of cotangents of every sample.
    pub fn count(&self) -> usize {
        self.cotangents_out.ncols().checked_div(self.at.ncols()).unwrap_or(0)
    }

    /// Cotangent number `index` of all samples and where its product belongs.
    ///
    /// # Panics
    /// If there is no such cotangent.
    pub fn cotangent(&mut self, index: usize) -> (MatRef<'_, T>, MatMut<'_, T>) {
        let batch = self.at.ncols();
        let (start, from) = (index * batch, self.cotangents_out.rb());
        (from.subcols(start, batch), self.cotangents_in.rb_mut().subcols_mut(start, batch))
    }
}
