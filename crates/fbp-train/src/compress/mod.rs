//! Compression: a network made small, and put right again layer by layer without gradients and without labels.
//!
//! Weights are set to zero (a share of them, or two of every four), channels are taken away, what stays is rounded to few levels.
//! Then every linear layer and convolution is solved for in forward order: what goes in is what the layers below, compressed and put
//! right already, make of the calibration images, and what should come out is what the layer of the original network gave.

mod budget;
mod channels;
mod columns;
mod constraint;
mod finetune;
mod layers;
mod measure;
mod moments;
mod options;
mod problem;
mod prune;
mod record;
mod ridge;
mod rounding;
mod run;
mod size;
mod slim;
mod solve;
mod statistics;
mod support;
mod walk;

pub use options::{Bits, CompressOptions, Compression, Criterion, FineTuneOptions, Pattern, Recover, Scope};
pub use record::{CompressRecord, CompressSettings, LayerRecord, LeftAlone, SizeRecord, TunedRecord};
pub use run::{Compressed, compress};

#[cfg(test)]
mod tests;
