//! The linear problem of a step of a square function by GMRES: products with the Jacobian alone.

use faer::dyn_stack::MemStack;
use fbp_linalg::Real;

use super::memory::Memory;
use super::problem::{Newton, Wanted};
use super::rotations::BASIS;
use super::vectors::{add_scaled, dot, norm, of, of_mut, view, write_residual};
use crate::InverseError;

/// A solve that leaves more of the residual than this has failed.
const USELESS: f64 = 0.9;

impl<T: Real> Newton<'_, T> {
    /// Writes the step of the first `count` samples; those for which it fails are marked as stalled.
    pub(super) fn solve_square(
        &self,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        count: usize,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let Memory { sizes, places, slots, point, step, output, product, basis, rotations, tape, .. } = memory;
        let (len, block) = (sizes.inputs, sizes.inputs * sizes.group);
        let slots = &mut slots[..count];
        for (at, slot) in slots.iter_mut().enumerate() {
            let (lower, upper) = wanted.ends(places[slot.place].sample);
            let first = of_mut(basis, len, at);
            write_residual(of(output, len, at), lower, upper, first);
            slot.first = norm(first);
            (slot.now, slot.open) = (slot.first, slot.first > 0.0 && slot.first.is_finite());
            rotations[at].restart(slot.first);
            scale(first, if slot.open { slot.first.recip() } else { 0.0 });
        }
        for k in 0..BASIS {
            if slots.iter().all(|slot| !slot.open) {
                break;
            }
            let (known, next) = basis.split_at_mut((k + 1) * block);
            let last = view(&known[k * block..], len, count);
            self.push((view(point, len, count), &*tape), last, product, stack)?;
            for (at, slot) in slots.iter_mut().enumerate() {
                let next = of_mut(next, len, at);
                if !slot.open {
                    next.fill(T::ZERO);
                    continue;
                }
                next.copy_from_slice(of(product, len, at));
                let mut column = [0.0; BASIS];
                for (i, entry) in column[..=k].iter_mut().enumerate() {
                    let vector = of(&known[i * block..], len, at);
                    *entry = dot(next, vector);
                    add_scaled(next, -*entry, vector);
                }
                let below = norm(next);
                slot.now = rotations[at].push(&column, below);
                scale(next, if below > 0.0 { below.recip() } else { 0.0 });
                slot.open = slot.now > slot.share * slot.first && below > 0.0 && below.is_finite();
            }
        }
        for (at, slot) in slots.iter_mut().enumerate() {
            let step = of_mut(step, len, at);
            step.fill(T::ZERO);
            let coefficients = rotations[at].solution();
            for (k, &coefficient) in coefficients[..rotations[at].count].iter().enumerate() {
                add_scaled(step, coefficient, of(&basis[k * block..], len, at));
            }
            let useful = slot.now <= USELESS * slot.first;
            slot.stalled |= !useful;
        }
        Ok(())
    }
}

fn scale<T: Real>(values: &mut [T], factor: f64) {
    let factor = T::from_f64(factor);
    values.iter_mut().for_each(|v| *v *= factor);
}
