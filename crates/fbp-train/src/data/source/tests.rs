use std::fs;

use fbp_linalg::FeatureShape;
use tempfile::TempDir;

use super::*;
use crate::data::idx::{IdxImages, write_images, write_labels};

/// A folder with 20 training and 10 test images of 2 × 3 pixels; `.gz` for the training half.
fn idx_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_pair(&folder, ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"], 20);
    write_pair(&folder, TEST, 10);
    folder
}

fn write_pair(folder: &TempDir, [images, labels]: [&str; 2], count: u8) {
    let pixels = (0..6 * u32::from(count)).map(|i| (i * 7 % 256) as u8).collect();
    write_images(&folder.path().join(images), &IdxImages { shape: FeatureShape::image(1, 2, 3), pixels }).unwrap();
    write_labels(&folder.path().join(labels), &(0..count).map(|i| i % 10).collect::<Vec<_>>()).unwrap();
}

fn load_idx(folder: &TempDir, classes: Option<usize>) -> Result<DataBundle, DataError> {
    DataSource::Idx(folder.path().to_owned()).load(&LoadOptions { classes, ..LoadOptions::default() }, &Silent)
}

#[test]
fn names_are_parsed_and_printed() {
    let named = ["fashion-mnist", "fashion-mnist-mini", "mnist", "cifar10", "cifar100", "shapes-mini"];
    for name in named.into_iter().chain(["idx:some/folder", "folder:some/folder"]) {
        assert_eq!(name.parse::<DataSource>().unwrap().to_string(), name);
    }
    for name in ["", "emnist", "idx:", "folder:", "Fashion-MNIST"] {
        let text = name.parse::<DataSource>().unwrap_err().to_string();
        for known in ["fashion-mnist,", "fashion-mnist-mini,", "cifar100,", "idx:FOLDER", "folder:DIR"] {
            assert!(text.contains(known), "{text}");
        }
    }
}

#[test]
fn loads_an_idx_folder_with_its_own_normalisation() {
    let folder = idx_folder();
    let data = load_idx(&folder, None).unwrap();
    assert_eq!((data.train.len(), data.test.len(), data.train.classes()), (20, 10, 10));
    assert_eq!(data.train.shape(), FeatureShape::image(1, 2, 3));
    assert_eq!(data.train.image(1).unwrap(), [42, 49, 56, 63, 70, 77]);
    assert_eq!(data.train.labels()[13], 3);
    assert_eq!(data.normalization, Normalization::from_images(&data.train).unwrap());
    assert_eq!(data.folder, folder.path());
}

#[test]
fn a_label_above_the_classes_names_file_and_sample() {
    let folder = idx_folder();
    let error = load_idx(&folder, Some(9)).unwrap_err();
    assert!(matches!(error, DataError::Label { sample: 9, label: 9, classes: 9, .. }), "{error}");
    assert!(error.to_string().contains("train-labels-idx1-ubyte.gz"), "{error}");
    assert_eq!(load_idx(&folder, Some(47)).unwrap().test.classes(), 47);
    for classes in [0, 257] {
        assert!(load_idx(&folder, Some(classes)).is_err(), "{classes} classes");
    }
}

#[test]
fn counts_that_differ_name_both_files() {
    let folder = idx_folder();
    write_labels(&folder.path().join(TEST[1]), &[0; 9]).unwrap();
    let error = load_idx(&folder, None).unwrap_err();
    assert!(matches!(error, DataError::Counts { image_count: 10, label_count: 9, .. }), "{error}");
    assert!(TEST.iter().all(|file| error.to_string().contains(file)), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let folder = idx_folder();
    fs::remove_file(folder.path().join(TEST[0])).unwrap();
    let error = load_idx(&folder, None).unwrap_err();
    assert!(matches!(&error, DataError::MissingFile { file, .. } if file == TEST[0]), "{error}");
    let error = load("idx:/absent/folder", &LoadOptions::default()).unwrap_err();
    assert!(matches!(&error, DataError::Io { .. }), "{error}");
    assert!(error.to_string().contains("/absent/folder"), "{error}");
}

#[test]
fn shapes_that_differ_are_an_error() {
    let folder = idx_folder();
    let images = IdxImages { shape: FeatureShape::image(1, 3, 2), pixels: vec![1; 60] };
    write_images(&folder.path().join(TEST[0]), &images).unwrap();
    assert!(matches!(load_idx(&folder, None), Err(DataError::Shapes { .. })));
}

#[test]
fn data_that_are_not_there_name_places_and_command() {
    let empty = tempfile::tempdir().unwrap();
    fs::create_dir(empty.path().join("fashion-mnist")).unwrap();
    let options = LoadOptions { data_dir: Some(empty.path().to_owned()), ..LoadOptions::default() };
    let error = load("fashion-mnist", &options).unwrap_err();
    let text = error.to_string();
    assert!(matches!(&error, DataError::NotFound { places, .. } if places.len() == 1), "only the given folder: {text}");
    assert!(text.contains("cargo xtask fetch fashion-mnist"), "{text}");
    assert!(text.contains(&*empty.path().to_string_lossy()), "{text}");
    assert!(matches!(load("fashion-mnist-mini", &options), Err(DataError::NotFound { .. })));
}

#[test]
fn the_variable_comes_before_the_workspace() {
    let places = places(&LoadOptions::default(), Some("/some/folder".into()));
    assert_eq!(places[0], PathBuf::from("/some/folder"));
    assert!(places[1..].iter().any(|place| place.join("manifest.toml").is_file()), "{places:?}");
    assert!(super::places(&LoadOptions::default(), Some("".into())).iter().all(|place| place.ends_with("datasets")));
}

#[test]
fn an_interrupted_fetch_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("fashion-mnist");
    fs::create_dir(&part).unwrap();
    write_labels(&part.join(TRAIN[1]), &[1, 2]).unwrap();
    let options = LoadOptions { data_dir: Some(folder.path().to_owned()), ..LoadOptions::default() };
    let text = load("fashion-mnist", &options).unwrap_err().to_string();
    assert!(text.contains("not complete") && text.contains("cargo xtask fetch"), "{text}");
}

#[test]
fn named_sets_are_found_under_the_names_they_unpack_to() {
    let folder = tempfile::tempdir().unwrap();
    let options = LoadOptions { data_dir: Some(folder.path().to_owned()), ..LoadOptions::default() };
    let error = load("cifar10", &options).unwrap_err();
    assert!(error.to_string().contains("cargo xtask fetch cifar10"), "{error}");
    let batches = folder.path().join("cifar-10-batches-bin");
    fs::create_dir(&batches).unwrap();
    let record = |label: u8| [vec![label], (0..3072).map(|byte| (byte % 7) as u8).collect()].concat();
    for file in Cifar::Ten.train_files().iter().chain(Cifar::Ten.test_files()) {
        fs::write(batches.join(file), [record(3), record(9)].concat()).unwrap();
    }
    let data = load("cifar10", &options).unwrap();
    assert_eq!((data.train.len(), data.test.len(), data.folder), (10, 2, batches));
    assert_eq!(data.class_names[9], "truck");
    assert_eq!(data.normalization, Normalization::from_images(&data.train).unwrap());
    // MNIST in a folder as torchvision has it, with the constants that everyone uses.
    let mnist = folder.path().join("MNIST/raw");
    fs::create_dir_all(&mnist).unwrap();
    for (part, count) in [(TRAIN, 20), (TEST, 10)] {
        let pixels = (0..6 * count).map(|i| (i * 7 % 256) as u8).collect();
        write_images(&mnist.join(part[0]), &IdxImages { shape: FeatureShape::image(1, 2, 3), pixels }).unwrap();
        write_labels(&mnist.join(part[1]), &(0..count).map(|i| (i % 10) as u8).collect::<Vec<_>>()).unwrap();
    }
    let data = load("mnist", &options).unwrap();
    assert_eq!((data.normalization, data.class_names.len()), (Normalization::mnist(), 10));
}
