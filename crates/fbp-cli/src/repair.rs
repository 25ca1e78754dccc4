use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use fbp_models::{Checkpoint, Network, checkpoint};
use fbp_train::data::{Corruption, DataBundle};
use fbp_train::duration::parse_duration;
use fbp_train::hash::bytes_sha256;
use fbp_train::identity::file_sha256;
use fbp_train::input::Input;
use fbp_train::outputs::{RunFiles, record_path};
use fbp_train::repair::{
    Asked, Given, Judge, MixingOptions, RepairErrors, RepairOptions, RepairRecord, RepairSettings, Repaired,
    RepairedLayer, Rival, RivalOptions, RivalRecord, SampleChoice, SampleOrigin, Shortfall, StateMeasures,
    check_repairable, repair, repaired_examples, repaired_leads,
};
use fbp_train::scores::RepairScores;
use fbp_train::settings::{Measure, Preference};

use crate::choices::choice;
use crate::common::{CommonArgs, Out, errors_text, say};
use crate::data::{ImageArgs, OwnImages, TrainedDataArgs};
use crate::error::CliError;
use crate::progress::Stderr;
use crate::signals;

/// Repaired images that are kept for the report.
const EXAMPLES: usize = 4;
/// The same of samples with outputs, which are small.
const PATHS: usize = 64;

/// Make given samples right with the smallest change of one layer's weights, leaving the rest of the data alone
///
/// Writes the repaired checkpoint, and beside it a record with the extension .json: how many of the samples are right
/// now (efficacy), how many other wrong samples of their kind became right (generalisation), and what that cost in
/// accuracy (drawdown). Test images that are repaired do not count in what the test set says. The last line says so if
/// fewer samples are right than are enough, and what more would have cost.
///
/// Exit status 3 if --efficacy was given and not reached; the results are written all the same.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo fbp repair --checkpoint c.safetensors --data fashion-mnist --samples wrong:100 \
    --stage fc1 --out repaired.safetensors\n  \
    cargo fbp repair --checkpoint c.safetensors --data fashion-mnist --part test --samples 3,17 --stage out --out r.safetensors\n  \
    cargo fbp repair --checkpoint c.safetensors --data fashion-mnist --image shoe.png --label 9 --stage out --out s.safetensors\n  \
    cargo fbp repair --checkpoint c.safetensors --data fashion-mnist --samples wrong:100 --samples-corrupt fog --neighbours 4 \
    --stage fc1 --out foggy.safetensors"
)]
pub(crate) struct RepairArgs {
    /// The network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    data: TrainedDataArgs,
    /// Which of the images: positions such as 3,17, a file with one per line, N wrong ones at random, the N with the
    /// largest loss, all wrong ones of class K, or all [default for --image: all]
    #[arg(long, value_name = "LIST|FILE|wrong:N|worst:N|class:K|all", required_unless_present = "image")]
    samples: Option<SampleChoice>,
    #[command(flatten)]
    images: ImageArgs,
    /// The layer that may change, by its path (layer4.1.conv2), or the stage whose last linear or convolutional layer it is; of
    /// several, as in fc1,fc2, each further one changes only if the ones before did not suffice
    #[arg(long, value_name = "NAME[,NAME..]")]
    stage: String,
    /// Largest loss of accuracy on the validation part (drawdown), in percentage points; of outputs the largest growth of the RMSE
    /// in per cent of it
    #[arg(long, value_name = "PP", default_value_t = 1.3, allow_negative_numbers = true)]
    max_drawdown: f64,
    /// Share of the samples that is enough: of states with so many right, the one that loses least is kept; if it is given
    /// and not reached, the exit status is 3 [default: 0.99]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    efficacy: Option<f64>,
    /// Repair at most so many of the samples, drawn at random: time grows with the cube of their number, memory with its
    /// square
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// End the search after this time with the best state so far, for example 90s or 15m; data, the choice of samples and the
    /// test set take theirs besides, and the result depends on the machine
    #[arg(long, value_name = "DURATION")]
    time: Option<String>,
    /// How far an output may be from the wanted one and be right, in the units of the outputs; for data with outputs, which need it
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    tolerance: Option<f64>,
    /// Corrupt the images that samples are chosen from and leave all others as they are, so that the network stays good on clean
    /// images, for example fog:4; generalisation is then measured on the corrupted test images
    #[arg(long, value_name = "noise|blur|fog|contrast[:STRENGTH]", conflicts_with_all = ["image", "corrupt"])]
    samples_corrupt: Option<Corruption>,
    /// Also ask N neighbours of each sample to come right: the image moved by up to a pixel with a little noise, or corrupted again
    #[arg(long, value_name = "N", default_value_t = 0)]
    neighbours: usize,
    /// What counts among states with enough samples right: the least loss of accuracy, or most others of their kind right
    /// [default: accuracy; generalisation with --samples-corrupt]
    #[arg(long, value_parser = choice::<Preference>())]
    prefer: Option<Preference>,
    /// Share of the training data held back for validation
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    validation: f64,
    /// Also fine-tune the whole network on the same samples, until the share of --efficacy is right, for comparison
    #[arg(long)]
    rival: bool,
    /// Also fine-tune it on the same samples with clean training images mixed in, chosen on the validation part as the repair is
    #[arg(long, conflicts_with = "tolerance")]
    rival_mixed: bool,
    /// Checkpoint to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Repair again and replace what is there: a repair with these or other settings, and files of another origin
    #[arg(long)]
    force: bool,
}

/// Exit status of a repair that ended short of the share that was asked for.
const SHORT: u8 = 3;

impl RepairArgs {
    fn options(&self, seed: u64) -> Result<RepairOptions, CliError> {
        let options = RepairOptions {
            max_drawdown: self.max_drawdown / 100.0,
            efficacy: self.efficacy.unwrap_or(RepairOptions::default().efficacy),
            validation: self.validation,
            seed,
            limit: self.limit,
            time: self.time.as_deref().map(|time| parse_duration("time", time)).transpose()?,
            neighbours: self.neighbours,
            prefer: self.prefer.unwrap_or_else(|| match self.samples_corrupt {
                Some(_) => Preference::Generalisation,
                None => Preference::default(),
            }),
            tolerance: self.tolerance,
        };
        options.check()?;
        Ok(options)
    }

    fn settings(
        &self,
        network: &Network,
        choice: &SampleChoice,
        (input, own): (&Input, Option<&OwnImages>),
        options: &RepairOptions,
    ) -> Result<RepairSettings, CliError> {
        Ok(RepairSettings {
            checkpoint_sha256: file_sha256(&self.checkpoint)?,
            model: network.spec().name.clone(),
            data: input.identity.clone(),
            samples: choice.to_string(),
            part: self.images.part,
            own: own.map(|own| own.identity.clone()),
            samples_corrupt: self.samples_corrupt,
            neighbours: options.neighbours,
            prefer: options.prefer,
            stage: self.stage.clone(),
            max_drawdown: options.max_drawdown,
            efficacy: options.efficacy,
            validation: options.validation,
            seed: options.seed,
            rival: self.rival,
            rival_mixed: self.rival_mixed,
            limit: options.limit,
            time: options.time,
            tolerance: options.tolerance,
        })
    }

    /// Says what is short of what was asked for, and gives the exit status.
    fn conclude(&self, record: &RepairRecord, out: Out<'_>) -> Result<ExitCode, CliError> {
        print(record, out)?;
        if record.time_over {
            say(out, format_args!("{}", time_text(record)))?;
        }
        let Some(shortfall) = record.shortfall() else { return Ok(ExitCode::SUCCESS) };
        say(out, format_args!("{}", shortfall_text(record, shortfall)))?;
        // Who asks for a share wants to know in a script whether it is there.
        Ok(if self.efficacy.is_some() { ExitCode::from(SHORT) } else { ExitCode::SUCCESS })
    }

    /// Where one layer changed alone, and no rival changes others, what lies below it is looked at once.
    fn judge(
        &self,
        before: &Network,
        repaired: &Repaired,
        data: &DataBundle,
        (choice, given): (&SampleChoice, Given<'_>),
        tolerance: Option<f64>,
    ) -> Result<Judge, CliError> {
        Ok(match repaired.further.is_empty() && !self.rival && !self.rival_mixed {
            true => Judge::of_layer(before, &repaired.layer.layer, data, choice, given, tolerance)?,
            false => Judge::new(before, data, choice, given, tolerance)?,
        })
    }
}

fn shortfall_text(record: &RepairRecord, shortfall: Shortfall) -> String {
    let percent = |share: f64| 100.0 * share;
    let unit = record.scores.measure.unit();
    let wanted = percent(record.settings.efficacy);
    match shortfall {
        Shortfall::Bound(StateMeasures { efficacy, drawdown_validation, .. }) => format!(
            "short of the {wanted:.0} % that are enough, because --max-drawdown allows a loss of {:.2} {unit}: of all states \
             looked at, the cheapest with {:.1} % right loses {:.2} {unit} on the validation part",
            percent(record.settings.max_drawdown),
            percent(efficacy),
            percent(drawdown_validation),
        ),
        Shortfall::Time => format!(
            "short of the {wanted:.0} % that are enough, because the time was over: give more --time, or repair fewer samples"
        ),
        Shortfall::Unreached => format!(
            "short of the {wanted:.0} % that are enough: no state looked at has more of them right, whatever it loses; \
             try another --stage or fewer samples"
        ),
    }
}

/// What it means that the time was over.
fn time_text(record: &RepairRecord) -> String {
    let [done, most] = record.solves();
    let kept = match record.layers().any(|layer| layer.chosen.is_some()) {
        true => "the best state so far is kept",
        false => "no state so far is better than the network as it was, which is kept",
    };
    let time = record.settings.time.unwrap_or_default();
    let beside = match record.beside() {
        0 => String::new(),
        count => format!(" and {count} refits or further steps"),
    };
    format!("--time ended the search after {time} s, {done} of up to {most} solves{beside}: {kept}")
}

pub(crate) fn run(args: &RepairArgs, common: &CommonArgs, out: Out<'_>) -> Result<ExitCode, CliError> {
    let begun = Instant::now();
    let options = args.options(common.seed)?;
    let checkpoint = Checkpoint::load(&args.checkpoint)?;
    let mut metadata = checkpoint.kept_metadata()?;
    let stages: Vec<&str> = args.stage.split(',').collect();
    stages.iter().try_for_each(|stage| check_repairable(&checkpoint.network, stage))?;
    common.json.keep_apart([&*record_path(&args.out), &*args.out], "the checkpoint or its record (--out)")?;
    let files = RunFiles::beside(&args.out)?;
    files.keep_input(&args.checkpoint)?;
    let own = args.images.own(&checkpoint)?;
    let input = args.data.load(&args.checkpoint, &checkpoint)?;
    options.check_for(&input.bundle.train)?;
    let network = checkpoint.network;
    let choice = args.samples.clone().unwrap_or(SampleChoice::All);
    let corrupted = args.images.corrupted(args.samples_corrupt, (&input, &args.data))?;
    let origin = match &corrupted {
        Some(corrupted) => SampleOrigin::Corrupted(args.images.part, corrupted),
        None => args.images.origin(own.as_ref()),
    };
    let asked = Asked { choice: &choice, origin };
    let settings = args.settings(&network, &choice, (&input, own.as_ref()), &options)?;
    if let Some(found) = files.finished::<RepairRecord>(&settings, args.force)? {
        say(out, format_args!("{} is finished already", args.out.display()))?;
        common.write_json(&found)?;
        return args.conclude(&found, out);
    }
    signals::catch()?;
    let before = network.duplicate()?;
    let repaired = repair(&network, &stages, asked, &input.bundle, &options, &Stderr::default())?;
    let given = Given { origin: asked.origin, samples: &repaired.samples };
    let judge = args.judge(&before, &repaired, &input.bundle, (&choice, given), options.tolerance)?;
    let test = judge.measure(&network)?;
    let rival = match args.rival {
        false => None,
        true => {
            let RepairOptions { efficacy, tolerance, .. } = options;
            let rival = RivalOptions { efficacy, tolerance, ..RivalOptions::default() };
            Some(rival_record(rival.run(&before, given, &input.bundle, options.validation)?, &judge)?)
        }
    };
    let mixed = match args.rival_mixed {
        false => None,
        true => Some(rival_record(MixingOptions::beside(options).run(&before, given, &input.bundle)?, &judge)?),
    };
    let count = if options.tolerance.is_some() { PATHS } else { EXAMPLES };
    let pair = [&before, &network];
    let leads = repaired_leads(pair, &input.bundle, given, options.tolerance)?;
    let examples = repaired_examples(pair, stages[0], &input.bundle, given, (count, options.tolerance))?;
    let errors = RepairErrors::of(pair, &input.bundle, given)?;
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
        scores: RepairScores { measure: Measure::of(&input.bundle.train), before: judge.score, after: test.score },
        errors,
        layer: repaired.layer,
        further: repaired.further,
        time_over: repaired.time_over,
        rival,
        mixed,
        repair_seconds: repaired.seconds,
        repair_processor_seconds: repaired.processor_seconds,
        checkpoint: args.out.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        checkpoint_sha256_after: bytes_sha256(&bytes),
        leads,
        examples,
        class_names: input.bundle.class_names.clone(),
        seconds: begun.elapsed().as_secs_f64(),
    };
    files.write(&record, &bytes)?;
    common.write_json(&record)?;
    args.conclude(&record, out)
}

fn rival_record(rival: Rival, judge: &Judge) -> Result<RivalRecord, CliError> {
    let test = judge.measure(&rival.network)?;
    Ok(RivalRecord {
        learning_rate: rival.learning_rate,
        steps: rival.steps,
        mixed: rival.mixed,
        measures: rival.measures,
        generalisation: test.generalisation,
        drawdown_test: test.drawdown,
        seconds: rival.seconds,
        processor_seconds: rival.processor_seconds,
        curve: rival.curve,
    })
}

fn print(record: &RepairRecord, out: Out<'_>) -> Result<(), CliError> {
    let measure = record.scores.measure;
    let (word, unit) = (measure.word(), if measure.is_accuracy() { "pp" } else { "%" });
    let (right, wrong) =
        if measure.is_accuracy() { ("right", "wrong ones") } else { ("within tolerance", "ones beyond it") };
    let line = |efficacy: f64, generalisation: f64, drawdown: f64, seconds: f64| {
        format!(
            "{:.1} % of {} samples {right}, {:.1} % of the other {wrong}, test {word} {:+.2} {unit}, {seconds:.1} s",
            100.0 * efficacy,
            record.samples.len(),
            100.0 * generalisation,
            // Without its sign where nothing changed; errors grow where accuracies fall.
            0.0 - 100.0 * drawdown * if measure.is_accuracy() { 1.0 } else { -1.0 },
        )
    };
    let RepairRecord { efficacy, generalisation, drawdown_test, repair_seconds, .. } = record;
    let own = line(*efficacy, *generalisation, *drawdown_test, *repair_seconds);
    let changes: Vec<String> = record
        .layers()
        .map(|RepairedLayer { layer, change_relative, .. }| {
            format!("{layer} changed by {:.2} %", 100.0 * change_relative)
        })
        .collect();
    say(out, format_args!("{}: {own}", changes.join(", then ")))?;
    if let Some(least) = record.leads.iter().map(|lead| lead[1]).filter(|lead| *lead > 0.0).min_by(f32::total_cmp) {
        let rest = if measure.is_accuracy() { "over the strongest other class" } else { "below the tolerance" };
        say(out, format_args!("smallest lead of a repaired sample, through the whole network: {least:.3} {rest}"))?;
    }
    if let Some(errors) = &record.errors {
        for (name, [before, after]) in [
            ("these samples", [&errors.cases_before, &errors.cases_after]),
            ("all others", [&errors.others_before, &errors.others_after]),
        ] {
            say(out, format_args!("{name}: {} before, {} after", errors_text(before), errors_text(after)))?;
        }
    }
    let rivals = [(&record.rival, ""), (&record.mixed, " and other training images")];
    for (rival, more) in rivals.into_iter().filter_map(|(rival, more)| Some((rival.as_ref()?, more))) {
        let text = line(rival.measures.efficacy, rival.generalisation, rival.drawdown_test, rival.seconds);
        say(out, format_args!("fine-tuning on the same samples{more}: {text}"))?;
    }
    Ok(())
}
