//! Blocks with a closed form give what single layers of the same function give.

use faer::{Mat, Par};
use fbp_inverse::{
    Activation, Block, Interval, LinearReverse, Residual, ReverseOperator, Reversed, TargetBox, reverse_batch,
};
use fbp_linalg::testkit::{Tol, normal_mat, rng};
use fbp_linalg::{FeatureShape, assert_close};

use crate::nets::{Op, exact_activation};

fn linear(weight: &Mat<f64>, bias: &[f64]) -> LinearReverse<f64> {
    LinearReverse::new("linear", weight.as_ref(), bias).unwrap()
}

fn reversed(layer: &dyn ReverseOperator<f64>, x: &Mat<f64>, y: &Mat<f64>, range: Interval<f64>) -> Reversed<f64> {
    reverse_batch(layer, x.as_ref(), TargetBox::point(y.as_ref()), range, Par::Seq).unwrap()
}

#[test]
fn affine_residual_is_the_linear_layer_of_its_sum() {
    let mut random = rng(1);
    let (first, second) = (normal_mat::<f64>(7, 5, &mut random), normal_mat::<f64>(5, 7, &mut random));
    let zeros = [0.0; 7];
    let layers: Vec<Op<f64>> = vec![Box::new(linear(&first, &zeros)), Box::new(linear(&second, &zeros[..5]))];
    let body = Block::new("body", FeatureShape::vector(5), layers).unwrap();
    let residual = Residual::new("residual", body, None).unwrap();
    let whole = linear(&(&second * &first + Mat::<f64>::identity(5, 5)), &zeros[..5]);
    let (x, y) = (normal_mat::<f64>(5, 4, &mut random), normal_mat::<f64>(5, 4, &mut random));
    for range in [Interval::EVERYTHING, Interval::new(-3.0, 3.0)] {
        let (block, layer) = (reversed(&residual, &x, &y, range), reversed(&whole, &x, &y, range));
        assert_eq!(block.report.unattained, layer.report.unattained);
        // The matrices are built by different roundings; the condition is a few hundred.
        assert_close!(block.point, layer.point, Tol::eps::<f64>().times(1 << 20).scale(10.0));
    }
}

#[test]
fn separable_layers_above_one_layer_are_reversed_first() {
    let mut random = rng(2);
    let weight = normal_mat::<f64>(3, 6, &mut random);
    let shape = FeatureShape::vector(3);
    let (x, mut y) = (normal_mat::<f64>(6, 5, &mut random), normal_mat::<f64>(3, 5, &mut random));
    y.as_mut().col_iter_mut().for_each(|mut column| column[0] = 0.0);
    (0..5).for_each(|j| (0..3).for_each(|i| y[(i, j)] = y[(i, j)].max(0.0)));
    let layers: Vec<Op<f64>> =
        vec![Box::new(linear(&weight, &[0.0; 3])), Box::new(exact_activation("relu", Activation::Relu, shape))];
    let block = Block::new("block", FeatureShape::vector(6), layers).unwrap();
    let found = reversed(&block, &x, &y, Interval::EVERYTHING);
    assert_eq!(found.report.unattained, 0);
    // Where the target is 0, everything below 0 does: the linear layer with that box.
    let lower = Mat::from_fn(3, 5, |i, j| if y[(i, j)] > 0.0 { y[(i, j)] } else { f64::NEG_INFINITY });
    let boxes = TargetBox { point: y.as_ref(), lower: lower.as_ref(), upper: y.as_ref() };
    let layer = linear(&weight, &[0.0; 3]);
    let expected = reverse_batch(&layer, x.as_ref(), boxes, Interval::EVERYTHING, Par::Seq).unwrap();
    assert_close!(found.point, expected.point, Tol::eps::<f64>().times(1 << 16).scale(4.0));
}
