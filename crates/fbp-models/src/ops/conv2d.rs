use std::fmt;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor, bail};
use fbp_linalg::conv2d::{Conv2d, Conv2dGeometry, ConvWeightGrad, Epilogue};
use fbp_linalg::{FeatureShape, zeros};

use super::folded::{Folded, LastFolded, Parameters};
use super::scratch::ScratchPool;
use super::{Call, Clip, par_for, values, with_values};

/// A two-dimensional convolution, or a transposed one, as a differentiable tensor operation, built once per layer.
///
/// Any stride, padding, dilation and groups. Gradients are computed only for the arguments that need one: a first
/// layer, whose input is data, costs no adjoint. Scratch memory is kept between calls.
#[derive(Clone)]
pub struct Conv2dKernel {
    pub(super) shared: Arc<Shared>,
    plain: Arc<Box<dyn CustomOp2 + Send + Sync>>,
    biased: Arc<Box<dyn CustomOp3 + Send + Sync>>,
}

/// What follows a convolution with constant parameters.
#[derive(Clone, Copy, Debug)]
pub struct FusedTail<'a> {
    /// Scale and shift of every channel.
    pub affine: Option<[&'a Tensor; 2]>,
    /// Added to the output.
    pub addend: Option<&'a Tensor>,
    /// The activation.
    pub clip: Clip,
}

/// What all calls of one layer share.
pub(super) struct Shared {
    pub(super) conv: Conv2d,
    pub(super) scratch: ScratchPool,
    folded: LastFolded,
    /// Whether the operation is the adjoint of the convolution.
    transposed: bool,
}

struct Op(Arc<Shared>);

const NAME: &str = "conv2d";

impl fmt::Debug for Conv2dKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conv2dKernel").field("geometry", self.geometry()).finish()
    }
}

impl Conv2dKernel {
    /// Kernel of a checked geometry.
    pub fn new(geometry: Conv2dGeometry) -> Self {
        Self::build(Conv2d::for_networks(geometry), false)
    }

    /// Kernel of the transpose of a convolution: it takes what the convolution of this geometry gives.
    pub fn transposed(geometry: Conv2dGeometry) -> Self {
        Self::build(Conv2d::for_networks(geometry), true)
    }

    /// The same operation with every product taken, which rounds less and takes longer where the kernel has a way with fewer.
    pub fn direct(&self) -> Self {
        Self::build(Conv2d::new(*self.geometry()), self.shared.transposed)
    }

    fn build(conv: Conv2d, transposed: bool) -> Self {
        let (scratch, folded) = (ScratchPool::default(), LastFolded::default());
        let shared = Arc::new(Shared { conv, scratch, folded, transposed });
        Self { plain: Arc::new(Box::new(Op(shared.clone()))), biased: Arc::new(Box::new(Op(shared.clone()))), shared }
    }

    /// The geometry of the convolution, also of a transposed one.
    pub fn geometry(&self) -> &Conv2dGeometry {
        self.shared.conv.geometry()
    }

    /// Whether the operation is the transpose of the convolution of [`geometry`](Self::geometry).
    pub fn is_transposed(&self) -> bool {
        self.shared.transposed
    }

    /// Convolves a batch.
    ///
    /// # Shapes
    /// `x`: `[N, C, H, W]`; `weight`: `[out_channels, C / groups, kernel height, kernel width]`, for a transposed
    /// convolution `[C, out_channels / groups, kernel height, kernel width]`; `bias`: `[out_channels]`; the result is
    /// `[N, out_channels, H', W']`.
    ///
    /// # Errors
    /// Of other shapes, and of tensors that are not contiguous, not `f32`, or not on the CPU.
    pub fn apply(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        self.call(x, weight, bias).run()
    }

    /// `clip(scale_c · conv(x) + shift_c + addend)`, with the scale folded into constant weights and all else done while the
    /// outputs are in the cache: a convolution, the normalisation with known statistics behind it, the sum at the end of a residual
    /// block, and the activation, in one pass over memory. Gradients end here.
    ///
    /// What folding makes of the parameters is kept, and made again only where a bit of them has changed: parameters that change
    /// with every call gain nothing. It takes six times their memory, see [`forget_parameters`](Self::forget_parameters).
    ///
    /// It differs from these operations one after the other by the rounding of the weights, some units in the last place of the
    /// largest sum of absolute products.
    ///
    /// # Shapes
    /// As [`apply`](Self::apply); `scale` and `shift`: `[out_channels]`; `addend`: that of the result.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), and for a transposed convolution.
    pub fn apply_fused(
        &self,
        [x, weight]: [&Tensor; 2],
        bias: Option<&Tensor>,
        tail: &FusedTail<'_>,
    ) -> Result<Tensor> {
        let geometry = self.geometry();
        let channels = geometry.out_shape().channels;
        let batch = self.shared.batch(x.dims(), weight.dims())?;
        if self.shared.transposed || tail.affine.is_some_and(|affine| affine.iter().any(|t| t.dims() != [channels])) {
            bail!("{NAME}: no normalisation of {channels} channels to fuse with");
        }
        let affine = match tail.affine {
            Some([scale, shift]) => Some([scale.to_vec1::<f32>()?, shift.to_vec1::<f32>()?]),
            None => None,
        };
        let affine = affine.as_ref().map(|affine| affine.each_ref().map(Vec::as_slice));
        let bias = bias.map(Tensor::to_vec1::<f32>).transpose()?;
        let folded = with_values(NAME, weight, |weight| {
            let parameters = Parameters { weight, bias: bias.as_deref(), affine };
            self.shared.folded.get(&self.shared.conv, parameters).map_err(Error::wrap)
        })?;
        let finish = |addend: Option<&[f32]>| {
            let epilogue = Epilogue { addend, lower: tail.clip.lower, upper: tail.clip.upper };
            with_values(NAME, x, |input| self.shared.run_folded(batch, &folded, input, epilogue))
        };
        let output = match tail.addend {
            Some(addend) => with_values(NAME, addend, |addend| finish(Some(addend)))?,
            None => finish(None)?,
        };
        let out = geometry.out_shape();
        Tensor::from_vec(output, (batch, out.channels, out.height, out.width), x.device())
    }

    /// Lets go of what [`apply_fused`](Self::apply_fused) keeps of the parameters that it had last: a copy of them, and several
    /// times that in the order in which the kernel reads them.
    pub fn forget_parameters(&self) {
        self.shared.folded.forget();
    }

    pub(crate) fn call(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Call {
        match bias {
            Some(bias) => Call::Three([x.clone(), weight.clone(), bias.clone()], self.biased.clone()),
            None => Call::Two([x.clone(), weight.clone()], self.plain.clone()),
        }
    }
}

impl Shared {
    /// Shapes of a sample before and after the operation.
    fn shapes(&self) -> (FeatureShape, FeatureShape) {
        let geometry = self.conv.geometry();
        let (input, output) = (geometry.in_shape(), geometry.out_shape());
        if self.transposed { (output, input) } else { (input, output) }
    }

    /// Checks the dimensions and gives the size of the batch.
    pub(super) fn batch(&self, x: &[usize], weight: &[usize]) -> Result<usize> {
        let geometry = self.conv.geometry();
        let shape = self.shapes().0;
        match x {
            &[n, c, h, w] if [c, h, w] == [shape.channels, shape.height, shape.width] => {
                if weight == geometry.weight_shape() {
                    Ok(n)
                } else {
                    bail!("{NAME}: expected weights {:?}, found {weight:?}", geometry.weight_shape())
                }
            }
            _ => bail!("{NAME}: expected a batch of {shape}, found {x:?}"),
        }
    }

    pub(super) fn work(&self, batch: usize) -> usize {
        usize::try_from(self.conv.geometry().flops(batch) / 2).unwrap_or(usize::MAX)
    }

    fn forward(
        &self,
        batch: usize,
        input: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let out = self.shapes().1;
        if let Some(bias) = bias
            && bias.len() != out.channels
        {
            bail!("{NAME}: expected {} biases, found {}", out.channels, bias.len());
        }
        let mut output = if self.transposed {
            self.spread(batch, weight, input)?
        } else {
            self.correlate(batch, weight, input, bias)?
        };
        if let Some(bias) = bias.filter(|_| self.transposed) {
            for (plane, bias) in output.chunks_exact_mut(out.plane()).zip(bias.iter().cycle()) {
                plane.iter_mut().for_each(|y| *y += bias);
            }
        }
        Ok((CpuStorage::F32(output), Shape::from((batch, out.channels, out.height, out.width))))
    }

    /// The convolution.
    fn correlate(&self, batch: usize, weight: &[f32], input: &[f32], bias: Option<&[f32]>) -> Result<Vec<f32>> {
        let par = par_for(self.work(batch));
        self.scratch
            .with(self.conv.forward_scratch::<f32>(batch, par), |stack| {
                self.conv.forward_to_vec([input, weight], bias, None, par, stack)
            })
            .map_err(Error::wrap)
    }

    /// The convolution with parameters that are known from before.
    fn run_folded(
        &self,
        batch: usize,
        folded: &Folded,
        input: &[f32],
        epilogue: Epilogue<'_, f32>,
    ) -> Result<Vec<f32>> {
        let (par, conv) = (par_for(self.work(batch)), &folded.conv);
        self.scratch
            .with(conv.forward_scratch(batch, par), |stack| {
                conv.forward_to_vec(input, Some(&folded.bias), Some(epilogue), par, stack)
            })
            .map_err(Error::wrap)
    }

    /// The adjoint of the convolution.
    fn spread(&self, batch: usize, weight: &[f32], cotangent: &[f32]) -> Result<Vec<f32>> {
        let par = par_for(self.work(batch));
        self.scratch
            .with(self.conv.adjoint_scratch::<f32>(batch, par), |stack| {
                self.conv.adjoint_to_vec([cotangent, weight], par, stack)
            })
            .map_err(Error::wrap)
    }

    fn input_gradient(&self, batch: usize, weight: &[f32], cotangent: &[f32]) -> Result<Vec<f32>> {
        if self.transposed {
            self.correlate(batch, weight, cotangent, None)
        } else {
            self.spread(batch, weight, cotangent)
        }
    }

    /// Gradients of the weights and, if there is one, the bias.
    fn weight_gradients(&self, args: ConvWeightGrad<'_, f32>, batch: usize) -> Result<()> {
        // `<Aᵀx, g> = <Ag, x>`: transposed, input and cotangent change places.
        let args = if self.transposed {
            let ConvWeightGrad { input, cotangent, weight_grad, bias_grad } = args;
            if let Some(bias_grad) = bias_grad {
                let (plane, channels) = (self.shapes().1.plane(), bias_grad.len());
                for (at, plane) in cotangent.chunks_exact(plane).enumerate() {
                    bias_grad[at % channels] += plane.iter().sum::<f32>();
                }
            }
            ConvWeightGrad { input: cotangent, cotangent: input, weight_grad, bias_grad: None }
        } else {
            args
        };
        let par = par_for(self.work(batch));
        let req = self.conv.weight_grad_scratch::<f32>(batch, par);
        self.scratch.with(req, |stack| self.conv.weight_grad(args, par, stack)).map_err(Error::wrap)
    }

    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let batch = self.batch(x.dims(), weight.dims())?;
        let grad = grad.contiguous()?;
        let bias = bias.filter(|bias| bias.track_op());
        let wants_weights = weight.track_op() || bias.is_some();
        let mut weight_grad = zeros(if wants_weights { weight.elem_count() } else { 0 }, par_for(weight.elem_count()));
        let mut bias_grad = bias.map(|bias| vec![0.0; bias.elem_count()]);
        let mut input_grad = None;
        with_values(NAME, &grad, |cotangent| {
            if x.track_op() {
                input_grad = Some(with_values(NAME, weight, |w| self.input_gradient(batch, w, cotangent))?);
            }
            if !wants_weights {
                return Ok(());
            }
            with_values(NAME, x, |input| {
                let (weight_grad, bias_grad) = (&mut weight_grad[..], bias_grad.as_deref_mut());
                self.weight_gradients(ConvWeightGrad { input, cotangent, weight_grad, bias_grad }, batch)
            })
        })?;
        let tensor = |data: Option<Vec<f32>>, like: &Tensor| {
            data.map(|data| Tensor::from_vec(data, like.shape(), like.device())).transpose()
        };
        Ok([
            tensor(input_grad, x)?,
            tensor(weight.track_op().then_some(weight_grad), weight)?,
            bias.map(|bias| tensor(bias_grad, bias)).transpose()?.flatten(),
        ])
    }
}

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let batch = self.0.batch(lx.dims(), lw.dims())?;
        self.0.forward(batch, values(NAME, x, lx)?, values(NAME, w, lw)?, None)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, w, _] = self.0.backward(x, w, None, grad)?;
        Ok((x, w))
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let batch = self.0.batch(lx.dims(), lw.dims())?;
        self.0.forward(batch, values(NAME, x, lx)?, values(NAME, w, lw)?, Some(values(NAME, b, lb)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, w, b] = self.0.backward(x, w, Some(b), grad)?;
        Ok((x, w, b))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use fbp_inverse::ConvTranspose2dParams;
    use fbp_linalg::conv2d::Conv2dParams;

    use super::*;
    use crate::ops::testing::{assert_close, assert_near, gradients, random, random_var};
    use crate::ops::{add_clipped, batch_norm_evaluation};

    fn kernel(params: Conv2dParams) -> Conv2dKernel {
        Conv2dKernel::new(params.check().unwrap())
    }

    fn arguments(kernel: &Conv2dKernel, n: usize) -> (Var, Var, Var) {
        let g = kernel.geometry();
        let FeatureShape { channels, height, width } = g.in_shape();
        let x = random_var(&[n, channels, height, width], 1);
        (x, random_var(&g.weight_shape(), 2), random_var(&[g.out_shape().channels], 3))
    }

    #[test]
    fn agrees_with_candle() {
        // candle: one number per setting, and gradients for square images and one group only.
        let params = |c, size, co, k| Conv2dParams::new(FeatureShape::image(c, size, size), co, [k, k]);
        let cases = [
            (5, params(1, 12, 3, 5), 1, 0, 1),
            (4, params(3, 9, 4, 3).padding([1, 1]), 1, 1, 1),
            (3, params(2, 11, 5, 3).stride([2, 2]).padding([2, 2]), 2, 2, 1),
            (2, params(2, 12, 3, 3).dilation([2, 2]), 1, 0, 2),
            (40, params(3, 24, 8, 5), 1, 0, 1),
            // Pointwise, where nothing has to be packed.
            (40, params(16, 12, 8, 1), 1, 0, 1),
            (40, params(16, 12, 8, 1).stride([2, 2]), 2, 0, 1),
        ];
        for (n, params, stride, padding, dilation) in cases {
            let kernel = kernel(params);
            let (x, w, b) = arguments(&kernel, n);
            let tol = 8.0 * f64::from(f32::EPSILON) * ((n * kernel.geometry().out_shape().plane()) as f64).sqrt();
            let plain = x.conv2d(&w, padding, stride, dilation, 1).unwrap();
            let biased = plain.broadcast_add(&b.reshape((1, (), 1, 1)).unwrap()).unwrap();
            for (bias, expected) in [(None, plain), (Some(&b), biased)] {
                let ours = kernel.apply(&x, &w, bias.map(|b| b.as_tensor())).unwrap();
                assert_close("value", &ours, &expected, tol);
                let weights = random(ours.dims(), 4);
                let vars: Vec<_> = [&x, &w].into_iter().chain(bias).collect();
                let (a, b) = (gradients(&ours, &weights, &vars), gradients(&expected, &weights, &vars));
                for (a, b) in a.iter().zip(&b) {
                    assert_close("gradient", a, b, tol);
                }
            }
        }
    }

    #[test]
    fn unequal_axes_and_groups_have_the_gradient_of_the_difference_quotient() {
        let params = Conv2dParams::new(FeatureShape::image(4, 7, 9), 6, [3, 2]);
        let kernel = kernel(params.stride([2, 1]).padding([1, 2]).dilation([1, 3]).groups(2));
        let (x, w, b) = arguments(&kernel, 2);
        let y = kernel.apply(&x, &w, Some(&b)).unwrap();
        let weights = random(y.dims(), 4);
        // The map is affine in each argument, so a difference quotient has no truncation error and a large step is exact.
        let loss = |x: &Tensor, w: &Tensor, b: &Tensor| {
            let y = kernel.apply(x, w, Some(b)).unwrap().to_dtype(candle_core::DType::F64).unwrap();
            let weights = weights.to_dtype(candle_core::DType::F64).unwrap();
            (y * weights).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        let found = gradients(&y, &weights, &[&x, &w, &b]);
        for (which, seed) in [(0, 10), (1, 11), (2, 12)] {
            let vars = [&x, &w, &b];
            let direction = random(vars[which].dims(), seed);
            let at = |sign: f64| {
                let mut args = vars.map(|v| v.as_detached_tensor());
                args[which] = (&args[which] + (&direction * sign).unwrap()).unwrap();
                loss(&args[0], &args[1], &args[2])
            };
            let quotient = (at(1.0) - at(-1.0)) / 2.0;
            let product = (&found[which] * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let scale = (y.elem_count() as f64).sqrt() * f64::from(f32::EPSILON);
            assert_near("directional derivative", product, quotient, 64.0 * scale * (1.0 + quotient.abs()));
        }
    }

    #[test]
    fn transposed_convolutions_agree_with_candle() {
        // candle takes one number per setting and no groups: channels, size, out, kernel, stride, padding, output
        // padding, dilation.
        for [c, size, co, k, s, p, op, d] in
            [[2, 5, 3, 3, 1, 0, 0, 1], [3, 4, 2, 3, 2, 1, 1, 1], [2, 6, 4, 2, 3, 1, 2, 1], [1, 5, 2, 3, 1, 2, 0, 2]]
        {
            let params = ConvTranspose2dParams::new(FeatureShape::image(c, size, size), co, [k, k]);
            let params = params.stride([s, s]).padding([p, p]).output_padding([op, op]).dilation([d, d]);
            let kernel = Conv2dKernel::transposed(params.check().unwrap());
            let x = random_var(&[3, c, size, size], 1);
            let (w, b) = (random_var(&[c, co, k, k], 2), random_var(&[co], 3));
            let expected = x.conv_transpose2d(&w, p, op, s, d).unwrap();
            let expected = expected.broadcast_add(&b.reshape((1, (), 1, 1)).unwrap()).unwrap();
            let ours = kernel.apply(&x, &w, Some(&b)).unwrap();
            let tol = 8.0 * f64::from(f32::EPSILON) * ((3 * c * size * size) as f64).sqrt();
            assert_close("value", &ours, &expected, tol);
            let g = random(ours.dims(), 4);
            let found = gradients(&ours, &g, &[&x, &w, &b]);
            // The map is linear in each argument: <f(x), g> = <x, df/dx g>, and so for the weights.
            let dot = |a: &Tensor, b: &Tensor| (a * b).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let plain = kernel.apply(&x, &w, None).unwrap();
            let value = dot(&plain, &g);
            let scale = 64.0 * f64::from(f32::EPSILON) * (ours.elem_count() as f64).sqrt() * 8.0;
            assert_near("input gradient", dot(&x, &found[0]), value.into(), scale);
            assert_near("weight gradient", dot(&w, &found[1]), value.into(), scale);
            let sums = g.sum(3).unwrap().sum(2).unwrap().sum(0).unwrap();
            assert_close("bias gradient", &found[2], &sums, tol);
        }
    }

    #[test]
    fn transposed_groups_have_the_gradient_of_the_difference_quotient() {
        let params = ConvTranspose2dParams::new(FeatureShape::image(4, 3, 5), 2, [2, 3]);
        let params = params.stride([2, 1]).padding([0, 1]).dilation([1, 2]).groups(2);
        let kernel = Conv2dKernel::transposed(params.check().unwrap());
        let (x, w) = (random_var(&[2, 4, 3, 5], 1), random_var(&[4, 1, 2, 3], 2));
        let y = kernel.apply(&x, &w, None).unwrap();
        let g = random(y.dims(), 4);
        let found = gradients(&y, &g, &[&x, &w]);
        let loss = |x: &Tensor, w: &Tensor| {
            let y = kernel.apply(x, w, None).unwrap();
            (y * &g).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
        };
        for (which, var) in [&x, &w].into_iter().enumerate() {
            let direction = random(var.dims(), 9);
            let at = |sign: f64| {
                let moved = (var.as_detached_tensor() + (&direction * sign).unwrap()).unwrap();
                if which == 0 { loss(&moved, &w) } else { loss(&x, &moved) }
            };
            let quotient = f64::from(at(1.0) - at(-1.0)) / 2.0;
            let product = (&found[which] * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert_near("directional derivative", product, quotient, 1e-4 * (1.0 + quotient.abs()));
        }
    }

    #[test]
    fn only_wanted_gradients_are_computed_and_shapes_are_checked() {
        let kernel = kernel(Conv2dParams::new(FeatureShape::image(1, 6, 6), 2, [3, 3]));
        let (x, w, b) = arguments(&kernel, 2);
        let data = x.as_detached_tensor();
        let grads = kernel.apply(&data, &w, Some(&b)).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&data).is_none() && grads.get(&w).is_some() && grads.get(&b).is_some());
        let frozen = w.as_detached_tensor();
        let grads = kernel.apply(&x, &frozen, Some(&b)).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&x).is_some() && grads.get(&frozen).is_none() && grads.get(&b).is_some());
        assert!(kernel.apply(&random(&[2, 1, 6, 7], 1), &w, None).is_err());
        assert!(kernel.apply(&x, &random(&[2, 1, 3, 4], 1), None).is_err());
        assert!(kernel.apply(&x, &w, Some(&random(&[3], 1))).is_err());
    }

    #[test]
    fn a_fused_tail_is_that_of_the_operations_one_by_one() {
        for (channels, size, count) in [(5, 9, 6), (64, 12, 64)] {
            let params = Conv2dParams::new(FeatureShape::image(channels, size, size), count, [3, 3]).padding([1, 1]);
            let kernel = Conv2dKernel::new(params.check().unwrap());
            let x = random(&[20, channels, size, size], 1);
            let (weight, bias) = (random(&[count, channels, 3, 3], 2), random(&[count], 3));
            let (scale, shift) = (random(&[count], 4), random(&[count], 5));
            let plain = kernel.apply(&x, &weight, Some(&bias)).unwrap();
            let (addend, clip) = (random(plain.dims(), 6), Clip { lower: -0.25, upper: 20.0 });
            let normal = batch_norm_evaluation(&plain, &scale, &shift, Clip::NONE).unwrap();
            let expected = add_clipped(&normal, &addend, clip).unwrap();
            let tail = FusedTail { affine: Some([&scale, &shift]), addend: Some(&addend), clip };
            let found = kernel.apply_fused([&x, &weight], Some(&bias), &tail).unwrap();
            assert_close("value", &found, &expected, 1e-5);
            let tail = FusedTail { affine: None, addend: None, clip };
            let found = kernel.apply_fused([&x, &weight], Some(&bias), &tail).unwrap();
            assert_close("clipped", &found, &plain.clamp(clip.lower, clip.upper).unwrap(), 0.0);
            let tail = FusedTail { affine: Some([&scale, &random(&[count + 1], 1)]), addend: None, clip };
            assert!(kernel.apply_fused([&x, &weight], None, &tail).is_err());
        }
    }
}
