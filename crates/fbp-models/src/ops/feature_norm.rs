use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{fill_pieces, values, with_values};

/// Which entries of a sample are normalised together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormGroups {
    /// Entries of a group, next to each other.
    pub len: usize,
    /// Entries next to each other that share a scale and a shift; these repeat over the sample.
    pub repeat: usize,
    /// Whether the mean of a group is subtracted; else the mean square takes the place of the variance.
    pub centred: bool,
    /// Added to the variance.
    pub eps: f64,
}

/// `y = (x - mean) / √(variance + eps) · weight + bias` with the statistics of every group, and the gradients through
/// them: layer, group, instance and RMS normalisation.
///
/// # Shapes
/// `x`: `[N, ..]`; `weight` and `bias`: as many values as repeat over a sample, of any shape.
///
/// # Errors
/// Of groups or parameters that do not divide a sample, and of tensors that are not contiguous, not `f32`, or not on
/// the CPU.
pub fn feature_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: NormGroups) -> Result<Tensor> {
    x.apply_op3(weight, bias, FeatureNorm { groups })
}

const NAME: &str = "feature_norm";

struct FeatureNorm {
    groups: NormGroups,
}

/// Parameter of every entry of a group.
struct Parameters<'a> {
    values: &'a [f32],
    repeat: usize,
}

impl Parameters<'_> {
    /// Index of the parameter of entry `i`, counted over the batch.
    fn index(&self, i: usize) -> usize {
        i / self.repeat % self.values.len()
    }

    fn at(&self, i: usize) -> f64 {
        f64::from(self.values[self.index(i)])
    }
}

impl FeatureNorm {
    fn check(&self, x: &[usize], weight: &Shape, bias: &Shape) -> Result<()> {
        let NormGroups { len, repeat, .. } = self.groups;
        let sample: usize = x.get(1..).unwrap_or(&[]).iter().product();
        let period = weight.elem_count() * repeat;
        let fits = weight == bias && len > 0 && period > 0;
        if !fits || !sample.is_multiple_of(len) || !sample.is_multiple_of(period) {
            bail!("{NAME}: shapes {x:?}, {weight:?} and {bias:?} do not fit groups of {len} entries");
        }
        Ok(())
    }

    /// Mean and `1/√(variance + eps)` of a group.
    fn statistics(&self, group: &[f32]) -> (f64, f64) {
        let n = group.len() as f64;
        let mean = if self.groups.centred { group.iter().map(|&x| f64::from(x)).sum::<f64>() / n } else { 0.0 };
        let squares: f64 = group.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        (mean, 1.0 / (squares / n + self.groups.eps).sqrt())
    }

    /// `dx = (g - mean(g) - u mean(g u))/√(variance + eps)` with `g = weight · grad` and `u` the normalised group.
    fn input_gradient(&self, x: &[f32], grad: &[f32], weight: &Parameters<'_>, out: &mut [f32]) {
        let len = self.groups.len;
        fill_pieces(out, len, x.len(), |first, out| {
            for (group, out) in out.chunks_exact_mut(len).enumerate() {
                let start = (first + group) * len;
                let (x, grad) = (&x[start..start + len], &grad[start..start + len]);
                let (mean, scale) = self.statistics(x);
                let (mut total, mut along) = (0.0, 0.0);
                for (i, (&x, &g)) in x.iter().zip(grad).enumerate() {
                    let g = f64::from(g) * weight.at(start + i);
                    total += g;
                    along += g * (f64::from(x) - mean) * scale;
                }
                let total = if self.groups.centred { total / len as f64 } else { 0.0 };
                along /= len as f64;
                for (i, (out, (&x, &g))) in out.iter_mut().zip(x.iter().zip(grad)).enumerate() {
                    let g = f64::from(g) * weight.at(start + i);
                    *out = (scale * (g - total - (f64::from(x) - mean) * scale * along)) as f32;
                }
            }
        });
    }

    /// `(Σ grad · u, Σ grad)` for every parameter.
    fn parameter_gradients(&self, x: &[f32], grad: &[f32], weight: &Parameters<'_>) -> (Vec<f32>, Vec<f32>) {
        let len = self.groups.len;
        let mut sums = vec![(0.0_f64, 0.0_f64); weight.values.len()];
        for (group, (x, grad)) in x.chunks_exact(len).zip(grad.chunks_exact(len)).enumerate() {
            let (mean, scale) = self.statistics(x);
            for (i, (&x, &g)) in x.iter().zip(grad).enumerate() {
                let sum = &mut sums[weight.index(group * len + i)];
                sum.0 += f64::from(g) * (f64::from(x) - mean) * scale;
                sum.1 += f64::from(g);
            }
        }
        sums.into_iter().map(|(first, second)| (first as f32, second as f32)).unzip()
    }
}

impl CustomOp3 for FeatureNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.check(lx.dims(), lw.shape(), lb.shape())?;
        let (x, weight, bias) = (values(NAME, x, lx)?, values(NAME, weight, lw)?, values(NAME, bias, lb)?);
        let NormGroups { len, repeat, .. } = self.groups;
        let (weight, bias) = (Parameters { values: weight, repeat }, Parameters { values: bias, repeat });
        let mut y = vec![0.0; x.len()];
        fill_pieces(&mut y, len, x.len(), |first, y| {
            for (group, y) in y.chunks_exact_mut(len).enumerate() {
                let start = (first + group) * len;
                let x = &x[start..start + len];
                let (mean, scale) = self.statistics(x);
                for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
                    *y = ((f64::from(x) - mean) * scale * weight.at(start + i) + bias.at(start + i)) as f32;
                }
            }
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (grad, device) = (grad.contiguous()?, x.device());
        let (mut x_grad, mut weight_grad, mut bias_grad) = (None, None, None);
        with_values(NAME, x, |values_of_x| {
            with_values(NAME, &grad, |g| {
                with_values(NAME, weight, |w| {
                    let parameters = Parameters { values: w, repeat: self.groups.repeat };
                    if x.track_op() {
                        let mut out = vec![0.0; g.len()];
                        self.input_gradient(values_of_x, g, &parameters, &mut out);
                        x_grad = Some(Tensor::from_vec(out, x.shape(), device)?);
                    }
                    if weight.track_op() || bias.track_op() {
                        let (first, second) = self.parameter_gradients(values_of_x, g, &parameters);
                        weight_grad = Some(Tensor::from_vec(first, weight.shape(), device)?);
                        bias_grad = Some(Tensor::from_vec(second, bias.shape(), device)?);
                    }
                    Ok(())
                })
            })
        })?;
        Ok((x_grad, weight_grad.filter(|_| weight.track_op()), bias_grad.filter(|_| bias.track_op())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, gradients, random, random_var};

    /// The same from elementary tensor operations; `x` as `[groups, len]`, parameters spread over it.
    fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: NormGroups) -> Tensor {
        let dims = x.dims().to_vec();
        let x = x.reshape(((), groups.len)).unwrap();
        let centred = if groups.centred { x.broadcast_sub(&x.mean_keepdim(1).unwrap()).unwrap() } else { x.clone() };
        let variance = (centred.sqr().unwrap().mean_keepdim(1).unwrap() + groups.eps).unwrap();
        let normal = centred.broadcast_div(&variance.sqrt().unwrap()).unwrap();
        let period = weight.elem_count() * groups.repeat;
        let spread = |p: &Tensor| {
            let p = p.flatten_all().unwrap().unsqueeze(1).unwrap();
            p.broadcast_as((weight.elem_count(), groups.repeat)).unwrap().reshape((1, period)).unwrap()
        };
        let normal = normal.reshape(((), period)).unwrap();
        let y = normal.broadcast_mul(&spread(weight)).unwrap().broadcast_add(&spread(bias)).unwrap();
        y.reshape(dims).unwrap()
    }

    #[test]
    fn agrees_with_elementary_operations() {
        let groups = |len, repeat, centred| NormGroups { len, repeat, centred, eps: 1e-3 };
        for (dims, params, groups) in [
            (vec![6, 10], vec![10], groups(10, 1, true)),
            (vec![6, 10], vec![10], groups(10, 1, false)),
            (vec![40, 4, 20, 24], vec![4], groups(2 * 480, 480, true)),
            (vec![3, 4, 2, 3], vec![4], groups(6, 6, true)),
            (vec![3, 4, 2, 5], vec![2, 5], groups(10, 1, true)),
            (vec![3, 4, 2, 5], vec![5], groups(5, 1, false)),
        ] {
            let x = random_var(&dims, 1);
            let (w, b) = (random_var(&params, 2), random_var(&params, 3));
            let y = feature_norm(&x, &w, &b, groups).unwrap();
            let expected = composed(&x, &w, &b, groups);
            assert_close("value", &y, &expected, 1e-5);
            let weights = random(&dims, 4);
            let vars = [&x, &w, &b];
            for (a, b) in gradients(&y, &weights, &vars).iter().zip(&gradients(&expected, &weights, &vars)) {
                assert_close("gradient", a, b, 1e-4);
            }
        }
    }

    #[test]
    fn faulty_calls_give_errors() {
        let (x, w) = (random(&[2, 6], 1), random(&[6], 2));
        let groups = NormGroups { len: 6, repeat: 1, centred: true, eps: 1e-5 };
        assert!(feature_norm(&x, &w, &w, groups).is_ok());
        assert!(feature_norm(&x, &w, &w, NormGroups { len: 4, ..groups }).is_err());
        assert!(feature_norm(&x, &w, &w, NormGroups { len: 0, ..groups }).is_err());
        assert!(feature_norm(&x, &w, &w, NormGroups { repeat: 2, ..groups }).is_err());
        assert!(feature_norm(&x, &w, &random(&[3], 2), groups).is_err());
    }
}
