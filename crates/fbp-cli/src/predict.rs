use std::path::PathBuf;

use clap::Args;
use fbp_models::Checkpoint;
use fbp_train::hash::bytes_sha256;
use fbp_train::identity::file_sha256;
use fbp_train::predict::{PredictOptions, is_result, predict};

use crate::common::{CommonArgs, Out, claim_out, in_the_way, say};
use crate::error::CliError;
use crate::progress::Stderr;

/// Compute logits, and features of any stage, for inputs in a file
///
/// Reads the tensor `inputs` (one image or row for each input, normalised as the network takes them) and writes the tensor `logits`,
/// and for each stage asked for `features.STAGE`. Files may be larger than memory.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  cargo fbp predict --checkpoint c.safetensors --inputs x.safetensors --features layer3 \
    --out y.safetensors"
)]
pub(crate) struct PredictArgs {
    /// The network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// safetensors with the tensor `inputs`; a file of PyTorch's with a dictionary will do as well
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// Also write what comes out of these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    features: Vec<String>,
    /// Inputs that are computed at a time
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// safetensors to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace a file that holds something else
    #[arg(long)]
    force: bool,
}

/// What a result depends on, so that the same arguments may replace it and others may not.
fn origin(args: &PredictArgs) -> Result<String, CliError> {
    let mut parts = vec![file_sha256(&args.checkpoint)?, args.features.join(",")];
    // Several files are told by their place.
    parts.push(match args.inputs.is_file() {
        true => file_sha256(&args.inputs)?,
        false => args.inputs.display().to_string(),
    });
    Ok(bytes_sha256(parts.join("\n").as_bytes()))
}

pub(crate) fn run(args: &PredictArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let network = Checkpoint::load(&args.checkpoint)?.network;
    let _lock = claim_out(&args.out, &[&args.checkpoint, &args.inputs], common)?;
    let (inputs, features) = (args.inputs.clone(), args.features.clone());
    let origin = origin(args)?;
    if args.out.exists() && !args.force && !is_result(&args.out, &origin) {
        return Err(in_the_way(&args.out));
    }
    let options = PredictOptions { inputs, features, batch: args.batch, origin: Some(origin) };
    let record = predict(&network, &options, &args.out, &Stderr::default())?;
    common.write_json(&record)?;
    for tensor in &record.tensors {
        say(out, format_args!("{} {:?}", tensor.tensor, tensor.shape))?;
    }
    let count: usize = record.decisions.iter().sum();
    let rate = count as f64 / record.seconds;
    say(out, format_args!("{}: {count} inputs, {rate:.1} inputs/s", args.out.display()))
}
