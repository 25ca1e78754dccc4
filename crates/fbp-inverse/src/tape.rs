use faer::{MatMut, MatRef};
use fbp_linalg::Real;

/// Memory in which a forward pass leaves what the products at its point need; see [`FrozenRest`](crate::joint::FrozenRest).
#[derive(Debug)]
pub struct TapeMemory<T> {
    values: Vec<T>,
    capacity: usize,
}

impl<T: Real> TapeMemory<T> {
    /// Memory for up to `capacity` samples of `len` numbers each: the sum of the lengths of a tape's features.
    pub fn new(len: usize, capacity: usize) -> Self {
        Self { values: vec![T::ZERO; len * capacity], capacity }
    }

    /// The tape of features of these lengths for `batch` samples.
    pub fn view<'a>(&'a self, lens: &'a [usize], batch: usize) -> Tape<'a, T> {
        Tape { values: &self.values, lens, capacity: self.capacity, first: 0, batch }
    }

    /// The same, to be written.
    pub fn view_mut<'a>(&'a mut self, lens: &'a [usize], batch: usize) -> TapeMut<'a, T> {
        TapeMut { values: &mut self.values, lens, capacity: self.capacity, first: 0, batch }
    }

    /// Copies what is kept of one sample over what is kept of another.
    pub(crate) fn move_sample(&mut self, lens: &[usize], from: usize, to: usize) {
        let mut start = 0;
        for len in lens {
            self.values.copy_within(start + len * from..start + len * (from + 1), start + len * to);
            start += len * self.capacity;
        }
    }
}

/// What a forward pass has left for the products at its point: features, one column per sample.
#[derive(Clone, Copy, Debug)]
pub struct Tape<'a, T> {
    values: &'a [T],
    lens: &'a [usize],
    capacity: usize,
    first: usize,
    batch: usize,
}

impl<'a, T: Real> Tape<'a, T> {
    /// Feature number `index`, without gaps between its columns.
    ///
    /// # Panics
    /// If there is no such feature.
    pub fn feature(&self, index: usize) -> MatRef<'a, T> {
        let (len, start) = (self.lens[index], self.start(index));
        MatRef::from_column_major_slice(&self.values[start..start + len * self.batch], len, self.batch)
    }

    /// The tapes of the first `count` features and of the others, for a rest that is made of parts.
    ///
    /// # Panics
    /// If there are fewer features.
    pub fn split_at(&self, count: usize) -> (Self, Self) {
        let (below, above) = self.values.split_at(self.offset(count));
        let (lens_below, lens_above) = self.lens.split_at(count);
        (Self { values: below, lens: lens_below, ..*self }, Self { values: above, lens: lens_above, ..*self })
    }

    /// The tape of a layer that works on `pieces` equal pieces of every sample (tokens) as samples of their own; `lens` are
    /// those of one piece.
    pub(crate) fn in_pieces(self, pieces: usize, lens: &'a [usize]) -> Self {
        let Self { values, capacity, first, batch, .. } = self;
        Self { values, lens, capacity: capacity * pieces, first: first * pieces, batch: batch * pieces }
    }

    /// The tape of samples `start .. start + count`.
    pub(crate) fn samples(self, start: usize, count: usize) -> Self {
        Self { first: self.first + start, batch: count, ..self }
    }

    /// Where feature `index` of the memory begins.
    fn offset(&self, index: usize) -> usize {
        self.capacity * self.lens[..index].iter().sum::<usize>()
    }

    fn start(&self, index: usize) -> usize {
        self.offset(index) + self.first * self.lens[index]
    }
}

/// A [`Tape`] that a forward pass writes.
#[derive(Debug)]
pub struct TapeMut<'a, T> {
    values: &'a mut [T],
    lens: &'a [usize],
    capacity: usize,
    first: usize,
    batch: usize,
}

impl<'a, T: Real> TapeMut<'a, T> {
    /// A tape of features of these lengths in memory that has room for exactly `batch` samples.
    pub(crate) fn from_slice(values: &'a mut [T], lens: &'a [usize], batch: usize) -> Self {
        debug_assert_eq!(values.len(), lens.iter().sum::<usize>() * batch, "room for a tape");
        Self { values, lens, capacity: batch, first: 0, batch }
    }

    /// What has been written.
    pub fn rb(&self) -> Tape<'_, T> {
        let Self { ref values, lens, capacity, first, batch } = *self;
        Tape { values, lens, capacity, first, batch }
    }

    /// A shorter-lived view of the same memory.
    pub(crate) fn rb_mut(&mut self) -> TapeMut<'_, T> {
        TapeMut { values: self.values, lens: self.lens, capacity: self.capacity, first: self.first, batch: self.batch }
    }

    /// Feature number `index`; its entries are those of an earlier pass until they are written.
    ///
    /// # Panics
    /// If there is no such feature.
    pub fn feature_mut(&mut self, index: usize) -> MatMut<'_, T> {
        let (len, start) = (self.lens[index], self.rb().start(index));
        MatMut::from_column_major_slice_mut(&mut self.values[start..start + len * self.batch], len, self.batch)
    }

    /// The tapes of the first `count` features and of the others.
    ///
    /// # Panics
    /// If there are fewer features.
    pub fn split_at_mut(&mut self, count: usize) -> (TapeMut<'_, T>, TapeMut<'_, T>) {
        let start = self.rb().offset(count);
        let (capacity, first, batch) = (self.capacity, self.first, self.batch);
        let (below, above) = self.values.split_at_mut(start);
        let (lens_below, lens_above) = self.lens.split_at(count);
        (
            TapeMut { values: below, lens: lens_below, capacity, first, batch },
            TapeMut { values: above, lens: lens_above, capacity, first, batch },
        )
    }

    /// As [`Tape::in_pieces`].
    pub(crate) fn in_pieces(self, pieces: usize, lens: &'a [usize]) -> Self {
        let Self { values, capacity, first, batch, .. } = self;
        Self { values, lens, capacity: capacity * pieces, first: first * pieces, batch: batch * pieces }
    }

    /// As [`Tape::samples`].
    pub(crate) fn samples(self, start: usize, count: usize) -> Self {
        Self { first: self.first + start, batch: count, ..self }
    }
}

#[cfg(test)]
mod tests {
    use faer::Mat;

    use super::*;

    #[test]
    fn parts_of_a_tape_and_moved_samples_are_those_of_the_whole() {
        let lens = [3, 0, 2, 4];
        let mut memory = TapeMemory::<f64>::new(9, 5);
        let entry = |feature: usize, i: usize, j: usize| (100 * feature + 10 * i + j) as f64;
        let expected = |k: usize| Mat::from_fn(lens[k], 4, |i, j| entry(k, i, j));
        let mut tape = memory.view_mut(&lens, 4);
        for count in 0..=lens.len() {
            let (mut below, mut above) = tape.split_at_mut(count);
            (0..count).for_each(|k| below.feature_mut(k).copy_from(expected(k)));
            (count..lens.len()).for_each(|k| above.feature_mut(k - count).copy_from(expected(k)));
            assert!((0..lens.len()).all(|k| tape.rb().feature(k) == expected(k)), "split at {count}");
            let (below, above) = tape.rb().split_at(count);
            assert!((0..count).all(|k| below.feature(k) == expected(k)), "split at {count}");
            assert!((count..lens.len()).all(|k| above.feature(k - count) == expected(k)), "split at {count}");
        }
        memory.move_sample(&lens, 3, 1);
        for k in 0..lens.len() {
            let moved = memory.view(&lens, 3).feature(k).to_owned();
            assert_eq!(moved, Mat::from_fn(lens[k], 3, |i, j| entry(k, i, if j == 1 { 3 } else { j })));
        }
    }
}
