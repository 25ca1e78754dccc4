//! Child programs.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use crate::error::TaskError;
use crate::workspace;

/// A child program, run in the folder of the workspace.
pub(crate) struct Child(Command);

impl Child {
    /// The program with this name or path.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(workspace::root());
        Self(command)
    }

    /// The cargo that started this program, so that the same toolchain is used.
    pub(crate) fn cargo() -> Self {
        Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it with the terminal of this program.
    ///
    /// # Errors
    /// With the command line, if it cannot be started or does not end with 0.
    pub(crate) fn run(mut self) -> Result<(), TaskError> {
        let command = self.line();
        let status = self.0.status().map_err(|source| TaskError::Start { command: command.clone(), source })?;
        if status.success() { Ok(()) } else { Err(TaskError::Command { command, status }) }
    }

    /// Runs it and gives what it writes to its standard output.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn output(self) -> Result<String, TaskError> {
        self.output_of(&[0])
    }

    /// The same for a program that may also end with other statuses.
    ///
    /// # Errors
    /// As [`run`](Self::run), for statuses that are not expected.
    pub(crate) fn output_of(mut self, expected: &[i32]) -> Result<String, TaskError> {
        let command = self.line();
        let output = self.0.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.map_err(|source| TaskError::Start { command: command.clone(), source })?;
        if output.status.code().is_none_or(|code| !expected.contains(&code)) {
            return Err(TaskError::Command { command, status: output.status });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The command as one would type it.
    pub(crate) fn line(&self) -> String {
        let set = self.0.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let mut words: Vec<_> =
            set.map(|(name, value)| format!("{}='{}'", name.to_string_lossy(), value.to_string_lossy())).collect();
        let program = std::path::Path::new(self.0.get_program());
        words.push(program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned());
        words.extend(self.0.get_args().map(|argument| argument.to_string_lossy().into_owned()));
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command() {
        let error = Child::cargo().args(["no-such-command"]).run().unwrap_err().to_string();
        assert!(error.contains("cargo no-such-command"), "{error}");
        let error = Child::new("/absent/program").args(["x"]).env("A", "b c").run().unwrap_err().to_string();
        assert!(error.contains("A='b c' program x"), "{error}");
    }

    #[test]
    fn output_is_what_was_written() {
        assert!(Child::cargo().args(["--version"]).output().unwrap().starts_with("cargo "));
    }
}
