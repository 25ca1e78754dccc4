use std::collections::HashMap;

use candle_core::{Device, Tensor};
use fbp_models::Network;

use super::constraint::{Constraint, Constraints, Tensors, apply_all};
use super::finetune::Subject;
use super::layers::{MatrixLayer, matrix_layers};
use super::measure::share_out;
use super::options::{CompressOptions, Compression, Criterion, Recover};
use super::prune::{fours, largest_two_of_four, smallest};
use super::record::{LayerRecord, LeftAlone, SizeRecord, TunedRecord};
use super::size::size_of_network;
use super::slim::{Slim, slim};
use super::walk::{Aim, Walk};
use crate::TrainError;
use crate::data::{Batcher, DataBundle, shuffle_indices};
use crate::evaluate::pool_par;
use crate::processor::{Clock, Stopwatch};
use crate::progress::Progress;

/// Chunks of the calibration images: every fifth one is held back to choose the damping with.
const CHUNKS: usize = 10;
/// Most images of a chunk.
const MOST: usize = 50;
/// Reasons that are said before it starts, each with its layers.
const SAID: usize = 8;

/// What a compression did.
#[derive(Debug)]
pub struct Compressed {
    /// The network that was only made small: by the size of its weights, or, if no layer is solved for, by the criterion asked for.
    pub compressed: Network,
    /// The result. Where layers are solved for, other weights may be zero in it.
    pub network: Network,
    /// Size before.
    pub size_before: SizeRecord,
    /// Size of the result.
    pub size: SizeRecord,
    /// The layers that were solved for.
    pub layers: Vec<LayerRecord>,
    /// Layers that stay as they are, at least in one way.
    pub left_alone: Vec<LeftAlone>,
    /// The fine-tuning, if that was asked for.
    pub tuned: Option<TunedRecord>,
    /// Time of everything, in seconds.
    pub seconds: f64,
    /// Time of the processor on all threads, if the system tells.
    pub processor_seconds: Option<f64>,
}

/// A network that was only made small, and what it must keep to.
struct Small {
    slim: Slim,
    layers: Vec<MatrixLayer>,
    constraints: Constraints,
    fours: HashMap<String, Vec<[usize; 4]>>,
    left: Vec<LeftAlone>,
}

/// Makes a network small and puts it right; the network itself stays as it is.
///
/// The closed form solves for one layer after the other in forward order. With `X̃` the columns of what the layers below, compressed
/// and put right, make of the calibration images, and `Z` what the layer gave in the original network:
///
/// ```text
/// min |Z - W X̃|² + λ |W - W₀|²   over the weights W that are not zero by the compression
/// ```
///
/// for every output on its own support, from `X̃X̃ᵀ` and `X̃(Z - W₀X̃)ᵀ`, gathered in one pass. `λ` is chosen for every layer by what the
/// solution on four fifths of the images misses on the others. Which weights are left is found out from the same sums
/// ([`Criterion::Reconstruction`]). Other recoveries may ask for the same zeros: then all of this is done for them alone. A pattern is
/// chosen, and weights are rounded, one entry after the other, and those that come later make up for each. Where a batch normalisation
/// follows, a constant is solved for as well, since its mean takes it up, and its statistics are then estimated again.
///
/// All layers are compressed, the first and the last one included. Those that matter lose less than others: by their size, if the
/// smallest weights of all layers together go, and more so by what they miss. With a share of every layer, by size, and 500 images the
/// closed form ended at 88.0 % for `cnn-mnist-large` (Fashion-MNIST, 70 % zero, intact 91.1 %), and with the smallest weights of all
/// layers at 90.1 %; `resnet20`, 90 % zero, at 67.6 and 91.1 % (93.5 %). No one damping fits all layers: there the images held back
/// chose shares of the mean diagonal entry from `1e-5` (many columns for each weight) to `1e-2`.
///
/// # Errors
/// As [`CompressOptions::check`]; [`TrainError::Parameter`] for more images than there are, [`TrainError::Setting`] if no channel can
/// go or no layer has fours, [`TrainError::Model`] if the images do not fit the network, [`TrainError::Singular`] if a number on the
/// way is not finite.
///
/// # Source
/// Frantar & Alistarh, "Optimal Brain Compression", NeurIPS 2022, and "GPTQ", ICLR 2023, with targets of the original network in
/// place of those of the compressed one; centre and choice of the damping: own.
pub fn compress(
    network: &Network,
    data: &DataBundle,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<Compressed, TrainError> {
    options.check()?;
    let samples = calibration(data, options)?;
    let begun = Stopwatch::start();
    let Small { slim, layers, mut constraints, fours, left } = make_small(network, &options.compression)?;
    announce(&left, progress);
    let small = &slim.network;
    let bits = options.compression.quantise;
    let solves = options.recover.solves();
    let walks = Walks { network, slim: &slim, fours: &fours, layers: &layers, progress };
    let solve = |result: &Network, constraints: &mut Constraints| {
        let images = chunks(data, &samples)?;
        if options.shares_out() {
            walks.share_out(&images, constraints)?;
            round_all(small, &layers, constraints, &options.compression)?;
        }
        walks.run(images, result, constraints, Aim::Weights { bits, criterion: options.criterion() })
    };
    if options.criterion() == Criterion::Reconstruction && !solves {
        // The zeros of the closed form, without its weights and levels.
        round_all(small, &layers, &mut constraints, &options.compression)?;
        solve(&small.duplicate()?, &mut constraints)?;
        constraints.values_mut().for_each(|own| own.levels = None);
    }
    let compressed = small.duplicate()?;
    round_all(&compressed, &layers, &mut constraints, &options.compression)?;
    apply_all(&compressed, &layers, &constraints)?;
    let mut result = if solves { small.duplicate()? } else { compressed.duplicate()? };
    let records = match options.recover {
        Recover::None => Vec::new(),
        _ if solves => solve(&result, &mut constraints)?,
        _ => walks.run(chunks(data, &samples)?, &result, &mut constraints, Aim::Statistics)?,
    };
    let mut tuned = None;
    if options.recover.trains() {
        let subject = Subject {
            start: &result,
            layers: &layers,
            constraints: &constraints,
            data,
            samples: &samples,
            seed: options.seed,
            may_stay: options.recover.solves(),
        };
        let (found, record) = subject.run(&options.fine_tune)?;
        (result, tuned) = (found, Some(record));
    }
    let (all, _) = matrix_layers(&network.spec().plan()?);
    Ok(Compressed {
        size_before: size_of_network(network, &all, &Constraints::new(), None, |_| false)?,
        size: size_of_network(&result, &layers, &constraints, bits, |path| fours.contains_key(path))?,
        compressed,
        network: result,
        layers: records,
        left_alone: left,
        tuned,
        seconds: begun.seconds(Clock::Wall),
        processor_seconds: begun.processor_seconds(),
    })
}

/// What all walks through the network and the one that was made small have in common.
struct Walks<'a> {
    network: &'a Network,
    slim: &'a Slim,
    fours: &'a HashMap<String, Vec<[usize; 4]>>,
    layers: &'a [MatrixLayer],
    progress: &'a dyn Progress,
}

impl Walks<'_> {
    /// Finds out how many weights every layer keeps.
    fn share_out(&self, images: &[Tensor], constraints: &mut Constraints) -> Result<(), TrainError> {
        self.progress.begin("measure", self.layers.len(), "layers");
        let measured = share_out(&self.slim.network, images, constraints, self.progress);
        self.progress.end();
        measured
    }

    /// Puts every layer of `result` right with the help of the images, and gives a record of those that were solved for.
    fn run(
        &self,
        images: Vec<Tensor>,
        result: &Network,
        constraints: &mut Constraints,
        aim: Aim<'_>,
    ) -> Result<Vec<LayerRecord>, TrainError> {
        self.progress.begin("compress", self.layers.len(), "layers");
        let networks = [self.network, result];
        let mut walk = Walk {
            plan: &self.network.spec().plan()?,
            networks,
            tensors: networks.map(Tensors::of),
            channels: &self.slim.channels,
            constraints,
            fours: self.fours,
            aim,
            progress: self.progress,
            records: Vec::new(),
            curves: Vec::new(),
        };
        let walked = walk.run(images);
        let records = walk.records;
        self.progress.end();
        walked.map(|()| records)
    }
}

/// The calibration images, drawn at random.
fn calibration(data: &DataBundle, options: &CompressOptions) -> Result<Vec<usize>, TrainError> {
    let all = data.train.len();
    if options.images > all {
        let value = options.images.to_string();
        return Err(TrainError::Setting {
            name: "calibrate",
            value,
            reason: format!("is more than the {all} images that there are"),
        });
    }
    let mut samples: Vec<usize> = (0..all).collect();
    shuffle_indices(&mut samples, options.seed, 0);
    samples.truncate(options.images);
    Ok(samples)
}

/// Images in chunks, as networks take them.
fn chunks(data: &DataBundle, samples: &[usize]) -> Result<Vec<Tensor>, TrainError> {
    let size = samples.len().div_ceil(CHUNKS).clamp(1, MOST);
    let mut batcher = Batcher::new(&data.train, samples.to_vec(), &data.normalization, size)?;
    let mut images = Vec::with_capacity(batcher.batches());
    while let Some(batch) = batcher.next_batch(pool_par()) {
        images.push(Tensor::from_slice(batch.images, (batch.len(), data.train.shape().len()), &Device::Cpu)?);
    }
    Ok(images)
}

/// Takes channels away and chooses which weights become zero.
fn make_small(network: &Network, compression: &Compression) -> Result<Small, TrainError> {
    let slim = match compression.channels {
        Some(share) if share > 0.0 => slim(network, share)?,
        _ => Slim { network: network.duplicate()?, channels: HashMap::new(), left: Vec::new() },
    };
    let (layers, mut left) = matrix_layers(&slim.network.spec().plan()?);
    left.extend(slim.left.iter().cloned());
    let tensors = Tensors::of(&slim.network);
    let mut constraints = Constraints::new();
    let mut patterned = HashMap::new();
    if let Some(share) = compression.prune.filter(|share| *share > 0.0) {
        let weights = layers.iter().map(|layer| tensors.read(&layer.weight())).collect::<Result<Vec<_>, _>>()?;
        for (layer, kept) in layers.iter().zip(smallest(&weights, share, compression.scope.unwrap_or_default())) {
            constraints.insert(layer.path.clone(), Constraint { kept: Some(kept), levels: None });
        }
    }
    if let Some(pattern) = compression.pattern {
        for layer in &layers {
            match fours(layer) {
                Ok(fours) => {
                    let kept = largest_two_of_four(&tensors.read(&layer.weight())?, layer.inputs, &fours);
                    constraints.insert(layer.path.clone(), Constraint { kept: Some(kept), levels: None });
                    patterned.insert(layer.path.clone(), fours);
                }
                Err(dense) => left.push(dense),
            }
        }
        if patterned.is_empty() {
            let reason = "fits no layer of this network: none has input channels in fours".into();
            return Err(TrainError::Setting { name: "pattern", value: pattern.to_string(), reason });
        }
    }
    Ok(Small { slim, layers, constraints, fours: patterned, left })
}

/// Levels for the weights of all layers, if they are to be rounded.
fn round_all(
    network: &Network,
    layers: &[MatrixLayer],
    constraints: &mut Constraints,
    compression: &Compression,
) -> Result<(), TrainError> {
    let Some(bits) = compression.quantise else { return Ok(()) };
    let tensors = Tensors::of(network);
    for layer in layers {
        let mut weights = tensors.read(&layer.weight())?;
        let constraint = constraints.entry(layer.path.clone()).or_default();
        constraint.apply(&mut weights);
        constraint.set_levels(&weights, layer.all_outputs(), bits);
    }
    Ok(())
}

/// Says what stays as it is, a reason at a time.
fn announce(left: &[LeftAlone], progress: &dyn Progress) {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for one in left {
        match reasons.iter_mut().find(|(reason, _)| *reason == one.reason) {
            Some((_, layers)) => layers.push(&one.layer),
            None => reasons.push((&one.reason, vec![&one.layer])),
        }
    }
    for (reason, layers) in reasons.iter().take(SAID) {
        let (some, more) = (&layers[..layers.len().min(4)], layers.len().saturating_sub(4));
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        progress.note(&format!("{}{more}: {reason}", some.join(", ")));
    }
}
