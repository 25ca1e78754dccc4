use faer::Mat;
use fbp_linalg::Cholesky;
use rayon::prelude::*;

use super::problem::{Problem, columns};
use super::ridge::{block, by_support, dampings};
use super::statistics::Sums;

/// Share of the weights that a round leaves: what the loss of one costs holds for few at a time.
const LEFT: f64 = 0.6;
/// Most multiplications of a round, `n³` for every output of which `n` weights are left; from all weights on outputs share one `n³`.
const MOST_PRODUCTS: f64 = 1e11;
/// Share of the weights down to which a layer is measured.
const FEWEST: f64 = 0.01;
/// Rounds after which it is seen what the weights that are left do.
const PROBED: usize = 2;

/// What the loss of a weight costs, its output and its place in the row.
type Cost = (f64, usize, usize);

/// Which entries of a column every output uses, the constant last: as many weights of the layer as in `problem.kept`, but those whose
/// loss costs most once the others of their output make up for it. None if no weight is to go, or with numbers that are not finite.
///
/// On the support `S` of an output, with `w` the weights solved for there and `H = X̃X̃ᵀ + λI`, leaving out weight `j` costs
/// `wⱼ² / (H_SS⁻¹)ⱼⱼ`. In rounds the cheapest ones of all outputs go, and what is left is solved for again.
///
/// On the first 2,000 test images of Fashion-MNIST, 90 % zero, as many weights of each layer by their size and by this (two or three
/// seeds, on the way to commit 01444ed; `benches/results/compress` has more):
/// `cnn-mnist-large` (500 images) 76.5 and 85.8 % (intact 91.1), `simple-vit-v2` (100 images) 70.8 and 81.6 % (87.8), `resnet20` (100
/// images) 90.2 and 92.0 % (93.4).
///
/// # Source
/// Hassibi & Stork, "Second order derivatives for network pruning: optimal brain surgeon", NeurIPS 1992; with the squared error of
/// one layer: Frantar & Alistarh, "Optimal Brain Compression", NeurIPS 2022, §4. Rounds, in place of one weight at a time: own.
pub(super) fn by_reconstruction(problem: &Problem<'_>, total: &Sums, lambda: f64) -> Option<Vec<Vec<usize>>> {
    let wanted = problem.kept?.iter().filter(|kept| **kept).count();
    if wanted == problem.weights.len() {
        return None;
    }
    let mut supports = vec![problem.support(|_| true); problem.layer.outputs];
    for count in rounds(problem.layer.inputs, problem.layer.outputs, wanted) {
        let (costs, _) = costs(problem, total, &supports, lambda)?;
        cut(problem, costs, count, &mut supports);
    }
    Some(supports)
}

/// What is missing while weights go in rounds.
#[derive(Clone, Debug)]
pub(super) struct Rounds {
    /// Number of weights, and `Σ r² + λ |Δ|²` with the best of them, `Δ` their changes.
    pub(super) points: Vec<(usize, f64)>,
    /// All weights after some rounds, one output after the other.
    pub(super) weights: Vec<f32>,
    /// What is then added to the bias of every output.
    pub(super) shifts: Vec<f64>,
    /// `Σ r²` with these.
    pub(super) missing: f64,
}

/// Lets weights go until few are left; none with numbers that are not finite.
pub(super) fn rounds_of(problem: &Problem<'_>, total: &Sums, lambda: f64) -> Option<Rounds> {
    let (inputs, outputs) = (problem.layer.inputs, problem.layer.outputs);
    let mut supports = vec![problem.support(|_| true); outputs];
    let mut found = Rounds { points: Vec::new(), weights: Vec::new(), shifts: Vec::new(), missing: 0.0 };
    let mut count = inputs * outputs;
    for next in rounds(inputs, outputs, (FEWEST * count as f64) as usize) {
        let (costs, missing) = costs(problem, total, &supports, lambda)?;
        found.points.push((count, missing));
        cut(problem, costs, next, &mut supports);
        count = next;
        // Weights that were zero before are no loss.
        if found.points.len() >= PROBED && found.missing == 0.0 {
            let changes = problem.fitted(&supports, total, lambda).ok()?;
            found.missing = total.residuals(columns(&changes).as_ref()).iter().sum();
            found.shifts = changes.iter().map(|change| change[inputs..].iter().sum()).collect();
            found.weights = changes.iter().enumerate().flat_map(|(o, change)| problem.new_row(o, change)).collect();
        }
    }
    if found.weights.is_empty() {
        (found.weights, found.shifts) = (problem.weights.to_vec(), vec![0.0; outputs]);
    }
    Some(found)
}

/// How many weights are left after every round, the last one with those wanted.
fn rounds(inputs: usize, outputs: usize, wanted: usize) -> Vec<usize> {
    let mut found = Vec::new();
    let mut count = (inputs * outputs) as f64;
    // The weights of a layer whose round is not too much work.
    let most = outputs as f64 * (MOST_PRODUCTS / outputs.max(1) as f64).cbrt();
    while LEFT * count > wanted as f64 && count >= 1.0 {
        count = (LEFT * count).min(most);
        if count > wanted as f64 {
            found.push(count as usize);
        }
    }
    found.push(wanted);
    found.dedup();
    found
}

/// Leaves the `count` weights whose loss costs most.
fn cut(problem: &Problem<'_>, mut costs: Vec<Cost>, count: usize, supports: &mut [Vec<usize>]) {
    let most_first = |a: &Cost, b: &Cost| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)));
    if count < costs.len() {
        costs.select_nth_unstable_by(count, most_first);
    }
    supports.iter_mut().for_each(Vec::clear);
    costs.iter().take(count).for_each(|&(_, output, entry)| supports[output].push(entry));
    for support in supports {
        support.sort_unstable();
        support.extend(problem.layer.inputs..problem.layer.column_len());
    }
}

/// What the loss of every weight costs that is still there, and `Σ r² + λ |Δ|²` with all of them, the best ones.
fn costs(problem: &Problem<'_>, total: &Sums, supports: &[Vec<usize>], lambda: f64) -> Option<(Vec<Cost>, f64)> {
    let moved = total.moved(columns(&problem.zeroed_outside(supports)).as_ref());
    let of_group = |(support, outputs): &(&[usize], Vec<usize>)| {
        let right = Mat::from_fn(support.len(), outputs.len(), |i, k| moved.cross[(support[i], outputs[k])]);
        // As the solve does it, with the least more for which the block is positive definite.
        let factor = dampings(lambda).find_map(|lambda| Cholesky::new(block(&total.gram, support, lambda).as_ref()))?;
        let (found, diagonal) = (factor.solve(right.as_ref()), factor.inverse_diagonal());
        let product =
            |k: usize| right.col_as_slice(k).iter().zip(found.col_as_slice(k)).map(|(a, b)| a * b).sum::<f64>();
        let spared: f64 = (0..outputs.len()).map(product).sum();
        let mut costs = Vec::with_capacity(support.len() * outputs.len());
        for (k, &output) in outputs.iter().enumerate() {
            let row = problem.row(output);
            // The constant, which comes last, always stays.
            for ((&entry, &weight), diagonal) in support.iter().zip(found.col_as_slice(k)).zip(&diagonal) {
                let Some(&before) = row.get(entry) else { break };
                costs.push(((f64::from(before) + weight).powi(2) / diagonal, output, entry));
            }
        }
        Some((costs, spared))
    };
    let found: Option<Vec<(Vec<Cost>, f64)>> = by_support(supports).par_iter().map(of_group).collect();
    let (mut costs, mut missing) = (Vec::new(), moved.missing.iter().sum::<f64>());
    for (own, spared) in found? {
        costs.extend(own);
        missing -= spared;
    }
    Some((costs, missing.max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_leaves_a_share_and_the_last_one_what_is_wanted() {
        assert_eq!(rounds(100, 10, 1000), [1000]);
        assert_eq!(rounds(100, 10, 600), [600]);
        assert_eq!(rounds(100, 10, 300), [600, 360, 300]);
        assert_eq!(rounds(100, 10, 0).last(), Some(&0));
        assert_eq!(rounds(3, 0, 0), [0]);
        // 1e11 products for 512 outputs are those of 580 weights each.
        let large = rounds(4608, 512, 512 * 400);
        assert_eq!(large.len(), 2, "{large:?}");
        assert!(large[0] <= 512 * 581, "{large:?}");
        assert_eq!(rounds(4608, 512, 512 * 1000), [512 * 1000]);
    }
}
