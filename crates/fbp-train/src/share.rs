//! Shards of work: what one of several processes does, in a folder that they share.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::json::{differences, read_json, write_json};
use crate::outputs::OutputLock;
use crate::progress::Progress;

/// Time between two looks at a lock that another process has.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Shard `index` of `count` of some work; the first one is 1. Written `2/5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share {
    index: usize,
    count: usize,
}

impl Share {
    /// Shard `index`, counted from 1, of `count`.
    ///
    /// # Errors
    /// [`TrainError::Parameter`].
    pub fn new(index: usize, count: usize) -> Result<Self, TrainError> {
        match (1..=1_000_000).contains(&count) && (1..=count).contains(&index) {
            true => Ok(Self { index, count }),
            false => Err(TrainError::Parameter {
                name: "shard",
                value: format!("{index}/{count}"),
                range: "I/N with I from 1 to N, and N up to 1000000",
            }),
        }
    }

    /// Its number, from 1.
    pub fn index(self) -> usize {
        self.index
    }

    /// Number of shards.
    pub fn count(self) -> usize {
        self.count
    }

    /// Its part of a row of `len` things.
    pub fn range(self, len: usize) -> Range<usize> {
        // Of so many things that the product overflows nobody has any.
        let at = |index: usize| (len as u128 * index as u128 / self.count as u128) as usize;
        at(self.index - 1)..at(self.index)
    }

    /// Whether thing number `index`, from 0, is its own where things are dealt out one by one.
    pub fn has(self, index: usize) -> bool {
        index % self.count == self.index - 1
    }

    /// `-2-of-5`, for names of files.
    pub(crate) fn suffix(self) -> String {
        format!("-{}-of-{}", self.index, self.count)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Share {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        let parts = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        let (index, count) = parts.ok_or_else(|| TrainError::Setting {
            name: "shard",
            value: text.into(),
            reason: "is no shard: write it like 2/5, the second of five".into(),
        })?;
        Self::new(index, count)
    }
}

/// Takes the lock of a file, and waits for it as long as another process has it.
///
/// # Errors
/// [`TrainError::Stopped`] if `progress` asks for it meanwhile, [`TrainError::Write`].
pub(crate) fn wait_for_lock(path: &Path, progress: &dyn Progress) -> Result<OutputLock, TrainError> {
    wait_until_free(progress, || OutputLock::acquire(path))
}

/// Tries again as long as something is busy.
///
/// # Errors
/// As [`wait_for_lock`], and those of `attempt`.
pub(crate) fn wait_until_free<R>(
    progress: &dyn Progress,
    attempt: impl Fn() -> Result<R, TrainError>,
) -> Result<R, TrainError> {
    loop {
        match attempt() {
            Err(TrainError::Busy { .. }) if progress.stop_asked() => {
                let left = "nothing was done while another process was at work; the same command starts it again";
                return Err(TrainError::Stopped { left: left.into() });
            }
            Err(TrainError::Busy { .. }) => std::thread::sleep(LOOK_AGAIN),
            done => return done,
        }
    }
}

/// What one shard came to, in a file of its own until all are put together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShardFile<S, C> {
    /// Which shard.
    pub shard: Share,
    /// What was asked for; the same for all shards.
    pub settings: S,
    /// What it came to.
    pub content: C,
}

/// Files of the shards of one kind of work in a folder.
#[derive(Clone, Copy, Debug)]
pub struct ShardFolder<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// What the shards are of, for example `eval`: the start of their names.
    pub what: &'static str,
}

impl ShardFolder<'_> {
    /// The file of a shard.
    pub fn path(&self, shard: Share) -> PathBuf {
        self.folder.join(format!("{}-shard{}.json", self.what, shard.suffix()))
    }

    /// All files of shards, in the order of their names.
    fn files(&self) -> Result<Vec<PathBuf>, TrainError> {
        let start = format!("{}-shard-", self.what);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.folder).map_err(TrainError::reading(self.folder))? {
            let entry = entry.map_err(TrainError::reading(self.folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&start) && name.ends_with(".json") {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }

    /// Whether there are shards in the folder.
    ///
    /// # Errors
    /// [`TrainError::Read`].
    pub fn has_shards(&self) -> Result<bool, TrainError> {
        Ok(!self.files()?.is_empty())
    }

    /// What a shard came to in an earlier run, if that is finished.
    ///
    /// # Errors
    /// [`TrainError::OtherSettings`] if it, or any other shard in the folder, is one of other work or of another number of
    /// shards.
    pub fn finished<S, C>(&self, shard: Share, settings: &S) -> Result<Option<C>, TrainError>
    where
        S: Serialize + DeserializeOwned + PartialEq,
        C: DeserializeOwned,
    {
        let mut own = None;
        for path in self.files()? {
            let Some(found) = read_json::<ShardFile<S, C>>(&path, "result of a shard")? else { continue };
            if found.settings != *settings {
                return Err(TrainError::OtherSettings { path, differences: differences(&found.settings, settings) });
            }
            if found.shard.count() != shard.count() {
                let differences = format!("shards: {}, now {}", found.shard.count(), shard.count());
                return Err(TrainError::OtherSettings { path, differences });
            }
            if found.shard == shard {
                own = Some(found.content);
            }
        }
        Ok(own)
    }

    /// Writes what a shard came to.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn write<S: Serialize, C: Serialize>(&self, file: &ShardFile<S, C>) -> Result<(), TrainError> {
        write_json(&self.path(file.shard), file)
    }

    /// The settings of all shards, and what each came to, in their order.
    ///
    /// # Errors
    /// [`TrainError::Shards`] if one is missing or they overlap, [`TrainError::OtherSettings`] if one is of other work,
    /// [`TrainError::Json`] for a file that is none.
    pub fn all<S, C>(&self) -> Result<(S, Vec<C>), TrainError>
    where
        S: Serialize + DeserializeOwned + PartialEq,
        C: DeserializeOwned,
    {
        let wrong = |reason: String| TrainError::Shards { folder: self.folder.to_owned(), reason };
        let mut found: Vec<ShardFile<S, C>> = Vec::new();
        for path in self.files()? {
            let Some(file) = read_json::<ShardFile<S, C>>(&path, "result of a shard")? else { continue };
            if let Some(first) = found.first() {
                if first.settings != file.settings {
                    let differences = differences(&first.settings, &file.settings);
                    return Err(wrong(format!("{} is of other work than the others ({differences})", path.display())));
                }
                if first.shard.count() != file.shard.count() {
                    return Err(wrong(format!(
                        "{} and {} overlap, as they are shards of another number: remove those of one",
                        first.shard, file.shard
                    )));
                }
            }
            if path != self.path(file.shard) {
                return Err(wrong(format!("{} is shard {}, which has another name", path.display(), file.shard)));
            }
            found.push(file);
        }
        let Some(count) = found.first().map(|first| first.shard.count()) else {
            return Err(wrong("there are none".into()));
        };
        found.sort_by_key(|file| file.shard);
        // Names are told apart by their shards, so none is there twice.
        if let Some(missing) =
            (1..=count).find(|index| found.get(index - 1).is_none_or(|file| file.shard.index() != *index))
        {
            return Err(wrong(format!(
                "{} of {count} are there, {missing}/{count} is the first that is missing: run the same command with --shard \
                 {missing}/{count}",
                found.len()
            )));
        }
        let mut contents = Vec::new();
        let mut settings = None;
        for file in found {
            settings.get_or_insert(file.settings);
            contents.push(file.content);
        }
        settings.map(|settings| (settings, contents)).ok_or_else(|| wrong("there are none".into()))
    }

    /// Removes the files of all shards, when what they came to stands elsewhere.
    ///
    /// # Errors
    /// [`TrainError::Read`] or [`TrainError::Write`].
    pub fn remove(&self) -> Result<(), TrainError> {
        self.files()?.into_iter().try_for_each(|path| std::fs::remove_file(&path).map_err(TrainError::writing(&path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(text: &str) -> Share {
        text.parse().unwrap()
    }

    #[test]
    fn shards_are_written_from_one_and_cover_everything_once() {
        for text in ["0/3", "4/3", "1/0", "1", "a/b", "1/2/3", "", "-1/2"] {
            assert_eq!(text.parse::<Share>().unwrap_err().setting(), Some("shard"), "{text}");
        }
        assert_eq!(share("2/5").to_string(), "2/5");
        for (len, count) in [(0, 3), (2, 3), (10, 3), (12, 4), (usize::MAX, 7)] {
            let ranges: Vec<_> = (1..=count).map(|index| Share::new(index, count).unwrap().range(len)).collect();
            assert_eq!((ranges[0].start, ranges[count - 1].end), (0, len));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
        for thing in 0..20 {
            assert_eq!((1..=3).filter(|&index| Share::new(index, 3).unwrap().has(thing)).count(), 1);
        }
    }

    #[test]
    fn shards_are_put_together_in_their_order_and_what_is_wrong_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let shards = ShardFolder { folder: folder.path(), what: "x" };
        let write = |shard: &str, settings: &str, content: u32| {
            let (shard, settings) = (share(shard), settings.to_owned());
            shards.write(&ShardFile { shard, settings, content }).unwrap();
        };
        let all = || shards.all::<String, u32>();
        let text = || all().unwrap_err().one_line();
        assert!(text().contains("there are none"));
        for index in (1..=11).rev().filter(|index| *index != 2) {
            write(&format!("{index}/11"), "s", index);
        }
        assert!(text().contains("10 of 11 are there, 2/11 is the first"), "{}", text());
        write("2/11", "s", 2);
        assert_eq!(all().unwrap(), ("s".to_owned(), (1..=11).collect()));
        assert_eq!(shards.finished(share("2/11"), &"s".to_owned()).unwrap(), Some(2));
        assert!(shards.finished::<_, u32>(share("2/12"), &"s".to_owned()).unwrap_err().is_in_the_way());
        assert!(shards.finished::<_, u32>(share("2/11"), &"t".to_owned()).is_err());
        write("3/11", "t", 3);
        assert!(text().contains("of other work"), "{}", text());
        write("3/11", "s", 3);
        write("1/2", "s", 1);
        assert!(text().contains("overlap"), "{}", text());
        std::fs::remove_file(shards.path(share("1/2"))).unwrap();
        std::fs::copy(shards.path(share("3/11")), folder.path().join("x-shard-33-of-11.json")).unwrap();
        assert!(text().contains("another name"), "{}", text());
        shards.remove().unwrap();
        assert!(!shards.has_shards().unwrap());
    }
}
