//! How near the answers of iterated blocks are: steps towards the observed input lead to a stationary point where the block
//! is smooth.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_inverse::{
    Activation, Block, DifferentiableOperator, Interval, JvpPass, NewtonParams, Residual, ReverseOperator, TargetBox,
    reverse_batch,
};
use fbp_linalg::FeatureShape;
use fbp_linalg::testkit::{normal_mat, rng};

use crate::nets::{Op, Weights, activation};

/// A smooth residual block from 32 entries to 16, with a small body.
fn shrinking(seed: u64, params: NewtonParams) -> Residual<f64> {
    let mut weights = Weights::new(seed);
    let (input, inner) = (FeatureShape::vector(32), FeatureShape::vector(24));
    let body: Vec<Op<f64>> = vec![
        Box::new(weights.linear("first", 24, 32, 1.0)),
        Box::new(activation("softplus", Activation::Softplus, inner)),
        Box::new(weights.linear("second", 16, 24, 0.5)),
    ];
    let skip: Vec<Op<f64>> = vec![Box::new(weights.linear("skip", 16, 32, 1.0))];
    let (body, skip) = (Block::new("body", input, body).unwrap(), Block::new("skip", input, skip).unwrap());
    Residual::new("shrinking", body, Some(skip)).unwrap().with_newton(params).unwrap()
}

/// The Jacobian at a point, from products with unit vectors.
fn jacobian(layer: &dyn DifferentiableOperator<f64>, at: &Mat<f64>) -> Mat<f64> {
    let (inputs, outputs) = (layer.in_shape().len(), layer.out_shape().len());
    let wide = Mat::from_fn(inputs, inputs, |i, _| at[(i, 0)]);
    let units = Mat::<f64>::identity(inputs, inputs);
    let mut product = Mat::zeros(outputs, inputs);
    let mut memory = MemBuffer::new(layer.derivative_scratch(inputs, Par::Seq));
    let pass = JvpPass { at: wide.as_ref(), tangent_in: units.as_ref(), tangent_out: product.as_mut() };
    layer.jvp(pass, Par::Seq, MemStack::new(&mut memory)).unwrap();
    product
}

/// Share of the move that lies along the outputs' level set: 0 at a nearest point.
fn stationarity(layer: &Residual<f64>, point: &Mat<f64>, observed: &Mat<f64>) -> f64 {
    let jacobian = jacobian(layer.differentiable().unwrap(), point);
    let svd = jacobian.as_ref().thin_svd().unwrap();
    let moved = point - observed;
    let within = svd.V() * (svd.V().transpose() * &moved);
    (&moved - &within).norm_l2() / moved.norm_l2()
}

#[test]
fn steps_towards_the_observed_input_lead_to_a_stationary_point() {
    for seed in 0..4 {
        let mut random = rng(100 + seed);
        let (x, wanted) = (normal_mat::<f64>(32, 1, &mut random), normal_mat::<f64>(16, 1, &mut random));
        let run = |steps: usize, tolerance: f64| {
            let layer = shrinking(seed, NewtonParams::new().tolerance(tolerance).nearer_steps(steps));
            let found =
                reverse_batch(&layer, x.as_ref(), TargetBox::point(wanted.as_ref()), Interval::EVERYTHING, Par::Seq);
            let found = found.unwrap();
            assert_eq!(found.report.unattained, 0, "seed {seed}, {steps} steps");
            (stationarity(&layer, &found.point, &x), (&found.point - &x).norm_l2())
        };
        let (plain, far) = run(0, 1e-10);
        let (one, nearer) = run(1, 1e-10);
        let (many, nearest) = run(40, 1e-10);
        println!("seed {seed}: {plain:.1e} -> {one:.1e} -> {many:.1e}, distances {far:.4}, {nearer:.4}, {nearest:.4}");
        let slack = 1.0 + 1e-9;
        assert!(nearer <= far * slack && nearest <= nearer * slack, "seed {seed}: {far}, {nearer}, {nearest}");
        assert!(one <= plain, "seed {seed}: {plain:e}, {one:e}");
        assert!(many <= 1e-6, "seed {seed}: {plain:e}, {one:e}, {many:e}");
    }
}
