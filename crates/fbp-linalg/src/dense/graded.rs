//! Factors of matrices whose columns differ by many decades.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply_householder,
};
use faer::linalg::qr::col_pivoting::factor::{qr_in_place, qr_in_place_scratch};
use faer::linalg::qr::no_pivoting::factor::recommended_block_size;
use faer::linalg::triangular_inverse::invert_upper_triangular;
use faer::{Conj, Mat, MatRef, Par};

use super::pair::Pair;

/// Factors of the whole matrix, whatever its condition; `None` if the triangle has no finite inverse.
///
/// The longer side is sorted by size and the shorter one pivoted, which makes the errors of every row of the tall matrix
/// small against that row, not only against the largest one. Singular values could not resolve those.
///
/// # Source
/// Cox and Higham, *Stability of Householder QR factorization for weighted least squares problems*, Numerical Analysis
/// 1997, Pitman Research Notes 380.
pub(super) fn whole(weight: MatRef<'_, f64>, par: Par) -> Option<Pair<f64>> {
    let is_tall = weight.nrows() > weight.ncols();
    let tall = if is_tall { weight } else { weight.transpose() };
    let (rows, cols) = tall.shape();
    let sizes: Vec<f64> = (0..rows).map(|i| tall.row(i).iter().fold(0.0_f64, |most, a| most.max(a.abs()))).collect();
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|&a, &b| sizes[b].total_cmp(&sizes[a]));
    let mut packed = Mat::from_fn(rows, cols, |i, j| tall[(order[i], j)]);
    let block = recommended_block_size::<f64>(rows, cols);
    let mut coefficients = Mat::zeros(block, cols);
    let (mut turned, mut back) = (vec![0_usize; cols], vec![0_usize; cols]);
    let scratch = qr_in_place_scratch::<usize, f64>(rows, cols, block, par, Default::default());
    let scratch = scratch.or(apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(rows, block, cols));
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    let parameters = Default::default();
    qr_in_place(packed.as_mut(), coefficients.as_mut(), &mut turned, &mut back, par, stack, parameters);
    let r = Mat::from_fn(cols, cols, |i, j| if i <= j { packed[(i, j)] } else { 0.0 });
    if (0..cols).any(|j| r[(j, j)] == 0.0) {
        return None;
    }
    let mut inverse = Mat::zeros(cols, cols);
    invert_upper_triangular(inverse.as_mut(), r.as_ref(), par);
    let mut q = Mat::identity(rows, cols);
    apply_householder(packed.as_ref(), coefficients.as_ref(), Conj::No, q.as_mut(), par, stack);
    // Back to the order of the matrix: row `order[i]` of the tall one is row `i` here, column `turned[j]` column `j`.
    let mut place = vec![0; rows];
    order.iter().enumerate().for_each(|(i, &at)| place[at] = i);
    let q = Mat::from_fn(rows, cols, |i, j| q[(place[i], j)]);
    let inverse = Mat::from_fn(cols, cols, |i, j| inverse[(back[i], j)]);
    if !(0..cols).all(|j| inverse.col(j).iter().all(|x| x.is_finite())) {
        return None;
    }
    Some(if is_tall {
        Pair { inner: q.transpose().to_owned(), outer: inverse }
    } else {
        Pair { inner: inverse.transpose().to_owned(), outer: q }
    })
}

#[cfg(test)]
mod tests {
    use super::super::factor::product;
    use super::*;
    use crate::assert_close;
    use crate::testkit::{Tol, for_seeds, normal_mat, uniform_vec};

    #[test]
    fn factors_invert_whatever_the_scales() {
        for_seeds(8, |rng| {
            for (rows, cols) in [(1, 1), (4, 9), (9, 4), (7, 7)] {
                let scales = uniform_vec::<f64>(cols, -6.0, 6.0, rng);
                let random = normal_mat::<f64>(rows, cols, rng);
                let weight = Mat::from_fn(rows, cols, |i, j| random[(i, j)] * 10.0_f64.powf(scales[j]));
                let Pair { inner, outer } = whole(weight.as_ref(), Par::Seq).unwrap();
                let inverse = product(outer.as_ref(), inner.as_ref(), Par::Seq);
                let sigma = random.singular_values().unwrap();
                let condition = sigma[0] / sigma[sigma.len() - 1];
                let tol = Tol::eps::<f64>().times(64 * rows.max(cols)).by(condition);
                if rows <= cols {
                    let identity = product(weight.as_ref(), inverse.as_ref(), Par::Seq);
                    assert_close!(identity, Mat::<f64>::identity(rows, rows), tol.by(condition));
                } else {
                    // Entry (i, j) is small or large as the scales of its columns are.
                    let identity = product(inverse.as_ref(), weight.as_ref(), Par::Seq);
                    let level = |i: usize, j: usize| identity[(i, j)] * 10.0_f64.powf(scales[i] - scales[j]);
                    let identity = Mat::from_fn(cols, cols, level);
                    assert_close!(identity, Mat::<f64>::identity(cols, cols), tol);
                }
            }
        });
    }

    #[test]
    fn a_matrix_without_full_rank_has_no_such_factors() {
        assert!(whole(Mat::zeros(3, 5).as_ref(), Par::Seq).is_none());
        let twice = Mat::from_fn(2, 3, |_, j| 1.0 + j as f64);
        // Rounding may leave a triangle with an inverse; what it leads to is judged where it is used.
        if let Some(pair) = whole(twice.as_ref(), Par::Seq) {
            assert_eq!(pair.inner.shape(), (2, 2));
        }
    }
}
