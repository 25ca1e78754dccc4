//! Targets of every stage of `simple-cnn-mnist-v2` for all training images, with verification and files: the joint
//! iteration against layer-wise reversal and the published point targets.
//!
//! Uses Fashion-MNIST where `cargo xtask fetch fashion-mnist` has put it, otherwise the part that ships.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first error")]

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fbp_models::zoo;
use fbp_train::data::{DataBundle, LoadOptions, load};
use fbp_train::progress::Silent;
use fbp_train::store::StoreWriter;
use fbp_train::targets::{TargetsOptions, TargetsSource, compute_targets};
use fbp_train::{DataIdentity, PretrainOptions, TargetMode, pretrain};

fn data() -> DataBundle {
    let options = LoadOptions::default();
    load("fashion-mnist", &options).or_else(|_| load("fashion-mnist-mini", &options)).unwrap()
}

fn targets(c: &mut Criterion) {
    let data = data();
    let samples = data.train.len();
    let spec = zoo::spec("simple-cnn-mnist-v2").unwrap();
    let network = pretrain(&spec, &data, &PretrainOptions::default(), &Silent).unwrap().network;
    let source = TargetsSource { network: &network, data: &data.train, normalization: &data.normalization };
    let identity = DataIdentity { name: data.train.name().to_owned(), sha256: data.train.sha256(), samples };

    let mut group = c.benchmark_group(format!("targets/simple-cnn-mnist-v2/{samples}"));
    group.throughput(Throughput::Elements(samples as u64)).sample_size(10);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(5));
    for mode in [TargetMode::Attainable, TargetMode::LayerWise, TargetMode::Point] {
        let options = TargetsOptions { mode, ..TargetsOptions::default() };
        group.bench_function(mode.to_string(), |b| {
            b.iter_custom(|iterations| (0..iterations).map(|_| seconds_of_one_run(source, options, &identity)).sum());
        });
    }
    group.finish();
}

/// Time of one run into a new folder; making and removing the folder does not count.
fn seconds_of_one_run(source: TargetsSource<'_>, options: TargetsOptions, identity: &DataIdentity) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let manifest = options.manifest(source.network, String::new(), identity.clone()).unwrap();
    let writer = StoreWriter::open(folder.path(), manifest, false).unwrap();
    let begun = Instant::now();
    compute_targets(source, &writer, &Silent).unwrap();
    begun.elapsed()
}

criterion_group!(benches, targets);
criterion_main!(benches);
