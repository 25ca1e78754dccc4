//! Whole calls that bring their own memory: for single questions, examples and tests. Loops over batches keep their memory and
//! call [`ReverseOperator::reverse`] and [`ReverseChain::reverse`].

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, MatMut, MatRef, Par};
use fbp_linalg::Real;

use crate::{
    ChainGoal, ChainReport, Interval, InverseError, Margins, OutputEmbedding, ReverseChain, ReverseOperator,
    ReversePass, ReverseReport, TargetBox, TargetBoxMut, TargetMode,
};

/// What the inputs of a layer should have been.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reversed<T> {
    /// The nearest inputs, one column per sample.
    pub point: Mat<T>,
    /// Lower ends of the boxes of inputs that would do as well.
    pub lower: Mat<T>,
    /// Upper ends of those boxes.
    pub upper: Mat<T>,
    /// What the pass did.
    pub report: ReverseReport,
}

/// Reverses a layer for one sample: the input nearest to `observed`, with entries in `range`, that the layer turns into
/// `wanted`.
///
/// # Shapes
/// `observed`: one input of the layer, `wanted`: one output; flat, channel by channel.
///
/// # Errors
/// As [`ReverseOperator::reverse`]. A target that cannot be attained is no error: look at `report.unattained`.
///
/// # Example
/// ```
/// use faer::mat;
/// use fbp_inverse::{LinearReverse, Interval, reverse_one};
///
/// // What should the inputs of `x + y` have been, if the sum should be 3 and neither is negative?
/// let layer = LinearReverse::<f64>::new("sum", mat![[1.0, 1.0]].as_ref(), &[0.0])?;
/// let answer = reverse_one(&layer, &[1.0, 0.0], &[3.0], Interval::new(0.0, f64::INFINITY))?;
/// assert_eq!(answer.report.unattained, 0);
/// assert!((answer.point[(0, 0)] - 2.0).abs() < 1e-12 && (answer.point[(1, 0)] - 1.0).abs() < 1e-12);
/// # Ok::<(), fbp_inverse::InverseError>(())
/// ```
pub fn reverse_one<T: Real>(
    layer: &dyn ReverseOperator<T>,
    observed: &[T],
    wanted: &[T],
    range: Interval<T>,
) -> Result<Reversed<T>, InverseError> {
    let observed = MatRef::from_column_major_slice(observed, observed.len(), 1);
    let wanted = MatRef::from_column_major_slice(wanted, wanted.len(), 1);
    reverse_batch(layer, observed, TargetBox::point(wanted), range, Par::Seq)
}

/// Runs a layer on one sample.
///
/// # Errors
/// As [`ReverseOperator::forward`].
pub fn forward_one<T: Real>(layer: &dyn ReverseOperator<T>, input: &[T]) -> Result<Vec<T>, InverseError> {
    let mut output = vec![T::ZERO; layer.out_shape().len()];
    let mut memory = MemBuffer::new(layer.forward_scratch(1, Par::Seq));
    let column = MatMut::from_column_major_slice_mut(&mut output, layer.out_shape().len(), 1);
    let input = MatRef::from_column_major_slice(input, input.len(), 1);
    layer.forward(input, column, Par::Seq, MemStack::new(&mut memory))?;
    Ok(output)
}

/// Reverses a layer for a batch: runs it on `observed`, and then backwards from a box of wanted outputs.
///
/// # Shapes
/// `observed`: inputs of the layer, one column per sample; `wanted`: as many of its outputs.
///
/// # Errors
/// As [`ReverseOperator::forward`] and [`ReverseOperator::reverse`].
pub fn reverse_batch<T: Real>(
    layer: &dyn ReverseOperator<T>,
    observed: MatRef<'_, T>,
    wanted: TargetBox<'_, T>,
    range: Interval<T>,
    par: Par,
) -> Result<Reversed<T>, InverseError> {
    let (inputs, batch) = (layer.in_shape().len(), observed.ncols());
    let mut output = Mat::zeros(layer.out_shape().len(), batch);
    let scratch = layer.forward_scratch(batch, par).or(layer.reverse_scratch(batch, par));
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    layer.forward(observed, output.as_mut(), par, stack)?;
    let (mut point, mut lower, mut upper) =
        (Mat::zeros(inputs, batch), Mat::zeros(inputs, batch), Mat::zeros(inputs, batch));
    let pass = ReversePass {
        observed_in: observed,
        observed_out: output.as_ref(),
        target_out: wanted,
        in_range: range,
        target_in: TargetBoxMut { point: point.as_mut(), lower: lower.as_mut(), upper: upper.as_mut() },
    };
    let report = layer.reverse(pass, par, stack)?;
    Ok(Reversed { point, lower, upper, report })
}

/// What the features of a chain should have been.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChainTargets<T> {
    /// Target at every boundary, from the input of the chain to its output; one column per sample.
    pub targets: Vec<Mat<T>>,
    /// What the passes did.
    pub report: ChainReport,
}

impl<T: Real> ReverseChain<T> {
    /// Makes the targets of a classifier: at every boundary the features at which the label of each sample would have won by
    /// `margin`.
    ///
    /// # Shapes
    /// `input`: one column per sample; `labels`: one class per sample.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), [`OutputEmbedding::embed`] and [`reverse`](Self::reverse).
    ///
    /// # Example
    /// ```
    /// use faer::mat;
    /// use fbp_inverse::{ChainStage, LinearReverse, Interval, ReverseChain, TargetMode};
    /// use faer::Par;
    ///
    /// let layer = LinearReverse::<f64>::new("out", mat![[1.0, 0.0], [0.0, 1.0]].as_ref(), &[0.0, 0.0])?;
    /// let stage = ChainStage { name: "out".into(), operators: vec![Box::new(layer)] };
    /// let chain = ReverseChain::new(vec![stage], Interval::new(0.0, 1.0))?;
    /// // Class 0 wins; class 1 should have won by 0.2. The nearest input at which it does lies half-way.
    /// let made = chain.targets(mat![[0.5], [0.3]].as_ref(), &[1], 0.2, TargetMode::Attainable, Par::Seq)?;
    /// assert_eq!(made.report.boundaries[0].unattained, 0);
    /// assert!((made.targets[0][(0, 0)] - 0.3).abs() < 1e-9 && (made.targets[0][(1, 0)] - 0.5).abs() < 1e-9);
    /// # Ok::<(), fbp_inverse::InverseError>(())
    /// ```
    pub fn targets(
        &self,
        input: MatRef<'_, T>,
        labels: &[usize],
        margin: f64,
        mode: TargetMode,
        par: Par,
    ) -> Result<ChainTargets<T>, InverseError> {
        let mut work = self.workspace(input.ncols(), par);
        let logits = self.forward(input, &mut work)?;
        let mut wanted = Mat::zeros(logits.nrows(), logits.ncols());
        let mut satisfied = vec![false; logits.ncols()];
        let pass = crate::EmbeddingPass { logits, labels, target: wanted.as_mut(), satisfied: &mut satisfied };
        OutputEmbedding::Margin(margin).embed(pass, par)?;
        let goal =
            ChainGoal { target_out: TargetBox::point(wanted.as_ref()), margins: Some(Margins { labels, margin }) };
        let report = self.reverse(goal, mode, &mut work)?;
        let targets = (0..self.boundaries()).map(|boundary| self.target(boundary, &work).to_owned()).collect();
        Ok(ChainTargets { targets, report })
    }
}
