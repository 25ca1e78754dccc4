//! Errors as the command line tells them.

use clap::Command;
use fbp_models::ModelError;
use fbp_report::ReportError;
use fbp_train::{TrainError, one_line};

/// Everything that keeps a command from doing what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Report(#[from] ReportError),
}

macro_rules! of_train {
    ($($error:ty),+) => {$(
        impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::Train(error.into())
            }
        }
    )+};
}

of_train!(
    fbp_models::ModelError,
    fbp_train::collective::CollectiveError,
    fbp_train::data::DataError,
    rayon::ThreadPoolBuildError
);

impl CliError {
    fn train(&self) -> Option<&TrainError> {
        match self {
            Self::Train(error) | Self::Report(ReportError::Train(error)) => Some(error),
            Self::Report(_) => None,
        }
    }

    /// Whether the work was asked to end.
    pub(crate) fn is_stop(&self) -> bool {
        matches!(self.train(), Some(TrainError::Stopped { .. }))
    }

    /// The error for the command that was typed, in one line unless it shows a place in a file: settings are called as its
    /// options are, and what an option of it can mend is said.
    pub(crate) fn text(&self, command: &Command) -> String {
        let shows_a_place = self.train().is_some_and(TrainError::shows_a_place);
        let mut line = if shows_a_place { fbp_train::text(self) } else { one_line(self) };
        let Some(error) = self.train() else { return line };
        if let Some(setting) = error.setting() {
            let option = setting.replace('_', "-");
            if let Some(rest) = line.strip_prefix(setting).filter(|_| has(command, &option)) {
                line = format!("--{option}{rest}");
            }
        }
        if has(command, "out") {
            line = line.replace("another place for the results", "another --out");
        }
        if let TrainError::Foreign { command, .. } = error
            && command.ends_with("--json")
        {
            line = line.replace("another --out", "another --json file").replace("place for the results", "--json file");
        }
        if error.is_in_the_way() && has(command, "force") {
            line.push_str(", or replace what is there with --force");
        }
        if let TrainError::Model(ModelError::UnknownModel { .. }) = error {
            line.push_str(" (`fbp models` describes them; a name that ends in .toml is a file of your own)");
        }
        line
    }
}

/// Whether a command has an option.
fn has(command: &Command, option: &str) -> bool {
    command.get_arguments().any(|argument| argument.get_long() == Some(option))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::command::Cli;

    fn line(command: &str, error: TrainError) -> String {
        let mut whole = Cli::command();
        whole.build();
        CliError::from(error).text(whole.find_subcommand(command).unwrap())
    }

    #[test]
    fn settings_are_called_as_the_options_of_the_command() {
        let error = || TrainError::Parameter { name: "learning_rate", value: "0".into(), range: "(0, 1]" };
        assert_eq!(line("pretrain", error()), "--learning-rate = 0 is out of range: it takes (0, 1]");
        assert_eq!(line("report", error()), "learning_rate = 0 is out of range: it takes (0, 1]");
        let error = TrainError::Parameter { name: "json", value: "x".into(), range: "y" };
        assert_eq!(line("report", error), "--json = x is out of range: it takes y");
    }

    #[test]
    fn force_is_offered_where_there_is_such_an_option() {
        let error = || TrainError::OtherSettings { path: "r.json".into(), differences: "seed: 1, now 2".into() };
        assert!(line("targets", error()).ends_with("--force"));
        assert!(!line("sweep", error()).contains("--force"));
    }
}
