use faer::dyn_stack::{MemStack, StackReq};
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real, zeroed_scratch};

use super::affine::AffineWhole;
use super::block::Block;
use super::merge::{Merge, add, copy, gather, multiply, spread};
use super::whole::WholeReverse;
use crate::layers::columns::{check_forward, check_jvp, check_vjp};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::layers::newton::NewtonParams;
use crate::layers::taped::{taped_scratch, with_tape};
use crate::sequence::ALIGN;
use crate::tape::{Tape, TapeMut};
use crate::{ChannelRanges, Interval, InverseError, JvpPass, ReversePass, ReverseReport, Structure, VjpPass};

/// Branches that run on the same feature, and whose outputs are merged.
///
/// # Shapes
/// All branches take the same shape; see [`Merge`] for their outputs.
///
/// # Reverse
/// A single branch is reversed as it is; sums and concatenations of affine branches, up to
/// [`BOXED_LIMIT`](fbp_linalg::BOXED_LIMIT) inputs and outputs, are a linear layer and exact as such. All else takes Newton
/// steps as [`Block`] describes them. (A product with a factor that is known beforehand, as in layer scale, is a
/// [`BatchNormReverse`](crate::BatchNormReverse), which is exact.)
///
/// # Tape
/// What the branches keep; for products, also what they give.
pub struct Parallel<T: Real> {
    name: String,
    in_shape: FeatureShape,
    out_shape: FeatureShape,
    branches: Vec<Block<T>>,
    merge: Merge,
    tape: Vec<usize>,
    /// Places on the tape of what each branch keeps; one more entry marks the end.
    tape_starts: Vec<usize>,
    whole: WholeReverse<T>,
}

/// Runs the branch of a number; its output belongs into the view.
type RunBranch<'r, T> = dyn FnMut(usize, MatMut<'_, T>, &mut MemStack) -> Result<(), InverseError> + 'r;

impl<T: Real> Parallel<T> {
    /// Joins branches.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if there is no branch, if two of them take features of different lengths, if their outputs cannot
    /// be merged, or if an operator has no derivatives.
    pub fn new(name: impl Into<String>, branches: Vec<Block<T>>, merge: Merge) -> Result<Self, InverseError> {
        let name = name.into();
        let refuse = |reason: String| InverseError::Layer { layer: name.clone(), reason };
        let shapes: Vec<FeatureShape> = branches.iter().map(LayerKernel::out_shape).collect();
        let out_shape = merge.shape(&shapes).map_err(refuse)?;
        let in_shape = LayerKernel::in_shape(&branches[0]);
        let (mut tape, mut tape_starts) = (Vec::new(), vec![0]);
        for branch in &branches {
            let taken = LayerKernel::in_shape(branch);
            if taken.len() != in_shape.len() {
                return Err(refuse(format!("one branch takes {in_shape}, another one {taken}")));
            }
            if !LayerKernel::has_derivatives(branch) {
                return Err(refuse(format!("a layer of branch {} has no derivatives", LayerKernel::name(branch))));
            }
            tape.extend_from_slice(branch.sequence().tape_lens());
            if merge == Merge::Product {
                tape.push(branch.sequence().out_len());
            }
            tape_starts.push(tape.len());
        }
        let whole = WholeReverse::new(out_shape.len());
        Ok(Self { name, in_shape, out_shape, branches, merge, tape, tape_starts, whole })
    }

    /// Sets how it is reversed.
    ///
    /// # Errors
    /// Those of [`NewtonParams::check`].
    pub fn with_newton(mut self, params: NewtonParams) -> Result<Self, InverseError> {
        self.whole.params = params.check()?;
        Ok(self)
    }

    /// The branches.
    pub fn branches(&self) -> &[Block<T>] {
        &self.branches
    }

    /// How their outputs are merged.
    pub fn merge(&self) -> Merge {
        self.merge
    }

    /// What branch `index` keeps on the tape.
    fn tape_of<'a>(&self, index: usize, tape: Tape<'a, T>) -> Tape<'a, T> {
        let (_, from) = tape.split_at(self.tape_starts[index]);
        from.split_at(self.tape_starts[index + 1] - self.tape_starts[index]).0
    }

    /// Rows of the merged feature that a branch gives when branches are put one after the other.
    fn rows(&self, index: usize) -> (usize, usize) {
        let len = |branch: &Block<T>| branch.sequence().out_len();
        (self.branches[..index].iter().map(len).sum(), len(&self.branches[index]))
    }

    fn features_scratch(&self, batch: usize) -> StackReq {
        let feature = |len: usize| StackReq::new_aligned::<T>(len * batch, ALIGN);
        feature(self.in_shape.len()).and(feature(self.out_shape.len()))
    }

    /// Merges what `run` gives for each branch; it takes the number of the branch and where its output belongs. Branches that
    /// are put one after the other write in one piece first, as layers run whole batches at once only there.
    fn merged(
        &self,
        identity: MatRef<'_, T>,
        mut output: MatMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
        run: &mut RunBranch<'_, T>,
    ) -> Result<(), InverseError> {
        let batch = output.ncols();
        let (room, stack) = zeroed_scratch(self.out_shape.len() * batch, par, stack);
        for (index, branch) in self.branches.iter().enumerate() {
            let (start, len) = self.rows(index);
            if index == 0 && len == self.out_shape.len() {
                run(index, output.rb_mut(), stack)?;
            } else if self.merge == Merge::Sum && branch.is_identity() {
                add(output.rb_mut(), identity, par);
            } else {
                let mut part = MatMut::from_column_major_slice_mut(&mut room[..len * batch], len, batch);
                run(index, part.rb_mut(), stack)?;
                match (self.merge, index) {
                    (Merge::Concat, _) => copy(output.rb_mut().subrows_mut(start, len), part.rb(), par),
                    (Merge::Product, 0) => spread(output.rb_mut(), part.rb(), par),
                    (Merge::Product, _) => multiply(output.rb_mut(), part.rb(), par),
                    _ => add(output.rb_mut(), part.rb(), par),
                }
            }
        }
        Ok(())
    }

    /// The product rule: the sum over the branches of their tangents times the other branches.
    fn product_jvp(
        &self,
        pass: JvpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let JvpPass { at, tangent_in, mut tangent_out } = pass;
        let (batch, outputs) = (at.ncols(), self.out_shape.len());
        let (own, stack) = zeroed_scratch(outputs * batch, par, stack);
        let (term, stack) = zeroed_scratch(outputs * batch, par, stack);
        tangent_out.fill(T::ZERO);
        for (index, branch) in self.branches.iter().enumerate() {
            let len = branch.sequence().out_len();
            let mut own = MatMut::from_column_major_slice_mut(&mut own[..len * batch], len, batch);
            let pass = JvpPass { at, tangent_in, tangent_out: own.rb_mut() };
            branch.jvp_on_tape(pass, self.tape_of(index, tape), par, stack)?;
            let mut term = MatMut::from_column_major_slice_mut(term, outputs, batch);
            spread(term.rb_mut(), own.rb(), par);
            self.multiply_others(index, tape, term.rb_mut(), par);
            add(tangent_out.rb_mut(), term.rb(), par);
        }
        Ok(())
    }

    /// Multiplies `to` with what all branches but one gave.
    fn multiply_others(&self, index: usize, tape: Tape<'_, T>, mut to: MatMut<'_, T>, par: Par) {
        for other in (0..self.branches.len()).filter(|&other| other != index) {
            multiply(to.rb_mut(), tape.feature(self.tape_starts[other + 1] - 1), par);
        }
    }
}

operator_once!(Parallel);

impl<T: Real> LayerKernel<T> for Parallel<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.in_shape
    }

    fn out_shape(&self) -> FeatureShape {
        self.out_shape
    }

    fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        self.merge.range(self.branches.iter().map(|branch| branch.sequence().out_range(in_range)))
    }

    fn out_ranges(&self, in_ranges: &ChannelRanges<T>) -> ChannelRanges<T> {
        let branches = self.branches.iter().map(|branch| {
            let sequence = branch.sequence();
            (sequence.out_ranges(in_ranges), sequence.out_channels(self.in_shape))
        });
        self.merge.channel_ranges(branches.collect())
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        let branches = self.branches.iter().map(|branch| branch.sequence().forward_scratch(batch, par));
        self.features_scratch(batch).and(branches.fold(StackReq::EMPTY, StackReq::or))
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        self.merged(input, output, par, stack, &mut |index, output, stack| {
            self.branches[index].forward(input, output, par, stack)
        })
    }

    fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        match &self.branches[..] {
            [only] => LayerKernel::reverse_scratch(only, batch, par),
            _ => self.whole.scratch(self, batch, par),
        }
    }

    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        match &self.branches[..] {
            [only] => LayerKernel::reverse(only, pass, par, stack),
            _ => self.whole.reverse(self, pass, par, stack),
        }
    }

    fn structure(&self) -> Structure {
        if let [only] = &self.branches[..] {
            return LayerKernel::structure(only);
        }
        let mut branches = self.branches.iter().map(LayerKernel::structure);
        let affine = self.merge != Merge::Product && branches.all(|branch| branch.affine);
        let shape = (self.out_shape.len(), self.in_shape.len());
        Structure { affine, iterated: !(affine && AffineWhole::<T>::is_small(shape)), ..Structure::GENERAL }
    }

    fn derivative_scratch(&self, batch: usize, par: Par) -> StackReq {
        let branches = self.branches.iter().map(|branch| branch.sequence().product_scratch(batch, par));
        let own = self.features_scratch(batch).and(self.features_scratch(batch));
        taped_scratch(self, own.and(branches.fold(StackReq::EMPTY, StackReq::or)), batch, par)
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        with_tape(self, pass.at, par, stack, |tape, stack| self.jvp_on_tape(pass, tape, par, stack))
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        with_tape(self, pass.at, par, stack, |tape, stack| self.vjp_on_tape(pass, tape, par, stack))
    }

    fn tape_lens(&self) -> &[usize] {
        &self.tape
    }

    fn forward_on_tape(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        mut tape: TapeMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.merged(input, output, par, stack, &mut |index, mut output, stack| {
            let branch = &self.branches[index];
            let (_, mut from) = tape.split_at_mut(self.tape_starts[index]);
            let (mut own, _) = from.split_at_mut(self.tape_starts[index + 1] - self.tape_starts[index]);
            if self.merge != Merge::Product {
                return branch.forward_on_tape(input, output, own, par, stack);
            }
            let (inner, mut kept) = own.split_at_mut(branch.sequence().tape_lens().len());
            branch.forward_on_tape(input, output.rb_mut(), inner, par, stack)?;
            kept.feature_mut(0).copy_from(output.rb());
            Ok(())
        })
    }

    fn jvp_on_tape(
        &self,
        pass: JvpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        if self.merge == Merge::Product {
            return self.product_jvp(pass, tape, par, stack);
        }
        let JvpPass { at, tangent_in, tangent_out } = pass;
        self.merged(tangent_in, tangent_out, par, stack, &mut |index, tangent_out, stack| {
            let pass = JvpPass { at, tangent_in, tangent_out };
            self.branches[index].jvp_on_tape(pass, self.tape_of(index, tape), par, stack)
        })
    }

    fn vjp_on_tape(
        &self,
        pass: VjpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let VjpPass { at, cotangent_out, mut cotangent_in } = pass;
        let (batch, inputs, outputs) = (at.ncols(), self.in_shape.len(), self.out_shape.len());
        let (room, stack) = zeroed_scratch(inputs * batch, par, stack);
        let (weights, stack) = zeroed_scratch(outputs * batch, par, stack);
        for (index, branch) in self.branches.iter().enumerate() {
            let (start, len) = self.rows(index);
            let rows = if self.merge == Merge::Concat { len } else { outputs };
            let mut weights = MatMut::from_column_major_slice_mut(&mut weights[..rows * batch], rows, batch);
            let cotangent_out = match self.merge {
                Merge::Sum => cotangent_out,
                Merge::Concat => {
                    copy(weights.rb_mut(), cotangent_out.subrows(start, len), par);
                    weights.rb()
                }
                Merge::Product => {
                    copy(weights.rb_mut(), cotangent_out, par);
                    self.multiply_others(index, tape, weights.rb_mut(), par);
                    gather(weights.rb_mut(), len);
                    weights.rb().subrows(0, len)
                }
            };
            if index > 0 && branch.is_identity() {
                add(cotangent_in.rb_mut(), cotangent_out, par);
                continue;
            }
            let mut part = match index {
                0 => cotangent_in.rb_mut(),
                _ => MatMut::from_column_major_slice_mut(room, inputs, batch),
            };
            let pass = VjpPass { at, cotangent_out, cotangent_in: part.rb_mut() };
            branch.vjp_on_tape(pass, self.tape_of(index, tape), par, stack)?;
            if index > 0 {
                add(cotangent_in.rb_mut(), MatRef::from_column_major_slice(room, inputs, batch), par);
            }
        }
        Ok(())
    }
}
