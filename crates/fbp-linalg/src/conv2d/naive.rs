//! Plain-loop oracle in `f64`: it follows the definition index by index and shares no code with the kernel.

use super::Conv2dGeometry;
use crate::{FeatureShape, Real};

/// The three results for one batch.
#[derive(Clone, Debug)]
pub struct NaiveConv2d {
    geometry: Conv2dGeometry,
}

/// One product of the sum that defines a convolution, as indices into one sample and into the weights.
struct Term {
    input: usize,
    weight: usize,
    output: usize,
}

impl NaiveConv2d {
    /// Oracle for a geometry.
    pub fn new(geometry: Conv2dGeometry) -> Self {
        Self { geometry }
    }

    /// `y[n, o, i, j] = b[o] + Σ w[o, c, k, l] x[n, c, i·s + k·d - p, j·s + l·d - p]`.
    ///
    /// # Shapes
    /// As [`ConvForward`](super::ConvForward); the result is `[N, C, H, W]` of the output.
    pub fn forward<T: Real>(&self, input: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<f64> {
        let (ni, no) = (self.geometry.in_len(), self.geometry.out_len());
        let plane = self.geometry.out_shape().plane();
        let batch = input.len() / ni;
        let mut y: Vec<f64> = (0..batch * no).map(|i| bias.map_or(0.0, |bias| bias[i % no / plane].to_f64())).collect();
        self.for_each_term(|t| {
            for n in 0..batch {
                y[n * no + t.output] += weight[t.weight].to_f64() * input[n * ni + t.input].to_f64();
            }
        });
        y
    }

    /// Gradient of `<y, cotangent>` with respect to the input.
    pub fn adjoint<T: Real>(&self, cotangent: &[T], weight: &[T]) -> Vec<f64> {
        let (ni, no) = (self.geometry.in_len(), self.geometry.out_len());
        let batch = cotangent.len() / no;
        let mut x = vec![0.0; batch * ni];
        self.for_each_term(|t| {
            for n in 0..batch {
                x[n * ni + t.input] += weight[t.weight].to_f64() * cotangent[n * no + t.output].to_f64();
            }
        });
        x
    }

    /// Gradients of `<y, cotangent>` with respect to the weights and to the bias.
    pub fn weight_grad<T: Real>(&self, input: &[T], cotangent: &[T]) -> (Vec<f64>, Vec<f64>) {
        let (ni, no) = (self.geometry.in_len(), self.geometry.out_len());
        let FeatureShape { channels, .. } = self.geometry.out_shape();
        let plane = self.geometry.out_shape().plane();
        let batch = cotangent.len() / no;
        let mut w = vec![0.0; self.geometry.weight_len()];
        self.for_each_term(|t| {
            for n in 0..batch {
                w[t.weight] += input[n * ni + t.input].to_f64() * cotangent[n * no + t.output].to_f64();
            }
        });
        let mut b = vec![0.0; channels];
        for (i, g) in cotangent.iter().enumerate() {
            b[i % no / plane] += g.to_f64();
        }
        (w, b)
    }

    fn for_each_term(&self, mut visit: impl FnMut(Term)) {
        let g = &self.geometry;
        let (input, output) = (g.in_shape(), g.out_shape());
        let [_, ci, kh, kw] = g.weight_shape();
        let co = output.channels / g.groups();
        for o in 0..output.channels {
            for c in 0..ci {
                for (k, l) in (0..kh).flat_map(|k| (0..kw).map(move |l| (k, l))) {
                    for (i, j) in (0..output.height).flat_map(|i| (0..output.width).map(move |j| (i, j))) {
                        let row = (i * g.stride()[0] + k * g.dilation()[0]).wrapping_sub(g.padding()[0]);
                        let col = (j * g.stride()[1] + l * g.dilation()[1]).wrapping_sub(g.padding()[1]);
                        if row < input.height && col < input.width {
                            visit(Term {
                                input: ((o / co * ci + c) * input.height + row) * input.width + col,
                                weight: ((o * ci + c) * kh + k) * kw + l,
                                output: (o * output.height + i) * output.width + j,
                            });
                        }
                    }
                }
            }
        }
    }
}
