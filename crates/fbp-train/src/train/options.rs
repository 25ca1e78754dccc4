use std::ops::Bound;

use serde::Serialize;

use super::record::PostTrainSettings;
use crate::TrainError;
use crate::data::Augmentation;
use crate::identity::DataIdentity;
use crate::settings::{Keep, LossKind, Metric, Objective, Schedule, TargetPolicy, check};

/// How to post-train: the defaults of the objectives joint and local. [`of`](Self::of) gives those of any other.
///
/// | field           | default  | range     |
/// |-----------------|----------|-----------|
/// | `objective`     | joint    |           |
/// | `alpha`         | 0.3      | `[0, ∞)`, finite; joint objective only, 0 is plain fine-tuning |
/// | `epochs`        | 10       | 1 or more |
/// | `batch`         | 256      | 1 or more |
/// | `learning_rate` | 5e-5     | `(0, 1]`  |
/// | `schedule`      | constant |           |
/// | `weight_decay`  | 5e-2     | `[0, 10]` |
/// | `validation`    | 0.1      | `[0, 1)`; the objectives head and closed-form need some |
/// | `keep`          | last     |           |
/// | `policy`        | static   | refresh with the objectives joint and local only; live at the output only: for the last stage, or the last segment of the objective hierarchical |
/// | `ema`           | none     | `(0, 1)`; not with the objectives head and closed-form |
/// | `loss`          | that of the data | cross-entropy for labels, mse and smooth-l1 for outputs |
/// | `seed`          | 0        |           |
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PostTrainOptions {
    /// What is minimised.
    pub objective: Objective,
    /// Weight of the distance to the targets beside the cross-entropy.
    pub alpha: f64,
    /// Passes over the training data.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Learning rate of AdamW, at the start if it has a schedule.
    pub learning_rate: f64,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// Share of the training data held back for validation.
    pub validation: f64,
    /// Which state becomes the result.
    pub keep: Keep,
    /// When targets are computed.
    pub policy: TargetPolicy,
    /// Decay of the running average of the weights that is evaluated and kept in place of the weights; none keeps the
    /// weights themselves.
    pub ema: Option<f64>,
    /// How training images are changed at random; only without targets, which are those of the images as they are.
    #[serde(skip_serializing_if = "Augmentation::is_none")]
    pub augment: Augmentation,
    /// What is made small beside distances; that of the data by default, cross-entropy for labels and mse for outputs.
    pub loss: Option<LossKind>,
    /// Seed of the order of the samples.
    pub seed: u64,
}

impl Default for PostTrainOptions {
    fn default() -> Self {
        Self {
            objective: Objective::Joint,
            alpha: 0.3,
            epochs: 10,
            batch: 256,
            learning_rate: 5e-5,
            schedule: Schedule::Constant,
            weight_decay: 5e-2,
            validation: 0.1,
            keep: Keep::Last,
            policy: TargetPolicy::Static,
            ema: None,
            augment: Augmentation::default(),
            loss: None,
            seed: 0,
        }
    }
}

impl PostTrainOptions {
    /// The defaults of an objective.
    ///
    /// Joint and local have those of the published recipe: a small constant rate, and the last state is the result. What
    /// minimises the cross-entropy alone starts at a rate twenty times as large that falls along a cosine, and keeps the
    /// best state: at the published rate fine-tuning mostly ends where it began, and of the rates tried from 1e-4 to 1e-2
    /// one near 1e-3 was safe for every start.
    pub fn of(objective: Objective) -> Self {
        let default = Self { objective, ..Self::default() };
        match objective {
            Objective::Joint | Objective::Local => default,
            Objective::Full | Objective::Tail | Objective::Hierarchical => {
                Self { learning_rate: 1e-3, schedule: Schedule::Cosine, keep: Keep::Best, ..default }
            }
            // They take no steps.
            Objective::Head | Objective::ClosedForm => Self { keep: Keep::Best, ..default },
        }
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] with the first field that is outside, [`TrainError::Setting`].
    pub fn check(&self) -> Result<(), TrainError> {
        check("alpha", self.alpha, 0.0..f64::INFINITY, "[0, ∞), where 0 is fine-tuning without targets")?;
        check("epochs", self.epochs, 1..=1_000_000, "1 to 1000000")?;
        check("batch", self.batch, 1..=1_000_000, "1 to 1000000")?;
        check("learning_rate", self.learning_rate, f64::MIN_POSITIVE..=1.0, "(0, 1]")?;
        check("weight_decay", self.weight_decay, 0.0..=10.0, "[0, 10]")?;
        check("validation", self.validation, 0.0..1.0, "[0, 1)")?;
        if matches!(self.objective, Objective::Head | Objective::ClosedForm) {
            let range = "(0, 1) with the modes head and closed-form, which choose their damping on the validation part";
            check("validation", self.validation, f64::MIN_POSITIVE..1.0, range)?;
        }
        if !self.augment.is_none() {
            let reason = match (self.objective, self.uses_targets()) {
                (_, true) => "changes the images, and targets are those of the images as they are: leave it out",
                (Objective::Full | Objective::Joint, false) => "",
                _ => "changes the images, and this mode computes their features once: leave it out",
            };
            if !reason.is_empty() {
                let (value, reason) = (self.augment.to_string(), reason.to_owned());
                return Err(TrainError::Setting { name: "augment", value, reason });
            }
        }
        if let Some(decay) = self.ema {
            // 0 would be the weights themselves, 1 the start.
            let open = (Bound::Excluded(0.0), Bound::Excluded(1.0));
            check("ema", decay, open, "(0, 1)")?;
            if !self.objective.takes_steps() {
                let reason = "is an average over steps, and the modes head and closed-form take none: leave it out";
                let value = decay.to_string();
                return Err(TrainError::Setting { name: "ema", value, reason: reason.into() });
            }
        }
        Ok(())
    }

    /// The settings of a run with these options, without those of its start and its targets.
    pub fn settings(&self, model: String, data: DataIdentity, stage: String) -> PostTrainSettings {
        PostTrainSettings {
            checkpoint_sha256: String::new(),
            model,
            data,
            targets: None,
            mode: self.objective,
            stage,
            alpha: (self.objective == Objective::Joint).then_some(self.alpha),
            seed: self.seed,
            epochs: self.epochs,
            batch: self.batch,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            validation: self.validation,
            schedule: self.schedule,
            keep: self.keep,
            policy: self.policy,
            ema: self.ema,
            augment: self.augment,
            loss: self.loss,
            metric: Metric::Euclidean,
            start: None,
            margin: None,
            tolerance: None,
            embedding: None,
            target_mode: None,
        }
    }

    /// Whether the distance to targets is part of what is minimised.
    pub fn uses_targets(&self) -> bool {
        match self.objective {
            Objective::Local | Objective::ClosedForm | Objective::Hierarchical => true,
            Objective::Joint => self.alpha > 0.0,
            Objective::Full | Objective::Tail | Objective::Head => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_of_the_options_holds() {
        let ok = PostTrainOptions::default();
        assert!(ok.check().is_ok());
        assert!(PostTrainOptions { alpha: 0.0, ..ok }.check().is_ok());
        let augment = Augmentation { crop: true, flip: false };
        assert!(PostTrainOptions { augment, alpha: 0.0, ..ok }.check().is_ok());
        assert!(PostTrainOptions { augment, objective: Objective::Full, ..ok }.check().is_ok());
        let faulty = [
            PostTrainOptions { alpha: -1e-9, ..ok },
            PostTrainOptions { alpha: f64::NAN, ..ok },
            PostTrainOptions { alpha: f64::INFINITY, ..ok },
            PostTrainOptions { epochs: 0, ..ok },
            PostTrainOptions { batch: 0, ..ok },
            PostTrainOptions { learning_rate: 0.0, ..ok },
            PostTrainOptions { learning_rate: f64::NAN, ..ok },
            PostTrainOptions { weight_decay: -1.0, ..ok },
            PostTrainOptions { validation: 1.0, ..ok },
            PostTrainOptions { validation: 0.0, objective: Objective::Head, ..ok },
            PostTrainOptions { ema: Some(0.0), ..ok },
            PostTrainOptions { ema: Some(1.0), ..ok },
            PostTrainOptions { ema: Some(f64::NAN), ..ok },
            PostTrainOptions { ema: Some(0.9), objective: Objective::Head, ..ok },
            PostTrainOptions { augment, ..ok },
            PostTrainOptions { augment, objective: Objective::Tail, ..ok },
        ];
        for options in faulty {
            assert!(
                matches!(options.check(), Err(TrainError::Parameter { .. } | TrainError::Setting { .. })),
                "{options:?}"
            );
        }
    }

    #[test]
    fn only_objectives_with_a_distance_need_targets() {
        let with = |objective, alpha| PostTrainOptions { objective, alpha, ..PostTrainOptions::default() };
        assert!(!with(Objective::Joint, 0.0).uses_targets());
        assert!(with(Objective::Joint, 1e-3).uses_targets());
        assert!(with(Objective::Local, 0.0).uses_targets());
        assert!(with(Objective::ClosedForm, 0.0).uses_targets());
        for objective in [Objective::Full, Objective::Tail, Objective::Head] {
            assert!(!with(objective, 0.3).uses_targets());
        }
    }
}
