use std::ops::Range;
use std::time::Instant;

use candle_core::{Device, Tensor};
use fbp_models::ops::cross_entropy;
use fbp_models::{AdamW, Network};

use super::choice::{Choice, Judged};
use super::curves::PostTrainCurves;
use super::joint::{Losses, Means, Pace, adamw};
use super::session::{Session, add_time, all_stages};
use crate::TrainError;
use crate::cache::FeatureCache;
use crate::data::{Batcher, shuffle_indices};
use crate::evaluate::pool_par;

/// Training of some stages on one loss.
pub(super) struct Plain<'a> {
    optimiser: AdamW,
    pace: Pace,
    means: Means,
    pub(super) judged: Judged,
    session: &'a Session<'a>,
}

impl<'a> Plain<'a> {
    pub(super) fn new(
        network: &Network,
        stages: Range<usize>,
        batches: usize,
        session: &'a Session<'a>,
    ) -> Result<Self, TrainError> {
        let options = session.options;
        let optimiser = AdamW::new(network.vars_of(stages)?, adamw(options))?;
        let judged = Judged::new(network, options.ema)?;
        Ok(Self { optimiser, pace: Pace::new(options, batches), means: Means::default(), judged, session })
    }

    /// Takes a step down the mean loss of a batch, which is noted as the cross-entropy.
    pub(super) fn step(&mut self, loss: &Tensor, samples: usize) -> Result<(), TrainError> {
        self.optimiser.set_learning_rate(self.pace.next())?;
        self.optimiser.backward_step(loss)?;
        self.judged.step()?;
        let losses = Losses { cross_entropy: Some(f64::from(loss.to_scalar::<f32>()?)), ..Losses::default() };
        self.means.add(&losses, samples);
        self.session.progress.advance(samples);
        Ok(())
    }

    pub(super) fn end_epoch(&mut self, epoch: usize, curves: &mut PostTrainCurves) -> Result<(), TrainError> {
        let means = std::mem::take(&mut self.means);
        if !means.finite() {
            return Err(TrainError::Diverged { epoch });
        }
        means.store(curves);
        Ok(())
    }
}

/// Trains every stage with cross-entropy.
///
/// # Errors
/// As [`post_train`](super::post_train).
pub(super) fn run_full(network: &mut Network, session: Session<'_>) -> Result<PostTrainCurves, TrainError> {
    let (data, options) = (session.data, session.options);
    let validation = session.validation()?;
    let validate = |network: &Network| (!validation.is_empty()).then(|| validation.accuracy(network)).transpose();
    let mut batcher = Batcher::new(&data.train, session.split.train.clone(), &data.normalization, options.batch)?;
    let mut curves = before(network, &session)?;
    let mut choice = Choice::new(options.keep, network, validate(network)?)?;
    network.freeze(0..0)?;
    network.set_batch_statistics(true);
    let mut plain = Plain::new(network, all_stages(network), batcher.batches(), &session)?;
    session.progress.begin("fine-tuning", options.epochs * batcher.samples(), "images");
    for epoch in 1..=options.epochs {
        let begun = Instant::now();
        batcher.shuffle(options.seed, epoch as u64);
        while let Some(batch) = batcher.next_batch(pool_par()) {
            let images = Tensor::from_slice(batch.images, (batch.len(), data.train.shape().len()), &Device::Cpu)?;
            let logits = network.forward_stages(all_stages(network), &images)?;
            plain.step(&cross_entropy(&logits, batch.labels)?, batch.len())?;
        }
        add_time(&mut curves, begun);
        plain.end_epoch(epoch, &mut curves)?;
        let state = plain.judged.network(network);
        let accuracy = validate(state)?;
        curves.validation_accuracy.extend(accuracy);
        choice.offer(epoch, state, accuracy)?;
    }
    let judged = plain.judged;
    finish(network, &session, (judged, choice), curves)
}

/// Trains the stages above `stage` with cross-entropy on the features of `stage`, which are computed once.
///
/// # Errors
/// As [`post_train`](super::post_train).
pub(super) fn run_cached(
    network: &mut Network,
    stage: usize,
    session: Session<'_>,
) -> Result<PostTrainCurves, TrainError> {
    let (data, options, first) = (session.data, session.options, stage + 1);
    let mut curves = before(network, &session)?;
    let begun = Instant::now();
    let features = |images: &Tensor| Ok(network.infer_stages(0..first, images)?);
    let cached = |samples: &[usize]| FeatureCache::new(&data.train, &data.normalization, samples, features);
    let (train, validation) = (cached(&session.split.train)?, cached(&session.split.validation)?);
    add_time(&mut curves, begun);
    let mut choice = Choice::new(options.keep, network, validation.accuracy(network, first)?)?;
    network.freeze(0..first)?;
    network.set_batch_statistics(true);
    let trained = first..network.stages().len();
    let mut plain = Plain::new(network, trained, train.samples().div_ceil(options.batch), &session)?;
    session.progress.begin("tail", options.epochs * train.samples(), "images");
    let mut order: Vec<usize> = Vec::new();
    for epoch in 1..=options.epochs {
        let begun = Instant::now();
        order.clear();
        order.extend(0..train.samples());
        shuffle_indices(&mut order, options.seed, epoch as u64);
        for samples in order.chunks(options.batch) {
            let (features, labels) = train.batch(samples)?;
            let logits = network.forward_from(first, &features)?;
            plain.step(&cross_entropy(&logits, &labels)?, labels.len())?;
        }
        add_time(&mut curves, begun);
        plain.end_epoch(epoch, &mut curves)?;
        let state = plain.judged.network(network);
        let accuracy = validation.accuracy(state, first)?;
        curves.validation_accuracy.extend(accuracy);
        choice.offer(epoch, state, accuracy)?;
    }
    let judged = plain.judged;
    finish(network, &session, (judged, choice), curves)
}

fn before(network: &Network, session: &Session<'_>) -> Result<PostTrainCurves, TrainError> {
    Ok(PostTrainCurves { test_accuracy_before: session.test()?.accuracy(network)?, ..PostTrainCurves::default() })
}

fn finish(
    network: &mut Network,
    session: &Session<'_>,
    (judged, choice): (Judged, Choice),
    mut curves: PostTrainCurves,
) -> Result<PostTrainCurves, TrainError> {
    session.progress.end();
    judged.take(network);
    let chosen = choice.restore(network);
    network.set_batch_statistics(false);
    network.freeze(0..0)?;
    session.conclude(&mut curves, network, chosen)?;
    Ok(curves)
}
