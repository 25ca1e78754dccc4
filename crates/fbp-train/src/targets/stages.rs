use fbp_models::Network;

use crate::TrainError;
use crate::settings::Every;
use crate::store::TargetStore;

/// The network as it is cut for features of every stage or of every block.
///
/// # Errors
/// [`TrainError::Model`] if a weight cannot be copied.
pub fn cut_at_every(network: Network, every: Every) -> Result<Network, TrainError> {
    Ok(match every {
        Every::Stage => network,
        Every::Block => network.split_at_blocks()?,
    })
}

/// The network as it was cut when a store of targets was made: at its stages or at its blocks.
///
/// # Errors
/// [`TrainError::Model`] if a weight cannot be copied.
pub fn cut_as(network: Network, store: &TargetStore) -> Result<Network, TrainError> {
    let entries = &store.manifest().params.stages;
    let fits =
        |network: &Network| transitional_names(network).into_iter().eq(entries.iter().map(|entry| entry.name.clone()));
    if fits(&network) {
        return Ok(network);
    }
    let split = network.split_at_blocks()?;
    Ok(if fits(&split) { split } else { network })
}

/// Names of the stages that can have targets, in their order.
pub fn transitional_names(network: &Network) -> Vec<String> {
    network.transitional_stages().iter().map(|stage| stage.name().to_owned()).collect()
}

/// Index of a transitional stage.
///
/// # Errors
/// [`TrainError::UnknownStage`] with the list of transitional stages.
pub fn transitional_stage(network: &Network, name: &str) -> Result<usize, TrainError> {
    let known = transitional_names(network);
    let unknown = || TrainError::UnknownStage { stage: name.to_owned(), known: known.join(", ") };
    known.iter().position(|stage| stage == name).ok_or_else(unknown)
}
