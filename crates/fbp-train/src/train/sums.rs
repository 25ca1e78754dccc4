//! Sums of the closed form over shares of the samples: one file per share, added in the order of the shares.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use faer::Mat;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::files::RECORD_PREFIX;
use super::moments::Moments;
use super::record::PostTrainSettings;
use crate::TrainError;
use crate::atomic::write_atomic;
use crate::json::differences;
use crate::outputs::OutputLock;
use crate::share::Share;

/// The one metadata key of a file. More than one would be written in random order.
const KEY: &str = "fbp";
/// What stands between the name of a run and the share.
const SUMS_OF: &str = "-sums-";
/// Names of the sums.
const SUMS: [&str; 2] = ["inputs", "errors"];

/// What the samples of a share add to the closed form of a layer: `Σ x̃ x̃ᵀ` and `Σ (ẑ - z) x̃ᵀ` in double precision, divided by the
/// number of columns of all samples, so that all shares together give the means.
#[derive(Clone, Debug)]
pub struct LayerSums(pub(super) Moments);

impl LayerSums {
    /// Adds sums of the same sizes; whether they are.
    fn add(&mut self, other: &Self) -> bool {
        let pairs = [(&mut self.0.inputs, &other.0.inputs), (&mut self.0.errors, &other.0.errors)];
        pairs.into_iter().all(|(own, other)| {
            let fits = own.shape() == other.shape();
            if fits {
                *own += other;
            }
            fits
        })
    }
}

/// What a file holds beside the sums.
#[derive(Debug, Serialize, Deserialize)]
struct Origin {
    shard: Share,
    settings: PostTrainSettings,
}

/// The files of the sums of one run in a folder of runs.
#[derive(Clone, Copy, Debug)]
pub struct SumFiles<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// Name of the run, as [`record_name`](super::record_name) gives it: the start of their names.
    pub name: &'a str,
}

impl SumFiles<'_> {
    /// The file of a share.
    pub fn path(&self, share: Share) -> PathBuf {
        self.folder.join(format!("{}{SUMS_OF}{}.safetensors", self.name, &share.suffix()[1..]))
    }

    /// Makes the folder, and keeps every other process from doing the same share until the lock is dropped. What else is in the
    /// folder stays, as other machines may be at work.
    ///
    /// # Errors
    /// [`TrainError::Write`], [`TrainError::Busy`].
    pub fn claim(&self, share: Share) -> Result<OutputLock, TrainError> {
        fs::create_dir_all(self.folder).map_err(TrainError::writing(self.folder))?;
        OutputLock::acquire(&self.path(share))
    }

    /// Whether a folder has files of sums, of whatever run.
    ///
    /// # Errors
    /// [`TrainError::Read`].
    pub fn are_in(folder: &Path) -> Result<bool, TrainError> {
        let mut entries = fs::read_dir(folder).map_err(TrainError::reading(folder))?;
        let is_sums = |name: &str| name.starts_with(RECORD_PREFIX) && name.contains(SUMS_OF);
        Ok(entries.any(|entry| entry.is_ok_and(|entry| is_sums(&entry.file_name().to_string_lossy()))))
    }

    /// All files, in the order of their names.
    fn files(&self) -> Result<Vec<PathBuf>, TrainError> {
        let start = format!("{}{SUMS_OF}", self.name);
        let mut files = Vec::new();
        let entries = match fs::read_dir(self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            entries => entries.map_err(TrainError::reading(self.folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(TrainError::reading(self.folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&start) && name.ends_with(".safetensors") {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }

    /// Whether the sums of a share are there and whole.
    ///
    /// # Errors
    /// [`TrainError::OtherSettings`] for those of another run or another number of shares, [`TrainError::Read`].
    pub fn is_finished(&self, share: Share, settings: &PostTrainSettings) -> Result<bool, TrainError> {
        let mut is_there = false;
        for path in self.files()? {
            // What is damaged is made again by its share.
            let Some((found, _)) = read(&path)? else { continue };
            check(&path, &found, (settings, share.count()))?;
            is_there |= found.shard == share;
        }
        Ok(is_there)
    }

    /// Writes the sums of a share; the same sums always give the same bytes.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn write(&self, share: Share, settings: &PostTrainSettings, sums: &LayerSums) -> Result<(), TrainError> {
        let path = self.path(share);
        let json = |source| TrainError::Json { path: path.clone(), what: "settings", source };
        let format = |source| TrainError::Shard { path: path.clone(), source };
        let origin = Origin { shard: share, settings: settings.clone() };
        let metadata = HashMap::from([(KEY.to_owned(), serde_json::to_string(&origin).map_err(json)?)]);
        let bytes = |sums: &Mat<f64>| {
            sums.col_iter()
                .flat_map(|c| c.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
                .collect::<Vec<u8>>()
        };
        let tensors = [&sums.0.inputs, &sums.0.errors].map(|sums| ([sums.ncols(), sums.nrows()].to_vec(), bytes(sums)));
        let views = SUMS.into_iter().zip(&tensors);
        let views = views.map(|(name, (dims, bytes))| Ok((name, TensorView::new(Dtype::F64, dims.clone(), bytes)?)));
        let views = views.collect::<Result<Vec<_>, _>>().map_err(format)?;
        write_atomic(&path, &safetensors::serialize(views, Some(metadata)).map_err(format)?)
    }

    /// The sums of all shares, added in their order; none if there are no files.
    ///
    /// # Errors
    /// [`TrainError::Shards`] if one is missing or damaged, [`TrainError::OtherSettings`] for those of another run,
    /// [`TrainError::Read`].
    pub fn all(&self, settings: &PostTrainSettings) -> Result<Option<LayerSums>, TrainError> {
        let wrong = |reason: String| TrainError::Shards { folder: self.folder.to_owned(), reason };
        let files = self.files()?;
        let mut found = Vec::new();
        for path in &files {
            let Some((origin, sums)) = read(path)? else {
                return Err(wrong(format!("{} is damaged: run its --shard again", path.display())));
            };
            let count = found.first().map_or(origin.shard.count(), |(first, _): &(Share, _)| first.count());
            check(path, &origin, (settings, count))?;
            if *path != self.path(origin.shard) {
                return Err(wrong(format!("{} is shard {}, which has another name", path.display(), origin.shard)));
            }
            found.push((origin.shard, sums));
        }
        let Some(count) = found.first().map(|(first, _)| first.count()) else { return Ok(None) };
        found.sort_by_key(|(share, _)| *share);
        let missing = (1..=count).find(|index| found.get(index - 1).is_none_or(|(share, _)| share.index() != *index));
        if let Some(missing) = missing {
            return Err(wrong(format!(
                "{} of {count} are there, {missing}/{count} is the first that is missing: run the same command with --shard \
                 {missing}/{count}",
                found.len()
            )));
        }
        let mut parts = found.into_iter().map(|(_, sums)| sums);
        let Some(mut all) = parts.next() else { return Ok(None) };
        match parts.all(|part| all.add(&part)) {
            true => Ok(Some(all)),
            false => Err(wrong("they are of layers of other sizes: remove them and run every --shard again".into())),
        }
    }

    /// Removes the files, when what they came to stands elsewhere.
    ///
    /// # Errors
    /// [`TrainError::Read`], [`TrainError::Write`].
    pub fn remove(&self) -> Result<(), TrainError> {
        self.files()?.into_iter().try_for_each(|path| fs::remove_file(&path).map_err(TrainError::writing(&path)))
    }
}

/// Whether a file belongs to a run in so many shares.
fn check(path: &Path, found: &Origin, (settings, count): (&PostTrainSettings, usize)) -> Result<(), TrainError> {
    let differences = if found.settings != *settings {
        differences(&found.settings, settings)
    } else if found.shard.count() != count {
        format!("shards: {}, now {count}", found.shard.count())
    } else {
        return Ok(());
    };
    Err(TrainError::OtherSettings { path: path.to_owned(), differences })
}

/// The contents of a file; none if it is damaged.
fn read(path: &Path) -> Result<Option<(Origin, LayerSums)>, TrainError> {
    let bytes = fs::read(path).map_err(TrainError::reading(path))?;
    let parse = || {
        let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
        let origin = serde_json::from_str(header.metadata().as_ref()?.get(KEY)?).ok()?;
        let tensors = SafeTensors::deserialize(&bytes).ok()?;
        let sums = |name: &str| {
            let view = tensors.tensor(name).ok().filter(|view| view.dtype() == Dtype::F64)?;
            let [columns, rows] = *view.shape() else { return None };
            let numbers: Vec<f64> = view.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
            Some(Mat::from_fn(rows, columns, |i, j| numbers[j * rows + i]))
        };
        Some((origin, LayerSums(Moments { inputs: sums(SUMS[0])?, errors: sums(SUMS[1])? })))
    };
    Ok(parse())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::DataIdentity;
    use crate::train::PostTrainOptions;

    #[test]
    fn sums_are_added_in_their_order_and_what_is_wrong_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let files = SumFiles { folder: folder.path(), name: "run" };
        let data = DataIdentity { name: "toy".into(), sha256: String::new(), samples: 1 };
        let settings = PostTrainOptions::default().settings("net".into(), data, "fc1".into());
        let share = |index, count| Share::new(index, count).unwrap();
        // Of another order these would have other roundings.
        let parts = [1.0, 1e-16, 1e-16, -1.0];
        let sums = |value: f64| LayerSums(Moments { inputs: Mat::full(2, 2, value), errors: Mat::full(3, 2, value) });
        assert!(files.all(&settings).unwrap().is_none());
        for (k, part) in parts.iter().enumerate().rev() {
            if k != 2 {
                files.write(share(k + 1, 4), &settings, &sums(*part)).unwrap();
            }
        }
        let text = || files.all(&settings).unwrap_err().one_line();
        assert!(text().contains("3 of 4 are there, 3/4 is the first"), "{}", text());
        assert!(!files.is_finished(share(3, 4), &settings).unwrap());
        files.write(share(3, 4), &settings, &sums(parts[2])).unwrap();
        let all = files.all(&settings).unwrap().unwrap();
        let expected = parts.iter().fold(0.0, |sum, part| sum + part);
        assert_eq!((all.0.inputs[(1, 0)].to_bits(), all.0.errors[(2, 1)].to_bits()), (0, expected.to_bits()));
        let other = PostTrainSettings { seed: 9, ..settings.clone() };
        assert!(files.all(&other).unwrap_err().one_line().contains("seed: 0, now 9"));
        assert!(files.is_finished(share(2, 5), &settings).unwrap_err().one_line().contains("shards: 4, now 5"));
        fs::write(files.path(share(2, 4)), "damaged").unwrap();
        assert!(!files.is_finished(share(2, 4), &settings).unwrap());
        assert!(text().contains("run-sums-2-of-4.safetensors is damaged"), "{}", text());
        files.remove().unwrap();
        assert!(files.all(&settings).unwrap().is_none());
    }
}
