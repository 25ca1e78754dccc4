//! The system matrix as the dual solver reads it: contiguous rows for products, masked Gram matrices.

use faer::{Mat, MatRef};

use crate::Real;

/// The system matrix `A` (`m × n`) of the dual solver.
pub(super) trait RowSource<T: Real> {
    /// Number of rows `m`.
    fn nrows(&self) -> usize;

    /// Number of columns `n`.
    fn ncols(&self) -> usize;

    /// Row `i` as a contiguous slice.
    fn row(&self, i: usize) -> &[T];

    /// Lower triangle of `A_R D A_Rᵀ`, where `D` keeps the columns marked `free`.
    ///
    /// `position[i]` is the index of row `i` in `R`, or `u32::MAX`; `gram` is column-major with `size` rows.
    /// `gather` has room for `m + 1` entries.
    fn masked_gram(&self, selection: GramSelection<'_>, gather: &mut [(u32, T)], gram: &mut [T]);

    /// `out += Σ weights[i] · row_i` over all rows with a non-zero weight.
    #[inline(always)]
    fn add_weighted_rows(&self, weights: &[T], out: &mut [T]) {
        let mut pending = [(T::ZERO, 0usize); 4];
        let mut count = 0;
        for (i, &weight) in weights.iter().enumerate() {
            if weight != T::ZERO {
                pending[count] = (weight, i);
                count += 1;
                if count == 4 {
                    self.add_four_rows(pending, out);
                    count = 0;
                }
            }
        }
        for &(weight, i) in &pending[..count] {
            for (out, &a) in out.iter_mut().zip(self.row(i)) {
                *out += weight * a;
            }
        }
    }

    #[inline(always)]
    fn add_four_rows(&self, rows: [(T, usize); 4], out: &mut [T]) {
        let len = out.len();
        let [w0, w1, w2, w3] = rows.map(|(weight, _)| weight);
        let [r0, r1, r2, r3] = rows.map(|(_, i)| &self.row(i)[..len]);
        for j in 0..len {
            out[j] = out[j] + (w0 * r0[j] + w1 * r1[j]) + (w2 * r2[j] + w3 * r3[j]);
        }
    }

    /// `out[i] = row_i · x` for every row.
    #[inline(always)]
    fn multiply(&self, x: &[T], out: &mut [T]) {
        let m = self.nrows();
        let mut i = 0;
        while i + 4 <= m {
            let sums = dot_four([self.row(i), self.row(i + 1), self.row(i + 2), self.row(i + 3)], x);
            out[i..i + 4].copy_from_slice(&sums);
            i += 4;
        }
        for (row, out) in (i..m).zip(&mut out[i..]) {
            *out = dot_four([self.row(row); 4], x)[0];
        }
    }
}

/// Rows of `A` (`m × n`) stored contiguously, plus its columns in compressed form where they are sparse.
#[derive(Clone, Debug)]
pub(super) struct SystemRows<T> {
    /// `Aᵀ`: column `i` is row `i` of `A`.
    transposed: Mat<T>,
    /// Columns of `A` without their zeros.
    columns: SparseColumns<T>,
}

/// Compressed sparse columns of `A`.
#[derive(Clone, Debug)]
struct SparseColumns<T> {
    starts: Vec<u32>,
    rows: Vec<u32>,
    values: Vec<T>,
}

impl<T: Real> SystemRows<T> {
    pub(super) fn new(a: MatRef<'_, f64>) -> Self {
        let transposed = Mat::from_fn(a.ncols(), a.nrows(), |j, i| T::from_f64(a[(i, j)]));
        let mut columns = SparseColumns { starts: vec![0], rows: Vec::new(), values: Vec::new() };
        for j in 0..a.ncols() {
            for i in 0..a.nrows() {
                if a[(i, j)] != 0.0 {
                    columns.rows.push(i as u32);
                    columns.values.push(T::from_f64(a[(i, j)]));
                }
            }
            columns.starts.push(columns.rows.len() as u32);
        }
        Self { transposed, columns }
    }
}

impl<T: Real> RowSource<T> for SystemRows<T> {
    #[inline(always)]
    fn nrows(&self) -> usize {
        self.transposed.ncols()
    }

    #[inline(always)]
    fn ncols(&self) -> usize {
        self.transposed.nrows()
    }

    #[inline(always)]
    fn row(&self, i: usize) -> &[T] {
        self.transposed.col_as_slice(i)
    }

    #[inline(always)]
    fn masked_gram(&self, selection: GramSelection<'_>, gather: &mut [(u32, T)], gram: &mut [T]) {
        let size = selection.size;
        gram[..size * size].fill(T::ZERO);
        for (j, _) in selection.free.iter().enumerate().filter(|(_, free)| **free) {
            let (start, end) = (self.columns.starts[j] as usize, self.columns.starts[j + 1] as usize);
            let mut count = 0;
            for (&row, &value) in self.columns.rows[start..end].iter().zip(&self.columns.values[start..end]) {
                let at = selection.position[row as usize];
                gather[count] = (at, value);
                count += usize::from(at != u32::MAX);
            }
            // Rows ascend along a column and in R, so every later entry lies below the earlier ones.
            for first in 0..count {
                let (column, weight) = gather[first];
                let column = &mut gram[column as usize * size..][..size];
                for &(row, value) in &gather[first..count] {
                    let entry = &mut column[row as usize];
                    *entry += weight * value;
                }
            }
        }
    }
}

/// A few rows that belong to one sample: products with every pair of rows are cheap, so nothing is prepared.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleRows<'a, T> {
    /// Column `i` is row `i` of `A`; contiguous columns.
    pub(super) rows: MatRef<'a, T>,
}

impl<T: Real> RowSource<T> for SampleRows<'_, T> {
    #[inline(always)]
    fn nrows(&self) -> usize {
        self.rows.ncols()
    }

    #[inline(always)]
    fn ncols(&self) -> usize {
        self.rows.nrows()
    }

    #[inline(always)]
    fn row(&self, i: usize) -> &[T] {
        self.rows.col(i).try_as_col_major().map_or(&[], |row| row.as_slice())
    }

    #[inline(always)]
    fn masked_gram(&self, selection: GramSelection<'_>, _gather: &mut [(u32, T)], gram: &mut [T]) {
        let selected = |i: usize| selection.position[i] != u32::MAX;
        for i in (0..self.nrows()).filter(|&i| selected(i)) {
            let column = &mut gram[selection.position[i] as usize * selection.size..][..selection.size];
            for j in (i..self.nrows()).filter(|&j| selected(j)) {
                column[selection.position[j] as usize] = masked_dot(self.row(i), self.row(j), selection.free);
            }
        }
    }
}

/// The rows and columns that enter a masked Gram matrix.
#[derive(Clone, Copy)]
pub(super) struct GramSelection<'a> {
    /// Index of every row in the selection, `u32::MAX` for rows that are not selected.
    pub(super) position: &'a [u32],
    /// Number of selected rows.
    pub(super) size: usize,
    /// Which columns enter.
    pub(super) free: &'a [bool],
}

/// Four dot products with one right-hand side, in independent lanes so that they vectorise.
#[inline(always)]
fn dot_four<T: Real>(rows: [&[T]; 4], x: &[T]) -> [T; 4] {
    const LANES: usize = 16;
    let len = x.len();
    let rows = rows.map(|row| &row[..len]);
    let mut lanes = [[T::ZERO; LANES]; 4];
    let body = len - len % LANES;
    let mut start = 0;
    while start < body {
        for (row, lanes) in rows.iter().zip(&mut lanes) {
            for l in 0..LANES {
                lanes[l] += row[start + l] * x[start + l];
            }
        }
        start += LANES;
    }
    let mut sums = lanes.map(|lanes| lanes.into_iter().sum::<T>());
    for (row, sum) in rows.iter().zip(&mut sums) {
        for j in body..len {
            *sum += row[j] * x[j];
        }
    }
    sums
}

/// Dot product over the entries marked `free`, in independent lanes so that it vectorises.
#[inline(always)]
fn masked_dot<T: Real>(a: &[T], b: &[T], free: &[bool]) -> T {
    const LANES: usize = 16;
    let mut lanes = [T::ZERO; LANES];
    let term = |a: T, b: T, free: bool| if free { a * b } else { T::ZERO };
    let (a_body, a_tail) = a.as_chunks::<LANES>();
    let (b_body, b_tail) = b.as_chunks::<LANES>();
    let (free_body, free_tail) = free.as_chunks::<LANES>();
    for ((a, b), free) in a_body.iter().zip(b_body).zip(free_body) {
        for l in 0..LANES {
            lanes[l] += term(a[l], b[l], free[l]);
        }
    }
    let tail = a_tail.iter().zip(b_tail).zip(free_tail).map(|((&a, &b), &free)| term(a, b, free));
    lanes.into_iter().chain(tail).sum::<T>()
}
