use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::super::DataError;
use super::super::FolderError;

/// What a validation folder may be called, the best first.
const TEST: [&str; 4] = ["val", "valid", "validation", "test"];
/// The file of Tiny-ImageNet that says which class a validation image is of.
const ANNOTATIONS: &str = "val_annotations.txt";
/// Ends of names of files that stand beside images and are none.
const BESIDE: [&str; 6] = ["txt", "csv", "json", "xml", "md", "html"];
/// Folders in folders that are looked into.
const DEPTH: usize = 8;
/// Names that an error lists.
const LISTED: usize = 5;

/// All image files of a training and a validation folder.
#[derive(Debug)]
pub(super) struct Listing {
    /// The folder with both.
    pub(super) root: PathBuf,
    /// Names of the class folders, sorted; their order is that of the labels.
    pub(super) classes: Vec<String>,
    pub(super) train: Part,
    pub(super) test: Part,
}

/// Image files of one folder, in the order of their names whatever their class, numbers by their size.
///
/// So images that are called by their places in other files have the same places here.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) folder: PathBuf,
    pub(super) files: Vec<ImageFile>,
}

#[derive(Clone, Debug)]
pub(super) struct ImageFile {
    /// From the root.
    pub(super) path: PathBuf,
    pub(super) label: u8,
    pub(super) bytes: u64,
    /// When it was changed, in nanoseconds.
    pub(super) changed: u128,
}

impl Listing {
    /// Finds the image files below a folder.
    ///
    /// # Errors
    /// [`DataError::Folder`], [`DataError::Io`].
    pub(super) fn read(root: &Path) -> Result<Self, DataError> {
        let root = unpacked(root)?;
        let no_part = |missing| FolderError::NoPart { folder: root.clone(), missing };
        let train = root.join("train");
        if !train.is_dir() {
            return Err(no_part("train").into());
        }
        let test = TEST.iter().map(|name| root.join(name)).find(|folder| folder.is_dir());
        let test = test.ok_or_else(|| no_part("val"))?;
        let classes = sub_folders(&train)?;
        let found = classes.len();
        match found {
            0 | 1 => return Err(FolderError::FewClasses { folder: train, found }.into()),
            257.. => return Err(FolderError::ManyClasses { folder: train, found }.into()),
            _ => {}
        }
        let annotations = test.join(ANNOTATIONS);
        let is_annotated = annotations.is_file();
        if !is_annotated {
            same_classes(&train, &test, &classes)?;
        }
        let train = Part { files: files_of_classes(&root, &train, &classes)?, folder: train };
        let files = match is_annotated {
            true => annotated(&root, &test, &annotations, &classes)?,
            false => files_of_classes(&root, &test, &classes)?,
        };
        let test = Part { files, folder: test };
        Ok(Self { root, classes, train, test })
    }
}

/// The folder itself, or the only one in it if that has the training folder: what an archive unpacks to.
fn unpacked(root: &Path) -> Result<PathBuf, DataError> {
    if root.join("train").is_dir() {
        return Ok(root.to_owned());
    }
    match &sub_folders(root)?[..] {
        [only] if root.join(only).join("train").is_dir() => Ok(root.join(only)),
        _ => Ok(root.to_owned()),
    }
}

/// Names of the folders in a folder, sorted, without hidden ones.
fn sub_folders(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::at(folder))? {
        let entry = entry.map_err(DataError::at(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_dir() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn same_classes(train: &Path, test: &Path, classes: &[String]) -> Result<(), DataError> {
    let others = sub_folders(test)?;
    let only = |these: &[String], those: &[String], folder: &Path| -> Option<String> {
        let missing: Vec<&str> = these.iter().filter(|name| !those.contains(name)).map(String::as_str).collect();
        let more = missing.len().saturating_sub(LISTED);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names = missing[..missing.len().min(LISTED)].join(", ");
        (!missing.is_empty()).then(|| format!("{names}{rest} only in {}", folder.display()))
    };
    let differences: Vec<String> =
        [only(classes, &others, train), only(&others, classes, test)].into_iter().flatten().collect();
    if differences.is_empty() {
        return Ok(());
    }
    let (train, test) = (train.to_owned(), test.to_owned());
    Err(FolderError::ClassesDiffer { train, test, differences: differences.join("; ") }.into())
}

/// The image files of all class folders.
fn files_of_classes(root: &Path, part: &Path, classes: &[String]) -> Result<Vec<ImageFile>, DataError> {
    let mut files = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let folder = part.join(class);
        let before = files.len();
        collect(root, &folder, label as u8, DEPTH, &mut files)?;
        if files.len() == before {
            return Err(FolderError::EmptyClass { folder }.into());
        }
    }
    in_order(&mut files);
    Ok(files)
}

/// Sorts by name, then by class, then by path.
fn in_order(files: &mut [ImageFile]) {
    let name = |file: &ImageFile| file.path.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
    files.sort_by_cached_key(|file| (ByNumber(name(file)), file.label, file.path.clone()));
}

/// A name that is compared with others as people sort: `image9` before `image10`.
#[derive(PartialEq, Eq)]
struct ByNumber(String);

impl ByNumber {
    /// The text before the first number, the number without zeros in front, and the rest.
    fn split(text: &str) -> (&str, &str, &str) {
        let start = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
        let (before, rest) = text.split_at(start);
        let (number, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        (before, number.trim_start_matches('0'), rest)
    }
}

impl Ord for ByNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        let (mut a, mut b) = (self.0.as_str(), other.0.as_str());
        while !a.is_empty() && !b.is_empty() {
            let ((text_a, number_a, rest_a), (text_b, number_b, rest_b)) = (Self::split(a), Self::split(b));
            let order = text_a.cmp(text_b).then(number_a.len().cmp(&number_b.len())).then(number_a.cmp(number_b));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (rest_a, rest_b);
        }
        a.len().cmp(&b.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for ByNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Appends the files below a folder, without hidden ones and those that are told by their names to be something else.
fn collect(root: &Path, folder: &Path, label: u8, depth: usize, files: &mut Vec<ImageFile>) -> Result<(), DataError> {
    let entries = fs::read_dir(folder).map_err(DataError::at(folder))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(DataError::at(folder))?;
    paths.sort_unstable();
    for path in paths {
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let beside = |end: &std::ffi::OsStr| BESIDE.iter().any(|known| end.eq_ignore_ascii_case(known));
        if hidden || path.extension().is_some_and(beside) {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(DataError::at(&path))?;
        if !metadata.is_dir() {
            files.push(image_file(root, &path, label, &metadata));
        } else if depth > 0 {
            collect(root, &path, label, depth - 1, files)?;
        }
    }
    Ok(())
}

fn image_file(root: &Path, path: &Path, label: u8, metadata: &Metadata) -> ImageFile {
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    ImageFile {
        path: path.strip_prefix(root).unwrap_or(path).to_owned(),
        label,
        bytes: metadata.len(),
        changed: changed.map_or(0, |time| time.as_nanos()),
    }
}

/// The validation images of Tiny-ImageNet: `images/NAME`, with a line `NAME <tab> CLASS <tab> …` for each.
fn annotated(root: &Path, part: &Path, annotations: &Path, classes: &[String]) -> Result<Vec<ImageFile>, DataError> {
    let wrong = |reason: String| FolderError::Annotations { path: annotations.to_owned(), reason };
    let text = fs::read_to_string(annotations).map_err(DataError::at(annotations))?;
    let mut labels = BTreeMap::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut fields = line.split('\t');
        let (Some(name), Some(class)) = (fields.next(), fields.next()) else {
            return Err(wrong(format!("line {} has no name and class with a tab between them", index + 1)).into());
        };
        let label = classes.iter().position(|known| known == class.trim());
        let label = label.ok_or_else(|| wrong(format!("line {}: no class folder {class} in train", index + 1)))?;
        labels.insert(name.to_owned(), label as u8);
    }
    let folder = part.join("images");
    let mut files = Vec::new();
    collect(root, &folder, 0, 0, &mut files)?;
    for file in &mut files {
        let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        file.label = labels.remove(&name).ok_or_else(|| wrong(format!("no line says of which class {name} is")))?;
    }
    match labels.keys().next() {
        Some(name) => Err(wrong(format!("{name} is not in {}", folder.display())).into()),
        None if files.is_empty() => Err(FolderError::EmptyClass { folder }.into()),
        None => {
            in_order(&mut files);
            Ok(files)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_as_people_do() {
        let sorted = ["", "a", "a1.png", "a01.png", "a2.png", "a10.png", "a10b2.png", "a10b11.png", "b0.png", "b9.png"];
        let mut names: Vec<ByNumber> = sorted.iter().rev().map(|name| ByNumber((*name).to_owned())).collect();
        names.sort();
        let names: Vec<&str> = names.iter().map(|name| name.0.as_str()).collect();
        // Of two names with one number the one is first that is first as text.
        let expected =
            ["", "a", "a01.png", "a1.png", "a2.png", "a10.png", "a10b2.png", "a10b11.png", "b0.png", "b9.png"];
        assert_eq!(names, expected);
    }
}
