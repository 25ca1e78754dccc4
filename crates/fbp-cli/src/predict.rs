use std::path::PathBuf;

use clap::Args;
use fbp_models::Checkpoint;
use fbp_train::TrainError;
use fbp_train::atomic::{folder_of, prepare_folder};
use fbp_train::predict::{PredictOptions, predict};

use crate::common::{CommonArgs, Out, say};
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
    /// Replace a file that is there already
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &PredictArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    if args.out.exists() && !args.force {
        let range = "new files: this one is there already; --force replaces it";
        return Err(TrainError::Parameter { name: "out", value: args.out.display().to_string(), range }.into());
    }
    let network = Checkpoint::load(&args.checkpoint)?.network;
    prepare_folder(&folder_of(&args.out))?;
    let (inputs, features) = (args.inputs.clone(), args.features.clone());
    let options = PredictOptions { inputs, features, batch: args.batch };
    let record = predict(&network, &options, &args.out, &Stderr::default())?;
    common.write_json(&record)?;
    for tensor in &record.tensors {
        say(out, format_args!("{} {:?}", tensor.tensor, tensor.shape))?;
    }
    let count: usize = record.decisions.iter().sum();
    let rate = count as f64 / record.seconds;
    say(out, format_args!("{}: {count} inputs, {rate:.1} inputs/s", args.out.display()))
}
