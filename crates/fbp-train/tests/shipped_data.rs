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
    let files = manifest["fashion-mnist-mini"]["files"].as_array().unwrap();
    assert_eq!(files.len(), 4);
    for file in files {
        let text = |key: &str| file[key].as_str().unwrap();
        let name = text("name");
        let gzip = fs::read(datasets.join("fashion-mnist-mini").join(format!("{name}.gz"))).unwrap();
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
