use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use fbp_train::atomic::write_atomic;
use fbp_train::data::to_tensors;
use serde::Serialize;

use crate::common::{CommonArgs, Out, claim_out, is_written, say};
use crate::data::DataArgs;
use crate::error::CliError;

/// Write a data set as one safetensors file, to look at it or to change it
///
/// The file holds inputs (F32 as the network takes them, U8 for pixels), test_inputs, and labels or outputs of both; any command
/// takes it as --data tensors:FILE. Files of your own look the same: without a test part, a fifth of the samples are one.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp write-data --data planner --out planner.safetensors")]
pub(crate) struct WriteDataArgs {
    #[command(flatten)]
    data: DataArgs,
    /// safetensors to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace a file that holds something else
    #[arg(long)]
    force: bool,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    data: String,
    samples: BTreeMap<&'static str, usize>,
}

pub(crate) fn run(args: &WriteDataArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let _lock = claim_out(&args.out, &[], common)?;
    let input = args.data.load()?;
    let bytes = to_tensors(&input.bundle)?;
    if !is_written(&args.out, &bytes, args.force)? {
        write_atomic(&args.out, &bytes)?;
    }
    let (train, test) = (input.bundle.train.len(), input.bundle.test.len());
    common.write_json(&Written {
        data: input.identity.name,
        samples: BTreeMap::from([("train", train), ("test", test)]),
    })?;
    say(out, format_args!("{}: {train} training and {test} test samples", args.out.display()))
}
