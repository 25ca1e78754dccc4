//! One sample of attention: products of small matrices, one head at a time, with softmax between them.

use faer::{Accum, MatMut, MatRef, Par};
use fbp_linalg::{Real, matmul};
use pulp::{Arch, Simd, WithSimd};

use crate::layers::activation::elementary::decay;
use crate::layers::columns::LANES;

/// Sizes of the features: `count` tokens, each with `heads` queries, keys and values of `width` entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) count: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
}

/// Which part of a token of the input.
#[derive(Clone, Copy)]
enum Part {
    Query,
    Key,
    Value,
}

/// One sample: the point, and for every head what its queries make of the keys, one column per query.
pub(super) struct Point<'a, T> {
    pub(super) input: &'a [T],
    pub(super) probabilities: &'a [T],
}

impl Heads {
    /// Entries of an output token.
    pub(super) fn dim(self) -> usize {
        self.heads * self.width
    }

    /// Probabilities of one head.
    pub(super) fn square(self) -> usize {
        self.count * self.count
    }

    fn scale<T: Real>(self) -> T {
        T::from_f64((self.width as f64).sqrt().recip())
    }

    /// Queries, keys or values of a head: `width × count`.
    fn part<T: Real>(self, input: &[T], part: Part, head: usize) -> MatRef<'_, T> {
        let start = part as usize * self.dim() + head * self.width;
        MatRef::from_column_major_slice(input, 3 * self.dim(), self.count).subrows(start, self.width)
    }

    fn part_mut<T: Real>(self, input: &mut [T], part: Part, head: usize) -> MatMut<'_, T> {
        let start = part as usize * self.dim() + head * self.width;
        MatMut::from_column_major_slice_mut(input, 3 * self.dim(), self.count).subrows_mut(start, self.width)
    }

    /// The output of a head: `width × count`.
    fn output<T: Real>(self, output: &[T], head: usize) -> MatRef<'_, T> {
        let whole = MatRef::from_column_major_slice(output, self.dim(), self.count);
        whole.subrows(head * self.width, self.width)
    }

    fn output_mut<T: Real>(self, output: &mut [T], head: usize) -> MatMut<'_, T> {
        let whole = MatMut::from_column_major_slice_mut(output, self.dim(), self.count);
        whole.subrows_mut(head * self.width, self.width)
    }

    fn square_of<T: Real>(self, values: &[T]) -> MatRef<'_, T> {
        MatRef::from_column_major_slice(values, self.count, self.count)
    }

    fn square_mut<T: Real>(self, values: &mut [T]) -> MatMut<'_, T> {
        MatMut::from_column_major_slice_mut(values, self.count, self.count)
    }

    /// Probabilities of a head, which are kept one after the other, or over each other where there is room for one only.
    fn own<T>(self, probabilities: &mut [T], head: usize) -> &mut [T] {
        let start = if probabilities.len() == self.square() { 0 } else { head * self.square() };
        &mut probabilities[start..start + self.square()]
    }

    /// `O = V softmax(Kᵀ Q / √width)`, head by head.
    pub(super) fn forward<T: Real>(self, input: &[T], output: &mut [T], probabilities: &mut [T]) {
        for head in 0..self.heads {
            let [query, key, value] = [Part::Query, Part::Key, Part::Value].map(|part| self.part(input, part, head));
            let own = self.own(probabilities, head);
            // (count × width)(width × count): column t holds how much query t asks of every key.
            matmul(self.square_mut(own), Accum::Replace, key.transpose(), query, self.scale(), Par::Seq);
            Arch::new().dispatch(Softmax { columns: own, count: self.count });
            // (width × count)(count × count)
            let output = self.output_mut(output, head);
            matmul(output, Accum::Replace, value, self.square_of(own), T::ONE, Par::Seq);
        }
    }

    /// `Ȯ = V̇ P + V Ṗ` with `Ṗ = P (Ṡ - 1 diag(Pᵀ Ṡ))` entry by entry and `Ṡ = (K̇ᵀ Q + Kᵀ Q̇)/√width`.
    pub(super) fn jvp<T: Real>(self, point: &Point<'_, T>, tangent: &[T], out: &mut [T], room: &mut [T]) {
        for head in 0..self.heads {
            let parts = [Part::Query, Part::Key, Part::Value];
            let [query, key, value] = parts.map(|part| self.part(point.input, part, head));
            let [query_dot, key_dot, value_dot] = parts.map(|part| self.part(tangent, part, head));
            let probabilities = &point.probabilities[head * self.square()..(head + 1) * self.square()];
            matmul(self.square_mut(room), Accum::Replace, key_dot.transpose(), query, self.scale(), Par::Seq);
            matmul(self.square_mut(room), Accum::Add, key.transpose(), query_dot, self.scale(), Par::Seq);
            Arch::new().dispatch(Slope { probabilities, columns: &mut *room, count: self.count });
            let square = self.square_of(probabilities);
            matmul(self.output_mut(out, head), Accum::Replace, value_dot, square, T::ONE, Par::Seq);
            matmul(self.output_mut(out, head), Accum::Add, value, self.square_of(room), T::ONE, Par::Seq);
        }
    }

    /// `V̄ = Ō Pᵀ`, `S̄ = P (P̄ - 1 diag(Pᵀ P̄))` entry by entry with `P̄ = Vᵀ Ō`, `Q̄ = K S̄/√width`, `K̄ = Q S̄ᵀ/√width`.
    pub(super) fn vjp<T: Real>(self, point: &Point<'_, T>, cotangent: &[T], out: &mut [T], room: &mut [T]) {
        for head in 0..self.heads {
            let parts = [Part::Query, Part::Key, Part::Value];
            let [query, key, value] = parts.map(|part| self.part(point.input, part, head));
            let probabilities = &point.probabilities[head * self.square()..(head + 1) * self.square()];
            let (weights, scale) = (self.output(cotangent, head), self.scale());
            let square = self.square_of(probabilities).transpose();
            matmul(self.part_mut(out, Part::Value, head), Accum::Replace, weights, square, T::ONE, Par::Seq);
            matmul(self.square_mut(room), Accum::Replace, value.transpose(), weights, T::ONE, Par::Seq);
            Arch::new().dispatch(Slope { probabilities, columns: &mut *room, count: self.count });
            let slopes = self.square_of(room);
            matmul(self.part_mut(out, Part::Query, head), Accum::Replace, key, slopes, scale, Par::Seq);
            matmul(self.part_mut(out, Part::Key, head), Accum::Replace, query, slopes.transpose(), scale, Par::Seq);
        }
    }
}

/// Makes every column its softmax.
struct Softmax<'a, T> {
    columns: &'a mut [T],
    count: usize,
}

impl<T: Real> WithSimd for Softmax<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for column in self.columns.chunks_exact_mut(self.count) {
            if self.count < LANES {
                short_softmax(column);
            } else {
                long_softmax(simd, column);
            }
        }
    }
}

#[inline(always)]
fn short_softmax<T: Real>(column: &mut [T]) {
    let largest = column.iter().fold(T::NEG_INFINITY, |largest, &x| if x > largest { x } else { largest });
    column.iter_mut().for_each(|x| *x = decay(*x - largest));
    let share = T::ONE / column.iter().fold(T::ZERO, |sum, &x| sum + x);
    column.iter_mut().for_each(|x| *x *= share);
}

/// Softmax of at least [`LANES`] values: of whole runs of them, and of the last ones, which may have been in a run.
#[inline(always)]
fn long_softmax<T: Real, S: Simd>(simd: S, column: &mut [T]) {
    let start = column.len() - LANES;
    let mut last = [T::ZERO; LANES];
    last.copy_from_slice(&column[start..]);
    let (runs, unseen) = split_runs(column);
    let mut largest = T::splat(simd, T::NEG_INFINITY);
    for &x in T::vectors(simd, runs).iter().chain(T::vectors(simd, &last)) {
        largest = T::max_lanes(simd, largest, x);
    }
    let largest = T::largest_lane(simd, largest);
    runs.iter_mut().for_each(|x| *x = decay(*x - largest));
    last.iter_mut().for_each(|x| *x = decay(*x - largest));
    let mut sum = sum_from(simd, &last, LANES - unseen);
    for &x in T::vectors(simd, runs) {
        sum = T::add_lanes(simd, sum, x);
    }
    let share = T::ONE / T::sum_lanes(simd, sum);
    runs.iter_mut().for_each(|x| *x *= share);
    for x in T::vectors_mut(simd, &mut last) {
        *x = T::mul_add_lanes(simd, *x, T::splat(simd, share), T::splat(simd, T::ZERO));
    }
    column[start..].copy_from_slice(&last);
}

/// Makes every column `g` the product `p (g - Σ p g)`, entry by entry: that with the Jacobian of softmax, which is symmetric.
struct Slope<'a, T> {
    probabilities: &'a [T],
    columns: &'a mut [T],
    count: usize,
}

impl<T: Real> WithSimd for Slope<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let columns = self.columns.chunks_exact_mut(self.count);
        for (column, probabilities) in columns.zip(self.probabilities.chunks_exact(self.count)) {
            let mean = dot(simd, probabilities, column);
            column.iter_mut().zip(probabilities).for_each(|(g, &p)| *g = p * (*g - mean));
        }
    }
}

/// `Σ aᵢ bᵢ`.
#[inline(always)]
fn dot<T: Real, S: Simd>(simd: S, a: &[T], b: &[T]) -> T {
    let whole = a.len() - a.len() % LANES;
    let mut sum = T::splat(simd, T::ZERO);
    for (&a, &b) in T::vectors(simd, &a[..whole]).iter().zip(T::vectors(simd, &b[..whole])) {
        sum = T::mul_add_lanes(simd, a, b, sum);
    }
    let rest = a[whole..].iter().zip(&b[whole..]);
    rest.fold(T::sum_lanes(simd, sum), |sum, (&a, &b)| a.mul_add(b, sum))
}

/// The whole runs of [`LANES`] values, and how many values follow.
#[inline(always)]
fn split_runs<T>(column: &mut [T]) -> (&mut [T], usize) {
    let unseen = column.len() % LANES;
    let whole = column.len() - unseen;
    (&mut column[..whole], unseen)
}

/// Sums of the values from number `first` on, lane by lane.
#[inline(always)]
fn sum_from<T: Real, S: Simd>(simd: S, values: &[T; LANES], first: usize) -> T::Vector<S> {
    let width = T::lanes::<S>();
    let mut sum = T::splat(simd, T::ZERO);
    for (part, &x) in T::vectors(simd, values).iter().enumerate() {
        let kept = T::mask_lanes(simd, first.saturating_sub(part * width), width);
        sum = T::add_lanes(simd, sum, T::keep_lanes(simd, kept, x));
    }
    sum
}
