//! Data sets of which the archive has a published checksum, and not its files: verified as a whole, then unpacked as a whole.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use md5::{Digest, Md5};
use tempfile::{NamedTempFile, TempDir};

use super::{get, is_gzip};
use crate::error::TaskError;
use crate::manifest::Archive;

/// Name of the file that says which archive a folder was unpacked from.
const MARK: &str = ".verified";
/// Most bytes of a download.
const LIMIT: u64 = 2 << 30;

/// Makes sure that `folder` holds what the archive holds below its top folder. Where nothing is given, it is downloaded.
pub(super) fn fetch(
    name: &str,
    archive: &Archive,
    given: Option<&Path>,
    mirror: Option<&str>,
    folder: &Path,
) -> Result<(), TaskError> {
    let Some(md5) = &archive.md5 else {
        return Err(TaskError::Refused(format!(
            "{name}: no checksum of {} is known that its makers published, and nothing is used unchecked: get it from {}, \
             compare it with what you trust, unpack it, and use --data folder:DIR",
            archive.name,
            archive.urls.join(" or "),
        )));
    };
    let mark = folder.join(MARK);
    if fs::read_to_string(&mark).is_ok_and(|found| found.trim() == md5) {
        println!("{name}: already there, {}", folder.display());
        return Ok(());
    }
    if folder.exists() {
        let reason = "is in the way and not a verified copy: move it away";
        return Err(TaskError::Refused(format!("{} {reason}", folder.display())));
    }
    let parent = folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(TaskError::at(parent))?;
    let mut downloaded = None;
    let path = match given {
        Some(path) if path.is_dir() => path.join(&archive.name),
        Some(path) => path.to_owned(),
        None => {
            let urls: Vec<String> = match mirror {
                Some(url) => vec![format!("{}/{}", url.trim_end_matches('/'), archive.name)],
                None => archive.urls.clone(),
            };
            downloaded.insert(download_first(name, &urls, parent)?).path().to_owned()
        }
    };
    let found = md5_of(&path)?;
    if found != *md5 {
        let what = path.display().to_string();
        return Err(TaskError::Content {
            what,
            reason: format!("its MD5 is {found}, and that of {} is {md5}: it is damaged or another file", archive.name),
        });
    }
    let unpacked = tempfile::tempdir_in(parent).map_err(TaskError::at(parent))?;
    let count = if archive.name.ends_with(".zip") { unzip(&path, &unpacked)? } else { untar(&path, &unpacked)? };
    fs::write(unpacked.path().join(MARK), format!("{md5}\n")).map_err(TaskError::at(folder))?;
    // From here on it is no temporary folder any more.
    let unpacked = unpacked.keep();
    fs::rename(&unpacked, folder).map_err(TaskError::at(folder))?;
    println!("{name}: verified, {count} files in {}", folder.display());
    Ok(())
}

fn download_first(name: &str, urls: &[String], folder: &Path) -> Result<NamedTempFile, TaskError> {
    let mut tried = Vec::new();
    for url in urls {
        match download(url, folder) {
            Ok(file) => return Ok(file),
            Err(error) => tried.push(error.with_sources()),
        }
    }
    Err(TaskError::NoSource { name: name.to_owned(), tried })
}

fn download(url: &str, folder: &Path) -> Result<NamedTempFile, TaskError> {
    println!("{url}: downloading (the program that does is built the first time)");
    let file = NamedTempFile::new_in(folder).map_err(TaskError::at(folder))?;
    get(url, LIMIT, &file)?;
    Ok(file)
}

fn md5_of(path: &Path) -> Result<String, TaskError> {
    let mut file = File::open(path).map_err(TaskError::at(path))?;
    let (mut hasher, mut buffer) = (Md5::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(TaskError::at(path))? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Where a member belongs: its path below the top folder; nothing for the top folder itself.
fn place(path: &Path) -> Result<Option<PathBuf>, String> {
    let mut below = PathBuf::new();
    for (depth, part) in path.components().filter(|part| *part != Component::CurDir).enumerate() {
        match part {
            Component::Normal(name) if depth > 0 => below.push(name),
            Component::Normal(_) => {}
            _ => return Err(format!("a member is called {}, which leads out of the folder", path.display())),
        }
    }
    Ok((!below.as_os_str().is_empty()).then_some(below))
}

/// Writes one member.
fn put(folder: &TempDir, below: &Path, content: &mut dyn Read) -> io::Result<()> {
    let path = folder.path().join(below);
    fs::create_dir_all(path.parent().unwrap_or(folder.path()))?;
    io::copy(content, &mut File::create(path)?).map(drop)
}

/// Unpacks a .tar or .tar.gz; gives the number of files.
fn untar(path: &Path, folder: &TempDir) -> Result<usize, TaskError> {
    let malformed = |reason: String| TaskError::Malformed { path: path.to_owned(), reason };
    let unreadable = |error: io::Error| malformed(format!("not a readable .tar or .tar.gz archive ({error})"));
    let mut reader = BufReader::new(File::open(path).map_err(TaskError::at(path))?);
    let gzip = is_gzip(reader.fill_buf().map_err(TaskError::at(path))?);
    let reader: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) };
    let (mut archive, mut count) = (tar::Archive::new(reader), 0);
    for member in archive.entries().map_err(unreadable)? {
        let mut member = member.map_err(unreadable)?;
        let below = place(&member.path().map_err(unreadable)?).map_err(malformed)?;
        if let Some(below) = below.filter(|_| member.header().entry_type().is_file()) {
            put(folder, &below, &mut member).map_err(TaskError::at(folder.path()))?;
            count += 1;
        }
    }
    Ok(count)
}

/// Unpacks a .zip; gives the number of files.
fn unzip(path: &Path, folder: &TempDir) -> Result<usize, TaskError> {
    let malformed = |reason: String| TaskError::Malformed { path: path.to_owned(), reason };
    let unreadable = |error: zip::result::ZipError| malformed(format!("not a readable .zip archive ({error})"));
    let file = File::open(path).map_err(TaskError::at(path))?;
    let (mut archive, mut count) = (zip::ZipArchive::new(BufReader::new(file)).map_err(unreadable)?, 0);
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).map_err(unreadable)?;
        let below = place(Path::new(&*member.name().map_err(unreadable)?)).map_err(malformed)?;
        if let Some(below) = below.filter(|_| member.is_file()) {
            put(folder, &below, &mut member).map_err(TaskError::at(folder.path()))?;
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::fetch::tests::tar;

    struct World {
        folder: TempDir,
        archive: Archive,
    }

    impl World {
        fn new(name: &str, bytes: &[u8]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), bytes).unwrap();
            let md5 = Some(md5_of(&folder.path().join(name)).unwrap());
            Self {
                folder,
                archive: Archive { name: name.to_owned(), md5, urls: vec!["http://127.0.0.1:1/x".to_owned()] },
            }
        }

        fn fetch(&self, from: Option<&Path>) -> Result<(), TaskError> {
            fetch("set", &self.archive, from, None, &self.folder.path().join("out/set"))
        }

        fn given(&self) -> Result<(), TaskError> {
            self.fetch(Some(&self.folder.path().join(&self.archive.name)))
        }
    }

    #[test]
    fn a_verified_archive_is_unpacked_below_its_top_folder_once() {
        let zip = {
            let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
            for (name, bytes) in [("top/a.bin", &b"one"[..]), ("top/sub/b.bin", b"two")] {
                writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
                writer.write_all(bytes).unwrap();
            }
            writer.finish().unwrap().into_inner()
        };
        let tar = tar(&[("top/a.bin", b"one"), ("./top/sub/b.bin", b"two")]);
        for (name, bytes) in [("set.tar", tar), ("set.zip", zip)] {
            let world = World::new(name, &bytes);
            world.given().unwrap();
            let out = world.folder.path().join("out/set");
            assert_eq!(fs::read(out.join("a.bin")).unwrap(), b"one");
            assert_eq!(fs::read(out.join("sub/b.bin")).unwrap(), b"two");
            // Nothing is asked of any source when everything is there.
            world.fetch(None).unwrap();
            fs::write(out.join(MARK), "another").unwrap();
            assert!(world.given().unwrap_err().to_string().contains("in the way"));
        }
    }

    #[test]
    fn what_is_not_the_archive_leaves_nothing() {
        let mut world = World::new("set.tar", &tar(&[("top/a.bin", b"one")]));
        world.archive.md5 = Some("0".repeat(32));
        let error = world.given().unwrap_err().to_string();
        assert!(error.contains("MD5") && error.contains("set.tar"), "{error}");
        assert!(world.fetch(None).unwrap_err().to_string().contains("127.0.0.1"));
        world.archive.md5 = None;
        let error = world.given().unwrap_err().to_string();
        assert!(error.contains("no checksum") && error.contains("folder:DIR"), "{error}");
        assert!(!world.folder.path().join("out/set").exists());
        let hostile = World::new("set.tar", &tar(&[("top/a.bin", b"one"), ("top/../../b", b"two")]));
        assert!(hostile.given().unwrap_err().to_string().contains("leads out"));
        assert_eq!(fs::read_dir(hostile.folder.path().join("out")).unwrap().count(), 0);
    }
}
