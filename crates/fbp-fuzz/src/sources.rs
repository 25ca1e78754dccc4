//! Which files of this repository read what.

pub(crate) const IDX: &[&str] = &["crates/fbp-train/src/data/idx.rs"];
pub(crate) const CIFAR: &[&str] = &["crates/fbp-train/src/data/cifar.rs"];
pub(crate) const DATA_SAFETENSORS: &[&str] = &["crates/fbp-train/src/data/tensors.rs"];
pub(crate) const PYTORCH: &[&str] =
    &["crates/fbp-models/src/weights/pytorch.rs", "crates/fbp-models/src/weights/pickle.rs"];
pub(crate) const SAFETENSORS: &[&str] = &[
    "crates/fbp-models/src/weights/safetensors_file.rs",
    "crates/fbp-models/src/weights/state_dict.rs",
    "crates/fbp-models/src/weights/element.rs",
];
pub(crate) const CHECKPOINT: &[&str] = &["crates/fbp-models/src/checkpoint.rs"];
pub(crate) const NETWORK: &[&str] = &[
    "crates/fbp-models/src/spec/mod.rs",
    "crates/fbp-models/src/spec/layer.rs",
    "crates/fbp-models/src/spec/tree.rs",
    "crates/fbp-models/src/spec/sugar.rs",
    "crates/fbp-models/src/spec/padding.rs",
    "crates/fbp-models/src/spec/plan.rs",
];
pub(crate) const SWEEP: &[&str] = &["crates/fbp-train/src/sweep/config.rs", "crates/fbp-train/src/sweep/list.rs"];
pub(crate) const MANIFEST: &[&str] =
    &["crates/fbp-train/src/store/reader.rs", "crates/fbp-train/src/store/manifest.rs"];
pub(crate) const TARGET_SHARD: &[&str] = &["crates/fbp-train/src/store/reader.rs"];
pub(crate) const RECORDS: &[&str] = &["crates/fbp-train/src/json.rs"];
pub(crate) const PNG: &[&str] =
    &["crates/fbp-train/src/image_files/decode.rs", "crates/fbp-train/src/image_files/png_file.rs"];
pub(crate) const JPEG: &[&str] = &[
    "crates/fbp-train/src/image_files/decode.rs",
    "crates/fbp-train/src/image_files/jpeg.rs",
    "crates/fbp-train/src/image_files/exif.rs",
];
