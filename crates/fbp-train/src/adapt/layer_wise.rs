use candle_core::Tensor;
use fbp_models::Network;

use super::closed::fit_head;
use super::prepared::{Labelled, Prepared};
use crate::TrainError;
use crate::affine::AffineLayer;
use crate::cache::FeatureCache;
use crate::identity::DataIdentity;
use crate::progress::Progress;
use crate::settings::Effort;
use crate::targets::{MemoryTargets, TargetsOptions, TargetsSource};
use crate::train::{accumulate, head_of};

/// Lead of the label that targets are computed for.
const MARGIN: f64 = 1.0;

/// The layers that are solved for, stage by stage without the last one; none if a stage ends in no such layer, or has something
/// beside it.
fn layers(network: &Network) -> Option<Vec<AffineLayer>> {
    let stages = network.transitional_stages();
    let of = |stage: &fbp_models::Stage| {
        let layer = AffineLayer::of(network, stage.name()).ok()?;
        (!layer.is_beside_others()).then_some(layer)
    };
    stages.iter().map(of).collect()
}

/// Whether every stage of a network can be solved for.
pub(super) fn are_solvable(network: &Network) -> bool {
    let can_reverse = || network.operators(0..network.stages().len()).is_ok();
    head_of(network).is_ok() && layers(network).is_some_and(|layers| !layers.is_empty()) && can_reverse()
}

/// Solves for the last linear layer or convolution of every stage, in forward order: what goes in is what the layers below make of the
/// samples now, and what should come out are feature targets that the stages below can produce and that the rest of the network turns
/// right. Of each step a share is taken. The last layer is solved for towards right outputs.
///
/// # Errors
/// [`TrainError::Inverse`] or [`TrainError::Model`] if a layer cannot be reversed, [`TrainError::Singular`] for features that are not
/// finite, [`TrainError::Stopped`] if `progress` says so.
pub(super) fn fit_layers(
    start: &Prepared,
    labelled: Labelled<'_>,
    (damping, share): (f64, f64),
    progress: &dyn Progress,
) -> Result<Network, TrainError> {
    let Labelled { data, samples, .. } = labelled;
    let fitted = start.duplicate()?;
    let Prepared { network, normalization } = &fitted;
    let options = TargetsOptions { margin: MARGIN, effort: Effort::Quick, ..TargetsOptions::default() };
    let identity = DataIdentity { name: data.name().to_owned(), sha256: String::new(), samples: samples.len() };
    let params = options.manifest(network, String::new(), identity)?.params;
    for (stage, layer) in layers(network).unwrap_or_default().into_iter().enumerate() {
        let targets =
            MemoryTargets::compute(TargetsSource { network, data, normalization }, stage, &params, samples, progress)?;
        let states = |images: &Tensor| layer.states(network, images);
        let cache = FeatureCache::new(data, normalization, samples, states)?;
        let target = |place: usize| targets.of(samples[place]).map_or(&[][..], |(target, _)| target);
        let change = accumulate(network, stage, &layer, (&cache, samples.len()), target)?.change(damping)?;
        layer.set(network, &(layer.weights(network)? + faer::Scale(share) * change))?;
    }
    fit_head(&fitted, labelled, damping, MARGIN)
}
