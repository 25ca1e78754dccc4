use super::*;
use crate::identity::DataIdentity;
use crate::json::write_json;
use crate::record::*;
use crate::settings::*;

fn data() -> DataIdentity {
    DataIdentity { name: "fashion-mnist-mini".into(), sha256: "d".repeat(64), samples: 6000 }
}

fn pretrain() -> PretrainRecord {
    PretrainRecord {
        settings: PretrainSettings {
            model: "simple-cnn-mnist-v2".into(),
            network: fbp_models::zoo::spec("simple-cnn-mnist-v2").unwrap(),
            data: data(),
            epochs: 2,
            batch: 256,
            learning_rate: 1e-3,
            schedule: Schedule::Constant,
            weight_decay: 0.01,
            validation: 0.1,
            seed: 0,
        },
        threads: 2,
        checkpoint_sha256: "c".repeat(64),
        parameters: 796,
        train_loss: vec![1.0, 0.5],
        validation_accuracy: vec![0.6, 0.7],
        test_accuracy: 0.77,
        seconds_per_epoch: 0.25,
        seconds: 0.6,
    }
}

fn targets() -> TargetsReport {
    let stage = |name: &str| StageReport {
        name: name.into(),
        frozen_rest_accuracy: 0.9996,
        frozen_rest_accuracy_of_wrong: 0.9985,
        violation_max: 1.5e-6,
        distance_relative: 0.037,
        satisfied_before: 4000,
        unattained: 3,
        corrected: 7,
    };
    TargetsReport {
        mode: TargetMode::Attainable,
        embedding: Embedding::Margin,
        margin: 1.0,
        samples: 6000,
        seconds: 0.2,
        images_per_second: 30_000.0,
        accuracy_before: 0.78,
        stages: vec![stage("stem"), stage("block")],
    }
}

fn run(stage: &str, alpha: f64, seed: u64, last: f64) -> PostTrainRecord {
    PostTrainRecord {
        settings: PostTrainSettings {
            checkpoint_sha256: "c".repeat(64),
            model: "simple-cnn-mnist-v2".into(),
            data: data(),
            targets: Some("t".repeat(64)),
            mode: Objective::Joint,
            stage: stage.into(),
            alpha: Some(alpha),
            seed,
            epochs: 2,
            batch: 256,
            learning_rate: 5e-5,
            weight_decay: 0.05,
            validation: 0.1,
            schedule: Schedule::Constant,
            keep: crate::Keep::Last,
            policy: Default::default(),
            ema: None,
            start: None,
            margin: None,
            target_mode: None,
        },
        threads: 2,
        test_accuracy_before: 0.77,
        test_accuracy: vec![0.765, last],
        validation_accuracy: vec![],
        cross_entropy: vec![0.6, 0.5],
        target_distance: vec![0.1, 0.05],
        weight: vec![1.0, 1.0],
        checkpoint: "x.safetensors".into(),
        checkpoint_sha256_after: "e".repeat(64),
        chosen: None,
        damping: vec![],
        step: vec![],
        segments: vec![],
        training_seconds: 1.0,
        seconds: 1.25,
    }
}

fn example() -> Example {
    let feature = |stage: &str, shape: [usize; 3]| {
        let len = shape.iter().product();
        let observed: Vec<f32> = (0..len).map(|k| k as f32 * 0.1).collect();
        let target = observed.iter().map(|v| v * 0.9).collect();
        ExampleFeature { stage: stage.into(), shape, observed, target }
    };
    Example {
        sample: 42,
        label: 6,
        predicted: 0,
        shape: [1, 4, 4],
        image: vec![0.5; 16],
        features: vec![feature("stem", [3, 4, 4]), feature("block", [5, 1, 1])],
    }
}

fn fill(folder: &Path) {
    write_json(&folder.join(PRETRAIN_FILE), &pretrain()).unwrap();
    write_json(&folder.join(TARGETS_FILE), &targets()).unwrap();
    write_json(&folder.join(EXAMPLES_FILE), &vec![example()]).unwrap();
    for stage in ["stem", "block"] {
        for seed in [10, 2, 0] {
            for (alpha, gain) in [(0.3, 0.01), (0.0, 0.0)] {
                let run = run(stage, alpha, seed, 0.78 + gain + 1e-4 * seed as f64);
                write_json(&folder.join(format!("{}.json", record_name(&run.settings))), &run).unwrap();
            }
        }
    }
    std::fs::write(folder.join("other.json"), "not ours").unwrap();
}

#[test]
fn summary_has_exactly_the_documented_fields() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let out = folder.path().join("out");
    write_report(&Runs::load(folder.path()).unwrap(), &out).unwrap();
    let text = std::fs::read_to_string(out.join(SUMMARY_FILE)).unwrap();
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    let stage = |name: &str| {
        serde_json::json!({"name": name, "frozen_rest_accuracy": 0.9996, "violation_max": 1.5e-6,
            "distance_relative": 0.037, "satisfied_before": 4000})
    };
    let mut runs = Vec::new();
    // Stages in the order of the network, then α, then seed as numbers.
    for stage in ["stem", "block"] {
        for (alpha, gain) in [(0.0, 0.0), (0.3, 0.01)] {
            for seed in [0, 2, 10] {
                let last = 0.78 + gain + 1e-4 * f64::from(seed);
                runs.push(serde_json::json!({"stage": stage, "alpha": alpha, "seed": seed,
                    "test_accuracy": [0.765, last], "seconds": 1.25}));
            }
        }
    }
    let expected = serde_json::json!({
        "data": "fashion-mnist-mini", "model": "simple-cnn-mnist-v2",
        "pretrain": {"test_accuracy": 0.77, "seconds_per_epoch": 0.25},
        "targets": {"mode": "attainable", "margin": 1.0, "samples": 6000, "seconds": 0.2,
            "stages": [stage("stem"), stage("block")]},
        "post_train": runs,
    });
    assert_eq!(found, expected);
}

#[test]
fn page_is_one_file_that_needs_no_network() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let [page, _] = write_report(&Runs::load(folder.path()).unwrap(), folder.path()).unwrap();
    let html = std::fs::read_to_string(page).unwrap();
    for part in ["<script", "<link", "src=\"http", "href=\"http", "@import", "url("] {
        assert!(!html.contains(part), "{part}");
    }
    assert_eq!(html.matches("<svg").count(), 2, "one chart for each stage");
    // The image and three pictures for each of two stages, and a legend for each stage.
    assert_eq!(html.matches("data:image/png;base64,").count(), 1 + 6 + 2);
    assert!(html.contains("Label: shirt. The network said: T-shirt/top."));
    assert!(html.contains("99.960 %") && html.contains("+1.00 pp"));
    assert!(html.contains("on top of the +1.04 pp of plain fine-tuning"));
    for tag in ["div", "figure", "table", "svg", "p", "h2", "h3", "span"] {
        let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn names_from_files_cannot_inject_markup() {
    let mut runs = Runs { post_train: vec![run("<script>x</script>", 0.1, 0, 0.8)], ..Runs::default() };
    runs.post_train[0].settings.model = "<img onerror=1>".into();
    let html = super::page::render(&runs, &Comparison::all(&runs)).unwrap();
    assert!(!html.contains("<script") && !html.contains("<img"), "{html}");
}

#[test]
fn records_of_two_checkpoints_and_empty_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = Runs::load(folder.path()).unwrap_err();
    assert!(error.one_line().contains("fbp post-train"), "{}", error.one_line());
    assert!(Runs::load(&folder.path().join("none")).is_err());
    fill(folder.path());
    let mut other = run("stem", 0.5, 0, 0.8);
    other.settings.checkpoint_sha256 = "0".repeat(64);
    write_json(&folder.path().join("post-train_other.json"), &other).unwrap();
    let error = Runs::load(folder.path()).unwrap_err();
    assert!(error.one_line().contains("different checkpoints"), "{}", error.one_line());
}

#[test]
fn a_broken_record_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    std::fs::write(folder.path().join("post-train_x.json"), "{").unwrap();
    let error = Runs::load(folder.path()).unwrap_err();
    assert!(error.one_line().contains("post-train_x.json is not a post-training record"), "{}", error.one_line());
}

#[test]
fn comparisons_are_written_in_four_formats() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    write_report(&Runs::load(folder.path()).unwrap(), folder.path()).unwrap();
    let read =
        |extension: &str| std::fs::read_to_string(folder.path().join(format!("comparisons.{extension}"))).unwrap();
    let table: Vec<Comparison> = serde_json::from_str(&read("json")).unwrap();
    assert_eq!(table.len(), 2, "one for each stage");
    for row in &table {
        assert_eq!((row.mode, row.alpha, row.seeds), (Objective::Joint, Some(0.3), 3));
        assert!((row.mean_pp - 1.0).abs() < 1e-9 && row.ci_low <= row.mean_pp && row.mean_pp <= row.ci_high);
        assert!(row.p_t.unwrap() < 1e-3 && row.p_t_holm.unwrap() >= row.p_t.unwrap());
        // Three positive differences: one of eight assignments of signs, and two rows.
        assert_eq!((row.p_wilcoxon, row.p_wilcoxon_holm), (Some(0.125), Some(0.25)));
    }
    for extension in ["csv", "md", "tex"] {
        assert!(read(extension).contains("stem") && read(extension).contains("+1.000"), "{extension}");
    }
}
