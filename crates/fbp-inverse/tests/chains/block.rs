//! A residual block as a layer of a chain.

use faer::dyn_stack::MemStack;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use fbp_inverse::joint::{FrozenRest, JointGoal, Nearest, Tape, TapeMemory, TapeMut, nearest};
use fbp_inverse::{
    Activation, ActivationReverse, ChainStage, DifferentiableOperator, Interval, InverseError, JvpPass, LinearReverse,
    Margins, ReverseChain, ReverseOperator, ReversePass, ReverseReport, VjpPass,
};
use fbp_linalg::{FeatureShape, LinalgError};

use crate::dice::Dice;
use crate::residual::{CLASSES, HIDDEN, Residual, WIDTH, Weights, activate, draw_features, slope};
use crate::reversal::MARGIN;

/// The first block of a residual network as a layer of a chain, with derivatives but without an inverse.
struct Block {
    weights: [Mat<f64>; 3],
    lens: [usize; 1],
}

impl ReverseOperator<f64> for Block {
    fn name(&self) -> &str {
        "block"
    }

    fn in_shape(&self) -> FeatureShape {
        FeatureShape::vector(WIDTH)
    }

    fn out_shape(&self) -> FeatureShape {
        FeatureShape::vector(WIDTH)
    }

    fn out_range(&self, _: Interval<f64>) -> Interval<f64> {
        Interval::EVERYTHING
    }

    fn forward(
        &self,
        input: MatRef<'_, f64>,
        output: MatMut<'_, f64>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let mut memory = TapeMemory::new(HIDDEN, input.ncols());
        self.forward_on_tape(input, output, memory.view_mut(&self.lens, input.ncols()), par, stack)
    }

    fn reverse(&self, _: ReversePass<'_, f64>, _: Par, _: &mut MemStack) -> Result<ReverseReport, InverseError> {
        let source = LinalgError::TooLarge { what: "block", rows: WIDTH, cols: WIDTH, limit: 0 };
        Err(InverseError::in_layer("block")(source))
    }

    fn differentiable(&self) -> Option<&dyn DifferentiableOperator<f64>> {
        Some(self)
    }
}

impl DifferentiableOperator<f64> for Block {
    fn jvp(&self, _: JvpPass<'_, f64>, _: Par, _: &mut MemStack) -> Result<(), InverseError> {
        unreachable!("the iteration asks for no tangents")
    }

    fn vjp(&self, _: VjpPass<'_, f64>, _: Par, _: &mut MemStack) -> Result<(), InverseError> {
        unreachable!("a chain hands over the tape")
    }

    fn tape_lens(&self) -> &[usize] {
        &self.lens
    }

    fn forward_on_tape(
        &self,
        input: MatRef<'_, f64>,
        mut output: MatMut<'_, f64>,
        mut tape: TapeMut<'_, f64>,
        par: Par,
        _: &mut MemStack,
    ) -> Result<(), InverseError> {
        let [up, shift, down] = &self.weights;
        let mut hidden = tape.feature_mut(0);
        matmul(hidden.as_mut(), Accum::Replace, up, input, 1.0, par);
        for column in hidden.as_mut().col_iter_mut() {
            column.iter_mut().zip(shift.col(0).iter()).for_each(|(h, c)| *h = activate(0, *h + *c));
        }
        output.copy_from(input);
        matmul(output, Accum::Add, down, hidden.as_ref(), 1.0, par);
        Ok(())
    }

    fn vjp_on_tape(
        &self,
        pass: VjpPass<'_, f64>,
        tape: Tape<'_, f64>,
        par: Par,
        _: &mut MemStack,
    ) -> Result<(), InverseError> {
        let [up, _, down] = &self.weights;
        let (inner, hidden) = (down.transpose() * pass.cotangent_out, tape.feature(0));
        let inner = Mat::from_fn(HIDDEN, inner.ncols(), |i, j| slope(0, hidden[(i, j)]) * inner[(i, j)]);
        let mut product = pass.cotangent_in;
        product.copy_from(pass.cotangent_out);
        matmul(product, Accum::Add, up.transpose(), &inner, 1.0, par);
        Ok(())
    }
}

/// A block between layers finds its tape again, whatever lies around it, and a chain from a boundary on is a rest as any.
#[test]
fn a_block_in_a_chain_keeps_its_tape() {
    for seed in 0..4 {
        let mut dice = Dice::new(12_000 + seed);
        let (weights, samples) = (Weights::draw(&mut dice), 6);
        let rest = Residual::<f64>::new(&weights, 1);
        let block = Block { weights: rest.blocks[0].clone(), lens: [HIDDEN] };
        let relu = ActivationReverse::new("relu", Activation::Relu, FeatureShape::vector(WIDTH)).unwrap();
        let square = dice.normals(WIDTH * WIDTH, (1.0 / WIDTH as f64).sqrt());
        let linear = |values: &[f64], rows: usize| {
            let matrix = Mat::from_fn(rows, WIDTH, |i, j| values[i * WIDTH + j]);
            LinearReverse::<f64>::new("linear", matrix.as_ref(), &vec![0.0; rows]).unwrap()
        };
        let stage = |name: &str, operators| ChainStage { name: name.into(), operators };
        let stages = vec![
            stage("first", vec![Box::new(linear(&square, WIDTH)) as Box<dyn ReverseOperator<f64>>, Box::new(relu)]),
            stage("block", vec![Box::new(block)]),
            stage("head", vec![Box::new(linear(&weights.head, CLASSES))]),
        ];
        let chain = ReverseChain::new(stages, Interval::new(0.0, f64::INFINITY)).unwrap();
        assert_eq!(chain.rest(0).unwrap().tape_lens(), [WIDTH, WIDTH, HIDDEN, WIDTH]);
        assert_eq!(chain.rest(1).unwrap().tape_lens(), [HIDDEN, WIDTH]);
        assert!(chain.rest(3).unwrap().tape_lens().is_empty() && chain.rest(4).is_none());
        let features = draw_features(samples, &mut dice);
        let labels: Vec<usize> = (0..samples).map(|_| dice.below(CLASSES)).collect();
        let goal = JointGoal::Margins(Margins { labels: &labels, margin: MARGIN });
        let observed = Mat::from_fn(WIDTH, samples, |i, j| features[j][i]);
        let by_chain = nearest(&chain.rest(1).unwrap(), observed.as_ref(), goal, Par::Seq).unwrap();
        let by_hand = nearest(&rest, observed.as_ref(), goal, Par::Seq).unwrap();
        assert_eq!(by_hand.report.unattained, 0);
        assert_eq!(by_chain.report.unattained, 0);
        for sample in 0..samples {
            let moved = |found: &Nearest<f64>| (found.targets.col(sample) - observed.col(sample)).norm_l2();
            let (chain, hand) = (moved(&by_chain), moved(&by_hand));
            // Searches among kinks amplify that both round differently.
            assert!((chain - hand).abs() <= 0.02 * hand, "sample {sample}: {chain} {hand}");
        }
        let input = nearest(&chain.rest(0).unwrap(), observed.as_ref(), goal, Par::Seq).unwrap();
        assert_eq!(input.report.unattained, 0, "{:?}", input.report);
    }
}
