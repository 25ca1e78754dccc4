//! What every command takes, and where it writes.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use fbp_train::TrainError;
use fbp_train::atomic::{folder_of, prepare_folder};
use fbp_train::evaluate::ErrorMeasures;
use fbp_train::outputs::{OutputLock, is_same_place};

use crate::error::CliError;
use crate::json_output::JsonOutput;

/// The options that every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct CommonOptions {
    /// Worker threads; all cores by default
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Seed of everything random: starting weights and the order of the samples
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write the result as JSON; - is the standard output, which then holds nothing else
    #[arg(long, global = true, value_name = "FILE|-")]
    json: Option<PathBuf>,
}

/// What those options ask for.
#[derive(Debug)]
pub(crate) struct CommonArgs {
    pub(crate) seed: u64,
    pub(crate) json: JsonOutput,
    command: &'static str,
}

impl CommonOptions {
    /// Opens the outputs that every command has.
    pub(crate) fn open(&self, command: &'static str) -> Result<CommonArgs, CliError> {
        Ok(CommonArgs { seed: self.seed, json: JsonOutput::open(self.json.as_deref(), command)?, command })
    }
}

impl CommonArgs {
    /// Writes the result where `--json` says.
    pub(crate) fn write_json<R: serde::Serialize>(&self, result: &R) -> Result<(), CliError> {
        self.json.write(self.command, result)
    }

    /// Refuses a `--json` in a folder of the command by a name that the command uses itself.
    pub(crate) fn keep_json_apart<N: AsRef<str>>(
        &self,
        folder: &Path,
        names: impl IntoIterator<Item = N>,
    ) -> Result<(), CliError> {
        let files: Vec<PathBuf> = names.into_iter().map(|name| folder.join(name.as_ref())).collect();
        self.json.keep_apart(files.iter().map(PathBuf::as_path), "another result of this command")
    }
}

/// Where a command writes its results for people to read.
pub(crate) type Out<'a> = &'a mut (dyn Write + Send);

/// Writes a line of the result.
pub(crate) fn say(out: Out<'_>, line: std::fmt::Arguments<'_>) -> Result<(), CliError> {
    match out.write_fmt(format_args!("{line}\n")) {
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written.map_err(TrainError::writing("standard output"))?),
    }
}

/// `RMSE 0.3121, MAE 0.1410, ADE 0.2551, FDE 0.4410`.
pub(crate) fn errors_text(errors: &ErrorMeasures) -> String {
    let ErrorMeasures { rmse, mae, ade, fde, .. } = errors;
    let of_path = ade.zip(*fde).map(|(ade, fde)| format!(", ADE {ade:.4}, FDE {fde:.4}")).unwrap_or_default();
    format!("RMSE {rmse:.4}, MAE {mae:.4}{of_path}")
}

/// What is wrong with `--out`.
fn unfit_out(path: &Path, reason: &str) -> CliError {
    TrainError::Setting { name: "out", value: path.display().to_string(), reason: reason.into() }.into()
}

/// A file in the way of the one that a command writes.
pub(crate) fn in_the_way(path: &Path) -> CliError {
    unfit_out(
        path,
        "is there already and not a result of these arguments: name another file, or replace what is there with --force",
    )
}

/// Makes sure that the one file of a command can be written, apart from what it reads and from the result of `--json`, and
/// keeps every other process from writing it.
pub(crate) fn claim_out(path: &Path, inputs: &[&Path], common: &CommonArgs) -> Result<OutputLock, CliError> {
    if path.is_dir() {
        return Err(unfit_out(path, "is a folder: name the file, for example NAME.safetensors in it"));
    }
    if inputs.iter().any(|input| is_same_place(path, input)) {
        return Err(unfit_out(path, "would replace a file that the command reads: name another file"));
    }
    common.json.keep_apart([path], "what the command writes (--out)")?;
    prepare_folder(&folder_of(path))?;
    Ok(OutputLock::acquire(path)?)
}

/// Whether a file that a command wants to write is there already with the same contents; one with others is left alone,
/// unless `force`.
pub(crate) fn is_written(path: &Path, bytes: &[u8], force: bool) -> Result<bool, CliError> {
    match std::fs::read(path) {
        Ok(found) if found == bytes => Ok(true),
        Ok(_) if !force => Err(in_the_way(path)),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::writing(path)(error).into()),
        _ => Ok(false),
    }
}
