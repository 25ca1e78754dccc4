use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Which preimages the reverse pass looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TargetMode {
    /// The nearest targets that the layers below can produce.
    Attainable,
    /// The published point targets, without the ranges of the layers below.
    Point,
}

/// How a label becomes a target output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Embedding {
    /// The nearest output in which the label leads by the margin.
    Margin,
    /// The label's output is raised to the largest, all clamped to `[-10, 10]`.
    MaxAssign,
    /// 1 for the label, 0 for the others.
    OneHot,
}

/// What post-training minimises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Cross-entropy at the output plus the weighted distance to the target features.
    Joint,
    /// The distance to the target features alone.
    Local,
}

macro_rules! display_as_value {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // No value is skipped, so every one has a name.
                f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
            }
        }
    )*};
}

display_as_value!(TargetMode, Embedding, Objective);
