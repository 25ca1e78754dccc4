//! Real files of every kind: those of the tests and the data of this repository, cut to a size that can be changed often.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use fbp_models::catalogue::{self, LayerEntry};
use fbp_models::{Network, checkpoint, zoo};
use fbp_train::data::{DataBundle, DataSource, LoadOptions, Normalization, idx, to_tensors};
use fbp_train::progress::Silent;
use fbp_train::settings::TargetMode;
use fbp_train::store::StoreWriter;
use fbp_train::sweep::FORMAT;
use fbp_train::targets::{TargetsOptions, TargetsSource, compute_targets};
use fbp_train::train::{
    Goal, PostTrainOptions, PostTrainRecord, PretrainOptions, SaveEvery, post_train, pretrain_to_file,
};
use fbp_train::{DataIdentity, Objective};

/// Samples of small data sets.
const SAMPLES: usize = 12;

/// A folder of this repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// All files of a folder with an ending.
fn files(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(repository(folder)).map(|entries| entries.flatten().map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = entries.map(Iterator::collect).unwrap_or_default();
    paths.retain(|path| path.to_string_lossy().ends_with(ending) && !path.to_string_lossy().contains(".expected."));
    paths.sort();
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}

/// The files that everything below is made into, once.
struct Made {
    idx_images: Vec<Vec<u8>>,
    idx_labels: Vec<Vec<u8>>,
    data: Vec<u8>,
    checkpoint: Vec<u8>,
    manifest: Vec<u8>,
    shard: Vec<u8>,
    records: Vec<Vec<u8>>,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| make().unwrap_or_else(|error| panic!("the seeds cannot be made: {error}")))
}

/// A few images of the data that ship with the repository, small enough for many cases.
fn small_data() -> Result<DataBundle, Box<dyn std::error::Error>> {
    let all = DataSource::FashionMnistMini.load(&LoadOptions::default(), &Silent)?;
    let part = all.train.subset(&(0..SAMPLES).collect::<Vec<_>>())?;
    Ok(DataBundle::new(part.clone(), part, Normalization::fashion_mnist(), "small"))
}

fn make() -> Result<Made, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let data = small_data()?;
    let images = idx::IdxImages { shape: data.train.shape(), pixels: data.train.images().to_vec() };
    let mut idx_images = Vec::new();
    let mut idx_labels = Vec::new();
    for name in ["i", "i.gz"] {
        idx::write_images(&at(name), &images)?;
        idx_images.push(fs::read(at(name))?);
        idx::write_labels(&at(name), data.train.labels())?;
        idx_labels.push(fs::read(at(name))?);
    }
    let identity = DataIdentity { name: "small".into(), sha256: "0".repeat(64), samples: SAMPLES };
    let options = PretrainOptions { epochs: 1, validation: 0.0, ..PretrainOptions::default() };
    let spec = zoo::spec("simple-cnn-mnist-v1")?;
    let files = (at("p.safetensors"), at("p.json"));
    let settings = options.settings(spec, identity.clone());
    pretrain_to_file(settings, &data, (&files.0, &files.1), (SaveEvery::Auto, false), &Silent)?;
    let mut network = fbp_models::Checkpoint::load(&files.0)?.network;
    let targets = TargetsOptions { mode: TargetMode::Point, ..TargetsOptions::default() };
    let manifest = targets.manifest(&network, "0".repeat(64), identity.clone())?;
    let writer = StoreWriter::open(&at("store"), manifest, false)?;
    let source = TargetsSource { network: &network, data: &data.train, normalization: &data.normalization };
    compute_targets(source, &writer, &Silent)?;
    let options = PostTrainOptions { epochs: 1, validation: 0.0, ..PostTrainOptions::of(Objective::Full) };
    let goal: Option<Goal<'_>> = None;
    let curves = post_train(&mut network, "all", &data, goal, &options, &Silent)?;
    let record = PostTrainRecord::new(options.settings("m".into(), identity, "all".into()), curves);
    let records = vec![fs::read(&files.1)?, serde_json::to_vec_pretty(&record)?, fs::read(at("store/report.json"))?];
    Ok(Made {
        idx_images,
        idx_labels,
        data: to_tensors(&data)?,
        checkpoint: fs::read(&files.0)?,
        manifest: fs::read(at("store/manifest.json"))?,
        shard: fs::read(at("store/shard-00000.safetensors"))?,
        records,
    })
}

pub(crate) fn idx_images() -> Vec<Vec<u8>> {
    made().idx_images.clone()
}

pub(crate) fn idx_labels() -> Vec<Vec<u8>> {
    made().idx_labels.clone()
}

/// Two records of CIFAR-10.
pub(crate) fn cifar() -> Vec<Vec<u8>> {
    let record = |label: u8| [label].into_iter().chain((0..3072_u32).map(|k| (k * 7 % 251) as u8)).collect::<Vec<_>>();
    vec![[record(1), record(9)].concat()]
}

/// Files that a reader wants beside the input.
pub(crate) fn companions() -> Vec<(String, Vec<u8>)> {
    let batches = (2..=5).map(|number| format!("data_batch_{number}.bin")).chain(["test_batch.bin".to_owned()]);
    let mut files: Vec<_> = batches.map(|name| (format!("cifar10/{name}"), cifar()[0].clone())).collect();
    files.push(("store/.keep".into(), Vec::new()));
    files
}

pub(crate) fn data_tensors() -> Vec<Vec<u8>> {
    vec![made().data.clone()]
}

pub(crate) fn pytorch() -> Vec<Vec<u8>> {
    files("crates/fbp-models/tests/data/torch", ".pth")
}

pub(crate) fn safetensors() -> Vec<Vec<u8>> {
    let mut all = files("crates/fbp-models/tests/data/torch", ".safetensors");
    all.push(every_element());
    all
}

/// A tensor of two elements of every type.
fn every_element() -> Vec<u8> {
    let types = [("64", 8), ("32", 4), ("16", 2), ("8", 1)];
    let whole = types.iter().flat_map(|(bits, bytes)| [(format!("I{bits}"), *bytes), (format!("U{bits}"), *bytes)]);
    let floats = types[..3].iter().map(|(bits, bytes)| (format!("F{bits}"), *bytes));
    let others = [("BF16".to_owned(), 2), ("BOOL".to_owned(), 1)];
    let (mut tensors, mut end) = (serde_json::Map::new(), 0);
    for (name, bytes) in whole.chain(floats).chain(others) {
        let data_offsets = [end, end + 2 * bytes];
        end = data_offsets[1];
        let tensor = serde_json::json!({ "dtype": name, "shape": [2], "data_offsets": data_offsets });
        tensors.insert(name.to_lowercase(), tensor);
    }
    let header = serde_json::Value::Object(tensors).to_string();
    let values = (0..end).map(|place| (place % 2) as u8);
    (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(values).collect()
}

pub(crate) fn checkpoints() -> Vec<Vec<u8>> {
    let other = ["resnet20", "simple-vit"].iter().filter_map(|name| {
        let spec = zoo::spec(name).ok()?;
        // Too large to be changed often, but for its header.
        let bytes = checkpoint::to_bytes(&Network::new(&spec, 0).ok()?, &BTreeMap::new()).ok()?;
        Some(bytes[..bytes.len().min(1 << 16)].to_vec())
    });
    std::iter::once(made().checkpoint.clone()).chain(other).collect()
}

pub(crate) fn networks() -> Vec<Vec<u8>> {
    let zoo = zoo::names().iter().map(|name| zoo::spec(name));
    let layers = catalogue::layers().iter().map(LayerEntry::network);
    zoo.chain(layers).filter_map(|spec| Some(spec.and_then(|spec| spec.to_toml()).ok()?.into_bytes())).collect()
}

/// The example of the documentation.
pub(crate) fn sweeps() -> Vec<Vec<u8>> {
    let text = FORMAT.split("```").find(|part| part.contains("[[runs]]")).unwrap_or(FORMAT);
    vec![text.trim_start_matches("toml").as_bytes().to_vec()]
}

pub(crate) fn manifests() -> Vec<Vec<u8>> {
    vec![made().manifest.clone()]
}

pub(crate) fn target_shards() -> Vec<Vec<u8>> {
    vec![made().shard.clone()]
}

pub(crate) fn records() -> Vec<Vec<u8>> {
    made().records.clone()
}

pub(crate) fn png() -> Vec<Vec<u8>> {
    files("crates/fbp-train/tests/pillow/files", ".png")
}

pub(crate) fn jpeg() -> Vec<Vec<u8>> {
    files("crates/fbp-train/tests/pillow/files", ".jpg")
}
