//! What should every feature of a small network have been, for another class to win?
use faer::{Mat, Par};
use fbp_inverse::{
    Activation, ActivationReverse, ChainStage, Interval, InverseError, LinearReverse, ReverseChain, TargetMode,
};
use fbp_linalg::FeatureShape;

fn main() -> Result<(), InverseError> {
    let weight =
        |rows: usize, cols: usize| Mat::from_fn(rows, cols, |i, j| ((7 * i + 3 * j + i * j) % 13) as f64 / 6.0 - 1.0);
    let hidden = LinearReverse::new("hidden", weight(8, 6).as_ref(), &[0.1; 8])?;
    let relu = ActivationReverse::new("relu", Activation::Relu, FeatureShape::vector(8))?;
    let out = LinearReverse::new("out", weight(3, 8).as_ref(), &[0.0; 3])?;
    let stages = vec![
        ChainStage { name: "hidden".into(), operators: vec![Box::new(hidden), Box::new(relu)] },
        ChainStage { name: "out".into(), operators: vec![Box::new(out)] },
    ];
    // Inputs are pixels in [0, 1].
    let chain = ReverseChain::<f64>::new(stages, Interval::new(0.0, 1.0))?;
    let images = Mat::from_fn(6, 4, |i, j| ((i + 2 * j) % 4) as f64 / 4.0);
    let made = chain.targets(images.as_ref(), &[0, 1, 2, 0], 0.5, TargetMode::Attainable, Par::Seq)?;
    // At the input, behind the hidden layer and at the output: the rest of the network gives the label.
    assert_eq!(made.targets.len(), 3);
    assert!(made.report.boundaries.iter().all(|boundary| boundary.unattained == 0), "{:?}", made.report);
    Ok(())
}
