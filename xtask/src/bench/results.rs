//! What criterion leaves behind, read and written in our own form.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};

use super::context::Context;
use crate::error::TaskError;

/// Names of our own program in its groups, alone or with its degree of parallelism. Rivals use all threads, so they are
/// compared with the first of these that was measured.
const OURS: [&str; 3] = ["ours", "rayon", "seq"];

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Entry {
    /// What is measured, for example `conv2d/64to64`.
    group: String,
    /// Whose program: `ours`, `rayon` and `seq` are ours, all others are rivals.
    id: String,
    /// Size, if the group has several.
    parameter: Option<String>,
    median_seconds: f64,
    /// Ends of criterion's 95 % interval of the median.
    lower_seconds: f64,
    upper_seconds: f64,
    /// What one run works off (`elements` are floating-point operations unless the benchmark says otherwise).
    work: Option<Work>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Work {
    amount: f64,
    unit: String,
    per_second: f64,
}

impl Entry {
    fn name(&self) -> String {
        match &self.parameter {
            Some(parameter) => format!("{}/{parameter}", self.group),
            None => self.group.clone(),
        }
    }

    fn is_ours(&self) -> bool {
        OURS.contains(&self.id.as_str())
    }

    fn is_same_task(&self, other: &Self) -> bool {
        self.group == other.group && self.parameter == other.parameter
    }
}

/// Which results lay there before a run, so that afterwards those of the run can be told from older ones.
pub(super) struct Snapshot(BTreeMap<PathBuf, SystemTime>);

impl Snapshot {
    /// Notes every result below criterion's folder, which need not exist.
    pub(super) fn take(criterion: &Path) -> Result<Self, TaskError> {
        let mut found = BTreeMap::new();
        collect(criterion, &mut found)?;
        Ok(Self(found))
    }

    /// Reads the results that have been written since.
    pub(super) fn changes(&self, criterion: &Path) -> Result<Vec<Entry>, TaskError> {
        let now = Self::take(criterion)?.0;
        let changed = now.iter().filter(|(path, time)| self.0.get(*path) != Some(*time));
        let mut entries = changed.map(|(path, _)| read(path)).collect::<Result<Vec<_>, _>>()?;
        put_programs_first(&mut entries);
        let order = |entry: &Entry| (entry.group.clone(), entry.parameter.clone(), !entry.is_ours(), entry.id.clone());
        entries.sort_by_key(order);
        Ok(entries)
    }
}

/// All files `new/estimates.json`, with the time of their last change.
fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, SystemTime>) -> Result<(), TaskError> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(TaskError::at(folder))? {
        let path = entry.map_err(TaskError::at(folder))?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.ends_with("new/estimates.json") {
            let time = fs::metadata(&path).and_then(|data| data.modified()).map_err(TaskError::at(&path))?;
            found.insert(path, time);
        }
    }
    Ok(())
}

/// Reads one result: the estimates and, beside them, what was measured.
fn read(estimates: &Path) -> Result<Entry, TaskError> {
    let parse = |path: &Path| {
        let text = fs::read_to_string(path).map_err(TaskError::at(path))?;
        let value = serde_json::from_str::<Value>(&text);
        value.map_err(|error| TaskError::Malformed { path: path.to_owned(), reason: error.to_string() })
    };
    let (numbers, benchmark) = (parse(estimates)?, parse(&estimates.with_file_name("benchmark.json"))?);
    let entry = || {
        let text = |key: &str| benchmark.get(key).and_then(Value::as_str).map(str::to_owned);
        let median = numbers.get("median")?;
        let nanoseconds = |value: &Value| value.as_f64().map(|value| value * 1e-9);
        let interval = median.get("confidence_interval")?;
        let median_seconds = nanoseconds(median.get("point_estimate")?)?;
        // `{"Elements": n}`, `{"Bytes": n}`, …: the unit is the key.
        let work = benchmark.get("throughput").and_then(Value::as_object).and_then(|work| {
            let (unit, amount) = work.iter().next()?;
            let amount = amount.as_f64()?;
            Some(Work { amount, unit: unit.to_lowercase(), per_second: amount / median_seconds })
        });
        // Which of the two names is the program is seen only in the group.
        let (id, parameter) = match (text("function_id"), text("value_str")) {
            (Some(function), value) => (function, value),
            (None, Some(value)) => (value, None),
            (None, None) => (OURS[0].to_owned(), None),
        };
        Some(Entry {
            group: text("group_id")?,
            id,
            parameter,
            median_seconds,
            lower_seconds: nanoseconds(interval.get("lower_bound")?)?,
            upper_seconds: nanoseconds(interval.get("upper_bound")?)?,
            work,
        })
    };
    entry().ok_or_else(|| TaskError::Malformed {
        path: estimates.to_owned(),
        reason: "not the form that criterion 0.8 writes".to_owned(),
    })
}

/// Exchanges the two names of every measurement of a group that has the program in the second place: the first place
/// holds no name of ours, the second one does.
fn put_programs_first(entries: &mut [Entry]) {
    let is_ours = |name: &Option<String>| name.as_deref().is_some_and(|name| OURS.contains(&name));
    let second: Vec<_> = entries.iter().filter(|entry| is_ours(&entry.parameter)).map(|e| e.group.clone()).collect();
    let first: Vec<_> = entries.iter().filter(|entry| entry.is_ours()).map(|e| e.group.clone()).collect();
    for entry in entries.iter_mut().filter(|e| second.contains(&e.group) && !first.contains(&e.group)) {
        if let Some(program) = entry.parameter.take() {
            entry.parameter = Some(std::mem::replace(&mut entry.id, program));
        }
    }
}

/// Name of our measurement and how many times faster it is than `entry`, if `entry` is a rival in the same task.
fn times_faster<'e>(entry: &Entry, entries: &'e [Entry]) -> Option<(&'e str, f64)> {
    let same = |id: &str| entries.iter().find(|other| other.id == id && other.is_same_task(entry));
    let ours = OURS.iter().find_map(|id| same(id))?;
    (!entry.is_ours()).then(|| (ours.id.as_str(), entry.median_seconds / ours.median_seconds))
}

/// The content of a file of results.
pub(super) fn json(name: &str, context: &Context, quick: bool, entries: &[Entry]) -> Result<Vec<u8>, TaskError> {
    let ratios: Vec<_> = entries
        .iter()
        .filter_map(|entry| {
            let (ours, times_faster) = times_faster(entry, entries)?;
            Some(json!({
                "group": entry.group,
                "parameter": entry.parameter,
                "ours": ours,
                "rival": entry.id,
                "times_faster": times_faster,
            }))
        })
        .collect();
    let value = json!({ "bench": name, "quick": quick, "context": context, "entries": entries, "ratios": ratios });
    let mut text = serde_json::to_string_pretty(&value)
        .map_err(|error| TaskError::Refused(format!("results of {name}: {error}")))?;
    text.push('\n');
    Ok(text.into_bytes())
}

/// A Markdown table, one line per measurement.
pub(super) fn table(entries: &[Entry]) -> String {
    let mut text = String::from("| task | program | median | 95 % interval | rate | ours is faster by |\n");
    text.push_str("|---|---|---:|---:|---:|---:|\n");
    for entry in entries {
        let rate = entry.work.as_ref().map_or("–".to_owned(), rate);
        let faster =
            times_faster(entry, entries).map_or("–".to_owned(), |(ours, times)| format!("{times:.1}× ({ours})"));
        let interval = format!("{} … {}", time(entry.lower_seconds), time(entry.upper_seconds));
        let (name, median) = (entry.name(), time(entry.median_seconds));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {name} | {} | {median} | {interval} | {rate} | {faster} |", entry.id);
    }
    text
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.3} s"),
        s if s >= 1e-3 => format!("{:.3} ms", s * 1e3),
        s if s >= 1e-6 => format!("{:.3} µs", s * 1e6),
        s => format!("{:.1} ns", s * 1e9),
    }
}

fn rate(work: &Work) -> String {
    let (value, prefix) = match work.per_second {
        r if r >= 1e9 => (r * 1e-9, "G"),
        r if r >= 1e6 => (r * 1e-6, "M"),
        r if r >= 1e3 => (r * 1e-3, "k"),
        r => (r, ""),
    };
    format!("{value:.2} {prefix}{}/s", work.unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a result as criterion does.
    fn write(criterion: &Path, group: &str, id: &str, value: Option<&str>, nanoseconds: f64) {
        let folder = criterion.join(group.replace('/', "_")).join(id).join(value.unwrap_or(".")).join("new");
        fs::create_dir_all(&folder).unwrap();
        let benchmark = json!({
            "group_id": group, "function_id": id, "value_str": value, "throughput": { "Elements": 2000 },
            "full_id": "", "directory_name": "", "title": "",
        });
        let median = json!({
            "confidence_interval": {
                "confidence_level": 0.95, "lower_bound": nanoseconds * 0.9, "upper_bound": nanoseconds * 1.1,
            },
            "point_estimate": nanoseconds, "standard_error": 1.0,
        });
        fs::write(folder.join("benchmark.json"), benchmark.to_string()).unwrap();
        fs::write(folder.join("estimates.json"), json!({ "mean": median, "median": median }).to_string()).unwrap();
    }

    #[test]
    fn only_results_of_the_run_are_read_and_ours_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "old", "ours", None, 5.0);
        let before = Snapshot::take(folder.path()).unwrap();
        assert!(before.changes(folder.path()).unwrap().is_empty());
        write(folder.path(), "conv2d/64to64", "candle", None, 12.5e6);
        write(folder.path(), "conv2d/64to64", "ours", None, 2.5e6);
        let entries = before.changes(folder.path()).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), ["ours", "candle"]);
        let table = table(&entries);
        assert!(
            table.contains("| conv2d/64to64 | ours | 2.500 ms | 2.250 ms … 2.750 ms | 800.00 kelements/s | – |"),
            "{table}"
        );
        assert!(table.contains("| candle | 12.500 ms |") && table.contains("| 5.0× (ours) |"), "{table}");
    }

    #[test]
    fn rivals_are_compared_within_group_and_size() {
        let folder = tempfile::tempdir().unwrap();
        let before = Snapshot::take(&folder.path().join("absent")).unwrap();
        for (group, id, value, time) in [
            ("a", "ours", Some("1"), 10.0),
            ("a", "ours", Some("2"), 100.0),
            ("a", "rival-x", Some("2"), 300.0),
            ("b", "rival-x", None, 7.0),
        ] {
            write(folder.path(), group, id, value, time);
        }
        let entries = before.changes(folder.path()).unwrap();
        let ratios: Vec<_> = entries.iter().filter_map(|entry| times_faster(entry, &entries)).collect();
        assert_eq!(ratios.len(), 1, "{entries:?}");
        assert!((ratios[0].1 - 3.0).abs() < 1e-12, "{ratios:?}");
        let context = Context::collect().unwrap();
        let value: Value = serde_json::from_slice(&json("test", &context, true, &entries).unwrap()).unwrap();
        assert_eq!(value["ratios"][0]["parameter"], "2");
        assert_eq!(value["entries"].as_array().unwrap().len(), 4);
        assert_eq!(value["quick"], true);
        assert!(value["context"]["cores"].as_u64().unwrap() >= 1);
    }

    #[test]
    fn the_program_is_found_in_either_place() {
        let folder = tempfile::tempdir().unwrap();
        let before = Snapshot::take(folder.path()).unwrap();
        for (group, id, value, time) in [
            ("solve", "64x320", Some("seq"), 30.0),
            ("solve", "64x320", Some("rayon"), 20.0),
            ("solve", "64x320", Some("qr-per-batch"), 80.0),
            ("step", "ours", Some("seq"), 10.0),
            ("step", "candle", Some("seq"), 50.0),
        ] {
            write(folder.path(), group, id, value, time);
        }
        let entries = before.changes(folder.path()).unwrap();
        let compared: Vec<_> = entries
            .iter()
            .filter_map(|entry| {
                let (ours, times) = times_faster(entry, &entries)?;
                Some(format!("{} {}: {times:.1} {ours}", entry.name(), entry.id))
            })
            .collect();
        assert_eq!(compared, ["solve/64x320 qr-per-batch: 4.0 rayon", "step/seq candle: 5.0 ours"]);
    }

    #[test]
    fn measurements_with_one_name_are_programs() {
        let folder = tempfile::tempdir().unwrap();
        for (name, time) in [("candle", 6.0), ("seq", 2.0)] {
            write(folder.path(), "conv2d/forward", name, None, time);
            // `BenchmarkId::from_parameter` gives the second name only.
            let path = folder.path().join("conv2d_forward").join(name).join("new/benchmark.json");
            let text = json!({ "group_id": "conv2d/forward", "function_id": null, "value_str": name }).to_string();
            fs::write(path, text).unwrap();
        }
        let entries = Snapshot(BTreeMap::new()).changes(folder.path()).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), ["seq", "candle"]);
        assert!(table(&entries).contains("| conv2d/forward | candle |") && table(&entries).contains("3.0× (seq)"));
    }

    #[test]
    fn other_forms_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a", "ours", None, 5.0);
        let path = folder.path().join("a/ours/new/estimates.json");
        for text in ["{}", "not json"] {
            fs::write(&path, text).unwrap();
            assert!(matches!(read(&path), Err(TaskError::Malformed { .. })));
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [time(2.0), time(0.0125), time(3.2e-6), time(4e-8)],
            ["2.000 s", "12.500 ms", "3.200 µs", "40.0 ns"]
        );
    }
}
