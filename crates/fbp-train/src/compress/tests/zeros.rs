use super::super::support::{by_reconstruction, rounds_of};
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
fn what_is_missing_is_what_the_rounds_say() {
    let (inputs, outputs) = (12, 4);
    let (layer, weights, x, missing, sums) = problem(3, inputs, outputs);
    let lambda = 1e-2 * sums.scale(inputs);
    let kept = vec![true; inputs * outputs];
    let found = rounds_of(&of(&layer, &weights, &kept), &sums, lambda).unwrap();
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

/// How many weights every layer has left with 80 % zeros.
fn left(network: &Network, data: &DataBundle, scope: Scope, criterion: Option<Criterion>) -> Vec<usize> {
    let compression = Compression { prune: Some(0.8), scope: Some(scope), criterion, ..Compression::default() };
    let options = CompressOptions { images: data.train.len(), ..options(compression, Recover::ClosedForm) };
    let done = compress(network, data, &options, &Silent).unwrap();
    assert!(weights(&done.network).values().flatten().all(|weight| weight.is_finite()));
    done.layers.iter().map(|layer| layer.weights - layer.zeros).collect()
}

#[test]
fn layers_share_the_weights_that_are_left() {
    for name in ["cnn-mnist-large", "resnet20", "se-resnet20", "simple-vit-v2", "squeezenet1_1"] {
        let input = if name == "cnn-mnist-large" { [1, 28, 28] } else { [1, 16, 16] };
        let input = if name == "squeezenet1_1" { [1, 32, 32] } else { input };
        let network = Network::new(&zoo::spec(name).unwrap().adapted(input, 4).unwrap(), 0).unwrap();
        let before = weights(&network);
        let data = data(input, 20, 4);
        let [measured, by_size] =
            [None, Some(Criterion::Magnitude)].map(|criterion| left(&network, &data, Scope::Global, criterion));
        assert_ne!(measured, by_size, "{name}");
        assert_eq!(measured.iter().sum::<usize>(), by_size.iter().sum::<usize>(), "{name}");
        assert!(measured.iter().all(|left| *left > 0), "{name}: {measured:?}");
        assert_eq!(weights(&network), before, "{name}");
    }
}

#[test]
fn a_share_of_every_layer_is_what_was_asked_for() {
    let network = Network::new(&zoo::spec("cnn-mnist-large").unwrap(), 0).unwrap();
    let data = data([1, 28, 28], 20, 10);
    let [own, by_size] =
        [None, Some(Criterion::Magnitude)].map(|criterion| left(&network, &data, Scope::Layer, criterion));
    assert_eq!(own, by_size);
}

#[test]
fn a_network_that_cannot_be_measured_keeps_its_numbers_of_weights() {
    let network = Network::new(&zoo::spec("cnn-mnist-large").unwrap(), 0).unwrap();
    // One picture alone: no output varies.
    let black = Dataset::new("black", FeatureShape::image(1, 28, 28), 10, vec![0; 784 * 20], vec![1; 20]).unwrap();
    let normalization = Normalization::from_images(&data([1, 28, 28], 20, 10).train).unwrap();
    let data = DataBundle::new(black.clone(), black, normalization, "none");
    let [own, by_size] =
        [None, Some(Criterion::Magnitude)].map(|criterion| left(&network, &data, Scope::Global, criterion));
    assert_eq!(own, by_size);
    // Untrained, nothing comes through so many layers.
    let network = Network::new(&zoo::spec("mobilenet-v2-035").unwrap().adapted([1, 16, 16], 4).unwrap(), 0).unwrap();
    let data = self::data([1, 16, 16], 20, 4);
    let [own, by_size] =
        [None, Some(Criterion::Magnitude)].map(|criterion| left(&network, &data, Scope::Global, criterion));
    assert_eq!(own, by_size);
}

#[test]
fn zeros_that_were_there_are_the_first_to_stay() {
    let network = Network::new(&zoo::spec("cnn-mnist-large").unwrap(), 0).unwrap();
    let data = data([1, 28, 28], 40, 10);
    let run = |network: &Network, share: f64| {
        let compression = Compression { prune: Some(share), ..Compression::default() };
        compress(network, &data, &options(compression, Recover::ClosedForm), &Silent).unwrap().network
    };
    let first = run(&network, 0.7);
    let [before, after] = [weights(&first), weights(&run(&first, 0.9))];
    let zeros = |own: &HashMap<String, Vec<f32>>| own.values().flatten().filter(|weight| **weight == 0.0).count();
    let all: usize = before.values().map(Vec::len).sum();
    assert!(zeros(&before) >= all * 7 / 10 && zeros(&after) >= all * 9 / 10);
    let again = before.iter().flat_map(|(path, own)| own.iter().zip(&after[path])).filter(|(old, _)| **old == 0.0);
    let (same, back): (Vec<_>, Vec<_>) = again.partition(|(_, new)| **new == 0.0);
    assert!(back.len() * 20 < same.len(), "{} of {} zeros came back", back.len(), same.len());
}

#[test]
fn training_behind_the_closed_form_keeps_its_zeros() {
    let network = Network::new(&zoo::spec("resnet20").unwrap().adapted([1, 12, 12], 4).unwrap(), 5).unwrap();
    let data = data([1, 12, 12], 24, 4);
    let compression = Compression { prune: Some(0.7), ..Compression::default() };
    let [solved, trained] = [Recover::ClosedForm, Recover::Both]
        .map(|recover| weights(&compress(&network, &data, &options(compression, recover), &Silent).unwrap().network));
    assert_ne!(solved, trained);
    for (path, own) in &solved {
        assert!(own.iter().zip(&trained[path]).all(|(old, new)| *old != 0.0 || *new == 0.0), "{path}");
    }
}

#[test]
fn what_chooses_the_zeros_must_fit() {
    let run = |compression: Compression, recover: Recover| {
        let network = Network::new(&zoo::spec("mlp").unwrap(), 0).unwrap();
        compress(&network, &data([1, 28, 28], 30, 10), &options(compression, recover), &Silent).map(|_| ())
    };
    let with = |criterion| Compression { criterion: Some(criterion), ..pruned(0.5) };
    let nothing = Compression { prune: None, scope: None, quantise: Some(Bits::Int8), ..with(Criterion::Magnitude) };
    assert!(matches!(run(nothing, Recover::ClosedForm), Err(TrainError::Setting { name: "criterion", .. })));
    run(with(Criterion::Magnitude), Recover::FineTune).unwrap();
}

#[test]
fn zeros_of_the_closed_form_can_be_had_without_its_weights() {
    let network = Network::new(&zoo::spec("resnet20").unwrap().adapted([1, 12, 12], 4).unwrap(), 5).unwrap();
    let (before, data) = (weights(&network), data([1, 12, 12], 24, 4));
    let fours = Compression { prune: None, scope: None, pattern: Some(Pattern::TwoOfFour), ..pruned(0.7) };
    let global = Compression { scope: None, ..pruned(0.7) };
    for compression in [pruned(0.7), global, fours] {
        let run = |criterion, recover| {
            let compression = Compression { criterion: Some(criterion), ..compression };
            weights(&compress(&network, &data, &options(compression, recover), &Silent).unwrap().network)
        };
        let solved = run(Criterion::Reconstruction, Recover::ClosedForm);
        let by_size = run(Criterion::Magnitude, Recover::None);
        assert_ne!(run(Criterion::Reconstruction, Recover::None), by_size);
        for recover in [Recover::None, Recover::Statistics] {
            for (path, own) in run(Criterion::Reconstruction, recover) {
                let is_as_before =
                    |((own, old), solved): ((&f32, &f32), &f32)| *own == if *solved == 0.0 { 0.0 } else { *old };
                assert!(own.iter().zip(&before[&path]).zip(&solved[&path]).all(is_as_before), "{path}");
            }
        }
        let tuned = run(Criterion::Reconstruction, Recover::FineTune);
        for (path, own) in &solved {
            assert!(own.iter().zip(&tuned[path]).all(|(own, tuned)| (*own == 0.0) <= (*tuned == 0.0)), "{path}");
        }
    }
    // With fewer channels and levels, too; weights may also be rounded to zero.
    for compression in
        [Compression { quantise: Some(Bits::Int8), ..global }, Compression { channels: Some(0.3), ..global }]
    {
        let run = |recover| {
            let compression = Compression { criterion: Some(Criterion::Reconstruction), ..compression };
            compress(&network, &data, &options(compression, recover), &Silent).unwrap()
        };
        let [solved, chosen] = [run(Recover::ClosedForm), run(Recover::Statistics)];
        let zeros = |done: &Compressed| done.layers.iter().map(|layer| layer.zeros).sum::<usize>();
        assert!(zeros(&solved) > 0 && chosen.layers.is_empty());
        let [solved, chosen] = [weights(&solved.network), weights(&chosen.network)];
        let (mut both, mut either) = (0, 0);
        for (a, b) in solved.iter().flat_map(|(path, own)| own.iter().zip(&chosen[path])) {
            both += usize::from(*a == 0.0 && *b == 0.0);
            either += usize::from(*a == 0.0 || *b == 0.0);
        }
        assert!(both * 100 > either * 95, "{both} of {either}");
    }
}
