use super::layers::MatrixLayer;
use super::options::Scope;
use super::record::LeftAlone;

/// Which weights of every layer stay: all but the share of the smallest ones, in each layer or in all together.
///
/// Of equal weights those that come first go first.
pub(super) fn smallest(weights: &[Vec<f32>], share: f64, scope: Scope) -> Vec<Vec<bool>> {
    let mut kept: Vec<Vec<bool>> = weights.iter().map(|own| vec![true; own.len()]).collect();
    let groups: Vec<Vec<(f32, usize, usize)>> = match scope {
        Scope::Layer => (0..weights.len()).map(|layer| entries(weights, layer)).collect(),
        Scope::Global => vec![(0..weights.len()).flat_map(|layer| entries(weights, layer)).collect()],
    };
    for mut group in groups {
        let gone = (share * group.len() as f64).round() as usize;
        if gone == 0 {
            continue;
        }
        let order = |a: &(f32, usize, usize), b: &(f32, usize, usize)| {
            a.0.total_cmp(&b.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
        };
        group.select_nth_unstable_by(gone - 1, order);
        for &(_, layer, entry) in &group[..gone] {
            kept[layer][entry] = false;
        }
    }
    kept
}

fn entries(weights: &[Vec<f32>], layer: usize) -> Vec<(f32, usize, usize)> {
    weights[layer].iter().enumerate().map(|(entry, weight)| (weight.abs(), layer, entry)).collect()
}

/// The fours of a row of a layer's weights: neighbouring input channels at one position of the kernel.
///
/// # Errors
/// Why there are none.
pub(super) fn fours(layer: &MatrixLayer) -> Result<Vec<[usize; 4]>, LeftAlone> {
    let taps = layer.taps();
    let channels = layer.inputs / taps;
    if !channels.is_multiple_of(4) {
        let reason = format!("{channels} input channels do not divide into fours, so it stays dense");
        return Err(LeftAlone { layer: layer.path.clone(), reason });
    }
    let four = |tap: usize, first: usize| [0, 1, 2, 3].map(|k| (first + k) * taps + tap);
    Ok((0..taps).flat_map(|tap| (0..channels).step_by(4).map(move |first| four(tap, first))).collect())
}

/// Which weights of a layer stay if the two largest of every four do.
pub(super) fn largest_two_of_four(weights: &[f32], inputs: usize, fours: &[[usize; 4]]) -> Vec<bool> {
    let mut kept = vec![true; weights.len()];
    for (row, kept) in weights.chunks_exact(inputs).zip(kept.chunks_exact_mut(inputs)) {
        for four in fours {
            let mut order = *four;
            order.sort_by(|&a, &b| row[a].abs().total_cmp(&row[b].abs()));
            kept[order[0]] = false;
            kept[order[1]] = false;
        }
    }
    kept
}
