use fbp_linalg::Real;

use super::block::Block;
use super::merge::Merge;
use super::parallel::Parallel;
use crate::InverseError;
use crate::layers::kernel::{LayerKernel, delegate_kernel, operator_once};

/// A residual connection, `y = body(x) + skip(x)`.
///
/// # Shapes
/// `body` and `skip` take and give the same shapes.
///
/// # Source
/// He, Zhang, Ren & Sun, "Deep residual learning for image recognition", CVPR 2016, equations 1 and 2.
pub struct Residual<T>(Parallel<T>);

impl<T: Real> Residual<T> {
    /// Joins a body and a skip connection, the identity if there is none.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if the shapes of both differ, or if a layer has no derivatives.
    pub fn new(name: impl Into<String>, body: Block<T>, skip: Option<Block<T>>) -> Result<Self, InverseError> {
        let skip = skip.unwrap_or_else(|| Block::identity("skip", LayerKernel::in_shape(&body)));
        Parallel::new(name, vec![body, skip], Merge::Sum).map(Self)
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
