//! JSON files: written atomically, compared field by field.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::TrainError;
use crate::atomic::write_atomic;

/// Writes a value as indented JSON, atomically.
///
/// # Errors
/// [`TrainError::Write`], or [`TrainError::Json`] for a value that has no JSON form.
pub fn write_json<R: Serialize>(path: &Path, value: &R) -> Result<(), TrainError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| TrainError::Json {
        path: path.to_owned(),
        what: "JSON file",
        source,
    })?;
    text.push(b'\n');
    write_atomic(path, &text)
}

/// Reads a JSON file; `None` if there is none.
///
/// # Errors
/// [`TrainError::Read`], or [`TrainError::Json`] if it is not a `what`.
pub fn read_json<R: DeserializeOwned>(path: &Path, what: &'static str) -> Result<Option<R>, TrainError> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(TrainError::reading(path))?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| TrainError::Json { path: path.to_owned(), what, source })
}

/// The fields in which two settings differ, as `name: found, now wanted` separated by commas; empty if none.
pub fn differences<S: Serialize>(found: &S, wanted: &S) -> String {
    let mut list = Vec::new();
    // Settings are structs of plain values, which always have a JSON form.
    let json = |settings: &S| serde_json::to_value(settings).unwrap_or(Value::Null);
    collect("", &json(found), &json(wanted), &mut list);
    list.join(", ")
}

fn collect(name: &str, found: &Value, wanted: &Value, list: &mut Vec<String>) {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            for (key, value) in wanted {
                let inner = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                collect(&inner, found.get(key).unwrap_or(&Value::Null), value, list);
            }
        }
        _ if found == wanted => {}
        _ => list.push(format!("{name}: {}, now {}", short(found), short(wanted))),
    }
}

/// A value for an error message: hashes and lists are cut.
fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(24) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Inner {
        sha256: String,
    }

    #[derive(Serialize)]
    struct Settings {
        margin: f64,
        epochs: u32,
        data: Inner,
    }

    #[test]
    fn differences_name_the_fields_and_both_values() {
        let make = |margin, digit: &str| Settings { margin, epochs: 3, data: Inner { sha256: digit.repeat(64) } };
        assert_eq!(differences(&make(1.0, "a"), &make(1.0, "a")), "");
        let text = differences(&make(1.0, "a"), &make(0.5, "b"));
        assert_eq!(text, "data.sha256: aaaaaaaaaaaaaaaaaaaaaaaa…, now bbbbbbbbbbbbbbbbbbbbbbbb…, margin: 1.0, now 0.5");
    }

    #[test]
    fn json_files_come_back_and_missing_ones_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        assert!(read_json::<Vec<f64>>(&path, "list").unwrap().is_none());
        write_json(&path, &vec![0.25, 1.0]).unwrap();
        assert_eq!(read_json::<Vec<f64>>(&path, "list").unwrap().unwrap(), [0.25, 1.0]);
        std::fs::write(&path, "[0.25,").unwrap();
        let error = read_json::<Vec<f64>>(&path, "list").unwrap_err();
        assert!(error.one_line().contains("r.json is not a list"), "{}", error.one_line());
    }
}
