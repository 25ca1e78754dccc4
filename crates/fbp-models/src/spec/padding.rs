use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Pair;

/// Zero rows and columns around an image: a size, a pair `[height, width]` of sizes for both sides each, one size per
/// side as `[top, bottom, left, right]`, or `"same"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// So many rows and columns on every side.
    Sides {
        /// Rows above.
        top: usize,
        /// Rows below.
        bottom: usize,
        /// Columns to the left.
        left: usize,
        /// Columns to the right.
        right: usize,
    },
    /// As many as make `⌈input / stride⌉` outputs, the odd one at the far end: TensorFlow's `SAME`.
    Same,
}

impl Padding {
    /// No padding.
    pub const NONE: Self = Self::both(Pair::both(0));

    /// The same on both sides of an axis.
    pub const fn both(size: Pair) -> Self {
        Self::Sides { top: size.h, bottom: size.h, left: size.w, right: size.w }
    }

    pub(super) fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Sizes `[near, far]` of height and width for an input, a window that covers `extent`, and a stride.
    pub(crate) fn sizes(self, input: [usize; 2], extent: [usize; 2], stride: [usize; 2]) -> [[usize; 2]; 2] {
        let same = |axis: usize| {
            let steps = input[axis].div_ceil(stride[axis].max(1)).saturating_sub(1);
            let covered = steps.saturating_mul(stride[axis]).saturating_add(extent[axis]);
            let total = covered.saturating_sub(input[axis]);
            [total / 2, total - total / 2]
        };
        match self {
            Self::Sides { top, bottom, left, right } => [[top, bottom], [left, right]],
            Self::Same => [same(0), same(1)],
        }
    }
}

impl From<usize> for Padding {
    fn from(size: usize) -> Self {
        Self::both(size.into())
    }
}

impl From<Pair> for Padding {
    fn from(size: Pair) -> Self {
        Self::both(size)
    }
}

impl Default for Padding {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Same => f.write_str("same"),
            Self::Sides { top, bottom, left, right } if top == bottom && left == right => {
                write!(f, "{}", Pair { h: top, w: left })
            }
            Self::Sides { top, bottom, left, right } => write!(f, "[{top}, {bottom}, {left}, {right}]"),
        }
    }
}

impl Serialize for Padding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Same => serializer.serialize_str("same"),
            Self::Sides { top, bottom, left, right } if top == bottom && left == right => {
                Pair { h: top, w: left }.serialize(serializer)
            }
            Self::Sides { top, bottom, left, right } => {
                let mut tuple = serializer.serialize_tuple(4)?;
                [top, bottom, left, right].iter().try_for_each(|side| tuple.serialize_element(side))?;
                tuple.end()
            }
        }
    }
}

struct PaddingVisitor;

impl<'de> Visitor<'de> for PaddingVisitor {
    type Value = Padding;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size or a pair [height, width], [top, bottom, left, right], or \"same\"")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Padding, E> {
        usize::try_from(value).map(Padding::from).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Padding, E> {
        usize::try_from(value).map(Padding::from).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Padding, E> {
        if value == "same" { Ok(Padding::Same) } else { Err(E::invalid_value(de::Unexpected::Str(value), &self)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Padding, A::Error> {
        let mut sides = Vec::with_capacity(4);
        while let Some(side) = seq.next_element::<usize>()? {
            sides.push(side);
            if sides.len() > 4 {
                break;
            }
        }
        match sides[..] {
            [h, w] => Ok(Pair { h, w }.into()),
            [top, bottom, left, right] => Ok(Padding::Sides { top, bottom, left, right }),
            _ => Err(de::Error::invalid_length(sides.len(), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for Padding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PaddingVisitor)
    }
}
