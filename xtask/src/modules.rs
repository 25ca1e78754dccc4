//! Which module of a crate may use which: sources are compared with the order in `xtask/modules.toml`.

mod rules;
#[cfg(test)]
mod tests;
mod tokens;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use self::rules::{Order, findings};
use crate::error::TaskError;
use crate::layering;
use crate::workspace;

/// Show the map of the crates: every module, what it is for, and what it may use
///
/// A module may use those above it. `cargo xtask check` refuses everything else.
#[derive(Args)]
#[command(after_help = "Example: cargo xtask modules fbp-train")]
pub(crate) struct Arguments {
    /// A crate [default: all]
    #[arg(value_name = "CRATE")]
    name: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    let orders = orders()?;
    if let Some(name) = &arguments.name
        && !orders.contains_key(name)
    {
        let known: Vec<&str> = orders.keys().map(String::as_str).collect();
        return Err(TaskError::Refused(format!("there is no crate {name}; there are {}", known.join(", "))));
    }
    // In the order of the layers, the lowest first.
    let layers = layering::crates().filter_map(|name| Some((name, orders.get(name)?)));
    for (name, order) in layers.filter(|(name, _)| arguments.name.as_deref().is_none_or(|wanted| wanted == *name)) {
        println!("{name}");
        let width = order.modules.iter().map(|(module, _)| module.len()).max().unwrap_or(0);
        for (module, what) in &order.modules {
            println!("  {module:width$}  {what}");
        }
        for circle in &order.circles {
            println!("  (circle: {}: {})", circle.modules.join(", "), circle.reason);
        }
    }
    Ok(())
}

/// Compares every crate with its order.
pub(crate) fn check() -> Result<(), TaskError> {
    let orders = orders()?;
    let mut found = Vec::new();
    for (manifest, table) in layering::manifests()? {
        let Some(name) = layering::package_name(&table) else { continue };
        let folder = layering::folder(&manifest).join("src");
        // Benchmarks are programs side by side, not modules.
        if !folder.is_dir() {
            continue;
        }
        let place = folder.strip_prefix(workspace::root()).unwrap_or(&folder).display().to_string();
        match orders.get(name) {
            Some(order) => found.extend(findings(name, order, &place, &files(&folder)?)),
            None => found.push(format!("{name} has no modules in xtask/modules.toml: list them, the lowest first")),
        }
    }
    if found.is_empty() { Ok(()) } else { Err(TaskError::Rules { step: "modules", findings: found }) }
}

/// The table.
fn orders() -> Result<BTreeMap<String, Order>, TaskError> {
    let path = workspace::root().join("xtask/modules.toml");
    let text = fs::read_to_string(&path).map_err(TaskError::at(&path))?;
    toml::from_str(&text).map_err(|error| TaskError::Malformed { path, reason: error.to_string() })
}

/// The Rust files of a crate, by their paths below its sources.
fn files(folder: &Path) -> Result<BTreeMap<PathBuf, String>, TaskError> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(&inner).map_err(TaskError::at(&inner))? {
            let path = entry.map_err(TaskError::at(&inner))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = fs::read_to_string(&path).map_err(TaskError::at(&path))?;
                files.insert(path.strip_prefix(folder).unwrap_or(&path).to_owned(), text);
            }
        }
    }
    Ok(files)
}
