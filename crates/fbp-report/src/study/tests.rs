use fbp_train::identity::DataIdentity;
use fbp_train::json::write_json;
use fbp_train::one_line;
use fbp_train::scores::{ChosenScores, PostTrainScores, PretrainScores};
use fbp_train::settings::*;
use fbp_train::targets::*;
use fbp_train::train::*;

use super::*;

fn load(folder: &Path) -> Result<Study, ReportError> {
    Study::load(&[folder.to_owned()])
}

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
            augment: Default::default(),
            keep: fbp_train::Keep::Last,
            loss: None,
            fused: true,
            seed: 0,
        },
        threads: 2,
        ranks: None,
        checkpoint_sha256: "c".repeat(64),
        normalization: None,
        class_names: Vec::new(),
        parameters: 796,
        train_loss: vec![1.0, 0.5],
        scores: PretrainScores { measure: Measure::Accuracy, validation: vec![0.6, 0.7], test: 0.77 },
        test_errors: None,
        epoch: None,
        seconds_per_epoch: 0.25,
        seconds: 0.6,
        processor_seconds: None,
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
        tolerance: None,
        metric: Metric::Euclidean,
        effort: Effort::Thorough,
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
            keep: fbp_train::Keep::Last,
            policy: Default::default(),
            ema: None,
            augment: Default::default(),
            loss: None,
            metric: Metric::Euclidean,
            start: None,
            margin: None,
            tolerance: None,
            embedding: None,
            target_mode: None,
        },
        threads: 2,
        ranks: None,
        scores: PostTrainScores {
            measure: Measure::Accuracy,
            before: 0.77,
            test: vec![0.765, last],
            validation: vec![],
            loss: vec![0.6, 0.5],
        },
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
        outputs: None,
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
    write_report(&load(folder.path()).unwrap(), &out, false).unwrap();
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
fn every_mode_is_in_the_summary() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let mut local = run("conv1", 0.0, 0, 0.5);
    (local.settings.mode, local.settings.alpha) = (Objective::Local, None);
    write_json(&folder.path().join(format!("{}.json", record_name(&local.settings))), &local).unwrap();
    let summary = Summary::of(&load(folder.path()).unwrap());
    let is_local = |run: &&summary::PostTrainSummary| run.mode == Some(Objective::Local) && run.alpha.is_none();
    assert_eq!(summary.post_train.iter().filter(is_local).count(), 1);
}

#[test]
fn page_is_one_file_that_needs_no_network() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let [page, _] = write_report(&load(folder.path()).unwrap(), folder.path(), false).unwrap();
    let html = std::fs::read_to_string(page).unwrap();
    for part in ["<script", "<link", "src=\"http", "href=\"http", "@import", "url("] {
        assert!(!html.contains(part), "{part}");
    }
    assert_eq!(html.matches("<svg").count(), 3, "one chart for each stage, and accuracy against time");
    // The image, and three pictures and two colour scales for each of two stages.
    assert_eq!(html.matches("data:image/png;base64,").count(), 1 + 6 + 4);
    assert!(html.contains("Label: shirt. The network said: T-shirt/top."));
    assert!(html.contains("99.960 %") && html.contains("+1.00 pp"));
    assert!(html.contains("<b>The gain is real:</b> the targets are worth +1.00 pp"));
    assert!(
        html.contains("Plain fine-tuning of the same layers gained +1.04 pp")
            && html.contains("helped the network improve")
    );
    assert!(html.contains("held no images back for validation"));
    for tag in ["div", "figure", "table", "svg", "p", "h2", "h3", "span"] {
        let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn names_from_files_cannot_inject_markup() {
    let mut runs = Runs { post_train: vec![run("<script>x</script>", 0.1, 0, 0.8).into()], ..Runs::default() };
    runs.post_train[0].record.settings.model = "<img onerror=1>".into();
    runs.examples = vec![Example { features: vec![], ..example() }];
    let study = Study::of(runs);
    let html = super::page::render(&study, &Comparison::all(&study)).unwrap();
    assert!(!html.contains("<script") && !html.contains("<img onerror"), "{html}");
}

#[test]
fn folders_without_records_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(one_line(&error).contains("fbp post-train"), "{}", one_line(&error));
    assert!(load(&folder.path().join("none")).is_err());
}

#[test]
fn records_are_told_by_their_fields_and_sorted_by_start() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("deeper/second"));
    std::fs::create_dir_all(&first).unwrap();
    std::fs::create_dir_all(&second).unwrap();
    fill(&first);
    // The same run once more, under another name, and a run of another start.
    write_json(&folder.path().join("copy.json"), &run("stem", 0.3, 0, 0.78 + 0.01)).unwrap();
    let mut other = run("stem", 0.5, 0, 0.8);
    other.settings.checkpoint_sha256 = "0".repeat(64);
    write_json(&second.join("x.json"), &other).unwrap();
    // A start that differs in the seed of its pretraining alone is of the same kind.
    let mut twin = pretrain();
    (twin.settings.seed, twin.checkpoint_sha256) = (7, "7".repeat(64));
    write_json(&second.join("twin.json"), &twin).unwrap();
    let mut run_of_twin = run("stem", 0.3, 0, 0.8);
    run_of_twin.settings.checkpoint_sha256 = "7".repeat(64);
    write_json(&second.join("y.json"), &run_of_twin).unwrap();
    let study = load(folder.path()).unwrap();
    let counts: Vec<_> = study.starts.iter().map(|runs| (runs.post_train.len(), runs.targets.is_some())).collect();
    assert_eq!(counts, [(1, false), (13, true)]);
    let summary = Summary::of(&study);
    assert_eq!((summary.post_train.len(), summary.further_starts[0].post_train.len()), (1, 13));
}

#[test]
fn runs_of_a_sweep_belong_to_the_start_that_they_name() {
    let folder = tempfile::tempdir().unwrap();
    // One checkpoint for every seed, and settings that only sweeps have.
    for (seed, policy) in [(0, "static"), (1, "static"), (0, "live"), (1, "live")] {
        let mut run = run("stem", 0.3, seed, 0.8);
        run.settings.checkpoint_sha256 = seed.to_string().repeat(64);
        let mut record = serde_json::to_value(run).unwrap();
        let settings = record["settings"].as_object_mut().unwrap();
        for (key, value) in [("start", "under-trained"), ("target_mode", "point"), ("policy", policy)] {
            settings.insert(key.into(), value.into());
        }
        settings.insert("margin".into(), 0.5.into());
        write_json(&folder.path().join(format!("post-train_{seed}{policy}.json")), &record).unwrap();
    }
    let study = load(folder.path()).unwrap();
    assert_eq!(study.starts.len(), 1);
    assert_eq!(study.starts[0].start_name(), "under-trained");
    let groups = super::groups::Group::all(&study.starts[0]);
    let names: Vec<_> = groups.iter().map(|group| (group.kind.as_str(), group.runs.len())).collect();
    assert_eq!(names, [("live, point, margin 0.5", 2), ("point, margin 0.5", 2)]);
}

/// Runs as of a sweep: validation accuracy grows with the rate, test accuracy does not.
fn sweep() -> Study {
    let mut runs = Runs { pretrain: Some(pretrain()), ..Runs::default() };
    for stage in ["stem", "block", "top"] {
        for (alpha, rate) in [0.0, 0.02, 0.1, 0.3, 1.0].into_iter().flat_map(|a| [1e-4, 1e-3, 3e-3].map(|r| (a, r))) {
            for seed in 0..10 {
                let noise = ((seed * 7 + 3) % 10) as f64 * 1e-4;
                let mut run = run(stage, alpha, seed, 0.79 + 0.003 * alpha + noise - rate);
                run.settings.learning_rate = rate;
                let (validation, test) = (Some(0.7 + rate + 0.01 * alpha), run.scores.test[1]);
                let scores = ChosenScores { measure: Measure::Accuracy, validation, test };
                run.chosen = Some(fbp_train::Chosen { epoch: 2, scores });
                runs.post_train.push(run.into());
            }
        }
    }
    runs.sort();
    Study::of(runs)
}

#[test]
fn several_hundred_runs_stay_readable() {
    let study = sweep();
    assert_eq!(study.starts[0].post_train.len(), 450);
    let comparisons = Comparison::all(&study);
    // Three stages, four weights: against fine-tuning of the same stage, whose best rate is the one of the method.
    assert_eq!(comparisons.len(), 12);
    assert!(comparisons.iter().all(|row| row.learning_rate == 3e-3 && row.seeds == 10), "{comparisons:?}");
    let html = super::page::render(&study, &comparisons).unwrap();
    let mut open = html.clone();
    while let Some(start) = open.find("<details") {
        let end = start + open[start..].find("</details>").unwrap();
        open.replace_range(start..end + "</details>".len(), "");
    }
    assert!(open.matches("<tr>").count() <= 20, "{}", open.matches("<tr>").count());
    assert_eq!(html.matches("<svg").count(), 4);
    assert!(html.len() < 150_000, "{}", html.len());
    assert!(html.contains("36 × 10 seeds"), "settings of the method that were tried");
}

#[test]
fn the_three_rows_are_chosen_on_the_validation_part() {
    let study = sweep();
    let groups = super::groups::Group::all(&study.starts[0]);
    let rows = super::rows::Rows::new(&groups);
    let [method, tuned, same] = [&rows.method, &rows.tuned, &rows.same_rate].map(|row| row.group.unwrap());
    // The largest rate is best on the validation part, and worst on the test images.
    assert_eq!((method.alpha, method.hyper.learning_rate, rows.method.tried), (Some(1.0), 3e-3, 36));
    assert_eq!((tuned.alpha, tuned.hyper.learning_rate, rows.tuned.tried), (Some(0.0), 3e-3, 9));
    assert_eq!((same.hyper.learning_rate, rows.same_rate.tried, rows.unchosen), (3e-3, 3, false));
    assert!((rows.gain_over(&rows.tuned).unwrap().mean - 0.003).abs() < 1e-9);
    let verdict = super::verdict::overall(&rows).unwrap();
    assert_eq!(verdict.shown, super::verdict::Shown::Gain);
    assert!(verdict.text.contains("36 settings of the targets were tried, 9 of fine-tuning"), "{}", verdict.text);
}

#[test]
fn kinds_of_targets_are_told_apart() {
    let mut runs =
        Runs { post_train: vec![run("stem", 0.3, 0, 0.8).into(), run("stem", 0.3, 0, 0.9).into()], ..Runs::default() };
    runs.post_train[1].record.settings.targets = Some("u".repeat(64));
    runs.post_train[0].kind = "attainable, margin 1".into();
    let groups = super::groups::Group::all(&runs);
    let labels: Vec<String> = groups.iter().map(super::groups::Group::label).collect();
    assert_eq!(labels, ["α = 0.3 (attainable, margin 1)", "α = 0.3 (targets uuuuuuuu)"]);
}

#[test]
fn files_that_no_report_wrote_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let study = load(folder.path()).unwrap();
    let summary = folder.path().join(SUMMARY_FILE);
    std::fs::write(&summary, "[1, 2]").unwrap();
    let error = write_report(&study, folder.path(), false).unwrap_err();
    assert!(
        one_line(&error).contains("summary.json") && one_line(&error).contains("name another place"),
        "{}",
        one_line(&error)
    );
    assert_eq!(std::fs::read_to_string(&summary).unwrap(), "[1, 2]");
    assert!(!folder.path().join(PAGE_FILE).exists());
    write_report(&study, folder.path(), true).unwrap();
    write_report(&study, folder.path(), false).unwrap();
}

#[test]
fn a_broken_record_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    std::fs::write(folder.path().join("post-train_x.json"), "{").unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(one_line(&error).contains("post-train_x.json is not a post-training record"), "{}", one_line(&error));
}

#[test]
fn comparisons_are_written_in_four_formats() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    write_report(&load(folder.path()).unwrap(), folder.path(), false).unwrap();
    let read =
        |extension: &str| std::fs::read_to_string(folder.path().join(format!("comparisons.{extension}"))).unwrap();
    let table: Vec<Comparison> = serde_json::from_str(&read("json")).unwrap();
    assert_eq!(table.len(), 2, "one for each stage");
    for row in &table {
        assert_eq!((row.mode, row.alpha, row.seeds), (Objective::Joint, Some(0.3), 3));
        assert!(
            (row.mean_pp - 1.0).abs() < 1e-9
                && row.ci_low.unwrap() <= row.mean_pp
                && row.mean_pp <= row.ci_high.unwrap()
        );
        assert!(row.p_t.unwrap() < 1e-3 && row.p_t_holm.unwrap() >= row.p_t.unwrap());
        // Three positive differences: one of eight assignments of signs, and two rows.
        assert_eq!((row.p_wilcoxon, row.p_wilcoxon_holm), (Some(0.125), Some(0.25)));
    }
    for extension in ["csv", "md", "tex"] {
        assert!(read(extension).contains("stem") && read(extension).contains("+1.000"), "{extension}");
    }
}
