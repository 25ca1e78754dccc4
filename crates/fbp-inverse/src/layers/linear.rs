use faer::dyn_stack::{MemStack, StackReq};
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use fbp_linalg::{
    CACHE_LINE, FeatureShape, Real, column_mut, expect_finite, matmul, matmul_by_columns, zeroed_scratch,
};

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

/// Workspace of [`product`].
fn product_scratch<T>(rows: usize, columns: usize) -> StackReq {
    let cells = |len: usize| StackReq::new_aligned::<T>(len, CACHE_LINE);
    cells(2 * rows).and(cells(2 * columns))
}

/// `to = a·from`, or `to += a·from`. A column gives the same bits whatever others there are: what is alone goes through with a copy of
/// itself, as products with a vector are rounded in another order than products with a matrix.
fn product<T: Real>(
    (to, accum): (MatMut<'_, T>, Accum),
    (a, from): (MatRef<'_, T>, MatRef<'_, T>),
    par: Par,
    stack: &mut MemStack,
) {
    if from.ncols() != 1 {
        return matmul_by_columns(to, accum, a, from, par);
    }
    let (twins, stack) = zeroed_scratch(2 * a.ncols(), Par::Seq, stack);
    let (products, _) = zeroed_scratch(2 * a.nrows(), Par::Seq, stack);
    let mut twins = MatMut::from_column_major_slice_mut(twins, a.ncols(), 2);
    let mut products = MatMut::from_column_major_slice_mut(products, a.nrows(), 2);
    for twin in 0..2 {
        twins.rb_mut().col_mut(twin).copy_from(from.col(0));
        if matches!(accum, Accum::Add) {
            products.rb_mut().col_mut(twin).copy_from(to.rb().col(0));
        }
    }
    matmul(products.rb_mut(), accum, a, twins.rb(), T::ONE, par); // (m×n)(n×2)
    to.col_mut(0).copy_from(products.rb().col(0));
}

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
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        expect_batch(&self.name, "input", input, (self.weight.ncols(), input.ncols()))?;
        expect_batch(&self.name, "output", output.as_ref(), (self.weight.nrows(), input.ncols()))?;
        for sample in 0..input.ncols() {
            let out = column_mut("output", output.as_mut(), sample).map_err(InverseError::in_layer(&self.name))?;
            out.copy_from_slice(&self.bias);
        }
        product((output, Accum::Add), (self.weight.as_ref(), input), par, stack); // (out×in)(in×N)
        Ok(())
    }

    fn forward_scratch(&self, _batch: usize, _par: Par) -> StackReq {
        product_scratch::<T>(self.weight.nrows(), self.weight.ncols())
    }

    fn derivative_scratch(&self, batch: usize, par: Par) -> StackReq {
        LayerKernel::forward_scratch(self, batch, par)
    }

    fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.affine.reverse_scratch(batch, par).and(LayerKernel::forward_scratch(self, batch, par))
    }

    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError> {
        self.affine.reverse(self, pass, par, stack)
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        let batch = pass.at.ncols();
        expect_batch(&self.name, "at", pass.at, (self.weight.ncols(), batch))?;
        expect_batch(&self.name, "tangent_in", pass.tangent_in, (self.weight.ncols(), batch))?;
        expect_batch(&self.name, "tangent_out", pass.tangent_out.as_ref(), (self.weight.nrows(), batch))?;
        product((pass.tangent_out, Accum::Replace), (self.weight.as_ref(), pass.tangent_in), par, stack);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        let batch = pass.at.ncols();
        expect_batch(&self.name, "at", pass.at, (self.weight.ncols(), batch))?;
        expect_batch(&self.name, "cotangent_out", pass.cotangent_out, (self.weight.nrows(), batch))?;
        expect_batch(&self.name, "cotangent_in", pass.cotangent_in.as_ref(), (self.weight.ncols(), batch))?;
        product((pass.cotangent_in, Accum::Replace), (self.weight.transpose(), pass.cotangent_out), par, stack);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use faer::dyn_stack::MemBuffer;

    use super::*;

    /// Forwards and both products for the first samples of one batch.
    fn passes<T: Real>(layer: &LinearReverse<T>, input: &Mat<T>, output: &Mat<T>, batch: usize) -> [Mat<T>; 3] {
        let mut memory = MemBuffer::new(LayerKernel::forward_scratch(layer, batch, Par::Seq));
        let stack = MemStack::new(&mut memory);
        let (at, tangent_in, cotangent_out) =
            (input.subcols(0, batch), input.subcols(0, batch), output.subcols(0, batch));
        let (mut image, mut pushed) = (Mat::zeros(output.nrows(), batch), Mat::zeros(output.nrows(), batch));
        let mut pulled = Mat::zeros(input.nrows(), batch);
        LayerKernel::forward(layer, at, image.as_mut(), Par::Seq, stack).unwrap();
        let pass = JvpPass { at, tangent_in, tangent_out: pushed.as_mut() };
        LayerKernel::jvp(layer, pass, Par::Seq, stack).unwrap();
        let pass = VjpPass { at, cotangent_out, cotangent_in: pulled.as_mut() };
        LayerKernel::vjp(layer, pass, Par::Seq, stack).unwrap();
        [image, pushed, pulled]
    }

    fn check<T: Real>() {
        // Small products have kernels of their own.
        for (out_len, in_len) in [(1, 30), (10, 64), (40, 700)] {
            let entry = |i: usize, j: usize| T::from_f64(((31 * i + 17 * j) as f64).sin());
            let bias = vec![T::from_f64(0.5); out_len];
            let layer = LinearReverse::new("fc", Mat::from_fn(out_len, in_len, entry).as_ref(), &bias).unwrap();
            let (input, output) = (Mat::from_fn(in_len, 64, entry), Mat::from_fn(out_len, 64, |i, j| entry(j, i)));
            let all = passes(&layer, &input, &output, 64);
            for batch in [1, 2, 3, 5, 7, 33] {
                for (pass, (some, all)) in passes(&layer, &input, &output, batch).iter().zip(&all).enumerate() {
                    assert_eq!(
                        some.as_ref(),
                        all.subcols(0, batch),
                        "{out_len} × {in_len}, {batch} samples, pass {pass}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_sample_alone_gives_the_bits_that_it_gives_beside_others() {
        check::<f32>();
        check::<f64>();
    }
}
