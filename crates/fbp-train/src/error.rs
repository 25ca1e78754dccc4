use std::io;
use std::path::PathBuf;

/// What can go wrong between data and report. Every message says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file or folder cannot be written; nothing half-written is left behind.
    #[error("cannot write {} (name a folder that can be written to and has enough space)", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A JSON file of this program that cannot be understood.
    #[error("{} is not a {what} (if it is something of yours, name another place; if it is damaged, remove it)", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What it should be, for example `"run record"`.
        what: &'static str,
        /// Position and kind of the mistake.
        source: serde_json::Error,
    },
    /// Results in the output folder were made with other settings.
    #[error("{} was made with other settings ({differences}): name another place for these results", path.display())]
    OtherSettings {
        /// The record or manifest found.
        path: PathBuf,
        /// The settings that differ, `name: found, now wanted`.
        differences: String,
    },
    /// A file in the way that the command did not write, or not for this purpose.
    #[error(
        "{} is there already and not a result of `fbp {command}`, which would replace it: name another place for the \
         results",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The command that would replace it.
        command: String,
    },
    /// Another process is writing to the same folder or file.
    #[error("another process is writing to {}: wait for it, or name another place for the results", path.display())]
    Busy {
        /// The folder or file.
        path: PathBuf,
    },
    /// Two results of one run in one file.
    #[error("{} would hold {first} and {second}: name another file for one of them", path.display())]
    Collision {
        /// The file.
        path: PathBuf,
        /// What is asked to be there, for example `the result of --json`.
        first: &'static str,
        /// And what else the run writes there.
        second: &'static str,
    },
    /// A target store that is not complete or not what its manifest says.
    #[error("target store {}: {reason}", folder.display())]
    Store {
        /// Folder of the store.
        folder: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Shards of work that do not make a whole.
    #[error("the shards in {} cannot be merged: {reason}", folder.display())]
    Shards {
        /// The folder.
        folder: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A shard that is no valid safetensors file.
    #[error("{} is damaged: delete it and run `fbp targets` again, which makes it anew", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// What the format says.
        source: safetensors::SafeTensorError,
    },
    /// A parameter outside its documented range.
    #[error("{name} = {value} is out of range: it takes {range}")]
    Parameter {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// The documented range.
        range: &'static str,
    },
    /// A setting that makes no sense beside the others.
    #[error("{name} = {value} {reason}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it here, and what to do.
        reason: String,
    },
    /// A setting that is needed beside the others.
    #[error("{name} is missing: {reason}")]
    Missing {
        /// Name of the setting.
        name: &'static str,
        /// Why it is needed, and what it can be.
        reason: String,
    },
    /// A TOML file that describes no network.
    #[error("{} describes no network: {source}", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with the place.
        source: Box<fbp_models::ModelError>,
    },
    /// A value that a setting with named values does not have.
    #[error("{setting} = {value} is not known: it can be {known}")]
    UnknownChoice {
        /// Name of the setting.
        setting: &'static str,
        /// The value given.
        value: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// A stage that the network does not have, or that has no target.
    #[error("there is no stage {stage:?} to choose here: this network has {known}")]
    UnknownStage {
        /// The name given.
        stage: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// Two inputs that do not belong together.
    #[error("{left} does not fit {right}: {reason}")]
    Mismatch {
        /// The first input.
        left: String,
        /// The second input.
        right: String,
        /// What differs and what to do.
        reason: String,
    },
    /// A network whose outputs overflow.
    #[error(
        "the outputs of the network are not finite, so nothing can be said of them: its weights, or the numbers in the data, are \
         too large, too small or damaged"
    )]
    NonFiniteOutput,
    /// The loss is no number any more.
    #[error(
        "the training diverged in epoch {epoch}: try a smaller learning rate; if none helps, the numbers in the data, in the \
         targets or in the weights are too large"
    )]
    Diverged {
        /// Number of the epoch, from 1.
        epoch: usize,
    },
    /// A description of a sweep that cannot be understood or asks for what is not possible.
    #[error("sweep {}: {reason}", path.display())]
    Sweep {
        /// The description.
        path: PathBuf,
        /// What is wrong, where, and what to do.
        reason: String,
    },
    /// Runs of a sweep that gave no result; all others are finished.
    #[error("{failed} of {total} runs of the sweep failed (a smaller learning rate may help), the first one: {first}")]
    SweepRuns {
        /// Number of runs without a result.
        failed: usize,
        /// Number of runs of the sweep.
        total: usize,
        /// The first of them and what happened.
        first: String,
    },
    /// Samples that cannot be chosen.
    #[error("samples {choice}: {reason}")]
    Samples {
        /// The choice as it was written.
        choice: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A linear system without a solution that can be computed.
    #[error(
        "{what} cannot be solved for: they are the same for every sample, or a number on the way is not finite, so check the data \
         and the weights of the network"
    )]
    Singular {
        /// What it is the second moment of.
        what: &'static str,
    },
    /// Work that was asked to stop, through [`Progress::stop_asked`](crate::progress::Progress::stop_asked).
    #[error("stopped as asked: {left}")]
    Stopped {
        /// What is left of it, and how to go on.
        left: String,
    },
    /// A search that was given too little time for any result.
    #[error("the time is over before there is a result: give more")]
    TimeOver,
    /// The network, its description or its checkpoint cannot be used.
    #[error(transparent)]
    Model(#[from] fbp_models::ModelError),
    /// A feature cannot be reversed.
    #[error("targets cannot be computed{}", advice(.0))]
    Inverse(#[from] fbp_inverse::InverseError),
    /// A tensor operation failed.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// Ranks that cannot work together any more.
    #[error(transparent)]
    Collective(#[from] crate::collective::CollectiveError),
    /// The worker threads cannot be started.
    #[error("cannot start the worker threads: try fewer of them")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// What to do about a feature that cannot be reversed.
fn advice(error: &fbp_inverse::InverseError) -> &'static str {
    match error {
        fbp_inverse::InverseError::Solve { source: fbp_linalg::LinalgError::NonFinite { .. }, .. } => {
            ", as a number on the way is not finite: check the data and the weights of the network"
        }
        _ => "",
    }
}

impl TrainError {
    /// An error of reading `path`.
    pub fn reading(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    /// An error of writing `path`.
    pub fn writing(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }

    /// The message with the messages of all its sources, in one line.
    pub fn one_line(&self) -> String {
        one_line(self)
    }

    /// Name of the setting that the message begins with, if it is about one.
    pub fn setting(&self) -> Option<&'static str> {
        match self {
            Self::Parameter { name, .. } | Self::Data(crate::data::DataError::Parameter { name, .. }) => Some(name),
            Self::UnknownChoice { setting, .. } => Some(setting),
            Self::Setting { name, .. } | Self::Missing { name, .. } => Some(name),
            Self::Samples { .. } => Some("samples"),
            Self::Data(crate::data::DataError::NoImages { .. }) => Some("corrupt"),
            _ => None,
        }
    }

    /// Whether the message has several lines, which show a place in a file.
    pub fn shows_a_place(&self) -> bool {
        matches!(self, Self::Description { .. } | Self::Sweep { .. })
    }

    /// Whether results are in the way that could be replaced.
    pub fn is_in_the_way(&self) -> bool {
        match self {
            Self::OtherSettings { .. } => true,
            // A result of `--json` is not what is made again.
            Self::Foreign { command, .. } => !command.ends_with("--json"),
            _ => false,
        }
    }
}

/// The message of an error with the messages of all its sources, in one line.
pub fn one_line(error: &dyn std::error::Error) -> String {
    text(error).replace('\n', " ")
}

/// The message of an error with the messages of all its sources.
pub fn text(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        // Other packages' wrappers often repeat the text of what they wrap.
        if !line.ends_with(text.trim_end()) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = error.source();
    }
    line
}
