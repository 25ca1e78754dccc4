use candle_core::Var;
use faer::{Accum, Mat, Par, unzip, zip};
use fbp_linalg::{matmul, matmul_lower};
use fbp_models::Network;
use rayon::prelude::*;

use super::deadline::Deadline;
use super::dual::nonnegative;
use super::product::product;
use super::rows::{Row, Subjects};
use crate::TrainError;
use crate::affine::{AffineLayer, flat};
use crate::cache::{FeatureCache, ridge_factor, second_moment};
use crate::evaluate::pool_par;

/// Columns of a Gram matrix between two looks at the clock.
const BLOCK: usize = 128;
/// Samples whose patches make up the second moment of a convolution's input.
pub(super) const PATCH_SAMPLES: usize = 1000;

/// How a change is measured: `tr(ΔW C ΔWᵀ)` with `C` the second moment of the columns of the data to be left alone.
///
/// With `C + ridge = L Lᵀ`, the coordinates `V = ΔW L` make it `|V|²`.
///
/// With a *sensitivity* `G + ridge = M Mᵀ`, the second moment of the derivatives of the network's outputs by those of the layer,
/// it is `tr(G ΔW C ΔWᵀ)`, about the squared change of the network's outputs on those data, and `V = Mᵀ ΔW L`.
///
/// # Source
/// One Kronecker product for both second moments: Martens & Grosse, "Optimizing neural networks with Kronecker-factored approximate
/// curvature", ICML 2015.
pub(super) struct Metric {
    inverse: Mat<f64>,
    /// `M⁻¹`; none without a sensitivity.
    left: Option<Mat<f64>>,
}

/// Samples that the sensitivity is taken from.
const SENSITIVITY_SAMPLES: usize = 300;
/// Share of its mean diagonal entry that is added to a sensitivity: directions that the outputs do not depend on now may matter
/// once units switch on.
const LEFT_RIDGE: f64 = 0.03;

/// Second moment of the derivatives of all outputs of the network by those of the layer, over some cached samples.
///
/// # Errors
/// [`TrainError::Model`] or [`TrainError::Tensor`] if the network cannot be run on the samples.
pub(super) fn output_sensitivity(
    network: &Network,
    layer: &AffineLayer,
    cache: &FeatureCache,
) -> Result<Mat<f64>, TrainError> {
    let samples: Vec<usize> = (0..cache.samples().min(SENSITIVITY_SAMPLES)).collect();
    let mut moment = Mat::zeros(layer.outputs, layer.outputs);
    if samples.is_empty() {
        return Ok(Mat::identity(layer.outputs, layer.outputs));
    }
    let (states, _) = cache.batch(&samples)?;
    let output = Var::from_tensor(&layer.output(network, &states)?)?;
    let logits = layer.logits(network, &states, &output)?;
    let (positions, columns) = (layer.positions(), layer.positions() * samples.len());
    for entry in 0..logits.dim(1)? {
        let store = logits.narrow(1, entry, 1)?.sum_all()?.backward()?;
        let gradient = store.get(&output).map_or_else(|| output.zeros_like(), |gradient| Ok(gradient.clone()))?;
        let gradient = flat(&gradient)?;
        let of = |o: usize, column: usize| {
            let (sample, position) = (column / positions, column % positions);
            f64::from(gradient[sample * layer.outputs * positions + layer.output_index(o, position)])
        };
        let all = Mat::from_fn(layer.outputs, columns, of);
        let scale = 1.0 / samples.len() as f64;
        matmul(moment.as_mut(), Accum::Add, all.as_ref(), all.transpose(), scale, pool_par()); // (O×K)(K×O)
    }
    Ok(moment)
}

/// The inverse of the lower Cholesky factor of a moment to whose diagonal `ridge` times its mean is added.
fn inverse_factor(moment: &Mat<f64>, ridge: f64) -> Result<Mat<f64>, TrainError> {
    Ok(ridge_factor(moment, ridge, "the inputs of the layer")?.inverse_lower())
}

/// Second moment of the columns of a layer's input.
///
/// # Errors
/// [`TrainError::TimeOver`].
pub(super) fn column_moment(
    layer: &AffineLayer,
    cache: &FeatureCache,
    deadline: Deadline,
) -> Result<Mat<f64>, TrainError> {
    deadline.check()?;
    if is_whole_moment(layer, cache) {
        return Ok(second_moment(cache));
    }
    let dim = layer.inputs + 1;
    let mut moment = Mat::zeros(dim, dim);
    let samples = cache.samples().min(PATCH_SAMPLES);
    for sample in 0..samples {
        deadline.check()?;
        let columns = layer.columns(&cache.values[sample * cache.len..][..cache.len]);
        let scale = 1.0 / (samples * layer.positions()) as f64;
        matmul(moment.as_mut(), Accum::Add, columns.as_ref(), columns.transpose(), scale, Par::Seq); // (D×P)(P×D)
    }
    Ok(moment)
}

/// Whether the second moment is that of all cached samples, and not of the patches of some.
pub(super) fn is_whole_moment(layer: &AffineLayer, cache: &FeatureCache) -> bool {
    layer.positions() == 1 && cache.len == layer.inputs
}

impl Metric {
    /// `ridge` is a share of the mean diagonal entry of `moment`.
    ///
    /// # Errors
    /// [`TrainError::Singular`] if the moment is not finite.
    pub(super) fn new(moment: &Mat<f64>, ridge: f64) -> Result<Self, TrainError> {
        Ok(Self { inverse: inverse_factor(moment, ridge)?, left: None })
    }

    /// The same with a sensitivity, if there is one.
    ///
    /// # Errors
    /// [`TrainError::Singular`] if it is not finite.
    pub(super) fn weighed_by(self, sensitivity: Option<&Mat<f64>>) -> Result<Self, TrainError> {
        let left = sensitivity.map(|moment| inverse_factor(moment, LEFT_RIDGE)).transpose()?;
        Ok(Self { left, ..self })
    }

    /// The smallest change that satisfies all conditions, up to a slack: `min ½|V|² + |s|² / (2 ε)` subject to
    /// `⟨row, V⟩ + s >= demand`, `ε` the share `slack` of the mean squared length of the rows.
    ///
    /// The slack makes the problem solvable where conditions contradict each other.
    ///
    /// # Errors
    /// [`TrainError::Singular`] if the conditions are not finite, [`TrainError::TimeOver`] if the deadline comes before there is
    /// a first guess.
    ///
    /// # Source
    /// `V = Σ λ_i row_i` with `λ` the solution of the dual, whose matrix is the Gram matrix of the rows: Boyd &
    /// Vandenberghe, *Convex Optimization*, §5.2.4.
    pub(super) fn smallest_change(
        &self,
        layer: &AffineLayer,
        groups: &[(&Subjects, &[Row])],
        slack: f64,
        deadline: Deadline,
    ) -> Result<Mat<f64>, TrainError> {
        let whiten = |columns: &Mat<f64>| deadline.check().map(|()| product(&self.inverse, columns.as_ref()));
        let white: Vec<Vec<Mat<f64>>> = groups
            .iter()
            .map(|(subjects, _)| subjects.columns.par_iter().map(whiten).collect::<Result<_, _>>())
            .collect::<Result<_, _>>()?;
        let all: Vec<(&Row, &Mat<f64>)> = groups
            .iter()
            .zip(&white)
            .flat_map(|((_, rows), white)| rows.iter().map(|row| (row, &white[row.sample])))
            .collect();
        let demands: Vec<f64> = all.iter().map(|(row, _)| row.demand).collect();
        let weigh = |left: &Mat<f64>| all.par_iter().map(|(row, _)| product(left, row.g.as_ref())).collect::<Vec<_>>();
        let weighed = self.left.as_ref().map(weigh);
        let mut rows: Vec<(&Mat<f64>, &Mat<f64>)> = all.iter().map(|(row, white)| (&row.g, *white)).collect();
        rows.iter_mut().zip(weighed.iter().flatten()).for_each(|(row, weighed)| row.0 = weighed);
        let mut gram = if layer.positions() == 1 { outer_gram(&rows, deadline) } else { dense_gram(&rows, deadline) }?;
        let n = rows.len();
        let mean = (0..n).map(|k| gram[(k, k)]).sum::<f64>() / n.max(1) as f64;
        for k in 0..n {
            gram[(k, k)] += slack * mean + f64::MIN_POSITIVE;
        }
        let lambda = nonnegative(&gram, &demands, deadline)?;
        let mut v = Mat::zeros(layer.outputs, layer.inputs + 1);
        for ((g, white), lambda) in rows.iter().zip(lambda).filter(|(_, lambda)| *lambda > 0.0) {
            matmul(v.as_mut(), Accum::Add, g.as_ref(), white.transpose(), lambda, Par::Seq); // (O×P)(P×D)
        }
        let v = v * &self.inverse;
        Ok(match &self.left {
            Some(left) => left.transpose() * v,
            None => v,
        })
    }
}

/// Inner products of rows `g x̃ᵀ` with a single column each: `(g_i · g_j)(x̃_i · x̃_j)`.
fn outer_gram(rows: &[(&Mat<f64>, &Mat<f64>)], deadline: Deadline) -> Result<Mat<f64>, TrainError> {
    let n = rows.len();
    let Some((first, white)) = rows.first() else { return Ok(Mat::zeros(0, 0)) };
    let mut left = gram(&Mat::from_fn(first.nrows(), n, |i, k| rows[k].0[(i, 0)]), deadline)?;
    let right = gram(&Mat::from_fn(white.nrows(), n, |i, k| rows[k].1[(i, 0)]), deadline)?;
    // In place: with many conditions these matrices are most of the memory.
    zip!(&mut left, &right).for_each(|unzip!(left, right)| *left *= *right);
    Ok(left)
}

/// Inner products of rows with several columns each, written out.
fn dense_gram(rows: &[(&Mat<f64>, &Mat<f64>)], deadline: Deadline) -> Result<Mat<f64>, TrainError> {
    let Some((first, white)) = rows.first() else { return Ok(Mat::zeros(0, 0)) };
    let (outputs, dim) = (first.nrows(), white.nrows());
    let mut all = Mat::zeros(outputs * dim, rows.len());
    // One product after the other on each thread: they are too small to share.
    all.par_col_iter_mut().zip(rows).try_for_each(|(column, (g, white))| -> Result<(), TrainError> {
        deadline.check()?;
        let written = product(g, white.transpose()); // (O×P)(P×D)
        for (own, value) in column.iter_mut().zip(written.col_iter().flat_map(|column| column.iter())) {
            *own = *value;
        }
        Ok(())
    })?;
    gram(&all, deadline)
}

/// `AᵀA`, a block of columns after the other.
fn gram(a: &Mat<f64>, deadline: Deadline) -> Result<Mat<f64>, TrainError> {
    let (n, par) = (a.ncols(), pool_par());
    let mut gram = Mat::zeros(n, n);
    for start in (0..n).step_by(BLOCK) {
        deadline.check()?;
        let size = BLOCK.min(n - start);
        let block = gram.as_mut().submatrix_mut(start, start, n - start, size);
        let (head, below) = block.split_at_row_mut(size);
        let (own, others) = (a.subcols(start, size), a.subcols(start + size, n - start - size));
        matmul_lower(head, Accum::Replace, own.transpose(), own, 1.0, par); // (B×D)(D×B)
        matmul(below, Accum::Replace, others.transpose(), own, 1.0, par); // (R×D)(D×B)
    }
    for j in 0..n {
        for i in 0..j {
            gram[(i, j)] = gram[(j, i)];
        }
    }
    Ok(gram)
}

#[cfg(test)]
mod tests {
    use fbp_models::zoo;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Random rows of `outputs × positions` on columns of length `dim`.
    fn random(seed: u64, count: usize, outputs: usize, positions: usize, dim: usize) -> (Vec<Row>, Vec<Mat<f64>>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut matrix = |rows, cols| Mat::from_fn(rows, cols, |_, _| 2.0 * rng.random::<f64>() - 1.0);
        let columns = (0..count).map(|_| matrix(dim, positions)).collect();
        let row = |sample| Row { sample, g: matrix(outputs, positions), demand: 0.5 };
        ((0..count).map(row).collect(), columns)
    }

    #[test]
    fn both_ways_to_the_gram_matrix_agree() {
        let never = Deadline::default();
        let (rows, columns) = random(1, 7, 3, 1, 5);
        let pairs: Vec<_> = rows.iter().map(|row| (&row.g, &columns[row.sample])).collect();
        assert!((outer_gram(&pairs, never).unwrap() - dense_gram(&pairs, never).unwrap()).norm_max() < 1e-12);
        // Written out for one pair: Σ_p Σ_q (g_p · g'_q)(x_p · x'_q).
        let (rows, columns) = random(2, 2, 3, 4, 5);
        let pairs: Vec<_> = rows.iter().map(|row| (&row.g, &columns[row.sample])).collect();
        let (g, x) = (rows[0].g.transpose() * &rows[1].g, columns[0].transpose() * &columns[1]);
        let sum: f64 = (0..4).map(|p| (0..4).map(|q| g[(p, q)] * x[(p, q)]).sum::<f64>()).sum();
        assert!((dense_gram(&pairs, never).unwrap()[(0, 1)] - sum).abs() < 1e-12);
    }

    #[test]
    fn the_change_meets_its_demands_and_every_smaller_one_does_not() {
        let network = Network::new(&zoo::spec("cnn-mnist-large").unwrap(), 0).unwrap();
        let layer = AffineLayer::of(&network, "out").unwrap();
        let dim = layer.inputs + 1;
        let (rows, columns) = random(3, 6, layer.outputs, 1, dim);
        let subjects = Subjects::of_columns(columns);
        let moment = Mat::from_fn(dim, dim, |i, j| if i == j { 1.0 + i as f64 } else { 0.2 });
        let metric = Metric::new(&moment, 0.0).unwrap();
        let change = metric.smallest_change(&layer, &[(&subjects, &rows)], 1e-9, Deadline::default()).unwrap();
        let along = |change: &Mat<f64>, row: &Row| {
            let moved = change * &subjects.columns[row.sample];
            (0..layer.outputs).map(|o| row.g[(o, 0)] * moved[(o, 0)]).sum::<f64>()
        };
        let met: Vec<f64> = rows.iter().map(|row| along(&change, row) - row.demand).collect();
        assert!(met.iter().all(|gap| *gap > -1e-5), "{met:?}");
        // Stationary: C ΔWᵀ is a combination of the active rows; the value is then ½ Σ λ demand = ½ tr(ΔW C ΔWᵀ), and
        // shrinking the change breaks an active demand.
        assert!(met.iter().any(|gap| gap.abs() < 1e-5), "{met:?}");
        let value = |w: &Mat<f64>| {
            let product = w * &moment;
            (0..layer.outputs).map(|o| (0..dim).map(|k| w[(o, k)] * product[(o, k)]).sum::<f64>()).sum::<f64>()
        };
        // Any other feasible change, here by another metric, is longer in this one.
        let other = Metric::new(&Mat::identity(dim, dim), 0.0).unwrap();
        let other = other.smallest_change(&layer, &[(&subjects, &rows)], 1e-9, Deadline::default()).unwrap();
        assert!(value(&change) < value(&other) * (1.0 + 1e-6), "{} {}", value(&change), value(&other));
    }

    /// The same with a sensitivity: of two changes that meet the demands the weighed one is smaller in `tr(G ΔW C ΔWᵀ)`.
    #[test]
    fn a_sensitivity_moves_the_change_to_where_the_outputs_do_not_depend() {
        let network = Network::new(&zoo::spec("cnn-mnist-large").unwrap(), 0).unwrap();
        let layer = AffineLayer::of(&network, "fc1").unwrap();
        let (dim, outputs) = (layer.inputs + 1, layer.outputs);
        let (rows, columns) = random(4, 5, outputs, 1, dim);
        let subjects = Subjects::of_columns(columns);
        let moment = Mat::from_fn(dim, dim, |i, j| if i == j { 1.0 } else { 0.1 });
        let sensitivity = Mat::from_fn(outputs, outputs, |i, j| if i == j { 1.0 + (i % 7) as f64 } else { 0.3 });
        let change = |sensitivity: Option<&Mat<f64>>| {
            let metric = Metric::new(&moment, 0.0).unwrap().weighed_by(sensitivity).unwrap();
            metric.smallest_change(&layer, &[(&subjects, &rows)], 1e-9, Deadline::default()).unwrap()
        };
        let (weighed, plain) = (change(Some(&sensitivity)), change(None));
        let mean = (0..outputs).map(|k| sensitivity[(k, k)]).sum::<f64>() / outputs as f64;
        let value = |w: &Mat<f64>| {
            let shift = |i: usize, j: usize| sensitivity[(i, j)] + if i == j { LEFT_RIDGE * mean } else { 0.0 };
            let product = Mat::from_fn(outputs, outputs, shift) * w * &moment;
            (0..outputs).map(|o| (0..dim).map(|k| w[(o, k)] * product[(o, k)]).sum::<f64>()).sum::<f64>()
        };
        assert!(value(&weighed) < 0.99 * value(&plain), "{} {}", value(&weighed), value(&plain));
        for row in &rows {
            let moved = &weighed * &subjects.columns[row.sample];
            let along: f64 = (0..outputs).map(|o| row.g[(o, 0)] * moved[(o, 0)]).sum();
            assert!(along > row.demand - 1e-5, "{along}");
        }
    }
}
