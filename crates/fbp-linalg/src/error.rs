use faer::MatRef;

use crate::Real;

/// What can be wrong with a call of this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LinalgError {
    /// A view has another size than the operation needs.
    #[error("{what}: expected {} × {}, found {} × {}", expected.0, expected.1, found.0, found.1)]
    Shape {
        /// The operation and the argument, for example `"ridge: x"`.
        what: &'static str,
        /// Rows and columns that the operation needs.
        expected: (usize, usize),
        /// Rows and columns of the argument.
        found: (usize, usize),
    },
    /// A slice has another length than the operation needs.
    #[error("{what}: expected {expected} values, found {found}")]
    Length {
        /// The operation and the argument.
        what: &'static str,
        /// Number of values that the operation needs.
        expected: usize,
        /// Number of values of the argument.
        found: usize,
    },
    /// A batch view whose columns are not contiguous in memory.
    #[error("{what}: the columns of a batch must be contiguous (row stride 1), found row stride {row_stride}")]
    Strided {
        /// The operation and the argument.
        what: &'static str,
        /// Distance in memory between two rows.
        row_stride: isize,
    },
    /// NaN or infinity where a finite number is needed.
    #[error("{what}: value at row {row}, column {column} is not finite")]
    NonFinite {
        /// The operation and the argument.
        what: &'static str,
        /// Row of the first value that is not finite.
        row: usize,
        /// Its column, the sample.
        column: usize,
    },
    /// An interval without a finite number: its lower end is above its upper one, an end is NaN, or both ends are the same
    /// infinity.
    #[error("{what}: the interval at row {row}, column {column} holds no finite number")]
    EmptyBox {
        /// The operation and the argument.
        what: &'static str,
        /// Row of the first empty interval.
        row: usize,
        /// Its column, the sample.
        column: usize,
    },
    /// A parameter outside its documented range.
    #[error("parameter {name} = {value} is outside {range}")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The documented range.
        range: &'static str,
    },
    /// A convolution or pooling geometry that has no output.
    #[error("{what}: {reason}")]
    Geometry {
        /// The operation.
        what: &'static str,
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// The system is too large for the only plan that fits it.
    #[error("{what}: a dense plan of {rows} × {cols} exceeds the limit of {limit} unknowns")]
    TooLarge {
        /// The operation.
        what: &'static str,
        /// Number of equations.
        rows: usize,
        /// Number of unknowns.
        cols: usize,
        /// Largest supported number of unknowns.
        limit: usize,
    },
    /// A matrix decomposition broke down.
    #[error("{what}: the decomposition failed ({reason})")]
    Decomposition {
        /// The operation.
        what: &'static str,
        /// What broke down, in the words of the decomposition.
        reason: String,
    },
}

/// Compares the shape of an argument with what the operation needs.
///
/// # Errors
/// [`LinalgError::Shape`] if they differ.
pub fn expect_shape(what: &'static str, found: (usize, usize), expected: (usize, usize)) -> Result<(), LinalgError> {
    if found == expected { Ok(()) } else { Err(LinalgError::Shape { what, expected, found }) }
}

/// Checks that every value of a view is finite.
///
/// The common, finite case is one vectorised sweep; only on failure is the position looked for.
///
/// # Errors
/// [`LinalgError::NonFinite`] with the first position otherwise.
pub fn expect_finite<T: Real>(what: &'static str, view: MatRef<'_, T>) -> Result<(), LinalgError> {
    for column in 0..view.ncols() {
        let col = view.col(column);
        let finite = match col.try_as_col_major() {
            // `&` does not stop early, so this vectorises.
            Some(dense) => dense.as_slice().iter().fold(true, |finite, x| finite & x.is_finite()),
            None => (0..view.nrows()).all(|row| col[row].is_finite()),
        };
        if !finite {
            let row = (0..view.nrows()).find(|&row| !col[row].is_finite()).unwrap_or(0);
            return Err(LinalgError::NonFinite { what, row, column });
        }
    }
    Ok(())
}

/// Whether some finite number lies in `[lower, upper]`: the ends are ordered, none is NaN, and they are not the same
/// infinity.
///
/// ```
/// use fbp_linalg::holds_finite_number;
///
/// assert!(holds_finite_number(0.0, f64::INFINITY) && holds_finite_number(1.0, 1.0));
/// assert!(!holds_finite_number(f64::INFINITY, f64::INFINITY) && !holds_finite_number(1.0, 0.0));
/// ```
#[inline(always)]
pub fn holds_finite_number<T: Real>(lower: T, upper: T) -> bool {
    (lower <= upper) & (lower < T::INFINITY) & (upper > T::NEG_INFINITY)
}

/// Checks that every interval holds a finite number, see [`holds_finite_number`].
///
/// # Errors
/// [`LinalgError::EmptyBox`] with the first position otherwise.
pub fn expect_box<T: Real>(what: &'static str, lower: MatRef<'_, T>, upper: MatRef<'_, T>) -> Result<(), LinalgError> {
    for column in 0..lower.ncols() {
        let (low, high) = (lower.col(column), upper.col(column));
        let holds = match (low.try_as_col_major(), high.try_as_col_major()) {
            (Some(low), Some(high)) => {
                let ends = low.as_slice().iter().zip(high.as_slice());
                ends.fold(true, |holds, (&low, &high)| holds & holds_finite_number(low, high))
            }
            _ => (0..lower.nrows()).all(|row| holds_finite_number(low[row], high[row])),
        };
        if !holds {
            let row = (0..lower.nrows()).position(|row| !holds_finite_number(low[row], high[row]));
            return Err(LinalgError::EmptyBox { what, row: row.unwrap_or(0), column });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxes_without_a_finite_number<T: Real>() {
        let (nan, inf) = (T::from_f64(f64::NAN), T::INFINITY);
        let column =
            |values: &[T]| faer::Mat::from_fn(values.len(), 2, |i, j| if j == 0 { T::ZERO } else { values[i] });
        for (lower, upper) in [(T::ONE, T::ZERO), (nan, T::ONE), (T::ZERO, nan), (inf, inf), (-inf, -inf), (inf, -inf)]
        {
            let (low, high) = (column(&[T::ZERO, -inf, lower]), column(&[T::ZERO, inf, upper]));
            let refused = expect_box("box", low.as_ref(), high.as_ref());
            assert_eq!(refused, Err(LinalgError::EmptyBox { what: "box", row: 2, column: 1 }), "[{lower}, {upper}]");
            // The rows of a transposed view are not next to each other in memory.
            let (low, high) = (low.transpose().to_owned(), high.transpose().to_owned());
            let refused = expect_box("box", low.as_ref().transpose(), high.as_ref().transpose());
            assert_eq!(refused, Err(LinalgError::EmptyBox { what: "box", row: 2, column: 1 }), "[{lower}, {upper}]");
        }
        for (lower, upper) in [(T::ZERO, T::ZERO), (-inf, inf), (-inf, -T::MAX), (T::MAX, inf), (T::MAX, T::MAX)] {
            assert_eq!(expect_box("box", column(&[lower]).as_ref(), column(&[upper]).as_ref()), Ok(()));
        }
    }

    #[test]
    fn boxes_without_a_finite_number_are_refused() {
        boxes_without_a_finite_number::<f32>();
        boxes_without_a_finite_number::<f64>();
    }
}
