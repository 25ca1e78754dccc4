use std::collections::HashMap;

use fbp_models::Network;

use super::channels::{Producer, producers};
use super::constraint::Tensors;
use super::record::LeftAlone;
use crate::TrainError;

/// Places that are kept, by the path of a layer.
pub(super) type Kept = HashMap<String, Vec<usize>>;

/// A network with fewer channels, and which ones of the original it has.
pub(super) struct Slim {
    pub(super) network: Network,
    /// Channels that a layer still has, by its path; all of them where there is no entry.
    pub(super) channels: Kept,
    pub(super) left: Vec<LeftAlone>,
}

/// Takes a share of the channels away wherever that is possible: those with the smallest filters, times the scale of a norm that
/// follows.
///
/// # Errors
/// [`TrainError::Setting`] if no channel can go, [`TrainError::Model`] or [`TrainError::Tensor`] if the network cannot be built.
pub(super) fn slim(network: &Network, share: f64) -> Result<Slim, TrainError> {
    let plan = network.spec().plan()?;
    let tensors = Tensors::of(network);
    let (found, left) = producers(&plan);
    let (mut channels, mut entries) = (HashMap::new(), HashMap::new());
    let mut outputs = HashMap::new();
    for producer in &found {
        let gone = ((share * producer.channels as f64).round() as usize).min(producer.channels - 1);
        if gone == 0 {
            continue;
        }
        let kept = largest(producer, &tensors, producer.channels - gone)?;
        for (path, factor) in &producer.consumers {
            let of = |&channel: &usize| channel * factor..(channel + 1) * factor;
            entries.insert(path.clone(), kept.iter().flat_map(of).collect::<Vec<usize>>());
        }
        let convolutions = producer.depthwise.iter().chain([&producer.path]);
        outputs.extend(convolutions.clone().map(|path| (path.clone(), kept.len())));
        channels.extend(convolutions.chain(&producer.norms).map(|path| (path.clone(), kept.clone())));
    }
    if outputs.is_empty() {
        let reason = match left.first() {
            Some(_) if !found.is_empty() => {
                "takes no channel away from this network: it is less than one of any layer".into()
            }
            Some(one) => format!("takes no channel away from this network ({}: {})", one.layer, one.reason),
            None => "takes no channel away from this network: every layer has too few".to_owned(),
        };
        return Err(TrainError::Setting { name: "channels", value: share.to_string(), reason });
    }
    let small = Network::new(&network.spec().with_outputs(&outputs)?, 0)?;
    copy_sliced(&tensors, &small, (&channels, &entries))?;
    Ok(Slim { network: small, channels, left })
}

/// The channels with the largest filters, in their order.
fn largest(producer: &Producer, tensors: &Tensors, count: usize) -> Result<Vec<usize>, TrainError> {
    let weights = tensors.read(&format!("{}.weight", producer.path))?;
    let rows = weights.chunks_exact(weights.len() / producer.channels);
    let mut sizes: Vec<f64> = rows.map(|row| row.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt()).collect();
    if let (true, Some(norm)) = (producer.is_normed, producer.norms.first()) {
        let (scales, variances) =
            (tensors.read(&format!("{norm}.weight"))?, tensors.read(&format!("{norm}.running_var"))?);
        for ((size, scale), variance) in sizes.iter_mut().zip(scales).zip(variances) {
            *size *= f64::from(scale).abs() / f64::from(variance.max(f32::MIN_POSITIVE)).sqrt();
        }
    }
    let mut order: Vec<usize> = (0..producer.channels).collect();
    order.sort_by(|&a, &b| sizes[b].total_cmp(&sizes[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    Ok(order)
}

/// Fills a smaller network with the outputs and inputs that it still has.
fn copy_sliced(from: &Tensors, to: &Network, (channels, entries): (&Kept, &Kept)) -> Result<(), TrainError> {
    let small = Tensors::of(to);
    for (name, var) in to.state() {
        let path = name.rsplit_once('.').map_or("", |(path, _)| path);
        let values = from.read(&name)?;
        let dims = from.dims(&name);
        let rows = dims.first().copied().unwrap_or(1);
        let kept_rows: Vec<usize> = channels.get(path).cloned().unwrap_or_else(|| (0..rows).collect());
        let row_len = values.len() / rows.max(1);
        let inputs = dims.get(1).copied().unwrap_or(1);
        let kept_inputs = entries.get(path).filter(|_| dims.len() > 1);
        let tap = row_len / inputs.max(1);
        let mut sliced = Vec::with_capacity(var.elem_count());
        for row in kept_rows {
            let row = &values[row * row_len..][..row_len];
            match kept_inputs {
                Some(kept) => kept.iter().for_each(|input| sliced.extend_from_slice(&row[input * tap..][..tap])),
                None => sliced.extend_from_slice(row),
            }
        }
        small.write(&name, &sliced)?;
    }
    Ok(())
}
