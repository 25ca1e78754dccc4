//! Options whose values have names.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use fbp_train::Choice;

/// Reads one of the values of a choice; the help lists them with their meaning.
pub(crate) fn choice<C: Choice>() -> impl TypedValueParser<Value = C> {
    let values = C::ALL.iter().map(|value| PossibleValue::new(value.name()).help(value.meaning()));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<C>())
}
