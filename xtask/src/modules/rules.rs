//! What the table says, and what a crate does against it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use super::tree::{Arrow, Tree};

/// The modules of one crate, as the table has them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    /// Name of each module and what it is for; a module may use those before it.
    pub(super) modules: Vec<(String, String)>,
    /// Circles that are there all the same.
    #[serde(default)]
    pub(super) circles: Vec<Circle>,
}

/// Modules that use each other.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Circle {
    /// Paths of the modules in their crate.
    pub(super) modules: Vec<String>,
    /// Why that is so, and why it may stay for now.
    pub(super) reason: String,
}

impl Circle {
    fn holds(&self, module: &[String]) -> bool {
        self.modules.contains(&module.join("::"))
    }
}

/// Everything in a crate that is against its order; `folder` is that of its sources, for messages.
pub(super) fn findings(name: &str, order: &Order, folder: &str, files: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let tree = Tree::new(files);
    let arrows = tree.arrows();
    let mut findings = names(name, order, &tree);
    findings.extend(upward(name, order, folder, &arrows));
    let circles = circles(&arrows);
    for circle in &circles {
        if !order.circles.iter().any(|known| circle.iter().all(|module| known.holds(module))) {
            findings.push(circle_text(name, folder, circle, &arrows));
        }
    }
    for known in &order.circles {
        if known.reason.trim().is_empty() {
            findings.push(format!("{name}: the circle of {} has no reason", known.modules.join(", ")));
        }
        if !circles.iter().any(|circle| circle.iter().all(|module| known.holds(module))) {
            let modules = known.modules.join(", ");
            findings
                .push(format!("{name}: there is no circle of {modules} any more: take it out of xtask/modules.toml"));
        }
    }
    findings
}

/// Modules that the table lacks, and entries of the table without a module.
fn names(name: &str, order: &Order, tree: &Tree) -> Vec<String> {
    let top: BTreeSet<&str> =
        tree.modules.iter().filter(|module| module.path.len() == 1).map(|module| module.path[0].as_str()).collect();
    let listed: BTreeSet<&str> = order.modules.iter().map(|(module, _)| module.as_str()).collect();
    let missing = top.difference(&listed).map(|module| {
        format!(
            "{name}: module {module} is not in xtask/modules.toml: add it behind all that it uses, with what it is for"
        )
    });
    let gone = listed
        .difference(&top)
        .map(|module| format!("{name}: there is no module {module}: take it out of xtask/modules.toml"));
    let twice =
        (order.modules.len() != listed.len()).then(|| format!("{name}: a module is in xtask/modules.toml twice"));
    let silent = order.modules.iter().filter(|(_, what)| what.trim().is_empty());
    let silent = silent.map(|(module, _)| format!("{name}: say in xtask/modules.toml what {module} is for"));
    missing.chain(gone).chain(twice).chain(silent).collect()
}

/// Uses of a module that stands behind the one that uses it.
fn upward(name: &str, order: &Order, folder: &str, arrows: &[Arrow]) -> Vec<String> {
    let place = |module: &[String]| order.modules.iter().position(|(other, _)| *other == module[0]);
    let mut findings = Vec::new();
    for Arrow { file, line, from, to } in arrows.iter().filter(|arrow| arrow.from.len() == 1) {
        let is_known = order.circles.iter().any(|circle| circle.holds(from) && circle.holds(to));
        let (Some(own), Some(other)) = (place(from), place(to)) else { continue };
        if other > own && !is_known {
            let (from, to) = (from.join("::"), to.join("::"));
            findings.push(format!(
                "{folder}/{}:{line}: in {name}, {from} uses {to}, which stands behind it in xtask/modules.toml: move what both \
                 need into a module before {from}, or, if nothing before {to} needs {from}, put {from} behind {to} in the table",
                file.display()
            ));
        }
    }
    findings
}

/// Modules that use each other, directly or through others, each group once.
fn circles(arrows: &[Arrow]) -> Vec<BTreeSet<Vec<String>>> {
    let mut reached: BTreeMap<&[String], BTreeSet<&[String]>> = BTreeMap::new();
    for arrow in arrows {
        reached.entry(&arrow.from).or_default().insert(&arrow.to);
    }
    // Whatever can be reached in any number of steps.
    loop {
        let mut grown = reached.clone();
        for targets in grown.values_mut() {
            let further: Vec<_> = targets.iter().filter_map(|target| reached.get(target)).flatten().copied().collect();
            targets.extend(further);
        }
        if grown == reached {
            break;
        }
        reached = grown;
    }
    let mut circles = Vec::new();
    for (module, targets) in &reached {
        let back = |other: &&&[String]| reached.get(**other).is_some_and(|others| others.contains(module));
        if targets.contains(module) {
            let circle: BTreeSet<Vec<String>> = targets.iter().filter(back).map(|other| other.to_vec()).collect();
            if !circles.contains(&circle) {
                circles.push(circle);
            }
        }
    }
    circles
}

fn circle_text(name: &str, folder: &str, circle: &BTreeSet<Vec<String>>, arrows: &[Arrow]) -> String {
    let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
    let mut uses = BTreeMap::new();
    for arrow in arrows.iter().filter(|arrow| circle.contains(&arrow.from) && circle.contains(&arrow.to)) {
        uses.entry((&arrow.from, &arrow.to)).or_insert(arrow);
    }
    let mut text = format!("{name}: a circle of modules, {}:", names.join(", "));
    for Arrow { file, line, from, to } in uses.into_values() {
        let (from, to) = (from.join("::"), to.join("::"));
        text += &format!("\n    {folder}/{}:{line}: {from} uses {to}", file.display());
    }
    text + "\n    Move what one of them has and the other needs to where it belongs, or into a module of its own."
}
