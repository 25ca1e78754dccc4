use std::io::Write;
use std::net::TcpListener;
use std::thread;

use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

use super::*;
use crate::manifest::sha256;

const CONTENTS: [(&str, &[u8]); 2] = [("one", b"first content"), ("two", b"second content")];

fn set() -> DataSet {
    let entry = |(name, content): (&str, &[u8])| Entry {
        name: name.to_owned(),
        bytes: content.len() as u64,
        sha256: sha256(content),
    };
    DataSet { system: vec![], mirrors: vec![], files: CONTENTS.map(entry).to_vec(), archive: None, selection: None }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A folder with the first file compressed and the second plain.
fn source_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("one.gz"), gzip(CONTENTS[0].1)).unwrap();
    fs::write(folder.path().join("two"), CONTENTS[1].1).unwrap();
    folder
}

fn fetch_from(source: Source, target: &TempDir) -> Result<(), TaskError> {
    fetch("test", &set(), &[source], &target.path().join("data"))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(super) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        // Written by hand, since the builder refuses the paths of a hostile archive.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Serves one response to every connection, as long as the test runs.
fn serve(status: &'static str, body: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let len = stream.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..len]).into_owned();
            let body = body(request.split_whitespace().nth(1).unwrap_or_default());
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).unwrap();
            // A client that has seen enough may close the connection before the end of the body.
            let _ = stream.write_all(&body);
        }
    });
    format!("http://{address}/some/place/")
}

#[test]
fn a_folder_is_copied_once_and_then_found() {
    let (from, to) = (source_folder(), tempfile::tempdir().unwrap());
    fetch_from(Source::of_path(from.path(), &set()).unwrap(), &to).unwrap();
    let data = to.path().join("data");
    assert_eq!(names(&data), ["one.gz", "two"]);
    // Nothing is asked of the source when everything is there.
    fetch_from(Source::Folder("/absent".into()), &to).unwrap();
}

#[test]
fn a_damaged_copy_is_replaced_and_a_second_one_removed() {
    let (from, to) = (source_folder(), tempfile::tempdir().unwrap());
    let data = to.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("one"), b"first contemt").unwrap();
    fetch_from(Source::Folder(from.path().to_owned()), &to).unwrap();
    assert_eq!(names(&data), ["one.gz", "two"]);
    assert_eq!(fs::read(data.join("one.gz")).unwrap(), gzip(CONTENTS[0].1));
}

#[test]
fn damaged_sources_leave_nothing_and_name_the_file() {
    let (from, to) = (source_folder(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("one.gz"), gzip(b"first contemt")).unwrap();
    let error = fetch_from(Source::Folder(from.path().to_owned()), &to).unwrap_err().to_string();
    assert!(error.contains("one.gz") && error.contains("sha256") && error.contains("--from PATH"), "{error}");
    assert!(names(&to.path().join("data")).is_empty());
    fs::remove_file(from.path().join("one.gz")).unwrap();
    let error = fetch_from(Source::Folder(from.path().to_owned()), &to).unwrap_err().to_string();
    assert!(error.contains("has no file one or one.gz"), "{error}");
}

#[test]
fn the_next_source_is_tried() {
    let (from, to) = (source_folder(), tempfile::tempdir().unwrap());
    let sources = [Source::Folder("/absent".into()), Source::Folder(from.path().to_owned())];
    fetch("test", &set(), &sources, &to.path().join("data")).unwrap();
}

#[test]
fn archives_are_read_wherever_the_files_lie_in_them() {
    let (one, two) = (gzip(CONTENTS[0].1), CONTENTS[1].1);
    let archive = tar(&[("some/folder/one.gz", &one), ("other", b"not asked for"), ("../../two", two)]);
    for bytes in [archive.clone(), gzip(&archive)] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = from.path().join("archive");
        fs::write(&path, bytes).unwrap();
        fetch_from(Source::of_path(&path, &set()).unwrap(), &to).unwrap();
        assert_eq!(names(&to.path().join("data")), ["one.gz", "two"], "a path in the archive is never followed");
        assert_eq!(names(to.path()), ["data"]);
    }
}

#[test]
fn what_is_no_archive_says_so() {
    let from = tempfile::tempdir().unwrap();
    let path = from.path().join("archive");
    let archive = gzip(&tar(&[("one", CONTENTS[0].1)]));
    for bytes in [b"neither tar nor gzip".to_vec(), archive[..archive.len() / 2].to_vec()] {
        fs::write(&path, bytes).unwrap();
        let Err(error) = Source::of_path(&path, &set()) else { panic!("accepted") };
        assert!(error.to_string().contains("not a readable .tar"), "{error}");
    }
    assert!(matches!(Source::of_path(&from.path().join("absent"), &set()), Err(TaskError::Io { .. })));
}

#[test]
fn downloads_are_verified() {
    let url = serve("200 OK", |path| match path {
        "/some/place/one.gz" => gzip(CONTENTS[0].1),
        _ => gzip(CONTENTS[1].1),
    });
    let to = tempfile::tempdir().unwrap();
    fetch_from(Source::Mirror(url), &to).unwrap();
    assert_eq!(names(&to.path().join("data")), ["one.gz", "two.gz"]);
}

#[test]
fn faulty_downloads_name_the_address() {
    let sorry = || b"<html>sorry</html>".to_vec();
    let cases = [
        (serve("404 Not Found", move |_| sorry()), "404"),
        (serve("200 OK", move |_| sorry()), "sha256"),
        (serve("200 OK", |_| vec![0; 1 << 20]), "large"),
        ("http://127.0.0.1:1/closed".to_owned(), "refused"),
    ];
    for (url, reason) in cases {
        let to = tempfile::tempdir().unwrap();
        let error = fetch_from(Source::Mirror(url.clone()), &to).unwrap_err().to_string();
        assert!(error.contains(url.trim_end_matches('/')), "{error}");
        assert!(error.to_lowercase().contains(reason), "{error}");
        assert!(names(&to.path().join("data")).is_empty());
    }
}
