use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use fbp_models::{Checkpoint, checkpoint};
use fbp_report::adapt::write_page;
use fbp_report::check_page;
use fbp_train::EvalSet;
use fbp_train::adapt::{AdaptOptions, AdaptRecord, AdaptSettings, Method, TriedRecord, adapt, default_folds};
use fbp_train::data::DataBundle;
use fbp_train::hash::bytes_sha256;
use fbp_train::identity::file_sha256;
use fbp_train::outputs::{RunFiles, record_path};
use fbp_train::progress::Progress;

use crate::choices::choice;
use crate::common::{CommonArgs, Out, say};
use crate::data::TrainedDataArgs;
use crate::error::CliError;
use crate::progress::Stderr;
use crate::signals;
use crate::table::print_table;

/// Adapt a network to few labelled samples of changed data, with everything chosen from these labels themselves
///
/// Compares, by cross-validation among the labels, the network as it is with statistics estimated again, its last layer in closed form,
/// and fine-tuning of its last layer, of its second half and of all of it, also with weights anchored at the start; each with a small
/// grid of its own. What is right more often than the network as it is, by more than one and a half standard errors, and loses
/// least is fitted again to all labels. If nothing is, the network stays as it is.
///
/// Writes an ordinary checkpoint, and beside it a record with the extension .json and a page with .html: what was tried, the accuracy
/// of each by cross-validation with its standard error, the choice, and the accuracy on the test part before and after.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo fbp adapt --checkpoint c.safetensors --data folder:mine --out mine.safetensors\n  \
    cargo fbp adapt --checkpoint c.safetensors --data fashion-mnist --corrupt fog:4 --labels 100 --out foggy.safetensors\n  \
    cargo fbp adapt --checkpoint c.safetensors --data fashion-mnist --corrupt noise --labels 50 --method head --out n.safetensors"
)]
pub(crate) struct AdaptArgs {
    /// The network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    data: TrainedDataArgs,
    /// Number of labelled samples, drawn from the training part by --seed, equally many of every class [default: all]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    labels: Option<usize>,
    /// How to adapt: one way with its settings chosen by cross-validation, or whichever is best
    #[arg(long, value_parser = choice::<Method>(), default_value_t = Method::Auto)]
    method: Method,
    /// Folds of the cross-validation [default: 10 below 50 labels, 5 below 300, 3 above]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    folds: Option<usize>,
    /// Judge on the first N test images only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    test_size: Option<u32>,
    /// Also fit everything that was tried to all labels and judge it on the test part, to see what each would have been worth; nothing
    /// is chosen by that
    #[arg(long)]
    judge_all: bool,
    /// Checkpoint to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Adapt again and replace what is there
    #[arg(long)]
    force: bool,
}

impl AdaptArgs {
    fn options(&self, seed: u64) -> Result<AdaptOptions, CliError> {
        let Self { labels, method, folds, judge_all, .. } = *self;
        let options = AdaptOptions { labels, method, folds, seed, judge_all };
        options.check()?;
        Ok(options)
    }
}

pub(crate) fn run(args: &AdaptArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
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
    let labels = options.labels.unwrap_or(input.bundle.train.len());
    let settings = AdaptSettings {
        checkpoint_sha256: file_sha256(&args.checkpoint)?,
        model: network.spec().name.clone(),
        data: input.identity.clone(),
        labels,
        method: options.method,
        folds: options.folds.unwrap_or_else(|| default_folds(labels)),
        seed: options.seed,
        test_size: args.test_size.map(|size| size as usize),
        judge_all: options.judge_all,
    };
    if let Some(found) = files.finished::<AdaptRecord>(&settings, args.force)? {
        say(out, format_args!("{} is finished already", args.out.display()))?;
        write_page(&page, &found)?;
        common.write_json(&found)?;
        return print(&found, out);
    }
    check_page("adapt", &page, &files.record, args.force)?;
    signals::catch()?;
    let bundle = &input.bundle;
    let judged: Vec<usize> =
        (0..args.test_size.map_or(bundle.test.len(), |size| bundle.test.len().min(size as usize))).collect();
    let progress = Stderr::default();
    let done = adapt(&network, bundle, &options, &judged, &progress);
    progress.end();
    let done = done?;
    let test = |network, normalization| EvalSet::new(&bundle.test, normalization, Some(&judged))?.accuracy(network);
    let test_before = test(&network, &bundle.normalization)?;
    let test_after = test(&done.network, &done.normalization)?;
    let seen = DataBundle { normalization: done.normalization, ..bundle.clone() };
    metadata.extend(seen.preprocessing()?.to_metadata()?);
    let bytes = checkpoint::to_bytes(&done.network, &metadata)?;
    let record = AdaptRecord {
        settings,
        threads: rayon::current_num_threads(),
        class_counts: done.class_counts,
        start: done.start,
        tried: done.tried,
        chosen: done.chosen,
        test_before,
        test_after,
        adapt_seconds: done.seconds,
        adapt_processor_seconds: done.processor_seconds,
        checkpoint: args.out.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        checkpoint_sha256_after: bytes_sha256(&bytes),
        seconds: begun.elapsed().as_secs_f64(),
    };
    files.write(&record, &bytes)?;
    write_page(&page, &record)?;
    common.write_json(&record)?;
    print(&record, out)
}

/// The best setting of every method, and what was chosen.
fn print(record: &AdaptRecord, out: Out<'_>) -> Result<(), CliError> {
    let percent = |value: f64| format!("{:.1}", 100.0 * value);
    let mut best: Vec<&TriedRecord> = Vec::new();
    for tried in &record.tried {
        match best.iter_mut().find(|best| best.candidate.method == tried.candidate.method) {
            Some(best) if tried.accuracy > best.accuracy || tried.candidate == record.chosen => {
                if best.candidate != record.chosen {
                    *best = tried;
                }
            }
            Some(_) => {}
            None => best.push(tried),
        }
    }
    let mut rows = vec![["best of each method, * chosen", "right, %", "gain", "loss"].map(str::to_owned).to_vec()];
    if record.settings.judge_all {
        rows[0].push("test, %".to_owned());
    }
    rows.extend(best.iter().map(|tried| {
        let mark = if tried.candidate == record.chosen { "*" } else { " " };
        let mut row = vec![
            format!("{mark} {}", tried.candidate),
            format!("{} ± {}", percent(tried.accuracy), percent(tried.error)),
            format!("{:+.1} ± {}", 100.0 * tried.gain, percent(tried.gain_error)),
            tried.loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.3}")),
        ];
        row.extend(tried.test.map(percent));
        row
    }));
    print_table(&rows, out)?;
    say(
        out,
        format_args!(
            "{} labels, {} folds: {}; test accuracy {:.2} % before, {:.2} % after, {:.1} s",
            record.settings.labels,
            record.settings.folds,
            record.chosen,
            100.0 * record.test_before,
            100.0 * record.test_after,
            record.adapt_seconds,
        ),
    )
}
