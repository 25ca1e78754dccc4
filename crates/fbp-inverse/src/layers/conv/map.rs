use faer::dyn_stack::{MemStack, StackReq};
use faer::{Mat, MatMut, MatRef, Par};
use fbp_linalg::conv_solve::ConvSystem;
use fbp_linalg::conv2d::{Conv2d, Conv2dGeometry, ConvAdjoint, ConvForward, FixedConv2d};
use fbp_linalg::{FeatureShape, LinalgError, Real, batch_slice, batch_slice_mut, column, column_mut};

use fbp_linalg::matrix_free::LinearMap;

/// The linear part of a convolution or of its transpose.
#[derive(Clone, Debug)]
pub(super) struct ConvMap<T> {
    kernel: FixedConv2d<T>,
    /// Whether the map is the adjoint of the convolution.
    transposed: bool,
}

/// A batch and what the map makes of it.
pub(super) struct MapBatch<'a, T> {
    pub(super) input: MatRef<'a, T>,
    pub(super) output: MatMut<'a, T>,
}

impl<T: Real> ConvMap<T> {
    /// A map with as many weights as the geometry needs.
    pub(super) fn new(geometry: Conv2dGeometry, weight: &[T], transposed: bool) -> Result<Self, LinalgError> {
        Ok(Self { kernel: FixedConv2d::new(Conv2d::for_networks(geometry), weight.to_vec())?, transposed })
    }

    pub(super) fn in_shape(&self) -> FeatureShape {
        let geometry = self.kernel.conv().geometry();
        if self.transposed { geometry.out_shape() } else { geometry.in_shape() }
    }

    pub(super) fn out_shape(&self) -> FeatureShape {
        let geometry = self.kernel.conv().geometry();
        if self.transposed { geometry.in_shape() } else { geometry.out_shape() }
    }

    /// The map in double precision.
    pub(super) fn wide(&self) -> Result<ConvMap<f64>, LinalgError> {
        let weight = self.kernel.weight().iter().map(|w| w.to_f64()).collect();
        Ok(ConvMap { kernel: FixedConv2d::new(self.kernel.conv().clone(), weight)?, transposed: self.transposed })
    }

    /// The map as a matrix, `out × in`.
    pub(super) fn dense(&self) -> Result<Mat<f64>, LinalgError> {
        let matrix = self.kernel.conv().dense(self.kernel.weight())?;
        Ok(if self.transposed { matrix.transpose().to_owned() } else { matrix })
    }

    /// The map with a bias, as the solver of point targets takes it.
    pub(super) fn system<'a>(&'a self, bias: &'a [T]) -> ConvSystem<'a, T> {
        let (geometry, weight) = (*self.kernel.conv().geometry(), self.kernel.weight());
        ConvSystem { geometry, weight, bias: Some(bias), transposed: self.transposed }
    }

    /// Workspace of either direction for `batch` samples.
    pub(super) fn scratch(&self, batch: usize, par: Par) -> StackReq {
        let kernel = &self.kernel;
        let forward = kernel.forward_scratch(batch, par).or(kernel.forward_scratch(1, Par::Seq));
        forward.or(kernel.adjoint_scratch(batch, par)).or(kernel.adjoint_scratch(1, Par::Seq))
    }

    /// `output <- A input + bias`.
    pub(super) fn apply(
        &self,
        pass: MapBatch<'_, T>,
        bias: Option<&[T]>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let MapBatch { input, mut output } = pass;
        if !self.transposed {
            return self.correlate(MapBatch { input, output }, bias, par, stack);
        }
        self.spread(MapBatch { input, output: output.as_mut() }, par, stack)?;
        if let Some(bias) = bias {
            let plane = self.out_shape().plane();
            for sample in 0..output.ncols() {
                let output = column_mut("output", output.as_mut(), sample)?;
                for (plane, bias) in output.chunks_exact_mut(plane).zip(bias) {
                    plane.iter_mut().for_each(|y| *y += *bias);
                }
            }
        }
        Ok(())
    }

    /// `output <- Aᵀ input`.
    pub(super) fn apply_transposed(
        &self,
        pass: MapBatch<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        if self.transposed { self.correlate(pass, None, par, stack) } else { self.spread(pass, par, stack) }
    }

    /// The convolution.
    fn correlate(
        &self,
        pass: MapBatch<'_, T>,
        bias: Option<&[T]>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        self.each(pass, par, |input, output, par| self.kernel.forward(input, bias, output, par, stack))
    }

    /// The adjoint of the convolution.
    fn spread(&self, pass: MapBatch<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), LinalgError> {
        self.each(pass, par, |cotangent, input_grad, par| self.kernel.adjoint(cotangent, input_grad, par, stack))
    }

    /// Runs a kernel on the whole batch, or sample by sample where the batch is not in one piece.
    fn each(
        &self,
        pass: MapBatch<'_, T>,
        par: Par,
        mut run: impl FnMut(&[T], &mut [T], Par) -> Result<(), LinalgError>,
    ) -> Result<(), LinalgError> {
        let MapBatch { input, mut output } = pass;
        if let (Some(input), Some(output)) = (batch_slice(input), batch_slice_mut(output.as_mut())) {
            return run(input, output, par);
        }
        for sample in 0..input.ncols() {
            run(column("input", input, sample)?, column_mut("output", output.as_mut(), sample)?, Par::Seq)?;
        }
        Ok(())
    }
}

impl ConvMap<f64> {
    /// Applies the map with other weights, once.
    fn apply_with(
        &self,
        weight: impl Fn(f64) -> f64,
        x: &[f64],
        image: &mut [f64],
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let (own, conv) = (self.kernel.weight(), self.kernel.conv());
        let (weights, stack) = stack.make_with(own.len(), |at| weight(own[at]));
        if self.transposed {
            conv.adjoint(ConvAdjoint { cotangent: x, weight: &weights, input_grad: image }, Par::Seq, stack)
        } else {
            conv.forward(ConvForward { input: x, weight: &weights, bias: None, output: image }, Par::Seq, stack)
        }
    }
}

impl LinearMap for ConvMap<f64> {
    fn shape(&self) -> (usize, usize) {
        (self.out_shape().len(), self.in_shape().len())
    }

    fn scratch(&self) -> StackReq {
        let conv = self.kernel.conv();
        let once = conv.forward_scratch::<f64>(1, Par::Seq).or(conv.adjoint_scratch::<f64>(1, Par::Seq));
        ConvMap::scratch(self, 1, Par::Seq).or(StackReq::new::<f64>(self.kernel.weight().len()).and(once))
    }

    fn apply(&self, x: &[f64], image: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError> {
        let (input, output) = (one(x), one_mut(image));
        ConvMap::apply(self, MapBatch { input, output }, None, Par::Seq, stack)
    }

    fn adjoint(&self, weights: &[f64], sum: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError> {
        let (input, output) = (one(weights), one_mut(sum));
        self.apply_transposed(MapBatch { input, output }, Par::Seq, stack)
    }

    fn row_squares(&self, stack: &mut MemStack) -> Result<Vec<f64>, LinalgError> {
        let (rows, cols) = self.shape();
        let mut squares = vec![0.0; rows];
        self.apply_with(|w| w * w, &vec![1.0; cols], &mut squares, stack)?;
        Ok(squares)
    }

    fn magnitudes(&self, x: &[f64], sizes: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError> {
        self.apply_with(f64::abs, x, sizes, stack)
    }

    fn row_terms(&self, stack: &mut MemStack) -> Result<Vec<f64>, LinalgError> {
        let (rows, cols) = self.shape();
        let mut terms = vec![0.0; rows];
        self.apply_with(|w| if w == 0.0 { 0.0 } else { 1.0 }, &vec![1.0; cols], &mut terms, stack)?;
        Ok(terms)
    }

    fn flops(&self) -> f64 {
        2.0 * self.kernel.conv().geometry().flops(1) as f64
    }
}

fn one(values: &[f64]) -> MatRef<'_, f64> {
    MatRef::from_column_major_slice(values, values.len(), 1)
}

fn one_mut(values: &mut [f64]) -> MatMut<'_, f64> {
    let len = values.len();
    MatMut::from_column_major_slice_mut(values, len, 1)
}
