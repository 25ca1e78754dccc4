use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;

/// `count` records; the first byte of the pixels of a record is its number.
fn records(kind: Cifar, count: u8) -> Vec<u8> {
    let label = |sample: u8| match kind {
        Cifar::Ten => vec![sample % 10],
        Cifar::Hundred => vec![sample % 20, 99 - sample],
    };
    (0..count)
        .flat_map(|sample| [label(sample), vec![sample], vec![1; 1023], vec![2; 1024], vec![3; 1024]].concat())
        .collect()
}

fn folder(kind: Cifar) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in kind.train_files().iter().chain(kind.test_files()) {
        fs::write(folder.path().join(file), records(kind, 12)).unwrap();
    }
    folder
}

fn read_train(kind: Cifar, folder: &TempDir) -> Result<Dataset, DataError> {
    kind.read(folder.path(), "train".into(), kind.train_files())
}

fn first(kind: Cifar, folder: &TempDir) -> PathBuf {
    folder.path().join(kind.train_files()[0])
}

#[test]
fn records_become_planes_with_their_fine_labels() {
    let ten = folder(Cifar::Ten);
    let data = read_train(Cifar::Ten, &ten).unwrap();
    assert_eq!((data.len(), data.classes(), data.shape()), (60, 10, SHAPE));
    assert_eq!(data.labels()[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
    let image = data.image(12 + 7).unwrap();
    assert_eq!([image[0], image[1], image[1024], image[2048]], [7, 1, 2, 3]);
    let hundred = folder(Cifar::Hundred);
    let data = read_train(Cifar::Hundred, &hundred).unwrap();
    assert_eq!((data.len(), data.classes(), data.labels()[3]), (12, 100, 96));
}

#[test]
fn compressed_files_are_the_same() {
    let ten = folder(Cifar::Ten);
    let plain = read_train(Cifar::Ten, &ten).unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&fs::read(first(Cifar::Ten, &ten)).unwrap()).unwrap();
    let gzip = gzip.finish().unwrap();
    fs::remove_file(first(Cifar::Ten, &ten)).unwrap();
    let path = ten.path().join("data_batch_1.bin.gz");
    fs::write(&path, &gzip).unwrap();
    assert_eq!(read_train(Cifar::Ten, &ten).unwrap(), plain);
    fs::write(&path, &gzip[..gzip.len() / 2]).unwrap();
    assert!(matches!(read_train(Cifar::Ten, &ten), Err(DataError::Gzip { .. })));
}

#[test]
fn bad_files_are_named() {
    for kind in [Cifar::Ten, Cifar::Hundred] {
        let folder = folder(kind);
        let path = first(kind, &folder);
        let good = fs::read(&path).unwrap();
        let failure = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let error = read_train(kind, &folder).unwrap_err();
            assert!(error.to_string().contains(kind.train_files()[0]), "{error}");
            error
        };
        let mut wrong = good.clone();
        wrong[5 * (kind.label_bytes() + 3072) + kind.label_bytes() - 1] = 200;
        let error = failure(&wrong);
        assert!(matches!(error, DataError::Label { sample: 5, label: 200, .. }), "{error}");
        assert!(matches!(failure(&good[..good.len() - 1]), DataError::Records { .. }));
        assert!(matches!(failure(&[]), DataError::Empty { .. }));
        fs::remove_file(&path).unwrap();
        assert!(matches!(read_train(kind, &folder), Err(DataError::MissingFile { .. })));
    }
    let hundred = folder(Cifar::Hundred);
    let mut wrong = records(Cifar::Hundred, 2);
    wrong[3074] = 20;
    fs::write(first(Cifar::Hundred, &hundred), wrong).unwrap();
    let error = read_train(Cifar::Hundred, &hundred).unwrap_err();
    assert!(error.to_string().contains("coarse"), "{error}");
}

#[test]
fn names_are_those_of_the_release() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Cifar::Ten.class_names(folder.path())[9], "truck");
    assert_eq!(Cifar::Hundred.class_names(folder.path())[99], "worm");
    assert!(cifar_names::HUNDRED.is_sorted());
    fs::write(folder.path().join("batches.meta.txt"), "a\nb\nc\nd\ne\nf\ng\nh\ni\nj_k\n\n").unwrap();
    assert_eq!(Cifar::Ten.class_names(folder.path())[9], "j k");
    // Another number of names is that of something else.
    fs::write(folder.path().join("batches.meta.txt"), "a\nb\n").unwrap();
    assert_eq!(Cifar::Ten.class_names(folder.path())[0], "airplane");
}
