use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::{MANIFEST_FILE, Manifest, ManifestParams, ShardEntry, StageEntry};
use crate::TrainError;
use crate::metrics::all_finite;

/// A finished target store, mapped into memory: nothing is read before it is needed.
#[derive(Debug)]
pub struct TargetStore {
    folder: PathBuf,
    manifest: Manifest,
    shards: Vec<Shard>,
}

/// One mapped shard, and where its tensors lie in the file.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    map: Mmap,
    labels: Range<usize>,
    indices: Range<usize>,
    targets: Vec<Range<usize>>,
    attained: Vec<Range<usize>>,
}

/// Maps a whole file.
#[expect(unsafe_code, reason = "memory maps are the one way to read shards without copying them")]
pub(super) fn map_file(path: &Path) -> Result<Mmap, TrainError> {
    let file = File::open(path).map_err(TrainError::reading(path))?;
    // SAFETY: the map is read-only, and files of a store are never changed in place: they are replaced by renaming or
    // removed, and in both cases an existing map keeps showing the old contents.
    unsafe { Mmap::map(&file) }.map_err(TrainError::reading(path))
}

impl Shard {
    /// Maps a shard and checks that it holds what the manifest says.
    pub(super) fn open(path: &Path, manifest: &Manifest, entry: &ShardEntry) -> Result<Self, TrainError> {
        let map = map_file(path)?;
        let format = |source| TrainError::Shard { path: path.to_owned(), source };
        let tensors = SafeTensors::deserialize(&map).map_err(format)?;
        let locate = |name: &str, dtype: Dtype, shape: &[usize]| -> Result<Range<usize>, TrainError> {
            let view = tensors.tensor(name).map_err(format)?;
            if view.dtype() != dtype || view.shape() != shape {
                return Err(TrainError::Mismatch {
                    left: path.display().to_string(),
                    right: "the manifest of its store".into(),
                    reason: format!(
                        "tensor {name} is {:?} {:?} instead of {dtype:?} {shape:?}; delete the file and run \
                         `fbp targets` again",
                        view.dtype(),
                        view.shape()
                    ),
                });
            }
            let start = view.data().as_ptr().addr() - map.as_ptr().addr();
            Ok(start..start + view.data().len())
        };
        let n = entry.samples;
        let stages = &manifest.params.stages;
        let labels = locate("labels", Dtype::I64, &[n])?;
        let indices = locate("indices", Dtype::I64, &[n])?;
        let targets = stages
            .iter()
            .map(|stage| locate(&format!("target.{}", stage.name), Dtype::F32, &stage.tensor_dims(n)))
            .collect::<Result<Vec<_>, _>>()?;
        let attained = stages
            .iter()
            .map(|stage| locate(&format!("attained.{}", stage.name), Dtype::U8, &[n]))
            .collect::<Result<Vec<_>, _>>()?;
        let shard = Self { path: path.to_owned(), labels, indices, targets, attained, map };
        // The writer aligns tensors; a file of another program may not, and could not be viewed as numbers.
        let aligned = |range: &Range<usize>| bytemuck::try_cast_slice::<u8, f32>(&shard.map[range.clone()]).is_ok();
        let is_whole = |range: &Range<usize>| bytemuck::try_cast_slice::<u8, i64>(&shard.map[range.clone()]).is_ok();
        if ![&shard.labels, &shard.indices].into_iter().all(is_whole) || !shard.targets.iter().all(aligned) {
            return Err(TrainError::Mismatch {
                left: path.display().to_string(),
                right: "the layout of shards".into(),
                reason: "its tensors are not aligned; delete the file and run `fbp targets` again".into(),
            });
        }
        Ok(shard)
    }

    fn whole_numbers(&self, range: &Range<usize>) -> &[i64] {
        bytemuck::cast_slice(&self.map[range.clone()])
    }

    fn target(&self, stage: usize) -> &[f32] {
        bytemuck::cast_slice(&self.map[self.targets[stage].clone()])
    }
}

impl TargetStore {
    /// Opens a store and checks every shard against the manifest.
    ///
    /// # Errors
    /// [`TrainError::Read`] if there is no store, [`TrainError::Store`] if shards are missing, [`TrainError::Shard`]
    /// or [`TrainError::Mismatch`] for damaged ones.
    pub fn open(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(MANIFEST_FILE);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let reason = "there is no manifest.json; make the targets with `fbp targets` first".into();
                return Err(TrainError::Store { folder: folder.to_owned(), reason });
            }
            read => read.map_err(TrainError::reading(&path))?,
        };
        let manifest = Manifest::parse(folder, &path, &text)?;
        let mut shards = Vec::with_capacity(manifest.shards.len());
        for entry in &manifest.shards {
            match Shard::open(&folder.join(&entry.file), &manifest, entry) {
                Ok(shard) => shards.push(shard),
                Err(TrainError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    let reason = format!("{} is missing; run `fbp targets` again to finish the store", entry.file);
                    return Err(TrainError::Store { folder: folder.to_owned(), reason });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { folder: folder.to_owned(), manifest, shards })
    }

    /// Folder of the store.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The labels of all samples, in the order of the data set.
    pub fn labels(&self) -> impl Iterator<Item = u32> {
        let of = |shard: &'_ Shard| shard.whole_numbers(&shard.labels).to_vec();
        self.shards.iter().flat_map(of).map(|label| u32::try_from(label).unwrap_or(u32::MAX))
    }

    /// Where each sample is in the files of the data set, from 0.
    pub fn indices(&self) -> impl Iterator<Item = usize> {
        let of = |shard: &'_ Shard| shard.whole_numbers(&shard.indices).to_vec();
        self.shards.iter().flat_map(of).map(|index| usize::try_from(index).unwrap_or(usize::MAX))
    }

    /// The targets of one stage, checked to be finite.
    ///
    /// # Errors
    /// [`TrainError::UnknownStage`] with the list of stages, [`TrainError::Store`] for a value that is not finite.
    pub fn stage(&self, name: &str) -> Result<StageTargets<'_>, TrainError> {
        let targets = self.unchecked_stage(name)?;
        for shard in &self.shards {
            self.check_finite(shard, shard.target(targets.index))?;
        }
        Ok(targets)
    }

    /// The target of one sample at a stage, checked to be finite; no other one is read.
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn target(&self, stage: &str, sample: usize) -> Result<&[f32], TrainError> {
        let targets = self.unchecked_stage(stage)?;
        let (shard, _) = targets.place(sample);
        let target = targets.row(sample);
        self.check_finite(shard, target)?;
        Ok(target)
    }

    fn unchecked_stage(&self, name: &str) -> Result<StageTargets<'_>, TrainError> {
        let stages = &self.manifest.params.stages;
        let index = stages.iter().position(|stage| stage.name == name).ok_or_else(|| TrainError::UnknownStage {
            stage: name.to_owned(),
            known: stages.iter().map(|stage| stage.name.as_str()).collect::<Vec<_>>().join(", "),
        })?;
        Ok(StageTargets { store: self, index, feature_len: stages[index].feature_len() })
    }

    fn check_finite(&self, shard: &Shard, targets: &[f32]) -> Result<(), TrainError> {
        if all_finite(targets) {
            return Ok(());
        }
        let file = shard.path.display();
        let reason = format!("{file} holds a target that is not finite; delete the file and run `fbp targets` again");
        Err(TrainError::Store { folder: self.folder.clone(), reason })
    }
}

/// The targets of one stage of a [`TargetStore`].
#[derive(Clone, Copy, Debug)]
pub struct StageTargets<'a> {
    store: &'a TargetStore,
    index: usize,
    feature_len: usize,
}

impl<'a> StageTargets<'a> {
    /// The stage.
    pub fn entry(&self) -> &'a StageEntry {
        &self.store.manifest.params.stages[self.index]
    }

    /// What the targets were made from and with.
    pub fn params(&self) -> &'a ManifestParams {
        &self.store.manifest.params
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.store.manifest.samples()
    }

    /// Number of entries of one target.
    pub fn feature_len(&self) -> usize {
        self.feature_len
    }

    /// The targets of each shard in turn, one sample after the other.
    pub fn shards(&self) -> impl Iterator<Item = &'a [f32]> {
        let index = self.index;
        self.store.shards.iter().map(move |shard| shard.target(index))
    }

    /// Target of one sample.
    ///
    /// # Panics
    /// If `sample` is not below [`samples`](Self::samples).
    pub fn row(&self, sample: usize) -> &'a [f32] {
        let (shard, row) = self.place(sample);
        &shard.target(self.index)[row * self.feature_len..(row + 1) * self.feature_len]
    }

    /// Whether the frozen rest of the network turns the target of this sample into what was demanded, as
    /// [`BoundaryReport`](fbp_inverse::BoundaryReport) says.
    ///
    /// # Panics
    /// If `sample` is not below [`samples`](Self::samples).
    pub fn attained(&self, sample: usize) -> bool {
        let (shard, row) = self.place(sample);
        shard.map[shard.attained[self.index].clone()][row] != 0
    }

    fn place(&self, sample: usize) -> (&'a Shard, usize) {
        let size = self.store.manifest.params.shard_samples;
        (&self.store.shards[sample / size], sample % size)
    }
}
