use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{DRAFT_FILE, EXAMPLES_FILE, MANIFEST_FILE, Manifest, REPORT_FILE, SHARE_TIME, ShardEntry, TIME_FILE};
use crate::TrainError;
use crate::atomic::{FolderLock, prepare_folder, write_atomic};
use crate::outputs::OutputLock;
use crate::progress::Progress;
use crate::share::{Share, wait_for_lock};

/// The one metadata key of a shard. More than one would be written in random order.
const STATS_KEY: &str = "fbp";

/// Targets of one stage for the samples of one shard.
#[derive(Clone, Copy, Debug)]
pub struct StageRows<'a> {
    /// Target features, one sample after the other.
    pub target: &'a [f32],
    /// 1 where the frozen rest of the network turns the target into what was demanded, else 0.
    pub attained: &'a [u8],
}

/// What one shard holds.
#[derive(Clone, Copy, Debug)]
pub struct ShardContent<'a, S> {
    /// One entry for each stage of the manifest, in its order.
    pub stages: &'a [StageRows<'a>],
    /// Label of each sample.
    pub labels: &'a [u32],
    /// Where each sample is in the files of the data set.
    pub indices: &'a [usize],
    /// Statistics of the shard, kept in its metadata.
    pub stats: &'a S,
}

/// Writes a target store, or finishes one that an interrupted run left.
#[derive(Debug)]
pub struct StoreWriter {
    folder: PathBuf,
    manifest: Manifest,
    /// Which of the shards, where several processes make them.
    share: Option<Share>,
    _lock: FolderLock,
    _share_lock: Option<OutputLock>,
}

impl StoreWriter {
    /// Opens or creates the store in `folder` and removes what a killed run left half done.
    ///
    /// With `force` a store that is there is deleted first and made again; its other files are not touched.
    ///
    /// # Errors
    /// [`TrainError::OtherSettings`] if the folder holds other targets, [`TrainError::Foreign`] for files that would be
    /// replaced and belong to no store, both unless `force`,
    /// [`TrainError::Busy`] if another process writes to it, [`TrainError::Write`] if the folder cannot be written.
    pub fn open(folder: &Path, manifest: Manifest, force: bool) -> Result<Self, TrainError> {
        prepare_folder(folder)?;
        let lock = FolderLock::acquire(folder)?;
        Self::open_locked(folder, manifest, (None, force), (lock, None))
    }

    /// Opens or creates the store in `folder` to make a share of its shards, beside other processes that make theirs.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`TrainError::Busy`] if another process makes the same share, or the store alone.
    pub fn open_share(
        folder: &Path,
        manifest: Manifest,
        share: Share,
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        // Without removing anything: other machines may be at work, whose locks are not seen everywhere.
        fs::create_dir_all(folder).map_err(TrainError::writing(folder))?;
        let lock = FolderLock::share(folder)?;
        let own = OutputLock::acquire(&folder.join(format!("shard{}", share.suffix())))?;
        // One after the other finds a manifest or makes it.
        let _turn = wait_for_lock(&folder.join(MANIFEST_FILE), progress)?;
        Self::open_locked(folder, manifest, (Some(share), false), (lock, Some(own)))
    }

    /// Opens a store whose shards should all be there, to close it.
    ///
    /// # Errors
    /// [`TrainError::Store`] if there is none or its manifest cannot be used, [`TrainError::Shards`] if shards are missing,
    /// damaged or not its own, [`TrainError::Busy`] if they are still made.
    pub fn open_made(folder: &Path) -> Result<Self, TrainError> {
        let lock = FolderLock::acquire(folder)?;
        prepare_folder(folder)?;
        let path = folder.join(MANIFEST_FILE);
        let manifest = Manifest::parse(folder, &path, &fs::read(&path).map_err(TrainError::reading(&path))?)?;
        let wrong = |reason: String| TrainError::Shards { folder: folder.to_owned(), reason };
        let known: HashSet<PathBuf> = manifest.shards.iter().map(|shard| folder.join(&shard.file)).collect();
        if let Some(path) = own_files(folder)?.iter().find(|path| is_shard(path) && !known.contains(*path)) {
            return Err(wrong(format!("{} is none of the store's: remove it", path.display())));
        }
        let writer = Self { folder: folder.to_owned(), manifest, share: None, _lock: lock, _share_lock: None };
        let missing = writer.missing()?;
        match missing.first() {
            None => Ok(writer),
            Some(first) => Err(wrong(format!(
                "{} of {} files are missing or damaged, {} is the first: run `fbp targets` with every --shard again, which \
                 makes them",
                missing.len(),
                writer.manifest.shards.len(),
                first.file
            ))),
        }
    }

    fn open_locked(
        folder: &Path,
        manifest: Manifest,
        (share, force): (Option<Share>, bool),
        (lock, share_lock): (FolderLock, Option<OutputLock>),
    ) -> Result<Self, TrainError> {
        let path = folder.join(MANIFEST_FILE);
        let found = match fs::read(&path) {
            Ok(text) => Some(Manifest::parse(folder, &path, &text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(TrainError::reading(path)(error)),
        };
        match found {
            Some(Ok(found)) if found == manifest && !force => {}
            Some(Ok(found)) if !force => {
                return Err(TrainError::OtherSettings { path, differences: found.differences(&manifest) });
            }
            Some(Err(error)) if !force => return Err(error),
            found => {
                if found.is_none() && !force {
                    let foreign = own_files(folder)?.into_iter().find(|path| path.exists());
                    let command = String::from("targets");
                    foreign.map_or(Ok(()), |path| Err(TrainError::Foreign { path, command }))?;
                }
                remove_store(folder)?;
                let mut text = serde_json::to_vec_pretty(&manifest).map_err(|source| TrainError::Json {
                    path: path.clone(),
                    what: "manifest",
                    source,
                })?;
                text.push(b'\n');
                write_atomic(&path, &text)?;
            }
        }
        Ok(Self { folder: folder.to_owned(), manifest, share, _lock: lock, _share_lock: share_lock })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Which of the shards it makes; none for all of them.
    pub fn share(&self) -> Option<Share> {
        self.share
    }

    /// The shards that are not there yet, or are damaged, of its share if it has one.
    ///
    /// # Errors
    /// [`TrainError::Read`] if a shard exists but cannot be read.
    pub fn missing(&self) -> Result<Vec<ShardEntry>, TrainError> {
        let mut missing = Vec::new();
        for (index, shard) in self.manifest.shards.iter().enumerate() {
            if self.share.is_some_and(|share| !share.has(index)) {
                continue;
            }
            let path = self.folder.join(&shard.file);
            match super::reader::Shard::open(&path, &self.manifest, shard) {
                Ok(_) => {}
                Err(TrainError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    missing.push(shard.clone());
                }
                Err(error @ TrainError::Read { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!(shard = %path.display(), error = %error.one_line(), "shard will be made again");
                    missing.push(shard.clone());
                }
            }
        }
        Ok(missing)
    }

    /// Writes one shard; the same content always gives the same bytes.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] if the content does not have the sizes of the manifest, [`TrainError::Write`].
    pub fn write_shard<S: Serialize>(
        &self,
        shard: &ShardEntry,
        content: ShardContent<'_, S>,
    ) -> Result<(), TrainError> {
        let path = self.folder.join(&shard.file);
        let bytes = self.encode(&path, shard, content)?;
        write_atomic(&path, &bytes)
    }

    fn encode<S: Serialize>(
        &self,
        path: &Path,
        shard: &ShardEntry,
        content: ShardContent<'_, S>,
    ) -> Result<Vec<u8>, TrainError> {
        let stages = &self.manifest.params.stages;
        let fits = content.labels.len() == shard.samples
            && content.indices.len() == shard.samples
            && content.stages.len() == stages.len()
            && content.stages.iter().zip(stages).all(|(rows, stage)| {
                rows.target.len() == shard.samples * stage.feature_len() && rows.attained.len() == shard.samples
            });
        if !fits {
            return Err(TrainError::Mismatch {
                left: format!("the content of {}", shard.file),
                right: "the manifest".into(),
                reason: "another number of samples, stages or features".into(),
            });
        }
        let format = |source| TrainError::Shard { path: path.to_owned(), source };
        let n = shard.samples;
        let view = |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).map_err(format);
        // 64 bits with sign, as PyTorch has its indices and labels.
        let labels: Vec<i64> = content.labels.iter().map(|&label| i64::from(label)).collect();
        let indices: Vec<i64> = content.indices.iter().map(|&index| index as i64).collect();
        let whole = |name: &str, numbers| {
            Ok::<_, TrainError>((name.to_owned(), view(Dtype::I64, vec![n], bytemuck::cast_slice(numbers))?))
        };
        let mut tensors = vec![whole("labels", &labels)?, whole("indices", &indices)?];
        for (rows, stage) in content.stages.iter().zip(stages) {
            let target = view(Dtype::F32, stage.tensor_dims(n), bytemuck::cast_slice(rows.target))?;
            tensors.push((format!("target.{}", stage.name), target));
            tensors.push((format!("attained.{}", stage.name), view(Dtype::U8, vec![n], rows.attained)?));
        }
        let stats = serde_json::to_string(content.stats).map_err(|source| TrainError::Json {
            path: path.to_owned(),
            what: "shard",
            source,
        })?;
        let metadata = HashMap::from([(STATS_KEY.to_owned(), stats)]);
        safetensors::serialize(tensors, Some(metadata)).map_err(format)
    }

    /// The statistics of every shard, in order. They are always read back from the files, so a run that was
    /// interrupted gives the same as one that was not.
    ///
    /// # Errors
    /// [`TrainError::Read`], [`TrainError::Shard`] or [`TrainError::Json`] if a shard is missing or damaged.
    pub fn shard_stats<S: DeserializeOwned>(&self) -> Result<Vec<S>, TrainError> {
        self.manifest.shards.iter().map(|shard| read_stats(&self.folder.join(&shard.file))).collect()
    }

    /// Writes the statistics of the finished store, which marks it as finished.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn finish<R: Serialize>(&self, report: &R) -> Result<(), TrainError> {
        crate::json::write_json(&self.folder.join(REPORT_FILE), report)?;
        self.remove_progress()
    }

    /// Removes what a store has only until it is finished; a run that was killed right after its report leaves it.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn remove_progress(&self) -> Result<(), TrainError> {
        remove(self.folder.join(DRAFT_FILE))?;
        own_files(&self.folder)?.into_iter().filter(|path| is_time(path)).try_for_each(remove)
    }

    /// The statistics of a store that was finished before.
    ///
    /// # Errors
    /// [`TrainError::Json`] if they cannot be understood, [`TrainError::Read`].
    pub fn finished<R: DeserializeOwned>(&self) -> Result<Option<R>, TrainError> {
        crate::json::read_json(&self.folder.join(REPORT_FILE), "report of a target store")
    }

    /// Time that earlier runs took until their last shard, in seconds; 0 for a new store.
    ///
    /// # Errors
    /// [`TrainError::Json`] if it cannot be understood, [`TrainError::Read`].
    pub fn earlier_seconds(&self) -> Result<f64, TrainError> {
        self.seconds_in(&self.time_file())
    }

    /// Time that all processes took which made shares of it, in seconds.
    ///
    /// # Errors
    /// As [`earlier_seconds`](Self::earlier_seconds).
    pub fn shared_seconds(&self) -> Result<f64, TrainError> {
        own_files(&self.folder)?.iter().filter(|path| is_time(path)).map(|path| self.seconds_in(path)).sum()
    }

    fn seconds_in(&self, path: &Path) -> Result<f64, TrainError> {
        Ok(crate::json::read_json(path, "time of a target store")?.unwrap_or(0.0))
    }

    fn time_file(&self) -> PathBuf {
        self.folder.join(match self.share {
            None => TIME_FILE.to_owned(),
            Some(share) => format!("{SHARE_TIME}{}.json", share.suffix().trim_start_matches('-')),
        })
    }

    /// Keeps the time that all runs took so far, for one that goes on after this one was killed.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn keep_seconds(&self, seconds: f64) -> Result<(), TrainError> {
        crate::json::write_json(&self.time_file(), &seconds)
    }

    /// Writes a JSON file into the folder of the store.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn write_json_beside<R: Serialize>(&self, name: &str, value: &R) -> Result<(), TrainError> {
        crate::json::write_json(&self.folder.join(name), value)
    }
}

fn read_stats<S: DeserializeOwned>(path: &Path) -> Result<S, TrainError> {
    let map = super::reader::map_file(path)?;
    let format = |source| TrainError::Shard { path: path.to_owned(), source };
    let (_, header) = SafeTensors::read_metadata(&map).map_err(format)?;
    let stats = header.metadata().as_ref().and_then(|metadata| metadata.get(STATS_KEY));
    serde_json::from_str(stats.map_or("", String::as_str)).map_err(|source| TrainError::Json {
        path: path.to_owned(),
        what: "shard with statistics",
        source,
    })
}

/// Removes the files of a store, the report that calls it finished first.
fn remove_store(folder: &Path) -> Result<(), TrainError> {
    own_files(folder)?.into_iter().try_for_each(remove)
}

/// The files besides the manifest that a store may have.
fn own_files(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut files = [REPORT_FILE, TIME_FILE, EXAMPLES_FILE, DRAFT_FILE].map(|name| folder.join(name)).to_vec();
    for entry in fs::read_dir(folder).map_err(TrainError::writing(folder))? {
        let entry = entry.map_err(TrainError::writing(folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if is_shard(&entry.path()) || is_time(&entry.path()) && name != TIME_FILE {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn is_shard(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("shard-") && name.ends_with(".safetensors")
}

/// Whether a file is the time of an unfinished store, or of a share of it.
fn is_time(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == TIME_FILE || name.starts_with(SHARE_TIME) && name.contains("-of-") && name.ends_with(".json")
}

/// Removes a file, if it is there.
fn remove(path: PathBuf) -> Result<(), TrainError> {
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TrainError::writing(path)(error)),
        _ => Ok(()),
    }
}
