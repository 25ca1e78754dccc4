//! Linear layers: the conformance kit, dependent equations, and sizes beyond a dense plan for boxes.

use faer::Mat;
use fbp_inverse::testkit::{ReverseCheck, check_derivatives, check_reverse_operator};
use fbp_inverse::{Interval, LinearReverse};
use fbp_linalg::testkit::{Tol, for_seeds, normal_mat, normal_vec, rng, uniform_mat};
use fbp_linalg::{BOXED_LIMIT, Real, assert_close};

use crate::avg_pool::lstsq;
use crate::passes::{forward, reverse};

fn conform<T: Real>(tolerance: f64) {
    for_seeds(2, |rng| {
        for (rows, cols) in [(1, 1), (3, 7), (7, 3), (5, 5)] {
            let mut weight = normal_mat::<T>(rows, cols, rng);
            if rows == 5 {
                (0..cols).for_each(|j| weight[(1, j)] = weight[(0, j)]);
            }
            let layer = LinearReverse::new("linear", weight.as_ref(), &normal_vec::<T>(rows, rng)).unwrap();
            let check = ReverseCheck::new().tolerance(tolerance);
            check_reverse_operator(&layer, &check).unwrap_or_else(|error| panic!("{} {error}", T::NAME));
            check_derivatives(&layer, &check).unwrap_or_else(|error| panic!("{} {error}", T::NAME));
        }
    });
}

#[test]
fn linear_layers_conform_in_both_scalars() {
    // Boxes that hardly any point reaches leave 1e-10 of the outputs.
    conform::<f64>(262_144.0);
    conform::<f32>(4096.0);
}

#[test]
fn dependent_equations_give_the_nearest_of_the_best() {
    let mut rng = rng(4);
    let (n, rank) = (300, 150);
    let (left, right) = (normal_mat::<f64>(n, rank, &mut rng), normal_mat::<f64>(rank, n, &mut rng));
    let product = &left * &right;
    let weight = Mat::from_fn(n, n, |i, j| (product[(i, j)] / n as f64) as f32);
    let layer = LinearReverse::new("linear", weight.as_ref(), &vec![0.0; n]).unwrap();
    let (input, witness) = (normal_mat::<f32>(n, 3, &mut rng), normal_mat::<f32>(n, 3, &mut rng));
    let target = forward(&layer, witness.as_ref());
    let found = reverse(&layer, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
    assert_eq!((found.report.unattained, found.report.rank), (0, rank), "{:?}", found.report);
    // Rounding of the weights leaves singular values of about 1e-8, which count as zero in the layer and here.
    let gap = &target - forward(&layer, input.as_ref());
    let wide = |x: &Mat<f32>| Mat::from_fn(x.nrows(), x.ncols(), |i, j| f64::from(x[(i, j)]));
    let step = lstsq(product.as_ref(), (wide(&gap) * faer::Scale(n as f64)).as_ref());
    let expected = wide(&input) + step;
    assert_close!(wide(&found.point), expected, Tol::eps::<f32>().times(4096));
}

#[test]
fn boxes_beyond_the_dense_limit_are_answered_by_products() {
    let mut rng = rng(5);
    let (rows, cols) = (6, BOXED_LIMIT + 4);
    let weight = normal_mat::<f32>(rows, cols, &mut rng);
    let layer = LinearReverse::new("linear", weight.as_ref(), &[0.5; 6]).unwrap();
    let relu = |x: Mat<f32>| Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)].max(0.0));
    let (input, witness) = (relu(normal_mat(cols, 2, &mut rng)), relu(normal_mat(cols, 2, &mut rng)));
    let attained = forward(&layer, witness.as_ref());
    let width = uniform_mat::<f32>(rows, 2, 0.0, 1.0, &mut rng);
    let lower = &attained - &width;
    let found = reverse(&layer, input.as_ref(), (&lower, &attained), Interval::new(0.0, f32::INFINITY)).unwrap();
    assert_eq!((found.report.unattained, found.report.stopped_early), (0, false), "{:?}", found.report);
    assert!(found.report.kkt_max <= 1e-4, "{:?}", found.report);
    assert!(found.point.col_iter().flat_map(|c| c.iter()).all(|v| *v >= 0.0));
}

/// Rows of very different size: the answer is that of the rows made even, and no row is lost beside another.
fn uneven_rows<T: Real>() {
    let value = T::from_f64;
    let weight = Mat::from_fn(2, 4, |i, j| value([[1.0, -2.0, 3.0, 1.0], [1e6, 2e6, -1e6, 2e6]][i][j]));
    let layer = LinearReverse::new("linear", weight.as_ref(), &[T::ZERO; 2]).unwrap();
    let input = Mat::from_fn(4, 1, |i, _| value([1.0, 0.0, 2.0, 0.0][i]));
    let target = Mat::from_fn(2, 1, |i, _| value([1.0, 1e6][i]));
    let found = reverse(&layer, input.as_ref(), (&target, &target), Interval::new(T::ZERO, T::INFINITY)).unwrap();
    assert_eq!((found.report.unattained, found.report.stopped_early), (0, false), "{:?}", found.report);
    let expected = Mat::from_fn(4, 1, |i, _| [1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 0.0][i]);
    assert_close!(found.point, expected, Tol::eps::<T>().times(64));
}

#[test]
fn rows_of_very_different_size_are_all_met() {
    uneven_rows::<f32>();
    uneven_rows::<f64>();
}

/// The same beyond the dense plan, and with rows that a factor of a million lies between.
#[test]
fn uneven_rows_beyond_the_dense_limit_are_all_met() {
    let mut rng = rng(6);
    let (rows, cols) = (6, BOXED_LIMIT + 4);
    let normal = normal_mat::<f32>(rows, cols, &mut rng);
    let weight = Mat::from_fn(rows, cols, |i, j| normal[(i, j)] * 2.0_f32.powi(4 * i as i32 - 10));
    let layer = LinearReverse::new("linear", weight.as_ref(), &[0.0; 6]).unwrap();
    let relu = |x: Mat<f32>| Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)].max(0.0));
    let (input, witness) = (relu(normal_mat(cols, 2, &mut rng)), relu(normal_mat(cols, 2, &mut rng)));
    let target = forward(&layer, witness.as_ref());
    let found = reverse(&layer, input.as_ref(), (&target, &target), Interval::new(0.0, f32::INFINITY)).unwrap();
    assert_eq!(found.report.unattained, 0, "{:?}", found.report);
    // Every row by its own scale, in f64.
    for sample in 0..2 {
        for i in 0..rows {
            let terms = |j: usize| f64::from(weight[(i, j)]) * f64::from(found.point[(j, sample)]);
            let (sum, size) = (0..cols).map(terms).fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
            let gap = (sum - f64::from(target[(i, sample)])).abs();
            // The bias is known from the observed output.
            let allowed = 17.0 * f64::from(f32::EPSILON) * (cols as f64).sqrt() * size;
            assert!(gap <= allowed, "row {i}: {gap:e} of {allowed:e}");
        }
    }
}
