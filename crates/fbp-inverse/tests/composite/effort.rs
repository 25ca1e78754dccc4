//! What the reversal of real blocks takes: evaluations and products.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use faer::dyn_stack::MemStack;
use faer::{Mat, MatMut, MatRef, Par};
use fbp_inverse::{
    Activation, Block, DifferentiableOperator, Interval, InverseError, JvpPass, NewtonParams, ReverseOperator,
    ReversePass, ReverseReport, TargetBox, VjpPass, reverse_batch,
};
use fbp_linalg::testkit::{normal_mat, rng};
use fbp_linalg::{FeatureShape, Real};

use crate::nets::{Op, Weights, exact_activation};

/// Counts what is asked of a whole block: an identity below it that counts.
struct Counter {
    shape: FeatureShape,
    counts: Arc<[AtomicUsize; 3]>,
}

impl<T: Real> ReverseOperator<T> for Counter {
    fn name(&self) -> &str {
        "counter"
    }
    fn in_shape(&self) -> FeatureShape {
        self.shape
    }
    fn out_shape(&self) -> FeatureShape {
        self.shape
    }
    fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        in_range
    }
    fn forward(&self, x: MatRef<'_, T>, mut y: MatMut<'_, T>, _: Par, _: &mut MemStack) -> Result<(), InverseError> {
        self.counts[0].fetch_add(1, Ordering::Relaxed);
        y.copy_from(x);
        Ok(())
    }
    fn reverse(&self, _: ReversePass<'_, T>, _: Par, _: &mut MemStack) -> Result<ReverseReport, InverseError> {
        unreachable!("blocks are reversed as a whole")
    }
    fn differentiable(&self) -> Option<&dyn DifferentiableOperator<T>> {
        Some(self)
    }
}

impl<T: Real> DifferentiableOperator<T> for Counter {
    fn jvp(&self, mut pass: JvpPass<'_, T>, _: Par, _: &mut MemStack) -> Result<(), InverseError> {
        self.counts[1].fetch_add(1, Ordering::Relaxed);
        pass.tangent_out.copy_from(pass.tangent_in);
        Ok(())
    }
    fn vjp(&self, mut pass: VjpPass<'_, T>, _: Par, _: &mut MemStack) -> Result<(), InverseError> {
        self.counts[2].fetch_add(1, Ordering::Relaxed);
        pass.cotangent_in.copy_from(pass.cotangent_out);
        Ok(())
    }
}

/// Reverses a block from one input to what it makes of another one; returns evaluations, products with `J` and with `Jᵀ`, and a line that tells more.
fn effort<T: Real>(block: Block<T>, input: [Mat<T>; 2], range: Interval<T>, tolerance: f64) -> ([usize; 3], String) {
    let counts = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let shape = block.in_shape();
    let name = block.name().to_owned();
    let mut layers: Vec<Op<T>> = vec![Box::new(Counter { shape, counts: counts.clone() })];
    layers.extend(block.into_operators());
    let block = Block::new(name.clone(), shape, layers).unwrap();
    let block = block.with_newton(NewtonParams::new().tolerance(tolerance)).unwrap();
    let [x, other] = input;
    let wanted = crate::nets::forward(&block, &other);
    let before = (crate::nets::forward(&block, &x) - &wanted).norm_l2().to_f64();
    let reverse = |par| reverse_batch(&block, x.as_ref(), TargetBox::point(wanted.as_ref()), range, par).unwrap();
    let start = std::time::Instant::now();
    let together = reverse(Par::rayon(2));
    let seconds = start.elapsed().as_secs_f64();
    // Counted on one thread: several ask for products of samples of their own, which are more, each of fewer samples.
    counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    let found = reverse(Par::Seq);
    let done = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
    assert!(together.point == found.point, "{name}: other threads, other bits");
    let left = (crate::nets::forward(&block, &found.point) - &wanted).norm_l2().to_f64();
    let moved = (&found.point - &x).norm_l2().to_f64() / (&other - &x).norm_l2().to_f64();
    let line = format!(
        "{name} {} {tolerance:e}: {done:?} in {seconds:.3} s, {} steps, left {:.1e}, moved {moved:.3} of the way, {:?}",
        T::NAME,
        found.report.iters,
        left / before,
        found.report.unattained
    );
    assert_eq!(found.report.unattained, 0, "{line}");
    assert!(left <= tolerance * before * 1.01, "{name}: {left:e} of {before:e}");
    (done, line)
}

/// An input, and another one at a distance.
fn inputs<T: Real>(len: usize, batch: usize, share: f64, positive: bool) -> [Mat<T>; 2] {
    let mut random = rng(77);
    let (x, noise) = (normal_mat::<T>(len, batch, &mut random), normal_mat::<T>(len, batch, &mut random));
    let zero = if positive { T::ZERO } else { T::NEG_INFINITY };
    let first = Mat::from_fn(len, batch, |i, j| x[(i, j)].max(zero));
    let second = Mat::from_fn(len, batch, |i, j| (x[(i, j)] + T::from_f64(share) * noise[(i, j)]).max(zero));
    [first, second]
}

#[test]
fn basic_block_takes_few_products() {
    let image = FeatureShape::image(64, 8, 8);
    let positive = Interval::new(0.0, f32::INFINITY);
    let easy = inputs(image.len(), 8, 0.3, true);
    for range in [Interval::EVERYTHING, positive] {
        let block = Weights::new(1).basic_block::<f32>(image, 64, 1);
        let (all, line) = effort(block, easy.clone(), range, 1e-3);
        println!("{line}");
        let most = if range.is_everything() { 100 } else { 220 };
        assert!(all.iter().sum::<usize>() <= most, "{all:?}");
    }
    let block = Weights::new(1).basic_block::<f32>(image, 64, 1);
    let (all, line) = effort(block, inputs(image.len(), 8, 1.5, true), positive, 1e-3);
    println!("{line}");
    assert!(all.iter().sum::<usize>() <= 260, "{all:?}");
}

#[test]
fn a_thousandth_of_the_tolerance_within_a_range_takes_few_products() {
    let image = FeatureShape::image(64, 8, 8);
    // The default takes outputs that are nearly zero for zeros.
    let mut layers = Weights::new(1).basic_block::<f64>(image, 64, 1).into_operators();
    layers.pop();
    layers.push(Box::new(exact_activation("relu", Activation::Relu, image)));
    let block = Block::new("basic block", image, layers).unwrap();
    let (all, line) = effort(block, inputs(image.len(), 2, 0.3, true), Interval::new(0.0, f64::INFINITY), 1e-6);
    println!("{line}");
    assert!(all.iter().sum::<usize>() <= 600, "{all:?}");
}

#[test]
fn vit_block_takes_few_products() {
    for (share, most) in [(0.3, 40), (1.5, 60)] {
        let block = Weights::new(2).vit_block::<f32>(65, 192, 3, 4, 0.5);
        let ([_, push, pull], line) = effort(block, inputs(65 * 192, 8, share, false), Interval::EVERYTHING, 1e-3);
        println!("{line}");
        assert!(push + pull <= most, "{push} + {pull}");
    }
}
