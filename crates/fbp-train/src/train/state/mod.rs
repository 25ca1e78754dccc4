//! The state of a training on disk, so that one that was stopped goes on where it was and ends with the same bits.
//!
//! It lies beside the result, in two generations that take turns: whatever happens while one is written, the other is whole.

mod file;
mod kept;
mod part;
mod resume;

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

pub(super) use file::{of_message, pack, to_message, unpack};
pub(super) use kept::{Kept, Numbers};
pub(super) use part::Part;
pub(super) use resume::{Moment, Place};

use crate::TrainError;
use crate::atomic::folder_of;
use crate::duration::parse_duration;
use crate::json::differences;

/// Between the name of a checkpoint and what tells the states of its training apart.
const MARK: &str = ".state-";

/// When a training keeps its state on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum SaveEvery {
    /// Every 30 seconds, or less often, so that it takes at most one percent of the time.
    #[default]
    Auto,
    /// After so many seconds.
    Seconds(f64),
    /// After so many steps.
    Steps(u64),
}

impl FromStr for SaveEvery {
    type Err = TrainError;

    /// `auto`, a duration with its unit such as `30s`, or a number of steps.
    fn from_str(text: &str) -> Result<Self, TrainError> {
        const NAME: &str = "checkpoint_every";
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse::<u64>() {
            Ok(0) => Err(TrainError::Parameter { name: NAME, value: text.into(), range: "1 or more steps" }),
            Ok(steps) => Ok(Self::Steps(steps)),
            Err(_) => parse_duration(NAME, text).map(Self::Seconds).map_err(|_| {
                let reason = "is neither auto nor a time nor a number of steps: write it like 30s, 5m or 200".into();
                TrainError::Setting { name: NAME, value: text.into(), reason }
            }),
        }
    }
}

/// Where and how often a training keeps its state, and the settings that the state belongs to.
#[derive(Debug)]
pub struct StateFiles {
    checkpoint: PathBuf,
    /// The settings as JSON.
    settings: String,
    every: SaveEvery,
    /// Number of ranks that do the training.
    ranks: usize,
    begun: Instant,
    /// Time of earlier runs in seconds, as far as their states tell.
    earlier: Mutex<f64>,
}

impl StateFiles {
    /// States beside the checkpoint that a training with these settings will write. Nothing is read or written yet.
    ///
    /// # Errors
    /// [`TrainError::Json`] for settings without a JSON form.
    pub fn new<S: Serialize>(checkpoint: &Path, settings: &S, every: SaveEvery) -> Result<Self, TrainError> {
        let settings = serde_json::to_string(settings).map_err(|source| TrainError::Json {
            path: checkpoint.to_owned(),
            what: "list of settings",
            source,
        })?;
        let checkpoint = checkpoint.to_owned();
        Ok(Self { checkpoint, settings, every, ranks: 1, begun: Instant::now(), earlier: Mutex::new(0.0) })
    }

    /// The same for a training that several ranks do together.
    #[must_use]
    pub fn of_ranks(self, ranks: usize) -> Self {
        Self { ranks, ..self }
    }

    /// The settings of the training, as JSON.
    pub(super) fn settings(&self) -> &str {
        &self.settings
    }

    /// Refuses states of a training with other settings, or removes them with `force`. Those of the same settings stay: their
    /// training would come to the same result from its start.
    ///
    /// # Errors
    /// [`TrainError::OtherSettings`], [`TrainError::Read`] or [`TrainError::Write`].
    pub fn check(&self, force: bool) -> Result<(), TrainError> {
        for path in self.files()? {
            let Some(found) = file::read_settings(&path).filter(|found| *found != self.settings) else { continue };
            let whole = fs::read(&path).map_err(TrainError::reading(&path))?;
            if !file::is_whole(&whole) {
                // Says so when it is needed.
                continue;
            }
            if force {
                return self.remove();
            }
            let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
            return Err(TrainError::OtherSettings {
                path,
                differences: differences(&json(&found), &json(&self.settings)),
            });
        }
        Ok(())
    }

    /// Removes all states: the result stands, or no training will go on from them.
    ///
    /// # Errors
    /// [`TrainError::Read`] or [`TrainError::Write`].
    pub fn remove(&self) -> Result<(), TrainError> {
        self.files()?.into_iter().try_for_each(|path| fs::remove_file(&path).map_err(TrainError::writing(&path)))
    }

    /// Removes all states after an error that would come again, and gives the error on.
    pub fn drop_after(&self, error: TrainError) -> TrainError {
        if matches!(error, TrainError::Diverged { .. } | TrainError::NonFiniteOutput) {
            // The error on the way is the one to report.
            let _ = self.remove();
        }
        error
    }

    /// Time of all runs of this training, in seconds.
    pub fn seconds(&self) -> f64 {
        *self.earlier.lock().unwrap_or_else(PoisonError::into_inner) + self.begun.elapsed().as_secs_f64()
    }

    fn add_earlier(&self, seconds: f64) {
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        // Segments are trained at the same time.
        *earlier = earlier.max(seconds);
    }

    fn start_of_names(&self) -> String {
        format!("{}{MARK}", self.checkpoint.file_name().unwrap_or_default().to_string_lossy())
    }

    fn files(&self) -> Result<Vec<PathBuf>, TrainError> {
        let (folder, start) = (folder_of(&self.checkpoint), self.start_of_names());
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder).map_err(TrainError::reading(&folder))? {
            let entry = entry.map_err(TrainError::reading(&folder))?;
            if entry.file_name().to_string_lossy().starts_with(&start) {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }

    /// The state of a part that is trained on its own; the name of the whole is empty.
    pub(super) fn part(&self, name: &str) -> Part<'_> {
        let file =
            |generation: u8| folder_of(&self.checkpoint).join(format!("{}{name}{generation}", self.start_of_names()));
        Part::new(self, [0, 1].map(file))
    }
}

#[cfg(test)]
mod tests;
