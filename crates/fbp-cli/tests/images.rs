//! Images as people have them: the files of CIFAR, folders of image files, and what can be wrong with them.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::fs;
use std::path::Path;

use common::{World, number};
use fbp_linalg::FeatureShape;
use fbp_train::data::idx::{IdxImages, write_images, write_labels};
use fbp_train::data::{Dataset, LoadOptions, load};

/// A small network for images of some shape.
fn model(world: &World, [channels, height, width]: [usize; 3], classes: usize) {
    let text = format!(
        r#"
name = "tiny"
input = [{channels}, {height}, {width}]
classes = {classes}

[[stages]]
name = "conv1"
layers = [{{ type = "conv2d", out_channels = 3, kernel = 3, stride = 2 }}, {{ type = "relu" }}]

[[stages]]
name = "out"
layers = [{{ type = "flatten" }}, {{ type = "linear", out_features = {classes} }}]
"#
    );
    fs::write(world.path("tiny.toml"), text).unwrap();
}

/// Names and contents of all tensors of a checkpoint.
fn tensors(world: &World, name: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(world.path(name)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
    tensors.sort();
    tensors
}

fn pretrain(data: &str, out: &str) -> String {
    format!("pretrain --model tiny.toml --data {data} --epochs 2 --batch 16 --seed 4 --cache cache --out {out}")
}

/// Trains on both and compares everything that does not tell where the data are from.
fn same_training(world: &World, data: [&str; 2]) {
    world.ok(&pretrain(data[0], "a.safetensors --force"));
    world.ok(&pretrain(data[1], "b.safetensors --force"));
    assert_eq!(tensors(world, "a.safetensors"), tensors(world, "b.safetensors"), "{data:?}");
    let [a, b] = ["a.json", "b.json"].map(|name| world.json(name));
    for field in ["train_loss", "validation_accuracy", "test_accuracy", "normalization"] {
        assert_eq!(a[field], b[field], "{data:?}: {field}");
    }
}

fn write_idx(folder: &Path, part: &str, shape: FeatureShape, pixels: &[u8], labels: &[u8]) {
    fs::create_dir_all(folder).unwrap();
    let images = IdxImages { shape, pixels: pixels.to_vec() };
    write_images(&folder.join(format!("{part}-images-idx3-ubyte")), &images).unwrap();
    write_labels(&folder.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
}

#[test]
fn files_of_cifar_give_the_same_training_as_idx_files() {
    let world = World::new();
    for (name, classes, train, test, coarse) in [
        (
            "cifar10",
            10_u8,
            &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"][..],
            "test_batch",
            false,
        ),
        ("cifar100", 100, &["train"], "test", true),
    ] {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        fs::create_dir_all(world.path(&format!("sets/{name}"))).unwrap();
        for (file, name_of_file) in train.iter().chain([&test]).enumerate() {
            let mut content = Vec::new();
            for sample in 0..200 / train.len() {
                let label = ((sample * 7 + file * 3) % usize::from(classes)) as u8;
                let image = (0..3072).map(|k| (k * (usize::from(label) + 3) / 11 + sample * 13 + file) as u8);
                content.extend([&[label % 20][..usize::from(coarse)], &[label]].concat());
                content.extend(image);
            }
            for record in content.chunks(content.len() / (200 / train.len())) {
                labels.push(record[record.len() - 3073]);
                pixels.extend_from_slice(&record[record.len() - 3072..]);
            }
            fs::write(world.path(&format!("sets/{name}/{name_of_file}.bin")), content).unwrap();
        }
        let shape = FeatureShape::image(3, 32, 32);
        let idx = world.path(name);
        write_idx(&idx, "train", shape, &pixels[..200 * 3072], &labels[..200]);
        write_idx(&idx, "t10k", shape, &pixels[200 * 3072..], &labels[200..]);
        model(&world, [3, 32, 32], usize::from(classes));
        let classes = format!("idx:{name} --classes {classes}");
        same_training(&world, [&format!("{name} --data-dir sets"), &classes]);
        let text = world.ok(&format!("eval --checkpoint a.safetensors --data {name} --data-dir sets"));
        assert!(text.contains(if coarse { "lawn mower" } else { "truck" }) || coarse, "{text}");
    }
    let bad = world.path("sets/cifar10/data_batch_2.bin");
    let mut content = fs::read(&bad).unwrap();
    content[3 * 3073] = 200;
    fs::write(&bad, &content).unwrap();
    world.fails(&pretrain("cifar10 --data-dir sets", "c.safetensors"), &["data_batch_2.bin", "label 200 of sample 3"]);
    fs::write(&bad, &content[..5000]).unwrap();
    world.fails(&pretrain("cifar10 --data-dir sets", "c.safetensors"), &["data_batch_2.bin", "cut off"]);
    world.fails(&pretrain("cifar100 --data-dir none", "c.safetensors"), &["cargo xtask fetch cifar100"]);
}

fn png_file(path: &Path, [width, height]: [usize; 2], channels: usize, pixels: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), width as u32, height as u32);
    encoder.set_color(if channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
}

#[test]
fn fashion_mnist_as_an_image_folder_gives_the_same_training_as_its_idx_files() {
    let world = World::new();
    let data = load("fashion-mnist-mini", &LoadOptions::default()).unwrap();
    let part = |data: &Dataset, count: usize| data.subset(&(0..count).collect::<Vec<_>>()).unwrap();
    for (folder, idx, data) in [("train", "train", part(&data.train, 600)), ("val", "t10k", part(&data.test, 200))] {
        write_idx(&world.path("fashion"), idx, data.shape(), data.images(), data.labels());
        for (index, label) in data.labels().iter().enumerate() {
            let path = world.path(&format!("pictures/{folder}/{label}/{index}.png"));
            png_file(&path, [28, 28], 1, data.image(index).unwrap());
        }
    }
    model(&world, [1, 28, 28], 10);
    same_training(&world, ["folder:pictures", "idx:fashion"]);
    // Decoded once.
    assert_eq!(fs::read_dir(world.path("cache")).unwrap().count(), 2);
    // With augmentation the training is another one, and the same whatever the threads.
    world.ok(&pretrain("folder:pictures --augment crop,flip", "c.safetensors --threads 1"));
    assert_ne!(tensors(&world, "a.safetensors"), tensors(&world, "c.safetensors"));
    world.ok(&pretrain("idx:fashion --augment flip,crop", "d.safetensors --threads 2"));
    assert_eq!(world.json("c.json")["settings"]["augment"], "crop,flip");
    assert_eq!(world.json("c.json")["train_loss"].as_array().unwrap().len(), 2);
    let [c, d] = ["c.json", "d.json"].map(|name| number(&world.json(name)["train_loss"][0]));
    // Another number of threads may give other last bits.
    assert!((c - d).abs() <= 1e4 * f64::from(f32::EPSILON) * c, "{c} {d}");
    world.fails(
        &pretrain("idx:fashion --augment zoom", "e.safetensors").replace("--augment zoom", "--size 28"),
        &["--size", "folder:DIR"],
    );
}

/// A folder of coloured images of many sizes in two classes.
fn folder_of_two(world: &World) {
    for (part, count) in [("train", 12), ("val", 6)] {
        for (label, class) in ["bright", "dark"].into_iter().enumerate() {
            for sample in 0..count {
                let size = [14 + sample, 12 + 2 * sample];
                let value = |k: usize| (k * 29 % 90 + sample + if label == 0 { 120 } else { 10 }) as u8;
                let pixels: Vec<u8> = (0..3 * size[0] * size[1]).map(value).collect();
                png_file(&world.path(&format!("two/{part}/{class}/{sample}.png")), size, 3, &pixels);
            }
        }
    }
}

#[test]
fn a_network_gets_later_images_in_the_size_it_was_trained_on() {
    let world = World::new();
    folder_of_two(&world);
    model(&world, [3, 12, 12], 2);
    world.fails(&pretrain("folder:two", "c.safetensors"), &["different sizes", "--size N"]);
    world.fails(&pretrain("folder:two --resize 16", "c.safetensors"), &["--resize = 16", "crop"]);
    world.fails(&pretrain("folder:two --resize 9 --crop 12", "c.safetensors"), &["--crop = 12", "larger"]);
    world.ok(&pretrain("folder:two --resize 16 --crop 12 --interpolation bicubic", "c.safetensors"));
    let record = world.json("c.json");
    let name = "folder:two, centre 12 × 12 of a shorter side of 16, bicubic";
    assert_eq!(record["settings"]["data"]["name"], name);
    let eval = |more: &str| {
        world.ok(&format!("eval --checkpoint c.safetensors --data folder:two --cache cache --json e.json{more}"));
        world.json("e.json")
    };
    let same = eval("");
    assert_eq!((&same["data"], &same["test_accuracy"]), (&name.into(), &record["test_accuracy"]));
    assert_eq!(same["class_names"], serde_json::json!(["bright", "dark"]));
    assert_eq!(eval(" --size 12")["data"], "folder:two, 12 × 12, bilinear");
    world.fails(
        "eval --checkpoint c.safetensors --data folder:two --cache cache --size 13",
        &["[3, 13, 13]", "[3, 12, 12]"],
    );
    let text = world.ok("explain --checkpoint c.safetensors --data folder:two --cache cache --samples 0,1 --out ex");
    assert!(text.contains("0 bright") && text.contains("1 dark"), "{text}");
    let page = fs::read_to_string(world.path("ex/explain.html")).unwrap();
    assert!(page.contains("a bright, and"), "the page has the names of the classes");
}

#[test]
fn bad_folders_and_files_give_one_clear_error() {
    let world = World::new();
    folder_of_two(&world);
    model(&world, [3, 12, 12], 2);
    let command = pretrain("folder:two --size 12", "c.safetensors");
    let bad = world.path("two/train/dark/bad.jpg");
    let whole = fs::read(world.path("two/train/dark/3.png")).unwrap();
    let mut huge = whole.clone();
    huge[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let cases: [(&[u8], &str); 5] = [
        (b"this is a text", "neither a JPEG nor a PNG"),
        (b"", "no bytes"),
        (&whole[..whole.len() / 2], "cut off"),
        (&huge, "65535 × 65535"),
        (&[0xff, 0xd8, 0xff, 0xe0, 0, 16], "cut off"),
    ];
    for (content, says) in cases {
        fs::write(&bad, content).unwrap();
        world.fails(&command, &["bad.jpg", says, "--skip-broken"]);
    }
    let output = world.command(&format!("{command} --skip-broken")).output().unwrap();
    let (text, status) = (String::from_utf8(output.stderr).unwrap(), output.status);
    assert!(
        status.success() && text.contains("1 broken image files are left out") && text.contains("bad.jpg"),
        "{text}"
    );
    assert_eq!(
        world.json("c.json")["settings"]["data"]["name"],
        "folder:two, 12 × 12, bilinear, without 1 broken files"
    );
    fs::remove_file(&bad).unwrap();

    fs::create_dir(world.path("two/train/empty")).unwrap();
    world.fails(&command, &["differ", "empty only in two/train"]);
    fs::create_dir(world.path("two/val/empty")).unwrap();
    world.fails(&command, &["train/empty", "no image file"]);
    for class in ["empty", "dark"] {
        fs::remove_dir_all(world.path(&format!("two/train/{class}"))).unwrap();
    }
    world.fails(&command, &["two/train: 1 class folders"]);
    world.fails(&pretrain("folder:none", "d.safetensors"), &["none"]);
    world.fails(&pretrain("folder:cache", "d.safetensors"), &["cache: no folder train"]);
}
