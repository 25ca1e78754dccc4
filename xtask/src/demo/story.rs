//! What demos of one network have in common: trained, its targets, explanations, a repair, and a report of it all.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Fbp, fresh, out_folder, read_json, text};
use crate::error::TaskError;

/// Commands of `fbp` on one set of data and one network, and the folder with what they write.
pub(super) struct Story {
    fbp: Fbp,
    out: PathBuf,
    /// Everything that the report is made from.
    runs: PathBuf,
    data: &'static str,
}

impl Story {
    /// Builds the program and makes the folders.
    pub(super) fn new(out: Option<&PathBuf>, default: &str, data: &'static str) -> Result<Self, TaskError> {
        let out = out_folder(out, default)?;
        let story = Self { fbp: Fbp::build()?, runs: out.join("runs"), out, data };
        fs::create_dir_all(&story.runs).map_err(TaskError::at(&story.runs))?;
        Ok(story)
    }

    /// A file or folder in the folder of the demo.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// One command on the data that writes to `to`.
    fn run(&self, arguments: &[&str], to: &Path) -> Result<(), TaskError> {
        self.fbp.run(&[arguments, &["--data", self.data, "--out", text(to)?]].concat())
    }

    /// The same, of a command that wants the trained network.
    fn run_trained(&self, command: &str, arguments: &[&str], to: &Path) -> Result<(), TaskError> {
        let checkpoint = self.runs.join("pretrained.safetensors");
        self.run(&[&[command, "--checkpoint", text(&checkpoint)?], arguments].concat(), to)
    }

    /// Trains the network; gives its record.
    pub(super) fn pretrain(&self, model: &str, options: &[&str]) -> Result<Value, TaskError> {
        let command = [&["pretrain", "--model", model], options].concat();
        self.run(&command, &self.runs.join("pretrained.safetensors"))?;
        read_json(&self.runs.join("pretrained.json"))
    }

    /// Reconstructs the targets of every stage; gives what is said of them.
    pub(super) fn targets(&self, options: &[&str]) -> Result<Value, TaskError> {
        let report = fresh(self.out.join("targets.json"))?;
        self.run_trained("targets", &[options, &["--json", text(&report)?]].concat(), &self.runs.join("targets"))?;
        read_json(&report)
    }

    /// Writes the page with explanations.
    pub(super) fn explain(&self, samples: &str, options: &[&str]) -> Result<PathBuf, TaskError> {
        let folder = self.out.join("explained");
        self.run_trained("explain", &[&["--samples", samples], options].concat(), &folder)?;
        Ok(folder.join("explain.html"))
    }

    /// Repairs samples at a stage; gives the record.
    pub(super) fn repair(&self, samples: &str, stage: &str, options: &[&str]) -> Result<Value, TaskError> {
        let arguments = [&["--samples", samples, "--stage", stage], options].concat();
        self.run_trained("repair", &arguments, &self.runs.join("repaired.safetensors"))?;
        read_json(&self.runs.join("repaired.json"))
    }

    /// Writes the report.
    pub(super) fn report(&self) -> Result<PathBuf, TaskError> {
        let report = self.out.join("report");
        self.fbp.run(&["report", "--runs", text(&self.runs)?, "--out", text(&report)?])?;
        Ok(report.join("report.html"))
    }

    /// Writes what the demo is judged by, if no figure is missing.
    pub(super) fn write_summary(&self, summary: Option<Value>) -> Result<Value, TaskError> {
        let path = self.out.join("summary.json");
        let missing = || TaskError::Malformed { path: path.clone(), reason: "a figure is missing".to_owned() };
        let summary = summary.ok_or_else(missing)?;
        fs::write(&path, format!("{summary:#}\n")).map_err(TaskError::at(&path))?;
        Ok(summary)
    }
}
