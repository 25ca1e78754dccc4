use std::fmt;
use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat};

use super::search::{GUARDS, RIVALS, ROUNDS};
use crate::affine::AffineLayer;
use crate::evaluate::pool_par;

/// Exchanges of a solve, more or less.
const EXCHANGES: f64 = 8.0;
/// Size of the product that tells how fast this machine is.
const PROBE: usize = 256;
/// Speed of factorisations and of everything around them, as a share of that of the product.
const EFFICIENCY: f64 = 0.4;
/// How often it is computed; the fastest counts, as the first one starts threads.
const PROBES: usize = 4;

/// What a repair will take, as far as sizes tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Samples to repair.
    pub samples: usize,
    /// Conditions of a solve.
    pub conditions: usize,
    /// Memory of the largest solve, in bytes.
    pub bytes: f64,
    /// Floating-point operations of the whole search.
    pub flops: f64,
}

impl Effort {
    /// Of a repair of some samples with so many demands, in a network with so many classes, where `others` samples are to be
    /// left alone.
    pub(super) fn of(layer: &AffineLayer, samples: usize, demands: usize, [classes, others]: [usize; 2]) -> Self {
        let guards = GUARDS.min(others);
        let conditions = RIVALS.min(classes - 1) * samples + 2 * guards;
        let (n, positions) = (conditions as f64, layer.positions() as f64);
        let (outputs, columns) = (layer.outputs as f64, layer.inputs as f64 + 1.0);
        let subjects = (samples + guards) as f64;
        // The Gram matrix and the part of it that is factorised; columns, plain and white; derivatives; written-out rows
        // where a row has several columns.
        let rows = if layer.positions() == 1 { n * n + n * (outputs + columns) } else { n * outputs * columns };
        let numbers = 2.0 * n * n + 2.0 * subjects * columns * positions + n * outputs * positions + rows;
        let whitening = subjects * columns * columns * positions;
        let products = if layer.positions() == 1 { n * n * (outputs + columns) } else { n * n * outputs * columns };
        let solve = EXCHANGES * n * n * n / 3.0 + products + 2.0 * whitening;
        Self { samples, conditions, bytes: 8.0 * numbers, flops: solve * (demands * ROUNDS) as f64 }
    }

    /// Time on this machine, in seconds, by a product that takes a moment.
    pub fn seconds(&self) -> f64 {
        let a = Mat::from_fn(PROBE, PROBE, |i, j| ((i * 7 + j * 3) % 11) as f64);
        let mut product = Mat::zeros(PROBE, PROBE);
        let mut seconds = f64::INFINITY;
        for _ in 0..PROBES {
            let begun = Instant::now();
            matmul(product.as_mut(), Accum::Replace, a.as_ref(), a.as_ref(), 1.0, pool_par());
            seconds = seconds.min(begun.elapsed().as_secs_f64());
        }
        debug_assert!(product[(0, 0)] > 0.0);
        self.flops * seconds / (EFFICIENCY * 2.0 * (PROBE as f64).powi(3))
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, conditions, bytes, .. } = self;
        write!(f, "{samples} samples, up to {conditions} conditions, up to {:.1} GB of memory", bytes / 1e9)
    }
}

/// A time that is not known well, in words.
pub(super) fn about(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("about {} s", s.max(1.0).round()),
        s if s < 5400.0 => format!("about {} min", (s / 60.0).round()),
        s => format!("about {:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use fbp_models::{Network, zoo};

    use super::*;

    #[test]
    fn more_samples_take_more_and_the_numbers_are_those_of_the_matrices() {
        let network = Network::new(&zoo::spec("cnn-mnist-large").unwrap(), 0).unwrap();
        for stage in ["conv2", "fc1", "out"] {
            let layer = AffineLayer::of(&network, stage).unwrap();
            let [few, many] = [100, 1600].map(|samples| Effort::of(&layer, samples, 4, [10, 50_000]));
            assert!(few.bytes < many.bytes && few.flops < many.flops, "{stage}");
            // Two matrices of 7,200 × 7,200 numbers at least.
            assert_eq!(many.conditions, 7200);
            assert!(many.bytes > 2.0 * 8.0 * 7200.0 * 7200.0 && many.bytes < 4e9, "{stage}: {many}");
        }
        assert_eq!(about(0.2), "about 1 s");
        assert_eq!(about(600.0), "about 10 min");
    }
}
