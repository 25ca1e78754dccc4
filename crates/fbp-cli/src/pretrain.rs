use std::path::PathBuf;

use clap::Args;
use fbp_train::data::Augmentation;
use fbp_train::input::{network_for, network_spec};
use fbp_train::outputs::{RunFiles, record_path};
use fbp_train::settings::{Keep, LossKind, Schedule};
use fbp_train::train::{PretrainOptions, PretrainRecord, SaveEvery, StateFiles, pretrain_by_team};

use crate::choices::choice;
use crate::common::{CommonArgs, Out, errors_text, say};
use crate::data::DataArgs;
use crate::error::CliError;
use crate::signals;

/// Train a network from scratch with AdamW, on labels or on outputs
///
/// Writes the checkpoint, and beside it a record with the extension .json. Started again with the same settings it goes on
/// where it was stopped or killed, and if it was finished it does nothing; a file of another origin is never replaced without
/// --force.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp pretrain --model simple-cnn-mnist-v2 --data fashion-mnist --epochs 5 \
    --seed 0 --out c.safetensors")]
pub(crate) struct PretrainArgs {
    /// A network by name (`fbp models` lists them), or a TOML file that describes one (`fbp layers` helps)
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
    /// Change training images at random, others in every epoch: crop puts a black border of 4 pixels around them and cuts a
    /// part of the old size out, flip mirrors every second one
    #[arg(long, value_name = "crop,flip", default_value = "none", hide_default_value = true)]
    augment: Augmentation,
    /// Share of the training data held back for validation
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    validation: f64,
    /// Which state becomes the result: the last one, or the best one on the validation part
    #[arg(long, value_parser = choice::<Keep>(), default_value_t = Keep::Last)]
    keep: Keep,
    /// What is made small [default: cross-entropy for labels, mse for outputs]
    #[arg(long, value_parser = choice::<LossKind>())]
    loss: Option<LossKind>,
    /// Run every layer as an operation of its own, with direct convolutions and candle's gradients: slower, and the same but for
    /// rounding. Tells whether what is odd about a training comes from running layers as one
    #[arg(long)]
    no_fusion: bool,
    /// Keep the state of the training beside --out so often, as a time (30s, 5m) or a number of steps: the same command goes on
    /// from it after a stop or a kill, to the same result. auto is every 30 s, and less often for large networks
    #[arg(long, value_name = "TIME|STEPS", default_value = "auto")]
    checkpoint_every: SaveEvery,
    /// Checkpoint to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Train again and replace what is there: results with these or other settings, and files of another origin
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &PretrainArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let options = PretrainOptions {
        epochs: args.epochs,
        batch: args.batch,
        learning_rate: args.learning_rate,
        schedule: args.schedule,
        weight_decay: args.weight_decay,
        validation: args.validation,
        augment: args.augment,
        keep: args.keep,
        loss: args.loss,
        fused: !args.no_fusion,
        seed: common.seed,
    };
    options.check()?;
    network_spec(&args.model)?;
    common.json.keep_apart([&*record_path(&args.out), &*args.out], "the checkpoint or its record (--out)")?;
    let files = common.is_first().then(|| RunFiles::beside(&args.out)).transpose()?;
    let input = args.data.load()?;
    let spec = network_for(&args.model, &input.bundle.train)?;
    input.check_fits(&spec)?;
    let settings = options.settings(spec, input.identity);
    let finished = |files: &RunFiles| files.finished::<PretrainRecord>(&settings, args.force);
    let found = files.as_ref().map(finished).transpose()?.flatten();
    if common.team.of_first(found.is_some())? {
        let Some(found) = found else { return Ok(()) };
        // A run may have been killed before it could.
        StateFiles::new(&args.out, &settings, args.checkpoint_every)?.remove()?;
        say(out, format_args!("{} is finished already: {}", args.out.display(), accuracy_text(&found)))?;
        return common.write_json(&found);
    }
    signals::catch()?;
    let record_file = record_path(&args.out);
    let (places, keeping) = ((&*args.out, &*record_file), (args.checkpoint_every, args.force));
    let record = pretrain_by_team(settings, &input.bundle, places, keeping, &common.team, &common.progress())?;
    common.write_json(&record)?;
    say(out, format_args!("{}: {}", args.out.display(), accuracy_text(&record)))
}

fn accuracy_text(record: &PretrainRecord) -> String {
    let score = match &record.test_errors {
        Some(errors) => errors_text(errors),
        None => format!("accuracy {}", record.scores.measure.text(record.scores.test)),
    };
    format!("test {score}, {:.2} s per epoch", record.seconds_per_epoch)
}
