use std::path::PathBuf;

use clap::Args;
use fbp_models::Checkpoint;
use fbp_train::TrainError;
use fbp_train::data::with_pixel_noise;
use fbp_train::evaluate::{EvalRecord, EvalSet, FrozenRest, frozen_rest_accuracy};
use fbp_train::identity::file_sha256;
use fbp_train::store::TargetStore;

use crate::common::{CommonArgs, Out, say};
use crate::data::DataArgs;
use crate::error::CliError;

/// Accuracy of a checkpoint, and of its frozen rest on target features
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp eval --checkpoint c.safetensors --data fashion-mnist --targets t/")]
pub(crate) struct EvalArgs {
    /// The network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Also feed the targets of this folder into the stages above them
    #[arg(long, value_name = "DIR")]
    targets: Option<PathBuf>,
    /// Add normal noise to the pixels of the test images; 1 is the difference of black and white
    #[arg(long, value_name = "SIGMA", default_value_t = 0.0, allow_negative_numbers = true)]
    noise: f64,
}

pub(crate) fn run(args: &EvalArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let network = Checkpoint::load(&args.checkpoint)?.network;
    let mut input = args.data.load()?;
    input.check_fits(network.spec())?;
    input.bundle.test = with_pixel_noise(&input.bundle.test, args.noise, common.seed)?;
    let (train, test) = (&input.bundle.train, &input.bundle.test);
    let accuracy = |data| EvalSet::new(data, &input.bundle.normalization, None)?.accuracy(&network);
    let (train_accuracy, test_accuracy) = (accuracy(train)?, accuracy(test)?);
    say(out, format_args!("training accuracy {:.2} %", 100.0 * train_accuracy))?;
    say(out, format_args!("test accuracy     {:.2} %", 100.0 * test_accuracy))?;
    let mut frozen_rest = Vec::new();
    if let Some(folder) = &args.targets {
        let store = TargetStore::open(folder)?;
        if store.manifest().params.checkpoint_sha256 != file_sha256(&args.checkpoint)? {
            return Err(TrainError::Mismatch {
                left: format!("the targets in {}", folder.display()),
                right: args.checkpoint.display().to_string(),
                reason: "they were made with another checkpoint; make them again with `fbp targets`".into(),
            }
            .into());
        }
        for entry in &store.manifest().params.stages {
            let accuracy = frozen_rest_accuracy(&network, &store, &entry.name)?;
            say(out, format_args!("on the targets of {}: {:.3} %", entry.name, 100.0 * accuracy))?;
            frozen_rest.push(FrozenRest { stage: entry.name.clone(), accuracy });
        }
    }
    common.write_json(&EvalRecord {
        model: network.spec().name.clone(),
        data: input.identity.name,
        checkpoint: args.checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        checkpoint_sha256: file_sha256(&args.checkpoint)?,
        seed: common.seed,
        noise: args.noise,
        train_accuracy,
        test_accuracy,
        frozen_rest,
    })
}
