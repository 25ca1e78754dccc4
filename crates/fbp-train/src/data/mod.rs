//! Image data by name: readers, normalisation, seeded splits and batches.
//!
//! | name                 | what                                                    | where                                    |
//! |----------------------|---------------------------------------------------------|------------------------------------------|
//! | `fashion-mnist`      | 60,000 + 10,000 images `[1, 28, 28]`, 10 classes        | fetched by `cargo xtask fetch fashion-mnist` |
//! | `fashion-mnist-mini` | 6,000 + 2,000 of them, the same number of every class   | ships with the repository                |
//! | `mnist`              | 60,000 + 10,000 images `[1, 28, 28]`, 10 classes        | fetched by `cargo xtask fetch mnist`     |
//! | `cifar10`            | 50,000 + 10,000 images `[3, 32, 32]`, 10 classes        | fetched by `cargo xtask fetch cifar10`   |
//! | `cifar100`           | 50,000 + 10,000 images `[3, 32, 32]`, 100 classes       | fetched by `cargo xtask fetch cifar100`  |
//! | `shapes-mini`        | 2,500 + 1,000 images `[3, 32, 32]`, 10 classes          | ships with the repository                |
//! | `idx:FOLDER`         | any folder with the four standard IDX files             | plain or gzip                            |
//! | `folder:DIR`         | `train` and `val`, with a folder of JPEG and PNG files for each class | any size: see [`ImageOptions`] |
//! | `tensors:FILE.safetensors` | inputs, with labels or with outputs of one's own: see [`to_tensors`]    | one file |
//! | `planner`            | 20,000 trajectories of a vehicle, inputs `[8]`, outputs of 8 poses | made when they are loaded     |
//!
//! [`read_own`] reads single images of one's own. Images stay bytes in memory ([`Dataset`]); a [`Batcher`] turns them into normalised `f32` batches in a buffer that
//! it uses again and again.
//!
//! ```no_run
//! use faer::Par;
//! use fbp_train::data::{Batcher, LoadOptions, Split, load};
//!
//! let data = load("fashion-mnist-mini", &LoadOptions::default())?;
//! let split = Split::stratified(&data.train, 0.1, 42)?;
//! let mut batches = Batcher::new(&data.train, split.train, &data.normalization, 256)?;
//! for epoch in 0..5 {
//!     batches.shuffle(42, epoch);
//!     while let Some(batch) = batches.next_batch(Par::Seq) {
//!         assert_eq!(batch.images.len(), batch.labels.len() * data.train.shape().len());
//!     }
//! }
//! # Ok::<(), fbp_train::data::DataError>(())
//! ```

mod augment;
mod batcher;
mod bundle;
mod cifar;
mod cifar_names;
mod content;
mod corruption;
mod dataset;
mod error;
mod folder;
mod folder_error;
pub mod idx;
mod normalization;
mod outputs;
mod own;
mod pixels;
pub mod planner;
mod regime;
mod source;
mod split;
mod tensors;

pub use augment::Augmentation;
pub use batcher::{Batch, Batcher};
pub use bundle::DataBundle;
pub use corruption::{Corruption, CorruptionKind};
pub use dataset::Dataset;
pub use error::DataError;
pub use folder::{ImageOptions, ImageSize};
pub use folder_error::FolderError;
pub use normalization::Normalization;
pub use outputs::{Outputs, Wanted};
pub use own::read_own;
pub use regime::{DropClass, Regime, with_pixel_noise};
pub use source::{DATA_DIR_VARIABLE, DataSource, FASHION_MNIST_CLASSES, LoadOptions, load, load_with};
pub use split::{SPLIT_SEED, Split, shuffle_indices};
pub use tensors::{POSE_KEY, TEST_SHARE, to_tensors};
