//! Targets where every channel has a range of its own.

use faer::{Mat, Par};
use fbp_linalg::conv2d::Conv2dParams;
use fbp_linalg::testkit::{for_seeds, normal_mat};
use fbp_linalg::{FeatureShape, Real};

use super::tests::run;
use super::*;
use crate::{
    Activation, ActivationReverse, BatchNormReverse, BatchNormStatistics, ChannelRanges, Conv2dReverse, FlattenReverse,
    Interval, InverseError, LinearReverse, ReverseOperator,
};

const BATCH: usize = 16;
const CLASSES: usize = 4;
const PLANE: usize = 36;

/// A convolution, a ReLU and a normalisation behind it; then a linear layer. Activations take vectors, as they may.
fn stages<T: Real>(rng: &mut rand_chacha::ChaCha8Rng) -> Vec<ChainStage<T>> {
    let input = FeatureShape::image(2, 6, 6);
    let geometry = Conv2dParams::new(input, 3, [3, 3]).padding([1, 1]).check().unwrap();
    let kernel = normal_mat::<T>(18, 3, rng);
    let kernel: Vec<T> = (0..54).map(|i| kernel[(i % 18, i / 18)] * T::from_f64(0.3)).collect();
    let conv = Conv2dReverse::new("conv", geometry, &kernel, &[T::from_f64(0.1); 3]).unwrap();
    let relu = ActivationReverse::new("relu", Activation::Relu, FeatureShape::vector(3 * PLANE)).unwrap();
    let numbers = |values: [f64; 3]| values.map(T::from_f64);
    let statistics = BatchNormStatistics {
        weight: &numbers([2.0, -1.5, 0.0]),
        bias: &numbers([0.5, -0.25, 1.0]),
        mean: &numbers([0.0; 3]),
        variance: &numbers([1.0; 3]),
        epsilon: 0.0,
    };
    let norm = BatchNormReverse::new("norm", FeatureShape::image(3, 6, 6), statistics).unwrap();
    let flatten = FlattenReverse::new("flatten", FeatureShape::image(3, 6, 6));
    let weight = normal_mat::<T>(CLASSES, 3 * PLANE, rng);
    let weight = Mat::from_fn(CLASSES, 3 * PLANE, |i, j| weight[(i, j)] * T::from_f64(0.1));
    let linear = LinearReverse::new("linear", weight.as_ref(), &[T::ZERO; CLASSES]).unwrap();
    let body: Vec<Box<dyn ReverseOperator<T>>> = vec![Box::new(conv), Box::new(relu), Box::new(norm)];
    vec![
        ChainStage { name: "body".into(), operators: body },
        ChainStage { name: "out".into(), operators: vec![Box::new(flatten), Box::new(linear)] },
    ]
}

fn targets_keep_the_ranges<T: Real>() {
    let (mut at_ends, mut open) = (0, 0);
    for_seeds(3, |rng| {
        let one = |lower: f64, upper: f64| Interval::new(T::from_f64(lower), T::from_f64(upper));
        let colours = [one(-1.0, 0.5), one(0.0, 2.0)];
        let chain = ReverseChain::new(stages::<T>(rng), colours.to_vec()).unwrap();
        let input = normal_mat::<T>(2 * PLANE, BATCH, rng);
        let input = Mat::from_fn(2 * PLANE, BATCH, |i, j| colours[i / PLANE].clip(input[(i, j)]));
        let labels: Vec<usize> = (0..BATCH).map(|sample| sample % CLASSES).collect();
        let run = run(&chain, &input, &labels, TargetMode::Attainable, Par::Seq);
        open += BATCH - run.report.satisfied;
        let below = [colours[0], colours[1]];
        let above = [one(0.5, f64::INFINITY), one(f64::NEG_INFINITY, -0.25), one(1.0, 1.0)];
        for (boundary, ranges) in [&below[..], &above[..]].into_iter().enumerate() {
            assert_eq!(run.report.boundaries[boundary].unattained, 0, "boundary {boundary}");
            let (targets, observed) = (&run.targets[boundary], &run.observed[boundary]);
            for (sample, entry) in (0..BATCH).flat_map(|sample| (0..targets.nrows()).map(move |entry| (sample, entry)))
            {
                let (v, range) = (targets[(entry, sample)], ranges[entry / PLANE]);
                assert!(range.contains(v), "boundary {boundary}, entry {entry}, sample {sample}: {v:?}, {range:?}");
                let moved = v != observed[(entry, sample)];
                at_ends += usize::from(moved && (v == range.lower || v == range.upper));
            }
        }
    });
    assert!(open > 10 && at_ends > 100, "{open} samples, {at_ends} entries: the ranges have to matter");
}

#[test]
fn targets_keep_the_range_of_every_channel_in_single_precision() {
    targets_keep_the_ranges::<f32>();
}

#[test]
fn targets_keep_the_range_of_every_channel_in_double_precision() {
    targets_keep_the_ranges::<f64>();
}

#[test]
fn ranges_of_other_channels_or_without_a_number_are_refused() {
    let rng = &mut fbp_linalg::testkit::rng(3);
    let unit = Interval::new(0.0, 1.0);
    let three = ReverseChain::new(stages::<f64>(rng), vec![unit, unit, Interval::new(0.0, 2.0)]);
    assert!(matches!(three.err(), Some(InverseError::Shape { expected: (2, 1), found: (3, 1), .. })));
    let empty = ReverseChain::new(stages::<f64>(rng), vec![unit, Interval::new(1.0, 0.0)]);
    assert!(matches!(empty.err(), Some(InverseError::Solve { .. })));
}

#[test]
fn ranges_follow_a_feature_read_in_another_shape() {
    let (grey, wide) = (Interval::new(0.0, 1.0), Interval::new(-1.0, 3.0));
    let colours = ChannelRanges::from(vec![grey, wide]);
    assert_eq!(colours.hull(), wide);
    let image = FeatureShape::image(2, 1, 3);
    let flat = colours.clone().reshaped(image, FeatureShape::vector(6));
    assert_eq!((flat.channels(), flat.of(2), flat.of(3)), (Some(6), grey, wide));
    assert_eq!(flat.reshaped(FeatureShape::vector(6), image), colours);
    let rows = colours.reshaped(image, FeatureShape::image(3, 1, 2));
    assert_eq!([rows.of(0), rows.of(1), rows.of(2)], [grey, wide, wide], "what two channels share has both");
    assert_eq!(ChannelRanges::from(vec![grey; 3]), grey.into(), "the same for all is one");
}
