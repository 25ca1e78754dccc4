//! Layers of random weights.

use fbp_inverse::{
    Activation, ActivationReverse, Attention, BatchNormReverse, BatchNormStatistics, Block, Conv2dReverse,
    LinearReverse, NormParameters, NormReverse, PerToken, Residual, ReverseOperator,
};
use fbp_linalg::conv2d::Conv2dParams;
use fbp_linalg::testkit::{normal_mat, normal_vec, rng, uniform_vec};
use fbp_linalg::{FeatureShape, Real};

pub(crate) type Op<T> = Box<dyn ReverseOperator<T>>;

/// Random weights of one network.
pub(crate) struct Weights(u64);

impl Weights {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 += 1000;
        self.0
    }

    /// A linear layer with weights of standard deviation `gain / √inputs`.
    pub(crate) fn linear<T: Real>(&mut self, name: &str, outputs: usize, inputs: usize, gain: f64) -> LinearReverse<T> {
        let mut random = rng(self.next());
        let scale = T::from_f64(gain / (inputs as f64).sqrt());
        let mut weight = normal_mat::<T>(outputs, inputs, &mut random);
        weight *= faer::Scale(scale);
        let bias: Vec<T> = uniform_vec(outputs, -0.1, 0.1, &mut random);
        LinearReverse::new(name, weight.as_ref(), &bias).unwrap()
    }

    pub(crate) fn conv<T: Real>(
        &mut self,
        name: &str,
        input: FeatureShape,
        out: usize,
        kernel: usize,
        stride: usize,
    ) -> Conv2dReverse<T> {
        let mut random = rng(self.next());
        let geometry = Conv2dParams {
            stride: [stride; 2],
            padding: [kernel / 2; 2],
            ..Conv2dParams::new(input, out, [kernel; 2])
        }
        .check()
        .unwrap();
        let scale = T::from_f64((2.0 / (input.channels * kernel * kernel) as f64).sqrt());
        let weight: Vec<T> =
            normal_vec::<T>(geometry.weight_len(), &mut random).into_iter().map(|w| w * scale).collect();
        Conv2dReverse::new(name, geometry, &weight, &vec![T::ZERO; out]).unwrap()
    }

    pub(crate) fn batch_norm<T: Real>(&mut self, name: &str, shape: FeatureShape, gain: f64) -> BatchNormReverse<T> {
        let mut random = rng(self.next());
        let mut draw = |low: f64, high: f64| uniform_vec::<T>(shape.channels, low, high, &mut random);
        let (weight, bias, mean, variance) =
            (draw(0.7 * gain, 1.3 * gain), draw(-0.2, 0.2), draw(-0.2, 0.2), draw(0.6, 1.6));
        let statistics =
            BatchNormStatistics { mean: &mean, variance: &variance, weight: &weight, bias: &bias, epsilon: 1e-5 };
        BatchNormReverse::new(name, shape, statistics).unwrap()
    }

    pub(crate) fn layer_norm<T: Real>(&mut self, name: &str, width: usize) -> NormReverse<T> {
        let mut random = rng(self.next());
        let (weight, bias): (Vec<T>, Vec<T>) =
            (uniform_vec(width, 0.7, 1.3, &mut random), uniform_vec(width, -0.2, 0.2, &mut random));
        let parameters = NormParameters { weight: &weight, bias: &bias, epsilon: 1e-6 };
        NormReverse::layer_norm(name, FeatureShape::vector(width), width, parameters).unwrap()
    }

    /// A residual block of two convolutions, `y = relu(body(x) + skip(x))`.
    pub(crate) fn basic_block<T: Real>(&mut self, input: FeatureShape, out: usize, stride: usize) -> Block<T> {
        let first = self.conv("conv1", input, out, 3, stride);
        let inner = first.out_shape();
        let body: Vec<Op<T>> = vec![
            Box::new(first),
            Box::new(self.batch_norm("bn1", inner, 1.0)),
            Box::new(activation("relu", Activation::Relu, inner)),
            Box::new(self.conv("conv2", inner, out, 3, 1)),
            Box::new(self.batch_norm("bn2", inner, 0.5)),
        ];
        let body = Block::new("body", input, body).unwrap();
        let skip = (stride != 1 || out != input.channels).then(|| {
            let layers: Vec<Op<T>> = vec![
                Box::new(self.conv("downsample.0", input, out, 1, stride)),
                Box::new(self.batch_norm("downsample.1", inner, 1.0)),
            ];
            Block::new("skip", input, layers).unwrap()
        });
        let residual: Op<T> = Box::new(Residual::new("residual", body, skip).unwrap());
        Block::new("basic block", input, vec![residual, Box::new(activation("relu", Activation::Relu, inner))]).unwrap()
    }

    /// A pre-norm block of a vision transformer.
    pub(crate) fn vit_block<T: Real>(
        &mut self,
        count: usize,
        width: usize,
        heads: usize,
        ratio: usize,
        gain: f64,
    ) -> Block<T> {
        let shape = FeatureShape::image(count, 1, width);
        let attention: Vec<Op<T>> = vec![
            per_token(count, self.layer_norm("norm1", width)),
            per_token(count, self.linear("qkv", 3 * width, width, 1.0)),
            Box::new(Attention::new("attention", count, heads, width / heads).unwrap()),
            per_token(count, self.linear("proj", width, width, gain)),
        ];
        let mlp: Vec<Op<T>> = vec![
            per_token(count, self.layer_norm("norm2", width)),
            per_token(count, self.linear("fc1", ratio * width, width, 1.0)),
            Box::new(activation("gelu", Activation::Gelu, FeatureShape::image(count, 1, ratio * width))),
            per_token(count, self.linear("fc2", width, ratio * width, gain)),
        ];
        let residual = |name: &str, layers| -> Op<T> {
            Box::new(Residual::new(name, Block::new(name, shape, layers).unwrap(), None).unwrap())
        };
        Block::new("vit block", shape, vec![residual("attn", attention), residual("mlp", mlp)]).unwrap()
    }
}

pub(crate) fn activation<T: Real>(name: &str, kind: Activation, shape: FeatureShape) -> ActivationReverse<T> {
    ActivationReverse::new(name, kind, shape).unwrap()
}

pub(crate) fn per_token<T: Real>(count: usize, layer: impl ReverseOperator<T> + 'static) -> Op<T> {
    Box::new(PerToken::new(layer.name().to_owned(), count, Box::new(layer)).unwrap())
}
