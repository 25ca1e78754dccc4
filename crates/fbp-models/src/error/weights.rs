use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::ModelError;

/// What can be wrong with a file of weights from somewhere else.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsFault {
    /// No kind of file that can be read.
    #[error("not a file of weights: {0}")]
    Unknown(String),
    /// A file that contradicts itself or ends too early.
    #[error("the file is damaged or cut off: {0}")]
    Damaged(String),
    /// A file that asks for more memory than any network could need.
    #[error("the file asks for too much: {0}")]
    Limit(String),
    /// Two tensors of one name.
    #[error("more than one tensor is called {0}")]
    Duplicate(String),
    /// Names two tensors could both have; which of them is meant cannot be told.
    #[error("{tensors} tensors share {names} names, so that it cannot be told which is meant")]
    Ambiguous {
        /// Tensors in the file.
        tensors: u64,
        /// Different names.
        names: usize,
    },
    /// A part of a sharded file that is not where the index says.
    #[error("the index names {0:?}, which is no plain file name")]
    ShardName(String),
    /// A tensor that the index puts into a part that does not have it.
    #[error("the index says that {tensor} is in {shard}, and it is not there")]
    NotInShard {
        /// Name of the tensor.
        tensor: String,
        /// Name of the part.
        shard: String,
    },
    /// A tensor that was asked for and is not in the file.
    #[error("there is no tensor {0}")]
    NoTensor(String),
    /// Rows of a tensor that it does not have.
    #[error("tensor {tensor} of shape {shape:?} has no rows {} to {}", rows.start, rows.end)]
    NoRows {
        /// Name of the tensor.
        tensor: String,
        /// The rows asked for.
        rows: Range<usize>,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor of numbers that make no weights.
    #[error("tensor {tensor} has numbers of type {found}, and weights are floating-point numbers")]
    ElementType {
        /// Name of the tensor.
        tensor: String,
        /// Type in the file.
        found: String,
    },
    /// NaN or infinity among the weights.
    #[error("tensor {tensor} is not finite at position {index}")]
    NonFinite {
        /// Name of the tensor.
        tensor: String,
        /// Position of the first such value, in row-major order.
        index: usize,
    },
    /// The tensors of the file are not those of the network.
    #[error("{0}")]
    Mismatch(Box<Mismatch>),
    /// What a checkpoint says about where its weights came from cannot be read.
    #[error("its metadata under the key {:?} cannot be read: {reason}", crate::checkpoint::IMPORT_KEY)]
    Provenance {
        /// What the parser says.
        reason: String,
    },
}

impl WeightsFault {
    /// The fault of a given file.
    pub(crate) fn of(self, path: &Path) -> ModelError {
        ModelError::Weights { path: path.to_owned(), fault: self }
    }
}

/// Everything in which the tensors of a file differ from the parameters of a network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mismatch {
    /// Name of the network.
    pub network: String,
    /// What stands before the names of the parameters in the file.
    pub prefix: String,
    /// Number of parameters that are in the file as the network needs them.
    pub fitting: usize,
    /// Parameters that the file does not have, each with the name in the file that is most like it.
    pub missing: Vec<(String, Option<String>)>,
    /// Parameters of another shape: name, shape that the network needs, shape in the file.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Parameters whose numbers make no weights: name, type in the file.
    pub mistyped: Vec<(String, String)>,
    /// Tensors of the file that are no parameters of the network.
    pub left_over: Vec<String>,
    /// Another prefix under which more parameters are found, with their number.
    pub better_prefix: Option<(String, usize)>,
}

impl Mismatch {
    /// Whether there is nothing to complain about.
    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.misshapen.is_empty() && self.mistyped.is_empty() && self.left_over.is_empty()
    }
}

/// Entries of a list that are written out.
const SHOWN: usize = 6;

/// A name that is not too long to be written out.
fn short(name: &str) -> String {
    const MAX: usize = 120;
    match name.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// Writes the first entries of a list and the number of the others.
fn list<T>(f: &mut fmt::Formatter<'_>, what: &str, items: &[T], write: impl Fn(&T) -> String) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = items.iter().take(SHOWN).map(write).collect();
    write!(f, "; {} {what}: {}", items.len(), shown.join(", "))?;
    if items.len() > SHOWN { write!(f, " and {} more", items.len() - SHOWN) } else { Ok(()) }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it does not hold the network {}", self.network)?;
        if !self.prefix.is_empty() {
            write!(f, " under the prefix {:?}", self.prefix)?;
        }
        write!(f, ", of which {} tensors fit", self.fitting)?;
        list(f, "missing", &self.missing, |(name, nearest)| match nearest {
            Some(nearest) => format!("{name} (nearest: {})", short(nearest)),
            None => name.clone(),
        })?;
        list(f, "of another shape", &self.misshapen, |(name, expected, found)| {
            format!("{name} is {found:?} and should be {expected:?}")
        })?;
        list(f, "of another type", &self.mistyped, |(name, found)| format!("{name} is {found}"))?;
        list(f, "left over", &self.left_over, |name| short(name))?;
        match &self.better_prefix {
            Some((prefix, count)) => write!(f, "; with the prefix {:?}, {count} tensors would be found", short(prefix)),
            None => Ok(()),
        }
    }
}
