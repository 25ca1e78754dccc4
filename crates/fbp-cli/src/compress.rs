use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use fbp_models::{Checkpoint, Network, checkpoint};
use fbp_report::check_page;
use fbp_report::compress::write_page;
use fbp_train::EvalSet;
use fbp_train::compress::{
    Bits, CompressOptions, CompressRecord, CompressSettings, Compression, Criterion, FineTuneOptions, Pattern, Recover,
    Scope, SizeRecord, compress,
};
use fbp_train::duration::parse_duration;
use fbp_train::hash::bytes_sha256;
use fbp_train::identity::file_sha256;
use fbp_train::input::Input;
use fbp_train::outputs::{RunFiles, record_path};
use fbp_train::processor::Clock;
use fbp_train::progress::Progress;

use crate::choices::choice;
use crate::common::{CommonArgs, Out, say};
use crate::data::TrainedDataArgs;
use crate::error::CliError;
use crate::progress::Stderr;

/// Make a network small, and put it right layer by layer without gradients and without labels
///
/// Weights become zero, channels go, what stays is rounded to few levels. Every layer is then solved for in forward order: given what
/// the layers below it now give, what comes nearest to what it gave before. A few hundred images are enough, and their labels are not
/// looked at, unless --recover says so: with `both` training on them goes on from there, and is kept where images held back get better.
///
/// Writes an ordinary checkpoint, and beside it a record with the extension .json and a page with .html: size, share of zeros, accuracy
/// before, compressed and put right, and what every layer misses. Layers that must stay as they are, in whole or in their channels, are
/// named before it starts.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo fbp compress --checkpoint c.safetensors --data fashion-mnist --prune 0.7 --out small.safetensors\n  \
    cargo fbp compress --checkpoint c.safetensors --data fashion-mnist --pattern 2:4 --quantise int8 --out sparse.safetensors\n  \
    cargo fbp compress --checkpoint c.safetensors --data fashion-mnist --channels 0.3 --calibrate 2000 --out slim.safetensors\n  \
    cargo fbp compress --checkpoint c.safetensors --data fashion-mnist --prune 0.7 --recover fine-tune --time 30s --out tuned.safetensors"
)]
pub(crate) struct CompressArgs {
    /// The network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    data: TrainedDataArgs,
    /// Set this share of the weights to zero
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    prune: Option<f64>,
    /// Where the weights that become zero are looked for [default: global]
    #[arg(long, value_parser = choice::<Scope>())]
    scope: Option<Scope>,
    /// Which weights of a layer become zero [default: reconstruction with --recover closed-form and both, else magnitude]; with others
    /// reconstruction takes the zeros of the closed form, and not its weights
    #[arg(long, value_parser = choice::<Criterion>())]
    criterion: Option<Criterion>,
    /// Zeros in a fixed pattern, in place of --prune
    #[arg(long, value_parser = choice::<Pattern>())]
    pattern: Option<Pattern>,
    /// Take this share of the channels away where that is possible: the network itself shrinks
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    channels: Option<f64>,
    /// Round the weights to levels, with a scale for every output
    #[arg(long, value_parser = choice::<Bits>())]
    quantise: Option<Bits>,
    /// Number of calibration images, drawn from the training images by --seed
    #[arg(long, value_name = "N", default_value_t = 500)]
    calibrate: usize,
    /// How the result is put right
    #[arg(long, value_parser = choice::<Recover>(), default_value_t = Recover::ClosedForm)]
    recover: Recover,
    /// Time of each training, for example 30s [default: 10s]; for --recover fine-tune and both
    #[arg(long, value_name = "DURATION")]
    time: Option<String>,
    /// What that time is measured by: processor is that of all threads together, so that other work on the machine takes nothing from it;
    /// for --recover fine-tune and both [default: wall]
    #[arg(long, value_parser = choice::<Clock>())]
    clock: Option<Clock>,
    /// Learning rate; may be given several times, the best one on a fifth of the calibration images is kept [default: 1e-4, 3e-4,
    /// 1e-3, 3e-3, 1e-2]; for --recover fine-tune and both
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    rate: Vec<f64>,
    /// Judge on the first N test images only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    test_size: Option<u32>,
    /// Checkpoint to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Compress again and replace what is there
    #[arg(long)]
    force: bool,
}

impl CompressArgs {
    fn options(&self, seed: u64) -> Result<CompressOptions, CliError> {
        let defaults = FineTuneOptions::default();
        let is_tuned = self.recover.trains();
        let clock = self.clock.map(|clock| clock.to_string());
        let unused = [("time", self.time.clone()), ("clock", clock), ("rate", self.rate.first().map(f64::to_string))];
        for (name, value) in unused {
            if let (Some(value), false) = (value, is_tuned) {
                let reason = format!("is for recover = fine-tune or both, and here it is {}", self.recover);
                return Err(fbp_train::TrainError::Setting { name, value, reason }.into());
            }
        }
        let compression = Compression {
            prune: self.prune,
            scope: self.scope,
            criterion: self.criterion,
            pattern: self.pattern,
            channels: self.channels,
            quantise: self.quantise,
        };
        let fine_tune = FineTuneOptions {
            learning_rates: if self.rate.is_empty() { defaults.learning_rates } else { self.rate.clone() },
            seconds: self
                .time
                .as_deref()
                .map(|time| parse_duration("time", time))
                .transpose()?
                .unwrap_or(defaults.seconds),
            clock: self.clock.unwrap_or(defaults.clock),
            ..defaults
        };
        let mut options =
            CompressOptions { compression, images: self.calibrate, recover: self.recover, seed, fine_tune };
        options.check()?;
        options.compression.criterion = options.recorded_criterion();
        Ok(options)
    }

    fn settings(
        &self,
        options: &CompressOptions,
        network: &Network,
        input: &Input,
    ) -> Result<CompressSettings, CliError> {
        let is_tuned = options.recover.trains();
        Ok(CompressSettings {
            checkpoint_sha256: file_sha256(&self.checkpoint)?,
            model: network.spec().name.clone(),
            data: input.identity.clone(),
            compression: options.compression,
            calibrate: options.images,
            recover: options.recover,
            seed: options.seed,
            test_size: self.test_size.map(|size| size as usize),
            time: is_tuned.then_some(options.fine_tune.seconds),
            clock: Some(options.fine_tune.clock).filter(|clock| is_tuned && *clock != Clock::default()),
            learning_rates: if is_tuned { options.fine_tune.learning_rates.clone() } else { Vec::new() },
        })
    }
}

pub(crate) fn run(args: &CompressArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let begun = Instant::now();
    let options = args.options(common.seed)?;
    let checkpoint = Checkpoint::load(&args.checkpoint)?;
    let mut metadata = checkpoint.kept_metadata()?;
    let page = args.out.with_extension("html");
    common
        .json
        .keep_apart([&*record_path(&args.out), &*args.out, &*page], "the checkpoint, its record or its page (--out)")?;
    let files = RunFiles::beside(&args.out)?;
    files.keep_input(&args.checkpoint)?;
    let input = args.data.load(&args.checkpoint, &checkpoint)?;
    let network = checkpoint.network;
    let settings = args.settings(&options, &network, &input)?;
    if let Some(found) = files.finished::<CompressRecord>(&settings, args.force)? {
        say(out, format_args!("{} is finished already", args.out.display()))?;
        write_page(&page, &found)?;
        common.write_json(&found)?;
        return print(&found, out);
    }
    check_page("compress", &page, &files.record, args.force)?;
    let progress = Stderr::default();
    let done = compress(&network, &input.bundle, &options, &progress);
    progress.end();
    let done = done?;
    let test = &input.bundle.test;
    let judged: Vec<usize> = (0..args.test_size.map_or(test.len(), |size| test.len().min(size as usize))).collect();
    let judge = EvalSet::new(test, &input.bundle.normalization, Some(&judged))?;
    metadata.extend(input.bundle.preprocessing()?.to_metadata()?);
    let bytes = checkpoint::to_bytes(&done.network, &metadata)?;
    let record = CompressRecord {
        settings,
        threads: rayon::current_num_threads(),
        test_before: judge.score(&network)?,
        test_compressed: judge.score(&done.compressed)?,
        test_recovered: judge.score(&done.network)?,
        is_accuracy: judge.kind().is_accuracy(),
        size_before: done.size_before,
        size: done.size,
        layers: done.layers,
        left_alone: done.left_alone,
        tuned: done.tuned,
        compress_seconds: done.seconds,
        compress_processor_seconds: done.processor_seconds,
        checkpoint: args.out.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        checkpoint_sha256_after: bytes_sha256(&bytes),
        seconds: begun.elapsed().as_secs_f64(),
    };
    files.write(&record, &bytes)?;
    write_page(&page, &record)?;
    common.write_json(&record)?;
    print(&record, out)
}

fn print(record: &CompressRecord, out: Out<'_>) -> Result<(), CliError> {
    let score =
        |value: f64| if record.is_accuracy { format!("{:.2} %", 100.0 * value) } else { format!("RMSE {value:.4}") };
    let kib = |bytes: usize| format!("{:.1} KiB", bytes as f64 / 1024.0);
    let CompressRecord { settings, size, size_before, .. } = record;
    say(
        out,
        format_args!(
            "{}: test {} before, {} compressed, {} after {} with {} images, {:.1} s",
            settings.compression.name(settings.recover),
            score(record.test_before),
            score(record.test_compressed),
            score(record.test_recovered),
            settings.recover,
            settings.calibrate,
            record.compress_seconds,
        ),
    )?;
    let share = |size: &SizeRecord| 100.0 * size.zero_share();
    say(
        out,
        format_args!(
            "{} before, {} now, {} packed; {:.1} % of the weights are zero",
            kib(size_before.dense_bytes),
            kib(size.dense_bytes),
            kib(size.packed_bytes),
            share(size),
        ),
    )
}
