use fbp_models::Network;

use crate::TrainError;
use crate::data::{Dataset, Normalization};

/// A network with the normalisation of the images that it sees.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) network: Network,
    pub(super) normalization: Normalization,
}

impl Prepared {
    pub(super) fn duplicate(&self) -> Result<Self, TrainError> {
        Ok(Self { network: self.network.duplicate()?, normalization: self.normalization.clone() })
    }
}

/// Labelled samples to fit to.
#[derive(Clone, Copy)]
pub(super) struct Labelled<'a> {
    pub(super) data: &'a Dataset,
    pub(super) samples: &'a [usize],
    /// Seed of their order.
    pub(super) seed: u64,
}
