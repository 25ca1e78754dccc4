use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::lane_sums::{lane_sums, lane_sums_of_three};
use super::{Call, fill_each, make_each, values, with_values};

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
    feature_norm_call(x, weight, bias, groups).run()
}

pub(crate) fn feature_norm_call(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: NormGroups) -> Call {
    Call::three(x, weight, bias, FeatureNorm { groups })
}

const NAME: &str = "feature_norm";

/// Parts of a batch whose sums are added up; fixed, so that sums do not depend on the number of threads.
const PARTS: usize = 16;

struct FeatureNorm {
    groups: NormGroups,
}

/// Parameters of the entries of a batch.
#[derive(Clone, Copy)]
struct Parameters<'a> {
    values: &'a [f32],
    repeat: usize,
}

/// Neighbouring entries of a group, and the first of their parameters: one for each entry, or one for all.
struct Run {
    start: usize,
    end: usize,
    parameter: usize,
}

impl Parameters<'_> {
    /// Whether every entry of a run has a parameter of its own.
    fn one_each(&self) -> bool {
        self.repeat == 1
    }

    /// The runs of a group of `len` entries that starts at entry `first` of the batch.
    #[inline(always)]
    fn runs(self, first: usize, len: usize) -> impl Iterator<Item = Run> {
        let (count, repeat) = (self.values.len(), self.repeat);
        let mut start = 0;
        std::iter::from_fn(move || {
            let at = first + start;
            let (parameter, rest) = if repeat == 1 {
                (at % count, count - at % count)
            } else {
                (at / repeat % count, repeat - at % repeat)
            };
            let run = Run { start, end: (start + rest).min(len), parameter };
            start = run.end;
            (run.start < len).then_some(run)
        })
    }
}

impl Run {
    #[inline(always)]
    fn of<'a>(&self, group: &'a [f32]) -> &'a [f32] {
        &group[self.start..self.end]
    }

    #[inline(always)]
    fn of_mut<'a>(&self, group: &'a mut [f32]) -> &'a mut [f32] {
        &mut group[self.start..self.end]
    }

    #[inline(always)]
    fn each<'a>(&self, parameters: &Parameters<'a>) -> &'a [f32] {
        &parameters.values[self.parameter..][..self.end - self.start]
    }

    #[inline(always)]
    fn one(&self, parameters: &Parameters<'_>) -> f32 {
        parameters.values[self.parameter]
    }
}

/// A group becomes `((x - centre) - rest) · scale`: the mean is `centre + rest`, exact where it is far from zero.
#[derive(Clone, Copy)]
struct Statistics {
    centre: f32,
    rest: f32,
    scale: f32,
}

impl Statistics {
    #[inline(always)]
    fn normal(self, x: f32) -> f32 {
        ((x - self.centre) - self.rest) * self.scale
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

    fn parameters<'a>(&self, values: &'a [f32]) -> Parameters<'a> {
        Parameters { values, repeat: self.groups.repeat }
    }

    #[inline(always)]
    fn statistics(&self, group: &[f32]) -> Statistics {
        let n = group.len() as f64;
        let centre = if self.groups.centred { (lane_sums(group, group, |x, _| [x, 0.0])[0] / n) as f32 } else { 0.0 };
        let [sum, squares] = lane_sums(group, group, |x, _| [x - centre, (x - centre) * (x - centre)]);
        let (rest, variance) =
            if self.groups.centred { (sum / n, (squares - sum * sum / n) / n) } else { (0.0, squares / n) };
        Statistics { centre, rest: rest as f32, scale: (1.0 / (variance + self.groups.eps).sqrt()) as f32 }
    }

    #[inline(always)]
    fn normalise(&self, first: usize, x: &[f32], [weight, bias]: [&Parameters<'_>; 2], y: &mut [f32]) {
        let statistics = self.statistics(x);
        for run in weight.runs(first, x.len()) {
            let (x, y) = (run.of(x), run.of_mut(y));
            if weight.one_each() {
                for ((y, &x), (&w, &b)) in y.iter_mut().zip(x).zip(run.each(weight).iter().zip(run.each(bias))) {
                    *y = statistics.normal(x) * w + b;
                }
            } else {
                let (w, b) = (run.one(weight), run.one(bias));
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = statistics.normal(x) * w + b);
            }
        }
    }

    /// `dx = (g - mean(g) - u mean(g u))/√(variance + eps)` with `g = weight · grad` and `u` the normalised group.
    #[inline(always)]
    fn input_gradient(&self, first: usize, x: &[f32], grad: &[f32], weight: &Parameters<'_>, out: &mut [f32]) {
        let statistics = self.statistics(x);
        let [mut total, mut along] = [0.0; 2];
        for run in weight.runs(first, x.len()) {
            let (x, grad) = (run.of(x), run.of(grad));
            let [sum, product] = if weight.one_each() {
                lane_sums_of_three(x, grad, run.each(weight), |x, g, w| [g * w, g * w * statistics.normal(x)])
            } else {
                let w = f64::from(run.one(weight));
                lane_sums(x, grad, |x, g| [g, g * statistics.normal(x)]).map(|sum| w * sum)
            };
            total += sum;
            along += product;
        }
        let n = x.len() as f64;
        let (total, along) = (if self.groups.centred { (total / n) as f32 } else { 0.0 }, (along / n) as f32);
        let entry = |x: f32, g: f32| statistics.scale * (g - total - statistics.normal(x) * along);
        for run in weight.runs(first, x.len()) {
            let (x, grad, out) = (run.of(x), run.of(grad), run.of_mut(out));
            if weight.one_each() {
                for ((out, &w), (&x, &g)) in out.iter_mut().zip(run.each(weight)).zip(x.iter().zip(grad)) {
                    *out = entry(x, g * w);
                }
            } else {
                let w = run.one(weight);
                out.iter_mut().zip(x.iter().zip(grad)).for_each(|(out, (&x, &g))| *out = entry(x, g * w));
            }
        }
    }

    /// `(Σ grad · u, Σ grad)` for every parameter, over the groups of one part of the batch that starts at group `first`.
    #[inline(always)]
    fn parameter_sums(&self, first: usize, x: &[f32], grad: &[f32], weight: &Parameters<'_>) -> [Vec<f64>; 2] {
        let len = self.groups.len;
        let mut sums = [vec![0.0; weight.values.len()], vec![0.0; weight.values.len()]];
        let [products, totals] = &mut sums;
        for (group, (x, grad)) in x.chunks_exact(len).zip(grad.chunks_exact(len)).enumerate() {
            let statistics = self.statistics(x);
            for run in weight.runs((first + group) * len, len) {
                let (x, grad) = (run.of(x), run.of(grad));
                if weight.one_each() {
                    let sums = products[run.parameter..].iter_mut().zip(&mut totals[run.parameter..]);
                    for ((product, total), (&x, &g)) in sums.zip(x.iter().zip(grad)) {
                        *product += f64::from(g * statistics.normal(x));
                        *total += f64::from(g);
                    }
                } else {
                    let [total, product] = lane_sums(x, grad, |x, g| [g, g * statistics.normal(x)]);
                    products[run.parameter] += product;
                    totals[run.parameter] += total;
                }
            }
        }
        sums
    }

    /// `(Σ grad · u, Σ grad)` for every parameter: parts of the batch side by side, then their sums in order.
    fn parameter_gradients(&self, x: &[f32], grad: &[f32], weight: &Parameters<'_>) -> [Vec<f32>; 2] {
        let groups = (x.len() / self.groups.len).div_ceil(PARTS).max(1);
        let mut parts = vec![[Vec::new(), Vec::new()]; x.len().div_ceil(groups * self.groups.len)];
        fill_each(
            &mut parts,
            1,
            x.len(),
            #[inline(always)]
            |index, part| {
                let start = index * groups * self.groups.len;
                let end = (start + groups * self.groups.len).min(x.len());
                part[0] = self.parameter_sums(index * groups, &x[start..end], &grad[start..end], weight);
            },
        );
        let sum = |which: usize| {
            let all = |at: usize| parts.iter().map(|part| part[which][at]).sum::<f64>() as f32;
            (0..weight.values.len()).map(all).collect()
        };
        [sum(0), sum(1)]
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
        let (len, weight, bias) = (self.groups.len, self.parameters(weight), self.parameters(bias));
        let y = make_each(
            x.len(),
            len,
            x.len(),
            #[inline(always)]
            |group, y| self.normalise(group * len, &x[group * len..][..len], [&weight, &bias], y),
        );
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
                    let (len, parameters) = (self.groups.len, self.parameters(w));
                    if x.track_op() {
                        let out = make_each(
                            g.len(),
                            len,
                            g.len(),
                            #[inline(always)]
                            |group, out| {
                                let start = group * len;
                                let (x, g) = (&values_of_x[start..][..len], &g[start..][..len]);
                                self.input_gradient(start, x, g, &parameters, out);
                            },
                        );
                        x_grad = Some(Tensor::from_vec(out, x.shape(), device)?);
                    }
                    if weight.track_op() || bias.track_op() {
                        let [first, second] = self.parameter_gradients(values_of_x, g, &parameters);
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
