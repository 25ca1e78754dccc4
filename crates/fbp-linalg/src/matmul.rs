use std::mem::MaybeUninit;

use faer::linalg::matmul::matmul as faer_matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::{Real, compile_once};

compile_once! {
    /// `dst = alpha · lhs · rhs`, or `dst += alpha · lhs · rhs`: [`faer::linalg::matmul::matmul`] on column-major views,
    /// compiled once.
    ///
    /// # Shapes
    /// `dst`: `m × n`, `lhs`: `m × k`, `rhs`: `k × n`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn matmul<'a, T>(
        dst: MatMut<'a, T>, accum: Accum, lhs: MatRef<'a, T>, rhs: MatRef<'a, T>, alpha: T, par: Par,
    ) -> () = faer_matmul;
}

/// Columns of a thread below which the rows are shared out instead: each thread reads all of the left side once more.
const THREAD_COLUMNS: usize = 32;

/// `lhs · rhs` as a vector of its columns, whose memory is written but once, by all threads of `par`.
///
/// # Shapes
/// `lhs`: `m × k`, `rhs`: `k × n`; the result has `m·n` values.
///
/// # Panics
/// If the shapes do not fit.
///
/// ```
/// use faer::{Par, mat};
///
/// let (a, b) = (mat![[1.0_f32, 2.0]], mat![[3.0_f32, 5.0], [4.0, 6.0]]);
/// assert_eq!(fbp_linalg::product(a.as_ref(), b.as_ref(), Par::Seq), [11.0, 17.0]);
/// ```
pub fn product<T: Real>(lhs: MatRef<'_, T>, rhs: MatRef<'_, T>, par: Par) -> Vec<T> {
    let (rows, columns) = (lhs.nrows(), rhs.ncols());
    let mut values = Vec::<T>::with_capacity(rows * columns);
    let cells = &mut values.spare_capacity_mut()[..rows * columns];
    let threads = par.degree();
    if columns >= threads * THREAD_COLUMNS {
        product_parts((lhs, rhs), cells, threads);
    } else {
        product_into((lhs, rhs), cells, par);
    }
    #[expect(
        unsafe_code,
        reason = "there is no safe way to write a vector on several threads without writing it twice"
    )]
    // SAFETY: the parts cover all cells, and each product has written its own.
    unsafe {
        values.set_len(rows * columns);
    }
    values
}

/// [`product`] on so many threads, each with columns of its own: products that share nothing wait for nobody, unlike the pieces of one
/// product.
fn product_parts<T: Real>((lhs, rhs): (MatRef<'_, T>, MatRef<'_, T>), cells: &mut [MaybeUninit<T>], parts: usize) {
    if parts < 2 {
        return product_into((lhs, rhs), cells, Par::Seq);
    }
    let first = parts / 2;
    let (left, right) = rhs.split_at_col(rhs.ncols() * first / parts);
    let (left_cells, right_cells) = cells.split_at_mut(lhs.nrows() * left.ncols());
    rayon::join(
        || product_parts((lhs, left), left_cells, first),
        || product_parts((lhs, right), right_cells, parts - first),
    );
}

/// Writes all cells, which are as many as the product has entries.
fn product_into<T: Real>((lhs, rhs): (MatRef<'_, T>, MatRef<'_, T>), cells: &mut [MaybeUninit<T>], par: Par) {
    let (rows, columns) = (lhs.nrows(), rhs.ncols());
    assert_eq!(cells.len(), rows * columns, "a product of another size");
    #[expect(unsafe_code, reason = "there is no safe view of memory that has no values yet")]
    // SAFETY: the view covers the cells, one column behind the other, and a product that replaces reads none of them.
    let out = unsafe { MatMut::from_raw_parts_mut(cells.as_mut_ptr().cast::<T>(), rows, columns, 1, rows as isize) };
    matmul(out, Accum::Replace, lhs, rhs, T::ONE, par);
}

#[cfg(test)]
mod tests {
    use faer::Mat;

    use super::*;

    #[test]
    fn products_are_those_into_memory_with_values() {
        for [m, k, n] in [[0, 2, 3], [3, 0, 200], [3, 2, 0], [5, 7, 1], [5, 7, 63], [40, 9, 301]] {
            let (a, b) =
                (Mat::from_fn(m, k, |i, j| (i + 2 * j) as f64), Mat::from_fn(k, n, |i, j| (3 * i) as f64 - j as f64));
            let plain = &a * &b;
            for par in [Par::Seq, Par::rayon(2)] {
                let values = product(a.as_ref(), b.as_ref(), par);
                assert_eq!(MatRef::from_column_major_slice(&values, m, n), plain.as_ref(), "{m}×{k}×{n}");
            }
        }
    }
}
