use faer::Mat;
use fbp_inverse::{Interval, InverseError, MaxPoolReverse, PoolWindow, ReverseOperator};
use fbp_linalg::testkit::{Tol, for_seeds, uniform_mat};
use fbp_linalg::{FeatureShape, Real, assert_close};

use crate::passes::{forward, reverse};

const RANGES: [(f64, f64); 4] =
    [(f64::NEG_INFINITY, f64::INFINITY), (0.0, f64::INFINITY), (-0.5, 0.5), (f64::NEG_INFINITY, 0.25)];

/// Cost of the best input within the range: every choice of the site that reaches `lo` is tried.
fn cheapest(inputs: &[f64], lo: f64, hi: f64, range: (f64, f64)) -> f64 {
    let (floor, ceiling) = (lo.clamp(range.0, range.1), hi.clamp(range.0, range.1));
    let cost = |witness: usize| -> f64 {
        let at = |k: usize| inputs[k].clamp(if k == witness { floor } else { range.0 }, ceiling);
        inputs.iter().enumerate().map(|(k, x)| (x - at(k)).powi(2)).sum()
    };
    (0..inputs.len()).map(cost).fold(f64::INFINITY, f64::min)
}

fn is_nearest<T: Real>(shape: FeatureShape, window: [usize; 2]) {
    let pool = MaxPoolReverse::<T>::new("pool", shape, PoolWindow::disjoint(window[0], window[1])).unwrap();
    let out = pool.out_shape();
    for_seeds(40, |rng| {
        // Quarters, so that sites tie.
        let quarters = |x: &Mat<T>| {
            Mat::from_fn(x.nrows(), x.ncols(), |i, j| T::from_f64((x[(i, j)].to_f64() * 4.0).round() / 4.0))
        };
        let input = quarters(&uniform_mat::<T>(shape.len(), 3, -1.5, 1.5, rng));
        let lower = quarters(&uniform_mat::<T>(out.len(), 3, -1.5, 1.5, rng));
        let width = quarters(&uniform_mat::<T>(out.len(), 3, 0.0, 1.0, rng));
        let lower = Mat::from_fn(out.len(), 3, |i, j| if j == 2 { T::NEG_INFINITY } else { lower[(i, j)] });
        let upper =
            Mat::from_fn(out.len(), 3, |i, j| if j == 2 { width[(i, j)] } else { lower[(i, j)] + width[(i, j)] });
        for range in RANGES {
            let in_range = Interval::new(T::from_f64(range.0), T::from_f64(range.1));
            let reversed = reverse(&pool, input.as_ref(), (&lower, &upper), in_range).unwrap();
            let output = forward(&pool, reversed.point.as_ref());
            for sample in 0..3 {
                let kept = forward(&pool, input.as_ref());
                let inside =
                    (0..out.len()).all(|i| (lower[(i, sample)]..=upper[(i, sample)]).contains(&kept[(i, sample)]));
                if inside {
                    assert_eq!(reversed.point.col(sample), input.col(sample));
                    continue;
                }
                let mut expected = 0.0;
                for i in 0..out.len() {
                    let (lo, hi) = (lower[(i, sample)], upper[(i, sample)]);
                    let best = output[(i, sample)];
                    // As close to the interval as the range allows.
                    assert_eq!(best.clip(in_range.clip(lo), in_range.clip(hi)), best, "window {i}");
                    let (channel, row, col) = (i / out.plane(), i % out.plane() / out.width, i % out.width);
                    let sites: Vec<f64> = (0..window[0] * window[1])
                        .map(|k| (row * window[0] + k / window[1], col * window[1] + k % window[1]))
                        .map(|(r, c)| input[((channel * shape.height + r) * shape.width + c, sample)].to_f64())
                        .collect();
                    expected += cheapest(&sites, lo.to_f64(), hi.to_f64(), range);
                }
                let in_windows = |k: usize| {
                    let (row, col) = (k % shape.plane() / shape.width, k % shape.width);
                    row < out.height * window[0] && col < out.width * window[1]
                };
                let moved = |k: usize| (reversed.point[(k, sample)] - input[(k, sample)]).to_f64().powi(2);
                let distance: f64 = (0..shape.len()).filter(|&k| in_windows(k)).map(moved).sum();
                assert_close!([distance], [expected], Tol::eps::<T>().times(shape.len()).scale(1.0));
                for k in (0..shape.len()).filter(|&k| !in_windows(k)) {
                    assert_eq!(reversed.point[(k, sample)], in_range.clip(input[(k, sample)]));
                    assert_eq!(reversed.lower[(k, sample)], in_range.lower);
                    assert_eq!(reversed.upper[(k, sample)], in_range.upper);
                }
            }
        }
    });
}

#[test]
fn reverse_is_the_nearest_of_all_choices_of_witnesses() {
    is_nearest::<f64>(FeatureShape::image(2, 4, 4), [2, 2]);
    is_nearest::<f32>(FeatureShape::image(1, 5, 7), [2, 2]);
    is_nearest::<f32>(FeatureShape::image(2, 4, 6), [3, 2]);
    is_nearest::<f64>(FeatureShape::image(1, 4, 4), [4, 4]);
    is_nearest::<f64>(FeatureShape::image(1, 3, 4), [1, 3]);
}

#[test]
fn first_site_is_the_witness_on_ties() {
    for window in [PoolWindow::disjoint(2, 2), PoolWindow::global(FeatureShape::image(1, 2, 2))] {
        let pool = MaxPoolReverse::<f64>::new("pool", FeatureShape::image(1, 2, 2), window).unwrap();
        let input = Mat::from_fn(4, 1, |i, _| [0.0, 1.0, 1.0, 1.0][i]);
        let two = Mat::full(1, 1, 2.0);
        let reversed = reverse(&pool, input.as_ref(), (&two, &two), Interval::EVERYTHING).unwrap();
        assert_eq!(reversed.point.col_as_slice(0), [0.0, 2.0, 1.0, 1.0]);
        assert_eq!(reversed.lower.col_as_slice(0), [f64::NEG_INFINITY, 2.0, f64::NEG_INFINITY, f64::NEG_INFINITY]);
        assert_eq!(reversed.upper.col_as_slice(0), [2.0; 4]);
        assert_eq!((reversed.report.unattained, reversed.report.violation_max), (0, 0.0));
    }
}

#[test]
fn out_of_range_targets_are_reported() {
    let pool = MaxPoolReverse::<f64>::new("pool", FeatureShape::image(1, 2, 2), PoolWindow::disjoint(2, 2)).unwrap();
    let input = Mat::from_fn(4, 1, |i, _| [0.0, 0.75, 0.5, 1.0][i]);
    let (two, minus) = (Mat::full(1, 1, 2.0), Mat::full(1, 1, -1.0));
    let unit = Interval::new(0.0, 1.0);
    let above = reverse(&pool, input.as_ref(), (&two, &two), unit).unwrap();
    assert_eq!((above.report.unattained, above.report.violation_max), (1, 1.0));
    assert_eq!(above.point.col_as_slice(0), [0.0, 0.75, 0.5, 1.0]);
    let below = reverse(&pool, input.as_ref(), (&minus, &minus), unit).unwrap();
    assert_eq!((below.report.unattained, below.report.violation_max), (1, 1.0));
    assert_eq!(below.point.col_as_slice(0), [0.0; 4]);
}

#[test]
fn faulty_geometry_is_named() {
    let shape = FeatureShape::image(1, 8, 8);
    let refused = |window: PoolWindow| MaxPoolReverse::<f32>::new("stem", shape, window).unwrap_err();
    let too_large = refused(PoolWindow::square(11, 2, 1));
    assert!(matches!(too_large, InverseError::Layer { .. }));
    assert!(too_large.to_string().contains("window 11×11, stride 2×2, padding 1×1 on input [1, 8, 8]"), "{too_large}");
    let all_padding = refused(PoolWindow::square(3, 2, 3));
    assert!(all_padding.to_string().contains("must be smaller than the window"), "{all_padding}");
    for window in [PoolWindow::disjoint(9, 1), PoolWindow::disjoint(0, 1), PoolWindow::square(2, 0, 0)] {
        refused(window);
    }
    let empty = FeatureShape::image(0, 8, 8);
    assert!(MaxPoolReverse::<f32>::new("pool", empty, PoolWindow::square(2, 1, 0)).is_err());
    let one_window = PoolWindow { kernel: [5, 8], stride: [4, 1], padding: [0, 0], ceil_mode: false };
    assert_eq!(
        MaxPoolReverse::<f32>::new("pool", shape, one_window).unwrap().out_shape(),
        FeatureShape::image(1, 1, 1)
    );
}
