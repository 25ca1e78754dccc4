use fbp_models::Network;

use crate::TrainError;

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
