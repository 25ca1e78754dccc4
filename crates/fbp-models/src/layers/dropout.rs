use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Tensor;
use fbp_inverse::{Block, ReverseOperator};
use fbp_linalg::FeatureShape;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Layer, LayerPass, ModelError};

/// Entries, or whole samples, that are zero in training with some probability; the others make up for it.
///
/// The layer draws from a generator of its own, seeded by its path and the number of its passes: equal networks drop the same.
#[derive(Debug)]
pub(crate) struct DropoutLayer {
    kind: &'static str,
    p: f64,
    whole_samples: bool,
    seed: u64,
    passes: AtomicU64,
}

impl DropoutLayer {
    pub(super) fn new(kind: &'static str, p: f64, whole_samples: bool, path: &str) -> Self {
        // FNV-1a.
        let seed = path
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Self { kind, p, whole_samples, seed, passes: AtomicU64::new(0) }
    }
}

impl Layer for DropoutLayer {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn keeps_tape(&self, pass: LayerPass<'_>) -> bool {
        !pass.training || self.p == 0.0
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        if !pass.training || self.p == 0.0 {
            return Ok(x.clone());
        }
        let number = self.passes.fetch_add(1, Ordering::Relaxed);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let keep = (1.0 / (1.0 - self.p)) as f32;
        let threshold = (self.p * 2.0_f64.powi(32)) as u64;
        let dims: Vec<usize> = match self.whole_samples {
            true => x.dims().iter().enumerate().map(|(axis, &len)| if axis == 0 { len } else { 1 }).collect(),
            false => x.dims().to_vec(),
        };
        // A slice of a batch drops what the whole batch would drop there.
        if let Some(slice) = pass.group.and_then(|group| group.slice()) {
            rng.set_word_pos(slice.before as u128 * dims[1..].iter().product::<usize>() as u128);
        }
        let mut draw = || if u64::from(rng.next_u32()) < threshold { 0.0 } else { keep };
        let mask: Vec<f32> = (0..dims.iter().product()).map(|_| draw()).collect();
        Ok(x.broadcast_mul(&Tensor::from_vec(mask, dims, x.device())?)?)
    }

    fn draws(&self) -> Option<&AtomicU64> {
        Some(&self.passes)
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(Block::identity(name, in_shape)))
    }
}
