use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{Call, make_each, make_pieces, values, with_values};

/// The same values for every sample, `[1, ..]` to `[N, ..]`; the gradient is the sum over the samples.
///
/// # Errors
/// Of a tensor whose first dimension is not 1, that is not contiguous, not `f32`, or not on the CPU.
pub fn repeat(x: &Tensor, samples: usize) -> Result<Tensor> {
    repeat_call(x, samples).run()
}

pub(crate) fn repeat_call(x: &Tensor, samples: usize) -> Call {
    Call::one(x, Repeat { samples })
}

const NAME: &str = "repeat";

/// Entries whose gradients are summed at a time.
const PIECE: usize = 1 << 8;

struct Repeat {
    samples: usize,
}

impl CustomOp1 for Repeat {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let [1, rest @ ..] = layout.dims() else { bail!("{NAME}: expected one sample, found {:?}", layout.dims()) };
        let x = values(NAME, storage, layout)?;
        let y = make_pieces(self.samples * x.len(), x.len(), self.samples * x.len(), |_, y| {
            y.chunks_exact_mut(x.len().max(1)).for_each(|y| y.copy_from_slice(x));
        });
        Ok((CpuStorage::F32(y), Shape::from([&[self.samples], rest].concat())))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (grad, len) = (grad.contiguous()?, arg.elem_count());
        let sum = with_values(NAME, &grad, |g| {
            Ok(make_each(
                len,
                PIECE,
                g.len(),
                #[inline(always)]
                |piece, sum| {
                    for g in g.chunks_exact(len.max(1)) {
                        sum.iter_mut().zip(&g[piece * PIECE..]).for_each(|(sum, g)| *sum += g);
                    }
                },
            ))
        })?;
        Tensor::from_vec(sum, arg.shape(), arg.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, gradients, random, random_var};

    #[test]
    fn agrees_with_candle() {
        for (samples, rest) in [(1, [1, 1]), (3, [2, 5]), (40, [65, 48])] {
            let x = random_var(&[1, rest[0], rest[1]], 1);
            let ours = repeat(&x, samples).unwrap();
            let theirs = x.broadcast_as((samples, rest[0], rest[1])).unwrap();
            assert_close("value", &ours, &theirs, 0.0);
            let weights = random(ours.dims(), 2);
            let (a, b) = (gradients(&ours, &weights, &[&x]), gradients(&theirs, &weights, &[&x]));
            assert_close("gradient", &a[0], &b[0], f64::from(f32::EPSILON) * samples as f64);
        }
    }

    #[test]
    fn several_samples_are_refused() {
        assert!(repeat(&random(&[2, 3], 1), 4).is_err());
        assert!(repeat(&random(&[1, 3, 2], 1).transpose(1, 2).unwrap(), 4).is_err());
    }
}
