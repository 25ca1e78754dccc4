use std::fmt;

use serde::Serialize;

use super::ElementType;

/// What is known of a tensor before it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorInfo {
    /// Type of its numbers in the file.
    pub element: ElementType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Bytes in memory; `None` for a type of number that has no whole bytes, or if there are too many.
    pub fn byte_len(&self) -> Option<usize> {
        self.shape.iter().try_fold(self.element.size()?, |len, &size| len.checked_mul(size))
    }
}

/// Kinds of files that weights come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Format {
    /// `torch.save` since PyTorch 1.6: a zip file.
    Zip,
    /// `torch.save` before: pickles and raw storages one after the other.
    Legacy,
    /// `torch.save` of the first days: a tar file.
    Tar,
    /// A pickle alone, which holds no tensors.
    Pickle,
    /// One safetensors file.
    Safetensors,
    /// Several safetensors files with an index.
    ShardedSafetensors,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zip => "PyTorch (zip)",
            Self::Legacy => "PyTorch (legacy)",
            Self::Tar => "PyTorch (tar)",
            Self::Pickle => "pickle",
            Self::Safetensors => "safetensors",
            Self::ShardedSafetensors => "sharded safetensors",
        })
    }
}
