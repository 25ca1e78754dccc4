//! Every reader of files from elsewhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fbp_models::weights::StateDict;
use fbp_models::{Checkpoint, NetworkSpec};
use fbp_train::data::{DataSource, LoadOptions, idx};
use fbp_train::evaluate::EvalRecord;
use fbp_train::explain::ExplainRecord;
use fbp_train::image_files;
use fbp_train::json::read_json;
use fbp_train::progress::Silent;
use fbp_train::repair::RepairRecord;
use fbp_train::store::{StageEntry, TargetStore};
use fbp_train::sweep::SweepConfig;
use fbp_train::targets::TargetsReport;
use fbp_train::train::{PostTrainRecord, PretrainRecord};
use tempfile::TempDir;

use crate::{seeds, sources};

/// One reader.
#[derive(Debug)]
pub struct Reader {
    /// Its name.
    pub name: &'static str,
    /// Real files, which it reads.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Reads an input; whether it is one of the kind.
    pub(crate) read: fn(&[u8], &Place) -> bool,
    /// How many bytes may be in use for each byte of input, besides a fixed number: what is compressed grows by up to 1,032.
    pub bytes_per_byte: f64,
    /// The files of this repository that read it, for `cargo xtask fuzz --coverage`.
    pub sources: &'static [&'static str],
}

/// Where a case has its files.
#[derive(Debug)]
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> io::Result<Self> {
        let folder = tempfile::tempdir_in(folder_in_memory())?;
        for (name, bytes) in seeds::companions() {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap_or(folder.path()))?;
            fs::write(path, bytes)?;
        }
        Ok(Self { folder })
    }

    /// The input as a file; nothing is read if it cannot be written.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        // What cannot be written is not there, and no reader can take it for something.
        let _ = fs::write(&path, bytes);
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Where files of a moment are written: in memory where the system offers that, because waiting for a disk takes four times as long
/// as all the rest.
pub fn folder_in_memory() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

/// Copies of the file, of its text, and of what is made of it.
const PLAIN: f64 = 64.0;
/// Deflate makes up to 1,032 bytes of one; a copy of them is made.
const COMPRESSED: f64 = 3.0 * 1032.0;
/// A byte of JPEG may hold eight blocks of 64 pixels, each with its coefficients, its colours, and a copy of them; narrow images are
/// padded to up to four blocks, as their colours may be sampled.
const CODED: f64 = 4.0 * 512.0 * 16.0;
/// Texts become trees, whose nodes take more than the text.
const TREE: f64 = 512.0;

/// All of them.
pub const READERS: [Reader; 14] = [
    reader("idx-images", seeds::idx_images, idx_images, COMPRESSED, sources::IDX),
    reader("idx-labels", seeds::idx_labels, idx_labels, COMPRESSED, sources::IDX),
    reader("cifar", seeds::cifar, cifar, COMPRESSED, sources::CIFAR),
    reader("data-safetensors", seeds::data_tensors, data_tensors, PLAIN, sources::DATA_SAFETENSORS),
    reader("pytorch", seeds::pytorch, weights, COMPRESSED, sources::PYTORCH),
    reader("safetensors", seeds::safetensors, weights, PLAIN, sources::SAFETENSORS),
    reader("checkpoint", seeds::checkpoints, checkpoint, TREE, sources::CHECKPOINT),
    reader("network", seeds::networks, network, TREE, sources::NETWORK),
    reader("sweep", seeds::sweeps, sweep, TREE, sources::SWEEP),
    reader("manifest", seeds::manifests, manifest, TREE, sources::MANIFEST),
    reader("target-shard", seeds::target_shards, target_shard, PLAIN, sources::TARGET_SHARD),
    reader("records", seeds::records, records, TREE, sources::RECORDS),
    reader("png", seeds::png, picture, COMPRESSED, sources::PNG),
    reader("jpeg", seeds::jpeg, picture, CODED, sources::JPEG),
];

const fn reader(
    name: &'static str,
    seeds: fn() -> Vec<Vec<u8>>,
    read: fn(&[u8], &Place) -> bool,
    bytes_per_byte: f64,
    sources: &'static [&'static str],
) -> Reader {
    Reader { name, seeds, read, bytes_per_byte, sources }
}

fn idx_images(bytes: &[u8], place: &Place) -> bool {
    idx::read_images(&place.file("images", bytes)).is_ok()
}

fn idx_labels(bytes: &[u8], place: &Place) -> bool {
    idx::read_labels(&place.file("labels", bytes)).is_ok()
}

fn load(source: &DataSource) -> bool {
    source.load(&LoadOptions::default(), &Silent).is_ok()
}

/// A file among others of its release, all of them beside it.
fn cifar(bytes: &[u8], place: &Place) -> bool {
    place.file("cifar10/data_batch_1.bin", bytes);
    let options = LoadOptions { data_dir: Some(place.path("")), ..LoadOptions::default() };
    DataSource::Cifar10.load(&options, &Silent).is_ok()
}

fn data_tensors(bytes: &[u8], place: &Place) -> bool {
    load(&DataSource::Tensors(place.file("data.safetensors", bytes)))
}

fn weights(bytes: &[u8], place: &Place) -> bool {
    let Ok(found) = StateDict::open(&place.file("weights", bytes)) else { return false };
    let names: Vec<&String> = found.tensors().keys().collect();
    // All of them, whatever is wrong with one.
    names.iter().filter(|name| found.read(name).is_err() && found.read_integers(name).is_err()).count() == 0
}

fn checkpoint(bytes: &[u8], place: &Place) -> bool {
    Checkpoint::load(&place.file("c.safetensors", bytes)).is_ok()
}

fn network(bytes: &[u8], _: &Place) -> bool {
    let text = String::from_utf8_lossy(bytes);
    NetworkSpec::from_toml(&text).and_then(|spec| spec.plan()).is_ok()
}

fn sweep(bytes: &[u8], _: &Place) -> bool {
    SweepConfig::parse(&String::from_utf8_lossy(bytes), Path::new("sweep.toml")).is_ok()
}

/// Opens a store and looks at all of its targets.
fn store(place: &Place) -> bool {
    let Ok(store) = TargetStore::open(&place.path("store")) else { return false };
    let labels = store.labels().count();
    let stages = store.manifest().params.stages.iter();
    let all_there = |stage: &StageEntry| {
        store
            .stage(&stage.name)
            .is_ok_and(|targets| (0..targets.samples()).all(|sample| targets.row(sample).len() == stage.feature_len()))
    };
    stages.filter(|stage| !all_there(stage)).count() == 0 && labels == store.manifest().samples()
}

fn manifest(bytes: &[u8], place: &Place) -> bool {
    place.file("store/shard-00000.safetensors", &seeds::target_shards()[0]);
    place.file("store/manifest.json", bytes);
    store(place)
}

fn target_shard(bytes: &[u8], place: &Place) -> bool {
    place.file("store/manifest.json", &seeds::manifests()[0]);
    place.file("store/shard-00000.safetensors", bytes);
    store(place)
}

fn records(bytes: &[u8], place: &Place) -> bool {
    let path = place.file("record.json", bytes);
    let found = [
        matches!(read_json::<PretrainRecord>(&path, "record"), Ok(Some(_))),
        matches!(read_json::<PostTrainRecord>(&path, "record"), Ok(Some(_))),
        matches!(read_json::<RepairRecord>(&path, "record"), Ok(Some(_))),
        matches!(read_json::<EvalRecord>(&path, "record"), Ok(Some(_))),
        matches!(read_json::<ExplainRecord>(&path, "record"), Ok(Some(_))),
        matches!(read_json::<TargetsReport>(&path, "record"), Ok(Some(_))),
    ];
    found.contains(&true)
}

fn picture(bytes: &[u8], _: &Place) -> bool {
    let header = image_files::read_header(bytes).is_ok();
    image_files::decode(bytes).is_ok() && header
}
