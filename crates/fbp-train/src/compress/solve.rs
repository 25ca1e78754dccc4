use rayon::prelude::*;

use super::options::Bits;
use super::problem::{Problem, columns};
use super::ridge::{by_support, choose_damping};
use super::rounding::{Compensation, Levels, choose_two_of_four, round_compensated};
use super::statistics::Sums;
use super::support::by_reconstruction;
use crate::TrainError;

/// Weights that were solved for.
#[derive(Clone, Debug)]
pub(super) struct Solution {
    /// One output after the other.
    pub(super) weights: Vec<f32>,
    /// What is added to the bias of every output.
    pub(super) shifts: Vec<f64>,
    /// Which weights stay, if others than the largest ones might.
    pub(super) kept: Option<Vec<bool>>,
    pub(super) levels: Option<Vec<Levels>>,
    /// `Σ r²` over all outputs with the weights as they were compressed, and with those solved for.
    pub(super) missing: [f64; 2],
    /// Damping, as a share of the mean diagonal entry.
    pub(super) damping: f64,
}

impl Problem<'_> {
    /// Changes that only compress: to zero, and to the nearest level.
    fn compressed(&self, output: usize) -> Vec<f64> {
        let level = |weight: f64| self.levels.map_or(weight, |levels| levels[output].round(weight));
        let change = |(entry, &weight): (usize, &f32)| {
            let weight = f64::from(weight);
            if self.stays(output, entry) { level(weight) - weight } else { -weight }
        };
        self.change(self.row(output).iter().enumerate().map(change))
    }

    /// Solves for all outputs, given the sums over two parts of the images.
    ///
    /// # Errors
    /// [`TrainError::Singular`] if a number on the way is not finite.
    pub(super) fn solve(&self, [fit, held]: [&Sums; 2]) -> Result<Solution, TrainError> {
        let outputs = self.layer.outputs;
        let total = fit.clone().plus(held);
        let mut supports: Vec<Vec<usize>> = (0..outputs).map(|o| self.support(|entry| self.stays(o, entry))).collect();
        let zero = columns(&self.zeroed_outside(&supports));
        let parts = [fit.moved(zero.as_ref()), held.moved(zero.as_ref())];
        let damping = choose_damping(&supports, self.layer.inputs, [&parts[0], &parts[1]]);
        let lambda = damping * total.scale(self.layer.inputs);
        let mut changes = self.fitted(&supports, &total, lambda)?;
        let mut kept = None;
        if self.chooses() {
            self.choose(&total, lambda, &mut supports, &mut changes)?;
            let of = |support: &Vec<usize>| {
                let mut stays = vec![false; self.layer.column_len()];
                support.iter().for_each(|&entry| stays[entry] = true);
                stays.truncate(self.layer.inputs);
                stays
            };
            kept = Some(supports.iter().flat_map(of).collect());
        }
        let before: Vec<Vec<f64>> = (0..outputs).map(|o| self.compressed(o)).collect();
        let levels = self.bits.map(|bits| self.round(&total, &mut changes, (&supports, &before), (bits, lambda)));
        let measure = |changes: &[Vec<f64>]| total.residuals(columns(changes).as_ref()).iter().sum::<f64>();
        let missing = [measure(&before), measure(&changes)];
        if !missing.iter().all(|sum| sum.is_finite()) {
            return Err(TrainError::Singular { what: "the inputs of a layer" });
        }
        let weights = (0..outputs).flat_map(|o| self.new_row(o, &changes[o])).collect();
        let shifts = changes.iter().map(|change| change[self.layer.inputs..].iter().sum()).collect();
        Ok(Solution { weights, shifts, kept, levels, missing, damping })
    }

    /// Takes other weights than the largest ones where less is missing with them.
    fn choose(
        &self,
        total: &Sums,
        lambda: f64,
        supports: &mut Vec<Vec<usize>>,
        changes: &mut Vec<Vec<f64>>,
    ) -> Result<(), TrainError> {
        let Some(fours) = self.fours else {
            let Some(chosen) = by_reconstruction(self, total, lambda) else { return Ok(()) };
            let found = self.fitted(&chosen, total, lambda)?;
            let missing = |changes: &[Vec<f64>]| total.residuals(columns(changes).as_ref()).iter().sum::<f64>();
            if missing(&found) < missing(changes) {
                (*supports, *changes) = (chosen, found);
            }
            return Ok(());
        };
        let dense = vec![self.support(|_| true); supports.len()];
        let chosen = self.two_of_four(total, &self.fitted(&dense, total, lambda)?, fours, lambda);
        let found = self.fitted(&chosen, total, lambda)?;
        for (o, (support, change)) in chosen.into_iter().zip(found).enumerate() {
            if total.residual(o, &change) < total.residual(o, &changes[o]) {
                (supports[o], changes[o]) = (support, change);
            }
        }
        Ok(())
    }

    /// The entries that every output may use, two of every four, by what the loss of the others costs once these make up for it.
    fn two_of_four(&self, total: &Sums, dense: &[Vec<f64>], fours: &[[usize; 4]], lambda: f64) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = fours.iter().flatten().copied().collect();
        order.extend(self.layer.inputs..self.layer.column_len());
        let places: Vec<[usize; 4]> = (0..fours.len()).map(|k| [4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3]).collect();
        let compensation = Compensation::new(&total.gram, &order, lambda);
        let choose = |output: usize| {
            let Some(compensation) = &compensation else {
                return self.support(|entry| self.stays(output, entry));
            };
            let row = self.row(output);
            let old = |entry: usize| row.get(entry).map_or(0.0, |&weight| f64::from(weight));
            let mut weights: Vec<f64> = order.iter().map(|&entry| old(entry) + dense[output][entry]).collect();
            let mut stays = vec![true; self.layer.inputs];
            for place in choose_two_of_four(&mut weights, &places, compensation) {
                stays[order[place]] = false;
            }
            self.support(|entry| stays[entry])
        };
        (0..self.layer.outputs).into_par_iter().map(choose).collect()
    }

    /// Rounds all outputs, each in the way that misses least: with compensation, or to the nearest levels after or before the solve.
    fn round(
        &self,
        total: &Sums,
        changes: &mut [Vec<f64>],
        (supports, before): (&[Vec<usize>], &[Vec<f64>]),
        (bits, lambda): (Bits, f64),
    ) -> Vec<Levels> {
        let of_group = |(support, outputs): &(&[usize], Vec<usize>)| {
            // What is seen most is rounded first, while there is still much to make up for it.
            let mut order: Vec<usize> = support.iter().copied().filter(|&k| k < self.layer.inputs).collect();
            order.sort_by(|&a, &b| total.gram[(b, b)].total_cmp(&total.gram[(a, a)]).then(a.cmp(&b)));
            let count = order.len();
            order.extend(self.layer.inputs..self.layer.column_len());
            let compensation = Compensation::new(&total.gram, &order, lambda);
            let of = |&output: &usize| {
                self.round_one(
                    total,
                    output,
                    &changes[output],
                    (&before[output], bits),
                    &order[..],
                    count,
                    compensation.as_ref(),
                )
            };
            outputs.par_iter().map(of).collect::<Vec<_>>()
        };
        let groups = by_support(supports);
        let found: Vec<Vec<(Levels, Vec<f64>)>> = groups.par_iter().map(of_group).collect();
        let mut levels = vec![Levels { scale: 0.0, largest: bits.largest() }; changes.len()];
        let owners: Vec<usize> = groups.iter().flat_map(|(_, outputs)| outputs.iter().copied()).collect();
        for (output, (own, change)) in owners.into_iter().zip(found.into_iter().flatten()) {
            (levels[output], changes[output]) = (own, change);
        }
        levels
    }

    #[expect(clippy::too_many_arguments, reason = "one output of a group, and what the group shares")]
    fn round_one(
        &self,
        total: &Sums,
        output: usize,
        change: &[f64],
        (before, bits): (&[f64], Bits),
        order: &[usize],
        count: usize,
        compensation: Option<&Compensation>,
    ) -> (Levels, Vec<f64>) {
        let row = self.row(output);
        let old = |entry: usize| row.get(entry).map_or(0.0, |&weight| f64::from(weight));
        let fitted: Vec<f64> = order.iter().map(|&entry| old(entry) + change[entry]).collect();
        let levels = Levels::of(&fitted[..count], bits);
        let as_change = |weights: &[f64]| {
            let mut change: Vec<f64> = change.to_vec();
            order.iter().zip(weights).for_each(|(&entry, weight)| change[entry] = weight - old(entry));
            change
        };
        let mut plain = fitted.clone();
        plain[..count].iter_mut().for_each(|weight| *weight = levels.round(*weight));
        let mut candidates = vec![(levels, as_change(&plain))];
        if let Some(compensation) = compensation {
            let mut weights = fitted;
            round_compensated(&mut weights, count, levels, compensation);
            candidates.push((levels, as_change(&weights)));
        }
        if let (Some(own), false) = (self.levels, self.chooses()) {
            candidates.push((own[output], before.to_vec()));
        }
        let missing = |candidate: &(Levels, Vec<f64>)| total.residual(output, &candidate.1);
        candidates.sort_by(|a, b| missing(a).total_cmp(&missing(b)));
        candidates.swap_remove(0)
    }
}
