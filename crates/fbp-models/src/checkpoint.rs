//! Checkpoints: safetensors files that carry the description of their network.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};

use crate::ops::with_values;
use crate::spec::ParamPlan;
use crate::{CheckpointFault, ModelError, Network, NetworkSpec, PREPROCESSING_KEY, Preprocessing};

/// Metadata key of the description, in JSON.
pub const NETWORK_KEY: &str = "fbp.network";

/// Metadata key of where imported weights came from, in JSON: see [`weights`](crate::weights).
pub const IMPORT_KEY: &str = "fbp.import";

/// Longest header that is read, in bytes.
const MAX_HEADER: u64 = 1 << 24;

/// A network from a file, with what else its metadata say.
#[derive(Debug)]
pub struct Checkpoint {
    /// The network.
    pub network: Network,
    /// What images go through before they reach it; none in files that do not tell.
    pub preprocessing: Option<Preprocessing>,
    /// All other metadata: how it was trained.
    pub metadata: BTreeMap<String, String>,
}

/// Writes a network, its description and free metadata; an existing file is replaced.
///
/// The file appears whole or not at all: it is written beside its destination, flushed to the disk and renamed. Equal
/// networks and metadata give equal files. An entry of `metadata` under [`NETWORK_KEY`] is ignored; how images are prepared
/// for the network goes into it with [`Preprocessing::to_metadata`].
///
/// # Errors
/// [`ModelError::Io`] if the folder cannot be written.
///
/// # Example
/// ```
/// use std::collections::BTreeMap;
/// use fbp_models::{Checkpoint, Network, checkpoint, zoo};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("network.safetensors");
/// let network = Network::new(&zoo::spec("mlp")?, 0)?;
/// checkpoint::save(&path, &network, &BTreeMap::from([("epochs".into(), "5".into())]))?;
/// let back = Checkpoint::load(&path)?;
/// assert_eq!(back.network.spec().name, "mlp");
/// assert_eq!(back.metadata["epochs"], "5");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save(path: &Path, network: &Network, metadata: &BTreeMap<String, String>) -> Result<(), ModelError> {
    write_file(path, &to_bytes(network, metadata)?)
}

/// Writes a file whole or not at all.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = temporary_in(folder).map_err(ModelError::io("create a file in", folder))?;
    temporary.write_all(bytes).map_err(ModelError::io("write", path))?;
    temporary.as_file().sync_all().map_err(ModelError::io("write", path))?;
    temporary.persist(path).map_err(|e| ModelError::io("write", path)(e.error))?;
    #[cfg(unix)] // other systems cannot open folders
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(ModelError::io("write", folder))?;
    Ok(())
}

fn temporary_in(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".checkpoint-");
    #[cfg(unix)] // as any new file, instead of readable by the owner alone
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// The bytes of a checkpoint, for callers that have their own way to write files. Keys are sorted, so that equal contents
/// give equal files.
///
/// # Errors
/// [`ModelError::Syntax`] if the description cannot be written as JSON, [`ModelError::Tensor`] for a tensor that is not
/// `f32` on the CPU.
pub fn to_bytes(network: &Network, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, ModelError> {
    let mut entries: Map<String, Value> = metadata.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    entries.insert(NETWORK_KEY.to_owned(), json!(network.spec().to_json()?));
    let mut header = Map::from_iter([("__metadata__".to_owned(), Value::Object(entries))]);
    let mut data = Vec::new();
    for (name, var) in network.state() {
        let start = data.len();
        with_values("checkpoint", &var, |values| {
            values.iter().for_each(|v| data.extend_from_slice(&v.to_le_bytes()));
            Ok(())
        })?;
        let info = json!({ "dtype": "F32", "shape": var.dims(), "data_offsets": [start, data.len()] });
        header.insert(name, info);
    }
    let mut bytes = Value::Object(header).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' '); // the data start aligned
    let mut file = (bytes.len() as u64).to_le_bytes().to_vec();
    file.append(&mut bytes);
    file.append(&mut data);
    Ok(file)
}

impl Checkpoint {
    /// The metadata that stay true when the weights are trained or repaired: where they came from, and how images are prepared
    /// for the network. Whatever is made of a checkpoint should be saved with them.
    ///
    /// # Errors
    /// As [`Preprocessing::to_metadata`].
    pub fn kept_metadata(&self) -> Result<BTreeMap<String, String>, ModelError> {
        let mut kept = self.preprocessing.as_ref().map_or_else(|| Ok(BTreeMap::new()), Preprocessing::to_metadata)?;
        kept.extend(self.metadata.get(IMPORT_KEY).map(|json| (IMPORT_KEY.to_owned(), json.clone())));
        Ok(kept)
    }

    /// Reads a checkpoint and the network it describes.
    ///
    /// Nothing in the file is trusted: sizes are checked against its length before memory is asked for.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the file cannot be read, [`ModelError::Checkpoint`] with what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        Opened::new(path)?.into_checkpoint(path)
    }

    /// Reads a checkpoint that must hold the given network; the name of the network does not matter.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`CheckpointFault::OtherArchitecture`] with the first difference.
    pub fn load_for(path: &Path, spec: &NetworkSpec) -> Result<Self, ModelError> {
        let opened = Opened::new(path)?;
        if let Some(difference) = opened.spec.difference(spec) {
            let (expected, found) = (spec.name.clone(), opened.spec.name.clone());
            return Err(CheckpointFault::OtherArchitecture { expected, found, difference }.of(path));
        }
        opened.into_checkpoint(path)
    }
}

/// The preprocessing, checked to give as many numbers as the network takes.
fn preprocessing_of(json: &str, spec: &NetworkSpec) -> Result<Preprocessing, ModelError> {
    let found = Preprocessing::from_json(json)?;
    let len = |shape: [usize; 3]| shape.into_iter().fold(1_usize, usize::saturating_mul);
    if len(found.input()) != len(spec.input) {
        let reason = format!("it gives images of {:?}, the network takes {:?}", found.input(), spec.input);
        return Err(ModelError::Preprocessing { reason });
    }
    Ok(found)
}

/// A file whose header has been read and checked.
struct Opened {
    file: File,
    header: Metadata,
    spec: NetworkSpec,
    preprocessing: Option<Preprocessing>,
    metadata: BTreeMap<String, String>,
}

impl Opened {
    fn new(path: &Path) -> Result<Self, ModelError> {
        let format = |reason: String| CheckpointFault::Format(reason).of(path);
        let mut file = File::open(path).map_err(ModelError::io("open", path))?;
        let length = file.metadata().map_err(ModelError::io("read", path))?.len();
        let mut size = [0; 8];
        if length < 8 {
            return Err(format(format!("it has only {length} bytes")));
        }
        file.read_exact(&mut size).map_err(ModelError::io("read", path))?;
        let header_len = u64::from_le_bytes(size);
        if header_len > MAX_HEADER || header_len > length - 8 {
            return Err(format(format!("its header should have {header_len} bytes, the file has {length}")));
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact(&mut header).map_err(ModelError::io("read", path))?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|e| format(format!("header: {e}")))?;
        let expected = (header.data_len() as u64).saturating_add(8 + header_len);
        if expected != length {
            return Err(format(format!("it should have {expected} bytes and has {length}")));
        }
        let mut metadata: BTreeMap<String, String> =
            header.metadata().clone().unwrap_or_default().into_iter().collect();
        let json = metadata.remove(NETWORK_KEY).ok_or_else(|| CheckpointFault::NoArchitecture.of(path))?;
        let spec = NetworkSpec::from_json(&json).map_err(|e| CheckpointFault::BadArchitecture(Box::new(e)).of(path))?;
        let preprocessing = metadata.remove(PREPROCESSING_KEY).map(|json| preprocessing_of(&json, &spec)).transpose();
        let preprocessing = preprocessing.map_err(|e| CheckpointFault::BadPreprocessing(Box::new(e)).of(path))?;
        Ok(Self { file, header, spec, preprocessing, metadata })
    }

    /// Checks that the file has exactly the tensors of its description.
    fn check_tensors(&self) -> Result<(), CheckpointFault> {
        let plan = self.spec.plan().map_err(|e| CheckpointFault::BadArchitecture(Box::new(e)))?;
        let mut known = HashSet::new();
        for (tensor, param) in plan.parameters() {
            let Some(info) = self.header.info(&tensor) else { return Err(CheckpointFault::MissingTensor(tensor)) };
            if info.dtype != Dtype::F32 {
                return Err(CheckpointFault::Dtype { tensor, found: format!("{:?}", info.dtype) });
            }
            if info.shape != param.dims {
                return Err(CheckpointFault::Shape { tensor, expected: param.dims.clone(), found: info.shape.clone() });
            }
            known.insert(tensor);
        }
        match self.header.offset_keys().into_iter().find(|name| !known.contains(name)) {
            Some(name) => Err(CheckpointFault::UnexpectedTensor(name)),
            None => Ok(()),
        }
    }

    fn into_checkpoint(mut self, path: &Path) -> Result<Checkpoint, ModelError> {
        self.check_tensors().map_err(|fault| fault.of(path))?;
        let mut data = vec![0; self.header.data_len()]; // as long as the file, which was checked
        self.file.read_exact(&mut data).map_err(ModelError::io("read", path))?;
        let infos: HashMap<_, _> = self.header.tensors();
        let mut source = |name: &str, param: &ParamPlan| {
            let missing = || CheckpointFault::MissingTensor(name.to_owned()).of(path);
            let (start, end) = infos.get(name).ok_or_else(missing)?.data_offsets;
            let bytes = data.get(start..end).ok_or_else(missing)?.chunks_exact(4);
            let values: Vec<f32> = bytes.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            if let Some(index) = values.iter().position(|v| !v.is_finite()) {
                return Err(CheckpointFault::NonFinite { tensor: name.to_owned(), index }.of(path));
            }
            Ok(Tensor::from_vec(values, param.dims.as_slice(), &Device::Cpu)?)
        };
        let network = Network::build(&self.spec, &mut source)?;
        Ok(Checkpoint { network, preprocessing: self.preprocessing, metadata: self.metadata })
    }
}

#[cfg(test)]
mod tests;
