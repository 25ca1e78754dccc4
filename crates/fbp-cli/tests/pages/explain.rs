//! Explanations of samples.

use std::collections::BTreeSet;
use std::fs;

use fbp_models::Checkpoint;
use fbp_train::data::{LoadOptions, load};
use fbp_train::explain::{ExplainOptions, ExplainedStage, explain};
use fbp_train::targets::TargetsSource;

use super::check::{assert_reads_well, assert_self_contained};
use super::common::World;
use super::number;

const COMMON: &str = "explain --checkpoint c.safetensors --data idx:data --classes 3 --threads 2";

fn names(world: &World, folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(world.path(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn wrong_samples_are_explained_with_page_pictures_and_figures() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let text = world.ok(&format!("{COMMON} --samples wrong:3 --out x --json x.json"));
    assert!(text.contains("conv1 moved by") && text.contains("x/explain.html"), "{text}");
    let record = world.json("x/explain.json");
    assert_eq!(record, world.json("x.json"));
    let samples = record["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 3);
    let mut expected = BTreeSet::from(["explain.json".to_owned(), "explain.html".to_owned()]);
    for sample in samples {
        assert_ne!(sample["predicted"], sample["label"]);
        let stages = sample["stages"].as_array().unwrap();
        assert_eq!(stages.iter().map(|stage| &stage["stage"]).collect::<Vec<_>>(), ["input", "conv1", "conv2"]);
        for stage in stages {
            // The network's own layers turn the target into the label, with the margin.
            let (label, logits) = (sample["label"].as_u64().unwrap() as usize, stage["logits"].as_array().unwrap());
            let rival =
                (0..3).filter(|class| *class != label).map(|class| number(&logits[class])).fold(f64::MIN, f64::max);
            assert!(number(&logits[label]) - rival > 0.99, "{stage}");
            assert_eq!((&stage["predicted"], &stage["attained"]), (&sample["label"], &true.into()));
            assert!(number(&stage["distance"]) > 0.0, "{stage}");
            let shares: f64 = stage["channels"].as_array().unwrap().iter().map(|entry| number(&entry["share"])).sum();
            assert!((shares - 1.0).abs() < 1e-6, "{stage}");
            for picture in stage["pictures"].as_array().unwrap() {
                let name = picture.as_str().unwrap();
                let decoder =
                    png::Decoder::new(std::io::BufReader::new(fs::File::open(world.path("x").join(name)).unwrap()));
                let info = decoder.read_info().unwrap();
                assert!(info.info().width >= 200, "{name}: {}", info.info().width);
                expected.insert(name.to_owned());
            }
        }
    }
    assert_eq!(names(&world, "x"), expected);
    let page = fs::read_to_string(world.path("x/explain.html")).unwrap();
    assert_self_contained(&page);
    assert_eq!(page.matches("class=\"example\"").count(), 3);
    assert_reads_well(&page, &world.path(""));
}

#[test]
fn the_input_stays_an_image_and_what_is_right_stays_as_it_is() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let network = Checkpoint::load(&world.path("c.safetensors")).unwrap().network;
    let options = LoadOptions { classes: Some(3), ..LoadOptions::default() };
    let data = load(&format!("idx:{}", world.path("data").display()), &options).unwrap();
    let source = TargetsSource { network: &network, data: &data.train, normalization: &data.normalization };
    let samples: Vec<usize> = (0..60).collect();
    let explanation = explain(source, &samples, &ExplainOptions::default()).unwrap();
    assert!(explanation.input_note.is_none());
    let (mut satisfied, mut changed) = (0, 0);
    for sample in &explanation.samples {
        let input = &sample.stages[0];
        assert!(input.observed.iter().zip(&sample.image).all(|(a, b)| (a - b).abs() < 1e-5));
        assert!(input.target.iter().all(|value| (-1e-5..=1.0 + 1e-5).contains(value)), "{:?}", input.target);
        let unchanged = |stage: &ExplainedStage| stage.observed == stage.target;
        assert_eq!(sample.satisfied, sample.stages.iter().all(unchanged), "sample {}", sample.sample);
        satisfied += usize::from(sample.satisfied);
        changed += usize::from(!sample.satisfied);
    }
    assert!(satisfied > 5 && changed > 5, "{satisfied} {changed}");
}

#[test]
fn wrong_choices_and_files_in_the_way_are_named() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let run = |samples: &str, more: &str| format!("{COMMON} --samples {samples} {more}");
    for samples in ["400", "3,400", "list.txt"] {
        fs::write(world.path("list.txt"), "# mine\n1\n400\n").unwrap();
        world.fails(&run(samples, "--out x"), &["--samples", "400", "400 training samples, 0 to 399"]);
    }
    world.fails(&run("wrong:399", "--out x"), &["--samples wrong:399", "only"]);
    world.fails(&run("class:7", "--out x"), &["--samples class:7", "no sample of that class"]);
    world.fails(&run("none.txt", "--out x"), &["none.txt"]);
    world.fails(&run("3", "--stage conv9 --out x"), &["conv9", "input, conv1, conv2"]);
    world.fails(&run("3", "--limit 0 --out x"), &["--limit", "1 to 200"]);
    world.fails(&run("3", "--margin NaN --out x"), &["--margin"]);
    assert!(!world.path("x").exists());

    fs::create_dir(world.path("x")).unwrap();
    fs::write(world.path("x/explain.html"), "mine").unwrap();
    world.fails(&run("3", "--out x"), &["x/explain.html", "not a result", "--force"]);
    assert_eq!(fs::read_to_string(world.path("x/explain.html")).unwrap(), "mine");
    assert_eq!(names(&world, "x").len(), 1);
    fs::write(world.path("x/explain.json"), "mine").unwrap();
    world.fails(&run("3", "--out x"), &["x/explain.json", "not a record of an explanation"]);
    fs::remove_file(world.path("x/explain.json")).unwrap();
    world.ok(&run("3,5", "--stage conv1 --out x --force"));
    fs::write(world.path("x/mine.png"), "mine").unwrap();
    assert_eq!(names(&world, "x").len(), 3 + 2 * 3);
    world.ok(&run("3,5", "--stage conv1 --out x"));
    world.fails(&run("3", "--stage conv1 --out x"), &["other settings", "samples: 3,5, now 3", "--force"]);
    world.ok(&run("3", "--stage conv1 --out x --force"));
    // What the earlier explanation left is gone, what is not its own stays.
    assert_eq!(names(&world, "x").len(), 3 + 3);
    assert!(world.path("x/mine.png").exists());
    world.fails(&run("3", "--out c.safetensors"), &["c.safetensors"]);
}
