//! What should the input of a convolution have been?
use fbp_inverse::{Conv2dReverse, Interval, InverseError, ReverseOperator, reverse_one};
use fbp_linalg::FeatureShape;
use fbp_linalg::conv2d::Conv2dParams;

fn main() -> Result<(), InverseError> {
    let geometry = Conv2dParams::new(FeatureShape::image(1, 4, 4), 2, [3, 3]).padding([1, 1]).check();
    let geometry = geometry.map_err(InverseError::in_layer("conv"))?;
    let weight: Vec<f64> = (0..18).map(|i| f64::from((5 * i) % 7) - 3.0).collect();
    let layer = Conv2dReverse::new("conv", geometry, &weight, &[0.1, -0.2])?;

    // The outputs of some other image are what this one should have given.
    let other: Vec<f64> = (0..16).map(|i| f64::from((3 * i) % 4) / 4.0).collect();
    let wanted = fbp_inverse::forward_one(&layer, &other)?;
    let observed = vec![0.5; layer.in_shape().len()];
    let answer = reverse_one(&layer, &observed, &wanted, Interval::new(0.0, 1.0))?;
    assert_eq!(answer.report.unattained, 0);
    let found = answer.point.col_as_slice(0);
    assert!(found.iter().zip(&other).all(|(found, other)| (found - other).abs() < 1e-9), "{found:?}");
    Ok(())
}
