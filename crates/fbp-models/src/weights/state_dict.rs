use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::pytorch::{self, PytorchFile};
use super::safetensors_file::SafetensorsFile;
use super::{ElementType, Format, TensorInfo, WeightsFault, shards};
use crate::ModelError;

/// Named tensors in a file that somebody else wrote, read one by one when they are asked for.
///
/// Reads what `torch.save` has ever written (`.pth`, `.pt`: zip, legacy and tar, of a state dict, of anything that contains one,
/// or of a whole module), safetensors, and safetensors in several files (the `*.index.json`, or the folder that has it).
/// What a file is, is told by its contents.
///
/// Opening reads names, types and shapes. Nothing in a file is trusted: what it declares is checked before memory is
/// asked for, and opening takes no more than a few hundred MB whatever it says. A tar file is kept in memory as it is.
/// No code in a pickle is run.
///
/// # Example
/// ```no_run
/// use std::path::Path;
/// use fbp_models::weights::StateDict;
///
/// let weights = StateDict::open(Path::new("resnet18.pth"))?;
/// for (name, info) in weights.tensors() {
///     println!("{name}: {} {:?}", info.element, info.shape);
/// }
/// let stem: Vec<f32> = weights.read("conv1.weight")?;
/// # Ok::<(), fbp_models::ModelError>(())
/// ```
#[derive(Debug)]
pub struct StateDict {
    path: PathBuf,
    format: Format,
    tensors: BTreeMap<String, TensorInfo>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Pytorch(PytorchFile),
    /// The files, and which of them has a tensor.
    Safetensors(Vec<SafetensorsFile>, HashMap<String, usize>),
}

impl StateDict {
    /// Opens a file, an index of several files, or the folder of either.
    ///
    /// # Errors
    /// [`ModelError::Io`] if it cannot be read, [`ModelError::Weights`] with what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if path.is_dir() {
            return Self::open(&shards::of_folder(path)?);
        }
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".json")) {
            return Self::open_shards(path);
        }
        let start = start_of(path)?;
        if looks_like_safetensors(&start) {
            let (file, tensors) = SafetensorsFile::open(path)?;
            let shards = tensors.keys().map(|name| (name.clone(), 0)).collect();
            let source = Source::Safetensors(vec![file], shards);
            return Ok(Self { path: path.to_owned(), format: Format::Safetensors, tensors, source });
        }
        if !pytorch::is_possible(&start) {
            return Err(WeightsFault::Unknown(what_it_is(&start).into()).of(path));
        }
        let (file, format, tensors) = PytorchFile::open(path, &start)?;
        Ok(Self { path: path.to_owned(), format, tensors, source: Source::Pytorch(file) })
    }

    fn open_shards(path: &Path) -> Result<Self, ModelError> {
        let (mut files, mut tensors, mut shards) = (Vec::new(), BTreeMap::new(), HashMap::new());
        for (file, listed) in shards::read_index(path)? {
            let (shard, infos) = SafetensorsFile::open(&file)?;
            if let Some(tensor) = listed.iter().find(|&tensor| !infos.contains_key(tensor)) {
                let shard = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Err(WeightsFault::NotInShard { tensor: tensor.clone(), shard }.of(path));
            }
            for (name, info) in infos {
                shards.insert(name.clone(), files.len());
                if tensors.insert(name.clone(), info).is_some() {
                    return Err(WeightsFault::Duplicate(name).of(path));
                }
            }
            files.push(shard);
        }
        let source = Source::Safetensors(files, shards);
        Ok(Self { path: path.to_owned(), format: Format::ShardedSafetensors, tensors, source })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of file it is.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Every tensor by name, without its numbers.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The numbers of a tensor as weights, row by row.
    ///
    /// # Errors
    /// [`WeightsFault::NoTensor`], [`WeightsFault::ElementType`] for anything but floating-point numbers,
    /// [`WeightsFault::NonFinite`], and what can go wrong with a file.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.read_noting_loss(name)?.0)
    }

    /// As [`read`](Self::read), and whether no number had to be rounded.
    pub(super) fn read_noting_loss(&self, name: &str) -> Result<(Vec<f32>, bool), ModelError> {
        let element = self.info(name)?.element;
        let wrong = || WeightsFault::ElementType { tensor: name.to_owned(), found: element.to_string() }.of(&self.path);
        if !element.is_float() {
            return Err(wrong());
        }
        let (values, exact) = element.weights(&self.bytes(name)?).ok_or_else(wrong)?;
        Ok((self.finite(name, values, 0)?, exact))
    }

    /// As [`read`](Self::read), only some rows of a tensor, the index along its first axis being that of the row. From a
    /// safetensors file nothing else is read; a file of `torch.save` gives its tensors as a whole.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`WeightsFault::NoRows`] if there are no such rows.
    pub fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>, ModelError> {
        let info = self.info(name)?;
        let (count, rest) = info.shape.split_first().map_or((0, &[][..]), |(&count, rest)| (count, rest));
        if rows.start > rows.end || rows.end > count {
            let (tensor, shape) = (name.to_owned(), info.shape.clone());
            return Err(WeightsFault::NoRows { tensor, rows, shape }.of(&self.path));
        }
        let len: usize = rest.iter().product();
        let (start, end) = (rows.start * len, rows.end * len); // below the length of a tensor that was checked
        let size = info.element.size().filter(|_| info.element.is_float());
        if let (Source::Safetensors(files, shards), Some(size)) = (&self.source, size) {
            let missing = || WeightsFault::NoTensor(name.to_owned()).of(&self.path);
            let file = shards.get(name).and_then(|&shard| files.get(shard)).ok_or_else(missing)?;
            let bytes = file.read(name, info.element, start * size..end * size)?;
            let (values, _) = info.element.weights(&bytes).ok_or_else(missing)?;
            return self.finite(name, values, start);
        }
        Ok(self.read(name)?.drain(start..end).collect())
    }

    /// The values, if all of them are finite; `start` is the position of the first.
    fn finite(&self, name: &str, values: Vec<f32>, start: usize) -> Result<Vec<f32>, ModelError> {
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => {
                Err(WeightsFault::NonFinite { tensor: name.to_owned(), index: start + index }.of(&self.path))
            }
            None => Ok(values),
        }
    }

    /// The numbers of a tensor of integers, as counters are.
    ///
    /// # Errors
    /// As [`read`](Self::read), for anything but integers that fit 64 bits.
    pub fn read_integers(&self, name: &str) -> Result<Vec<i64>, ModelError> {
        let element = self.info(name)?.element;
        let wrong = || WeightsFault::ElementType { tensor: name.to_owned(), found: element.to_string() }.of(&self.path);
        if element.is_float() || element == ElementType::Other {
            return Err(wrong());
        }
        element.integers(&self.bytes(name)?).ok_or_else(wrong)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, ModelError> {
        self.tensors.get(name).ok_or_else(|| WeightsFault::NoTensor(name.to_owned()).of(&self.path))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, ModelError> {
        let info = self.info(name)?;
        let missing = || WeightsFault::NoTensor(name.to_owned()).of(&self.path);
        let bytes = match &self.source {
            Source::Pytorch(file) => file.read(&self.path, name)?,
            Source::Safetensors(files, shards) => {
                let file = shards.get(name).and_then(|&shard| files.get(shard)).ok_or_else(missing)?;
                file.read(name, info.element, 0..info.byte_len().unwrap_or(0))?
            }
        };
        if info.byte_len() != Some(bytes.len()) {
            let reason = format!("{name} has {} bytes and should have {:?}", bytes.len(), info.byte_len());
            return Err(WeightsFault::Damaged(reason).of(&self.path));
        }
        Ok(bytes)
    }
}

fn start_of(path: &Path) -> Result<Vec<u8>, ModelError> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(ModelError::io("open", path))?;
    file.take(pytorch::START as u64).read_to_end(&mut start).map_err(ModelError::io("read", path))?;
    Ok(start)
}

/// Whether a file begins with a length below 4 GiB and a brace, as only safetensors files do.
fn looks_like_safetensors(start: &[u8]) -> bool {
    start.get(4..8) == Some(&[0; 4]) && start.get(8) == Some(&b'{')
}

fn what_it_is(start: &[u8]) -> &'static str {
    if start.is_empty() {
        "it is empty"
    } else if start.starts_with(b"version https://git-lfs") {
        "it is a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    } else if start.starts_with(b"\x89HDF") {
        "it is HDF5, as Keras writes it"
    } else if start.starts_with(b"GGUF") {
        "it is GGUF, whose weights are quantised"
    } else if start.starts_with(b"<") {
        "it is a web page"
    } else {
        "it is none of PyTorch's kinds (zip, legacy, tar) and not safetensors"
    }
}
