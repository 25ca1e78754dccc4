//! What belongs to which file: normalisation to checkpoints, samples to shards, and images of one's own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use faer::Par;
use fbp_models::{Checkpoint, checkpoint};
use fbp_train::data::idx::{self, IdxImages};
use fbp_train::data::{DataBundle, LoadOptions, Normalization, load};
use fbp_train::{EvalSet, TrainError};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::common::{TEST, World, number, targets_arguments};

const IMAGES: [&str; 2] = ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte"];
const LABELS: [&str; 2] = ["train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"];

fn data(world: &World, folder: &str) -> DataBundle {
    let options = LoadOptions { classes: Some(3), ..LoadOptions::default() };
    load(&format!("idx:{}", world.path(folder).display()), &options).unwrap()
}

/// The same images with half the contrast and more light.
fn write_brighter(world: &World) {
    fs::create_dir(world.path("bright")).unwrap();
    for (images, labels) in IMAGES.into_iter().zip(LABELS) {
        let path = |folder: &str, name: &str| world.path(folder).join(name);
        let IdxImages { shape, pixels } = idx::read_images(&path("data", images)).unwrap();
        let pixels = pixels.into_iter().map(|pixel| pixel / 2 + 60).collect();
        idx::write_images(&path("bright", images), &IdxImages { shape, pixels }).unwrap();
        fs::copy(path("data", labels), path("bright", labels)).unwrap();
    }
}

#[test]
fn normalisation_is_that_of_the_training_whatever_the_brightness() {
    let world = World::new();
    world.pretrain("c.safetensors");
    write_brighter(&world);
    let (trained_on, bright) = (data(&world, "data").normalization, data(&world, "bright"));
    let start = Checkpoint::load(&world.path("c.safetensors")).unwrap();
    assert_eq!(start.preprocessing.as_ref().unwrap().mean(), trained_on.mean());
    assert_eq!(world.json("c.json")["normalization"]["std"][0], trained_on.std()[0]);
    let accuracy = |normalization: &Normalization| -> Result<f64, TrainError> {
        EvalSet::new(&bright.test, normalization, None)?.accuracy(&start.network)
    };
    let [kept, renewed] = [&trained_on, &bright.normalization].map(|norm| accuracy(norm).unwrap());
    assert_ne!(kept, renewed, "the shift should show");

    let eval = |checkpoint: &str, more: &str| {
        world.ok(&format!("eval --checkpoint {checkpoint} --data idx:bright --classes 3 {more} --json e.json"));
        world.json("e.json")
    };
    let record = eval("c.safetensors", "");
    assert_eq!(number(&record["test_accuracy"]), kept);
    assert_eq!(record["normalization"]["mean"][0], trained_on.mean()[0]);
    assert_eq!(number(&eval("c.safetensors", "--renormalise")["test_accuracy"]), renewed);

    // What is made from a checkpoint keeps how its images were normalised.
    let from = "--checkpoint c.safetensors --data idx:bright --classes 3 --validation 0.2 --threads 2";
    world.ok(&format!("repair {from} --samples wrong:2 --stage out --out r.safetensors"));
    world.ok(&format!("post-train {from} --mode head --out runs"));
    let entries = fs::read_dir(world.path("runs")).unwrap().map(|entry| entry.unwrap().path());
    let head = entries.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect::<Vec<_>>();
    let [head] = &head[..] else { panic!("one checkpoint, not {head:?}") };
    for made in [&world.path("r.safetensors"), head] {
        let made = Checkpoint::load(made).unwrap();
        assert_eq!(made.preprocessing, start.preprocessing);
    }
    // Targets of the one kind are not taken for those of the other.
    let targets = targets_arguments("c.safetensors", "t").replace("idx:data", "idx:bright");
    world.ok(&targets);
    world.fails(&format!("{targets} --renormalise"), &["other settings", "renormalised"]);

    // A checkpoint that does not tell, as older ones: as before, and it is said once.
    checkpoint::save(&world.path("old.safetensors"), &start.network, &BTreeMap::new()).unwrap();
    assert_eq!(number(&eval("old.safetensors", "")["test_accuracy"]), renewed);
    let old = "eval --checkpoint old.safetensors --data idx:bright --classes 3";
    let notes = |more: &str| {
        let output = world.command(&format!("{old} {more}")).output().unwrap();
        String::from_utf8(output.stderr).unwrap().matches("does not tell how its images were normalised").count()
    };
    assert_eq!((notes(""), notes("--renormalise")), (1, 0));
}

#[test]
fn data_of_another_size_are_refused_by_name() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.fails("eval --checkpoint c.safetensors --data fashion-mnist-mini", &["fashion-mnist-mini", "[1, 12, 12]"]);
}

/// Tensors of all shards of a store, in order, by name.
fn shards(folder: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    names.sort();
    names.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn whole_numbers(view: &TensorView<'_>) -> Vec<i64> {
    assert_eq!(view.dtype(), Dtype::I64);
    view.data().chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn shards_tell_whose_targets_they_hold_and_python_reads_them() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.ok(&format!("{} --train-size 90", targets_arguments("c.safetensors", "t")));
    let labels = idx::read_labels(&world.path("data").join(LABELS[0])).unwrap();
    let (mut indices, mut features) = (Vec::new(), 0);
    for bytes in shards(&world.path("t")) {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let own = whole_numbers(&file.tensor("indices").unwrap());
        let wanted: Vec<i64> = own.iter().map(|&index| i64::from(labels[index as usize])).collect();
        assert_eq!(whole_numbers(&file.tensor("labels").unwrap()), wanted);
        let target = file.tensor("target.conv1").unwrap();
        assert_eq!((target.shape(), target.dtype()), (&[own.len(), 3, 5, 5][..], Dtype::F32));
        assert_eq!(file.tensor("attained.conv1").unwrap().shape(), [own.len()]);
        features += target.data().len() / 4;
        indices.extend(own);
    }
    assert_eq!((indices.len(), features), (90, 90 * 75));
    assert!(indices.is_sorted_by(|a, b| a < b), "{indices:?}");
    // Equally many of every class: a tenth of the labels is wrong, so these are not the first 90 samples.
    let of_class = |class: u8| indices.iter().filter(|&&index| labels[index as usize] == class).count();
    assert_eq!([0, 1, 2].map(of_class), [30; 3]);
    read_with_python(&world, "(90,) (90,) (90, 3, 5, 5)");
}

/// Runs the reader of the README where Python and its packages are there.
#[expect(clippy::print_stdout, reason = "whoever runs the test should know what it left out")]
fn read_with_python(world: &World, expected: &str) {
    let readme = include_str!("../../../fbp-train/README.md");
    let reader = readme.split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    assert!(reader.lines().count() <= 10, "{reader}");
    let python = |code: &str| Command::new("python3").args(["-c", code]).current_dir(world.path("")).output();
    let has_packages = python("import numpy, safetensors").is_ok_and(|output| output.status.success());
    if !has_packages {
        println!("skipped: no python3 with numpy and safetensors, so only the crate safetensors read the shards");
        return;
    }
    let output = python(reader).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), expected);
}

#[test]
fn eval_tells_loss_guesses_classes_and_confusions() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let eval = "eval --checkpoint c.safetensors --data idx:data --classes 3";
    let text = world.ok(&format!("{eval} --top-k 2 --confusion --json e.json"));
    for part in ["loss (cross-entropy)", "right among 2 guesses", "most often taken for", "what it was taken for"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let record = world.json("e.json");
    let test = &record["test"];
    assert_eq!((&test["accuracy"], test["samples"].as_u64()), (&record["test_accuracy"], Some(TEST as u64)));
    let confusion: Vec<Vec<u64>> = serde_json::from_value(test["confusion"].clone()).unwrap();
    assert_eq!(confusion.iter().flatten().sum::<u64>(), TEST as u64);
    let right: u64 = (0..3).map(|class| confusion[class][class]).sum();
    assert_eq!(right as f64 / TEST as f64, number(&record["test_accuracy"]));
    for class in 0..3 {
        let all: u64 = confusion[class].iter().sum();
        assert_eq!(number(&test["per_class"][class]), confusion[class][class] as f64 / all as f64);
    }
    assert!(number(&test["top_k"]["accuracy"]) >= number(&test["accuracy"]) && number(&test["loss"]) > 0.0);
    world.fails(&format!("{eval} --top-k 4"), &["--top-k = 4", "number of classes"]);
    world.fails(&format!("{eval} --top-k 0"), &["--top-k = 0"]);
}

#[test]
fn test_images_and_own_images_are_repaired_and_judged_by_the_others() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let common = "repair --checkpoint c.safetensors --data idx:data --classes 3 --validation 0.2 --max-drawdown 50 --stage out \
                  --threads 2";
    world.ok(&format!("{common} --part test --samples wrong:3 --out test.safetensors"));
    let record = world.json("test.json");
    assert_eq!((&record["settings"]["part"], record["samples"].as_array().unwrap().len()), (&"test".into(), 3));
    let bundle = data(&world, "data");
    let [before, after] = ["c", "test"].map(|name| {
        let network = Checkpoint::load(&world.path(&format!("{name}.safetensors"))).unwrap().network;
        EvalSet::new(&bundle.test, &bundle.normalization, None).unwrap().right(&network).unwrap()
    });
    let given: Vec<usize> = serde_json::from_value(record["samples"].clone()).unwrap();
    let repaired = given.iter().filter(|&&sample| !before[sample] && after[sample]).count();
    assert_eq!(number(&record["efficacy"]), repaired as f64 / 3.0);
    assert!(repaired > 0, "{record}");
    // The three do not judge their own repair.
    let others = |right: &[bool]| (0..TEST).filter(|sample| !given.contains(sample) && right[*sample]).count();
    assert_eq!(number(&record["test_accuracy_after"]), others(&after) as f64 / (TEST - 3) as f64);
    assert_eq!(number(&record["test_accuracy_before"]), others(&before) as f64 / (TEST - 3) as f64);

    // The same images as a file of one's own.
    let pixels: Vec<u8> = given.iter().flat_map(|&sample| bundle.test.image(sample).unwrap().to_vec()).collect();
    let labels: Vec<u8> = given.iter().map(|&sample| bundle.test.labels()[sample]).collect();
    let tensors = BTreeMap::from([
        ("inputs", TensorView::new(Dtype::U8, vec![3, 1, 12, 12], &pixels).unwrap()),
        ("labels", TensorView::new(Dtype::U8, vec![3], &labels).unwrap()),
    ]);
    fs::write(world.path("own.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    world.ok(&format!("{common} --image own.safetensors --out own-repaired.safetensors"));
    let own = world.json("own-repaired.json");
    assert_eq!((&own["efficacy"], &own["settings"]["samples"]), (&record["efficacy"], &"all".into()));
    assert_eq!(own["settings"]["own"]["name"], "own.safetensors");
    let [one, other] = ["own-repaired.safetensors", "test.safetensors"].map(|name| fs::read(world.path(name)).unwrap());
    assert!(one == other, "the same images give the same repair");
    world.fails(&format!("{common} --image none.png --label 1 --out x.safetensors"), &["none.png"]);
    world.fails(
        &format!("{common} --image own.safetensors --label 3 --out x.safetensors"),
        &["own.safetensors", "label 3"],
    );
}

#[test]
fn own_inputs_are_explained_like_the_images_that_they_were_made_of() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let bundle = data(&world, "data");
    let mut inputs = vec![0.0_f32; 2 * 144];
    bundle.test.normalise_into(&[4, 7], &bundle.normalization, &mut inputs, Par::Seq).unwrap();
    let bytes: Vec<u8> = inputs.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensors = BTreeMap::from([("inputs", TensorView::new(Dtype::F32, vec![2, 144], &bytes).unwrap())]);
    fs::write(world.path("own.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    let file = fs::File::create(world.path("four.png")).unwrap();
    let mut encoder = png::Encoder::new(file, 12, 12);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(bundle.test.image(4).unwrap()).unwrap();

    let labels = bundle.test.labels();
    let run = |arguments: &str, out: &str| {
        world.ok(&format!("explain --checkpoint c.safetensors --threads 2 {arguments} --out {out}"));
        let record = world.json(&format!("{out}/explain.json"));
        let samples = record["samples"].as_array().unwrap().clone();
        samples
            .iter()
            .map(|sample| (sample["logits"].clone(), sample["stages"][1]["distance"].clone()))
            .collect::<Vec<_>>()
    };
    let test = run("--data idx:data --classes 3 --part test --samples 4,7", "test");
    // Neither data nor how they are normalised have to be told.
    let arrays = run(&format!("--image own.safetensors --label {} --label {}", labels[4], labels[7]), "arrays");
    let picture = run(&format!("--image four.png --label {}", labels[4]), "picture");
    assert_eq!((test.len(), &arrays), (2, &test));
    // One by one: a batch of another size may round otherwise.
    assert_eq!(picture, run("--data idx:data --classes 3 --part test --samples 4", "one"));
    let page = fs::read_to_string(world.path("picture/explain.html")).unwrap();
    assert!(page.contains("four.png") && !page.contains("training images"), "{page:.3000}");
    let page = fs::read_to_string(world.path("test/explain.html")).unwrap();
    assert!(page.contains("test images") && !page.contains("training images"), "{page:.3000}");

    let start = Checkpoint::load(&world.path("c.safetensors")).unwrap();
    checkpoint::save(&world.path("old.safetensors"), &start.network, &BTreeMap::new()).unwrap();
    world.fails(
        "explain --checkpoint old.safetensors --image four.png --label 0 --out x",
        &["old.safetensors", "--data"],
    );
    world.fails("explain --checkpoint c.safetensors --image four.png --out x", &["four.png", "--label"]);
}
