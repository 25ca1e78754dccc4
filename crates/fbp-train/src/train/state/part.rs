use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::file::{Header, State};
use super::kept::{Kept, Numbers};
use super::{SaveEvery, StateFiles};
use crate::TrainError;
use crate::atomic::write_atomic;
use crate::progress::Progress;

/// Time between two states that are kept without being told how often.
const USUAL: Duration = Duration::from_secs(30);
/// How many times as long as its writing a state stays the latest, without being told how often.
const SHARE: u32 = 100;

/// The state of one training, in two files.
#[derive(Debug)]
pub(in super::super) struct Part<'a> {
    files: &'a StateFiles,
    paths: [PathBuf; 2],
    /// Which of them is written next.
    next: usize,
    generation: u64,
    /// When the latest was kept, and how long that took.
    latest: Instant,
    took: Duration,
    steps: u64,
    /// Whether the end is kept as well.
    pub(in super::super) keeps_end: bool,
}

impl<'a> Part<'a> {
    pub(super) fn new(files: &'a StateFiles, paths: [PathBuf; 2]) -> Self {
        let (latest, took) = (Instant::now(), Duration::ZERO);
        Self { files, paths, next: 0, generation: 0, latest, took, steps: 0, keeps_end: false }
    }

    /// Counts a step, and tells whether the state should be kept after it.
    pub(in super::super) fn is_due(&mut self) -> bool {
        self.steps += 1;
        match self.files.every {
            SaveEvery::Auto => self.latest.elapsed() >= USUAL.max(SHARE * self.took),
            SaveEvery::Seconds(seconds) => self.latest.elapsed().as_secs_f64() >= seconds,
            SaveEvery::Steps(steps) => self.steps >= steps,
        }
    }

    /// Keeps a state; the latest one before it stays.
    ///
    /// # Errors
    /// [`TrainError::Write`], after which the states that were there are whole.
    pub(super) fn save(&mut self, kept: Kept, numbers: Numbers, begun: Instant) -> Result<(), TrainError> {
        let times = (self.generation + 1, self.files.seconds());
        let header = Header::new(&self.files.settings, times, self.files.ranks, kept);
        let path = &self.paths[self.next];
        let written = State { header, numbers }.to_bytes(path).and_then(|bytes| write_atomic(path, &bytes));
        // Also after a failure, so that the next attempt comes later.
        (self.latest, self.took, self.steps) = (Instant::now(), begun.elapsed(), 0);
        written?;
        tracing::info!(path = %path.display(), seconds = self.took.as_secs_f64(), "state is kept");
        (self.generation, self.next) = (self.generation + 1, 1 - self.next);
        Ok(())
    }

    /// The latest state that is whole; what is not is said to `progress`.
    pub(in super::super) fn load(&mut self, progress: &dyn Progress) -> Option<(Kept, Numbers)> {
        let mut latest: Option<(usize, State)> = None;
        let mut unfit = false;
        for (place, path) in self.paths.iter().enumerate() {
            let found = match fs::read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => Err("cannot be read"),
                Ok(bytes) => State::from_bytes(&bytes),
            };
            match found {
                Ok(state) if state.header.settings != self.files.settings => {}
                Ok(state) => {
                    if latest.as_ref().is_none_or(|(_, other)| other.header.generation < state.header.generation) {
                        latest = Some((place, state));
                    }
                }
                Err(reason) => {
                    progress.note(&format!("{} {reason}", path.display()));
                    unfit = true;
                }
            }
        }
        let Some((place, State { header, numbers })) = latest else {
            if unfit {
                progress.note("the training starts from its beginning");
            }
            return None;
        };
        let threads = rayon::current_num_threads();
        if header.threads != threads {
            let before = header.threads;
            progress.note(&format!(
                "its state was kept with {before} threads, now there are {threads}: last bits may differ"
            ));
        }
        if header.ranks != self.files.ranks {
            let (before, ranks) = (header.ranks, self.files.ranks);
            progress
                .note(&format!("its state was kept with {before} ranks, now there are {ranks}: last bits may differ"));
        }
        self.files.add_earlier(header.seconds);
        (self.generation, self.next) = (header.generation, 1 - place);
        Some((header.kept, numbers))
    }

    /// Says that the state found does not fit the training, which then starts from its beginning.
    pub(in super::super) fn refuse(&mut self, progress: &dyn Progress) {
        let path = self.paths[1 - self.next].display();
        progress.note(&format!("{path} does not fit: the training starts from its beginning"));
    }

    /// Where the latest state is.
    pub(in super::super) fn place(&self) -> String {
        self.paths[1 - self.next].display().to_string()
    }
}
