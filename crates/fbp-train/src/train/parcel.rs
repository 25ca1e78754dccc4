//! Segments that several ranks have trained, on their way to the first one.

use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Tensor};
use fbp_models::Network;
use serde::{Deserialize, Serialize};

use super::curves::SegmentRecord;
use super::state::{Numbers, pack, unpack};
use crate::TrainError;
use crate::collective::{Collective, CollectiveError};

/// A trained segment, in a network whose other stages are those of the start.
pub(super) struct Trained {
    pub(super) network: Network,
    pub(super) record: SegmentRecord,
}

/// What becomes of the segments of a rank.
pub(super) enum Delivery {
    /// This is the first rank, or the only one: the segments of all, in their order.
    All(Vec<Trained>),
    /// They have been sent to it.
    Sent,
}

/// What is said of the segments of a rank beside their weights.
#[derive(Serialize, Deserialize)]
enum Letter {
    Done(Vec<(usize, SegmentRecord)>),
    /// It was asked to stop.
    Stopped(String),
}

/// Where errors say that something was.
const PLACE: &str = "the segments of a rank";

/// Sends the segments of this rank to the first one. A rank that was asked to stop says so, and the first one stops too.
///
/// # Errors
/// That of the training, if it failed, [`TrainError::Stopped`], [`TrainError::Collective`].
pub(super) fn deliver(
    trained: Result<Vec<(usize, Trained)>, TrainError>,
    network: &Network,
    segments: &[Range<usize>],
    team: &dyn Collective,
) -> Result<Delivery, TrainError> {
    if team.size() == 1 {
        return trained.map(|trained| Delivery::All(trained.into_iter().map(|(_, trained)| trained).collect()));
    }
    let mut numbers = Numbers::new();
    let letter = match trained {
        Ok(trained) => {
            for (index, Trained { network, .. }) in &trained {
                for (name, var) in network.state_of(segments[*index].clone())? {
                    numbers.insert(format!("{index}.{name}"), var.flatten_all()?.to_vec1()?);
                }
            }
            Letter::Done(trained.into_iter().map(|(index, Trained { record, .. })| (index, record)).collect())
        }
        Err(TrainError::Stopped { left }) => Letter::Stopped(left),
        Err(error) => return Err(error),
    };
    let path = Path::new(PLACE);
    let text = serde_json::to_string(&letter).map_err(|source| TrainError::Json {
        path: path.to_owned(),
        what: "list of segments",
        source,
    })?;
    let parcels = team.gather(&pack(text, &numbers, path)?)?;
    if let Letter::Stopped(left) = letter {
        return Err(TrainError::Stopped { left });
    }
    if team.rank() > 0 {
        return Ok(Delivery::Sent);
    }
    let mut all = Vec::new();
    for (rank, parcel) in parcels.iter().enumerate() {
        all.extend(opened(parcel, network, segments, rank)?);
    }
    all.sort_by_key(|(index, _)| *index);
    Ok(Delivery::All(all.into_iter().map(|(_, trained)| trained).collect()))
}

/// The segments in what a rank has sent.
fn opened(
    parcel: &[u8],
    network: &Network,
    segments: &[Range<usize>],
    rank: usize,
) -> Result<Vec<(usize, Trained)>, TrainError> {
    let malformed = || TrainError::from(CollectiveError::Malformed { rank });
    let (text, mut numbers) = unpack(parcel).ok_or_else(malformed)?;
    let records = match serde_json::from_str(&text).map_err(|_| malformed())? {
        Letter::Done(records) => records,
        Letter::Stopped(left) => return Err(TrainError::Stopped { left }),
    };
    let mut found = Vec::new();
    for (index, record) in records {
        let network = network.duplicate()?;
        let stages = segments.get(index).ok_or_else(malformed)?;
        for (name, var) in network.state_of(stages.clone())? {
            let values = numbers.remove(&format!("{index}.{name}")).ok_or_else(malformed)?;
            if values.len() != var.elem_count() {
                return Err(malformed());
            }
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
        }
        found.push((index, Trained { network, record }));
    }
    Ok(found)
}
