use faer::reborrow::Reborrow;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real};

use crate::layers::columns::{MapPass, SampleMap, column_mut, map_columns};
use crate::{ChannelRanges, Interval};

/// How the outputs of parallel branches become one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Merge {
    /// Their sum.
    Sum,
    /// One after the other: images of equal height and width along their channels.
    Concat,
    /// Their product entry by entry; a factor `[C, 1, 1]` spreads over an image `[C, H, W]`, as in squeeze-and-excitation.
    Product,
}

impl Merge {
    /// Shape of the merged feature, or what is wrong with those of the branches.
    pub(super) fn shape(self, branches: &[FeatureShape]) -> Result<FeatureShape, String> {
        let Some(&first) = branches.iter().max_by_key(|shape| shape.len()) else {
            return Err("there must be at least one branch".into());
        };
        let fits = |shape: &FeatureShape| match self {
            Self::Sum => *shape == first,
            Self::Concat => (shape.height, shape.width) == (first.height, first.width),
            Self::Product => *shape == first || *shape == FeatureShape::vector(first.channels),
        };
        if let Some(misfit) = branches.iter().find(|shape| !fits(shape)) {
            return Err(format!("branches of shapes {first} and {misfit} cannot be merged by {self:?}"));
        }
        let channels =
            if self == Self::Concat { branches.iter().map(|shape| shape.channels).sum() } else { first.channels };
        Ok(FeatureShape { channels, ..first })
    }

    /// Range of the merged feature.
    pub(super) fn range<T: Real>(self, ranges: impl Iterator<Item = Interval<T>>) -> Interval<T> {
        let merge = |a: Interval<T>, b: Interval<T>| match self {
            Self::Sum => Interval::new(a.lower + b.lower, a.upper + b.upper),
            Self::Concat => Interval::new(a.lower.min(b.lower), a.upper.max(b.upper)),
            Self::Product => product(a, b),
        };
        ranges.reduce(merge).unwrap_or(Interval::EVERYTHING)
    }

    /// Ranges of the channels of the merged feature; those of the branches come with their numbers of channels.
    pub(super) fn channel_ranges<T: Real>(self, branches: Vec<(ChannelRanges<T>, usize)>) -> ChannelRanges<T> {
        let list =
            |(ranges, channels): &(ChannelRanges<T>, usize)| (0..*channels).map(|c| ranges.of(c)).collect::<Vec<_>>();
        if self == Self::Concat {
            return branches.iter().flat_map(list).collect::<Vec<_>>().into();
        }
        let channels = branches.iter().map(|(_, channels)| *channels).max().unwrap_or(0);
        let merged = (0..channels).map(|c| self.range(branches.iter().map(|(ranges, _)| ranges.of(c))));
        merged.collect::<Vec<_>>().into()
    }
}

/// All products of two numbers from two intervals.
fn product<T: Real>(a: Interval<T>, b: Interval<T>) -> Interval<T> {
    // The end of a range is no number that entries take if it is infinite: 0 times it is 0.
    let times = |x: T, y: T| if x == T::ZERO || y == T::ZERO { T::ZERO } else { x * y };
    let corners = [times(a.lower, b.lower), times(a.lower, b.upper), times(a.upper, b.lower), times(a.upper, b.upper)];
    let ends = |(low, high): (T, T), &x: &T| (low.min(x), high.max(x));
    let (lower, upper) = corners.iter().fold((T::INFINITY, T::NEG_INFINITY), ends);
    Interval { lower, upper }
}

/// A function of every column and the one that it is merged with.
struct Each<F>(F);

impl<T: Real, F: Fn(&mut [T], &[T]) + Sync> SampleMap<T> for Each<F> {
    #[inline(always)]
    fn map_sample(&self, from: &[T], _second: &[T], to: &mut [T]) {
        (self.0)(to, from);
    }
}

/// Runs `f` on every column of `to` and that of `from`.
fn each_column<T: Real>(to: MatMut<'_, T>, from: MatRef<'_, T>, par: Par, f: impl Fn(&mut [T], &[T]) + Sync) {
    map_columns(&Each(f), MapPass { first: from, second: from, out: to }, par);
}

/// `to = from`.
pub(super) fn copy<T: Real>(to: MatMut<'_, T>, from: MatRef<'_, T>, par: Par) {
    each_column(to, from, par, |to, from| to.copy_from_slice(from));
}

/// `to += from`.
pub(super) fn add<T: Real>(to: MatMut<'_, T>, from: MatRef<'_, T>, par: Par) {
    each_column(
        to,
        from,
        par,
        #[inline(always)]
        |to, from| to.iter_mut().zip(from).for_each(|(to, &from)| *to += from),
    );
}

/// `to *= from`, with every entry of a shorter factor for a whole channel.
pub(super) fn multiply<T: Real>(to: MatMut<'_, T>, from: MatRef<'_, T>, par: Par) {
    let plane = (to.nrows() / from.nrows().max(1)).max(1);
    each_column(
        to,
        from,
        par,
        #[inline(always)]
        |to, from| {
            for (to, &from) in to.chunks_mut(plane).zip(from) {
                to.iter_mut().for_each(|to| *to *= from);
            }
        },
    );
}

/// `to = from`, spread.
pub(super) fn spread<T: Real>(to: MatMut<'_, T>, from: MatRef<'_, T>, par: Par) {
    let plane = (to.nrows() / from.nrows().max(1)).max(1);
    each_column(to, from, par, |to, from| to.chunks_mut(plane).zip(from).for_each(|(to, &from)| to.fill(from)));
}

/// The adjoint of [`spread`], in the first rows of every column: sums over what one entry was spread to.
pub(super) fn gather<T: Real>(mut values: MatMut<'_, T>, len: usize) {
    let plane = values.rb().nrows() / len.max(1);
    if plane <= 1 {
        return;
    }
    for j in 0..values.ncols() {
        let values = column_mut(&mut values, j);
        for entry in 0..len {
            let sum = values[entry * plane..(entry + 1) * plane].iter().fold(T::ZERO, |sum, &v| sum + v);
            values[entry] = sum;
        }
    }
}
