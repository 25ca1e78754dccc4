use std::io::Write;
use std::path::PathBuf;

use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const LABELS: [u8; 12] = [0, 0, 8, 1, 0, 0, 0, 4, 7, 0, 9, 3];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A file with these bytes, in a folder that lives as long as the first value.
fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some-file");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn labels_of(bytes: &[u8]) -> Result<Vec<u8>, DataError> {
    read_labels(&file(bytes).1)
}

fn images_of(bytes: &[u8]) -> Result<IdxImages, DataError> {
    read_images(&file(bytes).1)
}

fn image_header(dims: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    for dim in dims {
        bytes.extend(dim.to_be_bytes());
    }
    bytes
}

/// The error names the file that is at fault.
fn text(error: &DataError) -> String {
    let text = error.to_string();
    assert!(text.contains("some-file"), "{text}");
    text
}

#[test]
fn reads_plain_and_gzip_alike() {
    assert_eq!(labels_of(&LABELS).unwrap(), [7, 0, 9, 3]);
    assert_eq!(labels_of(&gzip(&LABELS)).unwrap(), [7, 0, 9, 3]);
    let mut members = gzip(&LABELS[..5]);
    members.extend(gzip(&LABELS[5..]));
    assert_eq!(labels_of(&members).unwrap(), [7, 0, 9, 3], "a gzip file of two members is one stream");
}

#[test]
fn reads_colour_images() {
    let mut bytes = image_header(&[1, 3, 2, 1]);
    bytes.extend([1, 2, 3, 4, 5, 6]);
    let images = images_of(&bytes).unwrap();
    assert_eq!((images.shape, images.count()), (FeatureShape::image(3, 2, 1), 1));
    assert_eq!(images.pixels, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn every_cut_of_a_plain_file_is_an_error() {
    for len in 0..LABELS.len() {
        let error = labels_of(&LABELS[..len]).unwrap_err();
        text(&error);
        match error {
            DataError::Empty { .. } => assert_eq!(len, 0),
            DataError::Truncated { expected, found, .. } => {
                assert_eq!(found, len as u64);
                assert_eq!(expected, if len < 8 { (len as u64 / 4 + 1) * 4 } else { 12 });
            }
            other => panic!("cut after {len} bytes: {other}"),
        }
    }
}

#[test]
fn every_cut_of_a_gzip_file_is_an_error() {
    let whole = gzip(&LABELS);
    for len in 0..whole.len() {
        let error = labels_of(&whole[..len]).expect_err(&format!("cut after {len} bytes"));
        text(&error);
    }
    assert!(matches!(labels_of(&whole[..whole.len() - 1]), Err(DataError::Gzip { .. })), "checksum cut off");
}

#[test]
fn every_damaged_byte_of_the_compressed_content_is_an_error() {
    let mut content = image_header(&[40, 5, 5]);
    content.extend((0..1000_u32).map(|i| (i * i % 251) as u8));
    let whole = gzip(&content);
    assert_eq!(images_of(&whole).unwrap().count(), 40);
    // The 10 bytes of the gzip header hold a time and the system, which nothing depends on.
    for position in 10..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x10;
        images_of(&damaged).expect_err(&format!("byte {position} damaged"));
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    let mut longer = LABELS.to_vec();
    longer.push(0);
    assert!(matches!(labels_of(&longer), Err(DataError::Trailing { expected: 12, .. })));
    assert!(matches!(labels_of(&gzip(&longer)), Err(DataError::Trailing { expected: 12, .. })));
    let mut after_gzip = gzip(&LABELS);
    after_gzip.extend(b"rubbish");
    assert!(matches!(labels_of(&after_gzip), Err(DataError::Gzip { .. })));
}

#[test]
fn gzip_with_less_than_announced_is_truncated() {
    let error = labels_of(&gzip(&LABELS[..10])).unwrap_err();
    assert!(matches!(error, DataError::Truncated { expected: 12, found: 10, .. }), "{error}");
}

#[test]
fn wrong_magic_says_what_was_found() {
    let images = image_header(&[1, 1, 1]);
    let error = labels_of(&images).unwrap_err();
    assert!(matches!(error, DataError::Magic { found: 0x0803, .. }));
    assert!(text(&error).contains("0x00000803") && text(&error).contains("0x00000801"), "{error}");
    assert!(matches!(images_of(&LABELS), Err(DataError::Magic { found: 0x0801, .. })));
    assert!(matches!(images_of(b"<!DOCTYPE html>"), Err(DataError::Magic { .. })), "a web page saved as data");
    let floats = [0, 0, 0x0d, 3];
    assert!(matches!(images_of(&floats), Err(DataError::Magic { found: 0x0d03, .. })), "32-bit floats");
}

#[test]
fn absurd_dimensions_are_refused_before_memory_is_taken() {
    for dims in [[u32::MAX; 3], [1 << 31, 1 << 31, 4], [1 << 16, 1 << 16, 2]] {
        let error = images_of(&image_header(&dims)).unwrap_err();
        assert!(matches!(error, DataError::TooLarge { limit: MAX_BYTES, .. }), "{error}");
        assert!(text(&error).contains(&dims[0].to_string()), "{error}");
        assert!(matches!(images_of(&gzip(&image_header(&dims))), Err(DataError::TooLarge { .. })));
    }
    // 4 GiB would be accepted, but not from some twenty bytes.
    let most = image_header(&[1 << 16, 1 << 15, 2]);
    assert!(matches!(images_of(&most), Err(DataError::Truncated { .. })));
    assert!(matches!(images_of(&gzip(&most)), Err(DataError::TooLarge { limit: ..100_000, .. })));
}

#[test]
fn nothing_inside_is_an_error() {
    for dims in [[0, 28, 28], [1, 0, 28], [1, 28, 0]] {
        let error = images_of(&image_header(&dims)).unwrap_err();
        assert!(matches!(error, DataError::Empty { .. }), "{error}");
        text(&error);
    }
    assert!(matches!(labels_of(&[0, 0, 8, 1, 0, 0, 0, 0]), Err(DataError::Empty { .. })));
    assert!(matches!(labels_of(&[]), Err(DataError::Empty { .. })));
}

#[test]
fn a_missing_file_or_a_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(read_labels(&folder.path().join("absent")), Err(DataError::Io { .. })));
    assert!(matches!(read_labels(folder.path()), Err(DataError::Io { .. })));
}

#[test]
fn writing_twice_gives_the_same_bytes_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.gz");
    write_labels(&path, &[1, 2, 3]).unwrap();
    let first = fs::read(&path).unwrap();
    write_labels(&path, &[1, 2, 3]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);
    assert_eq!(first[4..8], [0; 4], "the gzip header carries no time");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn writing_refuses_parts_of_images() {
    let folder = tempfile::tempdir().unwrap();
    let images = IdxImages { shape: FeatureShape::image(1, 2, 2), pixels: vec![0; 7] };
    let error = write_images(&folder.path().join("images"), &images).unwrap_err();
    assert!(matches!(error, DataError::Length { expected: 4, found: 7, .. }), "{error}");
    let nowhere = folder.path().join("absent").join("images");
    assert!(matches!(write_labels(&nowhere, &[1]), Err(DataError::Io { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        (shape, pixels) in (1_usize..4, 1_usize..9, 1_usize..9, 1_usize..6).prop_flat_map(|(c, h, w, n)| {
            (Just(FeatureShape::image(c, h, w)), prop::collection::vec(any::<u8>(), n * c * h * w))
        }),
        compressed: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(if compressed { "file.gz" } else { "file" });
        let images = IdxImages { shape, pixels };
        write_images(&path, &images).unwrap();
        prop_assert_eq!(read_images(&path).unwrap(), images.clone());
        write_labels(&path, &images.pixels).unwrap();
        prop_assert_eq!(read_labels(&path).unwrap(), images.pixels);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..4) {
        match kind {
            0 => {}
            1 => bytes.splice(0..0, [0, 0, 8, 3]).for_each(drop),
            2 => bytes.splice(0..0, [0x1f, 0x8b, 8, 0]).for_each(drop),
            _ => bytes = gzip(&bytes),
        }
        // A result or an error, both are right: what must not happen is a panic.
        let _ = images_of(&bytes);
        let _ = labels_of(&bytes);
    }
}
