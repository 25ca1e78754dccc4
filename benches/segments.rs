//! Post-training of two segments of about equal cost: one after the other on one thread, and at the same time on two.
//!
//! A perceptron of two layers 512→512 is cut in the middle. Both segments start from features that are computed once, the
//! first one learns its targets, the second one the labels. The goal is a speed-up of 1.6 on two free cores.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may stop at the first error, and tells its result"
)]

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group};
use fbp_linalg::FeatureShape;
use fbp_models::spec::{LayerSpec, StageSpec, WeightInit};
use fbp_models::{Network, NetworkSpec};
use fbp_train::data::{DataBundle, Dataset, Normalization};
use fbp_train::progress::Silent;
use fbp_train::store::{StoreWriter, TargetStore};
use fbp_train::targets::{TargetsOptions, TargetsSource, compute_targets};
use fbp_train::{DataIdentity, Goal, Keep, Objective, PostTrainOptions, post_train};

const SAMPLES: usize = 4000;
const WIDTH: usize = 512;
/// So many that copying the network, caching features and the test accuracy hardly count.
const EPOCHS: usize = 8;

fn spec() -> NetworkSpec {
    let hidden = |name: &str, first: Option<LayerSpec>| {
        StageSpec::new(name, first.into_iter().chain([LayerSpec::linear(WIDTH), LayerSpec::Relu {}]))
    };
    let mut second = hidden("second", None);
    second.layers.push(LayerSpec::linear(10).into());
    let stages = vec![hidden("first", Some(LayerSpec::Flatten {})), second];
    NetworkSpec { name: "two-halves".into(), input: [2, 16, 16], classes: 10, init: WeightInit::Default, stages }
}

/// Smooth pictures that differ by class and sample.
fn data() -> DataBundle {
    let part = |samples: usize| {
        let pixel = |i: usize| {
            let (sample, place) = (i / WIDTH, i % WIDTH);
            let phase = (sample % 10) as f64 * 0.7 + (sample / 10) as f64 * 0.01;
            (127.0 + 120.0 * (place as f64 * 0.05 + phase).sin()) as u8
        };
        let images = (0..samples * WIDTH).map(pixel).collect();
        let labels = (0..samples).map(|sample| (sample % 10) as u8).collect();
        Dataset::new("waves", FeatureShape::image(2, 16, 16), 10, images, labels).unwrap()
    };
    let train = part(SAMPLES);
    let normalization = Normalization::from_images(&train).unwrap();
    DataBundle::new(train, part(500), normalization, "none")
}

fn segments(c: &mut Criterion) {
    let data = data();
    let network = Network::new(&spec(), 0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let identity = DataIdentity { name: "waves".into(), sha256: data.train.sha256(), samples: SAMPLES };
    let manifest = TargetsOptions::default().manifest(&network, String::new(), identity).unwrap();
    let writer = StoreWriter::open(folder.path(), manifest, false).unwrap();
    let source = TargetsSource { network: &network, data: &data.train, normalization: &data.normalization };
    compute_targets(source, &writer, &Silent).unwrap();
    let store = TargetStore::open(folder.path()).unwrap();
    let options = PostTrainOptions {
        objective: Objective::Hierarchical,
        epochs: EPOCHS,
        keep: Keep::Last,
        ..PostTrainOptions::default()
    };

    let mut group = c.benchmark_group("segments/two-halves");
    group
        .throughput(Throughput::Elements((2 * EPOCHS * SAMPLES) as u64))
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(10));
    let mut medians = Vec::new();
    for (name, threads) in [("one-after-the-other", 1), ("at-the-same-time", 2)] {
        let mut times = Vec::new();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut run = || {
            let mut network = network.duplicate().unwrap();
            let begun = Instant::now();
            post_train(&mut network, "first", &data, Some(Goal::Stages(&store)), &options, &Silent).unwrap();
            times.push(begun.elapsed());
            times.last().copied().unwrap()
        };
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| pool.install(|| (0..iterations).map(|_| run()).sum()))
        });
        times.sort_unstable();
        medians.extend(times.get(times.len() / 2).copied());
    }
    group.finish();
    if let [alone, together] = medians[..] {
        println!("speed-up: {:.2}", alone.as_secs_f64() / together.as_secs_f64());
    }
}

/// Keeps candle from adding up gradients on busily waiting threads of its own, as the program `fbp` does: with them, "one
/// after the other" would not be on one thread.
#[expect(unsafe_code, reason = "candle takes this setting from the environment alone")]
fn one_candle_thread() {
    // SAFETY: called first in `main`, when no other thread can read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
}

criterion_group!(benches, segments);

fn main() {
    one_candle_thread();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
