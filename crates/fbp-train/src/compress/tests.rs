use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use faer::Mat;
use fbp_linalg::FeatureShape;
use fbp_models::{LayerPass, Network, NetworkSpec, checkpoint, zoo};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::columns::{ColumnBuffer, Samples};
use super::constraint::Tensors;
use super::layers::{Form, MatrixLayer, matrix_layers};
use super::problem::Problem;
use super::prune::fours;
use super::ridge::{Ridge, block, solve_damped};
use super::rounding::{Compensation, Levels, round_compensated};
use super::statistics::{Chunk, Sums, sums};
use super::*;
use crate::TrainError;
use crate::data::{DataBundle, Dataset, Normalization};
use crate::patches::Patches;
use crate::progress::Silent;
use crate::settings::Choice;

mod zeros;

fn rows_layer(inputs: usize, outputs: usize, has_bias: bool) -> MatrixLayer {
    MatrixLayer { path: "fc".into(), form: Form::Rows, outputs, inputs, groups: 1, has_bias, norm: None }
}

/// Whole numbers, whose products single precision holds exactly.
fn whole(rng: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-4_i32..=4) as f32).collect()
}

fn sums_of(layer: &MatrixLayer, inputs: &[f32], missing: &[f32], count: usize) -> Sums {
    let chunk = Chunk { inputs: Samples { values: inputs, count }, missing: Samples { values: missing, count } };
    sums(layer, &[chunk], 0)
}

/// Least squares by modified Gram-Schmidt on `[A; √λ I] x = [b; 0]`, which shares no code with the solver.
fn least_squares(a: &[Vec<f64>], b: &[f64], lambda: f64) -> Vec<f64> {
    let (rows, n) = (b.len(), a.len());
    let mut q: Vec<Vec<f64>> = a
        .iter()
        .enumerate()
        .map(|(j, column)| {
            let mut column = column.clone();
            column.resize(rows + n, 0.0);
            column[rows + j] = lambda.sqrt();
            column
        })
        .collect();
    let mut right = b.to_vec();
    right.resize(rows + n, 0.0);
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let (mut r, mut y) = (vec![vec![0.0; n]; n], vec![0.0; n]);
    for j in 0..n {
        r[j][j] = dot(&q[j], &q[j]).sqrt();
        let own: Vec<f64> = q[j].iter().map(|value| value / r[j][j]).collect();
        for k in j + 1..n {
            r[j][k] = dot(&own, &q[k]);
            let factor = r[j][k];
            q[k].iter_mut().zip(&own).for_each(|(value, own)| *value -= factor * own);
        }
        y[j] = dot(&own, &right);
        let factor = y[j];
        right.iter_mut().zip(&own).for_each(|(value, own)| *value -= factor * own);
    }
    for j in (0..n).rev() {
        let later: f64 = (j + 1..n).map(|k| r[j][k] * y[k]).sum();
        y[j] = (y[j] - later) / r[j][j];
    }
    y
}

#[test]
fn the_closed_form_is_least_squares_on_the_support() {
    for seed in 0..8 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (inputs, outputs, count) = (11, 4, 60);
        let layer = rows_layer(inputs, outputs, true);
        let (x, missing) = (whole(&mut rng, inputs * count), whole(&mut rng, outputs * count));
        let sums = sums_of(&layer, &x, &missing, count);
        let stays = |rng: &mut ChaCha8Rng| (0..inputs).filter(|_| rng.random_bool(0.5)).chain([inputs]).collect();
        let supports: Vec<Vec<usize>> = (0..outputs).map(|_| stays(&mut rng)).collect();
        let lambda = 1e-2 * sums.scale(inputs);
        let found = solve_damped(&supports, &sums, lambda).unwrap();
        for (output, support) in supports.iter().enumerate() {
            let entry = |sample: usize, k: usize| if k == inputs { 1.0 } else { f64::from(x[sample * inputs + k]) };
            let a: Vec<Vec<f64>> = support.iter().map(|&k| (0..count).map(|s| entry(s, k)).collect()).collect();
            let b: Vec<f64> = (0..count).map(|s| f64::from(missing[s * outputs + output])).collect();
            let exact = least_squares(&a, &b, lambda);
            let norm = exact.iter().fold(0.0_f64, |norm, value| norm.max(value.abs()));
            // The largest eigenvalue is at most the trace, the smallest at least the damping.
            let trace: f64 = (0..=inputs).map(|k| sums.gram[(k, k)]).sum();
            let tolerance = f64::EPSILON * inputs as f64 * (trace / lambda) * norm;
            for (k, exact) in support.iter().zip(&exact) {
                assert!((found[(*k, output)] - exact).abs() <= tolerance, "{seed} {output} {k}");
            }
            let outside = (0..=inputs).filter(|k| !support.contains(k));
            assert!(outside.map(|k| found[(k, output)]).all(|value| value == 0.0));
            // What is missing afterwards, by the sums and written out.
            let change: Vec<f64> = (0..=inputs).map(|k| found[(k, output)]).collect();
            let left = |s: usize| b[s] - (0..=inputs).map(|k| change[k] * entry(s, k)).sum::<f64>();
            let written: f64 = (0..count).map(|s| left(s).powi(2)).sum();
            let total = sums.missing[output];
            assert!(
                (sums.residual(output, &change) - written).abs()
                    <= f64::EPSILON * ((inputs + 1).pow(2) + count) as f64 * total,
                "{written}"
            );
            assert!(written <= total);
        }
    }
}

#[test]
fn where_nothing_is_missing_nothing_changes() {
    let layer = rows_layer(6, 3, true);
    let x = whole(&mut ChaCha8Rng::seed_from_u64(1), 6 * 20);
    let sums = sums_of(&layer, &x, &[0.0; 60], 20);
    let all: Vec<Vec<usize>> = vec![(0..7).collect(); 3];
    assert_eq!(Ridge::new(&all).solve(&sums, 1.0).unwrap(), Mat::<f64>::zeros(7, 3));
}

#[test]
fn compensation_is_that_of_the_inverse_gram_matrix() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let n = 7;
    let x = Mat::from_fn(n, 30, |_, _| 2.0 * rng.random::<f64>() - 1.0);
    let gram = &x * x.transpose();
    let order: Vec<usize> = vec![3, 0, 6, 1, 5, 2, 4];
    let compensation = Compensation::new(&gram, &order, 0.1).unwrap();
    let start: Vec<f64> = (0..n).map(|_| 2.0 * rng.random::<f64>() - 1.0).collect();
    let mut weights = start.clone();
    compensation.fix(&mut weights, 0, 0.0);
    // The others minimise the distance in the metric, given the first one: H_RR d_R = -H_R0 d_0.
    let h = block(&gram, &order, 0.1);
    let moved: Vec<f64> = weights.iter().zip(&start).map(|(now, before)| now - before).collect();
    for i in 1..n {
        let slope: f64 = (0..n).map(|j| h[(i, j)] * moved[j]).sum();
        let size: f64 = (0..n).map(|j| (h[(i, j)] * moved[j]).abs()).sum();
        // The condition of H is at most its trace over the damping.
        let condition = (0..n).map(|k| h[(k, k)]).sum::<f64>() / 0.1;
        assert!(slope.abs() <= f64::EPSILON * n as f64 * condition * size, "{i}: {slope}");
    }
}

/// What rounding misses in the Gram metric.
fn missed(gram: &Mat<f64>, exact: &[f64], rounded: &[f64]) -> f64 {
    let d: Vec<f64> = exact.iter().zip(rounded).map(|(a, b)| a - b).collect();
    (0..d.len()).map(|i| (0..d.len()).map(|j| d[i] * gram[(i, j)] * d[j]).sum::<f64>()).sum()
}

#[test]
fn rounding_is_never_worse_than_to_the_nearest_level() {
    let (mut better, mut sum_plain, mut sum_own) = (0, 0.0, 0.0);
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (inputs, outputs, count) = (16, 3, 200);
        let layer = rows_layer(inputs, outputs, false);
        // Inputs that go together, as features do.
        let hidden = whole(&mut rng, 4 * count);
        let mix = whole(&mut rng, 4 * inputs);
        let entry = |k: usize| (0..4).map(|h| hidden[k / inputs * 4 + h] * mix[h * inputs + k % inputs]).sum::<f32>();
        let x: Vec<f32> = (0..inputs * count).map(|k| entry(k) + rng.random_range(-2_i32..=2) as f32).collect();
        let weights: Vec<f32> = (0..inputs * outputs).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect();
        let sums = sums_of(&layer, &x, &vec![0.0; outputs * count], count);
        let levels: Vec<Levels> = weights.chunks_exact(inputs).map(levels).collect();
        let problem = Problem {
            layer: &layer,
            weights: &weights,
            criterion: Criterion::Magnitude,
            kept: None,
            fours: None,
            bits: Some(Bits::Int4),
            levels: Some(&levels),
        };
        let solution = problem.solve([&sums, &sums_of(&layer, &[], &[], 0)]).unwrap();
        let [plain, own] = solution.missing;
        assert!(own <= plain, "{seed}: {own} {plain}");
        better += usize::from(own < plain);
        let found = solution.levels.unwrap();
        for (row, levels) in solution.weights.chunks_exact(inputs).zip(&found) {
            assert!(row.iter().all(|&weight| levels.round(f64::from(weight)) == f64::from(weight)));
        }
        // By itself as well, on the whole.
        let exact: Vec<f64> = weights[..inputs].iter().map(|&weight| f64::from(weight)).collect();
        let all: Vec<usize> = (0..inputs).collect();
        let compensation = Compensation::new(&sums.gram, &all, 1e-3 * sums.scale(inputs)).unwrap();
        let mut rounded = exact.clone();
        round_compensated(&mut rounded, inputs, levels[0], &compensation);
        let plain: Vec<f64> = exact.iter().map(|&weight| levels[0].round(weight)).collect();
        sum_plain += missed(&sums.gram, &exact, &plain);
        sum_own += missed(&sums.gram, &exact, &rounded);
    }
    assert!(better == 20 && sum_own < 0.5 * sum_plain, "{better} {sum_own} {sum_plain}");
}

fn levels(row: &[f32]) -> Levels {
    Levels::of(&row.iter().map(|&weight| f64::from(weight)).collect::<Vec<_>>(), Bits::Int4)
}

const GROUPED: &str = r#"
name = "grouped"
input = [4, 9, 8]
classes = 3

[[stages]]
name = "a"
layers = [
    { type = "conv2d", out_channels = 6, kernel = [3, 2], stride = [2, 1], padding = 1, dilation = [1, 2], groups = 2 },
    { type = "relu" },
    { type = "conv2d", out_channels = 6, kernel = 3, stride = 3, groups = 6, bias = false },
]

[[stages]]
name = "out"
layers = [{ type = "flatten" }, { type = "linear", out_features = 3 }]
"#;

#[test]
fn columns_times_weights_are_what_a_layer_gives() {
    let network = Network::new(&NetworkSpec::from_toml(GROUPED).unwrap(), 3).unwrap();
    let (layers, left) = matrix_layers(&network.spec().plan().unwrap());
    assert_eq!((layers.len(), left.len()), (3, 0));
    let tensors = Tensors::of(&network);
    let count = 3;
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut x = Tensor::from_vec(whole(&mut rng, count * 288), (count, 4, 9, 8), &Device::Cpu).unwrap();
    for (layer, place) in layers.iter().zip([0, 2, 4]) {
        let all: Vec<&dyn fbp_models::Layer> =
            network.stages().iter().flat_map(|stage| stage.layers().layers()).collect();
        if place > 0 {
            x = all[place - 1].forward(&x, LayerPass::FIXED).unwrap();
        }
        let y = all[place].forward(&x, LayerPass::FIXED).unwrap();
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (input, output) = (flat(&x), flat(&y));
        let samples = |values| Samples { values, count };
        let (weights, bias) = (tensors.read(&layer.weight()).unwrap(), tensors.read(&layer.bias()).unwrap());
        for group in 0..layer.groups {
            let mut buffer = ColumnBuffer::default();
            let (columns, outputs) = layer.columns((samples(&input), samples(&output)), 1..3, group, &mut buffer);
            for o in 0..layer.outputs {
                let row = (group * layer.outputs + o) * layer.inputs;
                for p in 0..columns.ncols() {
                    let terms = (0..layer.inputs).map(|k| weights[row + k] * columns[(k, p)]);
                    let size = layer.inputs as f32 * f32::EPSILON * terms.clone().map(f32::abs).sum::<f32>();
                    let bias = bias.get(group * layer.outputs + o).copied().unwrap_or(0.0);
                    let missed = (terms.sum::<f32>() + bias - outputs[(o, p)]).abs();
                    assert!(missed <= size + f32::EPSILON * bias.abs(), "{} {group} {o} {p}: {missed}", layer.path);
                }
            }
        }
        x = y;
    }
}

/// Pictures that differ by class, for an input of any shape.
fn data([channels, height, width]: [usize; 3], samples: usize, classes: usize) -> DataBundle {
    let part = |seed: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let len = channels * height * width;
        let pixel = |k: usize, rng: &mut ChaCha8Rng| {
            let wave = ((k % len) as f64 * 0.3 + (k / len % classes) as f64).sin();
            (128.0 + 60.0 * wave + 60.0 * (rng.random::<f64>() - 0.5)) as u8
        };
        let images = (0..samples * len).map(|k| pixel(k, &mut rng)).collect();
        let labels = (0..samples).map(|k| (k % classes) as u8).collect();
        Dataset::new("waves", FeatureShape::image(channels, height, width), classes, images, labels).unwrap()
    };
    let train = part(1);
    let normalization = Normalization::from_images(&train).unwrap();
    DataBundle::new(train, part(2), normalization, "none")
}

fn options(compression: Compression, recover: Recover) -> CompressOptions {
    let fine_tune =
        FineTuneOptions { learning_rates: vec![1e-3], seconds: 0.05, batch_size: 8, ..FineTuneOptions::default() };
    CompressOptions { compression, images: 20, recover, seed: 1, fine_tune }
}

fn weights(network: &Network) -> HashMap<String, Vec<f32>> {
    let (layers, _) = matrix_layers(&network.spec().plan().unwrap());
    let tensors = Tensors::of(network);
    layers.iter().map(|layer| (layer.path.clone(), tensors.read(&layer.weight()).unwrap())).collect()
}

fn pruned(share: f64) -> Compression {
    Compression { prune: Some(share), scope: Some(Scope::Layer), ..Compression::default() }
}

const WAYS: [Recover; 5] = [Recover::None, Recover::Statistics, Recover::ClosedForm, Recover::FineTune, Recover::Both];

#[test]
fn zeros_stay_zero_and_levels_stay_levels() {
    let network = Network::new(&zoo::spec("resnet20").unwrap().adapted([1, 12, 12], 4).unwrap(), 5).unwrap();
    let data = data([1, 12, 12], 24, 4);
    for (bits, criterion) in
        [None, Some(Bits::Int4)].into_iter().flat_map(|bits| [(bits, None), (bits, Some(Criterion::Magnitude))])
    {
        let wanted = Compression { quantise: bits, criterion, ..pruned(0.7) };
        for recover in WAYS {
            let chooses = recover.solves() && criterion.is_none();
            let done = compress(&network, &data, &options(wanted, recover), &Silent).unwrap();
            let (before, after) = (weights(&done.compressed), weights(&done.network));
            for (path, own) in &after {
                // With levels more weights may round to zero, never fewer.
                let kept = before[path].iter().zip(own).all(|(old, new)| *old != 0.0 || *new == 0.0 || bits.is_some());
                assert!(kept || chooses, "{recover} {path}");
                let zeros = own.iter().filter(|weight| **weight == 0.0).count();
                assert!(zeros >= (0.7 * own.len() as f64).round() as usize, "{recover} {path}");
                if bits.is_some() {
                    let outputs = match path.as_str() {
                        "fc" => 4,
                        _ => own.len() / row_len(&network, path),
                    };
                    own.chunks_exact(own.len() / outputs)
                        .for_each(|row| assert!(is_on_grid(row, 7), "{recover} {path}"));
                }
            }
            assert!(done.size.packed_bytes < done.size_before.dense_bytes / 2, "{:?}", done.size);
            assert_eq!(done.layers.len(), if recover.solves() { after.len() } else { 0 });
            assert!(done.layers.iter().all(|layer| layer.residual <= layer.residual_before), "{:?}", done.layers);
        }
    }
}

#[test]
fn training_that_makes_nothing_better_leaves_the_closed_form_as_it_is() {
    let network = Network::new(&zoo::spec("resnet20").unwrap().adapted([1, 12, 12], 4).unwrap(), 5).unwrap();
    let data = data([1, 12, 12], 24, 4);
    let mut wanted = options(pruned(0.7), Recover::Both);
    // Too small to change which class leads.
    wanted.fine_tune.learning_rates = vec![1e-12, 2e-12];
    let both = compress(&network, &data, &wanted, &Silent).unwrap();
    let alone = compress(&network, &data, &options(pruned(0.7), Recover::ClosedForm), &Silent).unwrap();
    let tuned = both.tuned.unwrap();
    assert_eq!((tuned.learning_rate, tuned.steps, tuned.tried.len()), (0.0, 0, 2));
    assert!(tuned.tried.iter().all(|(_, score)| Some(*score) == tuned.start), "{tuned:?}");
    assert_eq!(weights(&both.network), weights(&alone.network));
}

fn row_len(network: &Network, path: &str) -> usize {
    let (layers, _) = matrix_layers(&network.spec().plan().unwrap());
    layers.iter().find(|layer| layer.path == path).unwrap().inputs
}

/// Whether all are whole multiples of one number, at most `largest` of them.
fn is_on_grid(row: &[f32], largest: i32) -> bool {
    let end = row.iter().fold(0.0_f32, |end, weight| end.max(weight.abs()));
    let fits = |level: i32| {
        let scale = end / level as f32;
        row.iter().all(|weight| {
            let level = weight / scale;
            (level - level.round()).abs() <= 4.0 * f32::EPSILON * level.abs()
        })
    };
    end == 0.0 || (1..=largest).any(fits)
}

#[test]
fn patterns_hold_in_every_four() {
    let network = Network::new(&zoo::spec("simple-vit-v2").unwrap().adapted([1, 8, 8], 4).unwrap(), 5).unwrap();
    let data = data([1, 8, 8], 24, 4);
    let wanted = Compression { pattern: Some(Pattern::TwoOfFour), ..Compression::default() };
    for (quantise, recover) in WAYS.iter().flat_map(|way| [(None, *way), (Some(Bits::Int8), *way)]) {
        let done = compress(&network, &data, &options(Compression { quantise, ..wanted }, recover), &Silent).unwrap();
        let (layers, _) = matrix_layers(&done.network.spec().plan().unwrap());
        let found = weights(&done.network);
        let mut patterned = 0;
        for layer in &layers {
            let Ok(fours) = fours(layer) else {
                assert!(done.left_alone.iter().any(|one| one.layer == layer.path), "{}", layer.path);
                continue;
            };
            patterned += 1;
            for row in found[&layer.path].chunks_exact(layer.inputs) {
                for four in &fours {
                    assert!(four.iter().filter(|&&k| row[k] == 0.0).count() >= 2, "{recover} {}", layer.path);
                }
            }
        }
        assert_eq!(patterned, 4 * 4 + 1, "all but the patches of one channel");
    }
}

#[test]
fn fours_are_neighbouring_channels_at_one_tap() {
    let conv = MatrixLayer {
        form: Form::Conv(Patches {
            input: [8, 5, 5],
            output: [5, 5],
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            dilation: [1, 1],
        }),
        inputs: 72,
        ..rows_layer(72, 2, false)
    };
    let found = fours(&conv).unwrap();
    assert_eq!((found.len(), found[0], found[3]), (18, [0, 9, 18, 27], [37, 46, 55, 64]));
    assert!(fours(&rows_layer(6, 2, false)).is_err());
}

#[test]
fn a_network_that_loses_nothing_stays_bit_for_bit() {
    for name in ["resnet20", "simple-vit-v2", "cnn-mnist-large"] {
        let input = if name == "cnn-mnist-large" { [1, 28, 28] } else { [1, 8, 8] };
        let network = Network::new(&zoo::spec(name).unwrap().adapted(input, 4).unwrap(), 5).unwrap();
        let data = data(input, 24, 4);
        let bytes = |network: &Network| checkpoint::to_bytes(network, &BTreeMap::new()).unwrap();
        for recover in [Recover::None, Recover::Statistics, Recover::ClosedForm] {
            let done = compress(&network, &data, &options(pruned(0.0), recover), &Silent).unwrap();
            assert!(bytes(&done.network) == bytes(&network), "{name} {recover}");
        }
    }
}

/// Networks with a column longer than that are only walked through, which runs each of their layers as well.
const LONGEST: usize = 1300;

#[test]
fn every_network_of_the_zoo_can_be_compressed() {
    for name in zoo::names().iter().filter(|name| !name.ends_with("-tanh")) {
        let spec = zoo::spec(name).unwrap();
        let input = match spec.input {
            [channels, 224, 224] => [channels, 32, 32],
            other => other,
        };
        // The pictures have labels; a network with other outputs is compressed just the same.
        let spec = spec.adapted(input, 4).unwrap();
        let network = Network::new(&spec, 5).unwrap();
        let data = data(input, 12, 4);
        let (layers, _) = matrix_layers(&spec.plan().unwrap());
        let is_long = layers.iter().any(|layer| layer.inputs > LONGEST);
        let recover = if is_long { Recover::Statistics } else { Recover::ClosedForm };
        let wanted = CompressOptions { images: 6, ..options(pruned(0.8), recover) };
        let done = compress(&network, &data, &wanted, &Silent).unwrap();
        let share = done.size.zero_share();
        assert!((share - 0.8).abs() < 0.05, "{name}: {share}");
        assert!(is_long || done.layers.len() == layers.len(), "{name}: {:?}", done.left_alone);
        let images =
            Tensor::zeros((1, input.iter().product::<usize>()), candle_core::DType::F32, &Device::Cpu).unwrap();
        let outputs = done.network.infer(&images).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(outputs.iter().all(|output| output.is_finite()), "{name}");
    }
}

#[test]
fn channels_go_and_the_network_shrinks() {
    let channels = Compression { channels: Some(0.5), ..Compression::default() };
    for name in ["resnet20", "mobilenet-v2-035", "squeezenet1_1", "simple-vit-v2", "cnn-mnist-large", "se-resnet20"] {
        let spec = zoo::spec(name).unwrap();
        let input = if name == "cnn-mnist-large" { [1, 28, 28] } else { [1, 32, 32] };
        let network = Network::new(&spec.adapted(input, 4).unwrap(), 5).unwrap();
        let data = data(input, 12, 4);
        for (recover, quantise) in WAYS.iter().zip([None, Some(Bits::Int8), None, None, Some(Bits::Int8)]) {
            let wanted = Compression { quantise, ..channels };
            let done = compress(&network, &data, &options_of(wanted, *recover), &Silent).unwrap();
            let numbers = [&done.network, &network].map(Network::parameter_count);
            assert!(10 * numbers[0] < 9 * numbers[1], "{name}: {numbers:?}");
            assert!(done.size.dense_bytes < done.size_before.dense_bytes, "{name}");
            // A checkpoint like any other.
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("c.safetensors");
            checkpoint::save(&path, &done.network, &BTreeMap::new()).unwrap();
            let back = fbp_models::Checkpoint::load(&path).unwrap().network;
            assert_eq!(back.spec(), done.network.spec());
        }
        let left = compress(&network, &data, &options_of(channels, Recover::None), &Silent).unwrap().left_alone;
        assert!(!left.is_empty(), "{name}");
    }
    let network = Network::new(&zoo::spec("mlp").unwrap(), 0).unwrap();
    let one = Compression { channels: Some(0.001), ..Compression::default() };
    let error = compress(&network, &data([1, 28, 28], 12, 10), &options_of(one, Recover::None), &Silent).unwrap_err();
    assert!(matches!(error, TrainError::Setting { name: "channels", .. }), "{error}");
}

fn options_of(compression: Compression, recover: Recover) -> CompressOptions {
    CompressOptions { images: 8, ..options(compression, recover) }
}

/// Removing channels that are zero changes nothing, so the smaller network must give the same numbers.
#[test]
fn channels_that_give_nothing_are_no_loss() {
    let spec = zoo::spec("cnn-mnist-large").unwrap();
    let network = Network::new(&spec, 5).unwrap();
    let tensors = Tensors::of(&network);
    for path in ["conv1.0", "conv2.0", "fc1.1"] {
        for name in ["weight", "bias"].map(|name| format!("{path}.{name}")) {
            let mut values = tensors.read(&name).unwrap();
            let half = values.len() / 2;
            values[..half].fill(0.0);
            tensors.write(&name, &values).unwrap();
        }
    }
    let data = data([1, 28, 28], 12, 10);
    let wanted = Compression { channels: Some(0.5), ..Compression::default() };
    let done = compress(&network, &data, &options_of(wanted, Recover::None), &Silent).unwrap();
    assert!(done.network.parameter_count() < network.parameter_count() / 3);
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let images = Tensor::from_vec(whole(&mut rng, 784 * 4), (4, 784), &Device::Cpu).unwrap();
    let both = [&network, &done.network]
        .map(|network| network.infer(&images).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let size = both[0].iter().fold(0.0_f32, |size, value| size.max(value.abs()));
    // Sums of up to 320 products in another order, in three layers.
    let tolerance = 3.0 * 320.0 * f32::EPSILON * size.max(1.0);
    both[0].iter().zip(&both[1]).for_each(|(a, b)| assert!((a - b).abs() <= tolerance, "{a} {b}"));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let network = Network::new(&zoo::spec("simple-cnn-mnist-v1").unwrap(), 0).unwrap();
    let data = data([1, 28, 28], 12, 10);
    let run = |compression: Compression| compress(&network, &data, &options_of(compression, Recover::None), &Silent);
    let nothing = Compression::default();
    for share in [-0.1, 1.0, f64::NAN] {
        assert!(matches!(run(pruned(share)).unwrap_err(), TrainError::Parameter { name: "prune", .. }));
        let channels = Compression { channels: Some(share), ..nothing };
        assert!(matches!(run(channels).unwrap_err(), TrainError::Parameter { name: "channels", .. }));
    }
    assert!(matches!(run(nothing).unwrap_err(), TrainError::Missing { name: "prune", .. }));
    let both = Compression { pattern: Some(Pattern::TwoOfFour), ..pruned(0.5) };
    assert!(matches!(run(both).unwrap_err(), TrainError::Setting { name: "pattern", .. }));
    let scope = Compression { scope: Some(Scope::Global), quantise: Some(Bits::Int8), ..nothing };
    assert!(matches!(run(scope).unwrap_err(), TrainError::Setting { name: "scope", .. }));
    for (images, name) in [(0, true), (13, false)] {
        let wanted = CompressOptions { images, ..options(pruned(0.5), Recover::None) };
        match compress(&network, &data, &wanted, &Silent).unwrap_err() {
            TrainError::Parameter { name: "calibrate", .. } => assert!(name),
            TrainError::Setting { name: "calibrate", .. } => assert!(!name),
            other => panic!("{other}"),
        }
    }
    for (seconds, batch_size, rate) in [(0.0, 8, 1e-3), (1.0, 1, 1e-3), (1.0, 8, 0.0)] {
        let fine_tune =
            FineTuneOptions { learning_rates: vec![rate], seconds, batch_size, ..FineTuneOptions::default() };
        assert!(matches!(fine_tune.check().unwrap_err(), TrainError::Parameter { .. }));
    }
    let none = FineTuneOptions { learning_rates: Vec::new(), ..FineTuneOptions::default() };
    assert!(matches!(none.check().unwrap_err(), TrainError::Missing { name: "rate", .. }));
    assert_eq!(Pattern::ALL.len(), 1);
}

#[test]
fn shares_are_those_of_layers_or_of_all_together() {
    let network = Network::new(&zoo::spec("cnn-mnist-large").unwrap(), 0).unwrap();
    let data = data([1, 28, 28], 12, 10);
    let zeros = |scope: Scope| {
        let done = compress(
            &network,
            &data,
            &options_of(Compression { scope: Some(scope), ..pruned(0.6) }, Recover::None),
            &Silent,
        );
        let found = weights(&done.unwrap().network);
        let count = |own: &Vec<f32>| own.iter().filter(|weight| **weight == 0.0).count();
        let shares: Vec<f64> = found.values().map(|own| count(own) as f64 / own.len() as f64).collect();
        (found.values().map(count).sum::<usize>(), shares)
    };
    let (layer, shares) = zeros(Scope::Layer);
    assert!(shares.iter().all(|share| (share - 0.6).abs() < 0.01), "{shares:?}");
    let (global, shares) = zeros(Scope::Global);
    assert!(shares.iter().any(|share| (share - 0.6).abs() > 0.05), "{shares:?}");
    assert!(layer.abs_diff(global) < 10);
    assert_eq!(Scope::default(), Scope::Global);
}
