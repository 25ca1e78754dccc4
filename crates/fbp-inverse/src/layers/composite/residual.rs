use fbp_linalg::Real;

use super::block::Block;
use super::merge::Merge;
use super::parallel::Parallel;
use crate::InverseError;
use crate::layers::kernel::{LayerKernel, delegate_kernel, operator_once};
use crate::layers::newton::NewtonParams;

/// A residual connection, `y = body(x) + skip(x)`.
///
/// # Shapes
/// `body` and `skip` take and give the same shapes.
///
/// # Reverse
/// As of [`Parallel`].
///
/// # Source
/// He, Zhang, Ren & Sun, "Deep residual learning for image recognition", CVPR 2016, equations 1 and 2.
///
/// # Example
/// ```
/// use faer::mat;
/// use fbp_inverse::{
///     Activation, ActivationReverse, Block, Interval, LinearReverse, Residual, forward_one, reverse_one,
/// };
/// use fbp_linalg::FeatureShape;
///
/// // y = x + tanh(A x)
/// let shape = FeatureShape::vector(2);
/// let linear = LinearReverse::<f64>::new("A", mat![[0.5, 1.0], [-1.0, 0.5]].as_ref(), &[0.0, 0.0])?;
/// let tanh = ActivationReverse::new("tanh", Activation::Tanh, shape)?;
/// let body = Block::new("body", shape, vec![Box::new(linear), Box::new(tanh)])?;
/// let layer = Residual::new("residual", body, None)?;
///
/// // What should x have been, for y to be (1, 2)?
/// let answer = reverse_one(&layer, &[0.0, 1.0], &[1.0, 2.0], Interval::EVERYTHING)?;
/// assert_eq!(answer.report.unattained, 0);
/// let reached = forward_one(&layer, &[answer.point[(0, 0)], answer.point[(1, 0)]])?;
/// assert!((reached[0] - 1.0).abs() < 5e-3 && (reached[1] - 2.0).abs() < 5e-3);
/// # Ok::<(), fbp_inverse::InverseError>(())
/// ```
pub struct Residual<T: Real>(Parallel<T>);

impl<T: Real> Residual<T> {
    /// Joins a body and a skip connection, the identity if there is none.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if the shapes of both differ, or if a layer has no derivatives.
    pub fn new(name: impl Into<String>, body: Block<T>, skip: Option<Block<T>>) -> Result<Self, InverseError> {
        let skip = skip.unwrap_or_else(|| Block::identity("skip", LayerKernel::in_shape(&body)));
        Parallel::new(name, vec![body, skip], Merge::Sum).map(Self)
    }

    /// Sets how it is reversed.
    ///
    /// # Errors
    /// Those of [`NewtonParams::check`].
    pub fn with_newton(self, params: NewtonParams) -> Result<Self, InverseError> {
        self.0.with_newton(params).map(Self)
    }

    /// What is added to the skip connection.
    pub fn body(&self) -> &Block<T> {
        &self.0.branches()[0]
    }

    /// The skip connection.
    pub fn skip(&self) -> &Block<T> {
        &self.0.branches()[1]
    }
}

delegate_kernel!(Residual);
operator_once!(Residual);
