//! Which crate may use which: every manifest is compared with the layers of the workspace.

use std::fs;
use std::path::Path;

use toml::{Table, Value};

use crate::error::TaskError;
use crate::workspace;

/// Every crate with the crates of this workspace that it may use.
const LAYERS: [(&str, &[&str]); 10] = [
    ("fbp-linalg", &[]),
    ("fbp-inverse", &["fbp-linalg"]),
    ("fbp-models", &["fbp-linalg", "fbp-inverse"]),
    ("fbp-train", &["fbp-linalg", "fbp-inverse", "fbp-models"]),
    ("fbp-report", &["fbp-linalg", "fbp-inverse", "fbp-models", "fbp-train"]),
    ("fbp-cli", &["fbp-linalg", "fbp-inverse", "fbp-models", "fbp-train", "fbp-report"]),
    ("fbp-mpi", &["fbp-train", "fbp-cli"]),
    ("fbp-fuzz", &["fbp-models", "fbp-train"]),
    ("fbp-benches", &["fbp-linalg", "fbp-inverse", "fbp-models", "fbp-train"]),
    ("xtask", &[]),
];

/// Crates that may know candle.
const CANDLE_USERS: [&str; 3] = ["fbp-models", "fbp-train", "fbp-benches"];

const DEPENDENCY_TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Reads all manifests and the lock file.
pub(crate) fn check() -> Result<(), TaskError> {
    let mut findings = Vec::new();
    for (path, manifest) in manifests()? {
        let place = path.strip_prefix(workspace::root()).unwrap_or(&path).display().to_string();
        findings.extend(check_manifest(&manifest).into_iter().map(|finding| format!("{place}: {finding}")));
    }
    let lock = workspace::root().join("Cargo.lock");
    let text = fs::read_to_string(&lock).map_err(TaskError::at(&lock))?;
    let from_git = text.lines().filter(|line| line.starts_with("source = \"git+"));
    findings.extend(from_git.map(|line| format!("Cargo.lock: {line}: packages come from registries only")));
    if findings.is_empty() { Ok(()) } else { Err(TaskError::Rules { step: "layering", findings }) }
}

/// The manifest of the workspace and of every crate.
pub(crate) fn manifests() -> Result<Vec<(std::path::PathBuf, Table)>, TaskError> {
    let root = workspace::root();
    let crates = root.join("crates");
    let mut paths = vec![root.join("Cargo.toml"), root.join("benches/Cargo.toml"), root.join("xtask/Cargo.toml")];
    for entry in fs::read_dir(&crates).map_err(TaskError::at(&crates))? {
        paths.push(entry.map_err(TaskError::at(&crates))?.path().join("Cargo.toml"));
    }
    paths.sort();
    let manifests = paths.into_iter().filter(|path| path.is_file()).map(|path| {
        let text = fs::read_to_string(&path).map_err(TaskError::at(&path))?;
        let table = text.parse::<Table>();
        let table = table.map_err(|error| TaskError::Malformed { path: path.clone(), reason: error.to_string() })?;
        Ok((path, table))
    });
    manifests.collect()
}

/// Names of the crates, the lowest layer first.
pub(crate) fn crates() -> impl Iterator<Item = &'static str> {
    LAYERS.iter().map(|(name, _)| *name)
}

/// Name of the package, if the manifest is of one.
pub(crate) fn package_name(manifest: &Table) -> Option<&str> {
    manifest.get("package")?.get("name")?.as_str()
}

fn check_manifest(manifest: &Table) -> Vec<String> {
    let mut findings = Vec::new();
    if let Some(workspace) = manifest.get("workspace").and_then(Value::as_table) {
        for (name, dependency) in dependencies(workspace) {
            findings.extend(from_git(name, dependency));
        }
    }
    let Some(package) = package_name(manifest) else { return findings };
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == package) else {
        findings.push(format!("{package} is not among the layers in xtask/src/layering.rs: add it where it belongs"));
        return findings;
    };
    if manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool) != Some(true) {
        findings.push("`lints.workspace = true` is missing".to_owned());
    }
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flatten();
    let tables = targets.filter_map(|(_, target)| target.as_table()).chain([manifest]);
    for (name, dependency) in tables.flat_map(dependencies) {
        let renamed = dependency.get("package").and_then(Value::as_str);
        let real_name = renamed.unwrap_or(name);
        findings.extend(from_git(name, dependency));
        let in_workspace = LAYERS.iter().any(|(layer, _)| *layer == real_name);
        // A crate may name itself among its dev-dependencies, to switch one of its own features on for its tests.
        if in_workspace && real_name != package && !allowed.contains(&real_name) {
            findings.push(format!("{package} must not use {real_name}, it may use {allowed:?}"));
        }
        if real_name.starts_with("candle") && !CANDLE_USERS.contains(&package) {
            findings.push(format!("{package} must not know candle ({real_name}), only {CANDLE_USERS:?} may"));
        }
        // What a crate is to itself has no version.
        let is_itself = real_name == package && dependency.get("path").and_then(Value::as_str) == Some(".");
        if !is_itself && dependency.get("workspace").and_then(Value::as_bool) != Some(true) {
            findings
                .push(format!("{name}: versions stand in the manifest of the workspace only: use `workspace = true`"));
        }
    }
    findings
}

fn from_git(name: &str, dependency: &Value) -> Option<String> {
    dependency.get("git").map(|_| format!("{name} comes from git: packages come from registries only"))
}

fn dependencies(table: &Table) -> impl Iterator<Item = (&str, &Value)> {
    let tables = DEPENDENCY_TABLES.iter().filter_map(|name| table.get(*name)?.as_table());
    tables.flatten().map(|(name, dependency)| (name.as_str(), dependency))
}

/// Features of a package that every machine can build, one by one.
pub(crate) fn features(manifest: &Table) -> Vec<&str> {
    /// These need libraries of the system.
    const BACK_ENDS: [&str; 4] = ["cuda", "mkl", "accelerate", "mpi"];
    let features = manifest.get("features").and_then(Value::as_table).into_iter().flatten();
    features.map(|(name, _)| name.as_str()).filter(|name| *name != "default" && !BACK_ENDS.contains(name)).collect()
}

/// Folder of a package.
pub(crate) fn folder(manifest_path: &Path) -> &Path {
    manifest_path.parent().unwrap_or(manifest_path)
}

/// Names of the examples of a package, in order.
pub(crate) fn examples(manifest_path: &Path) -> Result<Vec<String>, TaskError> {
    let folder = folder(manifest_path).join("examples");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(TaskError::at(&folder))? {
        let path = entry.map_err(TaskError::at(&folder))?.path();
        if path.extension().is_some_and(|kind| kind == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        check_manifest(&text.parse().unwrap())
    }

    const INVERSE: &str = "package.name = \"fbp-inverse\"\nlints.workspace = true\n";

    #[test]
    fn this_workspace_keeps_its_layers() {
        check().unwrap();
        let found = manifests().unwrap();
        for (name, _) in LAYERS {
            assert!(found.iter().any(|(_, manifest)| package_name(manifest) == Some(name)), "{name}");
        }
    }

    #[test]
    fn a_crate_must_not_use_a_layer_above_it() {
        let good = format!(
            "{INVERSE}[dependencies]\nfbp-linalg.workspace = true\n[dev-dependencies]\nfbp-inverse.workspace = true"
        );
        assert_eq!(findings(&good), [""; 0]);
        for table in ["dependencies", "dev-dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"] {
            for (name, wanted) in [("fbp-models", "must not use fbp-models"), ("candle-core", "must not know candle")] {
                let found = findings(&format!("{INVERSE}[{table}]\n{name}.workspace = true"));
                assert!(found.len() == 1 && found[0].contains(wanted), "{found:?}");
            }
        }
        let renamed =
            findings(&format!("{INVERSE}[dependencies]\nx = {{ workspace = true, package = \"fbp-train\" }}"));
        assert!(renamed.len() == 1 && renamed[0].contains("fbp-train"), "{renamed:?}");
        let xtask =
            findings("package.name = \"xtask\"\nlints.workspace = true\ndependencies.fbp-linalg.workspace = true");
        assert_eq!(xtask.len(), 1);
    }

    #[test]
    fn versions_lints_and_sources_are_checked() {
        assert_eq!(findings(&format!("{INVERSE}[dependencies]\nfaer = \"0.24\"")).len(), 1);
        assert_eq!(findings("package.name = \"fbp-inverse\"").len(), 1);
        assert_eq!(findings("package.name = \"fbp-new\"").len(), 1);
        let git = "[workspace.dependencies]\nfaer = { git = \"https://example.invalid/faer\" }";
        assert!(findings(git)[0].contains("comes from git"));
    }

    #[test]
    fn features_are_listed_without_back_ends() {
        let manifest = "[features]\ndefault = []\ntestkit = []\ncuda = []".parse().unwrap();
        assert_eq!(features(&manifest), ["testkit"]);
    }
}
