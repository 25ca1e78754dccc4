//! From matrix views to the slices that kernels work on.

use faer::{MatMut, MatRef};

use crate::{LinalgError, Real};

/// One sample of a batch as a contiguous slice.
///
/// # Errors
/// [`LinalgError::Strided`] if the rows of the view are not next to each other.
pub fn column<'a, T: Real>(what: &'static str, view: MatRef<'a, T>, index: usize) -> Result<&'a [T], LinalgError> {
    let row_stride = view.row_stride();
    match view.col(index).try_as_col_major() {
        Some(dense) => Ok(dense.as_slice()),
        None => Err(LinalgError::Strided { what, row_stride }),
    }
}

/// One sample of a batch as a contiguous mutable slice.
///
/// # Errors
/// [`LinalgError::Strided`] if the rows of the view are not next to each other.
pub fn column_mut<'a, T: Real>(
    what: &'static str,
    view: MatMut<'a, T>,
    index: usize,
) -> Result<&'a mut [T], LinalgError> {
    let row_stride = view.row_stride();
    match view.col_mut(index).try_as_col_major_mut() {
        Some(dense) => Ok(dense.as_slice_mut()),
        None => Err(LinalgError::Strided { what, row_stride }),
    }
}

/// The whole batch as one slice, column after column; `None` if there are gaps between or within the columns.
pub fn batch_slice<'a, T: Real>(view: MatRef<'a, T>) -> Option<&'a [T]> {
    if !is_dense(view) {
        return None;
    }
    #[expect(unsafe_code, reason = "faer offers slices of columns only")]
    // SAFETY: row stride 1 and column stride `nrows` (checked above) make the `nrows · ncols` entries of the view one
    // contiguous, initialised run that is borrowed for `'a`.
    Some(unsafe { std::slice::from_raw_parts(view.as_ptr(), view.nrows() * view.ncols()) })
}

/// The whole batch as one mutable slice, column after column; `None` if there are gaps.
pub fn batch_slice_mut<'a, T: Real>(view: MatMut<'a, T>) -> Option<&'a mut [T]> {
    if !is_dense(view.as_ref()) {
        return None;
    }
    #[expect(unsafe_code, reason = "faer offers slices of columns only")]
    // SAFETY: as in `batch_slice`; the view is exclusive and consumed.
    Some(unsafe { std::slice::from_raw_parts_mut(view.as_ptr_mut(), view.nrows() * view.ncols()) })
}

fn is_dense<T: Real>(view: MatRef<'_, T>) -> bool {
    let rows = view.nrows();
    (rows <= 1 || view.row_stride() == 1) && (view.ncols() <= 1 || view.col_stride() == rows as isize)
}
