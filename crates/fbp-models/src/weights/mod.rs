//! Other people's weights, in and out.
//!
//! [`StateDict`] reads what PyTorch and safetensors write, [`import`] makes a [`Network`](crate::Network) of it, and
//! [`export`] writes a network so that `load_state_dict(strict=True)` takes it. The path of a parameter is its key in PyTorch's
//! state dict, so nothing is renamed on the way.
//!
//! | Type of number in the file | Weights | On the way back |
//! |---|---|---|
//! | `F32` | the same | `F32`, bit for bit |
//! | `F16`, `BF16` | the same, as `F32` | the same type if no number has changed, else `F32` |
//! | `F64` | rounded to `F32`, which the report says | `F64` if nothing had to be rounded, else `F32` |
//! | others | refused, but for the counters of batch normalisation | `I64` |

mod element;
mod export;
mod import;
mod info;
mod matching;
mod pickle;
mod pytorch;
mod safetensors_file;
mod shards;
mod state_dict;

pub use element::ElementType;
pub use export::{ExportOptions, ExportReport, Exported, export, export_bytes};
pub use import::{Head, Import, ImportOptions, ImportReport, Imported, import};
pub use info::{Format, TensorInfo};
pub use state_dict::StateDict;

pub use crate::checkpoint::IMPORT_KEY;
pub use crate::error::{Mismatch, WeightsFault};
