use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{Call, make_pieces, values, with_values};

/// Two features one after the other, `[N, a, ..]` and `[N, b, ..]` to `[N, a + b, ..]`, with the gradients.
///
/// # Errors
/// Of shapes that differ elsewhere, and of tensors that are not contiguous, not `f32`, or not on the CPU.
pub fn concat(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    concat_call(a, b).run()
}

pub(crate) fn concat_call(a: &Tensor, b: &Tensor) -> Call {
    Call::two(a, b, Concat)
}

const NAME: &str = "concat";

struct Concat;

/// Copies entries `start..start + len` of every sample of `x`, of which each has `sample` entries.
fn cut(x: &[f32], sample: usize, start: usize, len: usize) -> Vec<f32> {
    make_pieces(x.len() / sample.max(1) * len, len, x.len(), |first, out| {
        for (i, out) in out.chunks_exact_mut(len.max(1)).enumerate() {
            out.copy_from_slice(&x[(first + i) * sample + start..][..len]);
        }
    })
}

impl CustomOp2 for Concat {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let ([n, own, rest @ ..], [m, other, same @ ..]) = (la.dims(), lb.dims()) else {
            bail!("{NAME}: shapes {:?} and {:?} have no channels", la.dims(), lb.dims())
        };
        if n != m || rest != same {
            bail!("{NAME}: shapes {:?} and {:?} do not fit", la.dims(), lb.dims());
        }
        let (a, b) = (values(NAME, a, la)?, values(NAME, b, lb)?);
        let plane: usize = rest.iter().product();
        let (first, second) = (own * plane, other * plane);
        let len = a.len() + b.len();
        let out = make_pieces(len, first + second, len, |start, out| {
            for (i, out) in out.chunks_exact_mut((first + second).max(1)).enumerate() {
                let sample = start + i;
                out[..first].copy_from_slice(&a[sample * first..][..first]);
                out[first..].copy_from_slice(&b[sample * second..][..second]);
            }
        });
        Ok((CpuStorage::F32(out), Shape::from([&[*n, own + other], rest].concat())))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let len = |tensor: &Tensor| tensor.dims()[1..].iter().product::<usize>();
        let (first, second) = (len(a), len(b));
        with_values(NAME, &grad, |g| {
            let part = |tensor: &Tensor, start: usize, len: usize| {
                let values = || Tensor::from_vec(cut(g, first + second, start, len), tensor.shape(), tensor.device());
                tensor.track_op().then(values).transpose()
            };
            Ok((part(a, 0, first)?, part(b, first, second)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, gradients, random, random_var};

    #[test]
    fn agrees_with_candle() {
        for (a, b) in
            [(vec![3, 2, 4, 5], vec![3, 3, 4, 5]), (vec![70, 40, 6, 6], vec![70, 1, 6, 6]), (vec![2, 3], vec![2, 4])]
        {
            let (a, b) = (random_var(&a, 1), random_var(&b, 2));
            let (found, expected) = (concat(&a, &b).unwrap(), Tensor::cat(&[a.as_tensor(), b.as_tensor()], 1).unwrap());
            assert_close("value", &found, &expected, 0.0);
            let weights = random(found.dims(), 3);
            let vars = [&a, &b];
            for (found, expected) in
                gradients(&found, &weights, &vars).iter().zip(&gradients(&expected, &weights, &vars))
            {
                assert_close("gradient", found, expected, 0.0);
            }
        }
    }

    #[test]
    fn other_shapes_give_errors() {
        let shaped = |dims: &[usize]| random(dims, 1);
        assert!(concat(&shaped(&[2, 3, 4]), &shaped(&[2, 1, 5])).is_err());
        assert!(concat(&shaped(&[2, 3]), &shaped(&[3, 3])).is_err());
        assert!(concat(&shaped(&[2]), &shaped(&[2])).is_err());
        assert_eq!(concat(&shaped(&[0, 3]), &shaped(&[0, 2])).unwrap().dims(), [0, 5]);
    }
}
