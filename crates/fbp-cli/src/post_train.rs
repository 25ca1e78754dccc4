use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use fbp_models::{Checkpoint, checkpoint};
use fbp_train::TrainError;
use fbp_train::atomic::{prepare_folder, write_atomic};
use fbp_train::identity::file_sha256;
use fbp_train::input::Input;
use fbp_train::json::{differences, read_json, write_json};
use fbp_train::settings::{Keep, Metric, Objective, Schedule, TargetPolicy};
use fbp_train::store::{REPORT_FILE, TargetStore};
use fbp_train::targets::{Example, TargetsReport};
use fbp_train::train::{
    EXAMPLES_FILE, Goal, PRETRAIN_FILE, PostTrainOptions, PostTrainRecord, PostTrainSettings, PretrainRecord,
    TARGETS_FILE, check_policy, check_same_origin, post_train, record_name, stage_of_mode,
};

use crate::choices::choice;
use crate::common::{CommonArgs, Out, say};
use crate::data::TrainedDataArgs;
use crate::error::CliError;
use crate::pretrain::record_path;
use crate::progress::Stderr;

/// Go on training a network: against its targets, or by one of the rivals of that
///
/// joint and local train the stages up to --stage (which may be the last) against its targets and freeze those above; tail freezes the stages up
/// to --stage, computes their features once and trains those above; head refits the last linear layer; closed-form
/// solves for the last linear or convolutional layer of --stage; hierarchical cuts the network after --stage and trains
/// all segments at the same time, each on its own; full trains everything. Writes one record and one
/// checkpoint per run, named after stage, alpha and seed, so runs can share a folder. A run whose record is there already
/// does nothing.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  cargo fbp post-train --checkpoint c.safetensors --targets t/ --data fashion-mnist \
    --mode joint --stage conv1 --alpha 0.3 --seed 0 --out runs/"
)]
pub(crate) struct PostTrainArgs {
    /// The pretrained network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Folder of its targets; for the modes joint (unless --alpha 0), local, hierarchical and closed-form
    #[arg(long, value_name = "DIR")]
    targets: Option<PathBuf>,
    #[command(flatten)]
    data: TrainedDataArgs,
    /// What is minimised, and over which weights
    #[arg(long, value_parser = choice::<Objective>(), default_value_t = Objective::Joint)]
    mode: Objective,
    /// The stage (an unknown one lists all); not for the modes full and head. For hierarchical the stages to cut after,
    /// as in conv1+conv2 [default: all]
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Weight of the distance; 0 is plain fine-tuning [default: 0.3; --mode joint only]
    #[arg(long, allow_negative_numbers = true)]
    alpha: Option<f64>,
    /// Passes over the training data
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// Samples per step
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Learning rate of AdamW, at the start if it has a schedule
    #[arg(long, visible_alias = "lr", default_value_t = 5e-5, allow_negative_numbers = true)]
    learning_rate: f64,
    /// How the learning rate changes
    #[arg(long, value_parser = choice::<Schedule>(), default_value_t = Schedule::Constant)]
    schedule: Schedule,
    /// Which state becomes the result [default: last for joint and local, as published; else best]
    #[arg(long, value_parser = choice::<Keep>())]
    keep: Option<Keep>,
    /// When targets are computed: once, before every epoch (refresh; joint and local only), or live for every batch, which
    /// the last stage alone can have
    #[arg(long, value_parser = choice::<TargetPolicy>(), default_value_t = TargetPolicy::Static)]
    policy: TargetPolicy,
    /// Judge and keep a running average of the weights with this decay, for example 0.99
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    ema: Option<f64>,
    /// Weight decay of AdamW
    #[arg(long, default_value_t = 5e-2, allow_negative_numbers = true)]
    weight_decay: f64,
    /// Share of the training data held back for validation
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    validation: f64,
    /// Folder for records and checkpoints; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace a run that was made with other settings
    #[arg(long)]
    force: bool,
}

impl PostTrainArgs {
    fn options(&self, seed: u64) -> Result<PostTrainOptions, CliError> {
        if self.mode != Objective::Joint
            && let Some(alpha) = self.alpha
        {
            let range = "what --mode joint alone takes: with --mode local and all others leave --alpha out";
            return Err(TrainError::Parameter { name: "alpha", value: alpha.to_string(), range }.into());
        }
        let options = PostTrainOptions {
            objective: self.mode,
            // Without its sign: -0 is the same run as 0.
            alpha: self.alpha.unwrap_or(PostTrainOptions::default().alpha) + 0.0,
            epochs: self.epochs,
            batch: self.batch,
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            weight_decay: self.weight_decay,
            validation: self.validation,
            keep: self.keep.unwrap_or(if self.mode.is_published() { Keep::Last } else { Keep::Best }),
            policy: self.policy,
            ema: self.ema,
            seed,
        };
        options.check()?;
        Ok(options)
    }
}

pub(crate) fn run(args: &PostTrainArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let options = args.options(common.seed)?;
    let start = Checkpoint::load(&args.checkpoint)?;
    let mut metadata = start.kept_metadata()?;
    let stage = stage_of_mode(&start.network, options.objective, args.stage.as_deref())?;
    check_policy(&start.network, &stage, &options)?;
    let checkpoint_sha256 = file_sha256(&args.checkpoint)?;
    let input = args.data.load(&args.checkpoint, &start)?;
    let mut network = start.network;
    let store = open_targets(args, &options, &checkpoint_sha256, &input)?;
    let settings = PostTrainSettings {
        checkpoint_sha256,
        targets: store.as_ref().map(|store| store.manifest().settings.clone()),
        metric: store.as_ref().map_or(Metric::Euclidean, |store| store.manifest().params.metric),
        ..options.settings(network.spec().name.clone(), input.identity.clone(), stage)
    };
    prepare_folder(&args.out)?;
    let name = record_name(&settings);
    let record_file = args.out.join(format!("{name}.json"));
    let checkpoint_file = args.out.join(format!("{name}.safetensors"));
    if let Some(found) = finished(args, &settings, &record_file, &checkpoint_file)? {
        say(out, format_args!("{} is finished already: {}", record_file.display(), accuracy_text(&found)))?;
        return common.write_json(&found);
    }
    check_same_origin(&args.out, &settings)?;
    keep_origin(args, store.as_ref())?;

    let begun = Instant::now();
    let stage = settings.stage.clone();
    let goal = store.as_ref().map(|store| Goal::of_store(store, &network, options.objective, &stage)).transpose()?;
    let curves = post_train(&mut network, &stage, &input.bundle, goal, &options, &Stderr::default())?;
    metadata.extend(input.bundle.preprocessing()?.to_metadata()?);
    write_atomic(&checkpoint_file, &checkpoint::to_bytes(&network, &metadata)?)?;
    let record = PostTrainRecord {
        checkpoint: format!("{name}.safetensors"),
        checkpoint_sha256_after: file_sha256(&checkpoint_file)?,
        seconds: begun.elapsed().as_secs_f64(),
        ..PostTrainRecord::new(settings, curves)
    };
    write_json(&record_file, &record)?;
    common.write_json(&record)?;
    say(out, format_args!("{}: {}", record_file.display(), accuracy_text(&record)))
}

fn accuracy_text(record: &PostTrainRecord) -> String {
    let (before, seconds) = (100.0 * record.test_accuracy_before, record.seconds);
    let kept = match record.chosen {
        Some(chosen) if record.settings.keep == Keep::Best && chosen.epoch == 0 => ", the start is kept",
        _ => "",
    };
    format!("test accuracy {before:.2} % before, {:.2} % after{kept}, {seconds:.1} s", 100.0 * record.result())
}

/// The targets, checked to belong to the checkpoint and the data.
fn open_targets(
    args: &PostTrainArgs,
    options: &PostTrainOptions,
    checkpoint_sha256: &str,
    input: &Input,
) -> Result<Option<TargetStore>, CliError> {
    let Some(folder) = args.targets.as_ref().filter(|_| options.objective.may_use_targets()) else {
        if options.uses_targets() {
            let reason = "name their folder with --targets (only --alpha 0 needs none)".into();
            return Err(TrainError::Store { folder: PathBuf::from("none"), reason }.into());
        }
        return Ok(None);
    };
    let store = TargetStore::open(folder)?;
    let params = &store.manifest().params;
    let mismatch = |right: String, reason: &str| TrainError::Mismatch {
        left: format!("the targets in {}", folder.display()),
        right,
        reason: reason.into(),
    };
    if params.checkpoint_sha256 != checkpoint_sha256 {
        let reason = "they were made with another checkpoint; make them again with `fbp targets`";
        return Err(mismatch(args.checkpoint.display().to_string(), reason).into());
    }
    if params.data.sha256 != input.identity.sha256 {
        let reason = "they were made from other samples; use the same --data and --train-size";
        return Err(mismatch(format!("the data {}", input.identity.name), reason).into());
    }
    Ok(Some(store))
}

/// The record of this run if it is finished.
fn finished(
    args: &PostTrainArgs,
    settings: &PostTrainSettings,
    record_file: &Path,
    checkpoint_file: &Path,
) -> Result<Option<PostTrainRecord>, CliError> {
    let found: Option<PostTrainRecord> = match read_json(record_file, "post-training record") {
        Err(TrainError::Json { .. }) if args.force => None,
        read => read?,
    };
    let Some(found) = found else { return Ok(None) };
    if found.settings == *settings {
        let unchanged = file_sha256(checkpoint_file).is_ok_and(|sha256| sha256 == found.checkpoint_sha256_after);
        return Ok(unchanged.then_some(found));
    }
    if args.force {
        return Ok(None);
    }
    let differences = differences(&found.settings, settings);
    Err(TrainError::OtherSettings { path: record_file.to_owned(), differences }.into())
}

/// Copies what a report needs besides the runs into their folder.
fn keep_origin(args: &PostTrainArgs, store: Option<&TargetStore>) -> Result<(), CliError> {
    let pretrain: Option<PretrainRecord> = match read_json(&record_path(&args.checkpoint), "pretraining record") {
        // A JSON file of that name that is something else is none of our business.
        Err(TrainError::Json { .. }) => None,
        read => read?,
    };
    match pretrain {
        Some(record) if record.checkpoint_sha256 == file_sha256(&args.checkpoint)? => {
            write_json(&args.out.join(PRETRAIN_FILE), &record)?;
        }
        _ => {}
    }
    let Some(store) = store else { return Ok(()) };
    if let Some(report) = read_json::<TargetsReport>(&store.folder().join(REPORT_FILE), "report of targets")? {
        write_json(&args.out.join(TARGETS_FILE), &report)?;
    }
    if let Some(examples) = read_json::<Vec<Example>>(&store.folder().join(EXAMPLES_FILE), "list of examples")? {
        write_json(&args.out.join(EXAMPLES_FILE), &examples)?;
    }
    Ok(())
}
