use faer::{MatMut, MatRef};

use crate::{LinalgError, Real, expect_shape};

/// One batch to solve: for each column the `v` nearest to `observed_in` with `A v + b = target`, as the plan means it.
///
/// # Shapes
/// For a plan of an `m × n` matrix and `k` samples: `observed_in` and `solution` are `n × k`, `observed_out` and
/// `target` are `m × k`, all with contiguous columns (row stride 1).
pub struct AffineSolve<'a, T> {
    /// The points `v0` to stay near.
    pub observed_in: MatRef<'a, T>,
    /// Their outputs `A v0 + b`, as a forward pass gave them; `None` lets the plan compute them.
    ///
    /// Where a column equals its target, the solution is `v0` bit for bit.
    pub observed_out: Option<MatRef<'a, T>>,
    /// The wanted outputs `y`.
    pub target: MatRef<'a, T>,
    /// Receives the solution; its former content is not read.
    pub solution: MatMut<'a, T>,
}

impl<'a, T: Real> AffineSolve<'a, T> {
    /// Number of samples.
    pub fn batch(&self) -> usize {
        self.target.ncols()
    }

    /// Compares all views with an `m × n` system.
    pub(crate) fn check(&self, (rows, cols): (usize, usize)) -> Result<(), LinalgError> {
        let batch = self.batch();
        expect_batch("affine: target", self.target, (rows, batch))?;
        expect_batch("affine: observed_in", self.observed_in, (cols, batch))?;
        if let Some(observed_out) = self.observed_out {
            expect_batch("affine: observed_out", observed_out, (rows, batch))?;
        }
        expect_batch("affine: solution", self.solution.as_ref(), (cols, batch))
    }

    /// The same pass for a shorter borrow.
    pub(super) fn by_ref(&mut self) -> AffineSolve<'_, T> {
        AffineSolve { solution: self.solution.as_mut(), ..*self }
    }

    /// The first `at` samples and the others.
    pub(crate) fn split_at(self, at: usize) -> (Self, Self) {
        let (in_left, in_right) = self.observed_in.split_at_col(at);
        let (out_left, out_right) = self.observed_out.map(|out| out.split_at_col(at)).unzip();
        let (target_left, target_right) = self.target.split_at_col(at);
        let (left, right) = self.solution.split_at_col_mut(at);
        (
            Self { observed_in: in_left, observed_out: out_left, target: target_left, solution: left },
            Self { observed_in: in_right, observed_out: out_right, target: target_right, solution: right },
        )
    }
}

fn expect_batch<T: Real>(what: &'static str, view: MatRef<'_, T>, expected: (usize, usize)) -> Result<(), LinalgError> {
    expect_shape(what, view.shape(), expected)?;
    // The stride of a view with at most one row is never used.
    if view.nrows() > 1 && view.row_stride() != 1 {
        return Err(LinalgError::Strided { what, row_stride: view.row_stride() });
    }
    Ok(())
}
