use fbp_models::Network;

use super::origin::{Given, SampleOrigin};
use super::record::StateMeasures;
use super::samples::{SampleChoice, wrong_samples};
use crate::TrainError;
use crate::data::{DataBundle, Dataset, Split};
use crate::evaluate::EvalSet;
use crate::settings::{Part, Preference};

/// The test set, and what the network made of it before.
#[derive(Debug)]
pub struct Judge {
    test: EvalSet,
    /// The images of the kind that is repaired, where they are not those of the test set themselves.
    kin: Option<EvalSet>,
    /// Accuracy before, 0 to 1, or RMSE for data with outputs.
    pub score: f64,
    /// Whether each of these images was wrong before and is of the class that is repaired.
    of_kind: Vec<bool>,
}

/// What a repair did to the test set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TestMeasures {
    /// Share of the wrong samples of the same kind that became right.
    pub generalisation: f64,
    /// Loss of accuracy, or growth of the RMSE as a share of it.
    pub drawdown: f64,
    /// Accuracy, or RMSE for data with outputs.
    pub score: f64,
}

impl Judge {
    /// # Errors
    /// [`TrainError::Model`] if the images do not fit the network.
    pub fn new(
        before: &Network,
        data: &DataBundle,
        choice: &SampleChoice,
        given: Given<'_>,
        tolerance: Option<f64>,
    ) -> Result<Self, TrainError> {
        let mut judges: Vec<usize> =
            (0..data.test.len()).filter(|i| given.in_test().binary_search(i).is_err()).collect();
        let test = EvalSet::new(&data.test, &data.normalization, Some(&judges))?.within(tolerance);
        let score = test.score(before)?;
        let kin = match given.origin {
            SampleOrigin::Corrupted(..) => {
                judges = (0..data.test.len()).filter(|i| given.kin_in_test().binary_search(i).is_err()).collect();
                let images = given.origin.kin(Part::Test, data);
                Some(EvalSet::new(images, &data.normalization, Some(&judges))?.within(tolerance))
            }
            _ => None,
        };
        let right = kin.as_ref().unwrap_or(&test).right(before)?;
        let same_class = |label: u8| !matches!(choice, SampleChoice::Class(class) if *class != u32::from(label));
        let of_kind =
            right.iter().zip(&judges).map(|(right, &i)| !right && same_class(data.test.labels()[i])).collect();
        Ok(Self { test, kin, score, of_kind })
    }

    /// # Errors
    /// [`TrainError::Model`] if the images do not fit the network.
    pub fn measure(&self, network: &Network) -> Result<TestMeasures, TrainError> {
        let right = self.kin.as_ref().unwrap_or(&self.test).right(network)?;
        let score = self.test.score(network)?;
        let kind = self.of_kind.iter().filter(|kind| **kind).count();
        let gained = right.iter().zip(&self.of_kind).filter(|(right, kind)| **right && **kind).count();
        let generalisation = gained as f64 / kind.max(1) as f64;
        // Without a sign where nothing changed.
        let drawdown = 0.0 - self.test.kind().gain(score, self.score);
        Ok(TestMeasures { generalisation, drawdown, score })
    }
}

/// The samples to repair and the validation part, for networks of which any stage may have changed.
#[derive(Debug)]
pub(super) struct Gauge {
    own: EvalSet,
    validation: EvalSet,
    /// Validation samples of the same kind that were wrong at the start, where states are chosen by them.
    kin: Option<EvalSet>,
    before: f64,
}

impl Gauge {
    pub(super) fn new(
        start: &Network,
        given: Given<'_>,
        data: &DataBundle,
        split: &Split,
        tolerance: Option<f64>,
    ) -> Result<Self, TrainError> {
        let set = |images: &Dataset, indices: &[usize]| EvalSet::new(images, &data.normalization, Some(indices));
        let validation = set(&data.train, &split.validation)?;
        Ok(Self {
            own: set(given.origin.images(data), given.samples)?.within(tolerance),
            before: validation.score(start)?,
            validation,
            kin: None,
        })
    }

    /// The same with what else states are chosen by.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the images do not fit the network.
    pub(super) fn preferring(
        self,
        prefer: Preference,
        start: &Network,
        given: Given<'_>,
        data: &DataBundle,
        split: &Split,
    ) -> Result<Self, TrainError> {
        if prefer == Preference::Accuracy {
            return Ok(self);
        }
        let images = given.origin.kin(Part::Train, data);
        let wrong = wrong_samples(start, images, &data.normalization, &split.validation, None)?;
        Ok(Self { kin: Some(EvalSet::new(images, &data.normalization, Some(&wrong))?), ..self })
    }

    pub(super) fn measure(&self, network: &Network) -> Result<StateMeasures, TrainError> {
        let drawdown_validation = 0.0 - self.validation.kind().gain(self.validation.score(network)?, self.before);
        let error = self.own.errors(network)?.map(|errors| errors.rmse);
        Ok(StateMeasures {
            efficacy: self.own.accuracy(network)?,
            drawdown_validation,
            generalisation_validation: self.kin.as_ref().map(|kin| kin.accuracy(network)).transpose()?,
            error,
        })
    }
}
