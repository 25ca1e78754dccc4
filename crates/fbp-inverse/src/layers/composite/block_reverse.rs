//! Reversal of a block: what can be reversed exactly from the top down, then the rest as a whole.

use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{Real, zeroed_scratch};

use super::affine::AffineWhole;
use super::block::Block;
use super::whole::{copy_observed, join, reborrow};
use crate::layers::newton::{Judge, Newton, Part, judge_scratch, newton_scratch};
use crate::sequence::ALIGN;
use crate::tape::{Tape, TapeMut};
use crate::{Interval, InverseError, ReversePass, ReverseReport, TargetBox, TargetBoxMut};

/// Target boxes of one feature in borrowed memory.
struct Boxes<'m, T> {
    point: &'m mut [T],
    lower: &'m mut [T],
    upper: &'m mut [T],
}

impl<T: Real> Boxes<'_, T> {
    fn view(&self, rows: usize, cols: usize) -> TargetBox<'_, T> {
        let view = |values| MatRef::from_column_major_slice(values, rows, cols);
        let len = rows * cols;
        TargetBox { point: view(&self.point[..len]), lower: view(&self.lower[..len]), upper: view(&self.upper[..len]) }
    }

    fn view_mut(&mut self, rows: usize, cols: usize) -> TargetBoxMut<'_, T> {
        let len = rows * cols;
        TargetBoxMut {
            point: MatMut::from_column_major_slice_mut(&mut self.point[..len], rows, cols),
            lower: MatMut::from_column_major_slice_mut(&mut self.lower[..len], rows, cols),
            upper: MatMut::from_column_major_slice_mut(&mut self.upper[..len], rows, cols),
        }
    }
}

impl<T: Real> Block<T> {
    /// Length of the longest feature on which boxes are handed on.
    fn longest_box(&self) -> usize {
        let count = self.list.operators.len();
        self.list.lens[self.split.together.max(1)..count.max(1)].iter().copied().max().unwrap_or(0)
    }

    pub(super) fn scratch_of_reverse(&self, batch: usize, par: Par) -> StackReq {
        let list = &self.list;
        let (count, together) = (list.operators.len(), self.split.together);
        let feature = |len: usize| StackReq::new_aligned::<T>(len * batch, ALIGN);
        let recorded = feature(list.all().tape_lens().iter().sum()).and(feature(list.lens[count]));
        let boxes = StackReq::all_of(&[feature(self.longest_box()); 6]);
        let mut runs = list.all().forward_on_tape_scratch(batch, par);
        for operator in &list.operators[together..] {
            runs = runs.or(operator.reverse_scratch(batch, par));
        }
        if self.split.written_down {
            runs = runs.or(AffineWhole::<T>::scratch((list.lens[together], list.lens[0]), batch, par));
        } else if together > 0 {
            let part = Part { name: "", sequence: list.range(0, together) };
            runs = runs.or(newton_scratch(&part, list.from(together), batch, par));
        }
        StackReq::all_of(&[recorded, boxes, runs]).or(judge_scratch(self, batch, par))
    }

    /// The reverse pass of a block of two or more operators, which has been checked.
    pub(super) fn reverse_operators(
        &self,
        mut pass: ReversePass<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        let solved = self.solve(&mut pass, par, stack)?;
        let terms = self.list.lens.iter().copied().max().unwrap_or(1);
        let judge = Judge { layer: self, tolerance: self.params.tolerance, terms };
        Ok(join(judge.report(pass, par, stack)?, solved))
    }

    /// Finds the points; only the part of the report that says how is of use.
    fn solve(
        &self,
        pass: &mut ReversePass<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        let (list, batch) = (&self.list, pass.batch());
        let (count, together) = (list.operators.len(), self.split.together);
        let lens = list.all().tape_lens();
        let (tape, stack) = zeroed_scratch(lens.iter().sum::<usize>() * batch, par, stack);
        let mut tape = TapeMut::from_slice(tape, lens, batch);
        if together < count {
            let outputs = list.lens[count];
            let (output, stack) = zeroed_scratch(outputs * batch, par, stack);
            let output = MatMut::from_column_major_slice_mut(output, outputs, batch);
            list.all().forward_on_tape(&self.name, (pass.observed_in, output), tape.rb_mut(), par, stack)?;
        }
        let (tape, len) = (tape.rb(), self.longest_box() * batch);
        let (a, stack) = zeroed_scratch(3 * len, par, stack);
        let (b, stack) = zeroed_scratch(3 * len, par, stack);
        let (mut above, mut below) = (boxes(a, len), boxes(b, len));
        let mut report = ReverseReport::default();
        for k in (together..count).rev() {
            let is_top = k + 1 == count;
            let target_out = if is_top { pass.target_out } else { above.view(list.lens[k + 1], batch) };
            let one = ReversePass {
                observed_in: self.observed(k, pass.observed_in, tape),
                observed_out: if is_top { pass.observed_out } else { self.observed(k + 1, pass.observed_in, tape) },
                target_out,
                in_range: self.range_below(k, pass.in_range),
                target_in: if k == 0 { pass.target_in.rb_mut() } else { below.view_mut(list.lens[k], batch) },
            };
            let reversed = list.operators[k].reverse(one, par, stack)?;
            report = join(report, report.merge(reversed));
            std::mem::swap(&mut above, &mut below);
        }
        if together == 0 {
            return Ok(report);
        }
        let inner = if together == count { pass.target_out } else { above.view(list.lens[together], batch) };
        let part = Part { name: &self.name, sequence: list.range(0, together) };
        if self.split.written_down {
            let one = ReversePass {
                observed_out: if together == count {
                    pass.observed_out
                } else {
                    self.observed(together, pass.observed_in, tape)
                },
                target_out: inner,
                ..reborrow(pass)
            };
            return self.affine.plans(&self.name, &part)?.reverse_checked(&self.name, one, par, stack);
        }
        let above = list.from(together);
        let newton = Newton { name: &self.name, function: &part, above, params: self.params, par };
        copy_observed(pass);
        let effort = newton.solve(pass, inner, stack)?;
        pass.target_in.collapse_to_point();
        Ok(ReverseReport { iters: effort.steps, stopped_early: effort.stopped_early, ..report })
    }

    /// The observed input of operator `k`.
    fn observed<'a>(&self, k: usize, input: MatRef<'a, T>, tape: Tape<'a, T>) -> MatRef<'a, T> {
        self.list.all().point(k, input, tape).0
    }

    /// Range of the input of operator `k`.
    fn range_below(&self, k: usize, in_range: Interval<T>) -> Interval<T> {
        self.list.range(0, k).out_range(in_range)
    }
}

/// Three views in one piece of memory.
fn boxes<T>(values: &mut [T], len: usize) -> Boxes<'_, T> {
    let (point, ends) = values.split_at_mut(len);
    let (lower, upper) = ends.split_at_mut(len);
    Boxes { point, lower, upper }
}
