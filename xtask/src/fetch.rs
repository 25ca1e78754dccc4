//! `cargo xtask fetch`: gets a full data set, from a copy on this machine if there is one, else by download.

mod archive;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use flate2::bufread::MultiGzDecoder;
use tempfile::NamedTempFile;

#[cfg(not(test))]
use crate::command::Child;
use crate::error::TaskError;
use crate::manifest::{self, DataSet, Entry};
use crate::workspace;

/// Get a full data set, checked by its published checksum
///
/// Taken from PATH if given, else from a copy that the system's packages installed, else downloaded. Nothing is used
/// before its checksum is that of datasets/manifest.toml, and files appear whole or not at all. Running it again is safe.
#[derive(Args)]
#[command(after_help = "Example: cargo xtask fetch fashion-mnist --from ~/Downloads/fashion-mnist.tar.gz")]
pub(crate) struct Arguments {
    /// Which data set
    name: Name,
    /// The archive as it is published; for mnist and fashion-mnist any .tar or .tar.gz, or a folder with the four IDX files
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// Download from this address instead of the official ones; it must serve the four files, or the archive
    #[arg(long, value_name = "URL", conflicts_with = "from")]
    mirror: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    FashionMnist,
    Mnist,
    Cifar10,
    Cifar100,
    Imagenette,
    Imagewoof,
    TinyImagenet,
}

impl Name {
    fn as_str(self) -> &'static str {
        match self {
            Self::FashionMnist => "fashion-mnist",
            Self::Mnist => "mnist",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Imagenette => "imagenette",
            Self::Imagewoof => "imagewoof",
            Self::TinyImagenet => "tiny-imagenet",
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    let name = arguments.name.as_str();
    let set = manifest::data_set(name)?;
    if let Some(archive) = &set.archive {
        let (from, mirror) = (arguments.from.as_deref(), arguments.mirror.as_deref());
        return archive::fetch(name, archive, from, mirror, &workspace::datasets().join(name));
    }
    let sources = if let Some(path) = &arguments.from {
        vec![Source::of_path(path, &set)?]
    } else if let Some(url) = &arguments.mirror {
        vec![Source::Mirror(url.clone())]
    } else {
        let copies = set.system.iter().filter(|folder| folder.is_dir()).cloned().map(Source::Folder);
        copies.chain(set.mirrors.iter().cloned().map(Source::Mirror)).collect()
    };
    fetch(name, &set, &sources, &workspace::datasets().join(name))
}

/// Makes sure that `folder` holds every file of the data set; the first source that has a good copy gives it.
pub(crate) fn fetch(name: &str, set: &DataSet, sources: &[Source], folder: &Path) -> Result<(), TaskError> {
    fs::create_dir_all(folder).map_err(TaskError::at(folder))?;
    let missing: Vec<_> = set.files.iter().filter(|entry| !is_there(entry, folder)).collect();
    if missing.is_empty() {
        println!("{name}: already there and verified, {}", folder.display());
        return Ok(());
    }
    for entry in missing {
        let mut tried = Vec::new();
        let got = sources.iter().find_map(|source| match source.get(entry) {
            Ok(bytes) => Some((source, bytes)),
            Err(error) => {
                tried.push(error.with_sources());
                None
            }
        });
        let Some((source, bytes)) = got else {
            return Err(TaskError::NoSource { name: name.to_owned(), tried });
        };
        let path = store(entry, folder, &bytes)?;
        println!("{}: verified, {} bytes, from {}", path.display(), bytes.len(), source.place());
    }
    println!("{name}: complete in {}", folder.display());
    Ok(())
}

/// Whether a good copy is in the folder and no bad one beside it.
fn is_there(entry: &Entry, folder: &Path) -> bool {
    let paths = [folder.join(&entry.name), folder.join(format!("{}.gz", entry.name))];
    let mut good = false;
    for path in paths.iter().filter(|path| path.exists()) {
        let verified = fs::read(path).map_err(TaskError::at(path)).and_then(|bytes| {
            let what = path.display().to_string();
            entry.verify(&what, &bytes)
        });
        if let Err(error) = verified {
            println!("{error}: will be replaced");
            return false;
        }
        good = true;
    }
    good
}

/// Writes verified bytes under the name that fits them, by renaming, and removes a copy under the other name.
fn store(entry: &Entry, folder: &Path, bytes: &[u8]) -> Result<PathBuf, TaskError> {
    let (plain, gzip) = (folder.join(&entry.name), folder.join(format!("{}.gz", entry.name)));
    let (path, other) = if is_gzip(bytes) { (gzip, plain) } else { (plain, gzip) };
    write_whole(&path, bytes)?;
    match fs::remove_file(&other) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TaskError::at(&other)(error)),
        _ => Ok(path),
    }
}

/// Writes a file that appears under its name only when it is complete.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TaskError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    File::create(&unfinished)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&unfinished, path))
        .map_err(TaskError::at(path))
}

/// Where files can be had.
pub(crate) enum Source {
    /// A folder that holds them.
    Folder(PathBuf),
    /// An archive that was read: the files found in it.
    Archive { path: PathBuf, files: BTreeMap<String, Vec<u8>> },
    /// An address that serves them.
    Mirror(String),
}

impl Source {
    fn of_path(path: &Path, set: &DataSet) -> Result<Self, TaskError> {
        if path.is_dir() {
            // The folder itself, or its place in a clone of the official repository or in a folder of torchvision.
            let below = ["", "data/fashion", "FashionMNIST/raw", "fashion-mnist"].map(|part| path.join(part));
            let folder = below.into_iter().find(|folder| manifest::find(folder, &set.files[0].name).is_some());
            return Ok(Self::Folder(folder.unwrap_or_else(|| path.to_owned())));
        }
        let files = read_archive(path, set)?;
        Ok(Self::Archive { path: path.to_owned(), files })
    }

    /// What to call this source in a message.
    fn place(&self) -> String {
        match self {
            Self::Folder(path) | Self::Archive { path, .. } => path.display().to_string(),
            Self::Mirror(url) => url.clone(),
        }
    }

    /// The bytes of a file, plain or gzip, once they are verified.
    fn get(&self, entry: &Entry) -> Result<Vec<u8>, TaskError> {
        let absent = || TaskError::NotInSource { place: self.place(), file: entry.name.clone() };
        let (what, bytes) = match self {
            Self::Folder(folder) => {
                let path = manifest::find(folder, &entry.name).ok_or_else(absent)?;
                let bytes = fs::read(&path).map_err(TaskError::at(&path))?;
                (path.display().to_string(), bytes)
            }
            Self::Archive { path, files } => {
                let bytes = files.get(&entry.name).ok_or_else(absent)?.clone();
                (format!("{} in {}", entry.name, path.display()), bytes)
            }
            Self::Mirror(url) => {
                let url = format!("{}/{}.gz", url.trim_end_matches('/'), entry.name);
                let bytes = download(&url, entry.bytes)?;
                (url, bytes)
            }
        };
        entry.verify(&what, &bytes)?;
        Ok(bytes)
    }
}

/// Takes the files of the data set out of an archive, wherever in it they lie; nothing else is unpacked.
fn read_archive(path: &Path, set: &DataSet) -> Result<BTreeMap<String, Vec<u8>>, TaskError> {
    let malformed = |error: std::io::Error| TaskError::Malformed {
        path: path.to_owned(),
        reason: format!("not a readable .tar or .tar.gz archive ({error})"),
    };
    let mut reader = BufReader::new(File::open(path).map_err(TaskError::at(path))?);
    let gzip = is_gzip(std::io::BufRead::fill_buf(&mut reader).map_err(TaskError::at(path))?);
    let reader: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) };
    let mut archive = tar::Archive::new(reader);
    let mut files = BTreeMap::new();
    for member in archive.entries().map_err(malformed)? {
        let member = member.map_err(malformed)?;
        let name = member.path().map_err(malformed)?.file_name().map(|name| name.to_string_lossy().into_owned());
        let Some(name) = name else { continue };
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        if let Some(entry) = set.files.iter().find(|entry| entry.name == name) {
            let mut bytes = Vec::new();
            member.take(limit(entry.bytes)).read_to_end(&mut bytes).map_err(malformed)?;
            files.insert(name.to_owned(), bytes);
        }
    }
    Ok(files)
}

/// No honest copy of a file, compressed or not, is larger than its content by more than this.
fn limit(content_bytes: u64) -> u64 {
    content_bytes + content_bytes / 100 + 4096
}

fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Writes what an address serves, at most `limit` bytes, to a file.
#[cfg(not(test))]
fn get(url: &str, limit: u64, file: &NamedTempFile) -> Result<(), TaskError> {
    let program = ["run", "--quiet", "--bin", "download", "--features", "xtask/download", "--", url];
    let to = [limit.to_string().into(), file.path().as_os_str().to_owned()];
    let child = Child::cargo().args(program).args(to);
    child.run().map_err(|error| match error {
        // The program has told why.
        TaskError::Command { .. } => TaskError::Download { url: url.to_owned(), reason: "see above".to_owned() },
        error => error,
    })
}

#[cfg(test)]
fn get(url: &str, limit: u64, file: &NamedTempFile) -> Result<(), TaskError> {
    let failed = |reason: String| TaskError::Download { url: url.to_owned(), reason };
    crate::http::get(url, limit, &mut file.as_file()).map_err(failed)
}

fn download(url: &str, content_bytes: u64) -> Result<Vec<u8>, TaskError> {
    println!("{url}: downloading (the program that does is built the first time)");
    let file = NamedTempFile::new().map_err(TaskError::at(&std::env::temp_dir()))?;
    get(url, limit(content_bytes), &file)?;
    fs::read(file.path()).map_err(TaskError::at(file.path()))
}

#[cfg(test)]
mod tests;
