use std::collections::HashMap;

use candle_core::Tensor;
use fbp_models::spec::{FeatureDims, LayerPlan, NetworkPlan};
use fbp_models::{Layer, LayerPass, LayerSpec, Network, Sequence};
use rayon::prelude::*;

use super::budget::Curve;
use super::constraint::{Constraint, Constraints, Tensors};
use super::layers::{Form, MatrixLayer};
use super::moments::{Pair, Totals, match_moments};
use super::options::{Bits, Criterion};
use super::problem::Problem;
use super::record::LayerRecord;
use super::solve::Solution;
use super::statistics::{Chunk, Sums, sums};
use crate::TrainError;
use crate::patches::Patches;
use crate::progress::Progress;

/// Every so many chunks of images one is kept to choose the damping with.
const HELD: usize = 5;

/// What is solved for on the way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Aim<'a> {
    /// Statistics of norms, and biases of other layers.
    Statistics,
    /// Nothing: it is measured what every layer misses with how many weights. Beside it some images and what the network makes of them.
    Measure { images: &'a Tensor, outputs: &'a Tensor },
    /// Weights as well.
    Weights { bits: Option<Bits>, criterion: Criterion },
}

/// Runs two networks of one structure side by side, layer after layer in forward order, and puts each layer of the second one
/// right before its output goes on.
pub(super) struct Walk<'a> {
    pub(super) plan: &'a NetworkPlan,
    pub(super) networks: [&'a Network; 2],
    pub(super) tensors: [Tensors; 2],
    /// Channels of the original network that a layer still has, by its path; all of them where there is no entry.
    pub(super) channels: &'a HashMap<String, Vec<usize>>,
    pub(super) constraints: &'a mut Constraints,
    /// The fours of every layer with a pattern, by its path.
    pub(super) fours: &'a HashMap<String, Vec<[usize; 4]>>,
    pub(super) aim: Aim<'a>,
    pub(super) progress: &'a dyn Progress,
    pub(super) records: Vec<LayerRecord>,
    /// What was measured of every layer, by its path.
    pub(super) curves: Vec<(String, Option<Curve>)>,
}

fn run(layer: &dyn Layer, batches: &[Tensor]) -> Result<Vec<Tensor>, TrainError> {
    Ok(batches.iter().map(|batch| layer.forward(batch, LayerPass::FIXED)).collect::<Result<_, _>>()?)
}

/// The batches in the dimensions that a stage takes; the second network may have fewer channels.
fn reshaped(batches: Vec<Tensor>, input: FeatureDims) -> Result<Vec<Tensor>, TrainError> {
    let reshape = |batch: Tensor| batch.reshape(input.tensor_dims(batch.dim(0)?));
    Ok(batches.into_iter().map(reshape).collect::<Result<_, _>>()?)
}

/// Values of all batches.
pub(super) fn values(batches: &[Tensor]) -> Result<Vec<(Vec<f32>, usize)>, TrainError> {
    batches.iter().map(|batch| Ok((batch.flatten_all()?.to_vec1::<f32>()?, batch.dim(0)?))).collect()
}

/// What a solve of all groups of a layer gives.
struct Solved {
    solutions: Vec<Solution>,
    /// `Σ (z - mean)²` of what the original network gives.
    spread: f64,
}

impl Walk<'_> {
    /// Walks through all stages, given the images.
    ///
    /// # Errors
    /// [`TrainError::Model`] for images of another shape, [`TrainError::Singular`] if a number on the way is not finite.
    pub(super) fn run(&mut self, images: Vec<Tensor>) -> Result<(), TrainError> {
        let mut pair = Pair { original: images.clone(), compressed: images };
        let plan = self.plan;
        for (stage, plan) in plan.stages.iter().enumerate() {
            let own = self.networks.map(|network| network.stages()[stage].layers());
            pair.original = reshaped(pair.original, own[0].input())?;
            pair.compressed = reshaped(pair.compressed, own[1].input())?;
            pair = self.sequence(&plan.layers, own, pair)?;
        }
        Ok(())
    }

    fn run_both(&self, [original, compressed]: [&dyn Layer; 2], pair: &Pair) -> Result<Pair, TrainError> {
        let now = run(compressed, &pair.compressed)?;
        let before = match self.aim {
            // Both are the same.
            Aim::Measure { .. } => now.clone(),
            _ => run(original, &pair.original)?,
        };
        Ok(Pair { original: before, compressed: now })
    }

    fn sequence(&mut self, plans: &[LayerPlan], own: [&Sequence; 2], mut pair: Pair) -> Result<Pair, TrainError> {
        let layers = own.map(|sequence| sequence.layers().collect::<Vec<_>>());
        let order: Vec<usize> = own[0].order().map(|(layer, _)| layer).collect();
        for index in order {
            let both = [layers[0][index], layers[1][index]];
            pair = self.layer((&plans[index], plans.get(index + 1)), both, pair)?;
        }
        Ok(pair)
    }

    fn layer(
        &mut self,
        (plan, next): (&LayerPlan, Option<&LayerPlan>),
        both: [&dyn Layer; 2],
        pair: Pair,
    ) -> Result<Pair, TrainError> {
        if !plan.branches.is_empty() {
            let mut outputs = Vec::with_capacity(plan.branches.len());
            for (branch, plans) in plan.branches.iter().enumerate() {
                let own = both.map(|layer| &layer.branches()[branch]);
                outputs.push(self.sequence(plans, own, pair.clone())?);
            }
            return merged(both, &outputs);
        }
        if let LayerSpec::BatchNorm { .. } = plan.spec {
            let kept = self.channels.get(&plan.path).map(Vec::as_slice);
            if !matches!(self.aim, Aim::Measure { .. }) {
                match_moments(plan, &self.tensors[1], (&self.tensors[0], kept), &pair)?;
            }
            return self.run_both(both, &pair);
        }
        let mut matrices = MatrixLayer::of(plan, next).into_iter();
        let parts = both.map(Layer::parts);
        if parts[0].is_empty() {
            return match matrices.next() {
                Some(layer) => self.matrix(&layer, both, pair),
                None => self.run_both(both, &pair),
            };
        }
        let mut pair = pair;
        for ((name, original), (_, compressed)) in parts[0].iter().zip(&parts[1]) {
            let both = [*original, *compressed];
            pair = match if name.is_empty() { None } else { matrices.next() } {
                Some(layer) => self.matrix(&layer, both, pair)?,
                None => self.run_both(both, &pair)?,
            };
        }
        Ok(pair)
    }

    /// A layer that is a matrix on columns.
    fn matrix(&mut self, layer: &MatrixLayer, both: [&dyn Layer; 2], pair: Pair) -> Result<Pair, TrainError> {
        let mut pair_out = self.run_both(both, &pair)?;
        let targets = match self.channels.get(&layer.path) {
            Some(kept) => picked(&pair_out.original, kept)?,
            None => pair_out.original.clone(),
        };
        let layer = self.as_compressed(layer)?;
        match self.aim {
            Aim::Measure { images, outputs } => {
                let curve = self.measure(&layer, &pair.compressed, &targets, (images, outputs))?;
                self.curves.push((layer.path, curve));
                self.progress.advance(1);
                // The layer is as it was.
                return Ok(pair_out);
            }
            Aim::Statistics => self.shift_bias(&layer, &targets, &pair_out.compressed)?,
            Aim::Weights { bits, criterion } => {
                let missing = differences(&targets, &pair_out.compressed)?;
                let solved = self.solve(&layer, (bits, criterion), (&pair.compressed, &missing), &targets)?;
                self.take(&layer, solved)?;
            }
        }
        self.progress.advance(1);
        pair_out.compressed = run(both[1], &pair.compressed)?;
        Ok(pair_out)
    }

    /// The layer with the sizes that it has in the compressed network.
    fn as_compressed(&self, layer: &MatrixLayer) -> Result<MatrixLayer, TrainError> {
        let dims = self.tensors[1].dims(&layer.weight());
        let mut own = layer.clone();
        own.inputs = dims.iter().skip(1).product();
        if let Form::Conv(Patches { input, .. }) = &mut own.form {
            // One group with fewer input channels, or a depthwise convolution with fewer groups.
            if own.groups > 1 {
                own.groups = dims.first().copied().unwrap_or(0) / own.outputs;
                input[0] = own.groups * dims.get(1).copied().unwrap_or(0);
            } else {
                input[0] = dims.get(1).copied().unwrap_or(0);
            }
        }
        own.outputs = dims.first().copied().unwrap_or(0) / own.groups.max(1);
        Ok(own)
    }

    /// Moves the bias of a layer without a norm behind it by the mean of what is missing.
    fn shift_bias(&mut self, layer: &MatrixLayer, targets: &[Tensor], outputs: &[Tensor]) -> Result<(), TrainError> {
        if layer.norm.is_some() || !layer.has_bias {
            return Ok(());
        }
        let shifts = Totals::of(&differences(targets, outputs)?, layer.all_outputs(), layer.order())?.means();
        self.add_to_bias(layer, &shifts)
    }

    fn add_to_bias(&self, layer: &MatrixLayer, shifts: &[f64]) -> Result<(), TrainError> {
        if !layer.has_bias {
            return Ok(());
        }
        let mut bias = self.tensors[1].read(&layer.bias())?;
        bias.iter_mut().zip(shifts).for_each(|(bias, shift)| *bias = (f64::from(*bias) + shift) as f32);
        self.tensors[1].write(&layer.bias(), &bias)
    }

    fn solve(
        &self,
        layer: &MatrixLayer,
        (bits, criterion): (Option<Bits>, Criterion),
        (inputs, missing): (&[Tensor], &[Tensor]),
        targets: &[Tensor],
    ) -> Result<Solved, TrainError> {
        let (inputs, missing) = (values(inputs)?, values(missing)?);
        let chunks = Chunk::all(&inputs, &missing);
        let pick = |held: bool| -> Vec<Chunk<'_>> {
            let of = chunks.iter().enumerate().filter(|(k, _)| (k % HELD == HELD - 1) == held);
            of.map(|(_, chunk)| *chunk).collect()
        };
        let parts = [pick(false), pick(true)];
        let weights = self.tensors[1].read(&layer.weight())?;
        let (width, rows) = (layer.outputs * layer.inputs, layer.outputs);
        let none = Constraint::default();
        let constraint = self.constraints.get(&layer.path).unwrap_or(&none);
        let of_group = |group: usize| {
            let [fit, held]: [Sums; 2] = [0, 1].map(|part| sums(layer, &parts[part], group));
            let problem = Problem {
                layer,
                weights: &weights[group * width..][..width],
                kept: constraint.kept.as_ref().map(|kept| &kept[group * width..][..width]),
                criterion,
                fours: self.fours.get(&layer.path).map(Vec::as_slice),
                bits,
                levels: constraint.levels.as_ref().map(|levels| &levels[group * rows..][..rows]),
            };
            problem.solve([&fit, &held])
        };
        let solutions: Result<Vec<Solution>, _> = (0..layer.groups).into_par_iter().map(of_group).collect();
        Ok(Solved {
            solutions: solutions?,
            spread: Totals::of(targets, layer.all_outputs(), layer.order())?.spreads().iter().sum(),
        })
    }

    /// Writes what was solved for, and keeps a record of it.
    fn take(&mut self, layer: &MatrixLayer, solved: Solved) -> Result<(), TrainError> {
        let Solved { solutions, spread } = solved;
        let weights: Vec<f32> = solutions.iter().flat_map(|one| one.weights.iter().copied()).collect();
        let shifts: Vec<f64> = solutions.iter().flat_map(|one| one.shifts.iter().copied()).collect();
        self.tensors[1].write(&layer.weight(), &weights)?;
        self.add_to_bias(layer, &shifts)?;
        let constraint = self.constraints.entry(layer.path.clone()).or_default();
        if solutions.iter().all(|one| one.kept.is_some()) {
            constraint.kept = Some(solutions.iter().filter_map(|one| one.kept.as_deref()).flatten().copied().collect());
        }
        if solutions.iter().all(|one| one.levels.is_some()) {
            let all = solutions.iter().filter_map(|one| one.levels.as_deref()).flatten().copied();
            constraint.levels = Some(all.collect());
        }
        let share = |place: usize| {
            let missing: f64 = solutions.iter().map(|one| one.missing[place]).sum();
            if spread > 0.0 { missing / spread } else { 0.0 }
        };
        let damping = solutions.iter().map(|one| one.damping).sum::<f64>() / solutions.len().max(1) as f64;
        self.records.push(LayerRecord {
            layer: layer.path.clone(),
            weights: weights.len(),
            zeros: weights.iter().filter(|weight| **weight == 0.0).count(),
            residual_before: share(0),
            residual: share(1),
            damping,
        });
        Ok(())
    }
}

fn merged(both: [&dyn Layer; 2], outputs: &[Pair]) -> Result<Pair, TrainError> {
    let merge = |layer: &dyn Layer, of: &dyn Fn(&Pair) -> &Vec<Tensor>| -> Result<Vec<Tensor>, TrainError> {
        let chunks = outputs.first().map_or(0, |first| of(first).len());
        let one = |chunk: usize| {
            let parts: Vec<Tensor> = outputs.iter().map(|pair| of(pair)[chunk].clone()).collect();
            Ok(layer.merge(&parts)?)
        };
        (0..chunks).map(one).collect()
    };
    Ok(Pair {
        original: merge(both[0], &|pair| &pair.original)?,
        compressed: merge(both[1], &|pair| &pair.compressed)?,
    })
}

/// What is missing from the outputs of a layer, batch by batch.
fn differences(targets: &[Tensor], outputs: &[Tensor]) -> Result<Vec<Tensor>, TrainError> {
    Ok(targets.iter().zip(outputs).map(|(target, output)| target - output).collect::<Result<_, _>>()?)
}

/// Some channels of images, or some entries of rows.
fn picked(batches: &[Tensor], kept: &[usize]) -> Result<Vec<Tensor>, TrainError> {
    let pick = |batch: &Tensor| {
        let indices: Vec<u32> = kept.iter().map(|&channel| channel as u32).collect();
        let indices = Tensor::new(indices, batch.device())?;
        // Tokens have their entries last.
        let dim = if batch.rank() == 3 { 2 } else { 1 };
        batch.contiguous()?.index_select(&indices, dim)
    };
    Ok(batches.iter().map(pick).collect::<Result<_, _>>()?)
}
