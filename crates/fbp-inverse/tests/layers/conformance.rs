//! Every layer against the conformance kit, in both scalars.

use fbp_inverse::testkit::{ReverseCheck, check_derivatives, check_reverse_operator};
use fbp_inverse::{
    Activation, ActivationReverse, AvgPoolReverse, BatchNormReverse, BatchNormStatistics, FlattenReverse,
    MaxPoolReverse, PoolWindow, ReverseOperator, SoftmaxReverse,
};
use fbp_linalg::{FeatureShape, Real};

fn conforms<T: Real>(layer: &dyn ReverseOperator<T>, check: &ReverseCheck) {
    check_reverse_operator(layer, check).unwrap_or_else(|error| panic!("{}: {error}", T::NAME));
    check_derivatives(layer, check).unwrap_or_else(|error| panic!("{}: {error}", T::NAME));
}

const ACTIVATIONS: [Activation; 18] = [
    Activation::Relu,
    Activation::Relu6,
    Activation::LeakyRelu { slope: 0.1 },
    Activation::LeakyRelu { slope: 2.0 },
    Activation::LeakyRelu { slope: 0.0 },
    Activation::LeakyRelu { slope: -0.5 },
    Activation::HardTanh { min: -0.75, max: 1.25 },
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::HardSigmoid,
    Activation::Elu { alpha: 1.0 },
    Activation::Elu { alpha: 0.3 },
    Activation::Softplus,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::HardSwish,
    Activation::Mish,
];

fn activations_conform<T: Real>() {
    let shape = FeatureShape::image(2, 3, 3);
    for activation in ACTIVATIONS {
        let layer = ActivationReverse::<T>::new(format!("{activation:?}"), activation, shape).unwrap();
        // Sharp first, then with the default tolerance; a target may be violated by as much.
        for tolerance in [T::EPSILON.to_f64().max(1e-9) * 128.0, ActivationReverse::<T>::DEFAULT_TOLERANCE] {
            let check = ReverseCheck::new().tolerance(2.0 * tolerance / T::EPSILON.to_f64());
            let layer = layer.clone().with_tolerance(tolerance).unwrap();
            conforms(&layer, &check);
            conforms(&layer, &check.scale(6.0));
        }
    }
}

#[test]
fn activations_conform_f64() {
    activations_conform::<f64>();
}

#[test]
fn activations_conform_f32() {
    activations_conform::<f32>();
}

fn pools_conform<T: Real>() {
    for (shape, window) in [
        (FeatureShape::image(2, 4, 4), [2, 2]),
        (FeatureShape::image(2, 5, 7), [2, 2]),
        (FeatureShape::image(1, 7, 6), [3, 2]),
        (FeatureShape::image(3, 3, 4), [3, 4]),
    ] {
        let pool = MaxPoolReverse::<T>::new("max pool", shape, PoolWindow::disjoint(window[0], window[1])).unwrap();
        conforms(&pool, &ReverseCheck::new());
        let pool = AvgPoolReverse::<T>::new("average pool", shape, PoolWindow::disjoint(window[0], window[1])).unwrap();
        conforms(&pool, &ReverseCheck::new());
    }
}

#[test]
fn pools_conform_f64() {
    pools_conform::<f64>();
}

#[test]
fn pools_conform_f32() {
    pools_conform::<f32>();
}

fn overlapping_max_pools_conform<T: Real>() {
    for (shape, window) in [
        (FeatureShape::image(2, 5, 6), PoolWindow::square(3, 2, 1)),
        (FeatureShape::image(1, 6, 7), PoolWindow::square(3, 2, 0).ceil()),
        (FeatureShape::image(1, 5, 5), PoolWindow::square(2, 2, 1)),
        (FeatureShape::image(1, 7, 7), PoolWindow::square(2, 3, 0)),
        (FeatureShape::image(2, 1, 1), PoolWindow::square(3, 2, 1)),
    ] {
        let pool = MaxPoolReverse::<T>::new("max pool", shape, window).unwrap();
        conforms(&pool, &ReverseCheck::new());
    }
}

#[test]
fn overlapping_max_pools_conform_in_both_scalars() {
    overlapping_max_pools_conform::<f64>();
    overlapping_max_pools_conform::<f32>();
}

#[test]
fn flatten_conforms() {
    conforms(&FlattenReverse::<f64>::new("flatten", FeatureShape::image(2, 3, 4)), &ReverseCheck::new());
    conforms(&FlattenReverse::<f32>::new("flatten", FeatureShape::image(2, 3, 4)), &ReverseCheck::new());
}

fn batch_norms_conform<T: Real>() {
    let values = |values: [f64; 4]| values.map(T::from_f64);
    let statistics = BatchNormStatistics {
        weight: &values([1.5, -0.5, 0.0, 1e-3]),
        bias: &values([0.1, 0.0, 0.75, -0.2]),
        mean: &values([0.3, -0.2, 0.1, 4.0]),
        variance: &values([0.5, 2.0, 1.0, 1.0]),
        epsilon: 1e-5,
    };
    for shape in [FeatureShape::image(4, 2, 3), FeatureShape::vector(4)] {
        let norm = BatchNormReverse::new("batch norm", shape, statistics).unwrap();
        // The third channel is constant, so that most targets are missed.
        conforms(&norm, &ReverseCheck::new());
        let scale = values([2.0, -1.0, 0.5, -3.0]);
        let norm = BatchNormReverse::from_affine("scale", shape, scale.to_vec(), values([0.0; 4]).to_vec()).unwrap();
        conforms(&norm, &ReverseCheck::new());
    }
}

#[test]
fn batch_norms_conform_in_both_scalars() {
    batch_norms_conform::<f64>();
    batch_norms_conform::<f32>();
}

fn softmax_conforms<T: Real>() {
    let floor = 4.0 * SoftmaxReverse::<T>::DEFAULT_FLOOR / T::EPSILON.to_f64();
    for shape in [FeatureShape::vector(5), FeatureShape::image(3, 2, 2), FeatureShape::vector(2)] {
        let softmax = SoftmaxReverse::<T>::new("softmax", shape);
        let check = ReverseCheck::new().tolerance(floor.max(512.0) * shape.channels as f64).nearest_for_points_only();
        conforms(&softmax, &check);
        conforms(&softmax, &check.clone().ranges(&[(-0.25, 0.5), (f64::NEG_INFINITY, 1.0)]));
    }
}

#[test]
fn softmax_conforms_in_both_scalars() {
    softmax_conforms::<f64>();
    softmax_conforms::<f32>();
}
