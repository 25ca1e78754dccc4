/// Points between two of a curve.
const BETWEEN: usize = 6;

/// What a layer misses with how many of its weights left.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Curve {
    /// Number of weights.
    pub(super) weights: usize,
    /// Share of the weights that is left, and what is missing as a share of how the outputs vary, from all weights to few.
    pub(super) points: Vec<(f64, f64)>,
    /// How much of the network's output is off for a share of this layer's that is missing.
    pub(super) worth: f64,
    /// Weights that it has in any case: without any its outputs would be constant, whatever follows.
    pub(super) least: usize,
}

/// Some weights of a layer, of which none is worth less than one of the next piece.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    layer: usize,
    weights: usize,
    /// What each of them spares.
    spared: f64,
}

impl Curve {
    /// Points from no weight to all, with others in between: there what is missing falls by the same share with every weight.
    fn fine(&self) -> Vec<(usize, f64)> {
        let count = |share: f64| (share * self.weights as f64).round() as usize;
        let mut fine = vec![(0, 1.0)];
        let mut before: Option<(f64, f64)> = None;
        for &(share, missing) in self.points.iter().rev() {
            if let Some((start, most)) = before {
                let at = |step: usize| {
                    let t = step as f64 / BETWEEN as f64;
                    let left =
                        if missing > 0.0 && most > 0.0 { most * (missing / most).powf(t) } else { most * (1.0 - t) };
                    (count(start + t * (share - start)), left)
                };
                fine.extend((1..BETWEEN).map(at));
            }
            fine.push((count(share), missing));
            before = Some((share, missing));
        }
        fine.dedup_by_key(|point| point.0);
        fine
    }

    /// The edges of the lower convex hull.
    fn pieces(&self, layer: usize) -> Vec<Piece> {
        let mut hull: Vec<(usize, f64)> = Vec::new();
        let slope = |a: (usize, f64), b: (usize, f64)| (a.1 - b.1) / (b.0 - a.0) as f64;
        for point in self.fine() {
            while let [.., a, b] = hull[..] {
                if slope(a, b) > slope(b, point) {
                    break;
                }
                hull.pop();
            }
            hull.push(point);
        }
        let piece = |pair: &[(usize, f64)]| Piece {
            layer,
            weights: pair[1].0 - pair[0].0,
            spared: self.worth * slope(pair[0], pair[1]),
        };
        hull.windows(2).map(piece).collect()
    }
}

/// How many weights every layer has, `total` together, such that least of the network's output is off: the sum over the layers of what
/// each misses, times what that is worth.
///
/// # Source
/// Marginal allocation, exact on convex curves: Fox, "Discrete optimization via marginal analysis", Management Science 13 (1966).
/// What is allocated: own.
pub(super) fn allocate(curves: &[Curve], total: usize) -> Vec<usize> {
    let mut pieces: Vec<Piece> = curves.iter().enumerate().flat_map(|(layer, curve)| curve.pieces(layer)).collect();
    // Pieces of one layer come in their order, equal ones too.
    pieces.sort_by(|a, b| b.spared.total_cmp(&a.spared));
    let (mut counts, mut left) = (Vec::with_capacity(curves.len()), total);
    for curve in curves {
        counts.push(curve.least.min(left));
        left -= curve.least.min(left);
    }
    let mut given = counts.clone();
    for piece in pieces {
        let before = piece.weights.min(given[piece.layer]);
        given[piece.layer] -= before;
        let own = (piece.weights - before).min(left);
        counts[piece.layer] += own;
        left -= own;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(weights: usize, worth: f64, points: &[(f64, f64)]) -> Curve {
        Curve { weights, points: points.to_vec(), worth, least: 0 }
    }

    #[test]
    fn weights_go_where_they_spare_most() {
        let steep = curve(100, 1.0, &[(1.0, 0.0), (0.2, 0.01)]);
        let flat = curve(100, 1.0, &[(1.0, 0.0), (0.2, 0.5)]);
        assert_eq!(allocate(&[steep.clone(), flat.clone()], 200), [100, 100]);
        assert_eq!(allocate(&[steep.clone(), flat.clone()], 0), [0, 0]);
        let counts = allocate(&[steep.clone(), flat.clone()], 100);
        assert_eq!(counts.iter().sum::<usize>(), 100);
        assert!(counts[1] > 2 * counts[0], "{counts:?}");
        // What is worth nothing gets what is left, or what it has in any case.
        let idle = Curve { worth: 0.0, ..flat.clone() };
        assert_eq!(allocate(&[steep.clone(), idle.clone()], 120), [100, 20]);
        assert_eq!(allocate(&[steep, Curve { least: 30, ..idle }], 120), [90, 30]);
        // The sum is that asked for, however small the layers are.
        let small = Curve { least: 1, ..curve(3, 1.0, &[(1.0, 0.0), (0.6, 0.1), (0.36, 0.3)]) };
        for total in 0..=106 {
            assert_eq!(allocate(&[small.clone(), flat.clone(), small.clone()], total).iter().sum::<usize>(), total);
        }
    }

    /// What a layer misses with so many weights, times its worth: the lowest chord over all pairs of points.
    fn lowest(curve: &Curve, count: usize) -> f64 {
        let points = curve.fine();
        let mut lowest = f64::INFINITY;
        for a in points.iter().filter(|a| a.0 <= count) {
            for b in points.iter().filter(|b| b.0 >= count) {
                let t = if b.0 > a.0 { (count - a.0) as f64 / (b.0 - a.0) as f64 } else { 0.0 };
                lowest = lowest.min(a.1 + t * (b.1 - a.1));
            }
        }
        curve.worth * lowest
    }

    #[test]
    fn no_other_allocation_is_better() {
        let curves = [
            curve(40, 2.0, &[(1.0, 0.0), (0.6, 0.02), (0.36, 0.1), (0.2, 0.3)]),
            curve(60, 0.5, &[(1.0, 0.0), (0.6, 0.1), (0.36, 0.2), (0.2, 0.6)]),
            curve(20, 1.0, &[(1.0, 0.1), (0.6, 0.1), (0.36, 0.4), (0.2, 0.5)]),
        ];
        let worths: f64 = curves.iter().map(|curve| curve.worth).sum();
        for total in [0, 10, 57, 90, 120] {
            let sum = |counts: &[usize]| (0..3).map(|layer| lowest(&curves[layer], counts[layer])).sum::<f64>();
            let found = sum(&allocate(&curves, total));
            let others = (0..=40.min(total)).flat_map(|a| (0..=60.min(total - a)).map(move |b| [a, b, total - a - b]));
            let best = others.filter(|counts| counts[2] <= 20).map(|counts| sum(&counts)).fold(f64::INFINITY, f64::min);
            // The slopes of some hundred pieces decide.
            assert!(found <= best + 100.0 * f64::EPSILON * worths, "{total}: {found} {best}");
        }
    }
}
