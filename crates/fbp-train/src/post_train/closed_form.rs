use std::time::Instant;

use candle_core::{Device, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Side};
use fbp_inverse::{ChainGoal, ChainStage, Range, ReverseChain, TargetBox};
use fbp_models::Network;

use super::run::{PostTrainCurves, Session, add_time};
use crate::TrainError;
use crate::affine::{AffineLayer, flat};
use crate::cache::FeatureCache;
use crate::data::shuffle_indices;
use crate::evaluate::pool_par;
use crate::metrics::argmax;
use crate::store::StageTargets;

/// Dampings, as shares of the mean second moment of the layer's inputs.
const DAMPINGS: [f64; 4] = [1.0, 0.1, 1e-2, 1e-3];
/// Shares of the step that are tried for each damping.
const STEPS: [f64; 4] = [1.0, 0.5, 0.2, 0.05];
/// Samples that a convolution is fitted on, each with many patches.
const CONV_SAMPLES: usize = 4000;
/// Columns that are accumulated at a time.
const COLUMNS: usize = 1024;
/// Samples that are evaluated at a time.
const BATCH: usize = 1000;

/// What one pass over the data accumulates: mean of `x̃ x̃ᵀ` and of `(ẑ - z) x̃ᵀ`.
struct Moments {
    inputs: Mat<f64>,
    errors: Mat<f64>,
}

/// Solves for the last linear or convolutional layer of a stage, from its inputs to its targets, and keeps the best step
/// on the validation part:
///
/// ```text
/// min mean |(W + ΔW) x̃ - ẑ|² + μ |ΔW|²,   ΔW = E (ẑ - z) x̃ᵀ (E x̃ x̃ᵀ + μ I)⁻¹
/// ```
///
/// `ẑ` is the target of the stage, carried back through its pooling and activation to the output of the layer.
///
/// # Errors
/// As [`post_train`](super::post_train).
pub(super) fn run(
    network: &mut Network,
    stage: usize,
    targets: StageTargets<'_>,
    session: Session<'_>,
) -> Result<PostTrainCurves, TrainError> {
    let mut curves = PostTrainCurves { test_accuracy_before: session.test()?.accuracy(network)?, ..Default::default() };
    let begun = Instant::now();
    let layer = AffineLayer::of_stage(network, network.stages()[stage].name())?;
    let data = session.data;
    let cached = |samples: &[usize]| {
        FeatureCache::new(&data.train, &data.normalization, samples, |images| layer.input(network, images))
    };
    let mut samples = session.split.train.clone();
    if layer.positions() > 1 {
        shuffle_indices(&mut samples, session.options.seed, 0);
        samples.truncate(CONV_SAMPLES);
    }
    let validation = cached(&session.split.validation)?;
    let moments = accumulate(network, stage, &layer, &cached(&samples)?, |place| targets.row(samples[place]))?;
    let old = layer.weights(network)?;
    let (mut best, mut best_accuracy) = (None, right_share(network, &layer, &validation)?);
    session.progress.begin("closed form", DAMPINGS.len() * STEPS.len(), "candidates");
    for damping in DAMPINGS {
        let change = moments.change(damping)?;
        for step in STEPS {
            let weights = &old + faer::Scale(step) * &change;
            layer.set(network, &weights)?;
            let accuracy = right_share(network, &layer, &validation)?;
            curves.damping.push(damping);
            curves.step.push(step);
            curves.validation_accuracy.extend(accuracy);
            if accuracy > best_accuracy {
                (best, best_accuracy) = (Some((curves.damping.len(), weights)), accuracy);
            }
            session.progress.advance(1);
        }
    }
    session.progress.end();
    let epoch = best.as_ref().map_or(0, |(epoch, _)| *epoch);
    layer.set(network, best.as_ref().map_or(&old, |(_, weights)| weights))?;
    add_time(&mut curves, begun);
    session.conclude(&mut curves, network, (epoch, best_accuracy))?;
    Ok(curves)
}

impl Moments {
    fn change(&self, damping: f64) -> Result<Mat<f64>, TrainError> {
        let dim = self.inputs.nrows();
        let mean = (0..dim).map(|k| self.inputs[(k, k)]).sum::<f64>() / dim as f64;
        let system = Mat::from_fn(dim, dim, |i, j| self.inputs[(i, j)] + if i == j { damping * mean } else { 0.0 });
        let factor = system.llt(Side::Lower).map_err(|_| TrainError::Singular { what: "the inputs of the layer" })?;
        // The system is symmetric: ΔWᵀ = (E x̃ x̃ᵀ + μ I)⁻¹ (E (ẑ - z) x̃ᵀ)ᵀ.
        let transposed = faer::linalg::solvers::Solve::solve(&factor, self.errors.transpose());
        Ok(transposed.transpose().to_owned())
    }
}

/// One pass over the samples.
fn accumulate<'t>(
    network: &Network,
    stage: usize,
    layer: &AffineLayer,
    cache: &FeatureCache,
    target: impl Fn(usize) -> &'t [f32],
) -> Result<Moments, TrainError> {
    let (dim, positions) = (layer.inputs + 1, layer.positions());
    let chain = rest_of_stage(network, stage, layer)?;
    let batch = (COLUMNS / positions).max(1);
    let mut work = chain.as_ref().map(|chain| chain.workspace(batch, pool_par()));
    let mut moments = Moments { inputs: Mat::zeros(dim, dim), errors: Mat::zeros(layer.outputs, dim) };
    let scale = 1.0 / (cache.samples() * positions).max(1) as f64;
    let places: Vec<usize> = (0..cache.samples()).collect();
    for places in places.chunks(batch) {
        let output = flat(&layer.output(network, &cache.batch(places)?.0)?)?;
        let mut wanted: Vec<f32> = places.iter().flat_map(|&place| target(place).iter().copied()).collect();
        if let (Some(chain), Some(work)) = (&chain, &mut work) {
            let len = layer.outputs * positions;
            chain.forward(MatRef::from_column_major_slice(&output, len, places.len()), work)?;
            let out_len = wanted.len() / places.len();
            let target_out = TargetBox::point(MatRef::from_column_major_slice(&wanted, out_len, places.len()));
            chain.reverse(ChainGoal { target_out, margins: None }, fbp_inverse::TargetMode::LayerWise, work)?;
            wanted = chain
                .target(0, work)
                .col_iter()
                .flat_map(|column| column.iter().copied().collect::<Vec<_>>())
                .collect();
        }
        let mut inputs = Mat::zeros(dim, places.len() * positions);
        for (k, &place) in places.iter().enumerate() {
            let columns = layer.columns(&cache.values[place * cache.len..][..cache.len]);
            inputs.as_mut().subcols_mut(k * positions, positions).copy_from(&columns);
        }
        let error = |o: usize, k: usize| {
            let at = (k / positions * layer.outputs + o) * positions + k % positions;
            f64::from(wanted[at] - output[at])
        };
        let errors = Mat::from_fn(layer.outputs, inputs.ncols(), error);
        let par = pool_par();
        matmul(moments.inputs.as_mut(), Accum::Add, inputs.as_ref(), inputs.transpose(), scale, par); // (D×K)(K×D)
        matmul(moments.errors.as_mut(), Accum::Add, errors.as_ref(), inputs.transpose(), scale, par); // (O×K)(K×D)
    }
    Ok(moments)
}

/// The reverse chain of the layers of a stage that come after `layer`; none if there are none.
fn rest_of_stage(
    network: &Network,
    stage: usize,
    layer: &AffineLayer,
) -> Result<Option<ReverseChain<f32>>, TrainError> {
    let prefix = format!("{}.", layer.name());
    let mut rest = Vec::new();
    for ChainStage { name, operators } in network.operators(stage..stage + 1)? {
        let above: Vec<_> =
            operators.into_iter().skip_while(|operator| !operator.name().starts_with(&prefix)).skip(1).collect();
        if !above.is_empty() {
            rest.push(ChainStage { name, operators: above });
        }
    }
    if rest.is_empty() { Ok(None) } else { Ok(Some(ReverseChain::new(rest, Range::EVERYTHING)?)) }
}

/// Share of the cached samples that are right at the present weights; none without samples.
fn right_share(network: &Network, layer: &AffineLayer, cache: &FeatureCache) -> Result<Option<f64>, TrainError> {
    let mut right = 0;
    for (values, labels) in cache.values.chunks((BATCH * cache.len).max(1)).zip(cache.labels.chunks(BATCH)) {
        let input = Tensor::from_slice(values, (labels.len(), cache.len), &Device::Cpu)?;
        let logits = layer.logits(network, &layer.output(network, &input)?)?;
        let classes = logits.dim(1)?;
        let is_right = |(row, label): &(&[f32], &u32)| argmax(row) == **label as usize;
        right += flat(&logits)?.chunks_exact(classes).zip(labels).filter(is_right).count();
    }
    Ok((cache.samples() > 0).then(|| right as f64 / cache.samples() as f64))
}
