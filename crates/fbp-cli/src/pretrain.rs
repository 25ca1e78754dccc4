use std::path::{Path, PathBuf};

use clap::Args;
use fbp_train::TrainError;
use fbp_train::atomic::prepare_folder;
use fbp_train::identity::file_sha256;
use fbp_train::input::{network_for, network_spec};
use fbp_train::json::{differences, read_json};
use fbp_train::settings::Schedule;
use fbp_train::train::{PretrainOptions, PretrainRecord, pretrain_to_file};

use crate::choices::choice;
use crate::common::{CommonArgs, Out, say};
use crate::data::DataArgs;
use crate::error::CliError;
use crate::progress::Stderr;

/// Train a network from scratch with cross-entropy and AdamW
///
/// Writes the checkpoint, and beside it a record with the extension .json. Started again with the same settings it
/// finds the finished record and does nothing.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp pretrain --model simple-cnn-mnist-v2 --data fashion-mnist --epochs 5 \
    --seed 0 --out c.safetensors")]
pub(crate) struct PretrainArgs {
    /// A network by name (an unknown one lists all), or a TOML file that describes one
    #[arg(long, value_name = "NAME|FILE.toml")]
    model: String,
    #[command(flatten)]
    data: DataArgs,
    /// Passes over the training data
    #[arg(long, default_value_t = 5)]
    epochs: usize,
    /// Samples per step
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Learning rate, at the start if it has a schedule
    #[arg(long, visible_alias = "lr", default_value_t = 1e-3, allow_negative_numbers = true)]
    learning_rate: f64,
    /// How the learning rate changes
    #[arg(long, value_parser = choice::<Schedule>(), default_value_t = Schedule::Constant)]
    schedule: Schedule,
    /// Weight decay of AdamW
    #[arg(long, default_value_t = 1e-2, allow_negative_numbers = true)]
    weight_decay: f64,
    /// Share of the training data held back for validation
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    validation: f64,
    /// Checkpoint to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace results that were made with other settings
    #[arg(long)]
    force: bool,
}

/// Record of the run that made a checkpoint.
pub(crate) fn record_path(checkpoint: &Path) -> PathBuf {
    if checkpoint.extension().is_some_and(|extension| extension == "safetensors") {
        return checkpoint.with_extension("json");
    }
    let mut name = checkpoint.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

/// The record beside a checkpoint that is to be written, which must not take its name.
pub(crate) fn new_record_path(checkpoint: &Path) -> Result<PathBuf, CliError> {
    if checkpoint.extension().is_some_and(|extension| extension == "json") {
        let (name, value) = ("out", checkpoint.display().to_string());
        return Err(TrainError::Parameter { name, value, range: "the files that do not end in .json" }.into());
    }
    Ok(record_path(checkpoint))
}

/// Keeps a command from replacing a file that has no record, and so is not its own.
pub(crate) fn refuse_foreign(checkpoint: &Path) -> Result<(), CliError> {
    if checkpoint.exists() {
        let range = "new files: this one exists, and no record beside it tells how it was made; --force replaces it";
        return Err(TrainError::Parameter { name: "out", value: checkpoint.display().to_string(), range }.into());
    }
    Ok(())
}

pub(crate) fn run(args: &PretrainArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let options = PretrainOptions {
        epochs: args.epochs,
        batch: args.batch,
        learning_rate: args.learning_rate,
        schedule: args.schedule,
        weight_decay: args.weight_decay,
        validation: args.validation,
        seed: common.seed,
    };
    options.check()?;
    network_spec(&args.model)?;
    let record_file = new_record_path(&args.out)?;
    let input = args.data.load()?;
    prepare_folder(fbp_train::atomic::folder_of(&args.out).as_path())?;
    let spec = network_for(&args.model, &input.bundle.train)?;
    let settings = options.settings(spec, input.identity);
    let found: Option<PretrainRecord> = match read_json(&record_file, "pretraining record") {
        Err(TrainError::Json { .. }) if args.force => None,
        read => read?,
    };
    if let Some(found) = found {
        let unchanged = || file_sha256(&args.out).is_ok_and(|sha256| sha256 == found.checkpoint_sha256);
        if found.settings == settings && unchanged() {
            say(out, format_args!("{} is finished already: {}", args.out.display(), accuracy_text(&found)))?;
            return common.write_json(&found);
        }
        if found.settings != settings && !args.force {
            let differences = differences(&found.settings, &settings);
            return Err(TrainError::OtherSettings { path: record_file, differences }.into());
        }
    } else if !args.force {
        refuse_foreign(&args.out)?;
    }
    let record = pretrain_to_file(settings, &input.bundle, &args.out, &record_file, &Stderr::default())?;
    common.write_json(&record)?;
    say(out, format_args!("{}: {}", args.out.display(), accuracy_text(&record)))
}

fn accuracy_text(record: &PretrainRecord) -> String {
    format!("test accuracy {:.2} %, {:.2} s per epoch", 100.0 * record.test_accuracy, record.seconds_per_epoch)
}
