use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A size per axis; written as one number where both are equal, else as `[height, width]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Along the height.
    pub h: usize,
    /// Along the width.
    pub w: usize,
}

impl Pair {
    /// The same size along both axes.
    pub const fn both(size: usize) -> Self {
        Self { h: size, w: size }
    }

    /// Height and width.
    pub const fn dims(self) -> [usize; 2] {
        [self.h, self.w]
    }
}

impl From<usize> for Pair {
    fn from(size: usize) -> Self {
        Self::both(size)
    }
}

impl From<[usize; 2]> for Pair {
    fn from([h, w]: [usize; 2]) -> Self {
        Self { h, w }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}", self.h, self.w)
    }
}

impl Serialize for Pair {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.h == self.w {
            return self.h.serialize(serializer);
        }
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&self.h)?;
        tuple.serialize_element(&self.w)?;
        tuple.end()
    }
}

struct PairVisitor;

impl<'de> Visitor<'de> for PairVisitor {
    type Value = Pair;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size or a pair [height, width]")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Pair, E> {
        usize::try_from(value).map(Pair::both).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Pair, E> {
        usize::try_from(value).map(Pair::both).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pair, A::Error> {
        let h = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
        let w = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(1, &self))?;
        match seq.next_element::<de::IgnoredAny>()? {
            None => Ok(Pair { h, w }),
            Some(_) => Err(de::Error::invalid_length(3, &self)),
        }
    }
}

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PairVisitor)
    }
}
