use std::collections::HashMap;

use candle_core::Tensor;
use fbp_models::Network;
use rayon::prelude::*;

use super::budget::{Curve, allocate};
use super::constraint::{Constraint, Constraints, Tensors};
use super::layers::MatrixLayer;
use super::moments::Totals;
use super::options::{Criterion, Scope};
use super::problem::Problem;
use super::prune::smallest;
use super::ridge::DEFAULT_DAMPING;
use super::statistics::{Chunk, sums};
use super::support::{Rounds, rounds_of};
use super::walk::{Aim, Walk, values};
use crate::TrainError;
use crate::progress::Progress;

/// Columns for each of their entries with which a layer is measured, if the images give as many.
const COLUMNS: usize = 4;
/// Outputs of a group that stand for all of them.
const MEASURED: usize = 16;

/// Images that show what the network makes of a layer's loss, if there are as many.
const SHOWN: usize = 50;

/// Shares out the weights that are left among the layers, by what each layer then misses and what that does to the network's output.
///
/// The constraints keep their number of weights, and of every layer the largest ones; levels are left out. A layer that cannot be
/// measured, as it misses nothing or its outputs do not vary, keeps its number.
///
/// On the first 2,000 test images of Fashion-MNIST, 90 % zero, with as many weights as are among the largest of all layers and with
/// this (two or three seeds, on the way to commit 01444ed): `cnn-mnist-large` (100 images) 85.0 and 86.3 %, `simple-vit-v2` 81.6 and 83.3 %, `resnet20` 92.0 and 92.1 %.
///
/// # Errors
/// [`TrainError::Model`] for images of another shape.
pub(super) fn share_out(
    network: &Network,
    images: &[Tensor],
    constraints: &mut Constraints,
    progress: &dyn Progress,
) -> Result<(), TrainError> {
    let mut samples = 0;
    let is_shown = |batch: &&Tensor| {
        let is_short = samples < SHOWN;
        samples += batch.dim(0).unwrap_or(0);
        is_short
    };
    let shown: Vec<Tensor> = images.iter().take_while(is_shown).cloned().collect();
    if shown.is_empty() {
        return Ok(());
    }
    let shown = Tensor::cat(&shown, 0)?;
    let copy = network.duplicate()?;
    let networks = [network, &copy];
    let outputs = network.infer(&shown)?;
    let mut walk = Walk {
        plan: &network.spec().plan()?,
        networks,
        tensors: networks.map(Tensors::of),
        channels: &HashMap::new(),
        constraints: &mut Constraints::new(),
        fours: &HashMap::new(),
        aim: Aim::Measure { images: &shown, outputs: &outputs },
        progress,
        records: Vec::new(),
        curves: Vec::new(),
    };
    walk.run(images.to_vec())?;
    let all = walk.curves.len();
    let measured: Vec<(String, Curve)> =
        walk.curves.into_iter().filter_map(|(path, curve)| Some((path, curve?))).collect();
    if measured.len() < all {
        progress.note(&format!(
            "{} of {all} layers keep as many weights as their sizes say: what they miss could not be measured",
            all - measured.len()
        ));
    }
    let (paths, curves): (Vec<String>, Vec<Curve>) = measured.into_iter().unzip();
    let is_kept = |path: &String| constraints.get(path).and_then(|own| own.kept.as_ref());
    let total = paths.iter().filter_map(is_kept).flatten().filter(|kept| **kept).count();
    let tensors = Tensors::of(network);
    for (path, count) in paths.iter().zip(allocate(&curves, total)) {
        let weights = tensors.read(&format!("{path}.weight"))?;
        let gone = 1.0 - count as f64 / weights.len().max(1) as f64;
        if let Some(own) = constraints.get_mut(path) {
            *own = Constraint { kept: smallest(&[weights], gone, Scope::Layer).pop(), levels: None };
        }
    }
    Ok(())
}

impl Walk<'_> {
    /// What a layer misses with how many weights, measured on some of its outputs; none if that cannot be found.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if a number cannot be read.
    pub(super) fn measure(
        &self,
        layer: &MatrixLayer,
        inputs: &[Tensor],
        targets: &[Tensor],
        (images, outputs): (&Tensor, &Tensor),
    ) -> Result<Option<Curve>, TrainError> {
        let mut own = layer.clone();
        own.outputs = layer.outputs.min(MEASURED);
        let rows: Vec<usize> = (0..own.outputs).map(|k| k * layer.outputs / own.outputs).collect();
        let inputs = enough(layer, inputs);
        let spread = Totals::of(&targets[..inputs.len()], layer.all_outputs(), layer.order())?.spreads();
        let inputs = values(inputs)?;
        // Nothing is missing while all weights are there.
        let missing = |(input, samples): &(Vec<f32>, usize)| {
            let positions = own.positions(input.len() / samples.max(&1));
            (vec![0.0; samples * positions * own.all_outputs()], *samples)
        };
        let missing: Vec<(Vec<f32>, usize)> = inputs.iter().map(missing).collect();
        let chunks = Chunk::all(&inputs, &missing);
        let weights = self.tensors[1].read(&layer.weight())?;
        let width = layer.outputs * layer.inputs;
        let of_group = |group: usize| {
            let some = |&row: &usize| &weights[group * width + row * layer.inputs..][..layer.inputs];
            let problem = Problem {
                layer: &own,
                weights: &rows.iter().flat_map(some).copied().collect::<Vec<f32>>(),
                kept: None,
                criterion: Criterion::Magnitude,
                fours: None,
                bits: None,
                levels: None,
            };
            let total = sums(&own, &chunks, group);
            rounds_of(&problem, &total, DEFAULT_DAMPING * total.scale(layer.inputs))
        };
        let found: Option<Vec<Rounds>> = (0..layer.groups).into_par_iter().map(of_group).collect();
        let Some(found) = found else { return Ok(None) };
        let places = (0..layer.groups).flat_map(|group| rows.iter().map(move |row| group * layer.outputs + row));
        let of_rows: f64 = places.map(|output| spread[output]).sum();
        let mut points = Vec::new();
        for round in 0..found.iter().map(|one| one.points.len()).min().unwrap_or(0) {
            let sum = |of: fn(&(usize, f64)) -> f64| found.iter().map(|one| of(&one.points[round])).sum::<f64>();
            let share = sum(|point| point.0 as f64) / (own.all_outputs() * own.inputs) as f64;
            points.push((share, sum(|point| point.1) / of_rows));
        }
        let (mut changed, mut shifts) = (weights.clone(), vec![0.0; layer.all_outputs()]);
        for (group, one) in found.iter().enumerate() {
            for (k, row) in rows.iter().enumerate() {
                let new = &one.weights[k * layer.inputs..][..layer.inputs];
                changed[group * width + row * layer.inputs..][..layer.inputs].copy_from_slice(new);
                shifts[group * layer.outputs + row] = one.shifts[k];
            }
        }
        let missing: f64 = found.iter().map(|one| one.missing).sum();
        let now = self.outputs_with(layer, (&changed, &shifts), images)?;
        let worth = share_of_change(&now, outputs)? / (missing / spread.iter().sum::<f64>());
        let least = layer.all_outputs().min(weights.len());
        let curve = Curve { weights: weights.len(), points, worth, least };
        let is_finite = worth.is_finite() && curve.points.iter().all(|point| point.1.is_finite());
        Ok(is_finite.then_some(curve))
    }

    /// What the network gives with other weights of a layer, and with shifts of its outputs.
    fn outputs_with(
        &self,
        layer: &MatrixLayer,
        (weights, shifts): (&[f32], &[f64]),
        images: &Tensor,
    ) -> Result<Tensor, TrainError> {
        let tensors = &self.tensors[1];
        // A bias takes the shift, or the mean of the normalisation that follows.
        let (constant, sign) = match &layer.norm {
            _ if layer.has_bias => (layer.bias(), 1.0),
            Some(norm) => (format!("{norm}.running_mean"), -1.0),
            None => (String::new(), 0.0),
        };
        let (before, constants) = (tensors.read(&layer.weight())?, tensors.read(&constant)?);
        let shifted = |(value, shift): (&f32, &f64)| (f64::from(*value) + sign * shift) as f32;
        tensors.write(&layer.weight(), weights)?;
        tensors.write(&constant, &constants.iter().zip(shifts).map(shifted).collect::<Vec<_>>())?;
        let now = self.networks[1].infer(images);
        tensors.write(&layer.weight(), &before)?;
        tensors.write(&constant, &constants)?;
        Ok(now?)
    }
}

/// The first batches, as many as give enough columns to measure a layer with.
fn enough<'t>(layer: &MatrixLayer, inputs: &'t [Tensor]) -> &'t [Tensor] {
    let mut columns = 0;
    let is_short = |input: &&Tensor| {
        let before = columns;
        let samples = input.dim(0).unwrap_or(0);
        columns += samples * layer.positions(input.elem_count() / samples.max(1));
        before < COLUMNS * layer.column_len()
    };
    &inputs[..inputs.iter().take_while(is_short).count()]
}

/// `Σ (now - before)²` as a share of `Σ (before - mean)²`; no number where the outputs vary by no more than they are rounded.
fn share_of_change(now: &Tensor, before: &Tensor) -> Result<f64, TrainError> {
    let square = |difference: &Tensor| -> Result<f64, TrainError> {
        Ok(f64::from(difference.sqr()?.sum_all()?.to_scalar::<f32>()?))
    };
    let spread = square(&before.broadcast_sub(&before.mean_keepdim(0)?)?)?;
    // Error of a mean of so many numbers.
    let rounding = before.dim(0)? as f64 * f64::from(f32::EPSILON);
    let varies = spread > rounding.powi(2) * square(before)?;
    Ok(if varies { square(&(now - before)?)? / spread } else { f64::NAN })
}
