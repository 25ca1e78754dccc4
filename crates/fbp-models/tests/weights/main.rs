//! Weights that PyTorch wrote, and files that nobody should trust.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod exporting;
mod hostile;
mod importing;
mod reading;
mod reference;
mod torch_file;

use std::path::{Path, PathBuf};

use fbp_models::weights::StateDict;
use fbp_models::{ModelError, NetworkSpec, WeightsFault};
use torch_file::TorchFile;

/// The network of the files in `tests/data/torch`.
const TINY: &str = r#"
name = "tiny"
input = [2, 6, 6]
classes = 3

[[stages]]
name = "stem"
layers = [{ type = "conv2d", out_channels = 4, kernel = 3 }, { type = "batch_norm" }, { type = "relu" }]

[[stages]]
name = "out"
layers = [{ type = "flatten" }, { type = "linear", out_features = 3 }]
"#;

fn tiny() -> NetworkSpec {
    NetworkSpec::from_toml(TINY).unwrap()
}

/// A file that PyTorch wrote.
fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/torch").join(name)
}

/// The parameters of the small network in some file, each with numbers of its own.
fn tiny_file() -> TorchFile {
    let plan = tiny().plan().unwrap();
    let tensors: Vec<_> = plan
        .parameters()
        .enumerate()
        .map(|(index, (name, param))| {
            let len: usize = param.dims.iter().product();
            (name, param.dims.clone(), (0..len).map(|k| 1.0 + (index * 100 + k) as f32 / 64.0).collect())
        })
        .collect();
    TorchFile::of(&tensors)
}

/// A folder for files of one test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// What is wrong with a file.
fn fault(error: ModelError) -> WeightsFault {
    match error {
        ModelError::Weights { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

/// What opening a file with these bytes gives.
fn opened(bytes: &[u8]) -> Result<StateDict, WeightsFault> {
    let folder = Folder::new();
    StateDict::open(&folder.write("weights.pth", bytes)).map_err(fault)
}
