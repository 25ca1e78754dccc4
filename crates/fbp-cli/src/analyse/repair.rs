use std::path::PathBuf;

use clap::Args;
use fbp_models::Checkpoint;
use fbp_report::repair::{CURVE_FILE, check_folder, write_points};
use fbp_train::atomic::{FolderLock, prepare_folder};
use fbp_train::identity::file_sha256;
use fbp_train::repair::{CurveDemands, Curves, SampleChoice, check_repairable};
use fbp_train::settings::check;
use fbp_train::train::ALL_STAGES;

use crate::common::{CommonArgs, Out, say};
use crate::data::TrainedDataArgs;
use crate::error::CliError;
use crate::progress::Stderr;

/// What does it cost to make samples right, in every layer and with other methods?
///
/// Repairs every stage with every combination of margin, ridge and slack, chooses a repair as `fbp repair` does, and
/// tries the other methods on the same samples: fine-tuning at several learning rates and numbers of steps, and refits of
/// the last layer at several dampings. Writes repair.json (a list with a point for each: efficacy, generalisation, drawdown
/// on the test set, time), repair.md and repair.svg. Points of other checkpoints, seeds and samples that the folder holds
/// are kept, and those that it has already are not made again, so one folder can collect many runs.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example, over seeds and kinds of samples:\n  \
    cargo fbp analyse repair --checkpoint c0.safetensors --seed 0 --data fashion-mnist --samples wrong:100 --out repairs/\n  \
    cargo fbp analyse repair --checkpoint c1.safetensors --seed 1 --data fashion-mnist --samples wrong:100 --out repairs/\n  \
    cargo fbp analyse repair --checkpoint d0.safetensors --seed 0 --data fashion-mnist --drop-class 3:0.9 --samples class:3 \
    --out repairs/")]
pub(super) struct RepairArgs {
    /// The network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    data: TrainedDataArgs,
    /// Training samples: positions such as 3,17, a file with one per line, N wrong ones at random, or all wrong ones of class K
    #[arg(long, value_name = "LIST|FILE|wrong:N|class:K")]
    samples: SampleChoice,
    /// Repair at most so many of them, drawn at random
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// A stage to repair, or all; may be given several times [default: every stage with a linear layer or a convolution]
    #[arg(long, value_name = "NAME")]
    stage: Vec<String>,
    /// Leads that labels are asked to have
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [0.3, 1.0, 3.0], allow_negative_numbers = true)]
    margin: Vec<f64>,
    /// Shares of the mean variance that dampen changes in directions where the other features hardly lie
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [0.003, 0.1], allow_negative_numbers = true)]
    ridge: Vec<f64>,
    /// How softly samples are asked to be right: the larger, the more may stay wrong where they cost much
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [1e-5, 0.1, 1.0], allow_negative_numbers = true)]
    slack: Vec<f64>,
    /// Folder to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace files that are no results of this command
    #[arg(long)]
    force: bool,
}

impl RepairArgs {
    pub(super) fn run(&self, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
        let all = |name, values: &[f64], range| {
            values.iter().try_for_each(|&v| check(name, v, f64::MIN_POSITIVE..=1e3, range))
        };
        all("margin", &self.margin, "(0, 1000]")?;
        all("ridge", &self.ridge, "(0, 1000]")?;
        all("slack", &self.slack, "(0, 1000]")?;
        check("limit", self.limit.unwrap_or(1), 1.., "1 or more samples")?;
        let start = Checkpoint::load(&self.checkpoint)?;
        let network = &start.network;
        let stages = match &self.stage[..] {
            [] => Curves::stages(network),
            [all] if all == ALL_STAGES && network.stage_index(all).is_err() => Curves::stages(network),
            named => named.to_vec(),
        };
        stages.iter().try_for_each(|stage| check_repairable(network, stage))?;
        common.keep_json_apart(&self.out, [CURVE_FILE, "repair.md", "repair.svg"])?;
        let input = self.data.load(&self.checkpoint, &start)?;
        prepare_folder(&self.out)?;
        let _lock = FolderLock::acquire(&self.out)?;
        let mut points = check_folder(&self.out, self.force)?;
        let checkpoint = (network, file_sha256(&self.checkpoint)?);
        let data = (&input.bundle, &input.identity);
        let progress = Stderr::default();
        let curves = Curves::new(checkpoint, data, &self.samples, (common.seed, self.limit), &progress)?;
        let demands =
            CurveDemands { margins: self.margin.clone(), ridges: self.ridge.clone(), slacks: self.slack.clone() };
        curves.complete(&mut points, &stages, &demands, |points| write_points(points, &self.out).map(|_| ()))?;
        let [table, plot] = write_points(&points, &self.out)?;
        common.write_json(&points)?;
        for point in points.iter().filter(|point| point.chosen && curves.is_own(point)) {
            say(
                out,
                format_args!(
                    "{} of {}: {:.1} % of {} samples right, {:.1} % of the other wrong ones, test accuracy {:+.2} pp, {:.1} s",
                    point.method.name(),
                    point.stage,
                    100.0 * point.efficacy,
                    point.subject.count,
                    100.0 * point.generalisation,
                    // Without its sign where nothing changed.
                    0.0 - point.drawdown_pp,
                    point.seconds
                ),
            )?;
        }
        say(out, format_args!("{} and {}", table.display(), plot.display()))
    }
}
