use super::super::support::{by_reconstruction, stages_of};
use super::*;

/// A layer without a bias, the sums over its inputs, and the weights of its outputs; what is missing is what other weights would add.
fn problem(seed: u64, inputs: usize, outputs: usize) -> (MatrixLayer, Vec<f32>, Vec<f32>, Vec<f32>, Sums) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (layer, count) = (rows_layer(inputs, outputs, false), 40);
    let (x, missing) = (whole(&mut rng, inputs * count), whole(&mut rng, outputs * count));
    let sums = sums_of(&layer, &x, &missing, count);
    (layer, whole(&mut rng, inputs * outputs).iter().map(|weight| weight + 0.5).collect(), x, missing, sums)
}

fn of<'a>(layer: &'a MatrixLayer, weights: &'a [f32], kept: &'a [bool]) -> Problem<'a> {
    let criterion = Criterion::Reconstruction;
    Problem { layer, weights, kept: Some(kept), criterion, fours: None, bits: None, levels: None }
}

/// `|r - Δ x|² + λ |Δ|²` at its least, with `Δ` zero but for the support and `-w` outside of it.
fn least(x: &[f32], missing: &[f64], row: &[f32], support: &[usize], lambda: f64) -> f64 {
    let (inputs, count) = (row.len(), missing.len());
    let entry = |sample: usize, k: usize| f64::from(x[sample * inputs + k]);
    let outside = |k: usize| if support.contains(&k) { 0.0 } else { -f64::from(row[k]) };
    let b: Vec<f64> =
        (0..count).map(|s| missing[s] - (0..inputs).map(|k| outside(k) * entry(s, k)).sum::<f64>()).collect();
    let a: Vec<Vec<f64>> = support.iter().map(|&k| (0..count).map(|s| entry(s, k)).collect()).collect();
    let change = least_squares(&a, &b, lambda);
    let left = |s: usize| b[s] - a.iter().zip(&change).map(|(a, change)| a[s] * change).sum::<f64>();
    let squares: f64 = (0..count).map(|s| left(s).powi(2)).sum();
    let gone: f64 = (0..inputs).map(|k| outside(k).powi(2)).sum();
    squares + lambda * (change.iter().map(|change| change * change).sum::<f64>() + gone)
}

#[test]
fn the_weight_that_goes_is_the_one_that_costs_least() {
    for seed in 0..20 {
        let (inputs, outputs) = (6, 3);
        let (layer, weights, x, missing, sums) = problem(seed, inputs, outputs);
        let lambda = 1e-2 * sums.scale(inputs);
        let mut kept = vec![true; inputs * outputs];
        kept[0] = false;
        let found = by_reconstruction(&of(&layer, &weights, &kept), &sums, lambda).unwrap();
        let own = |output: usize| -> Vec<f64> { (0..40).map(|s| f64::from(missing[s * outputs + output])).collect() };
        let of_output = |output: usize, support: &[usize]| {
            least(&x, &own(output), &weights[output * inputs..][..inputs], support, lambda)
        };
        let all: Vec<usize> = (0..inputs).collect();
        let total = |gone: (usize, usize)| -> f64 {
            let support = |output| all.iter().copied().filter(|&k| (output, k) != gone).collect::<Vec<_>>();
            (0..outputs).map(|output| of_output(output, &support(output))).sum()
        };
        let every = (0..outputs).flat_map(|output| (0..inputs).map(move |k| (output, k)));
        let best = every.map(total).fold(f64::INFINITY, f64::min);
        assert_eq!(found.iter().map(Vec::len).sum::<usize>(), inputs * outputs - 1);
        let value: f64 = found.iter().enumerate().map(|(output, support)| of_output(output, support)).sum();
        // The condition is at most that of the trace against the damping.
        let trace: f64 = (0..inputs).map(|k| sums.gram[(k, k)]).sum();
        assert!(value <= best * (1.0 + f64::EPSILON * inputs as f64 * trace / lambda), "{seed}: {value} {best}");
    }
}

#[test]
fn what_is_missing_is_what_the_stages_say() {
    let (inputs, outputs) = (12, 4);
    let (layer, weights, x, missing, sums) = problem(3, inputs, outputs);
    let lambda = 1e-2 * sums.scale(inputs);
    let kept = vec![true; inputs * outputs];
    let found = stages_of(&of(&layer, &weights, &kept), &sums, lambda).unwrap();
    assert_eq!(found.points[0].0, inputs * outputs);
    assert!(found.points.windows(2).all(|pair| pair[0].0 > pair[1].0 && pair[0].1 <= pair[1].1), "{:?}", found.points);
    let all: Vec<usize> = (0..inputs).collect();
    let own = |output: usize| (0..40).map(|s| f64::from(missing[s * outputs + output])).collect::<Vec<f64>>();
    let row = |output: usize| &weights[output * inputs..][..inputs];
    let dense: f64 = (0..outputs).map(|output| least(&x, &own(output), row(output), &all, lambda)).sum();
    // Between the least value and that with the penalty of the weights that went.
    let trace: f64 = (0..inputs).map(|k| sums.gram[(k, k)]).sum();
    let tolerance = f64::EPSILON * inputs as f64 * trace / lambda * sums.missing.iter().sum::<f64>();
    assert!((found.points[0].1 - dense).abs() <= tolerance, "{} {dense}", found.points[0].1);
    let zeros = found.weights.iter().filter(|weight| **weight == 0.0).count();
    assert!(zeros >= inputs * outputs - found.points[2].0, "{zeros}");
    let left = |s: usize, output: usize| {
        let new = &found.weights[output * inputs..][..inputs];
        let change = |k: usize| f64::from(new[k]) - f64::from(row(output)[k]);
        f64::from(missing[s * outputs + output])
            - (0..inputs).map(|k| change(k) * f64::from(x[s * inputs + k])).sum::<f64>()
    };
    let written: f64 =
        (0..40).flat_map(|s| (0..outputs).map(move |output| (s, output))).map(|(s, o)| left(s, o).powi(2)).sum();
    // The weights are rounded to single precision.
    assert!(
        (written - found.missing).abs() <= f64::from(f32::EPSILON) * (trace + written),
        "{written} {}",
        found.missing
    );
}

#[test]
fn less_is_missing_than_with_the_largest_weights() {
    for seed in 0..10 {
        let (inputs, outputs) = (30, 5);
        let (layer, weights, _, _, sums) = problem(seed, inputs, outputs);
        let mut kept = vec![false; inputs * outputs];
        let mut order: Vec<usize> = (0..kept.len()).collect();
        order.sort_by(|&a, &b| weights[b].abs().total_cmp(&weights[a].abs()));
        order.iter().take(40).for_each(|&k| kept[k] = true);
        let wanted = of(&layer, &weights, &kept);
        let magnitude = Problem { criterion: Criterion::Magnitude, ..wanted };
        let none = Sums { count: 0, ..sums_of(&layer, &[], &[], 0) };
        let [own, other] = [wanted, magnitude].map(|problem| problem.solve([&sums, &none]).unwrap());
        assert!(own.missing[1] < other.missing[1], "{:?} {:?}", own.missing, other.missing);
        assert_eq!(own.kept.unwrap().iter().filter(|kept| **kept).count(), 40);
        assert!(other.kept.is_none());
    }
}

#[test]
fn layers_share_the_weights_that_are_left() {
    let network = Network::new(&zoo::spec("cnn-mnist-large").unwrap(), 0).unwrap();
    let before = weights(&network);
    let data = data([1, 28, 28], 60, 10);
    let run = |scope: Scope, criterion: Option<Criterion>| {
        let compression = Compression { prune: Some(0.8), scope: Some(scope), criterion, ..Compression::default() };
        let options = CompressOptions { images: 50, ..options(compression, Recover::ClosedForm) };
        let done = compress(&network, &data, &options, &Silent).unwrap();
        done.layers.iter().map(|layer| layer.weights - layer.zeros).collect::<Vec<_>>()
    };
    let [measured, by_size] = [None, Some(Criterion::Magnitude)].map(|criterion| run(Scope::Global, criterion));
    assert_ne!(measured, by_size);
    assert_eq!(measured.iter().sum::<usize>(), by_size.iter().sum::<usize>());
    // The last layer has every class; what it misses nothing makes up for.
    assert!(measured[3] > by_size[3], "{measured:?} {by_size:?}");
    let [same, by_size] = [None, Some(Criterion::Magnitude)].map(|criterion| run(Scope::Layer, criterion));
    assert_eq!(same, by_size);
    assert_eq!(weights(&network), before);
}

#[test]
fn a_layer_that_cannot_be_measured_leaves_the_largest_weights() {
    let network = Network::new(&zoo::spec("cnn-mnist-large").unwrap(), 0).unwrap();
    let black = Dataset::new("black", FeatureShape::image(1, 28, 28), 10, vec![0; 784 * 20], vec![1; 20]).unwrap();
    let normalization = Normalization::from_images(&data([1, 28, 28], 20, 10).train).unwrap();
    let data = DataBundle::new(black.clone(), black, normalization, "none");
    let compression = Compression { prune: Some(0.8), ..Compression::default() };
    let done = compress(&network, &data, &options(compression, Recover::ClosedForm), &Silent).unwrap();
    assert!(weights(&done.network).values().flatten().all(|weight| weight.is_finite()));
    let zeros = done.layers.iter().map(|layer| layer.zeros).sum::<usize>();
    assert!(zeros >= (0.8 * done.size.weights as f64) as usize);
}

#[test]
fn what_chooses_the_zeros_must_fit() {
    let run = |compression: Compression, recover: Recover| {
        let network = Network::new(&zoo::spec("mlp").unwrap(), 0).unwrap();
        compress(&network, &data([1, 28, 28], 30, 10), &options(compression, recover), &Silent).map(|_| ())
    };
    let with = |criterion| Compression { criterion: Some(criterion), ..pruned(0.5) };
    for recover in [Recover::None, Recover::Statistics, Recover::FineTune] {
        let error = run(with(Criterion::Reconstruction), recover).unwrap_err();
        assert!(matches!(error, TrainError::Setting { name: "criterion", .. }), "{error}");
    }
    let nothing = Compression { prune: None, scope: None, quantise: Some(Bits::Int8), ..with(Criterion::Magnitude) };
    assert!(matches!(run(nothing, Recover::ClosedForm), Err(TrainError::Setting { name: "criterion", .. })));
    run(with(Criterion::Magnitude), Recover::FineTune).unwrap();
}
