use std::fmt::Write;
use std::path::{Path, PathBuf};

use fbp_train::TrainError;
use fbp_train::atomic::{prepare_folder, write_atomic};
use fbp_train::json::{differences, read_json, write_json};
use fbp_train::outputs::refuse_foreign_files;

use super::{AnalysisSettings, StageAnalysis, plot};
use crate::ReportError;
use crate::statistics::Correlation;

/// Name of the result; the table and the plot beside it have the same name with `.md` and `.svg`.
pub const ANALYSIS_FILE: &str = "stages.json";
const FILES: [&str; 2] = ["stages.md", "stages.svg"];

/// Finds out before the work whether its result may be written.
///
/// # Errors
/// [`TrainError::OtherSettings`] and [`TrainError::Foreign`], unless `force`; [`TrainError::Write`].
pub fn check_folder(folder: &Path, settings: &AnalysisSettings, force: bool) -> Result<(), ReportError> {
    let path = folder.join(ANALYSIS_FILE);
    let found: Option<StageAnalysis> = match read_json(&path, "analysis of stages") {
        Err(TrainError::Json { .. }) if force => None,
        read => read?,
    };
    let names = FILES.map(str::to_owned);
    match found {
        Some(found) if found.settings != *settings && !force => {
            let differences = differences(&found.settings, settings);
            Err(TrainError::OtherSettings { path, differences }.into())
        }
        Some(_) => Ok(prepare_folder(folder)?),
        None => {
            refuse_foreign_files(folder, &names, &[], ("analyse stages", force))?;
            Ok(prepare_folder(folder)?)
        }
    }
}

/// Writes `stages.json`, `stages.md` and `stages.svg`, and gives the paths of the last two.
///
/// # Errors
/// [`TrainError::OtherSettings`] for an analysis with other settings and [`TrainError::Foreign`] for files that no
/// analysis wrote, unless `force`; [`ReportError::Plot`], [`TrainError::Write`].
pub fn write_analysis(analysis: &StageAnalysis, folder: &Path, force: bool) -> Result<[PathBuf; 2], ReportError> {
    let svg = plot::draw(analysis)?;
    check_folder(folder, &analysis.settings, force)?;
    write_json(&folder.join(ANALYSIS_FILE), analysis)?;
    let paths = FILES.map(|name| folder.join(name));
    write_atomic(&paths[0], markdown(analysis).as_bytes())?;
    write_atomic(&paths[1], svg.as_bytes())?;
    Ok(paths)
}

/// `+0.93 (+0.81 to +0.98)`.
pub fn with_interval(value: Option<f64>, interval: Option<[f64; 2]>) -> String {
    match (value, interval) {
        (None, _) => "-".into(),
        (Some(value), None) => format!("{value:+.2}"),
        (Some(value), Some([low, high])) => format!("{value:+.2} ({low:+.2} to {high:+.2})"),
    }
}

fn cells(found: &Correlation) -> [String; 2] {
    [with_interval(found.pearson, found.pearson_interval), with_interval(found.spearman, found.spearman_interval)]
}

/// The result as text with tables.
fn markdown(analysis: &StageAnalysis) -> String {
    let StageAnalysis { settings, samples, checkpoints, over_checkpoints } = analysis;
    let safe = |text: &str| text.replace('|', "\\|");
    let mut text = format!(
        "# Does the distance to the targets predict the loss?\n\n{} on {}: {samples} held-back training samples, {} \
         targets, margin {}. In brackets: bootstrap percentile 95 % intervals.\n\n",
        settings.model, settings.data.name, settings.mode, settings.margin
    );
    let mut line = |line: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{line}");
    };
    line(format!("## Over {} checkpoints\n", checkpoints.len()));
    line(
        "Mean distance of a checkpoint against its mean loss. Neighbouring checkpoints of one training are not \
          independent and mostly share a trend, so the intervals are too narrow; *steps* are the changes from one \
          checkpoint to the next, where that trend is gone.\n"
            .into(),
    );
    line("| stage | Pearson | Spearman | relative distance, Pearson | Spearman | steps, Pearson | Spearman |".into());
    line(format!("|---|{}", "---|".repeat(6)));
    for stage in over_checkpoints {
        let all = [&stage.distance, &stage.distance_relative, &stage.steps].map(cells).concat();
        line(format!("| {} | {} |", safe(&stage.stage), all.join(" | ")));
    }
    if let Some(last) = checkpoints.last() {
        line(format!("\n## Over the samples of the last checkpoint ({})\n", safe(&last.name)));
        line("| stage | Pearson | Spearman | need no change |".into());
        line("|---|---|---|---|".into());
        for stage in &last.stages {
            let [pearson, spearman] = cells(&stage.over_samples);
            line(format!("| {} | {pearson} | {spearman} | {:.1} % |", safe(&stage.stage), 100.0 * stage.zero));
        }
    }
    let names: Vec<String> = over_checkpoints.iter().map(|stage| safe(&stage.stage)).collect();
    line("\n## Measures\n".into());
    line(format!("| checkpoint | loss | accuracy | distance, {} |", names.join(" | ")));
    line(format!("|---|---|---|{}", "---|".repeat(names.len())));
    for point in checkpoints {
        let distances: Vec<String> = point.stages.iter().map(|stage| format!("{:.4}", stage.distance)).collect();
        let (loss, accuracy) = (point.loss, 100.0 * point.accuracy);
        line(format!("| {} | {loss:.4} | {accuracy:.2} % | {} |", safe(&point.name), distances.join(" | ")));
    }
    text
}
