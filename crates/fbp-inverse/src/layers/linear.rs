use faer::dyn_stack::{MemStack, StackReq};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use fbp_linalg::matmul;
use fbp_linalg::{FeatureShape, Real, column_mut, expect_finite};

use super::affine::AffineReverse;
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass, expect_batch};

/// Reverse of the linear layer `y = W x + b`.
///
/// Within a target box and an input range it solves `min |x - x0|², lo <= W x + b <= hi, x in R` exactly.
///
/// # Shapes
/// `W`: `out × in`, `b`: `out`; features `in × N` and `out × N`, one column per sample.
///
/// # Source
/// arXiv:2506.07188 (layer reversal as a linear system); boxes and ranges: own derivation, see [`fbp_linalg::BoxedPlan`].
///
/// ```
/// use faer::{Mat, Par, dyn_stack::{MemBuffer, MemStack}, mat};
/// use fbp_inverse::{LinearReverse, Interval, ReverseOperator, ReversePass, TargetBox, TargetBoxMut};
///
/// let layer = LinearReverse::<f64>::new("fc", mat![[1.0, 1.0]].as_ref(), &[0.0])?;
/// let (x, y, wanted) = (mat![[1.0], [0.0]], mat![[1.0]], mat![[3.0]]);
/// let mut target = [Mat::zeros(2, 1), Mat::zeros(2, 1), Mat::zeros(2, 1)];
/// let [point, lower, upper] = &mut target;
/// let mut memory = MemBuffer::new(layer.reverse_scratch(1, Par::Seq));
/// let pass = ReversePass {
///     observed_in: x.as_ref(),
///     observed_out: y.as_ref(),
///     target_out: TargetBox::point(wanted.as_ref()),
///     in_range: Interval::new(0.0, f64::INFINITY),
///     target_in: TargetBoxMut { point: point.as_mut(), lower: lower.as_mut(), upper: upper.as_mut() },
/// };
/// let report = layer.reverse(pass, Par::Seq, MemStack::new(&mut memory))?;
/// assert!(report.violation_max < 1e-12);
/// assert!((target[0][(0, 0)] - 2.0).abs() < 1e-12 && (target[0][(1, 0)] - 1.0).abs() < 1e-12);
/// # Ok::<(), fbp_inverse::InverseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct LinearReverse<T: Real> {
    name: String,
    weight: Mat<T>,
    bias: Vec<T>,
    affine: AffineReverse<T>,
}

impl<T: Real> LinearReverse<T> {
    /// Builds the layer and its plans from `weight` (`out × in`) and `bias` (`out` values).
    ///
    /// # Errors
    /// [`InverseError::Layer`] if the bias has another length, [`InverseError::Solve`] if a weight is not finite.
    pub fn new(name: &str, weight: MatRef<'_, T>, bias: &[T]) -> Result<Self, InverseError> {
        if bias.len() != weight.nrows() {
            let reason = format!("{} biases for {} outputs", bias.len(), weight.nrows());
            return Err(InverseError::Layer { layer: name.to_owned(), reason });
        }
        expect_finite("weight", weight).map_err(InverseError::in_layer(name))?;
        let bias_column = MatRef::from_column_major_slice(bias, bias.len(), 1);
        expect_finite("bias", bias_column).map_err(InverseError::in_layer(name))?;
        let wide = Mat::from_fn(weight.nrows(), weight.ncols(), |i, j| weight[(i, j)].to_f64());
        let affine = AffineReverse::new(wide).with_bias(bias.iter().map(|b| b.to_f64()).collect());
        Ok(Self { name: name.to_owned(), weight: weight.to_owned(), bias: bias.to_vec(), affine })
    }
}

operator_once!(LinearReverse);

impl<T: Real> LayerKernel<T> for LinearReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        FeatureShape::vector(self.weight.ncols())
    }

    fn out_shape(&self) -> FeatureShape {
        FeatureShape::vector(self.weight.nrows())
    }

    fn structure(&self) -> crate::Structure {
        crate::Structure::AFFINE
    }

    fn out_range(&self, _in_range: Interval<T>) -> Interval<T> {
        Interval::EVERYTHING
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        mut output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        expect_batch(&self.name, "input", input, (self.weight.ncols(), input.ncols()))?;
        expect_batch(&self.name, "output", output.as_ref(), (self.weight.nrows(), input.ncols()))?;
        for sample in 0..input.ncols() {
            let out = column_mut("output", output.as_mut(), sample).map_err(InverseError::in_layer(&self.name))?;
            out.copy_from_slice(&self.bias);
        }
        matmul(output, Accum::Add, self.weight.as_ref(), input, T::ONE, par); // (out×in)(in×N)
        Ok(())
    }

    fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.affine.reverse_scratch(batch, par)
    }

    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError> {
        self.affine.reverse(self, pass, par, stack)
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        let batch = pass.at.ncols();
        expect_batch(&self.name, "at", pass.at, (self.weight.ncols(), batch))?;
        expect_batch(&self.name, "tangent_in", pass.tangent_in, (self.weight.ncols(), batch))?;
        expect_batch(&self.name, "tangent_out", pass.tangent_out.as_ref(), (self.weight.nrows(), batch))?;
        matmul(pass.tangent_out, Accum::Replace, self.weight.as_ref(), pass.tangent_in, T::ONE, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        let batch = pass.at.ncols();
        expect_batch(&self.name, "at", pass.at, (self.weight.ncols(), batch))?;
        expect_batch(&self.name, "cotangent_out", pass.cotangent_out, (self.weight.nrows(), batch))?;
        expect_batch(&self.name, "cotangent_in", pass.cotangent_in.as_ref(), (self.weight.ncols(), batch))?;
        matmul(pass.cotangent_in, Accum::Replace, self.weight.transpose(), pass.cotangent_out, T::ONE, par);
        Ok(())
    }
}
