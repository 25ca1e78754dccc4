use std::sync::atomic::{AtomicUsize, Ordering};

use fbp_linalg::FeatureShape;
use fbp_models::{Network, zoo};

use super::*;
use crate::data::Dataset;
use crate::progress::Silent;
use crate::store::TargetStore;

const SAMPLES: usize = 60;

fn toy_data() -> Dataset {
    let images = (0..SAMPLES * 784).map(|k| (k * k % 251) as u8).collect();
    let labels = (0..SAMPLES).map(|sample| (sample % 10) as u8).collect();
    Dataset::new("toy", FeatureShape::image(1, 28, 28), 10, images, labels).unwrap()
}

fn network() -> Network {
    Network::new(&zoo::spec("simple-cnn-mnist-v1").unwrap(), 2).unwrap()
}

fn store_of(source: TargetsSource<'_>, options: TargetsOptions) -> (tempfile::TempDir, TargetStore) {
    let folder = tempfile::tempdir().unwrap();
    let identity = crate::DataIdentity { name: "toy".into(), sha256: String::new(), samples: SAMPLES };
    let manifest = options.manifest(source.network, String::new(), identity).unwrap();
    let writer = StoreWriter::open(folder.path(), manifest, false).unwrap();
    compute_targets(source, &writer, &Silent).unwrap();
    let store = TargetStore::open(folder.path()).unwrap();
    (folder, store)
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn targets_in_memory_are_those_of_the_store_while_the_network_stays_what_it_is() {
    let (network, data, normalization) = (network(), toy_data(), Normalization::fashion_mnist());
    let source = TargetsSource { network: &network, data: &data, normalization: &normalization };
    for mode in [TargetMode::Attainable, TargetMode::LayerWise, TargetMode::Point] {
        let (_folder, store) = store_of(source, TargetsOptions { mode, ..TargetsOptions::default() });
        let samples: Vec<usize> = (0..SAMPLES).filter(|sample| sample % 3 != 1).collect();
        for (stage, name) in ["conv1", "conv2"].into_iter().enumerate() {
            let stored = store.stage(name).unwrap();
            let targets = MemoryTargets::compute(source, stage, stored.params(), &samples, &Silent).unwrap();
            assert!(targets.of(1).is_none() && targets.of(SAMPLES).is_none());
            for &sample in &samples {
                let (row, attained) = targets.of(sample).unwrap();
                assert_eq!(attained, stored.attained(sample), "{mode} {name} {sample}");
                if mode == TargetMode::Attainable {
                    assert_eq!(row, stored.row(sample), "{name} {sample}");
                }
                // Other samples in a batch may change the last bits of what layers solve for.
                let scale = distance(row, &vec![0.0; row.len()]);
                let difference = distance(row, stored.row(sample));
                assert!(difference <= 1e-4 * scale, "{mode} {name} {sample}: {difference} of {scale}");
            }
        }
    }
}

#[test]
fn a_run_that_was_killed_right_after_its_report_leaves_nothing_behind() {
    let (network, data, normalization) = (network(), toy_data(), Normalization::fashion_mnist());
    let source = TargetsSource { network: &network, data: &data, normalization: &normalization };
    let (folder, store) = store_of(source, TargetsOptions::default());
    let names = || {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let finished = names();
    let writer = StoreWriter::open(folder.path(), store.manifest().clone(), false).unwrap();
    writer.keep_seconds(1.0).unwrap();
    assert_ne!(names(), finished);
    compute_targets(source, &writer, &Silent).unwrap();
    assert_eq!(names(), finished);
}

/// Asks for the end of the work once it has been asked so often.
struct EndsAfter(AtomicUsize);

impl Progress for EndsAfter {
    fn begin(&self, _: &str, _: usize, _: &str) {}
    fn advance(&self, _: usize) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}

    fn stop_asked(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(1))) == Ok(0)
    }
}

#[test]
fn targets_end_within_a_part_of_the_samples_and_are_made_again_to_the_same_bits() {
    let (network, data, normalization) = (network(), toy_data(), Normalization::fashion_mnist());
    let source = TargetsSource { network: &network, data: &data, normalization: &normalization };
    let (whole_folder, whole) = store_of(source, TargetsOptions::default());
    let folder = tempfile::tempdir().unwrap();
    let manifest = whole.manifest().clone();
    {
        let writer = StoreWriter::open(folder.path(), manifest.clone(), false).unwrap();
        // All samples are one part, at whose beginning and end alone fewer than five questions are asked.
        let ends = EndsAfter(AtomicUsize::new(5));
        let stopped = compute_targets(source, &writer, &ends);
        assert!(matches!(stopped, Err(TrainError::Stopped { .. })), "{stopped:?}");
        assert_eq!(writer.missing().unwrap().len(), manifest.shards.len());
    }
    let ends = EndsAfter(AtomicUsize::new(5));
    let stopped = MemoryTargets::compute(source, 0, &manifest.params, &[1, 2, 3, 4], &ends);
    assert!(matches!(stopped, Err(TrainError::Stopped { .. })));
    let writer = StoreWriter::open(folder.path(), manifest.clone(), false).unwrap();
    compute_targets(source, &writer, &Silent).unwrap();
    for shard in &manifest.shards {
        let bytes = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(&shard.file)).unwrap();
        assert!(bytes(&whole_folder) == bytes(&folder), "{}", shard.file);
    }
}
