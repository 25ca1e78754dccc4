use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real};

use crate::layers::columns::{check_forward, check_jvp, check_vjp};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::layers::taped::{taped_scratch, with_tape};
use crate::sequence::{OperatorList, Sequence};
use crate::tape::{Tape, TapeMut};
use crate::{Interval, InverseError, JvpPass, ReverseOperator, ReversePass, ReverseReport, VjpPass};

/// Operators that run one after the other, as one operator with a name.
///
/// # Tape
/// The inputs of all operators but the first, and what operators keep for themselves.
pub struct Block<T> {
    name: String,
    in_shape: FeatureShape,
    out_shape: FeatureShape,
    list: OperatorList<T>,
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
        Ok(block)
    }

    /// A block without operators.
    pub fn identity(name: impl Into<String>, shape: FeatureShape) -> Self {
        Self { name: name.into(), in_shape: shape, out_shape: shape, list: OperatorList::new(shape.len()) }
    }

    /// The operators, in forward order.
    pub fn operators(&self) -> &[Box<dyn ReverseOperator<T>>] {
        &self.list.operators
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

    fn reverse(
        &self,
        pass: ReversePass<'_, T>,
        _par: Par,
        _stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        Err(InverseError::Layer { layer: self.name.clone(), reason: "blocks are not reversed yet".into() })
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
