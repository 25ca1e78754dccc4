use std::path::PathBuf;

use fbp_train::TrainError;

/// What can go wrong between records and pages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// There is nothing to report on.
    #[error("{}: {reason}", folder.display())]
    NoRecords {
        /// The folder searched.
        folder: PathBuf,
        /// What is missing and which command makes it.
        reason: String,
    },
    /// A plot or a picture cannot be drawn.
    #[error("cannot draw the plot {what}: {reason}")]
    Plot {
        /// Which plot.
        what: String,
        /// In the words of the plotting library.
        reason: String,
    },
    /// Records cannot be read, or results not be written.
    #[error(transparent)]
    Train(#[from] TrainError),
}
