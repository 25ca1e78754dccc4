use std::fs;
use std::path::Path;

use super::*;
use crate::TrainError;
use crate::identity::DataIdentity;
use crate::settings::{Effort, Embedding, Metric, TargetMode};

const STAGES: [(&str, [usize; 3]); 2] = [("conv1", [2, 3, 1]), ("conv2", [4, 1, 1])];

/// An image, or a flat feature.
fn dims(shape: [usize; 3]) -> Vec<usize> {
    if shape[1..] == [1, 1] { shape[..1].to_vec() } else { shape.to_vec() }
}

fn manifest(samples: usize, margin: f64) -> Manifest {
    Manifest::new(ManifestParams {
        checkpoint_sha256: "c".repeat(64),
        model: "toy".into(),
        data: DataIdentity { name: "synthetic".into(), sha256: "d".repeat(64), samples },
        mode: TargetMode::Attainable,
        embedding: Embedding::Margin,
        margin,
        tolerance: None,
        metric: Metric::Euclidean,
        effort: Effort::Thorough,
        shard_samples: 4,
        stages: STAGES
            .iter()
            .map(|&(name, shape)| StageEntry { name: name.into(), shape, dims: dims(shape) })
            .collect(),
    })
    .unwrap()
}

/// Value `k` of the target of `sample` at `stage`: different everywhere.
fn value(stage: usize, sample: usize, k: usize) -> f32 {
    (stage * 1000 + sample * 10 + k) as f32
}

fn write(writer: &StoreWriter, shard: &ShardEntry) -> Result<(), TrainError> {
    let samples = shard.start..shard.start + shard.samples;
    let labels: Vec<u32> = samples.clone().map(|i| i as u32 % 3).collect();
    let indices: Vec<usize> = samples.clone().map(|i| 7 * i + 2).collect();
    let features = |stage: usize| -> Vec<f32> {
        let len = STAGES[stage].1.iter().product();
        samples.clone().flat_map(|i| (0..len).map(move |k| value(stage, i, k))).collect()
    };
    let (first, second) = (features(0), features(1));
    let attained: Vec<u8> = samples.map(|i| u8::from(i != 5)).collect();
    let stages =
        [StageRows { target: &first, attained: &attained }, StageRows { target: &second, attained: &attained }];
    writer
        .write_shard(shard, ShardContent { stages: &stages, labels: &labels, indices: &indices, stats: &shard.samples })
}

fn fill(folder: &Path, manifest: Manifest) {
    let writer = StoreWriter::open(folder, manifest, false).unwrap();
    for shard in writer.missing().unwrap() {
        write(&writer, &shard).unwrap();
    }
    writer.finish(&"done").unwrap();
}

fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_row_comes_back_from_its_shard() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), manifest(10, 1.0));
    let store = TargetStore::open(folder.path()).unwrap();
    assert_eq!(store.manifest().shards.len(), 3);
    assert_eq!(store.labels().collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(store.indices().collect::<Vec<_>>(), [2, 9, 16, 23, 30, 37, 44, 51, 58, 65]);
    for (index, (name, _)) in STAGES.iter().enumerate() {
        let stage = store.stage(name).unwrap();
        assert_eq!(stage.samples(), 10);
        for sample in 0..10 {
            let expected: Vec<f32> = (0..stage.feature_len()).map(|k| value(index, sample, k)).collect();
            assert_eq!(stage.row(sample), expected);
            assert_eq!(stage.attained(sample), sample != 5);
        }
        assert_eq!(stage.shards().map(<[f32]>::len).sum::<usize>(), 10 * stage.feature_len());
    }
}

#[test]
fn an_interrupted_store_is_finished_with_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    fill(whole.path(), manifest(10, 1.0));

    let cut = tempfile::tempdir().unwrap();
    {
        let writer = StoreWriter::open(cut.path(), manifest(10, 1.0), false).unwrap();
        write(&writer, &writer.manifest().shards[1].clone()).unwrap();
        fs::write(cut.path().join(".fbp-1-1.part"), b"half").unwrap();
    }
    let error = TargetStore::open(cut.path()).unwrap_err();
    assert!(error.to_string().contains("shard-00000.safetensors is missing"), "{error}");
    let writer = StoreWriter::open(cut.path(), manifest(10, 1.0), false).unwrap();
    assert_eq!(writer.finished::<String>().unwrap(), None);
    assert_eq!(writer.missing().unwrap().iter().map(|s| s.start).collect::<Vec<_>>(), [0, 8]);
    drop(writer);
    fill(cut.path(), manifest(10, 1.0));
    assert_eq!(contents(cut.path()), contents(whole.path()));

    let writer = StoreWriter::open(cut.path(), manifest(10, 1.0), false).unwrap();
    assert_eq!(writer.shard_stats::<usize>().unwrap(), [4, 4, 2]);
    assert_eq!(writer.finished::<String>().unwrap().as_deref(), Some("done"));
}

#[test]
fn other_settings_are_refused_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), manifest(10, 1.0));
    let error = StoreWriter::open(folder.path(), manifest(10, 0.5), false).unwrap_err();
    assert!(error.to_string().contains("margin: 1.0, now 0.5"), "{error}");
    assert!(TargetStore::open(folder.path()).is_ok());

    fs::write(folder.path().join("notes.txt"), b"mine").unwrap();
    let writer = StoreWriter::open(folder.path(), manifest(10, 0.5), true).unwrap();
    assert_eq!(writer.missing().unwrap().len(), 3);
    assert_eq!(writer.finished::<String>().unwrap(), None);
    assert!(folder.path().join("notes.txt").exists());
}

#[test]
fn damaged_shards_are_found_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), manifest(10, 1.0));
    let path = folder.path().join("shard-00001.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut edited = whole.clone();
    let at = edited.windows(6).position(|w| w == b"labels").unwrap();
    edited[at] = b'L';
    for damaged in [&whole[..whole.len() - 1], &whole[..5], &[], &edited] {
        // A new file, as the rename of the writer makes one; changing a mapped file in place is not supported.
        fs::remove_file(&path).unwrap();
        fs::write(&path, damaged).unwrap();
        let error = TargetStore::open(folder.path()).unwrap_err();
        assert!(error.one_line().contains("shard-00001"), "{}", error.one_line());
        let writer = StoreWriter::open(folder.path(), manifest(10, 1.0), false).unwrap();
        assert_eq!(writer.missing().unwrap().len(), 1);
    }
    fill(folder.path(), manifest(10, 1.0));
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn values_that_are_not_finite_are_refused_with_the_shard() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), manifest(10, 1.0));
    let path = folder.path().join("shard-00002.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let needle = value(1, 9, 2).to_le_bytes();
    let at = (header..bytes.len() - 3).find(|&i| bytes[i..i + 4] == needle).unwrap();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let store = TargetStore::open(folder.path()).unwrap();
    assert!(store.stage("conv1").is_ok());
    let error = store.stage("conv2").unwrap_err().to_string();
    assert!(error.contains("shard-00002") && error.contains("not finite"), "{error}");
    let error = store.stage("conv3").unwrap_err().to_string();
    assert!(error.contains("conv1, conv2"), "{error}");
}

#[test]
fn content_of_another_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let writer = StoreWriter::open(folder.path(), manifest(10, 1.0), false).unwrap();
    let shard = ShardEntry { samples: 3, ..writer.manifest().shards[0].clone() };
    let labels = [0; 4];
    let content = ShardContent { stages: &[], labels: &labels, indices: &[0; 4], stats: &0 };
    assert!(matches!(writer.write_shard(&shard, content), Err(TrainError::Mismatch { .. })));
    assert_eq!(contents(folder.path()).len(), 1);
}

#[test]
fn impossible_stores_and_other_versions_are_refused() {
    assert!(matches!(
        Manifest::new(ManifestParams { shard_samples: 0, ..manifest(10, 1.0).params }),
        Err(TrainError::Parameter { .. })
    ));
    let folder = tempfile::tempdir().unwrap();
    assert!(TargetStore::open(folder.path()).unwrap_err().to_string().contains("fbp targets"));
    fill(folder.path(), manifest(10, 1.0));
    let path = folder.path().join(MANIFEST_FILE);
    let text = fs::read_to_string(&path).unwrap();
    for (edited, part) in [
        (text.replace("\"format\": 2", "\"format\": 1"), "an older version of this program wrote it (layout 1"),
        ("{\"format\": 1, \"of_the_past\": true}".to_owned(), "with --force"),
        (text.replace("\"format\": 2", "\"format\": 3"), "a newer version"),
        (text.replace("\"margin\": 1.0", "\"margin\": 2.0"), "contradicts itself"),
        (text[..text.len() / 2].to_owned(), "not a manifest"),
    ] {
        fs::write(&path, edited).unwrap();
        let error = TargetStore::open(folder.path()).unwrap_err();
        assert!(error.one_line().contains(part), "{}", error.one_line());
    }
}
