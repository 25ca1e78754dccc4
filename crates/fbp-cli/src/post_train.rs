use std::path::{Path, PathBuf};

use clap::Args;
use fbp_models::{Checkpoint, checkpoint};
use fbp_train::TrainError;
use fbp_train::data::Augmentation;
use fbp_train::hash::bytes_sha256;
use fbp_train::identity::file_sha256;
use fbp_train::input::Input;
use fbp_train::json::{read_json, write_json};
use fbp_train::outputs::{RunFiles, RunRecord, check_copy, record_path};
use fbp_train::settings::{Keep, LossKind, Metric, Objective, Schedule, TargetPolicy};
use fbp_train::share::Share;
use fbp_train::store::{REPORT_FILE, TargetStore};
use fbp_train::targets::{Example, TargetsReport, cut_as};
use fbp_train::train::{
    EXAMPLES_FILE, Goal, Host, LayerSums, PRETRAIN_FILE, PostTrainOptions, PostTrainRecord, PostTrainSettings,
    PretrainRecord, SaveEvery, StateFiles, SumFiles, TARGETS_FILE, check_policy, check_same_origin, closed_form_sums,
    find_finished, post_train_kept, record_name, stage_of_mode,
};

use crate::choices::choice;
use crate::common::{CommonArgs, Out, say, shard};
use crate::data::TrainedDataArgs;
use crate::error::CliError;
use crate::progress::Stderr;
use crate::signals;

/// The command whose files these are.
const COMMAND: &str = PostTrainRecord::COMMAND;

/// Go on training a network: against its targets, or in one of the usual ways, to compare
///
/// joint and local train the stages up to --stage (the last one without it) against its targets and freeze those above; tail
/// freezes the stages up to --stage, computes their features once and trains those above; head refits the last linear layer;
/// closed-form solves for the last linear or convolutional layer of --stage; hierarchical cuts the network after --stage and
/// trains all segments at the same time, each on its own; full trains everything. Where data have outputs
/// in place of labels, all of them train on these.
///
/// Writes one record and one checkpoint per run, named after mode, stage, weight, seed and every setting that is not the
/// default, so runs of one start can share a folder. A run whose record is there already does nothing; one that was stopped or
/// killed goes on where it was.
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
    /// The stage (an unknown one lists all), or all; must be given for tail and closed-form, and is not for full and head. For
    /// hierarchical the stages to cut after, as in conv1+conv2 [default: all]
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Weight of the distance; 0 is fine-tuning without targets [default: 0.3; --mode joint only]
    #[arg(long, allow_negative_numbers = true)]
    alpha: Option<f64>,
    /// Passes over the training data
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// Samples per step
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Learning rate of AdamW, at the start if it has a schedule [default: 5e-5 for joint and local, as published; 1e-3 for
    /// full, tail and hierarchical, which at the published rate mostly end where they began]
    #[arg(long, visible_alias = "lr", allow_negative_numbers = true)]
    learning_rate: Option<f64>,
    /// How the learning rate changes [default: constant for joint and local, as published; else cosine, which needs less
    /// luck with the rate]
    #[arg(long, value_parser = choice::<Schedule>())]
    schedule: Option<Schedule>,
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
    /// Change training images at random, others in every epoch; only without targets: see fbp pretrain
    #[arg(long, value_name = "crop,flip", default_value = "none", hide_default_value = true)]
    augment: Augmentation,
    /// Share of the training data held back for validation
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    validation: f64,
    /// What is made small beside distances [default: cross-entropy for labels, mse for outputs]
    #[arg(long, value_parser = choice::<LossKind>())]
    loss: Option<LossKind>,
    /// Keep the state of the training beside --out so often, as a time (30s, 5m) or a number of steps: the same command goes on
    /// from it after a stop or a kill, to the same result. auto is every 30 s, and less often for large networks
    #[arg(long, value_name = "TIME|STEPS", default_value = "auto")]
    checkpoint_every: SaveEvery,
    /// For --mode closed-form: sum up shard I of N of the samples, from 1, beside processes that do the others in the same folder;
    /// the same command without --shard then adds the sums in their order and solves. slurm takes it from the task of a job array
    #[arg(long, value_name = "I/N|slurm", value_parser = shard, conflicts_with = "force")]
    shard: Option<Share>,
    /// Folder for records and checkpoints; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Train again and replace what is there: a run with these or other settings, and files of another origin
    #[arg(long)]
    force: bool,
}

impl PostTrainArgs {
    fn options(&self, seed: u64) -> Result<PostTrainOptions, CliError> {
        if self.mode != Objective::Joint
            && let Some(alpha) = self.alpha
        {
            let reason = format!("is a weight for --mode joint alone: with --mode {} leave it out", self.mode);
            return Err(TrainError::Setting { name: "alpha", value: alpha.to_string(), reason }.into());
        }
        let usual = PostTrainOptions::of(self.mode);
        let options = PostTrainOptions {
            objective: self.mode,
            // Without its sign: -0 is the same run as 0.
            alpha: self.alpha.unwrap_or(usual.alpha) + 0.0,
            epochs: self.epochs,
            batch: self.batch,
            learning_rate: self.learning_rate.unwrap_or(usual.learning_rate),
            schedule: self.schedule.unwrap_or(usual.schedule),
            weight_decay: self.weight_decay,
            validation: self.validation,
            keep: self.keep.unwrap_or(usual.keep),
            policy: self.policy,
            ema: self.ema,
            augment: self.augment,
            loss: self.loss,
            seed,
        };
        options.check()?;
        if let Some(shard) = self.shard.filter(|_| self.mode != Objective::ClosedForm) {
            let reason =
                format!("is for --mode closed-form, whose sums can be added: with --mode {} leave it out", self.mode);
            return Err(TrainError::Setting { name: "shard", value: shard.to_string(), reason }.into());
        }
        if options.uses_targets() && self.targets.is_none() {
            let reason = format!(
                "--mode {} needs targets: make them with `fbp targets` and name their folder here{}",
                self.mode,
                if self.mode == Objective::Joint { " (--alpha 0 needs none)" } else { "" }
            );
            return Err(TrainError::Missing { name: "targets", reason }.into());
        }
        Ok(options)
    }
}

pub(crate) fn run(args: &PostTrainArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let options = args.options(common.seed)?;
    let mut start = Checkpoint::load(&args.checkpoint)?;
    let mut metadata = start.kept_metadata()?;
    let folder = args.targets.as_ref().filter(|_| options.objective.may_use_targets());
    // What is wrong with the targets is said once it is clear what is to be trained.
    let opened = folder.map(|folder| TargetStore::open(folder));
    if let Some(Ok(store)) = &opened {
        start.network = cut_as(start.network, store)?;
    }
    let stage = stage_of_mode(&start.network, options.objective, args.stage.as_deref())?;
    check_policy(&start.network, &stage, &options)?;
    let checkpoint_sha256 = file_sha256(&args.checkpoint)?;
    let input = args.data.load(&args.checkpoint, &start)?;
    options.objective.check_loss(LossKind::of(options.loss, &input.bundle.train)?)?;
    let mut network = start.network;
    let store = opened.transpose()?;
    if let (Some(folder), Some(store)) = (folder, &store) {
        check_targets((folder, store), args, &checkpoint_sha256, &input)?;
    }
    let settings = PostTrainSettings {
        checkpoint_sha256,
        targets: store.as_ref().map(|store| store.manifest().settings.clone()),
        metric: store.as_ref().map_or(Metric::Euclidean, |store| store.manifest().params.metric),
        ..options.settings(network.spec().name.clone(), input.identity.clone(), stage)
    };
    let name = record_name(&settings);
    let own = [format!("{name}.json"), format!("{name}.safetensors")];
    common.keep_json_apart(
        &args.out,
        own.iter().map(String::as_str).chain([PRETRAIN_FILE, TARGETS_FILE, EXAMPLES_FILE]),
    )?;
    let sums = SumFiles { folder: &args.out, name: &name };
    let goal_of =
        |stage: &str| store.as_ref().map(|store| Goal::of_store(store, &network, options.objective, stage)).transpose();
    if let Some(share) = args.shard {
        let sum = |progress: &Stderr| {
            let goal = goal_of(&settings.stage)?;
            closed_form_sums(&network, &settings.stage, &input.bundle, goal, (&options, share), progress)
        };
        return run_share(share, (sums, &settings), sum, common, out);
    }
    let Some(claim) = Claim::of(args, (&settings, &name), common, out)? else {
        // A run may have been killed before it could.
        return if common.is_first() { Ok(sums.remove()?) } else { Ok(()) };
    };
    if common.is_first() {
        claim.state.check(args.force)?;
        check_same_origin(&args.out, &settings)?;
        keep_origin(args, store.as_ref())?;
    }
    // Until the first one has made sure of the folder.
    common.team.barrier()?;

    signals::catch()?;
    let stage = settings.stage.clone();
    let goal = goal_of(&stage)?;
    let added = if options.objective == Objective::ClosedForm { sums.all(&settings)? } else { None };
    let host = Host { team: common.team.clone(), sums: added.as_ref(), ..Host::alone(&claim.state) };
    let curves = post_train_kept(&mut network, &stage, &input.bundle, goal, &options, host, &common.progress());
    let Some(files) = claim.files else { return Ok(curves.map(|_| ())?) };
    let curves = curves.map_err(|error| claim.state.drop_after(error))?;
    metadata.extend(input.bundle.preprocessing()?.to_metadata()?);
    let bytes = checkpoint::to_bytes(&network, &metadata)?;
    let ranks = common.team.size();
    let record = PostTrainRecord {
        checkpoint: format!("{name}.safetensors"),
        checkpoint_sha256_after: bytes_sha256(&bytes),
        ranks: (ranks > 1).then_some(ranks),
        seconds: claim.state.seconds(),
        ..PostTrainRecord::new(settings, curves)
    };
    files.write(&record, &bytes)?;
    claim.state.remove()?;
    sums.remove()?;
    common.write_json(&record)?;
    say(out, format_args!("{}: {}", files.record.display(), accuracy_text(&record)))
}

/// Sums up the samples of a share for the closed form, and leaves the sums in the folder.
fn run_share(
    share: Share,
    (sums, settings): (SumFiles<'_>, &PostTrainSettings),
    sum: impl Fn(&Stderr) -> Result<LayerSums, TrainError>,
    common: &CommonArgs,
    out: Out<'_>,
) -> Result<(), CliError> {
    let _lock = sums.claim(share)?;
    let is_there = sums.is_finished(share, settings)?;
    if !is_there {
        signals::catch()?;
        sums.write(share, settings, &sum(&common.progress())?)?;
    }
    common.write_json(&serde_json::json!({ "shard": share.to_string() }))?;
    let (folder, what) = (sums.folder.display(), if is_there { "is there already" } else { "is done" });
    say(
        out,
        format_args!("shard {share} of {folder} {what}; the same command without --shard adds all of them and solves"),
    )
}

/// What belongs to a run while it is done: its files, of several ranks the first one has them, and its state.
struct Claim {
    files: Option<RunFiles>,
    state: StateFiles,
}

impl Claim {
    /// None for a run that is finished already, which is said.
    fn of(
        args: &PostTrainArgs,
        (settings, name): (&PostTrainSettings, &str),
        common: &CommonArgs,
        out: Out<'_>,
    ) -> Result<Option<Self>, CliError> {
        let files = common.is_first().then(|| RunFiles::named(&args.out, name)).transpose()?;
        let checkpoint = args.out.join(format!("{name}.safetensors"));
        let state = StateFiles::new(&checkpoint, settings, args.checkpoint_every)?.of_ranks(common.team.size());
        let found = files.as_ref().map(|files| finished(args, files, settings)).transpose()?.flatten();
        if !common.team.of_first(found.is_some())? {
            return Ok(Some(Self { files, state }));
        }
        if let Some((path, found)) = found {
            // A run may have been killed before it could.
            state.remove()?;
            say(out, format_args!("{} is finished already: {}", path.display(), accuracy_text(&found)))?;
            common.write_json(&found)?;
        }
        Ok(None)
    }
}

/// The record of a run, if it is finished, and where it is.
fn finished(
    args: &PostTrainArgs,
    files: &RunFiles,
    settings: &PostTrainSettings,
) -> Result<Option<(PathBuf, PostTrainRecord)>, CliError> {
    files.keep_input(&args.checkpoint)?;
    match files.finished::<PostTrainRecord>(settings, args.force)? {
        Some(found) => Ok(Some((files.record.clone(), found))),
        // Under another name, if an earlier version gave it.
        None if !args.force => Ok(find_finished(&args.out, settings)?),
        None => Ok(None),
    }
}

fn accuracy_text(record: &PostTrainRecord) -> String {
    let (measure, seconds) = (record.measure(), record.seconds);
    let [before, after] = [record.scores.before, record.result()].map(|score| measure.text(score));
    let kept = match &record.chosen {
        Some(chosen) if record.settings.keep == Keep::Best && chosen.epoch == 0 => ", the start is kept",
        _ => "",
    };
    format!("test {} {before} before, {after} after{kept}, {seconds:.1} s", measure.word())
}

/// Whether targets were made with the checkpoint and from the samples at hand.
fn check_targets(
    (folder, store): (&Path, &TargetStore),
    args: &PostTrainArgs,
    checkpoint_sha256: &str,
    input: &Input,
) -> Result<(), CliError> {
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
    Ok(())
}

/// Copies what a report needs besides the runs into their folder.
fn keep_origin(args: &PostTrainArgs, store: Option<&TargetStore>) -> Result<(), CliError> {
    let pretrain: Option<PretrainRecord> = match read_json(&record_path(&args.checkpoint), "pretraining record") {
        // A JSON file of that name that is something else is none of our business.
        Err(TrainError::Json { .. }) => None,
        read => read?,
    };
    let sha256 = file_sha256(&args.checkpoint)?;
    if let Some(record) = pretrain.filter(|record| record.checkpoint_sha256 == sha256) {
        let path = args.out.join(PRETRAIN_FILE);
        // All runs of the folder begin at the same checkpoint.
        check_copy(&path, COMMAND, |found: &PretrainRecord| found.checkpoint_sha256 == sha256)?;
        write_json(&path, &record)?;
    }
    let Some(store) = store else { return Ok(()) };
    if let Some(report) = read_json::<TargetsReport>(&store.folder().join(REPORT_FILE), "report of targets")? {
        let path = args.out.join(TARGETS_FILE);
        check_copy(&path, COMMAND, |_: &TargetsReport| true)?;
        write_json(&path, &report)?;
    }
    if let Some(examples) = read_json::<Vec<Example>>(&store.folder().join(EXAMPLES_FILE), "list of examples")? {
        let path = args.out.join(EXAMPLES_FILE);
        check_copy(&path, COMMAND, |_: &Vec<Example>| true)?;
        write_json(&path, &examples)?;
    }
    Ok(())
}
