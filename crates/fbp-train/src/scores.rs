//! What networks scored, in files under the name of what it is: `test_accuracy` in records of data with labels, `test_rmse` in
//! those of data with outputs.

use serde::{Deserialize, Serialize};

use crate::settings::Measure;

/// Scores with their measure; the fields of files have one name for accuracies and another for errors.
macro_rules! scores {
    (
        $(#[$outer:meta])*
        pub struct $name:ident ($names:ident = $path:tt) {
            $($(#[$doc:meta])+ $field:ident: $type:ty = $accuracy:tt or $rmse:tt,)+
        }
    ) => {
        $(#[$outer])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(from = $path, into = $path)]
        pub struct $name {
            /// What was measured.
            pub measure: Measure,
            $($(#[$doc])+ pub $field: $type,)+
        }

        #[derive(Serialize, Deserialize)]
        #[serde(untagged)]
        enum $names {
            Accuracy { $(#[serde(rename = $accuracy)] $field: $type,)+ },
            Rmse { $(#[serde(rename = $rmse)] $field: $type,)+ },
        }

        impl From<$names> for $name {
            fn from(names: $names) -> Self {
                match names {
                    $names::Accuracy { $($field),+ } => Self { measure: Measure::Accuracy, $($field),+ },
                    $names::Rmse { $($field),+ } => Self { measure: Measure::Rmse, $($field),+ },
                }
            }
        }

        impl From<$name> for $names {
            fn from($name { measure, $($field),+ }: $name) -> Self {
                match measure {
                    Measure::Accuracy => Self::Accuracy { $($field),+ },
                    Measure::Rmse => Self::Rmse { $($field),+ },
                }
            }
        }
    };
}

scores! {
    /// Scores of a pretraining.
    pub struct PretrainScores (PretrainNames = "PretrainNames") {
        /// On the validation part after each epoch; empty without one.
        validation: Vec<f64> = "validation_accuracy" or "validation_rmse",
        /// On the test set, of the result.
        test: f64 = "test_accuracy" or "test_rmse",
    }
}

scores! {
    /// Scores of a post-training.
    pub struct PostTrainScores (PostTrainNames = "PostTrainNames") {
        /// On the test set before the first step.
        before: f64 = "test_accuracy_before" or "test_rmse_before",
        /// On the test set: after each epoch for the published objectives (joint and local), whose protocol asks for it; for
        /// all others a single value, that of the result.
        test: Vec<f64> = "test_accuracy" or "test_rmse",
        /// On the validation part after each epoch, or of each candidate; empty without one.
        validation: Vec<f64> = "validation_accuracy" or "validation_rmse",
        /// Mean loss against labels or outputs of each epoch, or of each candidate on the training part; empty if it was not
        /// evaluated.
        loss: Vec<f64> = "cross_entropy" or "loss",
    }
}

scores! {
    /// Scores of a state that was kept.
    pub struct ChosenScores (ChosenNames = "ChosenNames") {
        /// On the validation part; none without one.
        validation: Option<f64> = "validation_accuracy" or "validation_rmse",
        /// On the test set.
        test: f64 = "test_accuracy" or "test_rmse",
    }
}

scores! {
    /// Scores of a segment.
    pub struct SegmentScores (SegmentNames = "SegmentNames") {
        /// On the validation part after each epoch with this segment alone in place of its start.
        validation: Vec<f64> = "validation_accuracy" or "validation_rmse",
    }
}

scores! {
    /// Scores of a checkpoint.
    pub struct EvalScores (EvalNames = "EvalNames") {
        /// On the training data.
        train: f64 = "train_accuracy" or "train_rmse",
        /// On the test set, with noise if there is any.
        test: f64 = "test_accuracy" or "test_rmse",
    }
}

scores! {
    /// Scores before and after a repair, on the test set without the samples that were repaired.
    pub struct RepairScores (RepairNames = "RepairNames") {
        /// Before.
        before: f64 = "test_accuracy_before" or "test_rmse_before",
        /// After.
        after: f64 = "test_accuracy_after" or "test_rmse_after",
    }
}

scores! {
    /// A score on the test set, in summaries.
    pub struct TestScore (TestName = "TestName") {
        /// On the test set.
        test: f64 = "test_accuracy" or "test_rmse",
    }
}

scores! {
    /// Scores after every epoch, in summaries.
    pub struct TestCurve (TestCurveName = "TestCurveName") {
        /// On the test set.
        test: Vec<f64> = "test_accuracy" or "test_rmse",
    }
}

scores! {
    /// Mean scores of runs and of those that they are compared with, on the test set.
    pub struct ComparedScores (ComparedNames = "ComparedNames") {
        /// Of the starts.
        before: f64 = "accuracy_before" or "rmse_before",
        /// Of the results.
        result: f64 = "accuracy" or "rmse",
        /// Of the results of the yardstick.
        against: f64 = "accuracy_against" or "rmse_against",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_name_what_was_measured_and_are_read_back() {
        for (measure, name) in [(Measure::Accuracy, "test_accuracy"), (Measure::Rmse, "test_rmse")] {
            let scores =
                PostTrainScores { measure, before: 0.5, test: vec![0.25], validation: vec![], loss: vec![1.5] };
            let text = serde_json::to_string(&scores).unwrap();
            assert!(text.contains(&format!("\"{name}\":[0.25]")), "{text}");
            assert_eq!(serde_json::from_str::<PostTrainScores>(&text).unwrap(), scores);
            let chosen = ChosenScores { measure, validation: None, test: 0.125 };
            let text = serde_json::to_string(&chosen).unwrap();
            assert_eq!(serde_json::from_str::<ChosenScores>(&text).unwrap(), chosen);
        }
        assert!(serde_json::from_str::<PretrainScores>(r#"{"test_accuracy": 0.5}"#).is_err());
    }
}
