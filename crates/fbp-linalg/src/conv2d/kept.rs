//! Weights in the order in which a kernel reads them, kept from call to call.

use std::fmt;
use std::sync::OnceLock;

use faer::Par;

use crate::parallel::CACHE_LINE;
use crate::{Real, get_or_make, zeros};

/// The weights of a call, and where they are kept in the order in which they are read, if that pays.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a, T> {
    pub(super) values: &'a [T],
    pub(super) kept: Option<&'a Kept<T>>,
}

/// Orders in which the weights of one direction are read.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// By tiles of pixels, or transformed.
    Pixels,
    /// By vectors of samples.
    Samples,
}

/// The weights of one direction in the orders that have been needed. A copy has none of them yet.
pub(super) struct Kept<T> {
    orders: [OnceLock<Aligned<T>>; 2],
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { orders: [const { OnceLock::new() }; 2] }
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.orders.iter().map(|order| order.get().map(|cells| cells.len))).finish()
    }
}

impl<T: Real> Kept<T> {
    /// The weights in this order; the first time, `write` makes them from `len` zeros.
    pub(super) fn get(&self, order: Order, len: usize, par: Par, write: impl FnOnce(&mut [T])) -> &[T] {
        let make = || {
            let mut cells = Aligned::zeros(len, par);
            write(cells.values_mut());
            cells
        };
        let cell = &self.orders[order as usize];
        match par {
            // One thread makes them and others wait, as whoever makes them does so without other threads, which might be those.
            Par::Seq => cell.get_or_init(make),
            Par::Rayon(_) => get_or_make(cell, make),
        }
        .values()
    }
}

/// Values that begin at a cache line. Not to be copied, as a copy need not.
struct Aligned<T> {
    cells: Vec<T>,
    first: usize,
    len: usize,
}

impl<T: Real> Aligned<T> {
    fn zeros(len: usize, par: Par) -> Self {
        let spare = CACHE_LINE / size_of::<T>();
        let cells: Vec<T> = zeros(len + spare, par);
        let first = cells.as_ptr().align_offset(CACHE_LINE).min(spare);
        Self { cells, first, len }
    }

    fn values(&self) -> &[T] {
        &self.cells[self.first..][..self.len]
    }

    fn values_mut(&mut self) -> &mut [T] {
        &mut self.cells[self.first..][..self.len]
    }
}
