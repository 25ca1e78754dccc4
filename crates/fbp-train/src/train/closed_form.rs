use std::time::Instant;

use faer::{Accum, Mat, MatRef};
use fbp_inverse::{ChainGoal, ChainStage, Interval, ReverseChain, TargetBox};
use fbp_linalg::matmul;
use fbp_models::Network;

use super::curves::PostTrainCurves;
use super::moments::Moments;
use super::session::{Session, add_time, check_stop, is_better};
use super::sums::LayerSums;
use crate::TrainError;
use crate::affine::{AffineLayer, flat};
use crate::cache::FeatureCache;
use crate::data::shuffle_indices;
use crate::evaluate::pool_par;
use crate::share::Share;
use crate::store::StageTargets;

/// Dampings, as shares of the mean second moment of the layer's inputs.
const DAMPINGS: [f64; 4] = [1.0, 0.1, 1e-2, 1e-3];
/// Shares of the step that are tried for each damping.
const STEPS: [f64; 4] = [1.0, 0.5, 0.2, 0.05];
/// Samples that a convolution is fitted on, each with many patches.
const CONV_SAMPLES: usize = 4000;
/// Columns that are accumulated at a time.
const COLUMNS: usize = 1024;

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
    let mut curves = session.curves(network)?;
    let begun = Instant::now();
    let layer = layer_of(network, stage)?;
    let validation = cached(network, &layer, &session, &session.split.validation)?;
    let moments = match session.host.sums {
        Some(LayerSums(moments)) => moments.clone(),
        None => sums_of(network, stage, targets, &session, None)?,
    };
    let old = layer.weights(network)?;
    let (mut best, mut best_score) = (None, score_of(network, &layer, &validation)?);
    session.progress.begin("closed form", DAMPINGS.len() * STEPS.len(), "candidates");
    for damping in DAMPINGS {
        let change = moments.change(damping)?;
        for step in STEPS {
            check_stop(session.progress)?;
            let weights = &old + faer::Scale(step) * &change;
            layer.set(network, &weights)?;
            let score = score_of(network, &layer, &validation)?;
            curves.damping.push(damping);
            curves.step.push(step);
            curves.scores.validation.extend(score);
            if is_better(session.measure(), score, best_score) {
                (best, best_score) = (Some((curves.damping.len(), weights)), score);
            }
            session.progress.advance(1);
        }
    }
    session.progress.end();
    let epoch = best.as_ref().map_or(0, |(epoch, _)| *epoch);
    layer.set(network, best.as_ref().map_or(&old, |(_, weights)| weights))?;
    add_time(&mut curves, begun);
    session.conclude(&mut curves, network, (epoch, best_score))?;
    Ok(curves)
}

/// The layer of a stage that is solved for.
fn layer_of(network: &Network, stage: usize) -> Result<AffineLayer, TrainError> {
    let layer = AffineLayer::of(network, network.stages()[stage].name())?;
    if layer.is_beside_others() {
        return Err(TrainError::Mismatch {
            left: "the closed form".into(),
            right: format!("stage {}", network.stages()[stage].name()),
            reason: format!(
                "its last linear or convolutional layer, {}, is one of several branches; use the mode local or joint",
                layer.name()
            ),
        });
    }
    Ok(layer)
}

/// States of the layer for some samples.
fn cached(
    network: &Network,
    layer: &AffineLayer,
    session: &Session<'_>,
    samples: &[usize],
) -> Result<FeatureCache, TrainError> {
    let data = session.data;
    FeatureCache::new(&data.train, &data.normalization, samples, |images| layer.states(network, images))
}

/// One pass over the samples that the layer is fitted on, or over a share of them.
pub(super) fn sums_of(
    network: &Network,
    stage: usize,
    targets: StageTargets<'_>,
    session: &Session<'_>,
    share: Option<Share>,
) -> Result<Moments, TrainError> {
    let layer = layer_of(network, stage)?;
    let mut samples = session.split.train.clone();
    if layer.positions() > 1 {
        shuffle_indices(&mut samples, session.options.seed, 0);
        samples.truncate(CONV_SAMPLES);
    }
    let own = &samples[share.map_or(0..samples.len(), |share| share.range(samples.len()))];
    let states = cached(network, &layer, session, own)?;
    accumulate(network, stage, &layer, (&states, samples.len()), |place| targets.row(own[place]))
}

/// One pass over the samples of a cache, given the target of each by its place in it; they are so many of `all` samples, of which
/// the sum of all passes is then the mean.
///
/// # Errors
/// [`TrainError::Inverse`] if what follows the layer in its stage cannot be reversed.
pub(crate) fn accumulate<'t>(
    network: &Network,
    stage: usize,
    layer: &AffineLayer,
    (cache, all): (&FeatureCache, usize),
    target: impl Fn(usize) -> &'t [f32],
) -> Result<Moments, TrainError> {
    let (dim, positions) = (layer.inputs + 1, layer.positions());
    let chain = rest_of_stage(network, stage, layer)?;
    let batch = (COLUMNS / positions).max(1);
    let mut work = chain.as_ref().map(|chain| chain.workspace(batch, pool_par()));
    let mut moments = Moments { inputs: Mat::zeros(dim, dim), errors: Mat::zeros(layer.outputs, dim) };
    let scale = 1.0 / (all * positions).max(1) as f64;
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
            let at = k / positions * layer.outputs * positions + layer.output_index(o, k % positions);
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
    if rest.is_empty() { Ok(None) } else { Ok(Some(ReverseChain::new(rest, Interval::EVERYTHING)?)) }
}

/// Score of the cached samples at the present weights; none without samples.
fn score_of(network: &Network, layer: &AffineLayer, cache: &FeatureCache) -> Result<Option<f64>, TrainError> {
    cache.score_of(|states| layer.logits(network, states, &layer.output(network, states)?))
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;
    use fbp_models::NetworkSpec;

    use super::super::host::Host;
    use super::*;
    use crate::data::{DataBundle, Dataset, Normalization, Split};
    use crate::identity::DataIdentity;
    use crate::metrics::argmax;
    use crate::progress::Silent;
    use crate::settings::Objective;
    use crate::store::{ShardContent, StageRows, StoreWriter, TargetStore};
    use crate::targets::TargetsOptions;
    use crate::train::PostTrainOptions;

    const SAMPLES: usize = 40;
    const SPEC: &str = r#"
name = "plain"
input = [1, 4, 4]
classes = 3

[[stages]]
name = "hidden"
layers = [{ type = "flatten" }, { type = "linear", out_features = 5 }]

[[stages]]
name = "out"
layers = [{ type = "relu" }, { type = "linear", out_features = 3 }]
"#;

    fn network() -> Network {
        Network::new(&NetworkSpec::from_toml(SPEC).unwrap(), 1).unwrap()
    }

    fn data() -> DataBundle {
        let images = (0..SAMPLES * 16).map(|k| (k * k * 31 % 251) as u8).collect();
        let labels = (0..SAMPLES).map(|sample| (sample % 3) as u8).collect();
        let shape = fbp_linalg::FeatureShape::image(1, 4, 4);
        let train = Dataset::new("toy", shape, 3, images, labels).unwrap();
        let normalization = Normalization::fashion_mnist();
        DataBundle::new(train.clone(), train, normalization, "toy")
    }

    /// A store with given targets of the hidden stage.
    fn store(network: &Network, target: &[f32]) -> (tempfile::TempDir, TargetStore) {
        let folder = tempfile::tempdir().unwrap();
        let identity = DataIdentity { name: "toy".into(), sha256: String::new(), samples: SAMPLES };
        let manifest = TargetsOptions::default().manifest(network, String::new(), identity).unwrap();
        let writer = StoreWriter::open(folder.path(), manifest, false).unwrap();
        let stages = [StageRows { target, attained: &[1; SAMPLES] }];
        let content = ShardContent { stages: &stages, labels: &[0; SAMPLES], indices: &[0; SAMPLES], stats: &0 };
        for shard in writer.missing().unwrap() {
            writer.write_shard(&shard, content).unwrap();
        }
        let store = TargetStore::open(folder.path()).unwrap();
        (folder, store)
    }

    fn hidden(network: &Network, stages: std::ops::Range<usize>, data: &DataBundle) -> Vec<f32> {
        let samples: Vec<usize> = (0..SAMPLES).collect();
        let features = |images: &Tensor| Ok(network.infer_stages(stages.clone(), images)?);
        FeatureCache::new(&data.train, &data.normalization, &samples, features).unwrap().values
    }

    /// Solves `A x = b` by elimination with plain loops; `A` is positive definite.
    fn eliminate(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
        let n = b.len();
        for pivot in 0..n {
            let upper = a[pivot].clone();
            for row in pivot + 1..n {
                let factor = a[row][pivot] / upper[pivot];
                a[row].iter_mut().zip(&upper).for_each(|(entry, above)| *entry -= factor * above);
                b[row] -= factor * b[pivot];
            }
        }
        for row in (0..n).rev() {
            let known: f64 = (row + 1..n).map(|column| a[row][column] * b[column]).sum();
            b[row] = (b[row] - known) / a[row][row];
        }
        b
    }

    #[test]
    fn the_change_is_the_ridge_solution_of_plain_loops() {
        let (network, data) = (network(), data());
        let layer = AffineLayer::of(&network, "hidden").unwrap();
        let (inputs, outputs) = (hidden(&network, 0..0, &data), hidden(&network, 0..1, &data));
        let targets: Vec<f32> = (0..SAMPLES * 5).map(|k| ((k * 37) % 23) as f32 / 7.0 - 1.5).collect();
        let cache = FeatureCache { values: inputs.clone(), labels: vec![0; SAMPLES], len: 16, ..Default::default() };
        let moments = accumulate(&network, 0, &layer, (&cache, SAMPLES), |place| &targets[place * 5..][..5]).unwrap();
        let column = |sample: usize, i: usize| if i < 16 { f64::from(inputs[sample * 16 + i]) } else { 1.0 };
        let mean = |value: &dyn Fn(usize) -> f64| (0..SAMPLES).map(value).sum::<f64>() / SAMPLES as f64;
        let gram = |i: usize, j: usize| mean(&|sample| column(sample, i) * column(sample, j));
        let trace: f64 = (0..17).map(|i| gram(i, i)).sum();
        for damping in DAMPINGS {
            let change = moments.change(damping).unwrap();
            let system: Vec<Vec<f64>> = (0..17)
                .map(|i| (0..17).map(|j| gram(i, j) + if i == j { damping * trace / 17.0 } else { 0.0 }).collect())
                .collect();
            for output in 0..5 {
                let missing = |sample: usize| f64::from(targets[sample * 5 + output] - outputs[sample * 5 + output]);
                let right = (0..17).map(|i| mean(&|sample| missing(sample) * column(sample, i))).collect();
                for (i, expected) in eliminate(system.clone(), right).into_iter().enumerate() {
                    let found = change[(output, i)];
                    // Outputs are single precision, the smallest damping makes a condition number of about a thousand.
                    assert!((found - expected).abs() <= 1e-4 * (1.0 + expected.abs()), "{damping}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn targets_that_only_do_harm_change_nothing() {
        let (mut network, data) = (network(), data());
        let before = hidden(&network, 0..2, &data);
        // Labels that the start gets right and everything else wrong.
        let labels = before.chunks(3).map(|row| argmax(row) as u8).collect();
        let images = (0..SAMPLES * 16).map(|k| (k * k * 31 % 251) as u8).collect();
        let train = Dataset::new("toy", data.train.shape(), 3, images, labels).unwrap();
        let data = DataBundle { test: train.clone(), train, ..data };
        let garbage: Vec<f32> = (0..SAMPLES * 5).map(|k| 1e4 * ((k * 37) % 23) as f32 - 1e5).collect();
        let (_folder, store) = store(&network, &garbage);
        let options = PostTrainOptions { objective: Objective::ClosedForm, validation: 0.5, ..Default::default() };
        let split = Split::stratified(&data.train, 0.5, 0).unwrap();
        let session = Session { data: &data, split, options: &options, progress: &Silent, host: Host::default() };
        let curves = run(&mut network, 0, store.stage("hidden").unwrap(), session).unwrap();
        let chosen = curves.chosen.unwrap();
        assert_eq!((curves.scores.validation.len(), chosen.epoch), (16, 0));
        assert_eq!(chosen.scores.test, curves.scores.before);
        assert_eq!(hidden(&network, 0..2, &data), before);
    }
}
