use candle_core::Tensor;
use faer::Mat;
use fbp_models::Network;

use super::prepared::{Labelled, Prepared};
use crate::TrainError;
use crate::affine::AffineLayer;
use crate::cache::{FeatureCache, ridge_factor, second_moment};
use crate::settings::Embedding;
use crate::targets::{OutputGoal, WantedOutputs};
use crate::train::{SoftmaxFit, head_of};

/// Rounds of the ridge regression, each towards the right outputs that are nearest to what the round before gives.
const ROUNDS: usize = 20;

/// The last layer with its inputs for some samples.
fn head_inputs(start: &Prepared, labelled: Labelled<'_>) -> Result<(AffineLayer, FeatureCache), TrainError> {
    let head = head_of(&start.network)?;
    let features = |images: &Tensor| head.states(&start.network, images);
    let cache = FeatureCache::new(labelled.data, &start.normalization, labelled.samples, features)?;
    let constant = head.constant;
    Ok((head, FeatureCache { constant, ..cache }))
}

fn with_head(network: &Network, head: &AffineLayer, weights: &Mat<f64>) -> Result<Network, TrainError> {
    let copy = network.duplicate()?;
    head.set(&copy, weights)?;
    Ok(copy)
}

/// Solves for the last layer:
///
/// ```text
/// min mean dist²(W x̃, right) + μ |W - W₀|²,   right = { v : v_y ≥ v_j + margin for every j ≠ y }
/// ```
///
/// by turns: the nearest right outputs `Ẑ` of what the layer gives, then `W = W₀ + (Ẑ - W₀ X̃) X̃ᵀ (X̃ X̃ᵀ + μ I)⁻¹`, with the one
/// factorisation. The problem is convex, and no turn makes its value larger.
///
/// # Errors
/// [`TrainError::Mismatch`] if the last layer is not linear, [`TrainError::Singular`] for features that are not finite.
pub(super) fn fit_head(
    start: &Prepared,
    labelled: Labelled<'_>,
    damping: f64,
    margin: f64,
) -> Result<Network, TrainError> {
    let (head, cache) = head_inputs(start, labelled)?;
    let goal = OutputGoal { embedding: Embedding::Margin, margin, tolerance: 0.0 };
    let (dim, count) = (cache.len + 1, cache.samples());
    let input = |i: usize, j: usize| if i < cache.len { cache.values[j * cache.len + i] } else { cache.constant };
    let inputs = Mat::from_fn(dim, count, |i, j| f64::from(input(i, j)));
    let gram = &inputs * inputs.transpose();
    let factor = ridge_factor(&gram, damping, "the features before the last layer")?;
    let old = head.weights(&start.network)?;
    let before = &old * &inputs;
    let mut weights = old.clone();
    for _ in 0..ROUNDS {
        let outputs = &weights * &inputs;
        let narrow = |column: faer::ColRef<'_, f64>| column.iter().map(|&value| value as f32).collect::<Vec<_>>();
        let found: Vec<f32> = outputs.col_iter().flat_map(narrow).collect();
        let wanted = goal.embed(&found, WantedOutputs { labels: &cache.labels, outputs: &[] })?;
        // Exactly zero where nothing is wanted and nothing has changed.
        let step = |at: usize| f64::from(wanted[at]) - f64::from(found[at]);
        let entry = |i: usize, j: usize| step(j * old.nrows() + i) + (outputs[(i, j)] - before[(i, j)]);
        let missing = Mat::from_fn(old.nrows(), count, entry);
        let cross = &inputs * missing.transpose(); // (D×N)(N×C)
        weights = &old + factor.solve(cross.as_ref()).transpose();
    }
    with_head(&start.network, &head, &weights)
}

/// Fits the last layer by its cross-entropy, damped by what that changes of its outputs; none if it has none.
///
/// # Errors
/// As [`fit_head`].
pub(super) fn refit_head(
    start: &Prepared,
    labelled: Labelled<'_>,
    damping: f64,
) -> Result<Option<Network>, TrainError> {
    let (head, cache) = head_inputs(start, labelled)?;
    let old = head.weights(&start.network)?;
    let fit = SoftmaxFit::with_moment(&cache, second_moment(&cache), old.nrows())?;
    let begin = fit.to_white(old.as_ref());
    let mut weights = begin.clone();
    if !fit.fit(&mut weights, &begin, damping).is_finite() {
        return Ok(None);
    }
    with_head(&start.network, &head, &fit.unwhitened(&weights)).map(Some)
}
