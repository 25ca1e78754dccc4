//! What every command takes, and where it writes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use fbp_train::TrainError;
use fbp_train::atomic::{folder_of, prepare_folder};
use fbp_train::collective::{Alone, Collective};
use fbp_train::evaluate::ErrorMeasures;
use fbp_train::outputs::{OutputLock, is_same_place};
use fbp_train::share::Share;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::CliError;
use crate::json_output::JsonOutput;
use crate::progress::Stderr;

/// The options that every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct CommonOptions {
    /// Worker threads; all cores by default
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
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
    /// Those who do the command together; this process alone in most programs.
    pub(crate) team: Arc<dyn Collective>,
    command: &'static str,
}

impl CommonOptions {
    /// Opens the outputs that every command has.
    pub(crate) fn open(&self, command: &'static str) -> Result<CommonArgs, CliError> {
        self.open_for(command, Arc::new(Alone))
    }

    /// The same for one rank of a team, of which the first has outputs.
    pub(crate) fn open_for(&self, command: &'static str, team: Arc<dyn Collective>) -> Result<CommonArgs, CliError> {
        let json = JsonOutput::open(self.json.as_deref().filter(|_| team.rank() == 0), command)?;
        Ok(CommonArgs { seed: self.seed, json, team, command })
    }

    /// The worker threads.
    pub(crate) fn pool(&self) -> Result<ThreadPool, CliError> {
        let pool = ThreadPoolBuilder::new().num_threads(self.threads.map_or(0, usize::from));
        Ok(pool.build()?)
    }
}

impl CommonArgs {
    /// Whether this process prints and writes: always, unless it is one of several and not the first.
    pub(crate) fn is_first(&self) -> bool {
        self.team.rank() == 0
    }

    /// Progress on the standard error stream, of several processes that of the first.
    pub(crate) fn progress(&self) -> Stderr {
        Stderr::new(self.is_first())
    }

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

/// The shard that a process works on, where several share the work.
#[derive(Clone, Debug, Args)]
pub(crate) struct ShardArgs {
    /// Do shard I of N of the work, from 1, beside processes that do the others in the same folder, which `fbp merge` then closes;
    /// slurm takes it from the task of a job array
    #[arg(long, value_name = "I/N|slurm", value_parser = shard)]
    pub(crate) shard: Option<Share>,
}

/// A shard as it is written on the command line.
pub(crate) fn shard(text: &str) -> Result<Share, TrainError> {
    if text == "slurm" { slurm_share(|name| std::env::var(name).ok()) } else { text.parse() }
}

/// The shard of a task of a Slurm job array: the first task has the first shard, whatever its number.
fn slurm_share(variable: impl Fn(&str) -> Option<String>) -> Result<Share, TrainError> {
    let number = |name: &str| variable(name).and_then(|value| value.parse::<usize>().ok());
    let [task, count] = ["SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"].map(number);
    let (Some(task), Some(count)) = (task, count) else {
        let reason = "needs SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, which job arrays have (sbatch --array=1-N)";
        return Err(TrainError::Setting { name: "shard", value: "slurm".into(), reason: reason.into() });
    };
    let first = number("SLURM_ARRAY_TASK_MIN").unwrap_or(1);
    let step = number("SLURM_ARRAY_TASK_STEP").filter(|step| *step > 0).unwrap_or(1);
    Share::new(task.saturating_sub(first) / step + 1, count)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_job_arrays_are_shards() {
        let share = |variables: &[(&str, &str)]| {
            slurm_share(|name| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned()))
        };
        let [id, count, min, step] = ["ID", "COUNT", "MIN", "STEP"].map(|name| format!("SLURM_ARRAY_TASK_{name}"));
        let text = |variables: &[(&str, &str)]| share(variables).unwrap().to_string();
        assert_eq!(text(&[(&id, "3"), (&count, "5")]), "3/5");
        assert_eq!(text(&[(&id, "0"), (&count, "5"), (&min, "0")]), "1/5");
        assert_eq!(text(&[(&id, "7"), (&count, "4"), (&min, "1"), (&step, "2")]), "4/4");
        for wrong in [&[(&*id, "1")][..], &[], &[(&*id, "9"), (&*count, "5"), (&*min, "1")]] {
            assert_eq!(share(wrong).unwrap_err().setting(), Some("shard"), "{wrong:?}");
        }
    }
}
