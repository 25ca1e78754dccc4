use std::path::{Path, PathBuf};

use clap::Args;
use fbp_models::{Checkpoint, Network};
use fbp_train::TrainError;
use fbp_train::atomic::prepare_folder;
use fbp_train::data::{DataBundle, Dataset, with_pixel_noise};
use fbp_train::evaluate::{
    EVAL_FILE, ErrorMeasures, EvalRecord, EvalSet, EvalSettings, EvalShard, EvalSums, FrozenRest, Measures,
    eval_shards, frozen_rest_accuracy, merge_eval,
};
use fbp_train::identity::file_sha256;
use fbp_train::json::write_json;
use fbp_train::outputs::{OutputLock, check_result_file};
use fbp_train::scores::EvalScores;
use fbp_train::settings::Measure;
use fbp_train::share::{ShardFile, Share};
use fbp_train::store::TargetStore;
use fbp_train::targets::cut_as;

use crate::common::{CommonArgs, Out, ShardArgs, say};
use crate::data::TrainedDataArgs;
use crate::error::CliError;
use crate::table::{class_name, print_table};

/// Guesses that count, if there are more classes than that.
const TOP_K: usize = 5;
/// Most classes that are listed; of more, those with the least right are.
const LISTED: usize = 20;

/// Accuracy, loss and confusions of a checkpoint, or the errors of its outputs; and its frozen rest on target features
///
/// Images are normalised as in the training of the network, which its checkpoint tells.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp eval --checkpoint c.safetensors --data fashion-mnist --targets t/")]
pub(crate) struct EvalArgs {
    /// The network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    data: TrainedDataArgs,
    /// Also feed the targets of this folder into the stages above them
    #[arg(long, value_name = "DIR", conflicts_with = "shard")]
    targets: Option<PathBuf>,
    /// Add normal noise to the pixels of the test images; 1 is the difference of black and white
    #[arg(long, value_name = "SIGMA", default_value_t = 0.0, allow_negative_numbers = true)]
    noise: f64,
    /// Also count an image as right if its class is among so many best guesses [default: 5, if there are more classes]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Show how many test images of each class were taken for which
    #[arg(long, conflicts_with = "shard")]
    confusion: bool,
    #[command(flatten)]
    shard: ShardArgs,
    /// Folder for the result of a shard; made if it is not there
    #[arg(long, value_name = "DIR", requires = "shard")]
    out: Option<PathBuf>,
}

/// What was measured, of classes or of outputs.
struct Measured {
    scores: EvalScores,
    /// On training and test data.
    classes: Option<[Measures; 2]>,
    errors: Option<[ErrorMeasures; 2]>,
}

pub(crate) fn run(args: &EvalArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let checkpoint = Checkpoint::load(&args.checkpoint)?;
    let mut input = args.data.load(&args.checkpoint, &checkpoint)?;
    let network = checkpoint.network;
    check_options(args, &input.bundle.train)?;
    input.bundle.test = with_pixel_noise(&input.bundle.test, args.noise, common.seed)?;
    let bundle = &input.bundle;
    if let (Some(shard), Some(folder)) = (args.shard.shard, &args.out) {
        let settings = EvalSettings {
            model: network.spec().name.clone(),
            data: input.identity.name.clone(),
            data_sha256: input.identity.sha256.clone(),
            checkpoint: args.checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            checkpoint_sha256: file_sha256(&args.checkpoint)?,
            seed: common.seed,
            noise: args.noise,
            top_k: top_k(args, &network),
            class_names: bundle.class_names.clone(),
            normalization: bundle.normalization.clone(),
        };
        return run_shard((shard, folder), settings, &network, bundle, common, out);
    }
    let found = measure(args, &network, bundle)?;
    let EvalScores { measure, train, test } = found.scores;
    say(out, format_args!("training {} {}", measure.word(), measure.text(train)))?;
    say(out, format_args!("test {}     {}", measure.word(), measure.text(test)))?;
    let mut frozen_rest = Vec::new();
    if let Some(folder) = &args.targets {
        frozen_rest = on_targets(folder, args, &network, &bundle.train)?;
        for FrozenRest { stage, accuracy } in &frozen_rest {
            say(out, format_args!("on the targets of {stage}: {:.3} %", 100.0 * accuracy))?;
        }
    }
    if let Some(errors) = &found.errors {
        print_errors(errors, out)?;
    }
    if let Some([train, test]) = &found.classes {
        print_measures(train, test, out)?;
        print_classes(test, &bundle.class_names, out)?;
        if args.confusion {
            print_confusion(test, &bundle.class_names, out)?;
        }
    }
    let [train, test] = found.classes.map_or([None, None], |classes| classes.map(Some));
    let [train_errors, test_errors] = found.errors.map_or([None; 2], |errors| errors.map(Some));
    common.write_json(&EvalRecord {
        model: network.spec().name.clone(),
        data: input.identity.name,
        checkpoint: args.checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        checkpoint_sha256: file_sha256(&args.checkpoint)?,
        seed: common.seed,
        noise: args.noise,
        scores: found.scores,
        train,
        test,
        train_errors,
        test_errors,
        class_names: bundle.class_names.clone(),
        normalization: Some(bundle.normalization.clone()),
        frozen_rest,
    })
}

fn top_k(args: &EvalArgs, network: &Network) -> usize {
    args.top_k.unwrap_or(TOP_K.min(network.spec().classes))
}

/// Evaluates the samples of a shard, and leaves their sums in the folder.
fn run_shard(
    (shard, folder): (Share, &Path),
    settings: EvalSettings,
    network: &Network,
    bundle: &DataBundle,
    common: &CommonArgs,
    out: Out<'_>,
) -> Result<(), CliError> {
    std::fs::create_dir_all(folder).map_err(TrainError::writing(folder))?;
    let shards = eval_shards(folder);
    let path = shards.path(shard);
    common.json.keep_apart([&*path], "the result of the shard")?;
    let _lock = OutputLock::acquire(&path)?;
    let found = shards.finished::<_, EvalShard>(shard, &settings)?;
    let is_there = found.is_some();
    let content = match found {
        Some(found) => found,
        None => {
            let sums = |data: &Dataset| {
                let samples: Vec<usize> = shard.range(data.len()).collect();
                EvalSums::new(&EvalSet::new(data, &bundle.normalization, Some(&samples))?, network, settings.top_k)
            };
            let content = EvalShard { train: sums(&bundle.train)?, test: sums(&bundle.test)? };
            let file = ShardFile { shard, settings, content };
            shards.write(&file)?;
            file.content
        }
    };
    common.write_json(&content)?;
    let (folder, what) = (folder.display(), if is_there { "is there already" } else { "is done" });
    say(out, format_args!("shard {shard} of {folder} {what}; fbp merge {folder} adds all of them"))
}

/// Adds the shards of an evaluation.
pub(crate) fn merge(folder: &Path, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    // Removes what killed processes left.
    prepare_folder(folder)?;
    let record = merge_eval(folder)?;
    let path = folder.join(EVAL_FILE);
    check_result_file(&path, "eval")?;
    write_json(&path, &Marked { result_of: "eval", record: &record })?;
    eval_shards(folder).remove()?;
    common.write_json(&record)?;
    let EvalScores { measure, train, test } = record.scores;
    say(out, format_args!("training {} {}", measure.word(), measure.text(train)))?;
    say(out, format_args!("test {}     {}", measure.word(), measure.text(test)))?;
    if let (Some(train), Some(test)) = (record.train_errors, record.test_errors) {
        print_errors(&[train, test], out)?;
    }
    if let (Some(train), Some(test)) = (&record.train, &record.test) {
        print_measures(train, test, out)?;
        print_classes(test, &record.class_names, out)?;
    }
    say(out, format_args!("{}", path.display()))
}

/// A record as `--json` writes it.
#[derive(serde::Serialize)]
struct Marked<'a> {
    result_of: &'static str,
    #[serde(flatten)]
    record: &'a EvalRecord,
}

/// Refuses what only classes have where there are none.
fn check_options(args: &EvalArgs, data: &Dataset) -> Result<(), CliError> {
    let asked = [("top_k", args.top_k.is_some()), ("confusion", args.confusion)];
    match asked.into_iter().find(|(_, asked)| *asked && data.outputs().is_some()) {
        None => Ok(()),
        Some((name, _)) => {
            let value = args.top_k.map_or_else(|| "true".to_owned(), |k| k.to_string());
            let reason = format!("is about classes, and {} have outputs: leave it out", data.name());
            Err(TrainError::Setting { name, value, reason }.into())
        }
    }
}

fn measure(args: &EvalArgs, network: &Network, bundle: &DataBundle) -> Result<Measured, CliError> {
    let sets = [&bundle.train, &bundle.test].map(|data| EvalSet::new(data, &bundle.normalization, None));
    let [train, test] = sets;
    let (train, test) = (train?, test?);
    if let (Some(train), Some(test)) = (train.errors(network)?, test.errors(network)?) {
        let scores = EvalScores { measure: Measure::Rmse, train: train.rmse, test: test.rmse };
        return Ok(Measured { scores, classes: None, errors: Some([train, test]) });
    }
    let top_k = top_k(args, network);
    let (train, test) = (train.measure(network, top_k)?, test.measure(network, top_k)?);
    let scores = EvalScores { measure: Measure::Accuracy, train: train.accuracy, test: test.accuracy };
    Ok(Measured { scores, classes: Some([train, test]), errors: None })
}

/// What the frozen rest of the network makes of its targets.
fn on_targets(folder: &Path, args: &EvalArgs, network: &Network, data: &Dataset) -> Result<Vec<FrozenRest>, CliError> {
    let store = TargetStore::open(folder)?;
    if store.manifest().params.checkpoint_sha256 != file_sha256(&args.checkpoint)? {
        return Err(TrainError::Mismatch {
            left: format!("the targets in {}", folder.display()),
            right: args.checkpoint.display().to_string(),
            reason: "they were made with another checkpoint; make them again with `fbp targets`".into(),
        }
        .into());
    }
    let cut = cut_as(network.duplicate()?, &store)?;
    let mut frozen_rest = Vec::new();
    for entry in &store.manifest().params.stages {
        let accuracy = frozen_rest_accuracy(&cut, &store, &entry.name, data)?;
        frozen_rest.push(FrozenRest { stage: entry.name.clone(), accuracy });
    }
    Ok(frozen_rest)
}

fn print_errors([train, test]: &[ErrorMeasures; 2], out: Out<'_>) -> Result<(), CliError> {
    let row = |name: &str, of: &dyn Fn(&ErrorMeasures) -> String| vec![name.to_owned(), of(train), of(test)];
    let mut rows = vec![
        vec![String::new(), "training".into(), "test".into()],
        row("samples", &|errors| errors.samples.to_string()),
        row("root mean squared error (RMSE)", &|errors| format!("{:.4}", errors.rmse)),
        row("mean absolute error (MAE)", &|errors| format!("{:.4}", errors.mae)),
    ];
    if let (Some(_), Some(_)) = (test.ade, test.fde) {
        let of = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.4}"));
        rows.push(row("average displacement (ADE)", &|errors| of(errors.ade)));
        rows.push(row("final displacement (FDE)", &|errors| of(errors.fde)));
    }
    print_table(&rows, out)
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn print_measures(train: &Measures, test: &Measures, out: Out<'_>) -> Result<(), CliError> {
    let row = |name: &str, of: &dyn Fn(&Measures) -> String| vec![name.to_owned(), of(train), of(test)];
    let mut rows = vec![
        vec![String::new(), "training".into(), "test".into()],
        row("images", &|measures| measures.samples.to_string()),
        row("loss (cross-entropy)", &|measures| format!("{:.4}", measures.loss)),
    ];
    if test.top_k.k < test.per_class.len() {
        let name = format!("right among {} guesses", test.top_k.k);
        rows.push(row(&name, &|measures| percent(measures.top_k.accuracy)));
    }
    print_table(&rows, out)
}

/// Every class, or the worst ones of many, with what it is taken for most often.
fn print_classes(test: &Measures, names: &[String], out: Out<'_>) -> Result<(), CliError> {
    let mut order: Vec<usize> = (0..test.per_class.len()).filter(|&class| test.per_class[class].is_some()).collect();
    let all = order.len();
    if all > LISTED {
        order.sort_by(|&a, &b| test.per_class[a].unwrap_or(1.0).total_cmp(&test.per_class[b].unwrap_or(1.0)));
        order.truncate(LISTED);
    }
    let mut rows = vec![["class (test images)", "images", "right", "most often taken for"].map(str::to_owned).to_vec()];
    for class in order {
        let row = &test.confusion[class];
        let count: usize = row.iter().sum();
        let other = (0..row.len()).filter(|&other| other != class).max_by_key(|&other| (row[other], row.len() - other));
        let taken = other.filter(|&other| row[other] > 0).map_or("–".into(), |other| {
            format!("{} ({})", class_name(other, names), percent(row[other] as f64 / count as f64))
        });
        let right = percent(test.per_class[class].unwrap_or(0.0));
        rows.push(vec![class_name(class, names), count.to_string(), right, taken]);
    }
    say(out, format_args!(""))?;
    print_table(&rows, out)?;
    if all > LISTED {
        say(out, format_args!("the {LISTED} of {all} classes with the least right; all of them are in --json"))?;
    }
    Ok(())
}

fn print_confusion(test: &Measures, names: &[String], out: Out<'_>) -> Result<(), CliError> {
    let classes = test.confusion.len();
    let heading =
        std::iter::once("class, and what it was taken for".to_owned()).chain((0..classes).map(|c| c.to_string()));
    let mut rows = vec![heading.collect::<Vec<_>>()];
    for (class, row) in test.confusion.iter().enumerate() {
        let counts = row.iter().map(usize::to_string);
        rows.push(std::iter::once(class_name(class, names)).chain(counts).collect());
    }
    say(out, format_args!(""))?;
    print_table(&rows, out)
}
