//! The conformance kit over all composite and token layers.

use fbp_inverse::testkit::{ReverseCheck, check_reverse_operator};
use fbp_inverse::{
    Activation, Attention, Block, ClassToken, ImageToTokens, MeanTokens, Merge, NewtonParams, Padding, Parallel,
    PositionEmbedding, Residual, ReverseOperator, SelectToken, ZeroPad2d,
};
use fbp_linalg::{FeatureShape, Real};

use crate::nets::{Op, Weights, activation, exact_activation, per_token};

fn keeps<T: Real>(layer: &dyn ReverseOperator<T>, check: &ReverseCheck) {
    if let Err(error) = check_reverse_operator(layer, check) {
        panic!("{}: {error}", T::NAME);
    }
}

/// Token layers are reversed in closed form: nothing is left out of the contract.
fn closed_forms<T: Real>() {
    let image = FeatureShape::image(2, 2, 3);
    let constants = |len: usize| (0..len).map(|i| T::from_f64(0.3 - 0.1 * i as f64)).collect::<Vec<_>>();
    let mut weights = Weights::new(3);
    let exact: Vec<Op<T>> = vec![
        Box::new(ImageToTokens::new("tokens", image)),
        Box::new(ImageToTokens::back("image", image)),
        Box::new(PositionEmbedding::new("position", (3, 2), &constants(6)).unwrap()),
        Box::new(SelectToken::new("select", (3, 4), 1).unwrap()),
        Box::new(MeanTokens::new("mean", (4, 2), 0).unwrap()),
        Box::new(MeanTokens::new("mean of some", (4, 2), 1).unwrap()),
        per_token(2, weights.linear("linear", 2, 3, 1.0)),
        Box::new(Block::identity("identity", image)),
    ];
    for layer in &exact {
        keeps(&**layer, &ReverseCheck::new());
    }
    // What the box asks of constants is missed, and said to be.
    let constant: Vec<Op<T>> = vec![
        Box::new(ClassToken::new("class", 2, &constants(3)).unwrap()),
        Box::new(ZeroPad2d::new("pad", image, Padding { top: 0, bottom: 1, left: 2, right: 1 })),
    ];
    for layer in &constant {
        keeps(&**layer, &ReverseCheck::new());
    }
}

#[test]
fn token_layers_keep_the_whole_contract() {
    closed_forms::<f64>();
    closed_forms::<f32>();
}

/// Blocks that are affine, or affine below separable layers, are exact as well.
fn exact_blocks<T: Real>() {
    let mut weights = Weights::new(4);
    let flat = FeatureShape::vector(5);
    let image = FeatureShape::image(2, 3, 3);
    let block = |name: &str, shape, layers: Vec<Op<T>>| Block::new(name, shape, layers).unwrap();
    let two = |weights: &mut Weights, out: usize| -> Vec<Op<T>> {
        vec![Box::new(weights.linear("first", 4, 5, 1.0)), Box::new(weights.linear("second", out, 4, 1.0))]
    };
    let layers: Vec<Op<T>> = vec![
        Box::new(block("two linear layers", flat, two(&mut weights, 3))),
        Box::new(Residual::new("affine residual", block("body", flat, two(&mut weights, 5)), None).unwrap()),
        Box::new(
            Parallel::new(
                "affine branches",
                vec![block("one", flat, two(&mut weights, 2)), block("two", flat, two(&mut weights, 1))],
                Merge::Concat,
            )
            .unwrap(),
        ),
        {
            let conv = weights.conv("conv", image, 2, 3, 2);
            let inner = ReverseOperator::out_shape(&conv);
            let norm = weights.batch_norm("norm", inner, 1.0);
            Box::new(block(
                "conv norm relu",
                image,
                vec![Box::new(conv), Box::new(norm), Box::new(exact_activation("relu", Activation::Relu, inner))],
            ))
        },
        Box::new(block("one layer", flat, vec![Box::new(weights.linear("only", 3, 5, 1.0))])),
    ];
    for layer in &layers {
        // Entries of a product of matrices are sums of roundings of both.
        keeps(&**layer, &ReverseCheck::new().tolerance(2048.0).nearest(16.0).seeds(6));
    }
    // Separable layers are reversed first: what has no preimage is missed by the least below them, where distances are other
    // ones by up to the ratio of their slopes.
    let mut layers = two(&mut weights, 3);
    layers.push(Box::new(exact_activation("leaky", Activation::LeakyRelu { slope: 0.5 }, FeatureShape::vector(3))));
    let layer = block("linear linear leaky", flat, layers);
    // The least miss depends on rounding by the square of the condition, which is some hundreds.
    let condition_squared = f64::from(1 << 18);
    keeps(&layer, &ReverseCheck::new().tolerance(condition_squared).nearest(16.0).seeds(6).misses_within(2.0));
}

#[test]
fn affine_blocks_keep_the_whole_contract() {
    exact_blocks::<f64>();
    exact_blocks::<f32>();
}

/// Blocks that take an iteration.
fn iterated<T: Real>(tolerance: f64) {
    let mut weights = Weights::new(5);
    let newton = NewtonParams::new().tolerance(tolerance).max_steps(100);
    let flat = FeatureShape::vector(6);
    let mut mlp = |kind, gain| -> Block<T> {
        let layers: Vec<Op<T>> = vec![
            Box::new(weights.linear("first", 8, 6, 1.0)),
            Box::new(activation("inner", kind, FeatureShape::vector(8))),
            Box::new(weights.linear("second", 6, 8, gain)),
        ];
        Block::new("body", flat, layers).unwrap()
    };
    let smooth = Residual::new("smooth", mlp(Activation::Softplus, 0.5), None).unwrap().with_newton(newton).unwrap();
    let kinked = Residual::new("kinked", mlp(Activation::Relu, 0.5), None).unwrap().with_newton(newton).unwrap();
    let sum = Parallel::new(
        "sum",
        vec![mlp(Activation::Tanh, 0.3), mlp(Activation::Gelu, 0.3), Block::identity("same", flat)],
        Merge::Sum,
    );
    let mut weights = Weights::new(6);
    let image = FeatureShape::image(2, 3, 3);
    let basic = weights.basic_block(image, 2, 1).with_newton(newton).unwrap();
    let down = weights.basic_block(image, 1, 2).with_newton(newton).unwrap();
    let vit = weights.vit_block(3, 4, 2, 2, 0.5).with_newton(newton).unwrap();
    let attention = Attention::new("attention", 3, 1, 2).unwrap().with_newton(newton).unwrap();
    let check = ReverseCheck::new().iterative(tolerance).seeds(6).may_miss();
    let layers: Vec<Op<T>> = vec![
        Box::new(smooth),
        Box::new(kinked),
        Box::new(sum.unwrap().with_newton(newton).unwrap()),
        Box::new(basic),
        Box::new(down),
        Box::new(vit),
        Box::new(attention),
    ];
    let failures = layers.iter().filter_map(|layer| check_reverse_operator(&**layer, &check).err());
    let failures: Vec<String> = failures.map(|error| error.to_string()).collect();
    assert!(failures.is_empty(), "{}: {failures:#?}", T::NAME);
}

#[test]
fn iterated_blocks_keep_the_contract_up_to_their_tolerance() {
    iterated::<f64>(1e-6);
    iterated::<f32>(1e-4);
}
