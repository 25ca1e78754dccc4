use fbp_linalg::{Bounds, FeatureShape, Real};

use crate::Interval;

/// What the channels of a feature can be: one interval for all of them, or one for each.
///
/// Layers tell it of their outputs ([`ReverseOperator::out_ranges`](crate::ReverseOperator::out_ranges)), so that targets stay
/// within what the layers below can produce: behind a normalisation that follows a ReLU every channel begins somewhere else, and
/// colours that were normalised apart have different ends.
///
/// # Example
/// ```
/// use fbp_inverse::{ChannelRanges, Interval};
///
/// let colours = ChannelRanges::from(vec![Interval::new(-2.1, 2.2), Interval::new(-2.0, 2.4)]);
/// assert_eq!(colours.of(1).lower, -2.0);
/// assert_eq!(colours.hull(), Interval::new(-2.1, 2.4));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelRanges<T>(Kind<T>);

#[derive(Clone, Debug, PartialEq)]
enum Kind<T> {
    Same(Interval<T>),
    /// Not all of them the same.
    Each(Vec<Interval<T>>),
}

impl<T> From<Interval<T>> for ChannelRanges<T> {
    fn from(range: Interval<T>) -> Self {
        Self(Kind::Same(range))
    }
}

/// One interval per channel; none at all tell nothing of any channel.
impl<T: Real> From<Vec<Interval<T>>> for ChannelRanges<T> {
    fn from(ranges: Vec<Interval<T>>) -> Self {
        match ranges.first() {
            None => Self(Kind::Same(Interval::EVERYTHING)),
            Some(first) if ranges.iter().all(|range| range == first) => Self(Kind::Same(*first)),
            Some(_) => Self(Kind::Each(ranges)),
        }
    }
}

impl<T: Real> ChannelRanges<T> {
    /// That of one channel.
    ///
    /// # Panics
    /// If the channels differ, and there is no such channel.
    pub fn of(&self, channel: usize) -> Interval<T> {
        match &self.0 {
            Kind::Same(range) => *range,
            Kind::Each(ranges) => ranges[channel],
        }
    }

    /// The smallest interval around all of them.
    pub fn hull(&self) -> Interval<T> {
        match &self.0 {
            Kind::Same(range) => *range,
            Kind::Each(ranges) => ranges
                .iter()
                .fold(ranges[0], |hull, range| Interval::new(hull.lower.min(range.lower), hull.upper.max(range.upper))),
        }
    }

    /// Number of channels, where they differ.
    pub fn channels(&self) -> Option<usize> {
        match &self.0 {
            Kind::Same(_) => None,
            Kind::Each(ranges) => Some(ranges.len()),
        }
    }

    /// Whether a channel can be no finite number.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Kind::Same(range) => range.is_empty(),
            Kind::Each(ranges) => ranges.iter().any(Interval::is_empty),
        }
    }

    /// What becomes of every channel where none has to do with another.
    pub fn map(&self, image: impl Fn(Interval<T>) -> Interval<T>) -> Self {
        match &self.0 {
            Kind::Same(range) => image(*range).into(),
            Kind::Each(ranges) => ranges.iter().map(|&range| image(range)).collect::<Vec<_>>().into(),
        }
    }

    /// The same where a feature of one shape is read as one of another shape.
    pub fn reshaped(self, from: FeatureShape, to: FeatureShape) -> Self {
        match self.0 {
            Kind::Each(ranges) if from.channels != to.channels => {
                let entries = ranges.into_iter().flat_map(|range| std::iter::repeat_n(range, from.plane()));
                let entries: Vec<_> = entries.collect();
                let channels = entries.chunks(to.plane().max(1)).map(|channel| Self::from(channel.to_vec()).hull());
                channels.collect::<Vec<_>>().into()
            }
            _ => self,
        }
    }

    /// The bounds of the entries of a feature of this shape.
    pub(crate) fn entries(&self, shape: FeatureShape) -> EntryBounds<T> {
        let ends = |end: fn(&Interval<T>) -> T| match &self.0 {
            Kind::Same(_) => Vec::new(),
            Kind::Each(ranges) => {
                ranges.iter().flat_map(|range| std::iter::repeat_n(end(range), shape.plane())).collect()
            }
        };
        EntryBounds { hull: self.hull(), lower: ends(|range| range.lower), upper: ends(|range| range.upper) }
    }
}

/// Bounds of the entries of a feature.
#[derive(Clone, Debug)]
pub(crate) struct EntryBounds<T> {
    hull: Interval<T>,
    /// Empty where all entries have those of the hull.
    lower: Vec<T>,
    upper: Vec<T>,
}

impl<T: Real> EntryBounds<T> {
    pub(crate) fn hull(&self) -> Interval<T> {
        self.hull
    }

    pub(crate) fn bounds(&self) -> Bounds<'_, T> {
        if self.lower.is_empty() {
            Bounds::Same(self.hull.lower, self.hull.upper)
        } else {
            Bounds::Each { lower: &self.lower, upper: &self.upper }
        }
    }
}
