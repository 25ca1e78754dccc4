use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real};

use super::affine::AffineWhole;
use super::split::Split;
use crate::layers::columns::{check_forward, check_jvp, check_vjp, reverse_columns};
use crate::layers::flatten::Identity;
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::layers::newton::NewtonParams;
use crate::layers::taped::{taped_scratch, with_tape};
use crate::sequence::{OperatorList, Sequence};
use crate::tape::{Tape, TapeMut};
use crate::{
    ChannelRanges, Interval, InverseError, JvpPass, ReverseOperator, ReversePass, ReverseReport, Structure, VjpPass,
};

/// Operators that run one after the other, as one operator with a name.
///
/// # Reverse
/// From the top down, every [separable](Structure) operator (activations, batch normalisation, whatever only moves entries) is
/// reversed exactly, which gives a target box for what is below. What then remains is
///
/// | remains | reversed by | nearest |
/// |---|---|---|
/// | nothing, or one operator that takes no iteration | that operator | as it says itself |
/// | affine operators, up to [`BOXED_LIMIT`](fbp_linalg::BOXED_LIMIT) inputs and outputs | their product, as a linear layer | exactly |
/// | operators with derivatives | Newton steps, see [`NewtonParams`] | nearly, see below |
/// | others | one by one, from the top down | each on its own |
///
/// A target box without a preimage is missed by the least at the output of what remains: distances are measured below the
/// separable operators then.
///
/// Newton steps are the shortest that the linearisation allows, within target box and range, so that the answer is the end of a
/// short path from the observed input, and not the nearest point. It reaches the target box up to a share of the distance that
/// the observed output has to it; samples for which that fails keep the point that comes closest on that path, and are reported
/// as unattained.
///
/// # Tape
/// The inputs of all operators but the first, and what operators keep for themselves.
///
/// # Source
/// Reversing a block as a whole: arXiv:2506.07188, which descends by gradients; Newton steps, boxes and ranges: own derivation.
pub struct Block<T: Real> {
    pub(super) name: String,
    in_shape: FeatureShape,
    out_shape: FeatureShape,
    pub(super) list: OperatorList<T>,
    pub(super) split: Split,
    pub(super) params: NewtonParams,
    pub(super) affine: AffineWhole<T>,
}

impl<T: Real> Block<T> {
    /// Joins operators in forward order, the first of which takes features of shape `in_shape`; without any, the block is the
    /// identity.
    ///
    /// # Errors
    /// [`InverseError::Chain`] if two neighbours do not fit, or the first one does not take such features.
    pub fn new(
        name: impl Into<String>,
        in_shape: FeatureShape,
        operators: Vec<Box<dyn ReverseOperator<T>>>,
    ) -> Result<Self, InverseError> {
        let mut block = Self::identity(name, in_shape);
        for operator in operators {
            let out_shape = operator.out_shape();
            block.list.push(operator)?;
            block.out_shape = out_shape;
        }
        block.split = Split::of(&block.list);
        Ok(block)
    }

    /// A block without operators.
    pub fn identity(name: impl Into<String>, shape: FeatureShape) -> Self {
        Self {
            name: name.into(),
            in_shape: shape,
            out_shape: shape,
            list: OperatorList::new(shape.len()),
            split: Split::default(),
            params: NewtonParams::new(),
            affine: AffineWhole::new(),
        }
    }

    /// Sets how it is reversed where that takes an iteration.
    ///
    /// # Errors
    /// Those of [`NewtonParams::check`].
    pub fn with_newton(mut self, params: NewtonParams) -> Result<Self, InverseError> {
        self.params = params.check()?;
        Ok(self)
    }

    /// The operators, in forward order.
    pub fn operators(&self) -> &[Box<dyn ReverseOperator<T>>] {
        &self.list.operators
    }

    /// The operators, for another block.
    pub fn into_operators(self) -> Vec<Box<dyn ReverseOperator<T>>> {
        self.list.operators
    }

    /// Whether it is the identity, as it has no operators.
    pub fn is_identity(&self) -> bool {
        self.list.operators.is_empty()
    }

    pub(super) fn sequence(&self) -> Sequence<'_, T> {
        self.list.all()
    }
}

operator_once!(Block);

impl<T: Real> LayerKernel<T> for Block<T> {
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
        self.sequence().out_range(in_range)
    }

    fn out_ranges(&self, in_ranges: &ChannelRanges<T>) -> ChannelRanges<T> {
        self.sequence().out_ranges(in_ranges)
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.sequence().forward_scratch(batch, par)
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        self.sequence().forward(&self.name, input, output, par, stack)
    }

    fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        match &self.list.operators[..] {
            [] => StackReq::EMPTY,
            [only] => only.reverse_scratch(batch, par),
            _ => self.scratch_of_reverse(batch, par),
        }
    }

    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        match &self.list.operators[..] {
            [] => Ok(reverse_columns(&Identity, pass, par)),
            [only] => only.reverse(pass, par, stack),
            _ => self.reverse_operators(pass, par, stack),
        }
    }

    fn structure(&self) -> Structure {
        let mut structure = Structure::SEPARABLE_AFFINE;
        for one in self.list.operators.iter().map(|operator| operator.structure()) {
            structure.affine &= one.affine;
            structure.separable &= one.separable;
            structure.iterated |= one.iterated;
        }
        let iterated = if self.list.operators.len() > 1 { self.split.is_iterated() } else { structure.iterated };
        Structure { iterated, ..structure }
    }

    fn has_derivatives(&self) -> bool {
        self.sequence().has_derivatives()
    }

    fn derivative_scratch(&self, batch: usize, par: Par) -> StackReq {
        taped_scratch(self, self.sequence().product_scratch(batch, par), batch, par)
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
        self.sequence().tape_lens()
    }

    fn forward_on_tape(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        tape: TapeMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.sequence().forward_on_tape(&self.name, (input, output), tape, par, stack)
    }

    fn jvp_on_tape(
        &self,
        pass: JvpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.sequence().jvp_on_tape(&self.name, pass, tape, par, stack)
    }

    fn vjp_on_tape(
        &self,
        pass: VjpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.sequence().vjp_on_tape(&self.name, pass, tape, par, stack)
    }
}
