use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::processor::Clock;
use crate::settings::{Choice, check, choice};

choice! {
    /// Where the weights that become zero are looked for.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Scope ("scope") {
        /// The same share of every layer.
        Layer = "layer",
        /// A share of all layers together: layers that matter keep more of their weights.
        Global [default] = "global",
    }
}

choice! {
    /// Which weights of a layer become zero.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Criterion ("criterion") {
        /// The smallest ones.
        Magnitude = "magnitude",
        /// Those whose loss costs least once the others make up for it; of a share of all layers together, a layer loses the fewer weights
        /// the more the network's output suffers from what it then misses.
        Reconstruction = "reconstruction",
    }
}

choice! {
    /// Zeros in a fixed pattern.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(into = "String", try_from = "String")]
    pub enum Pattern ("pattern") {
        /// Two of every four neighbouring input channels, as sparse tensor cores take them.
        TwoOfFour = "2:4",
    }
}

impl Criterion {
    /// The one that is meant where none is given.
    pub(super) fn usual(recover: Recover) -> Self {
        if recover.solves() { Self::Reconstruction } else { Self::Magnitude }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.name().to_owned()
    }
}

impl TryFrom<String> for Pattern {
    type Error = TrainError;

    fn try_from(name: String) -> Result<Self, TrainError> {
        name.parse()
    }
}

choice! {
    /// How many bits a weight has; every output has a scale of its own, and zero is a level.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Bits ("quantise") {
        /// Levels from -127 to 127.
        Int8 = "int8",
        /// Levels from -7 to 7.
        Int4 = "int4",
    }
}

impl Bits {
    /// The largest level.
    pub fn largest(self) -> i32 {
        match self {
            Self::Int8 => 127,
            Self::Int4 => 7,
        }
    }

    /// Bits of a weight.
    pub fn count(self) -> usize {
        match self {
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }
}

choice! {
    /// How a compressed network is put right.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Recover ("recover") {
        /// Not at all.
        None = "none",
        /// Statistics of batch normalisations estimated again, and biases of other layers: no weight changes.
        Statistics = "statistics",
        /// Layer by layer towards what the original network gives: no labels, no gradients.
        ClosedForm [default] = "closed-form",
        /// Training on the labels of the calibration images, as a rival.
        FineTune = "fine-tune",
        /// The closed form, and then training on the labels from there, unless that makes images held back worse.
        Both = "both",
    }
}

impl Recover {
    /// Whether layers are solved for.
    pub fn solves(self) -> bool {
        matches!(self, Self::ClosedForm | Self::Both)
    }

    /// Whether labels are trained on.
    pub fn trains(self) -> bool {
        matches!(self, Self::FineTune | Self::Both)
    }
}

/// How a network is made small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Compression {
    /// Share of the weights that become zero; which ones, `criterion` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<f64>,
    /// Where these are looked for; among all weights if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Which weights of a layer become zero; what [`CompressOptions::criterion`] says if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub criterion: Option<Criterion>,
    /// Zeros in a fixed pattern instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Pattern>,
    /// Share of the channels that are taken away where that is possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<f64>,
    /// Levels of the weights that stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantise: Option<Bits>,
}

impl Compression {
    /// Checks every share against its range, and that something is asked for.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] for a share outside `[0, 1)`, [`TrainError::Setting`] for two ways to choose zeros, or a scope or
    /// criterion of nothing, [`TrainError::Missing`] if nothing is asked for.
    pub fn check(&self) -> Result<(), TrainError> {
        check("prune", self.prune.unwrap_or(0.0), 0.0..1.0, "[0, 1), the share of the weights that become zero")?;
        check("channels", self.channels.unwrap_or(0.0), 0.0..1.0, "[0, 1), the share of the channels that go")?;
        if let (Some(pattern), Some(_)) = (self.pattern, self.prune) {
            let reason = "chooses which weights become zero, as prune does: give one of them".into();
            return Err(TrainError::Setting { name: "pattern", value: pattern.to_string(), reason });
        }
        if let (Some(scope), None) = (self.scope, self.prune) {
            let reason = "says where the weights that become zero are looked for: give prune as well".into();
            return Err(TrainError::Setting { name: "scope", value: scope.to_string(), reason });
        }
        if let (Some(criterion), false) = (self.criterion, self.has_zeros()) {
            let reason = "says which weights become zero: give prune or pattern as well".into();
            return Err(TrainError::Setting { name: "criterion", value: criterion.to_string(), reason });
        }
        if !self.has_zeros() && self.channels.is_none() && self.quantise.is_none() {
            let reason = "say how the network is made small, with prune, pattern, channels or quantise".into();
            return Err(TrainError::Missing { name: "prune", reason });
        }
        Ok(())
    }

    /// Whether weights become zero, and not only by rounding.
    pub fn has_zeros(&self) -> bool {
        self.prune.is_some() || self.pattern.is_some()
    }

    /// In a few words, for example `prune 0.7, int4`; a criterion that is not the usual one before this recovery is named.
    pub fn name(&self, recover: Recover) -> String {
        let mut parts = Vec::new();
        parts.extend(self.channels.map(|share| format!("channels {share}")));
        let unusual = self.criterion.filter(|criterion| *criterion != Criterion::usual(recover));
        let by = unusual.map_or(String::new(), |criterion| format!(" by {criterion}"));
        parts.extend(self.prune.map(|share| match self.scope.unwrap_or_default() {
            Scope::Layer => format!("prune {share} of every layer{by}"),
            Scope::Global => format!("prune {share}{by}"),
        }));
        parts.extend(self.pattern.map(|pattern| format!("{pattern}{by}")));
        parts.extend(self.quantise.map(|bits| bits.to_string()));
        parts.join(", ")
    }
}

/// Fine-tuning of a compressed network on labelled calibration images.
///
/// | field            | default                      | range    |
/// |------------------|------------------------------|----------|
/// | `learning_rates` | 1e-4, 3e-4, 1e-3, 3e-3, 1e-2 | `(0, 1]` |
/// | `seconds`        | 10                           | `(0, ∞)` |
/// | `clock`          | `wall`                       |          |
/// | `batch_size`     | 50                           | 2 or more |
#[derive(Clone, Debug, PartialEq)]
pub struct FineTuneOptions {
    /// Learning rates that are tried; of several the one with the best accuracy on images held back is kept.
    pub learning_rates: Vec<f64>,
    /// Time of each training, in seconds.
    pub seconds: f64,
    /// What that time is measured by.
    pub clock: Clock,
    /// Images of a step.
    pub batch_size: usize,
}

impl Default for FineTuneOptions {
    fn default() -> Self {
        Self { learning_rates: vec![1e-4, 3e-4, 1e-3, 3e-3, 1e-2], seconds: 10.0, clock: Clock::Wall, batch_size: 50 }
    }
}

impl FineTuneOptions {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] with the first field that is outside, [`TrainError::Missing`] without rates.
    pub fn check(&self) -> Result<(), TrainError> {
        if self.learning_rates.is_empty() {
            return Err(TrainError::Missing { name: "rate", reason: "give at least one learning rate".into() });
        }
        for &rate in &self.learning_rates {
            check("rate", rate, f64::MIN_POSITIVE..=1.0, "(0, 1]")?;
        }
        check("time", self.seconds, f64::MIN_POSITIVE..f64::INFINITY, "(0, ∞)")?;
        check("batch_size", self.batch_size, 2.., "2 or more")
    }
}

/// How to compress a network, and how to put it right.
///
/// | field     | default       | range     |
/// |-----------|---------------|-----------|
/// | `images`  | 500           | 1 or more |
/// | `recover` | `closed-form` |           |
/// | `seed`    | 0             |           |
#[derive(Clone, Debug, PartialEq)]
pub struct CompressOptions {
    /// How the network is made small.
    pub compression: Compression,
    /// Number of calibration images, drawn at random from the training images.
    pub images: usize,
    /// How the result is put right.
    pub recover: Recover,
    /// Seed of the choice of images.
    pub seed: u64,
    /// How it is trained, if it is.
    pub fine_tune: FineTuneOptions,
}

impl Default for CompressOptions {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            images: 500,
            recover: Recover::default(),
            seed: 0,
            fine_tune: FineTuneOptions::default(),
        }
    }
}

impl CompressOptions {
    /// Which weights become zero: what is asked for, or [`Criterion::Reconstruction`] where layers are solved for. It may be asked for
    /// elsewhere too: the zeros are then those of the closed form, which takes as long, and the weights that stay those of the network.
    pub fn criterion(&self) -> Criterion {
        self.compression.criterion.unwrap_or(Criterion::usual(self.recover))
    }

    /// The same as records have it: always where weights are pruned and layers solved for, as records without it are of a time when it
    /// was another one, and elsewhere if it is not the usual one.
    pub fn recorded_criterion(&self) -> Option<Criterion> {
        let is_told = self.compression.prune.is_some() && self.recover.solves();
        Some(self.criterion()).filter(|criterion| is_told || *criterion != Criterion::usual(self.recover))
    }

    /// Whether it is found out from the images how many weights of every layer become zero.
    pub(super) fn shares_out(&self) -> bool {
        let is_global = self.compression.scope.unwrap_or_default() == Scope::Global;
        self.compression.prune.is_some_and(|share| share > 0.0)
            && is_global
            && self.criterion() == Criterion::Reconstruction
    }

    /// Checks everything against its range.
    ///
    /// # Errors
    /// As [`Compression::check`] and [`FineTuneOptions::check`], [`TrainError::Parameter`] for no images.
    pub fn check(&self) -> Result<(), TrainError> {
        self.compression.check()?;
        check("calibrate", self.images, 1.., "1 or more images")?;
        self.fine_tune.check()
    }
}
