//! Convolutions beyond the limit of dense plans.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_inverse::{Conv2dReverse, Range, ReverseOperator, ReversePass, TargetBox, TargetBoxMut};
use fbp_linalg::FeatureShape;
use fbp_linalg::conv2d::Conv2dParams;
use fbp_linalg::testkit::{normal_mat, normal_vec, rng};

#[test]
fn point_targets_are_attained_and_ranges_refused() {
    let mut rng = rng(1);
    let geometry = Conv2dParams::new(FeatureShape::image(3, 40, 40), 2, [3, 3]).padding([1, 1]).check().unwrap();
    let weight = normal_vec::<f64>(geometry.weight_len(), &mut rng);
    let layer = Conv2dReverse::new("large", geometry, &weight, &[0.3, -0.2]).unwrap();
    let (rows, cols) = (geometry.out_len(), geometry.in_len());
    let forward = |input: &Mat<f64>| {
        let mut output = Mat::zeros(rows, 2);
        let mut memory = MemBuffer::new(layer.forward_scratch(2, Par::Seq));
        layer.forward(input.as_ref(), output.as_mut(), Par::Seq, MemStack::new(&mut memory)).unwrap();
        output
    };
    let start = normal_mat::<f64>(cols, 2, &mut rng);
    let observed = forward(&start);
    let target = normal_mat::<f64>(rows, 2, &mut rng);
    let (mut point, mut lower, mut upper) = (Mat::zeros(cols, 2), Mat::zeros(cols, 2), Mat::zeros(cols, 2));
    let mut reverse = |in_range| {
        let pass = ReversePass {
            observed_in: start.as_ref(),
            observed_out: observed.as_ref(),
            target_out: TargetBox { point: target.as_ref(), lower: target.as_ref(), upper: target.as_ref() },
            in_range,
            target_in: TargetBoxMut { point: point.as_mut(), lower: lower.as_mut(), upper: upper.as_mut() },
        };
        let mut memory = MemBuffer::new(layer.reverse_scratch(2, Par::Seq));
        layer.reverse(pass, Par::Seq, MemStack::new(&mut memory))
    };
    let error = reverse(Range { lower: 0.0, upper: f64::INFINITY }).unwrap_err().to_string();
    assert!(error.contains("large"), "{error}");
    let report = reverse(Range::EVERYTHING).unwrap();
    assert_eq!((report.unattained, report.samples), (0, 2));
    let missed = (forward(&point) - &target).norm_l2() / target.norm_l2();
    assert!(missed <= 1e-9, "residual {missed:e}");
    assert!(point == lower && point == upper);
}
