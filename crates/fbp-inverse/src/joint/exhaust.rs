//! Searches without end in sight: descents from ever new starts, until several in a row have brought nothing nearer.
//!
//! Every descent here is a search of its own: it begins without a target, what it finds is refined, and the nearer one of both
//! targets stays. (The descents of `settle` only look for what beats the target at once, which costs less and finds less.)
//! Targets *proposed* by a cheaper way, layer by layer, take part as searches that have found something already. So no target
//! is farther than what that way gave.
//!
//! # Source
//! Multistart with a stopping rule: Törn & Žilinskas, *Global Optimization*, LNCS 350 (1989), ch. 4. Starts and scales: own choice.

use faer::MatMut;
use faer::dyn_stack::MemStack;
use fbp_linalg::{Real, distance_sq};

use super::descend::Descent;
use super::memory::{Group, Incumbents, JointMemory};
use super::problem::Problem;
use super::refine::Refinement;
use super::starts::Origin;
use super::targets::Targets;
use crate::InverseError;

/// Bend above which other starts are tried: below it the rest is one linear piece from the observed feature to the target.
const BENT: f64 = 1e-6;
/// Most descents per sample.
const DESCENTS: usize = 96;
/// Descents in a row that may bring nothing.
const STALE: usize = 20;
/// Share of the distance that counts as something.
const NEARER: f64 = 1e-3;
/// Most steps of a descent.
const STEPS: usize = 400;
/// Lengths and pulls of the descents, by turns.
const PACES: [[f64; 2]; 4] = [[1.0, 0.1], [0.3, 0.2], [0.1, 0.3], [2.0, 0.1]];
/// How far from the observed feature they start, in distances of the target.
const SPREADS: [f64; 3] = [1.0, 0.5, 2.0];
/// Every second search climbs to the goal from far away, and descends from there.
const CLIMBS: usize = 2;
/// The way back from the goal.
const BACK: Descent = Descent::new(Origin::Target, STEPS, [0.3, 0.2]);
/// First seed of the starts around the observed feature; those below belong to `settle`.
const FIRST_SEED: usize = 4;

/// Why there is memory for what searches are compared with.
const MADE: &str = "made where the search begins";

/// The descent of search number `number`: from the observed feature at every pace first, then from around it.
fn descent(number: usize) -> Descent {
    let turn = number / CLIMBS;
    let origin = match turn.checked_sub(PACES.len()) {
        None => Origin::Observed,
        Some(later) => Origin::Around(FIRST_SEED + later, SPREADS[later % SPREADS.len()]),
    };
    Descent::new(origin, STEPS, PACES[turn % PACES.len()])
}

/// Writes one point for every sample of the batch.
pub(crate) type WritePoints<'a, T> = &'a mut dyn FnMut(MatMut<'_, T>, &mut MemStack) -> Result<(), InverseError>;

impl<T: Real> JointMemory<T> {
    /// Takes the targets that are at the goal and within the bounds as proposals for the next search, and counts all open
    /// samples as missed again.
    pub(crate) fn propose(&mut self, problem: &Problem<'_, T>, targets: &mut Targets<T>) {
        let (bounds, incumbents) = (problem.bounds(), self.incumbents(problem));
        for &sample in problem.open {
            incumbents.proposed[sample] = !targets.is_missed(sample) && bounds.contain(targets.point(sample));
            if incumbents.proposed[sample] {
                incumbents.proposals.set(sample, targets.point(sample), targets.output(sample));
            }
        }
        targets.restart(problem);
    }

    /// Makes those of the group active that have found a target while another one is set aside.
    fn activate_found(&mut self) {
        let Group { samples, progress } = &self.group;
        let has_found = |sample: &usize| progress[*sample].is_aside() && progress[*sample].has_reached();
        self.iterates.activate(samples.iter().copied().filter(has_found));
    }

    /// Sets the targets of the active samples aside, so that a search begins without them.
    fn set_aside(&mut self, targets: &Targets<T>) {
        let Self { iterates, group, incumbents, .. } = self;
        let incumbents = incumbents.as_mut().expect(MADE);
        for &sample in &iterates.active {
            incumbents.targets.set(sample, targets.point(sample), targets.output(sample));
            group.progress[sample].set_aside();
        }
    }

    /// Ends the searches that began when targets were set aside: the nearer one of both stays.
    fn keep_nearer(&mut self, targets: &mut Targets<T>) {
        let incumbents = &self.incumbents.as_ref().expect(MADE).targets;
        for &sample in &self.group.samples {
            let progress = &mut self.group.progress[sample];
            if progress.is_aside() && !progress.take_back(NEARER) {
                targets.set(sample, incumbents.point(sample), incumbents.output(sample));
            }
        }
    }

    /// Memory for what searches are compared with, made when it is first asked for.
    fn incumbents(&mut self, problem: &Problem<'_, T>) -> &mut Incumbents<T> {
        let Self { incumbents, largest, group, .. } = self;
        let capacity = group.progress.len();
        let incumbents = incumbents.get_or_insert_with(|| Incumbents {
            targets: Targets::new(*largest, capacity),
            proposals: Targets::new(*largest, capacity),
            proposed: vec![false; capacity],
        });
        let lens = [problem.len(), problem.rest.out_len()];
        incumbents.targets.lay_out(lens);
        incumbents.proposals.lay_out(lens);
        incumbents
    }
}

impl<T: Real> Problem<'_, T> {
    /// Looks for nearer targets of the group: among proposals, and by descents from many starts.
    pub(super) fn exhaust(
        &self,
        memory: &mut JointMemory<T>,
        targets: &mut Targets<T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        memory.incumbents(self);
        self.try_proposals(memory, targets, stack)?;
        for number in 0..DESCENTS {
            let Group { samples, progress } = &memory.group;
            let goes_on = |sample: &usize| {
                let progress = &progress[*sample];
                progress.has_reached() && progress.bend > BENT && progress.stale < STALE
            };
            memory.iterates.activate(samples.iter().copied().filter(goes_on));
            if memory.iterates.active.is_empty() {
                break;
            }
            self.measure_steepness(memory, targets, stack)?;
            memory.set_aside(targets);
            if number % CLIMBS == CLIMBS - 1 {
                let JointMemory { iterates, descents, .. } = &mut *memory;
                self.scatter(FIRST_SEED + number, iterates, &mut descents.paces);
                memory.iterates.evaluate((self.rest, self.par), stack)?;
                self.descend(Descent::CLIMB, memory, targets, stack)?;
                memory.activate_found();
                self.measure_steepness(memory, targets, stack)?;
                self.descend(BACK, memory, targets, stack)?;
            } else {
                let descent = descent(number);
                self.load(descent.origin, targets, &memory.group, &mut memory.iterates);
                memory.iterates.evaluate((self.rest, self.par), stack)?;
                self.descend(descent, memory, targets, stack)?;
            }
            memory.activate_found();
            self.refine(Refinement::FIRST, memory, targets, stack)?;
            memory.keep_nearer(targets);
        }
        Ok(())
    }

    /// Looks for nearer targets of the open samples among points that `image` writes for all samples: what the targets `below` a
    /// stage become behind it, which the rest turns into the goal as well. Returns the number of samples that miss the goal.
    pub(crate) fn reconsider(
        &self,
        (below, image): (&Targets<T>, WritePoints<'_, T>),
        memory: &mut JointMemory<T>,
        targets: &mut Targets<T>,
        stack: &mut MemStack,
    ) -> Result<usize, InverseError> {
        let bounds = self.bounds();
        memory.incumbents(self);
        let JointMemory { iterates, group, incumbents, .. } = &mut *memory;
        let incumbents = incumbents.as_mut().expect(MADE);
        image(incumbents.proposals.points_mut(self.observed.ncols()), stack)?;
        group.restart(self.open);
        for &sample in self.open {
            if !targets.is_missed(sample) {
                group.progress[sample].best = distance_sq(targets.point(sample), self.observed(sample));
            }
        }
        let is_proposed =
            |sample: &usize| !below.is_missed(*sample) && bounds.contain(incumbents.proposals.point(*sample));
        iterates.restart(self.rest, self.open.iter().copied().filter(is_proposed));
        for at in 0..iterates.active.len() {
            let point = incumbents.proposals.point(iterates.active[at]);
            iterates.point_mut(at).copy_from_slice(point);
        }
        iterates.evaluate((self.rest, self.par), stack)?;
        for (at, &sample) in iterates.active.iter().enumerate() {
            let output = iterates.output(at);
            incumbents.proposals.set(sample, iterates.point(at), output);
            incumbents.proposed[sample] = self.goal_of(sample).is_reached(output);
        }
        self.try_proposals(memory, targets, stack)?;
        self.land(memory, targets, stack)?;
        Ok(targets.note(self.open, |sample| memory.group.progress[sample].has_reached()))
    }

    /// Refines what was proposed for samples of the group, and keeps it where it is nearer than the target.
    fn try_proposals(
        &self,
        memory: &mut JointMemory<T>,
        targets: &mut Targets<T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let JointMemory { iterates, group, incumbents, .. } = &mut *memory;
        let proposed = &incumbents.as_ref().expect(MADE).proposed;
        iterates.activate(group.samples.iter().copied().filter(|&sample| proposed[sample]));
        if iterates.active.is_empty() {
            return Ok(());
        }
        memory.set_aside(targets);
        let JointMemory { iterates, group, incumbents, .. } = &mut *memory;
        let incumbents = incumbents.as_mut().expect(MADE);
        for &sample in &iterates.active {
            incumbents.proposed[sample] = false;
            let (point, output) = (incumbents.proposals.point(sample), incumbents.proposals.output(sample));
            targets.set(sample, point, output);
            group.progress[sample].best = distance_sq(point, self.observed(sample));
        }
        self.refine(Refinement::FIRST, memory, targets, stack)?;
        memory.keep_nearer(targets);
        Ok(())
    }
}
