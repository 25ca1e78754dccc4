//! Weights of PyTorch come in, are used, and leave as they came.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::World;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};

const TINY: &str = r#"
name = "tiny"
input = [2, 6, 6]
classes = 3

[[stages]]
name = "stem"
layers = [{ type = "conv2d", out_channels = 4, kernel = 3 }, { type = "batch_norm" }, { type = "relu" }]

[[stages]]
name = "out"
layers = [{ type = "flatten" }, { type = "linear", out_features = 3 }]
"#;

/// A file that PyTorch wrote.
fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fbp-models/tests/data/torch").join(name)
}

/// Tensors of a safetensors file.
fn tensors(path: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned = |t: &TensorView<'_>| (t.dtype(), t.shape().to_vec(), t.data().to_vec());
    file.iter().map(|(name, tensor)| (name.to_owned(), owned(&tensor))).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// A folder with the network, and with the images whose logits PyTorch computed.
fn world() -> World {
    let world = World::new();
    fs::write(world.path("tiny.toml"), TINY).unwrap();
    let (dtype, shape, data) = tensors(&kept("logits.safetensors")).remove("images").unwrap();
    let view = TensorView::new(dtype, shape, &data).unwrap();
    fs::write(world.path("x.safetensors"), serialize([("inputs", view)], None).unwrap()).unwrap();
    world
}

fn import(file: &str, rest: &str) -> String {
    format!("import {} --model tiny.toml --out c.safetensors {rest}", kept(file).display())
}

#[test]
fn import_predict_and_export_close_the_circle() {
    let world = world();
    for file in ["zip.pth", "legacy.pth", "channels_last.pth", "wrapped.pth"] {
        let text = world.ok(&import(file, "--force --json import.json"));
        assert!(text.contains("8 tensors and 1 counters"), "{text}");
        assert!(text.contains("--preprocess"), "{text}");
        let record = world.json("import.json");
        assert_eq!(record["imported"].as_array().unwrap().len(), 8);
        assert_eq!(record["prefix"], if file == "wrapped.pth" { "state_dict.module." } else { "" });

        let predict =
            "predict --checkpoint c.safetensors --inputs x.safetensors --out y.safetensors --features stem --batch 1";
        let text = world.ok(&format!("{predict} --force --json predict.json"));
        assert!(text.contains("logits [2, 3]") && text.contains("features.stem [2, 4, 4, 4]"), "{text}");
        let (_, shape, logits) = tensors(&world.path("y.safetensors")).remove("logits").unwrap();
        let (_, _, expected) = tensors(&kept("logits.safetensors")).remove("logits").unwrap();
        assert_eq!(shape, [2, 3]);
        let largest = floats(&expected).into_iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        for (a, b) in floats(&logits).into_iter().zip(floats(&expected)) {
            // Sums of 64 products, twice.
            assert!((a - b).abs() <= 128.0 * f32::EPSILON * largest, "{file}: {a} and {b}");
        }
        world.ok("export --checkpoint c.safetensors --out w.safetensors --force --json export.json");
        assert_eq!(tensors(&world.path("w.safetensors")), tensors(&kept("model.safetensors")), "{file}");
        assert_eq!(world.json("export.json")["imported_from"], file);
    }
    let text = world.ok("export --checkpoint c.safetensors --out p.safetensors --original-prefix");
    assert!(text.contains("9 tensors of tiny that came from wrapped.pth"), "{text}");
    assert!(tensors(&world.path("p.safetensors")).keys().all(|name| name.starts_with("state_dict.module.")));
}

#[test]
fn a_new_head_and_preprocessing_stay_with_the_checkpoint() {
    let world = world();
    let text = world.ok(&import("zip.pth", "--head new --classes 5 --seed 3 --preprocess 0.5/0.25"));
    assert!(text.contains("out.1.weight") && text.contains("2 tensors of the old head"), "{text}");
    let found = tensors(&world.path("c.safetensors"));
    assert_eq!(found["out.1.weight"].1, [5, 64]);
    let bytes = fs::read(world.path("c.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert!(header.metadata().as_ref().unwrap()["fbp.preprocessing"].contains("0.25"));
    world.fails(&import("zip.pth", "--classes 5 --force"), &["--classes = 5", "--head new"]);
    world.fails(&import("zip.pth", "--preprocess nonsense --force"), &["--preprocess = nonsense", "imagenet"]);
}

#[test]
fn files_that_are_there_are_replaced_only_on_request() {
    let world = world();
    world.ok(&import("zip.pth", ""));
    let first = fs::read(world.path("c.safetensors")).unwrap();
    world.ok(&import("zip.pth", ""));
    assert_eq!(fs::read(world.path("c.safetensors")).unwrap(), first);
    world.fails(&import("half.pth", ""), &["--out = c.safetensors", "--force"]);
    assert_eq!(fs::read(world.path("c.safetensors")).unwrap(), first);
    world.ok(&import("half.pth", "--force"));
    fs::write(world.path("w.safetensors"), "my own").unwrap();
    world.fails("export --checkpoint c.safetensors --out w.safetensors", &["--out = w.safetensors", "--force"]);
    let predict = "predict --checkpoint c.safetensors --inputs x.safetensors --out w.safetensors";
    world.fails(predict, &["--out = w.safetensors", "--force"]);
    assert_eq!(fs::read(world.path("w.safetensors")).unwrap(), b"my own");
}

#[test]
fn what_cannot_be_imported_is_said_and_nothing_is_written() {
    let world = world();
    let bytes = fs::read(kept("zip.pth")).unwrap();
    fs::write(world.path("cut.pth"), &bytes[..bytes.len() / 2]).unwrap();
    let arguments = "--model tiny.toml --out c.safetensors";
    world.fails(&format!("import cut.pth {arguments}"), &["cut.pth", "damaged or cut off"]);
    world.fails(&format!("import none.pth {arguments}"), &["none.pth", "cannot open"]);
    world.fails(&format!("import small.toml {arguments}"), &["small.toml", "not a file of weights"]);
    let other = format!("import {} --model small.toml --out c.safetensors", kept("zip.pth").display());
    world.fails(&other, &["it does not hold the network small", "missing", "nearest", "left over"]);
    world.fails(&import("wrapped.pth", "--prefix nonsense"), &["\"nonsense.\"", "\"state_dict.module.\""]);
    assert!(!world.path("c.safetensors").exists());

    world.ok(&import("zip.pth", ""));
    let predict = "predict --checkpoint c.safetensors --out y.safetensors --inputs";
    world.fails(&format!("{predict} c.safetensors"), &["--inputs = c.safetensors", "inputs"]);
    world.fails(&format!("{predict} x.safetensors --features nonsense"), &["nonsense", "stem, out"]);
    world.fails(&format!("{predict} x.safetensors --batch 0"), &["--batch = 0"]);
    assert!(!world.path("y.safetensors").exists());
}
