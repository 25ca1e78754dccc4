//! Reverses a residual block of two convolutions and a block of a vision transformer; prints time (the quickest of ten) and
//! residual. With a folder, what PyTorch needs to do the same is written there.
use std::path::{Path, PathBuf};
use std::time::Instant;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par, Scale};
use fbp_inverse::{
    Activation, ActivationReverse, Attention, Block, Conv2dReverse, Interval, InverseError, LinearReverse,
    NewtonParams, NormParameters, NormReverse, PerToken, Residual, ReverseOperator, TargetBox, reverse_batch,
};
use fbp_linalg::FeatureShape;
use fbp_linalg::conv2d::Conv2dParams;
use fbp_linalg::testkit::{normal_mat, normal_vec, rng};

/// Runs of which the quickest is told.
const RUNS: usize = 10;

type Layer = Box<dyn ReverseOperator<f32>>;
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn conv(image: FeatureShape, seed: u64, folder: Option<&Path>) -> Result<Layer> {
    let geometry = Conv2dParams::new(image, image.channels, [3, 3]).padding([1, 1]).check()?;
    let gain = (2.0 / (9 * image.channels) as f32).sqrt();
    let weight: Vec<f32> = normal_vec::<f32>(geometry.weight_len(), &mut rng(seed)).iter().map(|w| gain * w).collect();
    keep(folder, &format!("weight{seed}.f32"), weight.iter().copied())?;
    Ok(Box::new(Conv2dReverse::new("conv", geometry, &weight, &vec![0.0; image.channels])?))
}

fn relu(shape: FeatureShape) -> std::result::Result<Layer, InverseError> {
    Ok(Box::new(ActivationReverse::new("relu", Activation::Relu, shape)?))
}

/// `relu(x + conv(relu(conv(x))))`.
fn basic_block(image: FeatureShape, folder: Option<&Path>) -> Result<Block<f32>> {
    let body = Block::new("body", image, vec![conv(image, 1, folder)?, relu(image)?, conv(image, 2, folder)?])?;
    Ok(Block::new("basic block", image, vec![Box::new(Residual::new("residual", body, None)?), relu(image)?])?)
}

fn linear(count: usize, [outputs, inputs]: [usize; 2], seed: u64, folder: Option<&Path>) -> Result<Layer> {
    let mut weight = normal_mat::<f32>(outputs, inputs, &mut rng(seed));
    weight *= Scale(0.8 / (inputs as f32).sqrt());
    let rows = (0..outputs).flat_map(|i| (0..inputs).map(move |j| (i, j)));
    keep(folder, &format!("weight{seed}.f32"), rows.map(|(i, j)| weight[(i, j)]))?;
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
fn vit_block(count: usize, width: usize, heads: usize, folder: Option<&Path>) -> Result<Block<f32>> {
    let (tokens, hidden) = (FeatureShape::image(count, 1, width), FeatureShape::image(count, 1, 4 * width));
    let attention: Layer = Box::new(Attention::new("attention", count, heads, width / heads)?);
    let dense = |outputs, inputs, seed| linear(count, [outputs, inputs], seed, folder);
    let attention = vec![norm(count, width)?, dense(3 * width, width, 3)?, attention, dense(width, width, 4)?];
    let gelu: Layer = Box::new(ActivationReverse::new("gelu", Activation::Gelu, hidden)?);
    let mlp = vec![norm(count, width)?, dense(4 * width, width, 5)?, gelu, dense(width, 4 * width, 6)?];
    let residual = |name, layers| -> std::result::Result<Layer, InverseError> {
        Ok(Box::new(Residual::new(name, Block::new(name, tokens, layers)?, None)?))
    };
    Ok(Block::new("vit block", tokens, vec![residual("attn", attention)?, residual("mlp", mlp)?])?)
}

/// Writes numbers for `benches/peer/blocks_torch.py`, if a folder is given.
fn keep(folder: Option<&Path>, name: &str, values: impl Iterator<Item = f32>) -> std::io::Result<()> {
    let Some(folder) = folder else { return Ok(()) };
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(name), values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
}

/// What is asked of a block: from inputs in a range to what it makes of others, so far away, up to a tolerance.
struct Task {
    range: Interval<f32>,
    away: f32,
    tolerance: f64,
    batch: usize,
}

fn reverse(block: Block<f32>, task: &Task, folder: Option<&Path>) -> Result<String> {
    let Task { range, away, tolerance, batch } = *task;
    let block = block.with_newton(NewtonParams::new().tolerance(tolerance))?;
    let (len, mut random, par) = (block.in_shape().len(), rng(7), Par::rayon(2));
    let (x, noise) = (normal_mat::<f32>(len, batch, &mut random), normal_mat::<f32>(len, batch, &mut random));
    let other = Mat::from_fn(len, batch, |i, j| range.clip(x[(i, j)] + away * noise[(i, j)]));
    let x = Mat::from_fn(len, batch, |i, j| range.clip(x[(i, j)]));
    let mut memory = MemBuffer::new(block.forward_scratch(batch, par));
    let mut forward = |input: &Mat<f32>| -> std::result::Result<Mat<f32>, InverseError> {
        let mut output = Mat::zeros(block.out_shape().len(), batch);
        block.forward(input.as_ref(), output.as_mut(), par, MemStack::new(&mut memory))?;
        Ok(output)
    };
    let (observed, wanted) = (forward(&x)?, forward(&other)?);
    let (kind, target) = (&block.name()[..3], if away < 1.0 { "near" } else { "far" });
    for (what, values) in [("x", &x), ("other", &other)] {
        let numbers = (0..batch).flat_map(|j| values.col_as_slice(j)).copied();
        keep(folder, &format!("{kind}.{target}.{what}.f32"), numbers)?;
    }
    let run = || reverse_batch(&block, x.as_ref(), TargetBox::point(wanted.as_ref()), range, par);
    let (mut seconds, mut found) = (f64::INFINITY, run()?);
    // The first run pays for what is made once, and on a busy machine any for others.
    for _ in 0..RUNS {
        let start = Instant::now();
        found = run()?;
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    let left = (forward(&found.point)? - &wanted).norm_l2() / (observed - &wanted).norm_l2();
    let moved = (&found.point - &x).norm_l2() / (other - &x).norm_l2();
    Ok(format!(
        "{}, {batch} samples, {target} target, tolerance {tolerance:e}: {seconds:.3} s, {} steps, residual {left:.1e}, \
         moved {moved:.3} of the way, unattained {}\n",
        block.name(),
        found.report.iters,
        found.report.unattained
    ))
}

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.as_deref();
    let mut text = String::new();
    for (tolerance, away) in [(1e-3, 0.3), (1e-3, 1.5), (1e-6, 0.3), (1e-6, 1.5)] {
        let basic = basic_block(FeatureShape::image(64, 8, 8), folder)?;
        text += &reverse(basic, &Task { range: Interval::new(0.0, f32::INFINITY), away, tolerance, batch: 8 }, folder)?;
        let vit = vit_block(65, 192, 3, folder)?;
        text += &reverse(vit, &Task { range: Interval::EVERYTHING, away, tolerance, batch: 8 }, folder)?;
    }
    Ok(std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?)
}
