//! Training by several ranks, each on its slice of every batch.
//!
//! A step is that of one process with the whole batch, up to rounding: gradients are weighted by the size of the slices and added
//! up in their order, the statistics of batch normalisations are those of all slices, dropout drops what it would drop in
//! the whole batch. All ranks take the same step, so their weights stay the same, bit by bit, and only the first one keeps and
//! writes them. A batch with fewer samples than there are ranks is left whole: all compute it, and the first one counts.

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;
use fbp_models::{AdamW, BatchGroup, BatchSlice, Network, backward};

use super::aim::Aim;
use super::losses::{Loss, Losses};
use super::state::{Kept, Numbers, of_message, to_message};
use crate::TrainError;
use crate::collective::{Collective, CollectiveError};
use crate::data::Batch;
use crate::share::Share;

/// One rank of several that train a network together.
pub(super) struct Slices {
    team: Arc<dyn Collective>,
    share: Share,
    place: Arc<Place>,
    /// Gradients, what the losses were, and whether to stop; used again in every step.
    list: Vec<f32>,
}

/// Where the slice of this rank is, as layers see it.
#[derive(Debug)]
struct Place {
    team: Arc<dyn Collective>,
    before: AtomicUsize,
    /// Samples of the batch; 0 while it is whole.
    of: AtomicUsize,
}

impl BatchGroup for Place {
    fn slice(&self) -> Option<BatchSlice> {
        let of = self.of.load(Ordering::Relaxed);
        (of > 0).then(|| BatchSlice { before: self.before.load(Ordering::Relaxed), of })
    }

    fn all_gather(&self, own: &[f64]) -> Result<Vec<f64>, Box<dyn Error + Send + Sync>> {
        Ok(self.team.all_gather(own)?)
    }
}

/// The samples of a batch that a share of it has; all of them for no share, and where there are too few.
pub(super) fn part_of(share: Option<Share>, samples: usize) -> Range<usize> {
    match share {
        Some(share) if samples >= share.count() => share.range(samples),
        _ => 0..samples,
    }
}

impl Slices {
    /// Lets a network be trained by all ranks of a team; none for one that is alone.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] for more ranks than there can be.
    pub(super) fn join(network: &mut Network, team: &Arc<dyn Collective>) -> Result<Option<Self>, TrainError> {
        if team.size() == 1 {
            return Ok(None);
        }
        let place = Arc::new(Place { team: team.clone(), before: AtomicUsize::new(0), of: AtomicUsize::new(0) });
        network.set_group(Some(place.clone()));
        let share = Share::new(team.rank() + 1, team.size())?;
        Ok(Some(Self { team: team.clone(), share, place, list: Vec::new() }))
    }

    /// Which part of every batch is its own.
    pub(super) fn share(&self) -> Share {
        self.share
    }

    /// Takes one step with the slices of all ranks of a batch of `whole` samples; gives what the losses of the whole batch were,
    /// and whether any rank was asked to stop.
    ///
    /// # Errors
    /// Those of the loss, [`TrainError::Collective`].
    pub(super) fn step(
        &mut self,
        (network, optimiser): (&Network, &mut AdamW),
        aim: &mut dyn Aim,
        (input, batch, whole): (&Tensor, Batch<'_>, usize),
        stop: bool,
    ) -> Result<(Losses, bool), TrainError> {
        let own = part_of(Some(self.share), whole);
        let is_sliced = own.len() < whole;
        self.place.before.store(own.start, Ordering::Relaxed);
        self.place.of.store(if is_sliced { whole } else { 0 }, Ordering::Relaxed);
        let Loss { total, parts } = aim.loss(network, input, batch)?;
        let weight = match is_sliced {
            true => batch.len() as f64 / whole as f64,
            false => f64::from(u8::from(self.team.rank() == 0)),
        };
        optimiser.list_gradients(&backward(&(total * weight)?)?, &mut self.list)?;
        let losses = [parts.data, parts.distance, parts.weight];
        self.list.extend(losses.map(|loss| (loss.unwrap_or(0.0) * weight) as f32));
        self.list.push(f32::from(u8::from(stop)));
        self.team.sum_f32(&mut self.list)?;
        let (gradients, told) = self.list.split_at(optimiser.list_len());
        optimiser.step_listed(gradients)?;
        let told_if = |loss: Option<f64>, place: usize| loss.map(|_| f64::from(told[place]));
        let parts = Losses {
            data: told_if(parts.data, 0),
            distance: told_if(parts.distance, 1),
            weight: told_if(parts.weight, 2),
        };
        Ok((parts, told[3] > 0.0))
    }

    /// The state that the first rank has found, for all.
    ///
    /// # Errors
    /// [`TrainError::Collective`].
    pub(super) fn of_first(&self, found: Option<(Kept, Numbers)>) -> Result<Option<(Kept, Numbers)>, TrainError> {
        let mut bytes = found.map(|(kept, numbers)| to_message(kept, numbers)).transpose()?.unwrap_or_default();
        self.team.broadcast(&mut bytes)?;
        match &bytes[..] {
            [] => Ok(None),
            bytes => Ok(Some(of_message(bytes).ok_or(CollectiveError::Malformed { rank: 0 })?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use fbp_linalg::FeatureShape;
    use fbp_models::{AdamWParams, NetworkSpec};

    use super::super::epochs::Supervised;
    use super::*;
    use crate::collective::{Alone, threads};
    use crate::data::{DataBundle, Dataset, Normalization};
    use crate::progress::Silent;
    use crate::settings::{Keep, LossKind};
    use crate::train::{Host, pretrain::pretrain_kept};
    use crate::train::{PostTrainOptions, PretrainOptions, post_train_kept, pretrain};

    const SIDE: usize = 6;
    const CLASSES: usize = 3;

    /// Everything that looks at a whole batch: batch normalisation, and dropout of entries and of samples.
    fn spec() -> NetworkSpec {
        let text = r#"
            name = "sliced"
            input = [1, 6, 6]
            classes = 3
            [[stages]]
            name = "conv"
            layers = [{ type = "conv2d", out_channels = 4, kernel = 3 }, { type = "batch_norm" }, { type = "relu" }]
            [[stages]]
            name = "out"
            layers = [{ type = "dropout", p = 0.3 }, { type = "flatten" }, { type = "linear", out_features = 5 },
                      { type = "batch_norm" }, { type = "linear", out_features = 3 }]
        "#;
        NetworkSpec::from_toml(text).unwrap()
    }

    fn data(samples: usize) -> DataBundle {
        let images = (0..samples * SIDE * SIDE).map(|k| (k * 37 % 251) as u8).collect();
        let labels = (0..samples).map(|sample| (sample * sample % CLASSES) as u8).collect();
        let shape = FeatureShape::image(1, SIDE, SIDE);
        let train = Dataset::new("toy", shape, CLASSES, images, labels).unwrap();
        DataBundle::new(train.clone(), train, Normalization::new(vec![0.4], vec![0.3]).unwrap(), "toy")
    }

    /// Gradients of one batch and the statistics behind it, of the given rank of a team.
    fn one_step(team: Arc<dyn Collective>, samples: usize) -> (Vec<f32>, Vec<f32>, Losses) {
        let mut network = Network::new(&spec(), 1).unwrap();
        network.set_training(true);
        let slices = Slices::join(&mut network, &team).unwrap();
        let mut optimiser = AdamW::new(network.vars_of(0..2).unwrap(), AdamWParams::default()).unwrap();
        let mut aim = Supervised { stages: 0..2, loss: LossKind::CrossEntropy };
        let pixels = |sample: usize| (0..SIDE * SIDE).map(move |k| ((sample * 36 + k) * 37 % 251) as f32 / 100.0);
        let own = part_of(slices.as_ref().map(Slices::share), samples);
        let images: Vec<f32> = own.clone().flat_map(pixels).collect();
        let labels: Vec<u32> = own.clone().map(|sample| (sample * sample % CLASSES) as u32).collect();
        let indices: Vec<usize> = own.collect();
        let batch = Batch { indices: &indices, images: &images, labels: &labels, outputs: &[] };
        let input = Tensor::from_slice(&images, (labels.len(), SIDE * SIDE), &Device::Cpu).unwrap();
        let (mut list, losses) = match slices {
            Some(mut slices) => {
                let parts = (&input, batch, samples);
                let (losses, stop) = slices.step((&network, &mut optimiser), &mut aim, parts, false).unwrap();
                assert!(!stop);
                (slices.list, losses)
            }
            None => {
                let Loss { total, parts } = aim.loss(&network, &input, batch).unwrap();
                let mut list = Vec::new();
                optimiser.list_gradients(&total.backward().unwrap(), &mut list).unwrap();
                (list, parts)
            }
        };
        // Behind the gradients stands how many slices have one.
        list.truncate(optimiser.list_len() - network.vars_of(0..2).unwrap().len());
        let running = network.state().filter(|(name, _)| name.contains("running"));
        let statistics = running.flat_map(|(_, var)| var.to_vec1::<f32>().unwrap()).collect();
        (list, statistics, losses)
    }

    fn of_all<R: Send>(size: usize, work: impl Fn(Arc<dyn Collective>) -> R + Sync) -> Vec<R> {
        let pool = || rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        std::thread::scope(|scope| {
            let start = |rank| scope.spawn(|| pool().install(|| work(Arc::new(rank))));
            let ranks: Vec<_> = threads(size).into_iter().map(start).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    fn norm(values: impl Iterator<Item = f64>) -> f64 {
        values.map(|value| value * value).sum::<f64>().sqrt()
    }

    fn assert_near(what: &str, found: &[f32], expected: &[f32], terms: usize) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let difference = norm(found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        let scale = norm(expected.iter().map(|value| f64::from(*value)));
        // Every entry is a sum over samples and pixels, with one rounding for each of them at most.
        assert!(difference <= terms as f64 * f64::from(f32::EPSILON) * scale, "{what}: {difference} of {scale}");
    }

    #[test]
    fn a_step_of_slices_is_that_of_the_whole_batch_up_to_rounding() {
        let samples = 11;
        let whole = one_step(Arc::new(Alone), samples);
        for size in [2, 3, 11] {
            for (rank, found) in of_all(size, |team| one_step(team, samples)).into_iter().enumerate() {
                let terms = samples * SIDE * SIDE;
                assert_near(&format!("gradient, rank {rank} of {size}"), &found.0, &whole.0, terms);
                assert_near("statistics", &found.1, &whole.1, terms);
                let [a, b] = [found.2.data, whole.2.data].map(Option::unwrap);
                assert!((a - b).abs() <= samples as f64 * f64::from(f32::EPSILON) * b, "{a} {b}");
            }
        }
    }

    #[test]
    fn a_batch_with_fewer_samples_than_ranks_is_left_whole() {
        let whole = one_step(Arc::new(Alone), 2);
        for found in of_all(3, |team| one_step(team, 2)) {
            assert_eq!((found.0, found.1), (whole.0.clone(), whole.1.clone()));
        }
    }

    fn state(network: &Network) -> Vec<u32> {
        let values = network.state().flat_map(|(_, var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        values.map(f32::to_bits).collect()
    }

    #[test]
    fn all_ranks_end_with_the_same_network_and_learn_as_one_does() {
        // The last batch of an epoch has two samples: fewer than there are ranks.
        let data = data(50);
        let options =
            PretrainOptions { epochs: 6, batch: 16, validation: 0.3, keep: Keep::Best, ..PretrainOptions::default() };
        let alone = pretrain(&spec(), &data, &options, &Silent).unwrap();
        let ranks = of_all(3, |team| {
            let host = Host { team, ..Host::default() };
            let result = pretrain_kept((&spec(), &options), &data, &host, &Silent, &mut |_, _| Ok(())).unwrap();
            let mut network = result.network.duplicate().unwrap();
            let full = PostTrainOptions {
                epochs: 2,
                batch: 16,
                ema: Some(0.9),
                ..PostTrainOptions::of(crate::settings::Objective::Full)
            };
            let curves = post_train_kept(&mut network, "all", &data, None, &full, host, &Silent).unwrap();
            (state(&result.network), result.train_loss, result.scores, state(&network), curves.scores)
        });
        for other in &ranks[1..] {
            assert_eq!(*other, ranks[0]);
        }
        // The first epoch, of three steps with one rounding for every term of their sums. Later ones part as numbers of threads do.
        let (a, b, steps) = (ranks[0].1[0], alone.train_loss[0], 3.0);
        assert!((a - b).abs() <= steps * (16 * SIDE * SIDE) as f64 * f64::from(f32::EPSILON) * b, "{a} {b}");
    }
}
