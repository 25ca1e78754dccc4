use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;
use fbp_linalg::FeatureShape;
use fbp_models::{Network, NetworkSpec};

use super::prepared::{Labelled, Prepared};
use super::*;
use crate::TrainError;
use crate::data::{DataBundle, Dataset, Normalization};
use crate::evaluate::EvalSet;
use crate::progress::{Progress, Silent};
use crate::train::{PretrainOptions, pretrain};

const SPEC: &str = r#"
name = "toy"
input = [1, 6, 6]
classes = 3

[[stages]]
name = "conv"
layers = [{ type = "conv2d", out_channels = 4, kernel = 3 }, { type = "batch_norm" }, { type = "relu" }]

[[stages]]
name = "hidden"
layers = [{ type = "flatten" }, { type = "linear", out_features = 12 }, { type = "relu" }]

[[stages]]
name = "out"
layers = [{ type = "linear", out_features = 3 }]
"#;

/// Images of three patterns; `fade` takes contrast away and adds brightness.
fn images(count: usize, seed: usize, fade: f32) -> Dataset {
    let shape = FeatureShape::image(1, 6, 6);
    let value = |k: usize| {
        let (sample, y, x) = (k / 36, k % 36 / 6, k % 6);
        let inside = match sample % 3 {
            0 => y < 3,
            1 => x < 3,
            _ => (y + x) % 2 == 0,
        };
        let noise = ((k * 7919 + seed * 104_729) % 1009) as f32 / 1009.0;
        let bright = if inside { 90.0 + 130.0 * noise } else { 130.0 * noise };
        (200.0 + fade * (bright - 200.0)) as u8
    };
    let pixels = (0..36 * count).map(value).collect();
    Dataset::new("patterns", shape, 3, pixels, (0..count).map(|k| (k % 3) as u8).collect()).unwrap()
}

fn bundle(fade: f32) -> DataBundle {
    let train = images(300, 1, fade);
    let normalization = Normalization::new(vec![0.4], vec![0.2]).unwrap();
    DataBundle::new(train, images(150, 2, fade), normalization, "")
}

fn trained() -> Network {
    let options = PretrainOptions { epochs: 3, batch: 20, learning_rate: 3e-3, ..PretrainOptions::default() };
    let spec = NetworkSpec::from_toml(SPEC).unwrap();
    pretrain(&spec, &bundle(1.0), &options, &Silent).unwrap().network
}

fn start(network: &Network, data: &DataBundle) -> Prepared {
    Prepared { network: network.duplicate().unwrap(), normalization: data.normalization.clone() }
}

fn bits(network: &Network) -> Vec<(String, Vec<u32>)> {
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    network.state().map(|(name, var)| (name, values(&var).into_iter().map(f32::to_bits).collect())).collect()
}

fn test_accuracy(network: &Network, normalization: &Normalization, data: &DataBundle) -> f64 {
    EvalSet::new(&data.test, normalization, None).unwrap().accuracy(network).unwrap()
}

#[test]
fn folds_are_disjoint_whole_and_stratified_and_follow_from_the_seed() {
    let labels: Vec<u8> = (0..47).map(|k| if k < 20 { 0 } else { 1 + (k % 2) as u8 }).collect();
    let data = Dataset::new("uneven", FeatureShape::image(1, 1, 2), 3, vec![9; 94], labels).unwrap();
    for folds in [2, 5, 10, 47] {
        let dealt = stratified_folds(&data, folds, 3).unwrap();
        let all: BTreeSet<usize> = dealt.iter().flatten().copied().collect();
        assert_eq!((all.len(), dealt.iter().map(Vec::len).sum::<usize>()), (47, 47));
        let spread = |counts: Vec<usize>| counts.iter().max().unwrap() - counts.iter().min().unwrap();
        assert!(spread(dealt.iter().map(Vec::len).collect()) <= 1);
        for class in 0..3 {
            let of_class = |fold: &Vec<usize>| fold.iter().filter(|&&k| data.labels()[k] == class).count();
            assert!(spread(dealt.iter().map(of_class).collect()) <= 1, "{folds} {class}");
        }
        assert_eq!(dealt, stratified_folds(&data, folds, 3).unwrap());
    }
    assert_ne!(stratified_folds(&data, 5, 3).unwrap(), stratified_folds(&data, 5, 4).unwrap());
    for folds in [0, 1, 48] {
        assert_eq!(stratified_folds(&data, folds, 0).unwrap_err().setting(), Some("folds"));
    }
    assert_eq!([3, 12, 49, 50, 299, 300].map(default_folds), [3, 10, 10, 5, 5, 3]);
}

#[test]
fn labels_are_drawn_evenly_and_too_few_or_too_many_are_refused() {
    let data = images(300, 1, 1.0);
    let drawn = balanced_labels(&data, Some(31), 5).unwrap();
    assert_eq!(data.subset(&drawn).unwrap().class_counts(), [11, 10, 10]);
    assert_eq!(drawn, balanced_labels(&data, Some(31), 5).unwrap());
    assert_ne!(drawn, balanced_labels(&data, Some(31), 6).unwrap());
    assert_eq!(balanced_labels(&data, None, 5).unwrap(), (0..300).collect::<Vec<_>>());
    for labels in [2, 301] {
        let error = balanced_labels(&data, Some(labels), 5).unwrap_err();
        assert_eq!(error.setting(), Some("labels"), "{error}");
    }
    for options in [
        AdaptOptions { labels: Some(0), ..AdaptOptions::default() },
        AdaptOptions { folds: Some(1), ..AdaptOptions::default() },
    ] {
        assert!(matches!(options.check(), Err(TrainError::Parameter { .. })));
    }
    assert!(matches!("best".parse::<Method>(), Err(TrainError::UnknownChoice { .. })));
}

#[test]
fn what_is_chosen_helps_and_is_chosen_again() {
    let (network, data) = (trained(), bundle(0.4));
    let before = test_accuracy(&network, &data.normalization, &data);
    let options = AdaptOptions { labels: Some(30), judge_all: true, seed: 2, ..AdaptOptions::default() };
    let judged: Vec<usize> = (0..150).collect();
    let run = || adapt(&network, &data, &options, &judged, &Silent).unwrap();
    let (one, other) = (run(), run());
    assert_eq!((one.chosen, bits(&one.network)), (other.chosen, bits(&other.network)));
    let timeless = |adaptation: &Adaptation| {
        let tried =
            adaptation.tried.iter().map(|tried| TriedRecord { seconds: 0.0, processor_seconds: None, ..tried.clone() });
        tried.collect::<Vec<_>>()
    };
    assert_eq!(timeless(&one), timeless(&other));
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    for threads in [1, 3] {
        let other = pool(threads).install(run);
        assert_eq!((one.chosen, one.start, timeless(&one)), (other.chosen, other.start, timeless(&other)), "{threads}");
        assert!(other.processor_seconds.is_none_or(|seconds| seconds > 0.0));
    }
    let after = test_accuracy(&one.network, &one.normalization, &data);
    assert!(after > before + 0.1, "{before} {after} {:?}", one.chosen);
    // What is said of the test part is what the fits on all labels do there.
    let of = |candidate: Candidate| one.tried.iter().find(|tried| tried.candidate == candidate).unwrap();
    assert_eq!((of(one.chosen).test, of(Candidate::leave()).test), (Some(after), Some(before)));
    let methods: BTreeSet<Method> = one.tried.iter().map(|tried| tried.candidate.method).collect();
    let all: BTreeSet<Method> = <Method as crate::Choice>::ALL.iter().copied().filter(|m| *m != Method::Auto).collect();
    assert_eq!(methods, all);
}

/// Asks to stop from a certain question on, and counts the fits.
struct Stopping {
    questions: AtomicUsize,
    patience: usize,
    fits: AtomicUsize,
}

impl Stopping {
    fn after(patience: usize) -> Self {
        Self { questions: AtomicUsize::new(0), patience, fits: AtomicUsize::new(0) }
    }
}

impl Progress for Stopping {
    fn begin(&self, _: &str, _: usize, _: &str) {}
    fn advance(&self, units: usize) {
        self.fits.fetch_add(units, Ordering::Relaxed);
    }
    fn note(&self, _: &str) {}
    fn end(&self) {}
    fn stop_asked(&self) -> bool {
        self.questions.fetch_add(1, Ordering::Relaxed) >= self.patience
    }
}

#[test]
fn a_stop_is_heard_within_a_fit_that_computes_targets() {
    let (network, data) = (trained(), bundle(0.4));
    let options =
        AdaptOptions { labels: Some(30), method: Method::LayerWise, folds: Some(3), ..AdaptOptions::default() };
    let stopped = |threads: usize, after: usize| {
        let stopping = Stopping::after(after);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let error = pool.install(|| adapt(&network, &data, &options, &[], &stopping)).unwrap_err();
        assert!(matches!(&error, TrainError::Stopped { left } if left.contains("adaptation")), "{error}");
        stopping.fits.into_inner()
    };
    // Of each of the three folds what is begun with and the network as it is, what is begun with again, one question before each; and
    // one before the first fit that computes targets, so that the next is asked by that fit.
    assert_eq!(stopped(1, 8), 7, "the fit went on to its end");
    // Each of three threads may be within a fit.
    assert!((6..=8).contains(&stopped(3, 8)));
}

#[test]
fn a_network_that_needs_nothing_stays_to_the_last_bit() {
    let (network, data) = (trained(), bundle(1.0));
    for method in [Method::Leave, Method::Auto] {
        let options = AdaptOptions { labels: Some(30), method, ..AdaptOptions::default() };
        let done = adapt(&network, &data, &options, &[], &Silent).unwrap();
        let best = done.tried.iter().map(|tried| tried.accuracy).fold(0.0, f64::max);
        let as_it_is = done.tried[0].accuracy;
        if method == Method::Leave || best <= as_it_is {
            assert_eq!(done.chosen, Candidate::leave());
            assert_eq!(bits(&done.network), bits(&network));
            assert_eq!(done.normalization, data.normalization);
        }
    }
}

#[test]
fn a_strong_anchor_stays_at_the_start_and_a_weak_one_does_not() {
    let (network, data) = (trained(), bundle(0.4));
    let samples: Vec<usize> = (0..30).collect();
    let labelled = Labelled { data: &data.train, samples: &samples, seed: 0 };
    let start = start(&network, &data);
    let moved = |anchor: f64| {
        let candidate = Candidate { anchor: Some(anchor), rate: Some(1e-3), ..Candidate::of(Method::L2Sp) };
        let fitted = candidate.fit(&start, labelled, &Silent).unwrap().unwrap().network;
        let vars = [&network, &fitted].map(|network| network.vars_of(0..3).unwrap());
        let of = |(a, b): (&candle_core::Var, &candle_core::Var)| {
            (a.as_tensor() - b.as_tensor()).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
        };
        vars[0].iter().zip(&vars[1]).map(of).sum::<f32>()
    };
    assert_eq!(moved(1e18), 0.0);
    let [strong, weak, none] = [100.0, 10.0, 0.0].map(moved);
    assert!(0.0 < strong && strong < weak && weak < none, "{strong} {weak} {none}");
}

#[test]
fn statistics_are_those_of_the_samples_and_shares_lie_between() {
    let (network, data) = (trained(), bundle(0.4));
    let samples: Vec<usize> = (0..40).collect();
    let labelled = Labelled { data: &data.train, samples: &samples, seed: 0 };
    let start = start(&network, &data);
    let mean = |share: Option<f64>| -> Vec<f32> {
        let fitted = match share {
            Some(share) => {
                let candidate = Candidate { share: Some(share), ..Candidate::of(Method::Statistics) };
                candidate.fit(&start, labelled, &Silent).unwrap().unwrap().network
            }
            None => network.duplicate().unwrap(),
        };
        let (_, var) = fitted.state().find(|(name, _)| name.ends_with("running_mean")).unwrap();
        var.to_vec1().unwrap()
    };
    // The first norm sees what the convolution makes of the images: its means by plain loops.
    let read = |end: &str| -> Vec<f32> {
        let (_, var) = network.state().find(|(name, _)| name.starts_with("conv") && name.ends_with(end)).unwrap();
        var.flatten_all().unwrap().to_vec1().unwrap()
    };
    let (weight, bias) = (read("weight"), read("bias"));
    assert_eq!(weight.len(), 36);
    let pixel = |sample: usize, at: usize| {
        (f64::from(data.train.image(sample).unwrap()[at]) / 255.0 - data.normalization.mean()[0])
            / data.normalization.std()[0]
    };
    let wanted: Vec<f64> = (0..4)
        .map(|channel| {
            let mut sum = 0.0;
            for &sample in &samples {
                for (y, x) in (0..4).flat_map(|y| (0..4).map(move |x| (y, x))) {
                    sum += f64::from(bias[channel]);
                    for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                        let weight = f64::from(weight[channel * 9 + dy * 3 + dx]);
                        sum += weight * pixel(sample, (y + dy) * 6 + x + dx);
                    }
                }
            }
            sum / (16 * samples.len()) as f64
        })
        .collect();
    let (old, half, whole) = (mean(None), mean(Some(0.5)), mean(Some(1.0)));
    for channel in 0..4 {
        let [old, half, whole] = [&old, &half, &whole].map(|values| f64::from(values[channel]));
        // Single precision, times ten by the momentum.
        let tolerance = 100.0 * f64::from(f32::EPSILON) * (1.0 + wanted[channel].abs() + old.abs());
        assert!((whole - wanted[channel]).abs() <= tolerance, "{whole} {}", wanted[channel]);
        assert!((half - 0.5 * (old + whole)).abs() <= tolerance, "{old} {half} {whole}");
    }
}

#[test]
fn a_ridge_without_labels_to_mend_changes_nothing_and_a_weak_one_mends_them() {
    let (network, data) = (trained(), bundle(0.4));
    let start = start(&network, &data);
    let right = EvalSet::new(&data.train, &data.normalization, None).unwrap().right(&network).unwrap();
    let of = |samples: &[usize], damping: f64, margin: f64| {
        let candidate = Candidate { damping: Some(damping), margin: Some(margin), ..Candidate::of(Method::Head) };
        let labelled = Labelled { data: &data.train, samples, seed: 0 };
        candidate.fit(&start, labelled, &Silent).unwrap().unwrap().network
    };
    let good: Vec<usize> = (0..300).filter(|&sample| right[sample]).take(20).collect();
    let bad: Vec<usize> = (0..300).filter(|&sample| !right[sample]).take(5).collect();
    assert!(!good.is_empty() && !bad.is_empty(), "{} {}", good.len(), bad.len());
    assert_eq!(bits(&of(&good, 1e-3, 0.0)), bits(&network));
    let mended = of(&bad, 1e-6, 1.0);
    let after = EvalSet::new(&data.train, &data.normalization, Some(&bad)).unwrap().right(&mended).unwrap();
    assert!(after.iter().all(|right| *right), "{after:?}");
}
