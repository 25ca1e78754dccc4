use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{Call, make_each, values, with_values};

/// An activation that cuts values off: `min(max(x, lower), upper)`, with NaN kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// What smaller values become.
    pub lower: f32,
    /// What larger values become.
    pub upper: f32,
}

impl Clip {
    /// Cuts nothing off.
    pub const NONE: Self = Self { lower: f32::NEG_INFINITY, upper: f32::INFINITY };

    #[inline(always)]
    pub(super) fn value(self, x: f32) -> f32 {
        let x = if x <= self.lower { self.lower } else { x };
        if x >= self.upper { self.upper } else { x }
    }

    /// What passes at the input `x` of a gradient of the output: nothing where the value is cut off, or just not yet.
    #[inline(always)]
    pub(super) fn gradient(self, x: f32, gradient: f32) -> f32 {
        if (x > self.lower) & (x < self.upper) { gradient } else { 0.0 }
    }
}

/// `clip(a + b)` entry by entry, with the gradients: where a residual block ends, and the activation behind it.
///
/// # Errors
/// Of tensors of different shapes, and of tensors that are not contiguous, not `f32`, or not on the CPU.
pub fn add_clipped(a: &Tensor, b: &Tensor, clip: Clip) -> Result<Tensor> {
    add_clipped_call(a, b, clip).run()
}

pub(crate) fn add_clipped_call(a: &Tensor, b: &Tensor, clip: Clip) -> Call {
    Call::two(a, b, AddClipped(clip))
}

const NAME: &str = "add + clip";

/// Values that a thread takes at a time.
const PIECE: usize = 1 << 10;

struct AddClipped(Clip);

/// `f(a_i, b_i)` for all entries.
fn zip_map(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Copy + Sync) -> Vec<f32> {
    make_each(
        a.len(),
        PIECE,
        a.len(),
        #[inline(always)]
        |piece, out| {
            // A copy: what lies behind a reference is read again for every entry, as the output might lie there too.
            let (start, f) = (piece * PIECE, f);
            for ((out, &a), &b) in out.iter_mut().zip(&a[start..]).zip(&b[start..]) {
                *out = f(a, b);
            }
        },
    )
}

impl CustomOp2 for AddClipped {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        if la.dims() != lb.dims() {
            bail!("{NAME}: shapes {:?} and {:?} differ", la.dims(), lb.dims());
        }
        let clip = self.0;
        let sum = zip_map(
            values(NAME, a, la)?,
            values(NAME, b, lb)?,
            #[inline(always)]
            move |a, b| clip.value(a + b),
        );
        Ok((CpuStorage::F32(sum), la.shape().clone()))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (grad, clip) = (grad.contiguous()?, self.0);
        let passed = with_values(NAME, res, |y| {
            with_values(NAME, &grad, |g| {
                // A value that was not cut off lies between the ends, as its clipped value does.
                let passed = zip_map(
                    y,
                    g,
                    #[inline(always)]
                    move |y, g| clip.gradient(y, g),
                );
                Tensor::from_vec(passed, grad.shape(), grad.device())
            })
        })?;
        Ok((a.track_op().then(|| passed.clone()), b.track_op().then_some(passed)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::testing::{assert_close, gradients, random, random_var};

    const RELU: Clip = Clip { lower: 0.0, upper: f32::INFINITY };

    #[test]
    fn sums_and_gradients_agree_with_elementary_operations() {
        for (clip, dims) in [(RELU, vec![40, 3, 25, 24]), (Clip { lower: -0.5, upper: 0.75 }, vec![3, 5])] {
            let (a, b) = (random_var(&dims, 1), random_var(&dims, 2));
            let found = add_clipped(&a, &b, clip).unwrap();
            let sum = (a.as_tensor() + b.as_tensor()).unwrap();
            let expected = sum.clamp(clip.lower, clip.upper.min(f32::MAX)).unwrap();
            assert_close("value", &found, &expected, 0.0);
            let weights = random(&dims, 3);
            let vars = [&a, &b];
            for (found, expected) in
                gradients(&found, &weights, &vars).iter().zip(&gradients(&expected, &weights, &vars))
            {
                assert_close("gradient", found, expected, 0.0);
            }
        }
    }

    #[test]
    fn nan_is_kept_and_ends_have_no_slope() {
        let a = Var::new(&[f32::NAN, -1.0, 0.0, 2.0, 6.0, 7.0], &Device::Cpu).unwrap();
        let b = a.zeros_like().unwrap();
        let y = add_clipped(&a, &b, Clip { lower: 0.0, upper: 6.0 }).unwrap();
        let values = y.to_vec1::<f32>().unwrap();
        assert!(values[0].is_nan());
        assert_eq!(values[1..], [0.0, 0.0, 2.0, 6.0, 6.0]);
        let slope = y.backward().unwrap().get(&a).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(slope[1..], [0.0, 0.0, 1.0, 0.0, 0.0]);
        assert!(add_clipped(&a, &random(&[2, 3], 1), RELU).is_err());
    }
}
