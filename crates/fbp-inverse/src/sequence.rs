//! Operators that run one after the other, as a chain and a block have them.

use faer::dyn_stack::{MemStack, StackReq};
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{CACHE_LINE, FeatureShape, Real, zeroed_scratch};

use crate::tape::{Tape, TapeMut};
use crate::{
    ChannelRanges, DifferentiableOperator, Interval, InverseError, JvpPass, ReverseOperator, Structure, VjpPass,
    expect_batch,
};

/// Alignment of intermediate features, in bytes: that of the widest vectors.
pub(crate) const ALIGN: usize = CACHE_LINE;

/// Operators in forward order, with the lengths of the features between them and what they keep on a tape.
pub(crate) struct OperatorList<T> {
    pub(crate) operators: Vec<Box<dyn ReverseOperator<T>>>,
    /// `lens[k]` is the length of the input of operator `k`; the last one that of the output.
    pub(crate) lens: Vec<usize>,
    /// Lengths of the features on the tape: first those that operator 0 keeps for itself, then its output, and so on; the output
    /// of the last one is not kept.
    tape: Vec<usize>,
    /// `tape_starts[k]` is the place on the tape of what operator `k` keeps for itself; one more entry marks the end.
    tape_starts: Vec<usize>,
    /// Number of features that operator `k` keeps for itself.
    tape_counts: Vec<usize>,
}

impl<T: Real> OperatorList<T> {
    /// No operators yet, on features of this length.
    pub(crate) fn new(in_len: usize) -> Self {
        Self {
            operators: Vec::new(),
            lens: vec![in_len],
            tape: Vec::new(),
            tape_starts: vec![0],
            tape_counts: Vec::new(),
        }
    }

    /// Adds the next operator; `below` is the shape of what it is given, for the error.
    ///
    /// # Errors
    /// [`InverseError::Chain`] if it takes features of another length.
    pub(crate) fn push(&mut self, operator: Box<dyn ReverseOperator<T>>) -> Result<(), InverseError> {
        let below = self.lens[self.operators.len()];
        if below != operator.in_shape().len() {
            let found = self.operators.last().map_or(FeatureShape::vector(below), |last| last.out_shape());
            let (layer, expected) = (operator.name().to_owned(), operator.in_shape());
            return Err(InverseError::Chain { layer, expected, found });
        }
        if !self.operators.is_empty() {
            self.tape.push(below);
            self.tape_starts[self.operators.len()] = self.tape.len();
        }
        let kept = operator.differentiable().map_or(&[][..], |operator| operator.tape_lens());
        self.tape.extend_from_slice(kept);
        self.tape_counts.push(kept.len());
        self.tape_starts.push(self.tape.len());
        self.lens.push(operator.out_shape().len());
        self.operators.push(operator);
        Ok(())
    }

    /// The operators `first .. last`.
    pub(crate) fn range(&self, first: usize, last: usize) -> Sequence<'_, T> {
        let end = if last > first {
            self.tape_starts[last - 1] + self.tape_counts[last - 1]
        } else {
            self.tape_starts[first]
        };
        Sequence {
            operators: &self.operators[first..last],
            lens: &self.lens[first..=last],
            tape: &self.tape[self.tape_starts[first]..end],
            tape_starts: &self.tape_starts[first..=last],
            tape_counts: &self.tape_counts[first..last],
        }
    }

    /// The operators from number `first` on.
    pub(crate) fn from(&self, first: usize) -> Sequence<'_, T> {
        self.range(first, self.operators.len())
    }

    /// All operators.
    pub(crate) fn all(&self) -> Sequence<'_, T> {
        self.from(0)
    }
}

/// Consecutive operators as one function. Without any, it is the identity.
pub(crate) struct Sequence<'a, T> {
    pub(crate) operators: &'a [Box<dyn ReverseOperator<T>>],
    /// Lengths of the features below each of the operators, and of the output.
    lens: &'a [usize],
    tape: &'a [usize],
    tape_starts: &'a [usize],
    tape_counts: &'a [usize],
}

impl<T> Clone for Sequence<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Sequence<'_, T> {}

impl<T: Real> ChannelRanges<T> {
    /// What operators that run one after the other make of a feature in these ranges.
    pub fn through<'o>(self, operators: impl IntoIterator<Item = &'o dyn ReverseOperator<T>>) -> Self {
        let (mut ranges, mut shape) = (self, None);
        for operator in operators {
            let own = operator.in_shape();
            ranges = operator.out_ranges(&ranges.reshaped(shape.unwrap_or(own), own));
            shape = Some(operator.out_shape());
        }
        ranges
    }
}

impl<'a, T: Real> Sequence<'a, T> {
    pub(crate) fn in_len(&self) -> usize {
        self.lens[0]
    }

    pub(crate) fn out_len(&self) -> usize {
        self.lens[self.operators.len()]
    }

    pub(crate) fn tape_lens(&self) -> &'a [usize] {
        self.tape
    }

    /// Whether every operator has derivatives.
    pub(crate) fn has_derivatives(&self) -> bool {
        self.derivatives().all(|derivative| derivative.is_some())
    }

    /// What all operators together make of inputs in a range.
    pub(crate) fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        self.operators.iter().fold(in_range, |range, operator| operator.out_range(range))
    }

    /// The same channel by channel.
    pub(crate) fn out_ranges(&self, in_ranges: &ChannelRanges<T>) -> ChannelRanges<T> {
        in_ranges.clone().through(self.operators.iter().map(|operator| &**operator))
    }

    /// Channels of the output, where the input has this shape.
    pub(crate) fn out_channels(&self, in_shape: FeatureShape) -> usize {
        self.operators.last().map_or(in_shape, |last| last.out_shape()).channels
    }

    fn derivatives(&self) -> impl Iterator<Item = Option<&'a dyn DifferentiableOperator<T>>> + use<'a, T> {
        self.operators.iter().map(|operator| operator.differentiable())
    }

    fn derivative(&self, k: usize) -> &'a dyn DifferentiableOperator<T> {
        self.operators[k].differentiable().expect("operators without derivatives are not asked for products")
    }

    /// Length of the longest feature between two operators.
    fn longest(&self) -> usize {
        self.lens[1..].split_last().map_or(0, |(_, inner)| inner.iter().copied().max().unwrap_or(0))
    }

    /// Place on the tape of what operator `k` keeps for itself; its input is right before.
    fn tape_start(&self, k: usize) -> usize {
        self.tape_starts[k] - self.tape_starts[0]
    }

    /// Input of operator `k` on the tape of a pass at `at`, and what it keeps for itself.
    pub(crate) fn point<'t>(&self, k: usize, at: MatRef<'t, T>, tape: Tape<'t, T>) -> (MatRef<'t, T>, Tape<'t, T>) {
        let start = self.tape_start(k);
        let (below, from) = tape.split_at(start);
        let (own, _) = from.split_at(self.tape_counts[k]);
        (if k == 0 { at } else { below.feature(start - 1) }, own)
    }

    fn inner_scratch(&self, batch: usize) -> StackReq {
        let feature = StackReq::new_aligned::<T>(self.longest() * batch, ALIGN);
        feature.and(feature)
    }

    /// Workspace of [`forward`](Self::forward).
    pub(crate) fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.inner_scratch(batch).and(self.forward_on_tape_scratch(batch, par))
    }

    /// Workspace of [`forward_on_tape`](Self::forward_on_tape).
    pub(crate) fn forward_on_tape_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.operators.iter().fold(StackReq::EMPTY, |req, operator| req.or(operator.forward_scratch(batch, par)))
    }

    /// Runs the operators and keeps nothing.
    pub(crate) fn forward(
        &self,
        name: &str,
        input: MatRef<'_, T>,
        mut output: MatMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let (batch, count) = (input.ncols(), self.operators.len());
        if count <= 1 {
            return match self.operators.first() {
                Some(operator) => operator.forward(input, output, par, stack),
                None => copy(name, ("output", input), output),
            };
        }
        let (mut below, mut above, stack) = two_features(self.longest() * batch, par, stack);
        for (k, operator) in self.operators.iter().enumerate() {
            let input = if k == 0 { input } else { view(below, self.lens[k], batch) };
            let is_last = k + 1 == count;
            let output = if is_last { output.rb_mut() } else { view_mut(above, self.lens[k + 1], batch) };
            operator.forward(input, output, par, stack)?;
            std::mem::swap(&mut below, &mut above);
        }
        Ok(())
    }

    /// Runs the operators and leaves on the tape what products at the same points need.
    pub(crate) fn forward_on_tape(
        &self,
        name: &str,
        (input, mut output): (MatRef<'_, T>, MatMut<'_, T>),
        mut tape: TapeMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        if self.operators.is_empty() {
            return copy(name, ("output", input), output);
        }
        for (k, operator) in self.operators.iter().enumerate() {
            let (below, mut from) = tape.split_at_mut(self.tape_start(k));
            let (own, mut above) = from.split_at_mut(self.tape_counts[k]);
            let input = if k == 0 { input } else { below.rb().feature(self.tape_start(k) - 1) };
            let is_last = k + 1 == self.operators.len();
            let output = if is_last { output.rb_mut() } else { above.feature_mut(0) };
            match operator.differentiable() {
                Some(operator) => operator.forward_on_tape(input, output, own, par, stack)?,
                None => operator.forward(input, output, par, stack)?,
            }
        }
        Ok(())
    }

    /// Workspace of [`jvp_on_tape`](Self::jvp_on_tape) and [`vjp_on_tape`](Self::vjp_on_tape).
    pub(crate) fn product_scratch(&self, batch: usize, par: Par) -> StackReq {
        let products = self.derivatives().flatten();
        let products = products.fold(StackReq::EMPTY, |req, op| req.or(op.derivative_scratch(batch, par)));
        self.inner_scratch(batch).and(products)
    }

    pub(crate) fn jvp_on_tape(
        &self,
        name: &str,
        pass: JvpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let JvpPass { at, tangent_in, mut tangent_out } = pass;
        let (batch, count) = (at.ncols(), self.operators.len());
        if count == 0 {
            return copy(name, ("tangent_out", tangent_in), tangent_out);
        }
        let (mut below, mut above, stack) = two_features(self.longest() * batch, par, stack);
        for k in 0..count {
            let (at, own) = self.point(k, at, tape);
            let tangent_in = if k == 0 { tangent_in } else { view(below, self.lens[k], batch) };
            let is_last = k + 1 == count;
            let tangent_out = if is_last { tangent_out.rb_mut() } else { view_mut(above, self.lens[k + 1], batch) };
            self.derivative(k).jvp_on_tape(JvpPass { at, tangent_in, tangent_out }, own, par, stack)?;
            std::mem::swap(&mut below, &mut above);
        }
        Ok(())
    }

    pub(crate) fn vjp_on_tape(
        &self,
        name: &str,
        pass: VjpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.lifted_vjp_on_tape((name, None), pass, tape, par, stack)
    }

    /// The number of an operator, a ReLU or the like, whose outputs are the output but for averages.
    pub(crate) fn output_relu(&self) -> Option<usize> {
        let image = |operator: &dyn ReverseOperator<T>, [lower, upper]: [T; 2]| {
            let range = operator.out_range(Interval::new(lower, upper));
            [range.lower, range.upper]
        };
        // Averages are affine and keep `[0, 1]` as it is, but for the rounding of their weights.
        let rounding = T::from_f64(8.0) * T::EPSILON;
        let is_average = |operator: &dyn ReverseOperator<T>| {
            let [lower, upper] = image(operator, [T::ZERO, T::ONE]);
            operator.structure().affine && lower == T::ZERO && (upper - T::ONE).abs() <= rounding
        };
        let last = self.operators.iter().rposition(|operator| !is_average(&**operator))?;
        let operator = &*self.operators[last];
        let Structure { affine, separable, .. } = operator.structure();
        let is_relu = !affine && separable && image(operator, [-T::ONE, T::ZERO]) == [T::ZERO; 2];
        is_relu.then_some(last)
    }

    /// As [`vjp_on_tape`](Self::vjp_on_tape), but where operator `lifted`, a ReLU, gives 0 and shall give more, its slope is 1.
    pub(crate) fn lifted_vjp_on_tape(
        &self,
        (name, lifted): (&str, Option<usize>),
        pass: VjpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let VjpPass { at, cotangent_out, mut cotangent_in } = pass;
        let (batch, count) = (at.ncols(), self.operators.len());
        if count == 0 {
            return copy(name, ("cotangent_in", cotangent_out), cotangent_in);
        }
        let (mut below, mut above, stack) = two_features(self.longest() * batch, par, stack);
        for k in (0..count).rev() {
            let (at, own) = self.point(k, at, tape);
            let is_last = k + 1 == count;
            let cotangent_out = if is_last { cotangent_out } else { view(above, self.lens[k + 1], batch) };
            let mut cotangent_in = if k == 0 { cotangent_in.rb_mut() } else { view_mut(below, self.lens[k], batch) };
            let pass = VjpPass { at, cotangent_out, cotangent_in: cotangent_in.rb_mut() };
            self.derivative(k).vjp_on_tape(pass, own, par, stack)?;
            if lifted == Some(k) {
                lift(at, cotangent_out, cotangent_in);
            }
            std::mem::swap(&mut above, &mut below);
        }
        Ok(())
    }
}

/// Lets through what asks the zeros of a ReLU at `at` for more.
fn lift<T: Real>(at: MatRef<'_, T>, cotangent_out: MatRef<'_, T>, mut cotangent_in: MatMut<'_, T>) {
    for sample in 0..at.ncols() {
        let wanted = at.col(sample).iter().zip(cotangent_out.col(sample).iter());
        for (to, (&x, &wish)) in cotangent_in.rb_mut().col_mut(sample).iter_mut().zip(wanted) {
            if x <= T::ZERO && wish > T::ZERO {
                *to = wish;
            }
        }
    }
}

/// Memory of two features between operators.
fn two_features<T: Real>(len: usize, par: Par, stack: &mut MemStack) -> (&mut [T], &mut [T], &mut MemStack) {
    let (first, stack) = zeroed_scratch(len, par, stack);
    let (second, stack) = zeroed_scratch(len, par, stack);
    (first, second, stack)
}

/// The identity.
fn copy<T: Real>(
    name: &str,
    (what, from): (&'static str, MatRef<'_, T>),
    mut to: MatMut<'_, T>,
) -> Result<(), InverseError> {
    expect_batch(name, what, to.rb(), from.shape())?;
    to.copy_from(from);
    Ok(())
}

fn view<T: Real>(values: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::from_column_major_slice(&values[..rows * cols], rows, cols)
}

fn view_mut<T: Real>(values: &mut [T], rows: usize, cols: usize) -> MatMut<'_, T> {
    MatMut::from_column_major_slice_mut(&mut values[..rows * cols], rows, cols)
}
