//! Random deep chains, with and without normalisations.

use fbp_inverse::{Effort, TargetMode};

use crate::dice::Dice;
use crate::network::{Network, Plan};
use crate::reversal::{Reversal, problem};
use crate::{note, number_from, quantile};

/// Starts of the ascents that decide whether a sample is within reach.
const STARTS: usize = 64;

/// Figures of one boundary of one chain.
#[derive(Default)]
struct Figures {
    /// Distances of the attained targets over those of the oracle.
    ratios: Vec<f64>,
    attained: usize,
    /// Neither the chain nor the ascents reach the margin.
    beyond_reach: usize,
    /// Only the ascents do.
    given_up: usize,
    /// Only the chain does.
    missed_by_oracle: usize,
}

fn study(chain: usize, samples: usize, effort: Effort) -> Vec<(usize, Figures)> {
    let mut dice = Dice::new(1000 + chain as u64);
    let plan = Plan::number(chain, &mut dice);
    let network = Network::draw(&plan, &mut dice);
    let (images, _) = plan.images(samples, &mut dice);
    let labels: Vec<usize> = (0..samples).map(|_| dice.below(plan.classes)).collect();
    let run = Reversal::<f64>::new(&network, &images, &labels, (TargetMode::Attainable, effort));
    let mut all = Vec::new();
    for (boundary, first) in network.boundaries().into_iter().enumerate() {
        let mut figures = Figures::default();
        for sample in 0..samples {
            let problem = problem(&network, first, &images[sample], labels[sample]);
            if problem.excess(&problem.observed) >= 0.0 {
                continue;
            }
            // Of its own for every sample, so that the oracle does not depend on what it judges.
            let mut dice = Dice::new(((chain * 100 + boundary) * 1000 + sample) as u64);
            let Some(target) = run.attained(boundary, sample) else {
                let reachable = (0..STARTS).any(|start| problem.ascent(start, &mut dice).is_some());
                *(if reachable { &mut figures.given_up } else { &mut figures.beyond_reach }) += 1;
                continue;
            };
            assert!(
                target.iter().all(|&v| problem.range.0 <= v && v <= problem.range.1),
                "the target leaves the range"
            );
            // Both evaluate the network in their own order.
            let slack = 1e3 * f64::EPSILON * target.len() as f64;
            assert!(problem.excess(&target) >= -slack, "short of the margin by {:e}", -problem.excess(&target));
            figures.attained += 1;
            match problem.nearest(6, &mut dice) {
                Some(nearest) => figures.ratios.push(problem.distance(&target) / nearest),
                None => figures.missed_by_oracle += 1,
            }
        }
        all.push((first, figures));
    }
    all
}

/// Distances over those of the oracles, the nearest first, and the number of samples within reach that were given up.
fn ratios(chains: usize, samples: usize, effort: Effort) -> (Vec<f64>, usize) {
    let (mut ratios, mut given_up) = (Vec::new(), 0);
    for chain in 0..chains {
        for (first, mut figures) in study(chain, samples, effort) {
            let [median, high, worst] = [0.5, 0.9, 1.0].map(|share| quantile(&mut figures.ratios, share));
            note(&format!(
                "{effort:?} chain {chain} layer {first}: attained {} given up {} beyond reach {} missed by the oracle {}; \
                 distance: median {median:.4} p90 {high:.4} worst {worst:.4}",
                figures.attained, figures.given_up, figures.beyond_reach, figures.missed_by_oracle
            ));
            given_up += figures.given_up;
            ratios.append(&mut figures.ratios);
        }
    }
    (ratios, given_up)
}

fn check(effort: Effort) {
    let (chains, samples) = (number_from("FBP_CHAINS", 3), number_from("FBP_CHAIN_SAMPLES", 6));
    let (mut ratios, given_up) = ratios(chains, samples, effort);
    let [median, high, last, worst] = [0.5, 0.9, 0.99, 1.0].map(|share| quantile(&mut ratios, share));
    note(&format!("{effort:?} all {}: median {median:.4} p90 {high:.4} p99 {last:.4} worst {worst:.4}", ratios.len()));
    assert_eq!(given_up, 0, "samples within reach are called unattained");
    assert!(median < 1.02, "median {median}");
    assert!(worst < 1.1, "worst {worst}");
}

#[test]
fn deep_chains_are_attained_and_near() {
    check(Effort::Thorough);
}

#[test]
fn deep_chains_are_as_near_as_oracles_get_when_searched_exhaustively() {
    check(Effort::Exhaustive);
}
