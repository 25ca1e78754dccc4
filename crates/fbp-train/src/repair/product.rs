use faer::{Accum, Mat, MatRef, Par};
use fbp_linalg::matmul;

/// A product that is one of many: on the thread at hand.
pub(super) fn product(left: &Mat<f64>, right: MatRef<'_, f64>) -> Mat<f64> {
    let mut product = Mat::zeros(left.nrows(), right.ncols());
    matmul(product.as_mut(), Accum::Replace, left.as_ref(), right, 1.0, Par::Seq);
    product
}
