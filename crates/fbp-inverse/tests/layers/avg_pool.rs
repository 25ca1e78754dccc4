//! Average pooling with any windows, against dense matrices.

use faer::{Mat, MatRef};
use fbp_inverse::testkit::{ReverseCheck, check_derivatives, check_reverse_operator};
use fbp_inverse::{
    AvgDivisor, AvgPoolReverse, Interval, InverseError, PoolWindow, ReverseOperator, forward_one, reverse_one,
};
use fbp_linalg::testkit::{Tol, for_seeds, normal_mat, uniform_vec};
use fbp_linalg::{FeatureShape, LinalgError, Real, assert_close};

use crate::overlapping::{geometry, windows};
use crate::passes::{forward, reverse};

/// Weights of one output plane, by plain loops: `(sites, weight)`.
fn dense(shape: FeatureShape, window: PoolWindow, divisor: AvgDivisor, out: FeatureShape) -> Mat<f64> {
    let sites = windows(shape.height, shape.width, window, out);
    let mut matrix = Mat::zeros(out.plane(), shape.plane());
    for (j, sites) in sites.iter().enumerate() {
        let padded = |axis: usize, at: usize, size: usize| {
            let start = at * window.stride[axis];
            (start + window.kernel[axis]).min(size + 2 * window.padding[axis]) - start
        };
        let count = match divisor {
            AvgDivisor::Window => {
                (padded(0, j / out.width, shape.height) * padded(1, j % out.width, shape.width)) as f64
            }
            AvgDivisor::Sites => sites.len() as f64,
            AvgDivisor::Fixed(value) => value,
        };
        sites.iter().for_each(|&i| matrix[(j, i)] = 1.0 / count);
    }
    matrix
}

/// `A⁺ b` from the singular values of the whole matrix.
pub(crate) fn lstsq(matrix: MatRef<'_, f64>, rhs: MatRef<'_, f64>) -> Mat<f64> {
    let svd = matrix.thin_svd().unwrap();
    let sigma = svd.S().column_vector();
    let mut along = svd.U().transpose() * rhs;
    for k in 0..along.nrows() {
        let keep = sigma[k] > 1e-9 * sigma[0];
        along.row_mut(k).iter_mut().for_each(|v| *v = if keep { *v / sigma[k] } else { 0.0 });
    }
    svd.V() * along
}

/// Plane by plane, the batch as `plane × (channels · samples)`.
fn planes<T: Real>(x: &Mat<T>, plane: usize) -> Mat<f64> {
    let channels = x.nrows() / plane;
    Mat::from_fn(plane, channels * x.ncols(), |i, j| x[(j % channels * plane + i, j / channels)].to_f64())
}

fn points_agree_with_dense<T: Real>() {
    for_seeds(150, |rng| {
        let draw = uniform_vec::<f64>(10, 0.0, 1.0, rng);
        let (shape, window) = geometry(&draw, draw[8] < 0.5);
        let divisor = [AvgDivisor::Window, AvgDivisor::Sites, AvgDivisor::Fixed(-2.5)][(draw[9] * 3.0) as usize];
        let what = format!("{shape} {window:?} {divisor:?}");
        let pool = AvgPoolReverse::<T>::with_divisor("pool", shape, window, divisor).unwrap();
        let out = pool.out_shape();
        let matrix = dense(shape, window, divisor, out);
        let input = normal_mat::<T>(shape.len(), 3, rng);
        let target = normal_mat::<T>(out.len(), 3, rng);
        let observed = forward(&pool, input.as_ref());
        let wide = planes(&input, shape.plane());
        assert_close!(planes(&observed, out.plane()), &matrix * &wide, Tol::eps::<T>().times(32), "{what}");
        let reversed = reverse(&pool, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
        let gap = planes(&target, out.plane()) - planes(&observed, out.plane());
        let step = lstsq(matrix.as_ref(), gap.as_ref());
        let expected = &wide + &step;
        assert_close!(planes(&reversed.point, shape.plane()), &expected, Tol::eps::<T>().times(1000), "{what}");
        let moved = reversed.report.distance_sq.sqrt();
        assert_close!([moved], [step.norm_l2()], Tol::eps::<T>().times(1000), "{what}");
    });
}

#[test]
fn points_are_the_least_squares_solution_of_least_norm() {
    points_agree_with_dense::<f64>();
    points_agree_with_dense::<f32>();
}

#[test]
fn singular_averages_are_solved_too() {
    // The 3 × 3 average with padding on 17 × 17 has a null space.
    let shape = FeatureShape::image(1, 17, 17);
    let pool = AvgPoolReverse::<f64>::new("pool", shape, PoolWindow::square(3, 1, 1)).unwrap();
    for_seeds(3, |rng| {
        let (input, witness) = (normal_mat::<f64>(shape.len(), 2, rng), normal_mat::<f64>(shape.len(), 2, rng));
        let target = forward(&pool, witness.as_ref());
        let reversed = reverse(&pool, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
        assert_eq!((reversed.report.unattained, reversed.report.rank), (0, 16 * 16));
        assert_close!(forward(&pool, reversed.point.as_ref()), target, Tol::eps::<f64>().times(16));
        let matrix = dense(shape, PoolWindow::square(3, 1, 1), AvgDivisor::Window, shape);
        let gap = &target - forward(&pool, input.as_ref());
        let expected = &input + lstsq(matrix.as_ref(), gap.as_ref());
        assert_close!(reversed.point, expected, Tol::eps::<f64>().times(5000));
    });
}

#[test]
fn adaptive_windows_are_those_of_pytorch() {
    // From 5 to 3 sites: 0..2, 1..4, 3..5.
    let pool = AvgPoolReverse::<f64>::adaptive("pool", FeatureShape::image(1, 1, 5), [1, 3]).unwrap();
    let input = Mat::from_fn(5, 1, |i, _| [1.0, 2.0, 4.0, 8.0, 16.0][i]);
    assert_close!(forward(&pool, input.as_ref()), [1.5, 14.0 / 3.0, 12.0], Tol::eps::<f64>().times(2));
    // A global average, and more windows than sites.
    for (size, count) in [([4, 3], [1, 1]), ([2, 3], [3, 5]), ([6, 4], [3, 2]), ([7, 7], [3, 2])] {
        let shape = FeatureShape::image(2, size[0], size[1]);
        let pool = AvgPoolReverse::<f64>::adaptive("pool", shape, count).unwrap();
        assert_eq!(pool.out_shape(), FeatureShape::image(2, count[0], count[1]));
        let ones = Mat::full(shape.len(), 1, 1.0);
        assert_close!(forward(&pool, ones.as_ref()), vec![1.0; pool.out_shape().len()], Tol::eps::<f64>().times(4));
    }
}

fn conforms<T: Real>() {
    let image = FeatureShape::image;
    let pool = |shape, window, divisor| AvgPoolReverse::<T>::with_divisor("average", shape, window, divisor).unwrap();
    let layers = [
        pool(image(2, 5, 4), PoolWindow::square(3, 2, 1), AvgDivisor::Window),
        pool(image(1, 5, 6), PoolWindow::square(3, 2, 1).ceil(), AvgDivisor::Sites),
        pool(image(1, 4, 5), PoolWindow::square(2, 1, 0), AvgDivisor::Fixed(-3.0)),
        pool(image(1, 5, 5), PoolWindow::square(3, 1, 1), AvgDivisor::Window),
        pool(image(1, 7, 5), PoolWindow::square(2, 3, 0), AvgDivisor::Window),
        pool(image(3, 1, 1), PoolWindow::square(3, 2, 1), AvgDivisor::Window),
        AvgPoolReverse::adaptive("adaptive", image(2, 5, 3), [3, 2]).unwrap(),
        AvgPoolReverse::adaptive("adaptive", image(1, 2, 3), [3, 3]).unwrap(),
    ];
    for layer in &layers {
        let check = ReverseCheck::new().tolerance(2048.0);
        check_reverse_operator(layer, &check)
            .unwrap_or_else(|error| panic!("{} {:?}: {error}", T::NAME, layer.in_shape()));
        check_derivatives(layer, &check).unwrap_or_else(|error| panic!("{} {error}", T::NAME));
    }
}

#[test]
fn any_windows_conform_f64() {
    conforms::<f64>();
}

#[test]
fn any_windows_conform_f32() {
    conforms::<f32>();
}

#[test]
fn faulty_geometry_is_named() {
    let shape = FeatureShape::image(1, 3, 3);
    for window in [PoolWindow::square(6, 1, 1), PoolWindow::square(2, 0, 0), PoolWindow::square(2, 1, 2)] {
        let refused = AvgPoolReverse::<f32>::new("pool", shape, window).unwrap_err();
        assert!(matches!(refused, InverseError::Layer { .. }), "{refused}");
    }
    assert!(AvgPoolReverse::<f32>::adaptive("pool", shape, [0, 2]).is_err());
    assert!(AvgPoolReverse::<f32>::adaptive("pool", FeatureShape::image(0, 3, 3), [1, 2]).is_err());
    for divisor in [0.0, f64::NAN, f64::INFINITY] {
        let refused =
            AvgPoolReverse::<f32>::with_divisor("p", shape, PoolWindow::square(2, 1, 0), AvgDivisor::Fixed(divisor));
        assert!(matches!(refused, Err(InverseError::Parameter { name: "divisor", .. })));
    }
}

#[test]
fn planes_beyond_the_limit_take_points_only() {
    let shape = FeatureShape::image(1, 70, 70);
    let pool = AvgPoolReverse::<f32>::new("pool", shape, PoolWindow::square(3, 2, 1)).unwrap();
    let input = Mat::full(shape.len(), 1, 0.5_f32);
    let target = forward(&pool, Mat::full(shape.len(), 1, 1.0_f32).as_ref());
    let reversed = reverse(&pool, input.as_ref(), (&target, &target), Interval::new(0.0, f32::INFINITY)).unwrap();
    assert_eq!(reversed.report.unattained, 0);
    let wider = Mat::from_fn(target.nrows(), 1, |i, _| target[(i, 0)] + 1.0);
    let refused = reverse(&pool, input.as_ref(), (&target, &wider), Interval::EVERYTHING).err();
    let too_large =
        |error: &InverseError| matches!(error, InverseError::Solve { source: LinalgError::TooLarge { .. }, .. });
    assert!(refused.as_ref().is_some_and(too_large), "{refused:?}");
}

/// Starts far beyond what is wanted: the rounding of one shift is larger than what a window may miss.
fn far_starts_are_attained<T: Real>() {
    for_seeds(60, |rng| {
        let shape = FeatureShape::image(2, 4, 4);
        let kernel = 1 << uniform_vec::<f64>(1, 0.0, 3.0, rng)[0] as usize;
        let layer = AvgPoolReverse::<T>::new("pool", shape, PoolWindow::disjoint(kernel, kernel)).unwrap();
        let (far, near) = (uniform_vec::<f64>(2, 0.0, 6.0, rng), uniform_vec::<f64>(1, -6.0, 0.0, rng)[0]);
        let start = uniform_vec::<T>(shape.len(), 0.0, 10.0_f64.powf(far[0]), rng);
        let known = uniform_vec::<T>(shape.len(), 0.0, 10.0_f64.powf(near), rng);
        let wanted = forward_one(&layer, &known).unwrap();
        for range in [Interval::EVERYTHING, Interval::new(T::ZERO, T::INFINITY)] {
            let answer = reverse_one(&layer, &start, &wanted, range).unwrap();
            assert_eq!(answer.report.unattained, 0, "{kernel}, {range:?}: {:?}", answer.report);
            assert!(answer.point.col_as_slice(0).iter().all(|&x| range.lower <= x && x <= range.upper));
        }
    });
}

#[test]
fn far_starts_are_attained_in_single_precision() {
    far_starts_are_attained::<f32>();
}

#[test]
fn far_starts_are_attained_in_double_precision() {
    far_starts_are_attained::<f64>();
}
