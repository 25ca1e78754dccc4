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

/// Columns of a thread below which the pieces of one product are shared out instead: each thread reads all of the left side.
const THREAD_COLUMNS: usize = 32;

/// `dst = lhs · rhs`, or `dst += lhs · rhs`, on every thread of `par` the product of columns of its own, if each has enough of
/// them: unlike the pieces of one product, which wait for each other, products that share nothing wait for nobody.
///
/// # Shapes
/// As [`matmul`].
///
/// # Panics
/// As [`matmul`].
pub fn matmul_by_columns<T: Real>(dst: MatMut<'_, T>, accum: Accum, lhs: MatRef<'_, T>, rhs: MatRef<'_, T>, par: Par) {
    let threads = par.degree();
    if threads > 1 && rhs.ncols() >= threads * THREAD_COLUMNS {
        matmul_parts(dst, accum, lhs, rhs, threads);
    } else {
        matmul(dst, accum, lhs, rhs, T::ONE, par);
    }
}

fn matmul_parts<T: Real>(dst: MatMut<'_, T>, accum: Accum, lhs: MatRef<'_, T>, rhs: MatRef<'_, T>, parts: usize) {
    if parts < 2 {
        return matmul(dst, accum, lhs, rhs, T::ONE, Par::Seq);
    }
    let first = parts / 2;
    let middle = rhs.ncols() * first / parts;
    let (dst_left, dst_right) = dst.split_at_col_mut(middle);
    let (left, right) = rhs.split_at_col(middle);
    rayon::join(
        || matmul_parts(dst_left, accum, lhs, left, first),
        || matmul_parts(dst_right, accum, lhs, right, parts - first),
    );
}

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
    let len = rows.checked_mul(columns).expect("a product of more entries than memory has addresses");
    let mut values = Vec::<T>::with_capacity(len);
    let cells = values.spare_capacity_mut().as_mut_ptr().cast::<T>();
    #[expect(unsafe_code, reason = "there is no safe view of memory that has no values yet")]
    // SAFETY: the view covers the capacity, one column behind the other, and a product that replaces reads none of it.
    let out = unsafe { MatMut::from_raw_parts_mut(cells, rows, columns, 1, rows as isize) };
    matmul_by_columns(out, Accum::Replace, lhs, rhs, par);
    #[expect(
        unsafe_code,
        reason = "there is no safe way to write a vector on several threads without writing it twice"
    )]
    // SAFETY: the product has written every cell.
    unsafe {
        values.set_len(len);
    }
    values
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
