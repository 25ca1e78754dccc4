use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use fbp_models::{Checkpoint, Network, checkpoint};
use fbp_train::TrainError;
use fbp_train::atomic::{folder_of, prepare_folder, write_atomic};
use fbp_train::hash::bytes_sha256;
use fbp_train::identity::file_sha256;
use fbp_train::input::Input;
use fbp_train::json::{differences, read_json, write_json};
use fbp_train::repair::{
    Asked, Given, Judge, RepairOptions, RepairRecord, RepairSettings, RivalOptions, RivalRecord, SampleChoice, repair,
    repaired_examples,
};

use crate::common::{CommonArgs, Out, say};
use crate::data::{ImageArgs, TrainedDataArgs};
use crate::error::CliError;
use crate::pretrain::{new_record_path, refuse_foreign};
use crate::progress::Stderr;

/// Repaired images that are kept for the report.
const EXAMPLES: usize = 4;

/// Make given samples right with the smallest change of one layer's weights, leaving the rest of the data alone
///
/// Writes the repaired checkpoint, and beside it a record with the extension .json: how many of the samples are right
/// now (efficacy), how many other wrong samples of their kind became right (generalisation), and what that cost in
/// accuracy (drawdown). Test images that are repaired do not count in what the test set says.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo fbp repair --checkpoint c.safetensors --data fashion-mnist --samples wrong:100 \
    --stage fc1 --out repaired.safetensors\n  \
    cargo fbp repair --checkpoint c.safetensors --data fashion-mnist --part test --samples 3,17 --stage out --out r.safetensors\n  \
    cargo fbp repair --checkpoint c.safetensors --data fashion-mnist --image shoe.png --label 9 --stage out --out s.safetensors"
)]
pub(crate) struct RepairArgs {
    /// The network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    data: TrainedDataArgs,
    /// Which of the images: positions such as 3,17, a file with one per line, N wrong ones at random, all wrong ones of class K,
    /// or all [default for --image: all]
    #[arg(long, value_name = "LIST|FILE|wrong:N|class:K|all", required_unless_present = "image")]
    samples: Option<SampleChoice>,
    #[command(flatten)]
    images: ImageArgs,
    /// The stage whose last linear or convolutional layer may change
    #[arg(long, value_name = "NAME")]
    stage: String,
    /// Largest loss of accuracy on the validation part, in percentage points
    #[arg(long, value_name = "PP", default_value_t = 1.3, allow_negative_numbers = true)]
    max_drawdown: f64,
    /// Share of the samples that is enough: of states with so many right, the one that loses least is kept
    #[arg(long, value_name = "SHARE", default_value_t = 0.99, allow_negative_numbers = true)]
    efficacy: f64,
    /// Share of the training data held back for validation
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    validation: f64,
    /// Also fine-tune the whole network on the same samples, for comparison
    #[arg(long)]
    rival: bool,
    /// Checkpoint to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace a repair that was made with other settings
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &RepairArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let begun = Instant::now();
    let options = RepairOptions {
        max_drawdown: args.max_drawdown / 100.0,
        efficacy: args.efficacy,
        validation: args.validation,
        seed: common.seed,
    };
    options.check()?;
    let checkpoint = Checkpoint::load(&args.checkpoint)?;
    let mut metadata = checkpoint.kept_metadata()?;
    checkpoint.network.stage_index(&args.stage)?;
    let record_file = new_record_path(&args.out)?;
    let own = args.images.own(&checkpoint.network)?;
    let input = args.data.load(&args.checkpoint, &checkpoint)?;
    let network = checkpoint.network;
    let choice = args.samples.clone().unwrap_or(SampleChoice::All);
    let asked = Asked { choice: &choice, origin: args.images.origin(own.as_ref()) };
    let settings = RepairSettings {
        checkpoint_sha256: file_sha256(&args.checkpoint)?,
        model: network.spec().name.clone(),
        data: input.identity.clone(),
        samples: choice.to_string(),
        part: args.images.part,
        own: own.as_ref().map(|own| own.identity.clone()),
        stage: args.stage.clone(),
        max_drawdown: options.max_drawdown,
        efficacy: options.efficacy,
        validation: options.validation,
        seed: options.seed,
        rival: args.rival,
    };
    prepare_folder(&folder_of(&args.out))?;
    if let Some(found) = finished(args, &settings, &record_file)? {
        say(out, format_args!("{} is finished already", args.out.display()))?;
        print(&found, out)?;
        return common.write_json(&found);
    }
    if !args.force && !record_file.exists() {
        refuse_foreign(&args.out)?;
    }
    let before = network.duplicate()?;
    let repaired = repair(&network, &args.stage, asked, &input.bundle, &options, &Stderr::default())?;
    let given = Given { origin: asked.origin, samples: &repaired.samples };
    let judge = Judge::new(&before, &input.bundle, &choice, given)?;
    let test = judge.measure(&network)?;
    let rival = match args.rival {
        false => None,
        true => Some(run_rival(&before, given, &input, options.validation, &judge)?),
    };
    let examples = repaired_examples([&before, &network], &args.stage, &input.bundle, given, EXAMPLES)?;
    metadata.extend(input.bundle.preprocessing()?.to_metadata()?);
    let bytes = checkpoint::to_bytes(&network, &metadata)?;
    let record = RepairRecord {
        settings,
        threads: rayon::current_num_threads(),
        samples: repaired.samples,
        efficacy: repaired.measures.efficacy,
        generalisation: test.generalisation,
        drawdown_validation: repaired.measures.drawdown_validation,
        drawdown_test: test.drawdown,
        test_accuracy_before: judge.accuracy,
        test_accuracy_after: test.accuracy,
        layer: repaired.layer,
        change_relative: repaired.change_relative,
        chosen: repaired.chosen,
        candidates: repaired.candidates,
        rival,
        repair_seconds: repaired.seconds,
        checkpoint: args.out.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        checkpoint_sha256_after: bytes_sha256(&bytes),
        weights: Some(repaired.weights),
        examples,
        seconds: begun.elapsed().as_secs_f64(),
    };
    // The record first: after a kill between the two, it tells that the next run may replace the checkpoint.
    write_json(&record_file, &record)?;
    write_atomic(&args.out, &bytes)?;
    common.write_json(&record)?;
    print(&record, out)
}

/// The record of this repair if it is finished.
fn finished(
    args: &RepairArgs,
    settings: &RepairSettings,
    record_file: &Path,
) -> Result<Option<RepairRecord>, CliError> {
    let found: Option<RepairRecord> = match read_json(record_file, "repair record") {
        Err(TrainError::Json { .. }) if args.force => None,
        read => read?,
    };
    let Some(found) = found else { return Ok(None) };
    if found.settings == *settings {
        let unchanged = file_sha256(&args.out).is_ok_and(|sha256| sha256 == found.checkpoint_sha256_after);
        return Ok(unchanged.then_some(found));
    }
    if args.force {
        return Ok(None);
    }
    let differences = differences(&found.settings, settings);
    Err(TrainError::OtherSettings { path: record_file.to_owned(), differences }.into())
}

fn run_rival(
    before: &Network,
    given: Given<'_>,
    input: &Input,
    validation: f64,
    judge: &Judge,
) -> Result<RivalRecord, CliError> {
    let rival = RivalOptions::default().run(before, given, &input.bundle, validation)?;
    let test = judge.measure(&rival.network)?;
    Ok(RivalRecord {
        learning_rate: rival.learning_rate,
        steps: rival.steps,
        measures: rival.measures,
        generalisation: test.generalisation,
        drawdown_test: test.drawdown,
        seconds: rival.seconds,
        curve: rival.curve,
    })
}

fn print(record: &RepairRecord, out: Out<'_>) -> Result<(), CliError> {
    let line = |efficacy: f64, generalisation: f64, drawdown: f64, seconds: f64| {
        format!(
            "{:.1} % of {} samples right, {:.1} % of the other wrong ones, drawdown {:.2} pp, {seconds:.1} s",
            100.0 * efficacy,
            record.samples.len(),
            100.0 * generalisation,
            100.0 * drawdown,
        )
    };
    let RepairRecord { efficacy, generalisation, drawdown_test, repair_seconds, layer, change_relative, .. } = record;
    let own = line(*efficacy, *generalisation, *drawdown_test, *repair_seconds);
    say(out, format_args!("{layer} changed by {:.2} %: {own}", 100.0 * change_relative))?;
    match &record.rival {
        Some(rival) => {
            let text = line(rival.measures.efficacy, rival.generalisation, rival.drawdown_test, rival.seconds);
            say(out, format_args!("fine-tuning on the same samples: {text}"))
        }
        None => Ok(()),
    }
}
