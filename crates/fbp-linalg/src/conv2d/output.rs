//! Where kernels write: memory that has values already, or fresh memory, which gets zeros just before they do.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::Real;
use crate::parallel::zeroed;

/// The outputs of some samples, of which the first `written` have values. The others have zeros once it is dropped.
///
/// Fresh memory is slow to write for the first time. Zeros for a few samples at a time, right before a kernel writes these, cost
/// next to nothing, as they do not leave the caches.
pub(super) struct Output<'a, T: Real> {
    cells: &'a mut [MaybeUninit<T>],
    written: usize,
}

impl<'a, T: Real> Output<'a, T> {
    /// Memory that has values.
    pub(super) fn of(values: &'a mut [T]) -> Self {
        let written = values.len();
        #[expect(unsafe_code, reason = "there is no safe way to forget that memory has values")]
        // SAFETY: the layouts are the same, and nothing but values is ever written to the cells.
        let cells = unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<T>]) };
        Self { cells, written }
    }

    /// The first `len` values.
    #[inline(always)]
    pub(super) fn first(&mut self, len: usize) -> &mut [T] {
        if let Some(fresh) = self.cells.get_mut(self.written..len) {
            zeroed(fresh);
            self.written = len;
        }
        #[expect(unsafe_code, reason = "there is no safe way to tell that memory has values")]
        // SAFETY: the first `written` cells have values, and these are at least `len`, or the slice does not exist.
        unsafe {
            self.cells[..len].assume_init_mut()
        }
    }

    /// Parts of `size` values.
    pub(super) fn par_chunks(mut self, size: usize) -> impl IndexedParallelIterator<Item = Self> {
        let written = self.written;
        let part = move |(i, cells): (usize, &'a mut [MaybeUninit<T>])| Self {
            written: written.saturating_sub(i * size).min(cells.len()),
            cells,
        };
        std::mem::take(&mut self.cells).par_chunks_mut(size).enumerate().map(part)
    }
}

impl<T: Real> Drop for Output<'_, T> {
    fn drop(&mut self) {
        self.first(self.cells.len());
    }
}

/// A vector of `len` values that `write` makes.
///
/// # Safety
/// `write` drops the output, or all parts of it.
#[expect(unsafe_code, reason = "there is no safe way to write a vector on several threads without writing it twice")]
pub(super) unsafe fn fresh<T: Real>(len: usize, write: impl FnOnce(Output<'_, T>)) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    write(Output { cells: &mut values.spare_capacity_mut()[..len], written: 0 });
    // SAFETY: all outputs have been dropped, and those cover all cells.
    unsafe {
        values.set_len(len);
    }
    values
}

#[cfg(test)]
#[expect(unsafe_code, reason = "fresh memory is tested")]
mod tests {
    use super::*;

    fn fresh<T: Real>(len: usize, write: impl FnOnce(Output<'_, T>)) -> Vec<T> {
        // SAFETY: all that is written here is dropped.
        unsafe { super::fresh(len, write) }
    }

    #[test]
    fn what_nobody_writes_is_zero() {
        let values = fresh::<f32>(7, |mut output| {
            output.first(3).fill(2.0);
            output.first(5)[4] = 1.0;
        });
        assert_eq!(values, [2.0, 2.0, 2.0, 0.0, 1.0, 0.0, 0.0]);
        let values = fresh::<f64>(5, |output| {
            output.par_chunks(2).enumerate().for_each(|(i, mut part)| part.first(1)[0] = i as f64);
        });
        assert_eq!(values, [0.0, 0.0, 1.0, 0.0, 2.0]);
        assert_eq!(fresh::<f32>(0, |_| ()), [0.0; 0]);
    }

    #[test]
    fn values_are_kept() {
        let mut values = [1.0_f32, 2.0, 3.0];
        Output::of(&mut values).par_chunks(2).for_each(|mut part| part.first(1)[0] += 4.0);
        assert_eq!(values, [5.0, 2.0, 7.0]);
    }
}
