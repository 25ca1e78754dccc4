//! Reverses a residual block of two convolutions and a block of a vision transformer; prints time and residual.
use std::time::Instant;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par, Scale};
use fbp_inverse::{
    Activation, ActivationReverse, Attention, Block, Conv2dReverse, Interval, InverseError, LinearReverse,
    NormParameters, NormReverse, PerToken, Residual, ReverseOperator, TargetBox, reverse_batch,
};
use fbp_linalg::FeatureShape;
use fbp_linalg::conv2d::Conv2dParams;
use fbp_linalg::testkit::{normal_mat, normal_vec, rng};

type Layer = Box<dyn ReverseOperator<f32>>;
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn conv(image: FeatureShape, seed: u64) -> Result<Layer> {
    let geometry = Conv2dParams::new(image, image.channels, [3, 3]).padding([1, 1]).check()?;
    let gain = (2.0 / (9 * image.channels) as f32).sqrt();
    let weight: Vec<f32> = normal_vec::<f32>(geometry.weight_len(), &mut rng(seed)).iter().map(|w| gain * w).collect();
    Ok(Box::new(Conv2dReverse::new("conv", geometry, &weight, &vec![0.0; image.channels])?))
}

fn relu(shape: FeatureShape) -> std::result::Result<Layer, InverseError> {
    Ok(Box::new(ActivationReverse::new("relu", Activation::Relu, shape)?))
}

/// `relu(x + conv(relu(conv(x))))`.
fn basic_block(image: FeatureShape) -> Result<Block<f32>> {
    let body = Block::new("body", image, vec![conv(image, 1)?, relu(image)?, conv(image, 2)?])?;
    Ok(Block::new("basic block", image, vec![Box::new(Residual::new("residual", body, None)?), relu(image)?])?)
}

fn linear(count: usize, outputs: usize, inputs: usize, seed: u64) -> Result<Layer> {
    let mut weight = normal_mat::<f32>(outputs, inputs, &mut rng(seed));
    weight *= Scale(0.8 / (inputs as f32).sqrt());
    let layer = LinearReverse::new("linear", weight.as_ref(), &vec![0.0; outputs])?;
    Ok(Box::new(PerToken::new("linear", count, Box::new(layer))?))
}

fn norm(count: usize, width: usize) -> Result<Layer> {
    let (weight, bias) = (vec![1.0; width], vec![0.0; width]);
    let parameters = NormParameters { weight: &weight, bias: &bias, epsilon: 1e-6 };
    let layer = NormReverse::layer_norm("norm", FeatureShape::vector(width), width, parameters)?;
    Ok(Box::new(PerToken::new("norm", count, Box::new(layer))?))
}

/// `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`.
fn vit_block(count: usize, width: usize, heads: usize) -> Result<Block<f32>> {
    let (tokens, hidden) = (FeatureShape::image(count, 1, width), FeatureShape::image(count, 1, 4 * width));
    let attention: Layer = Box::new(Attention::new("attention", count, heads, width / heads)?);
    let attention =
        vec![norm(count, width)?, linear(count, 3 * width, width, 3)?, attention, linear(count, width, width, 4)?];
    let gelu: Layer = Box::new(ActivationReverse::new("gelu", Activation::Gelu, hidden)?);
    let mlp = vec![norm(count, width)?, linear(count, 4 * width, width, 5)?, gelu, linear(count, width, 4 * width, 6)?];
    let residual = |name, layers| -> std::result::Result<Layer, InverseError> {
        Ok(Box::new(Residual::new(name, Block::new(name, tokens, layers)?, None)?))
    };
    Ok(Block::new("vit block", tokens, vec![residual("attn", attention)?, residual("mlp", mlp)?])?)
}

/// Asks a block for what it makes of other inputs, 30 % away.
fn reverse(block: &Block<f32>, batch: usize, range: Interval<f32>) -> Result<String> {
    let (len, mut random, par) = (block.in_shape().len(), rng(7), Par::rayon(2));
    let (x, noise) = (normal_mat::<f32>(len, batch, &mut random), normal_mat::<f32>(len, batch, &mut random));
    let x = Mat::from_fn(len, batch, |i, j| range.clip(x[(i, j)]));
    let other = Mat::from_fn(len, batch, |i, j| range.clip(x[(i, j)] + 0.3 * noise[(i, j)]));
    let mut memory = MemBuffer::new(block.forward_scratch(batch, par));
    let mut forward = |input: &Mat<f32>| -> std::result::Result<Mat<f32>, InverseError> {
        let mut output = Mat::zeros(block.out_shape().len(), batch);
        block.forward(input.as_ref(), output.as_mut(), par, MemStack::new(&mut memory))?;
        Ok(output)
    };
    let (observed, wanted) = (forward(&x)?, forward(&other)?);
    let start = Instant::now();
    let found = reverse_batch(block, x.as_ref(), TargetBox::point(wanted.as_ref()), range, par)?;
    let seconds = start.elapsed().as_secs_f64();
    let left = (forward(&found.point)? - &wanted).norm_l2() / (observed - &wanted).norm_l2();
    Ok(format!(
        "{}, {batch} samples: {seconds:.3} s, {} steps, residual {left:.1e}, unattained {}\n",
        block.name(),
        found.report.iters,
        found.report.unattained
    ))
}

fn main() -> Result<()> {
    let basic = basic_block(FeatureShape::image(64, 8, 8))?;
    let vit = vit_block(65, 192, 3)?;
    let mut text = reverse(&basic, 8, Interval::new(0.0, f32::INFINITY))?;
    for batch in [1, 8] {
        text += &reverse(&vit, batch, Interval::EVERYTHING)?;
    }
    Ok(std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?)
}
