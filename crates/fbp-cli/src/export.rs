use std::path::PathBuf;

use clap::Args;
use fbp_models::Checkpoint;
use fbp_models::weights::{ExportOptions, ExportReport, export_bytes};
use fbp_train::atomic::write_atomic;
use fbp_train::hash::bytes_sha256;
use serde::Serialize;

use crate::common::{CommonArgs, Out, claim_out, is_written, say};
use crate::error::CliError;

/// Write the weights of a checkpoint as PyTorch takes them
///
/// Names are those of the network, so that `model.load_state_dict(safetensors.torch.load_file(FILE))` takes them. Tensors that have
/// not changed since the import leave bit for bit as they came.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp export --checkpoint repaired.safetensors --out weights.safetensors")]
pub(crate) struct ExportArgs {
    /// The network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Put what stood before the names when they were imported in front of them again
    #[arg(long)]
    original_prefix: bool,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace a file that holds something else
    #[arg(long)]
    force: bool,
}

/// What was written.
#[derive(Serialize)]
struct ExportRecord<'a> {
    #[serde(flatten)]
    report: &'a ExportReport,
    file: String,
    sha256: String,
}

pub(crate) fn run(args: &ExportArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let Checkpoint { network, metadata, .. } = Checkpoint::load(&args.checkpoint)?;
    let _lock = claim_out(&args.out, &[&args.checkpoint], common)?;
    let options = ExportOptions { original_prefix: args.original_prefix };
    let (bytes, report) = export_bytes(&args.checkpoint, &network, &metadata, options)?;
    if !is_written(&args.out, &bytes, args.force)? {
        write_atomic(&args.out, &bytes)?;
    }
    common.write_json(&ExportRecord {
        report: &report,
        file: args.out.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        sha256: bytes_sha256(&bytes),
    })?;
    for tensor in &report.widened {
        say(out, format_args!("{tensor} has changed and leaves with 32 bits instead of fewer"))?;
    }
    let origin = report.imported_from.as_deref().map(|file| format!(" that came from {file}")).unwrap_or_default();
    let (path, network, tensors) = (args.out.display(), &report.network, report.exported.len());
    say(out, format_args!("{path}: {tensors} tensors of {network}{origin}"))
}
