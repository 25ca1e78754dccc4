//! `cargo xtask make-mini`: makes the part of Fashion-MNIST that ships with the repository.
//!
//! The rule needs no random number generator, so that anyone can repeat it in any language: image number `i` of part `p`
//! (`train` or `t10k`) gets the key `sha256("SEED:p:i")`; of every class the images with the smallest keys are taken, and
//! they stay in their order.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};

use crate::error::TaskError;
use crate::fetch::write_whole;
use crate::manifest::{self, DataSet, sha256};
use crate::workspace;

const CLASSES: usize = 10;
const IMAGE_HEADER: usize = 16;
const LABEL_HEADER: usize = 8;
const PIXELS: usize = 28 * 28;

/// Make the part of Fashion-MNIST that ships with the repository
#[derive(Args)]
pub(crate) struct Arguments {
    /// Folder with the full data set; it is verified before use [default: datasets/fashion-mnist]
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
    /// Folder to write to [default: datasets/fashion-mnist-mini]
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    let full = manifest::data_set("fashion-mnist")?;
    let mini = manifest::data_set("fashion-mnist-mini")?;
    let Some(rule) = mini.selection else {
        let path = workspace::datasets().join("manifest.toml");
        return Err(TaskError::Malformed { path, reason: "fashion-mnist-mini has no selection".to_owned() });
    };
    let default = |name| workspace::datasets().join(name);
    let from = arguments.from.clone().unwrap_or_else(|| default("fashion-mnist"));
    let to = arguments.to.clone().unwrap_or_else(|| default("fashion-mnist-mini"));
    fs::create_dir_all(&to).map_err(TaskError::at(&to))?;
    for (part, per_class) in [("train", rule.train_per_class), ("t10k", rule.test_per_class)] {
        let image_name = format!("{part}-images-idx3-ubyte");
        let label_name = format!("{part}-labels-idx1-ubyte");
        let images = read(&full, &from, &image_name)?;
        let labels = read(&full, &from, &label_name)?;
        let chosen = choose(&labels[LABEL_HEADER..], per_class, rule.seed, part);
        let (images, labels) = pick(&images, &labels, &chosen);
        for (name, content) in [(image_name, images), (label_name, labels)] {
            let gzip = compress(&content).map_err(TaskError::at(&to))?;
            let path = to.join(format!("{name}.gz"));
            write_whole(&path, &gzip)?;
            println!(
                "    {{ name = \"{name}\", bytes = {}, sha256 = \"{}\", gzip_bytes = {}, gzip_sha256 = \"{}\" }},",
                content.len(),
                sha256(&content),
                gzip.len(),
                sha256(&gzip),
            );
        }
    }
    println!("written to {}; the lines above belong in datasets/manifest.toml", to.display());
    Ok(())
}

/// A file of the full data set, verified.
fn read(full: &DataSet, folder: &std::path::Path, name: &str) -> Result<Vec<u8>, TaskError> {
    let absent = || TaskError::NotInSource { place: folder.display().to_string(), file: name.to_owned() };
    let path = manifest::find(folder, name).ok_or_else(absent)?;
    let entry = full.files.iter().find(|entry| entry.name == name).ok_or_else(absent)?;
    let bytes = fs::read(&path).map_err(TaskError::at(&path))?;
    entry.content(&path.display().to_string(), bytes)
}

/// Positions of the chosen samples, ascending.
fn choose(labels: &[u8], per_class: usize, seed: u64, part: &str) -> Vec<usize> {
    let mut of_class = vec![Vec::new(); CLASSES];
    for (index, &label) in labels.iter().enumerate() {
        let key: [u8; 32] = Sha256::digest(format!("{seed}:{part}:{index}")).into();
        of_class[usize::from(label)].push((key, index));
    }
    let mut chosen = Vec::new();
    for mut keyed in of_class {
        keyed.sort_unstable();
        chosen.extend(keyed.into_iter().take(per_class).map(|(_, index)| index));
    }
    chosen.sort_unstable();
    chosen
}

/// The two IDX files with the chosen samples only.
fn pick(images: &[u8], labels: &[u8], chosen: &[usize]) -> (Vec<u8>, Vec<u8>) {
    let with_count = |header: &[u8]| {
        let mut header = header.to_vec();
        header[4..8].copy_from_slice(&(chosen.len() as u32).to_be_bytes());
        header
    };
    let (mut some_images, mut some_labels) = (with_count(&images[..IMAGE_HEADER]), with_count(&labels[..LABEL_HEADER]));
    for &index in chosen {
        some_images.extend_from_slice(&images[IMAGE_HEADER + index * PIXELS..][..PIXELS]);
        some_labels.push(labels[LABEL_HEADER + index]);
    }
    (some_images, some_labels)
}

/// Smallest gzip of the content, with neither time nor name in its header.
pub(crate) fn compress(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(content)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_balanced_ascending_and_follows_from_the_seed() {
        let labels: Vec<u8> = (0..500_u32).map(|i| (i * i % 10) as u8).collect();
        let chosen = choose(&labels, 20, 7, "train");
        assert!(chosen.is_sorted());
        for class in 0..10 {
            let there = labels.iter().filter(|&&label| label == class).count();
            let taken = chosen.iter().filter(|&&index| labels[index] == class).count();
            assert_eq!(taken, there.min(20), "class {class}");
        }
        assert_eq!(chosen, choose(&labels, 20, 7, "train"));
        assert_ne!(chosen, choose(&labels, 20, 8, "train"));
        assert_ne!(chosen, choose(&labels, 20, 7, "t10k"));
    }

    #[test]
    fn picked_samples_keep_their_bytes() {
        let mut images = vec![0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 28, 0, 0, 0, 28];
        images.extend((0..3 * PIXELS).map(|i| (i / PIXELS) as u8));
        let labels = [0, 0, 8, 1, 0, 0, 0, 3, 5, 6, 7];
        let (some_images, some_labels) = pick(&images, &labels, &[0, 2]);
        assert_eq!(some_labels, [0, 0, 8, 1, 0, 0, 0, 2, 5, 7]);
        assert_eq!(some_images[..8], [0, 0, 8, 3, 0, 0, 0, 2]);
        assert_eq!(some_images.len(), IMAGE_HEADER + 2 * PIXELS);
        assert_eq!((some_images[IMAGE_HEADER], some_images[IMAGE_HEADER + PIXELS]), (0, 2));
    }
}
