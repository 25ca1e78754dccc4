use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real, SplitBatch, for_each_part, parts_scratch, zeroed_scratch};

use super::kernels::{Heads, Point};
use crate::layers::columns::{check_forward, check_jvp, check_vjp, column, column_mut};
use crate::layers::composite::WholeReverse;
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::layers::newton::NewtonParams;
use crate::layers::taped::{taped_scratch, with_tape};
use crate::layers::tokens::shape::tokens;
use crate::sequence::ALIGN;
use crate::tape::{Tape, TapeMut};
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, Structure, VjpPass};

/// The core of multi-head self-attention: what lies between the projection to queries, keys and values and that of the outputs.
///
/// For every head, with queries, keys and values `q_t, k_t, v_t` of its `d` entries for each token `t`,
///
/// ```text
/// o_t = Σ_s p_ts v_s   with   p_ts = exp(q_t · k_s / √d) / Σ_r exp(q_t · k_r / √d)
/// ```
///
/// # Shapes
/// `[T, 1, 3D]` to `[T, 1, D]` with `D = heads · d`: every token holds its queries, keys and values one after the other, each
/// head after head, as the fused projection of common vision transformers gives them.
///
/// # Tape
/// The probabilities, `heads · T²` per sample.
///
/// # Reverse
/// By Newton steps, see [`NewtonParams`]: many queries and keys give one output, and the shortest steps choose among them.
///
/// # Source
/// Vaswani et al., "Attention is all you need", NeurIPS 2017, equation 1; derivatives: own derivation.
///
/// # Example
/// ```
/// use faer::mat;
/// use fbp_inverse::{Attention, Block, Interval, LinearReverse, PerToken, ReverseOperator, forward_one, reverse_one};
///
/// // A whole attention layer on 2 tokens of 1 entry: projection to query, key and value, attention, projection back.
/// let project = LinearReverse::<f64>::new("qkv", mat![[1.0], [0.5], [2.0]].as_ref(), &[0.0; 3])?;
/// let back = LinearReverse::new("proj", mat![[1.0]].as_ref(), &[0.0])?;
/// let project = PerToken::new("qkv", 2, Box::new(project))?;
/// let shape = project.in_shape();
/// let layers: Vec<Box<dyn ReverseOperator<f64>>> = vec![
///     Box::new(project),
///     Box::new(Attention::new("attention", 2, 1, 1)?),
///     Box::new(PerToken::new("proj", 2, Box::new(back))?),
/// ];
/// let layer = Block::new("attn", shape, layers)?;
///
/// // Both queries ask both keys: outputs are means of the values 2 and -2.
/// let output = forward_one(&layer, &[1.0, -1.0])?;
/// assert!(output.iter().all(|y| y.abs() < 2.0));
/// let wanted = [output[0] + 0.1, output[1] + 0.1];
/// let answer = reverse_one(&layer, &[1.0, -1.0], &wanted, Interval::EVERYTHING)?;
/// assert_eq!(answer.report.unattained, 0);
/// # Ok::<(), fbp_inverse::InverseError>(())
/// ```
pub struct Attention<T: Real> {
    name: String,
    heads: Heads,
    tape: [usize; 1],
    whole: WholeReverse<T>,
}

impl<T: Real> Attention<T> {
    /// Attention among `count` tokens of `heads` heads with `width` entries each.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if one of these numbers is 0.
    pub fn new(name: impl Into<String>, count: usize, heads: usize, width: usize) -> Result<Self, InverseError> {
        let name = name.into();
        if count == 0 || heads == 0 || width == 0 {
            let reason = format!("{count} tokens with {heads} heads of {width} entries");
            return Err(InverseError::Layer { layer: name, reason });
        }
        let heads = Heads { count, heads, width };
        let whole = WholeReverse::new(count * heads.dim());
        Ok(Self { name, heads, tape: [heads.heads * heads.square()], whole })
    }

    /// Sets how it is reversed.
    ///
    /// # Errors
    /// Those of [`NewtonParams::check`].
    pub fn with_newton(mut self, params: NewtonParams) -> Result<Self, InverseError> {
        self.whole.params = params.check()?;
        Ok(self)
    }

    /// Workspace of one thread.
    fn room(&self) -> StackReq {
        StackReq::new_aligned::<T>(self.heads.square(), ALIGN)
    }

    fn run(
        &self,
        pass: AttentionPass<'_, T>,
        par: Par,
        stack: &mut MemStack,
        kernel: impl Fn(&mut AttentionPass<'_, T>, usize, &mut [T]) + Sync,
    ) {
        let run = |mut pass: AttentionPass<'_, T>, stack: &mut MemStack| {
            let (room, _) = zeroed_scratch(self.heads.square(), Par::Seq, stack);
            for sample in 0..pass.out.ncols() {
                kernel(&mut pass, sample, room);
            }
        };
        for_each_part(pass, self.room(), par, stack, &run, &|(), ()| ());
    }
}

/// The views of a pass over some samples.
struct AttentionPass<'a, T> {
    at: MatRef<'a, T>,
    direction: MatRef<'a, T>,
    /// Of the forward pass; without columns where there are none.
    probabilities: MatRef<'a, T>,
    out: MatMut<'a, T>,
    /// Where a forward pass leaves them; without columns where nobody asks.
    kept: MatMut<'a, T>,
}

impl<T: Real> SplitBatch for AttentionPass<'_, T> {
    fn batch(&self) -> usize {
        self.at.ncols()
    }

    fn split_at(self, count: usize) -> (Self, Self) {
        let (at, at_right) = self.at.split_at_col(count);
        let (direction, direction_right) = self.direction.split_at_col(count);
        let (probabilities, probabilities_right) =
            self.probabilities.split_at_col(count.min(self.probabilities.ncols()));
        let (out, out_right) = self.out.split_at_col_mut(count);
        let kept_count = count.min(self.kept.ncols());
        let (kept, kept_right) = self.kept.split_at_col_mut(kept_count);
        let left = Self { at, direction, probabilities, out, kept };
        let right = Self {
            at: at_right,
            direction: direction_right,
            probabilities: probabilities_right,
            out: out_right,
            kept: kept_right,
        };
        (left, right)
    }
}

impl<'a, T: Real> AttentionPass<'a, T> {
    fn forward(input: MatRef<'a, T>, out: MatMut<'a, T>, kept: MatMut<'a, T>) -> Self {
        Self { at: input, direction: input, probabilities: no_columns(), out, kept }
    }

    fn product(at: MatRef<'a, T>, direction: MatRef<'a, T>, out: MatMut<'a, T>, tape: Tape<'a, T>) -> Self {
        Self {
            at,
            direction,
            probabilities: tape.feature(0),
            out,
            kept: MatMut::from_column_major_slice_mut(&mut [], 0, 0),
        }
    }

    /// The point of a sample, its direction, and where the product belongs.
    fn product_of(&mut self, sample: usize) -> (Point<'_, T>, &[T], &mut [T]) {
        let point = Point { input: column(self.at, sample), probabilities: column(self.probabilities, sample) };
        (point, column(self.direction, sample), column_mut(&mut self.out, sample))
    }
}

fn no_columns<'a, T: Real>() -> MatRef<'a, T> {
    MatRef::from_column_major_slice(&[], 0, 0)
}

operator_once!(Attention);

impl<T: Real> LayerKernel<T> for Attention<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        tokens(self.heads.count, 3 * self.heads.dim())
    }

    fn out_shape(&self) -> FeatureShape {
        tokens(self.heads.count, self.heads.dim())
    }

    fn structure(&self) -> Structure {
        Structure::ITERATED
    }

    fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        // Outputs are means of values.
        in_range
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        parts_scratch(self.room(), batch, par)
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        let pass = AttentionPass::forward(input, output, MatMut::from_column_major_slice_mut(&mut [], 0, 0));
        self.run(pass, par, stack, |pass, sample, room| {
            self.heads.forward(column(pass.at, sample), column_mut(&mut pass.out, sample), room);
        });
        Ok(())
    }

    fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.whole.scratch(self, batch, par)
    }

    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        self.whole.reverse(self, pass, par, stack)
    }

    fn derivative_scratch(&self, batch: usize, par: Par) -> StackReq {
        taped_scratch(self, parts_scratch(self.room(), batch, par), batch, par)
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
        check_forward(self, input, output.as_ref())?;
        let pass = AttentionPass::forward(input, output, tape.feature_mut(0));
        self.run(pass, par, stack, |pass, sample, _room| {
            let AttentionPass { at, out, kept, .. } = pass;
            self.heads.forward(column(*at, sample), column_mut(out, sample), column_mut(kept, sample));
        });
        Ok(())
    }

    fn jvp_on_tape(
        &self,
        pass: JvpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let pass = AttentionPass::product(pass.at, pass.tangent_in, pass.tangent_out, tape);
        self.run(pass, par, stack, |pass, sample, room| {
            let (point, direction, out) = pass.product_of(sample);
            self.heads.jvp(&point, direction, out, room);
        });
        Ok(())
    }

    fn vjp_on_tape(
        &self,
        pass: VjpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let pass = AttentionPass::product(pass.at, pass.cotangent_out, pass.cotangent_in, tape);
        self.run(pass, par, stack, |pass, sample, room| {
            let (point, direction, out) = pass.product_of(sample);
            self.heads.vjp(&point, direction, out, room);
        });
        Ok(())
    }
}
