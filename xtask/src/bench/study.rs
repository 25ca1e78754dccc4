//! What studies that run `fbp` and compare its records share.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Arguments, target_folder};
use crate::command::Child;
use crate::error::TaskError;
use crate::manifest;

/// A command of the program on one thread: there the time of the processor is that of the clock of an idle machine.
pub(super) fn on_one_thread(fbp: &Path, command: &str) -> Child {
    Child::new(fbp).args([command]).env("RAYON_NUM_THREADS", "1")
}

/// Options of a training.
pub(super) type Training = [&'static str; 8];

/// So many epochs along a cosine from a learning rate.
pub(super) const fn training(epochs: &'static str, rate: &'static str) -> Training {
    ["--epochs", epochs, "--batch", "128", "--learning-rate", rate, "--schedule", "cosine"]
}

/// The program: that of the variable `FBP`, or the one of this workspace, built.
pub(super) fn program() -> Result<PathBuf, TaskError> {
    if let Some(program) = std::env::var_os("FBP") {
        return Ok(PathBuf::from(program));
    }
    Child::cargo().args(["build", "--workspace", "--bin", "fbp"]).run()?;
    Ok(target_folder()?.join("debug").join(format!("fbp{}", std::env::consts::EXE_SUFFIX)))
}

/// Number of seeds that was asked for, or as usual.
pub(super) fn seeds(arguments: &Arguments, usual: u64) -> Result<u64, TaskError> {
    let parse = |text: &String| text.parse().map_err(|_| TaskError::Refused(format!("--seeds {text} is no number")));
    arguments.seeds.as_ref().map_or(Ok(usual), parse)
}

/// Those of some values that a list names.
pub(super) fn picked<T: Clone>(
    what: &str,
    list: &str,
    all: &[T],
    name: impl Fn(&T) -> String,
) -> Result<Vec<T>, TaskError> {
    let find = |word: &str| {
        let known = || all.iter().map(&name).collect::<Vec<_>>().join(", ");
        let unknown = || TaskError::Refused(format!("--{what}: {word:?} is none of {}", known()));
        all.iter().find(|value| name(value) == word).cloned().ok_or_else(unknown)
    };
    list.split(',').map(|word| find(word.trim())).collect()
}

/// A record.
pub(super) fn read(path: &Path) -> Result<Value, TaskError> {
    let text = fs::read_to_string(path).map_err(TaskError::at(path))?;
    serde_json::from_str(&text)
        .map_err(|error| TaskError::Malformed { path: path.to_owned(), reason: error.to_string() })
}

/// A record, if it is there and of this checkpoint: one of a network that was trained again is to be made again. Of a checkpoint that
/// is not here nothing is known.
pub(super) fn made_of(record: &Path, checkpoint: &Path) -> Result<Option<Value>, TaskError> {
    if !record.exists() {
        return Ok(None);
    }
    let found = read(record)?;
    if !checkpoint.exists() {
        return Ok(Some(found));
    }
    let bytes = fs::read(checkpoint).map_err(TaskError::at(checkpoint))?;
    let sha256 = found.pointer("/settings/checkpoint_sha256").and_then(Value::as_str);
    Ok((sha256 == Some(&manifest::sha256(&bytes))).then_some(found))
}

/// A number of a record.
pub(super) fn number(record: &Value, name: &str) -> Result<f64, TaskError> {
    let missing = || TaskError::Refused(format!("a record of fbp has no number {name}"));
    record.get(name).and_then(Value::as_f64).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_another_checkpoint_are_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let [record, checkpoint] = ["r.json", "c.safetensors"].map(|name| folder.path().join(name));
        fs::write(&checkpoint, "weights").unwrap();
        assert_eq!(made_of(&record, &checkpoint).unwrap(), None);
        let sha256 = manifest::sha256(b"weights");
        fs::write(&record, format!(r#"{{"settings": {{"checkpoint_sha256": "{sha256}"}}}}"#)).unwrap();
        assert!(made_of(&record, &checkpoint).unwrap().is_some());
        fs::write(&checkpoint, "others").unwrap();
        assert_eq!(made_of(&record, &checkpoint).unwrap(), None);
        fs::remove_file(&checkpoint).unwrap();
        assert!(made_of(&record, &checkpoint).unwrap().is_some());
        fs::write(&record, "no record").unwrap();
        assert!(matches!(made_of(&record, &checkpoint), Err(TaskError::Malformed { .. })));
    }
}
