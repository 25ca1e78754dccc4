use crate::TrainError;
use crate::data::Dataset;
use crate::evaluate::check_tolerance;
use crate::settings::{Preference, check};

/// How to repair.
///
/// | field          | default | range    |
/// |----------------|---------|----------|
/// | `max_drawdown` | 0.013   | `[0, 1]` |
/// | `efficacy`     | 0.99    | `[0, 1]` |
/// | `validation`   | 0.1     | `(0, 1)` |
/// | `seed`         | 0       |          |
/// | `limit`        | none    | 1 or more |
/// | `time`         | none    | `(0, ∞)`, in seconds |
/// | `neighbours`   | 0       | `[0, 100]` |
/// | `prefer`       | `Accuracy` |       |
/// | `tolerance`    | none    | `(0, ∞)`; for data with outputs, which need it |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepairOptions {
    /// Largest loss of accuracy on the validation part; for data with outputs the largest growth of the RMSE, as a share of it.
    pub max_drawdown: f64,
    /// Share of repaired samples that is enough: among states with so many, the loss alone counts.
    pub efficacy: f64,
    /// Share of the training data held back for validation.
    pub validation: f64,
    /// Seed of the choice of samples.
    pub seed: u64,
    /// Most samples that are repaired, drawn at random among those chosen; all of them by default.
    pub limit: Option<usize>,
    /// Time after which the search ends with the best state so far, in seconds, counted from its estimate on. The result
    /// then depends on the machine.
    pub time: Option<f64>,
    /// Neighbours of each sample that are asked to come right too: the same image moved by up to a pixel with a little noise, or
    /// corrupted again. They are conditions that may be missed, and do not count as samples.
    pub neighbours: usize,
    /// What counts among states with enough samples right.
    pub prefer: Preference,
    /// How far an output may be from the wanted one, in its units; for data with outputs, which need it.
    pub tolerance: Option<f64>,
}

impl Default for RepairOptions {
    fn default() -> Self {
        Self {
            max_drawdown: 0.013,
            efficacy: 0.99,
            validation: 0.1,
            seed: 0,
            limit: None,
            time: None,
            neighbours: 0,
            prefer: Preference::default(),
            tolerance: None,
        }
    }
}

impl RepairOptions {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] with the first field that is outside.
    pub fn check(&self) -> Result<(), TrainError> {
        check("max_drawdown", self.max_drawdown, 0.0..=1.0, "[0, 1]")?;
        check("efficacy", self.efficacy, 0.0..=1.0, "[0, 1]")?;
        check("validation", self.validation, f64::MIN_POSITIVE..1.0, "(0, 1)")?;
        check("neighbours", self.neighbours, 0..=100, "[0, 100]")?;
        check("limit", self.limit.unwrap_or(1), 1.., "1 or more samples")?;
        check("time", self.time.unwrap_or(1.0), f64::MIN_POSITIVE..f64::INFINITY, "(0, ∞)")?;
        check("tolerance", self.tolerance.unwrap_or(1.0), f64::MIN_POSITIVE..f64::INFINITY, "(0, ∞)")
    }

    /// Checks that they are for such data.
    ///
    /// # Errors
    /// [`TrainError::Missing`] for data with outputs and no tolerance, [`TrainError::Setting`] for a tolerance and data with
    /// labels.
    pub fn check_for(&self, data: &Dataset) -> Result<(), TrainError> {
        check_tolerance(self.tolerance, data)
    }
}
