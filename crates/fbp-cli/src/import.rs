use std::path::PathBuf;

use clap::Args;
use fbp_models::weights::{Head, ImportOptions, ImportReport, Imported, StateDict, import};
use fbp_models::{Preprocessing, checkpoint};
use fbp_train::TrainError;
use fbp_train::atomic::write_atomic;
use fbp_train::hash::bytes_sha256;
use fbp_train::input::network_spec;
use serde::Serialize;

use crate::common::{CommonArgs, Out, claim_out, is_written, say};
use crate::error::CliError;
use crate::preprocess::preprocessing;
use crate::table::print_table;

/// Make a checkpoint of weights that PyTorch or anybody else saved
///
/// Reads .pth and .pt (of a state dict, of a training checkpoint that contains one, or of a whole module), .safetensors, and
/// sharded safetensors (the .index.json or its folder). Every parameter of the network must be there in its shape; what does not
/// fit is said all at once.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo fbp import resnet18.pth --model resnet18 --preprocess imagenet --out c.safetensors\n  \
    cargo fbp import dino.pth --model net.toml --prefix teacher.backbone --head new --classes 10 --out c.safetensors"
)]
pub(crate) struct ImportArgs {
    /// The weights
    #[arg(value_name = "FILE")]
    weights: PathBuf,
    /// The network that they belong to: a name (an unknown one lists all), or a TOML file that describes one
    #[arg(long, value_name = "NAME|FILE.toml")]
    model: String,
    /// What stands before the names of the parameters; by default the usual wrappers are tried
    #[arg(long, value_name = "P")]
    prefix: Option<String>,
    /// Where the last layer gets its weights from: new ones for another task, drawn with --seed
    #[arg(long, value_name = "file|new", default_value = "file", value_parser = ["file", "new"])]
    head: String,
    /// Number of classes of a new head
    #[arg(long, value_name = "N")]
    classes: Option<usize>,
    /// How images are prepared for the network: imagenet, a JSON file, or MEAN/DEVIATION for each channel
    #[arg(long, value_name = "imagenet|FILE|M,M,M/D,D,D")]
    preprocess: Option<String>,
    /// Checkpoint to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace a file that holds something else
    #[arg(long)]
    force: bool,
}

/// What went where, and what was written.
#[derive(Serialize)]
struct ImportRecord<'a> {
    #[serde(flatten)]
    report: &'a ImportReport,
    preprocessing: Option<&'a Preprocessing>,
    checkpoint: String,
    checkpoint_sha256: String,
}

pub(crate) fn run(args: &ImportArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let mut spec = network_spec(&args.model)?;
    let head = if args.head == "new" { Head::New { seed: common.seed } } else { Head::FromFile };
    match (args.classes, head) {
        (Some(classes), Head::New { .. }) => spec = spec.adapted(spec.input, classes)?,
        (Some(classes), Head::FromFile) if classes != spec.classes => {
            let range = "the number of classes of the network; another one needs --head new";
            return Err(TrainError::Parameter { name: "classes", value: classes.to_string(), range }.into());
        }
        _ => {}
    }
    let preprocessing = args.preprocess.as_deref().map(|text| preprocessing(text, spec.input)).transpose()?;
    let _lock = claim_out(&args.out, &[&args.weights], common)?;
    let weights = StateDict::open(&args.weights)?;
    let found = import(&spec, &weights, &ImportOptions { prefix: args.prefix.clone(), head })?;
    let mut metadata = found.metadata()?;
    if let Some(preprocessing) = &preprocessing {
        metadata.append(&mut preprocessing.to_metadata()?);
    }
    let bytes = checkpoint::to_bytes(&found.network, &metadata)?;
    if !is_written(&args.out, &bytes, args.force)? {
        write_atomic(&args.out, &bytes)?;
    }
    common.write_json(&ImportRecord {
        report: &found.report,
        preprocessing: preprocessing.as_ref(),
        checkpoint: args.out.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        checkpoint_sha256: bytes_sha256(&bytes),
    })?;
    print(&found.report, out)?;
    if preprocessing.is_none() {
        let text = "how images are prepared for it is not known; --preprocess says it";
        say(out, format_args!("{}: {text}", args.out.display()))?;
    }
    say(out, format_args!("{}: {} with {} numbers", args.out.display(), found.report.network, found.report.numbers))
}

fn print(report: &ImportReport, out: Out<'_>) -> Result<(), CliError> {
    // Names that differ by the prefix alone are not said twice.
    let is_renamed = |row: &&Imported| row.tensor != format!("{}{}", report.prefix, row.parameter);
    let has_names = report.imported.iter().filter(is_renamed).count() > 0;
    let mut rows = vec![vec!["parameter".to_owned(), "type".into(), "shape".into()]];
    for Imported { parameter, element, shape, rounded, .. } in &report.imported {
        let note = if *rounded { ", rounded" } else { "" };
        rows.push(vec![parameter.clone(), format!("{element}{note}"), format!("{shape:?}")]);
    }
    rows.extend(report.fresh.iter().map(|parameter| vec![parameter.clone(), "new".into()]));
    if has_names {
        rows[0].push("tensor in the file".into());
        for (row, imported) in rows.iter_mut().skip(1).zip(&report.imported) {
            row.push(imported.tensor.clone());
        }
    }
    print_table(&rows, out)?;
    let prefix = match (report.prefix.as_str(), report.prefix_found) {
        ("", _) => "without a prefix".to_owned(),
        (prefix, true) => format!("under the prefix {prefix} that was found"),
        (prefix, false) => format!("under the prefix {prefix}"),
    };
    let (tensors, counters) = (report.imported.len(), report.counters);
    say(out, format_args!("{}: {}, {tensors} tensors and {counters} counters {prefix}", report.file, report.format))?;
    if !report.prefixes_as_good.is_empty() {
        let others = report.prefixes_as_good.join(", ");
        say(out, format_args!("{}: the network is also there under {others}; --prefix chooses", report.file))?;
    }
    let rounded = report.imported.iter().filter(|row| row.rounded).count();
    if rounded > 0 {
        say(out, format_args!("{}: {rounded} tensors of 64 bits were rounded to 32", report.file))?;
    }
    if report.elsewhere + report.replaced.len() > 0 {
        let (replaced, elsewhere) = (report.replaced.len(), report.elsewhere);
        let text = format!("{replaced} tensors of the old head and {elsewhere} outside the prefix were left out");
        say(out, format_args!("{}: {text}", report.file))?;
    }
    Ok(())
}
