//! Largest, smallest and infinite numbers: what is finite must stay finite, and what misses must be reported.

use faer::Mat;
use fbp_inverse::{
    Activation, ActivationReverse, AvgDivisor, AvgPoolReverse, BatchNormReverse, ChainStage, FlattenReverse, Interval,
    InverseError, MaxPoolReverse, NormParameters, NormReverse, PoolWindow, ReverseChain, ReverseOperator,
    SoftmaxReverse,
};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::testkit::{for_seeds, uniform_vec};
use fbp_linalg::{FeatureShape, LinalgError, Real};

use crate::passes::{Reversed, forward, reverse};

const ACTIVATIONS: [Activation; 18] = [
    Activation::Relu,
    Activation::Relu6,
    Activation::LeakyRelu { slope: 0.01 },
    Activation::LeakyRelu { slope: 1e-30 },
    Activation::LeakyRelu { slope: 3.0 },
    Activation::LeakyRelu { slope: -0.01 },
    Activation::LeakyRelu { slope: -2.5 },
    Activation::HardTanh { min: -0.75, max: 1.25 },
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::HardSigmoid,
    Activation::Elu { alpha: 0.7 },
    Activation::Softplus,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::HardSwish,
    Activation::Mish,
];

/// `(f(x), f'(x))` from the definitions, with the elementary functions of `libm`; away from kinks.
fn definition(activation: Activation, x: f64) -> (f64, f64) {
    let sigmoid = |x: f64| if x < 0.0 { libm::exp(x) / (1.0 + libm::exp(x)) } else { 1.0 / (1.0 + libm::exp(-x)) };
    // x · share(x) with the derivative of the share; 0 · ∞ is 0 in the tails.
    let gated = |share: f64, slope: f64| {
        (if share == 0.0 { -0.0 } else { x * share }, share + if slope == 0.0 { 0.0 } else { x * slope })
    };
    match activation {
        Activation::Relu => {
            if x > 0.0 {
                (x, 1.0)
            } else {
                (0.0, 0.0)
            }
        }
        Activation::Relu6 => (x.clamp(0.0, 6.0), if x > 0.0 && x < 6.0 { 1.0 } else { 0.0 }),
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                (x, 1.0)
            } else {
                (slope * x, slope)
            }
        }
        Activation::HardTanh { min, max } => (x.clamp(min, max), if x > min && x < max { 1.0 } else { 0.0 }),
        Activation::Tanh => (libm::tanh(x), libm::cosh(x.clamp(-700.0, 700.0)).powi(-2)),
        Activation::Sigmoid => (sigmoid(x), sigmoid(x) * sigmoid(-x)),
        Activation::HardSigmoid => ((x / 6.0 + 0.5).clamp(0.0, 1.0), if x.abs() < 3.0 { 1.0 / 6.0 } else { 0.0 }),
        Activation::Elu { alpha } => {
            if x > 0.0 {
                (x, 1.0)
            } else {
                (alpha * libm::expm1(x), alpha * libm::exp(x))
            }
        }
        Activation::Softplus => (x.max(0.0) + libm::log1p(libm::exp(-x.abs())), sigmoid(x)),
        Activation::Gelu => {
            let density = libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt();
            gated(0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2), density)
        }
        Activation::GeluTanh => {
            let c = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            let near = x.clamp(-1e3, 1e3);
            let inner = c * (near + 0.044_715 * near.powi(3));
            gated(sigmoid(inner), sigmoid(inner) * sigmoid(-inner) * c * (1.0 + 3.0 * 0.044_715 * near * near))
        }
        Activation::Silu => gated(sigmoid(x), sigmoid(x) * sigmoid(-x)),
        Activation::HardSwish => {
            let slope = if x.abs() < 3.0 { x / 3.0 + 0.5 } else { f64::from(u8::from(x > 0.0)) };
            (x * (x / 6.0 + 0.5).clamp(0.0, 1.0), slope)
        }
        Activation::Mish => {
            let plus = x.max(0.0) + libm::log1p(libm::exp(-x.abs()));
            let share = libm::tanh(plus);
            gated(share, (1.0 - share) * (1.0 + share) * sigmoid(x))
        }
        _ => unreachable!("{activation:?}"),
    }
}

/// Numbers of all sizes, subnormal ones and the largest included, of both signs.
fn all_sizes<T: Real>() -> Vec<T> {
    let mut sizes =
        vec![0.0, T::MAX.to_f64(), 0.5 * T::MAX.to_f64(), T::MIN_POSITIVE.to_f64(), T::MIN_POSITIVE.to_f64() / 64.0];
    let (low, high) = (T::MIN_POSITIVE.to_f64().log10(), T::MAX.to_f64().log10());
    sizes.extend((0..400).map(|i| 10.0_f64.powf(low + (high - low) * (f64::from(i) + 0.37) / 400.0)));
    sizes.extend((0..600).map(|i| 0.0131 + 0.25 * f64::from(i)));
    sizes.iter().flat_map(|&x| [T::from_f64(x), T::from_f64(-x)]).collect()
}

fn activations_of_all_sizes<T: Real>() {
    let inputs = all_sizes::<T>();
    let ones = vec![T::ONE; inputs.len()];
    let (mut values, mut slopes) = (vec![T::ZERO; inputs.len()], vec![T::ZERO; inputs.len()]);
    let eps = T::EPSILON.to_f64();
    for activation in ACTIVATIONS {
        activation.forward_slice(&inputs, &mut values).unwrap();
        activation.slope_slice(&inputs, &ones, &mut slopes).unwrap();
        for ((&x, &y), &slope) in inputs.iter().zip(&values).zip(&slopes) {
            let rounded = |value: f64| T::from_f64(value).to_f64();
            let (value, derivative) = definition(activation, x.to_f64());
            if !T::from_f64(value).is_finite() {
                continue;
            }
            // Roundings of the result and, in the tails, of x itself; then what underflows, times a factor of up to x.
            let (size, least) = (x.to_f64().abs().min(1e3), 1e3 * T::MIN_POSITIVE.to_f64() * eps);
            let tolerance =
                |exact: f64, by: f64| 16.0 * eps * (exact.abs() + by.abs() + (size * derivative).abs()) + least;
            let error = (y.to_f64() - rounded(value)).abs();
            assert!(error <= tolerance(value, 0.0), "{activation:?}({x:e}) = {y:e}, not {value:e} ({})", T::NAME);
            let on_kink = [0.0, 3.0, 6.0].contains(&size);
            let error = (slope.to_f64() - rounded(derivative)).abs();
            // Slopes of the tails change as fast as they fall, and cross 0.
            let steep = 8.0 * size * size.max(1.0) * (derivative.abs() + if size > 4.0 { value.abs() } else { 0.0 })
                + if size <= 4.0 { 1.0 } else { 0.0 };
            assert!(
                on_kink || error <= tolerance(derivative, steep),
                "{activation:?}'({x:e}) = {slope:e}, not {derivative:e} ({})",
                T::NAME
            );
        }
    }
}

#[test]
fn activations_are_right_over_the_whole_range_of_finite_inputs() {
    activations_of_all_sizes::<f32>();
    activations_of_all_sizes::<f64>();
}

#[test]
fn gates_close_at_the_most_negative_number() {
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Mish] {
        let (mut y, mut z) = ([1.0_f32; 3], [1.0_f64; 3]);
        activation.forward_slice(&[f32::MIN, -2e19, 2e19], &mut y).unwrap();
        activation.forward_slice(&[f64::MIN, -2e154, 2e154], &mut z).unwrap();
        assert_eq!((y, z), ([0.0, 0.0, 2e19], [0.0, 0.0, 2e154]), "{activation:?}");
    }
}

/// Small layers of every kind.
fn layers<T: Real>() -> Vec<Box<dyn ReverseOperator<T>>> {
    let shape = FeatureShape::image(2, 4, 4);
    let values = |values: &[f64]| values.iter().map(|&v| T::from_f64(v)).collect::<Vec<_>>();
    let mut all: Vec<Box<dyn ReverseOperator<T>>> = Vec::new();
    for activation in ACTIVATIONS {
        all.push(Box::new(ActivationReverse::new(format!("{activation:?}"), activation, shape).unwrap()));
    }
    for (name, scale) in [("scales", [1e-30, -4.0]), ("tiny scales", [1e-37, 0.0]), ("huge scale", [1e30, 2.0])] {
        let norm = BatchNormReverse::from_affine(name, shape, values(&scale), values(&[0.5, -0.25]));
        all.push(Box::new(norm.unwrap()));
    }
    let (tiny, plain) = (values(&[1e-30, -2e-30]), values(&[1.5, -0.5]));
    for (weight, epsilon) in [(&tiny, 1e-5), (&plain, 1e-5), (&plain, 0.0)] {
        let parameters = NormParameters { weight, bias: &values(&[0.5, 0.0]), epsilon };
        all.push(Box::new(NormReverse::group_norm("group norm", shape, 1, parameters).unwrap()));
        all.push(Box::new(NormReverse::instance_norm("instance norm", shape, parameters).unwrap()));
        all.push(Box::new(NormReverse::rms_norm("rms norm", shape, 2, parameters).unwrap()));
    }
    for window in [PoolWindow::disjoint(2, 2), PoolWindow::square(3, 2, 1)] {
        all.push(Box::new(MaxPoolReverse::new("max pool", shape, window).unwrap()));
        all.push(Box::new(AvgPoolReverse::new("average pool", shape, window).unwrap()));
        for divisor in [1e-30, 1e30] {
            let pool = AvgPoolReverse::with_divisor("average pool", shape, window, AvgDivisor::Fixed(divisor));
            all.push(Box::new(pool.unwrap()));
        }
    }
    all.push(Box::new(SoftmaxReverse::new("softmax", shape)));
    all.push(Box::new(FlattenReverse::new("flatten", shape)));
    all
}

/// Targets and inputs drawn from numbers of all sizes.
fn points_are_finite<T: Real>() {
    let sizes = all_sizes::<T>();
    for_seeds(12, |rng| {
        for layer in layers::<T>() {
            let (len, rows) = (layer.in_shape().len(), layer.out_shape().len());
            let pick = |draw: f64| sizes[(draw * (sizes.len() - 1) as f64) as usize];
            let draw = uniform_vec::<f64>(len + 3 * rows + 4, 0.0, 1.0, rng);
            let extreme = draw[len + 3 * rows] < 0.5;
            let input = Mat::from_fn(len, 1, |i, _| {
                if extreme { pick(draw[i]) * T::from_f64(0.1) } else { T::from_f64(8.0 * draw[i] - 4.0) }
            });
            let output = forward(layer.as_ref(), input.as_ref());
            if !(0..rows).all(|i| output[(i, 0)].is_finite()) {
                // A scale above 1 may overflow, which a pass refuses.
                let scales = ["scale", "pool", "Leaky"].iter().any(|kind| layer.name().contains(kind));
                assert!(scales, "{}: forward of {input:?}: {output:?}", layer.name());
                continue;
            }
            let ends = |i: usize| {
                let (a, b) = (pick(draw[len + i]), pick(draw[len + rows + i]));
                match (4.0 * draw[len + 2 * rows + i]) as usize {
                    0 => (a, a),
                    1 => (T::NEG_INFINITY, a),
                    2 => (a, T::INFINITY),
                    _ => (a.min(b), a.max(b)),
                }
            };
            let lower = Mat::from_fn(rows, 1, |i, _| ends(i).0);
            let upper = Mat::from_fn(rows, 1, |i, _| ends(i).1);
            let ranges = [Interval::EVERYTHING, Interval::new(T::ZERO, T::INFINITY), Interval::new(-T::MAX, T::ONE)];
            let range = ranges[(3.0 * draw[len + 3 * rows + 1]) as usize % 3];
            let reversed = reverse(layer.as_ref(), input.as_ref(), (&lower, &upper), range).unwrap();
            // Below its tolerance, which is relative to the largest output, a ReLU is flat.
            let flat = if layer.name() == "Relu" { 1e-4 * output.norm_max().to_f64() } else { 0.0 };
            check_finite(layer.as_ref(), &reversed, (&lower, &upper), flat);
        }
    });
}

/// The point is finite and in its box, and a miss that neither rounding nor the tolerance explains is reported.
fn check_finite<T: Real>(
    layer: &dyn ReverseOperator<T>,
    reversed: &Reversed<T>,
    (lower, upper): (&Mat<T>, &Mat<T>),
    flat: f64,
) {
    let name = layer.name();
    for i in 0..reversed.point.nrows() {
        let (x, lo, hi) = (reversed.point[(i, 0)], reversed.lower[(i, 0)], reversed.upper[(i, 0)]);
        assert!(x.is_finite() && lo <= x && x <= hi, "{name}: entry {i} is {x:e} in [{lo:e}, {hi:e}] ({})", T::NAME);
    }
    let reached = forward(layer, reversed.point.as_ref());
    let missed = |i: usize| {
        let (y, lo, hi) = (reached[(i, 0)].to_f64(), lower[(i, 0)].to_f64(), upper[(i, 0)].to_f64());
        // Generous: a hundredth of what the output is made of; sums may be made of anything.
        !name.contains("average") && (lo - y).max(y - hi) > flat + 0.01 * (1.0 + y.abs())
    };
    let wrong = (0..reached.nrows()).find(|&i| missed(i) && reversed.report.unattained == 0);
    assert_eq!(wrong, None, "{name} ({}): {:?} -> {reached:?}, {:?}", T::NAME, reversed.point, reversed.report);
}

#[test]
fn finite_targets_give_finite_points_or_are_reported() {
    points_are_finite::<f32>();
    points_are_finite::<f64>();
}

#[test]
fn leaky_relu_beyond_the_largest_number_is_unattained() {
    let layer = ActivationReverse::<f32>::new("leaky", Activation::LeakyRelu { slope: 0.01 }, FeatureShape::vector(1));
    let one = |value: f32| Mat::full(1, 1, value);
    let reversed =
        reverse(&layer.unwrap(), one(1.0).as_ref(), (&one(f32::NEG_INFINITY), &one(-4e36)), Interval::EVERYTHING);
    let reversed = reversed.unwrap();
    assert_eq!((reversed.point[(0, 0)], reversed.report.unattained), (f32::MIN, 1));
    let miss = 4e36 - 0.01 * f64::from(f32::MAX);
    assert!((reversed.report.violation_max - miss).abs() <= 8.0 * f64::from(f32::EPSILON) * 4e36);
}

#[test]
fn folded_relu_takes_the_side_that_finite_numbers_reach() {
    let layer =
        ActivationReverse::<f32>::new("folded", Activation::LeakyRelu { slope: -0.01 }, FeatureShape::vector(1));
    let one = |value: f32| Mat::full(1, 1, value);
    let reversed =
        reverse(&layer.unwrap(), one(-3e38).as_ref(), (&one(1e37), &one(1e37)), Interval::EVERYTHING).unwrap();
    assert_eq!((reversed.point[(0, 0)], reversed.report.unattained), (1e37, 0));
}

fn is_empty_box<R>(result: Result<R, InverseError>) -> bool {
    matches!(result, Err(InverseError::Solve { source: LinalgError::EmptyBox { .. }, .. }))
}

fn intervals_without_a_finite_number<T: Real>() {
    let (nan, far) = (T::from_f64(f64::NAN), T::INFINITY);
    let empty = [(T::ONE, T::ZERO), (nan, T::ONE), (T::ZERO, nan), (far, far), (-far, -far), (far, -far)];
    for layer in layers::<T>() {
        let input = Mat::from_fn(layer.in_shape().len(), 1, |i, _| T::from_f64(0.1 * i as f64 - 0.5));
        let output = forward(layer.as_ref(), input.as_ref());
        for (low, high) in empty {
            let ranged = reverse(layer.as_ref(), input.as_ref(), (&output, &output), Interval::new(low, high));
            assert!(is_empty_box(ranged), "{}: range [{low}, {high}]", layer.name());
            let (mut lower, mut upper) = (output.clone(), output.clone());
            (lower[(0, 0)], upper[(0, 0)]) = (low, high);
            let refused = reverse(layer.as_ref(), input.as_ref(), (&lower, &upper), Interval::EVERYTHING);
            // The point, clipped to such a box, may be what is refused first.
            assert!(matches!(refused, Err(InverseError::Solve { .. })), "{}: box [{low}, {high}]", layer.name());
        }
    }
    for (low, high) in empty {
        let operators: Vec<Box<dyn ReverseOperator<T>>> =
            vec![Box::new(FlattenReverse::new("flatten", FeatureShape::vector(2)))];
        let chain = ReverseChain::new(vec![ChainStage { name: "stage".into(), operators }], Interval::new(low, high));
        assert!(is_empty_box(chain), "chain: [{low}, {high}]");
    }
}

#[test]
fn intervals_without_a_finite_number_are_refused_everywhere() {
    intervals_without_a_finite_number::<f32>();
    intervals_without_a_finite_number::<f64>();
}

#[test]
fn layer_whose_outputs_overflow_is_no_chain() {
    let scale = BatchNormReverse::<f32>::from_affine("scale", FeatureShape::vector(1), vec![100.0], vec![0.0]).unwrap();
    let stage = ChainStage { name: "stage".into(), operators: vec![Box::new(scale) as Box<dyn ReverseOperator<f32>>] };
    assert!(is_empty_box(ReverseChain::new(vec![stage], Interval::new(1e37, f32::INFINITY))));
}

/// Scales of twelve decades side by side: every entry is judged, and attained, by its own.
fn scaled_channels<T: Real>() {
    let shape = FeatureShape::image(13, 1, 2);
    for_seeds(50, |rng| {
        let draw = uniform_vec::<f64>(13 + 4 * shape.len(), -1.0, 1.0, rng);
        let scale: Vec<T> = (0..13).map(|c| T::from_f64(draw[c].signum() * 10.0_f64.powf(6.0 * draw[c]))).collect();
        let shift: Vec<T> = (0..13).map(|c| scale[12 - c] * T::from_f64(draw[c])).collect();
        let norm = BatchNormReverse::from_affine("norm", shape, scale.clone(), shift.clone()).unwrap();
        let column = |start: usize| Mat::from_fn(shape.len(), 1, |i, _| T::from_f64(draw[start + i]));
        let (input, witness) = (column(13), column(13 + shape.len()));
        let target = forward(&norm, witness.as_ref());
        let reversed = reverse(&norm, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
        assert_eq!(reversed.report.unattained, 0);
        for i in 0..shape.len() {
            let (a, c) = (scale[i / 2].to_f64(), shift[i / 2].to_f64());
            let product = a * reversed.point[(i, 0)].to_f64();
            let miss = (product + c - target[(i, 0)].to_f64()).abs();
            assert!(miss <= attained_slack::<T>(2, product.abs() + c.abs()), "entry {i}: {miss:e}");
        }
        // A target that the small channel misses by far more than its rounding, but by nothing beside the largest.
        let range = Interval::new(-T::ONE, T::ONE);
        let small = (0..13).min_by(|&a, &b| scale[a].abs().partial_cmp(&scale[b].abs()).unwrap()).unwrap();
        let mut beyond = target.clone();
        beyond[(2 * small, 0)] = shift[small] + scale[small].abs() * T::from_f64(1.5);
        let reversed = reverse(&norm, input.as_ref(), (&beyond, &beyond), range).unwrap();
        let resolved = scale[small].to_f64().abs() > 1e3 * T::EPSILON.to_f64() * shift[small].to_f64().abs();
        assert!(reversed.report.unattained == 1 || !resolved);
    });
}

#[test]
fn channels_are_judged_by_their_own_scale() {
    scaled_channels::<f32>();
    scaled_channels::<f64>();
}

#[test]
fn parameters_that_the_scalar_cannot_hold_are_refused() {
    let shape = FeatureShape::vector(1);
    let parameters = [
        Activation::LeakyRelu { slope: 1e300 },
        Activation::HardTanh { min: -1e300, max: 1.0 },
        Activation::HardTanh { min: 1.0, max: 1.0 + 1e-12 },
        Activation::Elu { alpha: 1e-300 },
    ];
    for activation in parameters {
        assert!(ActivationReverse::<f64>::new("fine", activation, shape).is_ok());
        let refused = ActivationReverse::<f32>::new("refused", activation, shape);
        assert!(matches!(refused, Err(InverseError::Parameter { .. })), "{activation:?}");
    }
}
