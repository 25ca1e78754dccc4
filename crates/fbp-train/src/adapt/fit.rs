use fbp_models::Network;

use super::candidate::Candidate;
use super::closed::{fit_head, refit_head};
use super::layer_wise::{are_solvable, fit_layers};
use super::options::Method;
use super::prepared::{Labelled, Prepared};
use super::statistics::{estimate_statistics, has_statistics, renormalised};
use super::steps::Steps;
use crate::TrainError;
use crate::data::Dataset;
use crate::progress::Progress;
use crate::train::head_of;

/// Damping and lead of the label where a candidate names none.
const DAMPING: f64 = 1.0;
const MARGIN: f64 = 1.0;

impl Candidate {
    /// Whether the method makes sense for such a network and such data.
    pub(super) fn fits(method: Method, network: &Network, data: &Dataset) -> bool {
        match method {
            Method::Renormalise => data.is_pixels(),
            Method::Statistics => has_statistics(network),
            Method::Head | Method::HeadRefit | Method::HeadFineTune => head_of(network).is_ok(),
            Method::LayerWise => are_solvable(network),
            Method::Tail => network.stages().len() > 2,
            _ => true,
        }
    }

    /// Adapts a network to labelled samples; the network itself stays as it is. None if the result is no network any more: a
    /// training that diverged, or images without any contrast.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the samples do not fit the network, [`TrainError::Stopped`] if `progress` says so.
    pub(super) fn fit(
        &self,
        start: &Prepared,
        labelled: Labelled<'_>,
        progress: &dyn Progress,
    ) -> Result<Option<Prepared>, TrainError> {
        let Prepared { network, normalization } = start;
        let share = self.share.unwrap_or(1.0);
        let keep = |network: Network| Prepared { network, normalization: normalization.clone() };
        match self.method {
            Method::Auto | Method::Leave => start.duplicate().map(Some),
            Method::Renormalise => Ok(match renormalised(normalization, labelled, share)? {
                Some(normalization) => Some(Prepared { network: network.duplicate()?, normalization }),
                None => None,
            }),
            Method::Statistics => estimate_statistics(start, labelled, share).map(|network| Some(keep(network))),
            Method::Head => {
                let (damping, margin) = (self.damping.unwrap_or(DAMPING), self.margin.unwrap_or(MARGIN));
                fit_head(start, labelled, damping, margin).map(|network| Some(keep(network)))
            }
            Method::HeadRefit => {
                let damping = self.damping.unwrap_or(DAMPING);
                Ok(refit_head(start, labelled, damping)?.map(keep))
            }
            Method::LayerWise => {
                let damping = self.damping.unwrap_or(DAMPING);
                fit_layers(start, labelled, (damping, share), progress).map(|network| Some(keep(network)))
            }
            Method::HeadFineTune | Method::Tail | Method::L2Sp | Method::Joint | Method::Full => {
                Ok(Steps::of(self, network)?.run(start, labelled)?.map(keep))
            }
        }
    }
}
