use std::fmt;

/// A property that does not hold, with the place where it fails.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{layer}: {property}: {detail}")]
pub struct ConformanceError {
    /// Name of the layer.
    pub layer: String,
    /// The property of the contract.
    pub property: &'static str,
    /// Where it fails, with the numbers.
    pub detail: String,
}

/// The properties that hold, with the number of comparisons behind each.
#[derive(Clone, Debug, PartialEq)]
pub struct Conformance {
    /// Name of the layer.
    pub layer: String,
    /// Property and number of comparisons, in the order of their first check.
    pub passed: Vec<(&'static str, usize)>,
}

impl fmt::Display for Conformance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keeps the contract:", self.layer)?;
        for (property, count) in &self.passed {
            write!(f, "\n{count:>8} × {property}")?;
        }
        Ok(())
    }
}

/// Collects what was checked.
pub(super) struct Ledger {
    conformance: Conformance,
}

impl Ledger {
    pub(super) fn new(layer: &str) -> Self {
        Self { conformance: Conformance { layer: layer.to_owned(), passed: Vec::new() } }
    }

    /// Counts a comparison; `detail` is only called on failure.
    pub(super) fn expect(
        &mut self,
        property: &'static str,
        holds: bool,
        detail: impl FnOnce() -> String,
    ) -> Result<(), ConformanceError> {
        if !holds {
            return Err(self.failure(property, detail()));
        }
        match self.conformance.passed.iter_mut().find(|(name, _)| *name == property) {
            Some((_, count)) => *count += 1,
            None => self.conformance.passed.push((property, 1)),
        }
        Ok(())
    }

    pub(super) fn failure(&self, property: &'static str, detail: String) -> ConformanceError {
        ConformanceError { layer: self.conformance.layer.clone(), property, detail }
    }

    /// Number of comparisons of a property so far.
    pub(super) fn count(&self, property: &str) -> usize {
        self.conformance.passed.iter().find(|(name, _)| *name == property).map_or(0, |(_, count)| *count)
    }

    pub(super) fn finish(self) -> Conformance {
        self.conformance
    }
}
