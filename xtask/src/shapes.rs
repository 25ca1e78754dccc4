//! `cargo xtask make-shapes`: makes the colour images that ship with the repository.
//!
//! Ten classes of shapes and textures, each image with colours, place, size and angle of its own, on a background that changes
//! from one colour to another, with small things that mean nothing and noise over everything. They need colour (the first two
//! classes differ in nothing else), shape and texture to be told apart. Only additions, products, divisions and square roots
//! of `f64` are used, which every machine rounds alike.

mod draw;

use std::fs;
use std::path::PathBuf;

use clap::Args;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use self::draw::{CLASSES, Random, draw};
use crate::error::TaskError;
use crate::fetch::write_whole;
use crate::manifest::{self, sha256};
use crate::mini::compress;
use crate::workspace;

/// Training files, as in the binary release of CIFAR-10.
const TRAIN_FILES: usize = 5;

/// Make the colour images that ship with the repository
#[derive(Args)]
pub(crate) struct Arguments {
    /// Folder to write to [default: datasets/shapes-mini]
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    let Some(rule) = manifest::data_set("shapes-mini")?.selection else {
        let path = workspace::datasets().join("manifest.toml");
        return Err(TaskError::Malformed { path, reason: "shapes-mini has no selection".to_owned() });
    };
    let to = arguments.to.clone().unwrap_or_else(|| workspace::datasets().join("shapes-mini"));
    fs::create_dir_all(&to).map_err(TaskError::at(&to))?;
    let per_file = rule.train_per_class / TRAIN_FILES;
    let train = (1..=TRAIN_FILES).map(|file| (format!("data_batch_{file}.bin"), per_file));
    for (stream, (name, per_class)) in train.chain([("test_batch.bin".to_owned(), rule.test_per_class)]).enumerate() {
        let content = records(rule.seed, stream as u64, per_class);
        let gzip = compress(&content).map_err(TaskError::at(&to))?;
        write_whole(&to.join(format!("{name}.gz")), &gzip)?;
        println!(
            "    {{ name = \"{name}\", bytes = {}, sha256 = \"{}\", gzip_bytes = {}, gzip_sha256 = \"{}\" }},",
            content.len(),
            sha256(&content),
            gzip.len(),
            sha256(&gzip),
        );
    }
    let names: String = CLASSES.iter().map(|name| format!("{name}\n")).collect();
    write_whole(&to.join("batches.meta.txt"), names.as_bytes())?;
    println!("written to {}; the lines above belong in datasets/manifest.toml", to.display());
    Ok(())
}

/// Records of label and pixels, `per_class` of every class in turn.
fn records(seed: u64, stream: u64, per_class: usize) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut random = Random(rng);
    let mut content = Vec::new();
    for label in (0..per_class).flat_map(|_| 0..CLASSES.len()) {
        content.push(label as u8);
        content.extend(draw(label, &mut random));
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_follow_from_seed_and_stream_and_differ_from_each_other() {
        let some = records(1, 0, 2);
        assert_eq!(some.len(), 2 * 10 * 3073);
        assert_eq!(some, records(1, 0, 2));
        assert_ne!(some, records(1, 1, 2));
        assert_ne!(some, records(2, 0, 2));
        let images: std::collections::HashSet<_> = some.chunks(3073).collect();
        assert_eq!(images.len(), 20);
        assert!(some.chunks(3073).enumerate().all(|(index, record)| usize::from(record[0]) == index % 10));
        assert!(some.chunks(3073).all(|record| record[1..].iter().all(|value| value % 25 == 0)));
    }
}
