use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, SeqAccess, Visitor};

/// One value, or a list of values, of which each is tried.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List<V>(pub(super) Vec<V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for List<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<V>(PhantomData<V>);

/// A scalar as a list of one.
fn one<'de, V, E, S>(scalar: S) -> Result<List<V>, E>
where
    V: Deserialize<'de>,
    E: Error,
    S: IntoDeserializer<'de, E>,
{
    V::deserialize(scalar.into_deserializer()).map(|value| List(vec![value]))
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for ListVisitor<V> {
    type Value = List<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or a list of values")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        one(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        one(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        one(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        V::deserialize(value.to_owned().into_deserializer()).map(|value| List(vec![value]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element()? {
            values.push(value);
        }
        Ok(List(values))
    }
}
