//! Products with the Jacobians of all composite and token layers, with and without a tape, in one piece and with gaps.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_inverse::joint::TapeMemory;
use fbp_inverse::testkit::{ReverseCheck, check_derivatives};
use fbp_inverse::{
    Activation, Attention, Block, ClassToken, DifferentiableOperator, ImageToTokens, JvpPass, MeanTokens, Merge,
    Padding, Parallel, PositionEmbedding, Residual, SelectToken, VjpPass, ZeroPad2d,
};
use fbp_linalg::testkit::{normal_mat, rng};
use fbp_linalg::{FeatureShape, Real};

use crate::nets::{Op, Weights, activation, per_token};

/// One of every kind.
pub(crate) fn layers<T: Real>() -> Vec<Op<T>> {
    let mut weights = Weights::new(7);
    let image = FeatureShape::image(2, 3, 4);
    let constants = |len: usize| (0..len).map(|i| T::from_f64(0.3 - 0.1 * i as f64)).collect::<Vec<_>>();
    let flat = FeatureShape::vector(5);
    let branch = |name: &str, layers| Block::new(name, flat, layers).unwrap();
    let small = |weights: &mut Weights, out: usize| -> Vec<Op<T>> {
        vec![
            Box::new(weights.linear("first", 6, 5, 1.0)),
            Box::new(activation("tanh", Activation::Tanh, FeatureShape::vector(6))),
            Box::new(weights.linear("second", out, 6, 1.0)),
        ]
    };
    let excite: Vec<Op<T>> = {
        let pool = Block::new("pool", image, vec![Box::new(weights.conv("depth", image, 2, 3, 5))]).unwrap();
        vec![Box::new(pool), Box::new(activation("sigmoid", Activation::Sigmoid, FeatureShape::vector(2)))]
    };
    vec![
        Box::new(ImageToTokens::new("tokens", image)),
        Box::new(ImageToTokens::back("image", image)),
        Box::new(ClassToken::new("class", 3, &constants(4)).unwrap()),
        Box::new(PositionEmbedding::new("position", (3, 4), &constants(12)).unwrap()),
        Box::new(SelectToken::new("select", (3, 4), 1).unwrap()),
        Box::new(MeanTokens::new("mean", (4, 3), 0).unwrap()),
        Box::new(MeanTokens::new("mean of some", (4, 3), 2).unwrap()),
        Box::new(ZeroPad2d::new("pad", image, Padding { top: 0, bottom: 1, left: 2, right: 1 })),
        per_token(3, weights.linear("linear", 4, 5, 1.0)),
        per_token(3, weights.layer_norm("norm", 5)),
        Box::new(Attention::new("attention", 4, 2, 3).unwrap()),
        Box::new(Block::identity("identity", flat)),
        Box::new(branch("block", small(&mut weights, 4))),
        Box::new(Residual::new("residual", branch("body", small(&mut weights, 5)), None).unwrap()),
        Box::new(
            Residual::new(
                "residual with skip",
                branch("body", small(&mut weights, 3)),
                Some(branch("skip", small(&mut weights, 3))),
            )
            .unwrap(),
        ),
        Box::new(
            Parallel::new(
                "concat",
                vec![
                    Block::identity("same", flat),
                    branch("one", small(&mut weights, 3)),
                    branch("two", small(&mut weights, 2)),
                ],
                Merge::Concat,
            )
            .unwrap(),
        ),
        Box::new(
            Parallel::new(
                "product",
                vec![
                    branch("one", small(&mut weights, 5)),
                    Block::identity("same", flat),
                    branch("two", small(&mut weights, 5)),
                ],
                Merge::Product,
            )
            .unwrap(),
        ),
        Box::new(
            Parallel::new(
                "excite",
                vec![Block::new("gate", image, excite).unwrap(), Block::identity("same", image)],
                Merge::Product,
            )
            .unwrap(),
        ),
        per_token(2, branch("mlp of a token", small(&mut weights, 4))),
        Box::new(weights.basic_block(FeatureShape::image(2, 4, 4), 3, 2)),
        Box::new(weights.vit_block(3, 4, 2, 2, 0.5)),
    ]
}

#[test]
fn products_agree_with_differences_and_are_adjoint() {
    for layer in layers::<f64>() {
        check_derivatives(&*layer, &ReverseCheck::new().seeds(4)).unwrap();
    }
    for layer in layers::<f32>() {
        check_derivatives(&*layer, &ReverseCheck::new().seeds(4)).unwrap();
    }
}

/// Forward and products of a layer, on a tape or not, into views with `gap` unused rows between their columns.
fn run<T: Real>(layer: &dyn DifferentiableOperator<T>, gap: usize, on_tape: bool) -> [Mat<T>; 3] {
    let (inputs, outputs, batch) = (layer.in_shape().len(), layer.out_shape().len(), 3);
    let mut random = rng(5);
    let mut wide = |rows: usize| {
        let values = normal_mat::<T>(rows, batch, &mut random);
        let mut wide = Mat::zeros(rows + gap, batch);
        wide.as_mut().subrows_mut(0, rows).copy_from(&values);
        wide
    };
    let (input, direction, weights) = (wide(inputs), wide(inputs), wide(outputs));
    let (at, tangent_in, cotangent_out) = (
        input.as_ref().subrows(0, inputs),
        direction.as_ref().subrows(0, inputs),
        weights.as_ref().subrows(0, outputs),
    );
    let blank = |rows: usize| Mat::<T>::full(rows + gap, batch, T::from_f64(f64::NAN));
    let (mut output, mut tangent, mut cotangent) = (blank(outputs), blank(outputs), blank(inputs));
    let par = Par::Seq;
    let mut memory = MemBuffer::new(layer.forward_scratch(batch, par).or(layer.derivative_scratch(batch, par)));
    let stack = MemStack::new(&mut memory);
    let lens = layer.tape_lens().to_vec();
    // More room than needed, as if samples had left.
    let mut tape = TapeMemory::<T>::new(lens.iter().sum(), batch + 2);
    let out = output.as_mut().subrows_mut(0, outputs);
    if on_tape {
        layer.forward_on_tape(at, out, tape.view_mut(&lens, batch), par, stack).unwrap();
    } else {
        layer.forward(at, out, par, stack).unwrap();
    }
    let jvp = JvpPass { at, tangent_in, tangent_out: tangent.as_mut().subrows_mut(0, outputs) };
    let vjp = VjpPass { at, cotangent_out, cotangent_in: cotangent.as_mut().subrows_mut(0, inputs) };
    if on_tape {
        layer.jvp_on_tape(jvp, tape.view(&lens, batch), par, stack).unwrap();
        layer.vjp_on_tape(vjp, tape.view(&lens, batch), par, stack).unwrap();
    } else {
        layer.jvp(jvp, par, stack).unwrap();
        layer.vjp(vjp, par, stack).unwrap();
    }
    [(output, outputs), (tangent, outputs), (cotangent, inputs)].map(|(m, rows)| m.as_ref().subrows(0, rows).to_owned())
}

fn agree<T: Real>() {
    for layer in layers::<T>() {
        let differentiable = layer.differentiable().unwrap();
        let plain = run(differentiable, 0, false);
        for (gap, on_tape) in [(0, true), (3, false), (3, true)] {
            for (what, (a, b)) in
                ["output", "jvp", "vjp"].iter().zip(plain.iter().zip(&run(differentiable, gap, on_tape)))
            {
                let bound = 64.0 * T::EPSILON.to_f64() * a.norm_max().to_f64();
                let worst = (a - b).norm_max().to_f64();
                assert!(
                    worst <= bound,
                    "{}: {what} with gap {gap}, tape {on_tape}: {worst:e} > {bound:e}",
                    layer.name()
                );
            }
        }
    }
}

#[test]
fn tapes_and_gaps_between_columns_do_not_matter() {
    agree::<f64>();
    agree::<f32>();
}
