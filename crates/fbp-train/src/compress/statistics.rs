use std::sync::Arc;

use faer::{Accum, Mat, MatRef, Par};
use fbp_linalg::{matmul, matmul_lower};
use rayon::prelude::*;

use super::columns::{ColumnBuffer, Samples};
use super::layers::MatrixLayer;
use crate::evaluate::pool_par;

/// Columns of one product.
const TILE: usize = 2048;
/// Sums that are built at the same time, if the matrices are small; a fixed number, so that threads change nothing.
const PARTS: usize = 6;
/// Length of a column above which the sums are built one after the other, each on all threads.
const LARGE: usize = 1200;

/// Sums over the columns of one group of a layer: all that its weights are solved from.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    /// `X̃ X̃ᵀ`, the constant last.
    pub(super) gram: Arc<Mat<f64>>,
    /// `X̃ Rᵀ`, a column for every output; `R` is what is missing from the outputs.
    pub(super) cross: Mat<f64>,
    /// `Σ r²` of every output.
    pub(super) missing: Vec<f64>,
    /// Number of columns.
    pub(super) count: usize,
}

impl Sums {
    fn zero(layer: &MatrixLayer) -> Self {
        let (len, outputs) = (layer.column_len(), layer.outputs);
        let gram = Arc::new(Mat::zeros(len, len));
        Self { gram, cross: Mat::zeros(len, outputs), missing: vec![0.0; outputs], count: 0 }
    }

    /// Both together.
    pub(super) fn plus(mut self, other: &Self) -> Self {
        *Arc::make_mut(&mut self.gram) += &*other.gram;
        self.cross += &other.cross;
        self.missing.iter_mut().zip(&other.missing).for_each(|(own, other)| *own += other);
        self.count += other.count;
        self
    }

    /// `Σ |r - Δ x̃|²` of one output after its weights have changed by `change`, never below zero.
    pub(super) fn residual(&self, output: usize, change: &[f64]) -> f64 {
        let cross = self.cross.col(output);
        let mut sum = self.missing[output];
        for (j, &own) in change.iter().enumerate().filter(|(_, own)| **own != 0.0) {
            let column = self.gram.col(j);
            let product: f64 = change.iter().zip(column.iter()).map(|(a, b)| a * b).sum();
            sum += own * (product - 2.0 * cross[j]);
        }
        sum.max(0.0)
    }

    /// The same of all outputs, one change in each column.
    pub(super) fn residuals(&self, changes: MatRef<'_, f64>) -> Vec<f64> {
        self.residuals_of(changes, &self.product(changes))
    }

    fn product(&self, changes: MatRef<'_, f64>) -> Mat<f64> {
        let mut product = Mat::zeros(changes.nrows(), changes.ncols());
        matmul(product.as_mut(), Accum::Replace, self.gram.as_ref().as_ref(), changes, 1.0, pool_par()); // (D×D)(D×O)
        product
    }

    fn residuals_of(&self, changes: MatRef<'_, f64>, product: &Mat<f64>) -> Vec<f64> {
        let of = |output: usize| {
            let (product, cross) = (product.col(output), self.cross.col(output));
            let entry = |(j, own): (usize, &f64)| own * (product[j] - 2.0 * cross[j]);
            (self.missing[output] + changes.col(output).iter().enumerate().map(entry).sum::<f64>()).max(0.0)
        };
        (0..changes.ncols()).map(of).collect()
    }

    /// The sums after the weights of every output have changed.
    pub(super) fn moved(&self, changes: MatRef<'_, f64>) -> Self {
        let product = self.product(changes);
        let (gram, cross) = (self.gram.clone(), &self.cross - &product);
        Self { gram, cross, missing: self.residuals_of(changes, &product), count: self.count }
    }

    /// Mean of the diagonal without the constant; what damping is a share of.
    pub(super) fn scale(&self, inputs: usize) -> f64 {
        (0..inputs).map(|k| self.gram[(k, k)]).sum::<f64>() / inputs.max(1) as f64
    }
}

/// Input of a layer and what is missing from its output, for every chunk of samples.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk<'a> {
    pub(super) inputs: Samples<'a>,
    pub(super) missing: Samples<'a>,
}

impl<'a> Chunk<'a> {
    /// All chunks, given the values of each and the number of its samples.
    pub(super) fn all(inputs: &'a [(Vec<f32>, usize)], missing: &'a [(Vec<f32>, usize)]) -> Vec<Self> {
        let of = |values: &'a (Vec<f32>, usize)| Samples { values: &values.0, count: values.1 };
        inputs.iter().zip(missing).map(|(inputs, missing)| Self { inputs: of(inputs), missing: of(missing) }).collect()
    }
}

/// Sums over some chunks, for one group. Products of tiles are in single precision, their sums in double.
pub(super) fn sums(layer: &MatrixLayer, chunks: &[Chunk<'_>], group: usize) -> Sums {
    let is_large = layer.column_len() > LARGE;
    let parts = if is_large || layer.groups > 1 { 1 } else { PARTS };
    let par = if is_large { pool_par() } else { Par::Seq };
    let of_part = |part: usize| {
        let (mut sums, mut buffer) = (Sums::zero(layer), ColumnBuffer::default());
        let mut tile = Mat::<f32>::zeros(layer.column_len(), layer.column_len());
        let mut cross = Mat::<f32>::zeros(layer.column_len(), layer.outputs);
        for chunk in chunks.iter().skip(part).step_by(parts) {
            let positions = layer.positions(chunk.inputs.values.len() / chunk.inputs.count.max(1));
            let step = (TILE / positions.max(1)).max(1);
            for start in (0..chunk.inputs.count).step_by(step) {
                let samples = start..(start + step).min(chunk.inputs.count);
                let (columns, missing) = layer.columns((chunk.inputs, chunk.missing), samples, group, &mut buffer);
                add(&mut sums, (&mut tile, &mut cross), columns, missing, par);
            }
        }
        sums
    };
    let found: Vec<Sums> = (0..parts.min(chunks.len().max(1))).into_par_iter().map(of_part).collect();
    let mut all = found.iter().fold(Sums::zero(layer), Sums::plus);
    let gram = Arc::make_mut(&mut all.gram);
    for j in 0..gram.ncols() {
        for i in 0..j {
            gram[(i, j)] = gram[(j, i)];
        }
    }
    all
}

fn add(
    sums: &mut Sums,
    (tile, cross): (&mut Mat<f32>, &mut Mat<f32>),
    columns: MatRef<'_, f32>,
    missing: MatRef<'_, f32>,
    par: Par,
) {
    matmul_lower(tile.as_mut(), Accum::Replace, columns, columns.transpose(), 1.0, par); // (D×T)(T×D)
    matmul(cross.as_mut(), Accum::Replace, columns, missing.transpose(), 1.0, par); // (D×T)(T×O)
    let gram = Arc::make_mut(&mut sums.gram);
    for j in 0..tile.ncols() {
        widen(&mut gram.col_as_slice_mut(j)[j..], &tile.col_as_slice(j)[j..]);
    }
    for j in 0..cross.ncols() {
        widen(sums.cross.col_as_slice_mut(j), cross.col_as_slice(j));
    }
    for (sum, row) in sums.missing.iter_mut().zip(missing.row_iter()) {
        *sum += row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
    }
    sums.count += columns.ncols();
}

/// Adds in double precision.
fn widen(sums: &mut [f64], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += f64::from(value));
}
