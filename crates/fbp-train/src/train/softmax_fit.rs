use faer::{Accum, Mat, MatMut, MatRef, Par};
use fbp_linalg::{cholesky_in_place, invert_lower, matmul};
use rayon::prelude::*;

use super::lbfgs::{Limits, minimise, minimise_until};
use crate::TrainError;
use crate::cache::{FeatureCache, second_moment};
use crate::evaluate::pool_par;
use crate::metrics::argmax;

/// Samples of one task: the sums of the tasks are added in their order, so the number of threads changes nothing.
const TILE: usize = 1024;
/// Share of every feature's own second moment that is added to it, whatever its scale.
const RIDGE: f64 = 1e-6;
/// Share of the mean second moment for features that are always zero.
const FLOOR: f64 = 1e-12;
/// How much more of both is added in turn, until the moment is positive definite.
const MORE: [f64; 3] = [1.0, 1e2, 1e4];

/// Softmax regression on cached features, `min mean CE(W x̃, y) + μ/2 · mean |(W - W₀) x̃|²` with `x̃ = (x, 1)`; without a bias,
/// `x̃ = (x, 0)`.
///
/// The damping measures the change of the *logits* on the data, so it has the same meaning for features of any scale;
/// it is zero at the old weights. In the coordinates `V = W L`, with `L Lᵀ` the second moment of `x̃`, it is
/// `μ/2 |V - V₀|²`, and the curvature of the cross-entropy is at most ½ in every direction, which makes L-BFGS fast.
///
/// # Source
/// Whitening as a preconditioner: own derivation from `∇²CE ⪯ ½ I ⊗ E x̃x̃ᵀ` (Böhning, Ann. Inst. Statist. Math. 44
/// (1992)).
pub(crate) struct SoftmaxFit {
    /// Whitened features of the training samples, a column each.
    white: Mat<f32>,
    labels: Vec<u32>,
    /// Probabilities that are wanted in place of those of the labels, one sample after the other.
    wanted: Option<Vec<f32>>,
    /// `L` and `L⁻¹`.
    factor: Mat<f64>,
    inverse: Mat<f64>,
    classes: usize,
}

impl SoftmaxFit {
    /// Whitens the features of the training samples.
    ///
    /// # Errors
    /// [`TrainError::Singular`] if the second moment of the features is not positive definite: a feature is not finite.
    pub(super) fn new(cache: &FeatureCache, classes: usize) -> Result<Self, TrainError> {
        Self::with_moment(cache, second_moment(cache), classes)
    }

    /// As [`new`](Self::new), with the second moment of other samples: the change is then measured on those.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn with_moment(cache: &FeatureCache, moment: Mat<f64>, classes: usize) -> Result<Self, TrainError> {
        Self::with_checks(cache, moment, classes, &|| Ok(()))
    }

    /// `check` is asked between the steps.
    fn with_checks(
        cache: &FeatureCache,
        moment: Mat<f64>,
        classes: usize,
        check: &dyn Fn() -> Result<(), TrainError>,
    ) -> Result<Self, TrainError> {
        let (n, dim) = (cache.samples(), cache.len + 1);
        let mean = (0..dim).map(|k| moment[(k, k)]).sum::<f64>() / dim as f64;
        // More where the roundings of the moment need it.
        let attempt = |more: f64| {
            let mut factor = moment.clone();
            for k in 0..dim {
                factor[(k, k)] += more * (RIDGE * factor[(k, k)] + FLOOR * mean);
            }
            cholesky_in_place(factor.as_mut(), Par::Seq).then_some(factor)
        };
        let mut factor = MORE
            .into_iter()
            .find_map(attempt)
            .ok_or(TrainError::Singular { what: "the features before the last layer" })?;
        for column in 1..dim {
            for row in 0..column {
                factor[(row, column)] = 0.0;
            }
        }
        check()?;
        let mut inverse = Mat::zeros(dim, dim);
        invert_lower(factor.as_ref(), inverse.as_mut());
        check()?;
        let narrow = Mat::from_fn(dim, dim, |i, j| inverse[(i, j)] as f32);
        let mut white = Mat::zeros(dim, n);
        whiten(&mut white, &narrow, cache);
        Ok(Self { white, labels: cache.labels.clone(), wanted: None, factor, inverse, classes })
    }

    /// Fits that are to keep what a layer says of the samples, whether that is right or not: the cross-entropy is that against its own
    /// probabilities, which is the Kullback–Leibler divergence but for a constant, and is least at its weights.
    ///
    /// # Errors
    /// As [`new`](Self::new), and those of `check`, which is asked between factor, inverse, whitening and probabilities.
    ///
    /// # Source
    /// Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", 2015, at temperature 1.
    pub(crate) fn keeping(
        cache: &FeatureCache,
        moment: Mat<f64>,
        weights: MatRef<'_, f64>,
        check: &dyn Fn() -> Result<(), TrainError>,
    ) -> Result<Self, TrainError> {
        let (classes, n) = (weights.nrows(), cache.samples());
        let fit = Self::with_checks(cache, moment, classes, check)?;
        check()?;
        let narrow: Vec<f32> = fit.to_white(weights).into_iter().map(|v| v as f32).collect();
        let narrow = MatRef::from_column_major_slice(&narrow, classes, fit.factor.nrows());
        let mut wanted = vec![0.0_f32; classes * n];
        let out = MatMut::from_column_major_slice_mut(&mut wanted, classes, n);
        matmul(out, Accum::Replace, narrow, fit.white.as_ref(), 1.0, pool_par()); // (C×D)(D×N)
        wanted.chunks_exact_mut(classes).for_each(|row| {
            softmax(row);
        });
        Ok(Self { wanted: Some(wanted), ..fit })
    }

    /// Features of other samples in whitened coordinates, a column each.
    pub(crate) fn whitened(&self, cache: &FeatureCache) -> Mat<f64> {
        let dim = self.factor.nrows();
        let entry = |i: usize, j: usize| if i < cache.len { cache.values[j * cache.len + i] } else { cache.constant };
        let features = Mat::from_fn(dim, cache.samples(), |i, j| f64::from(entry(i, j)));
        let mut white = Mat::zeros(dim, cache.samples());
        matmul(white.as_mut(), Accum::Replace, self.inverse.as_ref(), features.as_ref(), 1.0, pool_par()); // (D×D)(D×N)
        white
    }

    /// Improves `v` in the sum of the cross-entropy and of what `beside` adds, which gives a value and adds its gradient, until `stop`
    /// says so: then `v` is the best so far.
    pub(crate) fn fit_beside(
        &self,
        v: &mut [f64],
        stop: &dyn Fn() -> bool,
        mut beside: impl FnMut(&[f64], &mut [f64]) -> f64,
    ) {
        let limits = Limits { max_iters: 40, gradient: 2e-5 };
        minimise_until(v, limits, stop, |v, gradient| self.evaluate(v, gradient) + beside(v, gradient));
    }

    /// Weights `(W, b)` in whitened coordinates, `classes × (F + 1)` column-major.
    pub(crate) fn to_white(&self, weights: MatRef<'_, f64>) -> Vec<f64> {
        to_vec(&product(weights, self.factor.as_ref()))
    }

    /// Whitened coordinates as weights.
    pub(crate) fn unwhitened(&self, v: &[f64]) -> Mat<f64> {
        product(MatRef::from_column_major_slice(v, self.classes, self.factor.nrows()), self.inverse.as_ref())
    }

    /// Improves `v` for one damping; returns the cross-entropy.
    pub(crate) fn fit(&self, v: &mut [f64], start: &[f64], damping: f64) -> f64 {
        let mut entropy = 0.0;
        let limits = Limits { max_iters: 40, gradient: 2e-4 };
        minimise(v, limits, |v, gradient| {
            entropy = self.evaluate(v, gradient);
            let mut penalty = 0.0;
            for ((g, v), start) in gradient.iter_mut().zip(v).zip(start) {
                *g += damping * (v - start);
                penalty += (v - start).powi(2);
            }
            entropy + 0.5 * damping * penalty
        });
        entropy
    }

    /// Mean cross-entropy at `v`, and its gradient.
    fn evaluate(&self, v: &[f64], gradient: &mut [f64]) -> f64 {
        let (classes, dim, n) = (self.classes, self.factor.nrows(), self.labels.len());
        let narrow: Vec<f32> = v.iter().map(|&v| v as f32).collect();
        let weights = MatRef::from_column_major_slice(&narrow, classes, dim);
        let tile = |index: usize| {
            let range = index * TILE..((index + 1) * TILE).min(n);
            let features = self.white.as_ref().subcols(range.start, range.len());
            let mut logits = vec![0.0_f32; classes * range.len()];
            let out = MatMut::from_column_major_slice_mut(&mut logits, classes, range.len());
            matmul(out, Accum::Replace, weights, features, 1.0, Par::Seq); // (C×D)(D×T)
            let loss = match &self.wanted {
                None => residuals(&mut logits, &self.labels[range.clone()], classes),
                Some(wanted) => residuals_to(&mut logits, &wanted[range.start * classes..range.end * classes], classes),
            };
            let mut part = Mat::<f32>::zeros(classes, dim);
            let residuals = MatRef::from_column_major_slice(&logits, classes, range.len());
            matmul(part.as_mut(), Accum::Replace, residuals, features.transpose(), 1.0, Par::Seq); // (C×T)(T×D)
            (loss, part)
        };
        let parts: Vec<(f64, Mat<f32>)> = (0..n.div_ceil(TILE)).into_par_iter().map(tile).collect();
        gradient.fill(0.0);
        let mut loss = 0.0;
        for (part_loss, part) in &parts {
            loss += part_loss;
            for (column, to) in part.col_iter().zip(gradient.chunks_exact_mut(classes)) {
                for (value, to) in column.iter().zip(to) {
                    *to += f64::from(*value);
                }
            }
        }
        let scale = 1.0 / n.max(1) as f64;
        gradient.iter_mut().for_each(|g| *g *= scale);
        loss * scale
    }
}

/// Turns logits into `softmax - onehot`; returns the sum of the losses.
fn residuals(logits: &mut [f32], labels: &[u32], classes: usize) -> f64 {
    let mut loss = 0.0;
    for (row, &label) in logits.chunks_exact_mut(classes).zip(labels) {
        let own = row[label as usize];
        loss += f64::from(softmax(row) - own);
        row[label as usize] -= 1.0;
    }
    loss
}

/// Turns logits into `softmax - wanted`; returns the sum of the cross-entropies `-Σ wanted · ln softmax`.
fn residuals_to(logits: &mut [f32], wanted: &[f32], classes: usize) -> f64 {
    let mut loss = 0.0;
    for (row, wanted) in logits.chunks_exact_mut(classes).zip(wanted.chunks_exact(classes)) {
        let mean: f32 = row.iter().zip(wanted).map(|(z, share)| z * share).sum();
        loss += f64::from(softmax(row) - mean);
        row.iter_mut().zip(wanted).for_each(|(value, share)| *value -= share);
    }
    loss
}

/// Turns the logits of a sample into probabilities; returns `ln Σ exp z`.
fn softmax(row: &mut [f32]) -> f32 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in row.iter_mut() {
        *value = (*value - largest).exp();
        sum += *value;
    }
    row.iter_mut().for_each(|value| *value /= sum);
    largest + sum.ln()
}

/// `white = L⁻¹ (x, 1)` for every sample.
fn whiten(white: &mut Mat<f32>, inverse: &Mat<f32>, cache: &FeatureCache) {
    let (dim, n) = white.shape();
    let features = MatRef::from_column_major_slice(&cache.values, cache.len, n);
    let shift = inverse.col(dim - 1);
    white.as_mut().par_col_chunks_mut(TILE).enumerate().for_each(|(index, mut out)| {
        for column in out.as_mut().col_iter_mut() {
            for (to, shift) in column.iter_mut().zip(shift.iter()) {
                *to = cache.constant * shift;
            }
        }
        let part = features.subcols(index * TILE, out.ncols());
        matmul(out, Accum::Add, inverse.as_ref().subcols(0, dim - 1), part, 1.0, Par::Seq); // (D×F)(F×T)
    });
}

/// `A B` on the threads of the current pool.
fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul(out.as_mut(), Accum::Replace, a, b, 1.0, pool_par());
    out
}

fn to_vec(matrix: &Mat<f64>) -> Vec<f64> {
    matrix.col_iter().flat_map(|column| column.iter().copied().collect::<Vec<_>>()).collect()
}

/// Share of cached samples that the linear layer `(W, b)` gives their label; none without samples.
pub(super) fn linear_accuracy(weights: MatRef<'_, f64>, cache: &FeatureCache) -> Option<f64> {
    let (classes, len) = (weights.nrows(), cache.len);
    let narrow = Mat::from_fn(classes, len, |i, j| weights[(i, j)] as f32);
    let bias: Vec<f32> = (0..classes).map(|i| weights[(i, len)] as f32).collect();
    let right = |(values, labels): (&[f32], &[u32])| {
        let mut logits = bias.repeat(labels.len());
        let out = MatMut::from_column_major_slice_mut(&mut logits, classes, labels.len());
        let features = MatRef::from_column_major_slice(values, len, labels.len());
        matmul(out, Accum::Add, narrow.as_ref(), features, 1.0, Par::Seq); // (C×F)(F×T)
        logits.chunks_exact(classes).zip(labels).filter(|(row, label)| argmax(row) == **label as usize).count()
    };
    let tiles = cache.values.par_chunks((TILE * len).max(1)).zip(cache.labels.par_chunks(TILE));
    let count: usize = tiles.map(right).sum();
    (cache.samples() > 0).then(|| count as f64 / cache.samples() as f64)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Features of three classes around different centres, one feature always zero, scales that differ.
    fn cache(n: usize, seed: u64) -> FeatureCache {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let labels: Vec<u32> = (0..n).map(|k| (k % 3) as u32).collect();
        let noise = |rng: &mut ChaCha8Rng| 2.0 * rng.random::<f32>() - 1.0;
        let values = labels.iter().flat_map(|&label| {
            let own = [0, 1, 2].map(|class| if label == class { 0.6 } else { 0.0 });
            [100.0 * (own[0] + noise(&mut rng)), 0.0, own[1] + noise(&mut rng), 0.01 * (own[2] + noise(&mut rng))]
        });
        FeatureCache { values: values.collect(), labels, len: 4, ..Default::default() }
    }

    #[test]
    fn gradient_is_that_of_central_differences() {
        let fit = SoftmaxFit::new(&cache(50, 1), 3).unwrap();
        let v: Vec<f64> = (0..15).map(|k| 0.3 * f64::from(k % 5) - 0.5).collect();
        let mut gradient = vec![0.0; 15];
        fit.evaluate(&v, &mut gradient);
        let step = 1e-2;
        for k in 0..15 {
            let at = |sign: f64| {
                let mut moved = v.clone();
                moved[k] += sign * step;
                fit.evaluate(&moved, &mut [0.0; 15])
            };
            let difference = (at(1.0) - at(-1.0)) / (2.0 * step);
            // Third derivatives are below 1; the forward pass is in f32.
            assert!((difference - gradient[k]).abs() < step * step + 1e-4, "{k}: {difference} {}", gradient[k]);
        }
    }

    #[test]
    fn what_is_to_be_kept_is_kept_and_its_gradient_is_that_of_central_differences() {
        let cache = cache(200, 5);
        let weights = Mat::from_fn(3, 5, |i, j| 0.01 * ((3 * i + 2 * j) % 7) as f64 - 0.02);
        let fit = SoftmaxFit::keeping(&cache, second_moment(&cache), weights.as_ref(), &|| Ok(())).unwrap();
        let at = fit.to_white(weights.as_ref());
        let (mut gradient, mut v) = (vec![0.0; 15], at.clone());
        fit.evaluate(&at, &mut gradient);
        // In single precision.
        assert!(gradient.iter().all(|g| g.abs() < 1e-5), "{gradient:?}");
        fit.fit_beside(&mut v, &|| false, |_, _| 0.0);
        assert_eq!(v, at);
        v.iter_mut().enumerate().for_each(|(k, v)| *v += 0.2 * (k % 3) as f64);
        fit.evaluate(&v, &mut gradient);
        for k in 0..15 {
            let at = |step: f64| {
                let mut moved = v.clone();
                moved[k] += step;
                fit.evaluate(&moved, &mut [0.0; 15])
            };
            let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((difference - gradient[k]).abs() < 2e-4, "{k}: {difference} {}", gradient[k]);
        }
        // And what stands beside pulls away from there: here every weight towards 1.
        let pulled = |weight: f64| {
            let mut v = at.clone();
            fit.fit_beside(&mut v, &|| false, |v, gradient| {
                gradient.iter_mut().zip(v).for_each(|(g, v)| *g += weight * (v - 1.0));
                0.5 * weight * v.iter().map(|v| (v - 1.0).powi(2)).sum::<f64>()
            });
            v.iter().map(|v| (v - 1.0).powi(2)).sum::<f64>()
        };
        assert!(pulled(10.0) < 0.1 * pulled(0.1), "{} {}", pulled(10.0), pulled(0.1));
    }

    #[test]
    fn whitened_features_have_the_identity_as_second_moment() {
        let cache = cache(3000, 2);
        let fit = SoftmaxFit::new(&cache, 3).unwrap();
        let moment = &fit.white * fit.white.transpose();
        for i in 0..5 {
            for j in 0..5 {
                let expected = if i == j && i != 1 { 1.0 } else { 0.0 };
                assert!((moment[(i, j)] / 3000.0 - expected).abs() < 0.02, "{i} {j}: {}", moment[(i, j)] / 3000.0);
            }
        }
        let weights = Mat::from_fn(3, 5, |i, j| (i + 2 * j) as f64 * 0.1);
        let back = fit.unwhitened(&fit.to_white(weights.as_ref()));
        assert!((0..3).all(|i| (0..5).all(|j| (back[(i, j)] - weights[(i, j)]).abs() < 1e-9)));
    }

    #[test]
    fn without_a_bias_the_last_weights_stay_zero() {
        let fit = SoftmaxFit::new(&FeatureCache { constant: 0.0, ..cache(500, 3) }, 3).unwrap();
        let mut v = vec![0.0; 15];
        fit.fit(&mut v, &[0.0; 15], 1e-3);
        let weights = fit.unwhitened(&v);
        assert!((0..3).all(|i| weights[(i, 4)] == 0.0) && weights[(0, 2)] != 0.0);
    }

    #[test]
    fn weak_damping_fits_better_and_strong_damping_stays() {
        let cache = cache(2000, 3);
        let fit = SoftmaxFit::new(&cache, 3).unwrap();
        let start = vec![0.0; 15];
        let run = |damping| {
            let mut v = start.clone();
            let entropy = fit.fit(&mut v, &start, damping);
            (entropy, v.iter().map(|v| v * v).sum::<f64>().sqrt(), fit.unwhitened(&v))
        };
        let (strong, weak) = (run(1e3), run(1e-4));
        assert!(strong.1 < 1e-2 && weak.0 < strong.0 - 0.1, "{} {} {}", strong.0, strong.1, weak.0);
        assert!((strong.0 - 3.0_f64.ln()).abs() < 1e-2);
        let accuracy = |weights: &Mat<f64>| linear_accuracy(weights.as_ref(), &cache).unwrap();
        assert!(accuracy(&weak.2) > 0.6, "{}", accuracy(&weak.2));
        assert_eq!(linear_accuracy(weak.2.as_ref(), &FeatureCache { len: 4, ..Default::default() }), None);
    }
}
