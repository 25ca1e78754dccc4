//! The nearest point within a box of outputs and bounds: the solver under every layer with a range.
use faer::mat;
use fbp_linalg::nearest_in_box;

fn main() -> Result<(), fbp_linalg::LinalgError> {
    // Two sensors see mixtures of four sources, the second a million times as strong.
    let mixture = mat![[1.0, -2.0, 3.0, 1.0], [1e6, 2e6, -1e6, 2e6]];
    let assumed = [1.0, 0.0, 2.0, 0.0];
    let measured = [1.0, 1e6];
    // The sources nearest to the assumed ones that explain what was measured; none is negative.
    let (sources, report) = nearest_in_box(mixture.as_ref(), &assumed, (&measured, &measured), (0.0, f64::INFINITY))?;
    assert_eq!(report.unattained, 0);
    for (found, exact) in sources.iter().zip([1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 0.0]) {
        assert!((found - exact).abs() < 1e-12, "{sources:?}");
    }
    Ok(())
}
