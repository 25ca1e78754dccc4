//! Softmax with probabilities of very different size.

use faer::Mat;
use fbp_inverse::{Interval, SoftmaxReverse};
use fbp_linalg::testkit::{for_seeds, normal_mat, uniform_vec};
use fbp_linalg::{FeatureShape, Real};

use crate::passes::{forward, reverse};

/// Probabilities that exist, each rounded on its own: they sum to 1 but for that, which is much to the small ones.
fn small_probabilities<T: Real>() {
    for_seeds(200, |rng| {
        let n = 2 + uniform_vec::<f64>(1, 0.0, 9.0, rng)[0] as usize;
        let layer = SoftmaxReverse::<T>::new("softmax", FeatureShape::vector(n));
        let place = |m: Mat<f64>| Mat::from_fn(n, 1, |i, _| T::from_f64(3.0 * m[(i, 0)]));
        let (input, witness) = (place(normal_mat(n, 1, rng)), place(normal_mat(n, 1, rng)));
        let weights: Vec<f64> = (0..n).map(|i| witness[(i, 0)].to_f64().exp()).collect();
        let total: f64 = weights.iter().sum();
        // Below the floor nothing can be asked for.
        if weights.iter().any(|w| w / total < 4.0 * SoftmaxReverse::<T>::DEFAULT_FLOOR) {
            return;
        }
        let target = Mat::from_fn(n, 1, |i, _| T::from_f64(weights[i] / total));
        let found = reverse(&layer, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
        assert_eq!(found.report.unattained, 0, "{target:?}");
        let reached = forward(&layer, found.point.as_ref());
        for i in 0..n {
            let (p, wanted) = (reached[(i, 0)].to_f64(), target[(i, 0)].to_f64());
            let scale = p * (1.0 + found.point[(i, 0)].to_f64().abs());
            assert!((p - wanted).abs() <= 24.0 * T::EPSILON.to_f64() * scale, "{p:e} for {wanted:e}");
        }
    });
}

#[test]
fn small_probabilities_are_attained() {
    small_probabilities::<f32>();
    small_probabilities::<f64>();
}
