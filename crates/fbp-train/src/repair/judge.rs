use candle_core::Tensor;
use fbp_models::Network;

use super::origin::{Given, SampleOrigin};
use super::record::StateMeasures;
use super::samples::{SampleChoice, wrong_samples};
use crate::TrainError;
use crate::affine::AffineLayer;
use crate::cache::FeatureCache;
use crate::data::{DataBundle, Dataset, Split};
use crate::evaluate::EvalSet;
use crate::settings::{Measure, Part, Preference};

/// Largest size of the features of a judge that are kept, in bytes.
const KEPT: usize = 1 << 30;

/// The test set, and what the network made of it before.
#[derive(Debug)]
pub struct Judge {
    test: Judged,
    /// The images of the kind that is repaired, where they are not those of the test set themselves.
    kin: Option<Judged>,
    /// Accuracy before, 0 to 1, or RMSE for data with outputs.
    pub score: f64,
    /// Whether each of these images was wrong before and is of the class that is repaired.
    of_kind: Vec<bool>,
}

/// Images that judge: themselves, or what arrives at the layer that changes.
#[derive(Debug)]
enum Judged {
    Images(EvalSet),
    /// With the layer that networks may differ in.
    States(FeatureCache, Box<AffineLayer>),
}

impl Judged {
    /// Which of them are right, and the score.
    fn look(&self, network: &Network) -> Result<(Vec<bool>, f64), TrainError> {
        match self {
            Self::States(states, layer) => {
                let right = states.right(|states| layer.logits(network, states, &layer.output(network, states)?))?;
                let score = share(&right);
                Ok((right, score))
            }
            Self::Images(set) => {
                let right = set.right(network)?;
                let score = if set.kind().is_accuracy() { share(&right) } else { set.score(network)? };
                Ok((right, score))
            }
        }
    }
}

/// Share of those that are right.
fn share(right: &[bool]) -> f64 {
    right.iter().filter(|right| **right).count() as f64 / right.len().max(1) as f64
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
    /// A judge of any networks.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the images do not fit the network.
    pub fn new(
        before: &Network,
        data: &DataBundle,
        choice: &SampleChoice,
        given: Given<'_>,
        tolerance: Option<f64>,
    ) -> Result<Self, TrainError> {
        Self::at(before, data, choice, given, |images, judges| {
            Ok(Judged::Images(EvalSet::new(images, &data.normalization, Some(judges))?.within(tolerance)))
        })
    }

    /// A judge of networks that differ from this one in one layer at most: each image passes what lies below it once. For data with
    /// outputs, and where that would take too much memory, it is as [`new`](Self::new).
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`TrainError::Setting`] for a stage without a layer that can be repaired.
    pub fn of_layer(
        before: &Network,
        stage: &str,
        data: &DataBundle,
        choice: &SampleChoice,
        given: Given<'_>,
        tolerance: Option<f64>,
    ) -> Result<Self, TrainError> {
        let layer = AffineLayer::of(before, stage)?;
        let images = data.test.len() * if matches!(given.origin, SampleOrigin::Corrupted(..)) { 2 } else { 1 };
        let has_outputs = data.test.outputs().is_some() || tolerance.is_some();
        if has_outputs || images * layer.state_len() * size_of::<f32>() > KEPT {
            return Self::new(before, data, choice, given, tolerance);
        }
        let states = |images: &Dataset, judges: &[usize]| {
            let states = |images: &Tensor| layer.states(before, images);
            Ok(Judged::States(FeatureCache::new(images, &data.normalization, judges, states)?, Box::new(layer.clone())))
        };
        Self::at(before, data, choice, given, states)
    }

    fn at(
        before: &Network,
        data: &DataBundle,
        choice: &SampleChoice,
        given: Given<'_>,
        judged: impl Fn(&Dataset, &[usize]) -> Result<Judged, TrainError>,
    ) -> Result<Self, TrainError> {
        let but = |given: &[usize]| -> Vec<usize> {
            (0..data.test.len()).filter(|i| given.binary_search(i).is_err()).collect()
        };
        let mut judges = but(given.in_test());
        let test = judged(&data.test, &judges)?;
        let (mut right, score) = test.look(before)?;
        let mut kin = None;
        if let SampleOrigin::Corrupted(..) = given.origin {
            judges = but(given.kin_in_test());
            let images = judged(given.origin.kin(Part::Test, data), &judges)?;
            (right, _) = images.look(before)?;
            kin = Some(images);
        }
        let same_class = |label: u8| !matches!(choice, SampleChoice::Class(class) if *class != u32::from(label));
        let of_kind =
            right.iter().zip(&judges).map(|(right, &i)| !right && same_class(data.test.labels()[i])).collect();
        Ok(Self { test, kin, score, of_kind })
    }

    /// # Errors
    /// [`TrainError::Model`] if the images do not fit the network.
    pub fn measure(&self, network: &Network) -> Result<TestMeasures, TrainError> {
        let (mut right, score) = self.test.look(network)?;
        if let Some(kin) = &self.kin {
            (right, _) = kin.look(network)?;
        }
        let kind = self.of_kind.iter().filter(|kind| **kind).count();
        let gained = right.iter().zip(&self.of_kind).filter(|(right, kind)| **right && **kind).count();
        let generalisation = gained as f64 / kind.max(1) as f64;
        // Without a sign where nothing changed.
        let measure = if let Judged::Images(set) = &self.test { set.kind() } else { Measure::Accuracy };
        let drawdown = 0.0 - measure.gain(score, self.score);
        Ok(TestMeasures { generalisation, drawdown, score })
    }
}

/// Images of which the share that a state makes right is a measure of how others of their kind fare, at most.
const KIN: usize = 1500;

/// Some of the validation samples, evenly spread, by which states are chosen as others of the kind should come right.
pub(super) fn kin_of(validation: &[usize]) -> Vec<usize> {
    validation.iter().step_by(validation.len().div_ceil(KIN).max(1)).copied().collect()
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
        let wrong = wrong_samples(start, images, &data.normalization, &kin_of(&split.validation), None)?;
        Ok(Self { kin: Some(EvalSet::new(images, &data.normalization, Some(&wrong))?), ..self })
    }

    /// Share of the samples to repair that are right.
    pub(super) fn efficacy(&self, network: &Network) -> Result<f64, TrainError> {
        self.own.accuracy(network)
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
