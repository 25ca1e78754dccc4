//! The images that ship with the repository are what `datasets/manifest.toml` says, and they load.

use std::fs;
use std::io::Read;
use std::path::Path;

use fbp_linalg::FeatureShape;
use fbp_train::data::{LoadOptions, Normalization, load};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn files_are_those_of_the_manifest() {
    let datasets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");
    let manifest: toml::Table = fs::read_to_string(datasets.join("manifest.toml")).unwrap().parse().unwrap();
    let of = |name: &str| {
        manifest[name]["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| (name.to_owned(), file.clone()))
            .collect::<Vec<_>>()
    };
    let files = [of("fashion-mnist-mini"), of("shapes-mini")].concat();
    assert_eq!(files.len(), 4 + 6);
    for (set, file) in files {
        let text = |key: &str| file[key].as_str().unwrap();
        let name = text("name");
        let gzip = fs::read(datasets.join(&set).join(format!("{name}.gz"))).unwrap();
        assert_eq!(sha256(&gzip), text("gzip_sha256"), "{name}.gz");
        assert_eq!(Some(gzip.len() as i64), file["gzip_bytes"].as_integer(), "{name}.gz");
        assert_eq!(gzip[4..8], [0; 4], "{name}.gz: the gzip header carries a time");
        let mut content = Vec::new();
        GzDecoder::new(gzip.as_slice()).read_to_end(&mut content).unwrap();
        assert_eq!(sha256(&content), text("sha256"), "{name}");
        assert_eq!(Some(content.len() as i64), file["bytes"].as_integer(), "{name}");
    }
    assert!(datasets.join("fashion-mnist-mini/LICENSE").is_file());
}

#[test]
fn the_part_is_balanced_and_looks_like_the_whole() {
    let data = load("fashion-mnist-mini", &LoadOptions::default()).unwrap();
    assert_eq!(data.train.class_counts(), [600; 10]);
    assert_eq!(data.test.class_counts(), [200; 10]);
    assert_eq!(data.train.shape(), FeatureShape::image(1, 28, 28));
    assert_eq!(data.normalization, Normalization::fashion_mnist());
    let own = Normalization::from_images(&data.train).unwrap();
    assert!((own.mean()[0] - Normalization::FASHION_MNIST_MEAN).abs() < 0.005, "{own:?}");
    assert!((own.std()[0] - Normalization::FASHION_MNIST_STD).abs() < 0.005, "{own:?}");
    // No image stands in both parts.
    let train: std::collections::HashSet<_> = data.train.images().chunks_exact(784).collect();
    assert!(data.test.images().chunks_exact(784).all(|image| !train.contains(image)));
}

#[test]
fn the_colour_images_are_balanced_and_need_their_colours() {
    let data = load("shapes-mini", &LoadOptions::default()).unwrap();
    assert_eq!((data.train.class_counts(), data.test.class_counts()), (vec![250; 10], vec![100; 10]));
    assert_eq!(data.train.shape(), FeatureShape::image(3, 32, 32));
    assert_eq!((&*data.class_names[0], &*data.class_names[9]), ("warm disc", "dots"));
    let train: std::collections::HashSet<_> = data.train.images().chunks_exact(3072).collect();
    assert!(data.test.images().chunks_exact(3072).all(|image| !train.contains(image)));
    // In the middle, where the discs are, red leads blue in one of the first two classes and not in the other.
    let lead = |class: u8| {
        let of_class = (0..data.train.len()).filter(|&sample| data.train.labels()[sample] == class);
        let middle = |sample: usize| {
            let image = data.train.image(sample).unwrap();
            f64::from(image[16 * 32 + 16]) - f64::from(image[2048 + 16 * 32 + 16])
        };
        of_class.map(middle).sum::<f64>() / 250.0
    };
    assert!(lead(0) > 40.0 && lead(1) < -40.0, "{} {}", lead(0), lead(1));
    assert!(lead(2).abs() < 40.0, "{}", lead(2));
}
