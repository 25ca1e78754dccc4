use std::sync::atomic::{AtomicUsize, Ordering};

use faer::dyn_stack::MemStack;
use faer::linalg::solvers::DenseSolveCore;
use faer::{Mat, MatMut, MatRef, Par};
use fbp_linalg::conv2d::Conv2dParams;
use fbp_linalg::testkit::{for_seeds, normal_mat};
use fbp_linalg::{FeatureShape, LinalgError, Real};

use super::*;
use crate::{
    Activation, ActivationReverse, AvgPoolReverse, BatchNormReverse, BatchNormStatistics, Conv2dReverse, Effort,
    EmbeddingPass, FeatureMetric, FlattenReverse, Interval, InverseError, LinearReverse, Margins, MaxPoolReverse,
    OutputEmbedding, PoolWindow, ReverseOperator, TargetBox,
};

const BATCH: usize = 24;

/// The part of a small convolutional classifier above its first stage, with random weights.
fn small_rest<T: Real>(rng: &mut rand_chacha::ChaCha8Rng) -> ReverseChain<T> {
    let input = FeatureShape::image(3, 8, 8);
    let geometry = Conv2dParams::new(input, 3, [3, 3]).check().unwrap();
    let scaled = |rows: usize, cols: usize, rng: &mut _| {
        let weight = normal_mat::<T>(rows, cols, rng);
        Mat::from_fn(rows, cols, |i, j| weight[(i, j)] / T::from_f64((cols as f64).sqrt()))
    };
    let kernel = scaled(3, 27, rng);
    let kernel: Vec<T> = (0..81).map(|i| kernel[(i / 27, i % 27)]).collect();
    let conv = Conv2dReverse::new("conv", geometry, &kernel, &[T::from_f64(0.1); 3]).unwrap();
    let pool = MaxPoolReverse::new("pool", geometry.out_shape(), PoolWindow::disjoint(2, 2)).unwrap();
    let pooled = FeatureShape::image(3, 3, 3);
    let relu = ActivationReverse::new("relu", Activation::Relu, pooled).unwrap();
    let flatten = FlattenReverse::new("flatten", pooled);
    let linear = LinearReverse::new("linear", scaled(5, 27, rng).as_ref(), &[T::ZERO; 5]).unwrap();
    let body = ChainStage {
        name: "conv".into(),
        operators: vec![Box::new(conv) as Box<dyn ReverseOperator<T>>, Box::new(pool), Box::new(relu)],
    };
    let head = ChainStage { name: "out".into(), operators: vec![Box::new(flatten), Box::new(linear)] };
    ReverseChain::new(vec![body, head], Interval::new(T::ZERO, T::INFINITY)).unwrap()
}

pub(super) struct Run<T> {
    pub(super) targets: Vec<Mat<T>>,
    pub(super) observed: Vec<Mat<T>>,
    pub(super) report: ChainReport,
    pushed: Vec<Vec<Vec<T>>>,
}

pub(super) fn run<T: Real>(
    chain: &ReverseChain<T>,
    input: &Mat<T>,
    labels: &[usize],
    mode: TargetMode,
    par: Par,
) -> Run<T> {
    let batch = input.ncols();
    let mut work = chain.workspace(batch, par);
    let logits = chain.forward(input.as_ref(), &mut work).unwrap().to_owned();
    let mut goal = Mat::zeros(logits.nrows(), batch);
    let mut satisfied = vec![false; batch];
    let pass = EmbeddingPass { logits: logits.as_ref(), labels, target: goal.as_mut(), satisfied: &mut satisfied };
    OutputEmbedding::Margin(1.0).embed(pass, par).unwrap();
    let margins = Some(Margins { labels, margin: 1.0 });
    let goal = ChainGoal { target_out: TargetBox::point(goal.as_ref()), margins };
    let report = chain.reverse(goal, mode, &mut work).unwrap();
    let boundaries = 0..chain.boundaries();
    Run {
        targets: boundaries.clone().map(|b| chain.target(b, &work).to_owned()).collect(),
        observed: boundaries.clone().map(|b| chain.observed(b, &work).to_owned()).collect(),
        pushed: boundaries.map(|b| (0..batch).map(|s| chain.pushed(b, s, &work).to_vec()).collect()).collect(),
        report,
    }
}

fn problem<T: Real>(rng: &mut rand_chacha::ChaCha8Rng) -> (ReverseChain<T>, Mat<T>, Vec<usize>) {
    let chain = small_rest::<T>(rng);
    let input = normal_mat::<T>(192, BATCH, rng);
    let input = Mat::from_fn(192, BATCH, |i, j| input[(i, j)].max(T::ZERO));
    (chain, input, (0..BATCH).map(|sample| sample % 5).collect())
}

fn targets_are_right<T: Real>(mode: TargetMode) {
    for_seeds(4, |rng| {
        let (chain, input, labels) = problem::<T>(rng);
        let run = run(&chain, &input, &labels, mode, Par::Seq);
        assert!(run.report.satisfied < BATCH, "the problem must leave something to do");
        for (boundary, report) in run.report.boundaries.iter().enumerate() {
            assert_eq!(report.unattained, 0, "boundary {boundary}: {report:?}");
            for (sample, (output, &label)) in run.pushed[boundary].iter().zip(&labels).enumerate() {
                let rival = (0..5).filter(|&c| c != label).map(|c| output[c].to_f64()).fold(f64::MIN, f64::max);
                let lead = output[label].to_f64() - rival;
                let scale = output[label].to_f64().abs() + rival.abs();
                let slack = fbp_linalg::attained::attained_slack::<T>(2, scale);
                assert!(lead >= 1.0 - slack, "boundary {boundary}, sample {sample}: {output:?}");
            }
        }
        let lowest = |mat: &Mat<T>| mat.col_iter().flat_map(|c| c.iter()).fold(T::ZERO, |low, &v| low.min(v));
        assert!(lowest(&run.targets[0]) >= T::ZERO && lowest(&run.targets[1]) >= T::ZERO, "targets leave the range");
    });
}

#[test]
fn attainable_targets_are_right_in_single_precision() {
    targets_are_right::<f32>(TargetMode::Attainable);
}

#[test]
fn attainable_targets_are_right_in_double_precision() {
    targets_are_right::<f64>(TargetMode::Attainable);
}

#[test]
fn layer_wise_targets_are_right_in_single_precision() {
    targets_are_right::<f32>(TargetMode::LayerWise);
}

#[test]
fn layer_wise_targets_are_right_in_double_precision() {
    targets_are_right::<f64>(TargetMode::LayerWise);
}

#[test]
fn a_large_layer_below_a_normalisation_is_left_to_the_joint_search() {
    const WIDE: usize = 300;
    let rng = &mut fbp_linalg::testkit::rng(5);
    let scaled = |rows: usize, cols: usize, rng: &mut _| {
        let weight = normal_mat::<f64>(rows, cols, rng);
        Mat::from_fn(rows, cols, |i, j| weight[(i, j)] / (cols as f64).sqrt())
    };
    let statistics = BatchNormStatistics {
        weight: &[1.5; WIDE],
        bias: &[0.1; WIDE],
        mean: &[0.2; WIDE],
        variance: &[0.8; WIDE],
        epsilon: 1e-5,
    };
    let shape = FeatureShape::vector(WIDE);
    let operators: Vec<Box<dyn ReverseOperator<f64>>> = vec![
        Box::new(LinearReverse::new("large", scaled(WIDE, WIDE, rng).as_ref(), &[0.0; WIDE]).unwrap()),
        Box::new(BatchNormReverse::new("norm", shape, statistics).unwrap()),
        Box::new(ActivationReverse::new("relu", Activation::Relu, shape).unwrap()),
    ];
    let head: Vec<Box<dyn ReverseOperator<f64>>> =
        vec![Box::new(LinearReverse::new("head", scaled(5, WIDE, rng).as_ref(), &[0.0; 5]).unwrap())];
    let stages =
        [("body", operators), ("out", head)].map(|(name, operators)| ChainStage { name: name.into(), operators });
    let chain = ReverseChain::new(stages.into(), Interval::new(0.0, 1.0)).unwrap();
    let input = normal_mat::<f64>(WIDE, BATCH, rng);
    let input = Mat::from_fn(WIDE, BATCH, |i, j| input[(i, j)].abs().min(1.0));
    let labels: Vec<usize> = (0..BATCH).map(|sample| sample % 5).collect();
    let layers = run(&chain, &input, &labels, TargetMode::LayerWise, Par::Seq);
    let open = BATCH - layers.report.satisfied;
    assert!(open > 0 && layers.report.refused == open, "{:?}", layers.report);
    assert!(layers.report.boundaries.iter().all(|boundary| boundary.unattained == 0), "{:?}", layers.report);
    // Below the normalisation the targets are those of the joint search, above it those of the layers.
    let joint = run(&chain, &input, &labels, TargetMode::Attainable, Par::Seq);
    assert_eq!(layers.targets[0], joint.targets[0]);
    assert_eq!(layers.report.boundaries[0].missed, open);
}

#[test]
fn joint_targets_are_no_further_than_layer_wise_ones() {
    for_seeds(4, |rng| {
        let (chain, input, labels) = problem::<f64>(rng);
        let distance = |mode| run(&chain, &input, &labels, mode, Par::Seq).report.boundaries[0].distance_relative();
        let (joint, layers) = (distance(TargetMode::Attainable), distance(TargetMode::LayerWise));
        assert!(joint > 0.0 && joint <= layers, "joint {joint}, layer by layer {layers}");
    });
}

/// Between two affine layers without a kink the joint problem is convex, so its answer can be compared with an oracle.
#[test]
fn on_a_linear_rest_the_joint_target_is_the_nearest_point() {
    let mut compared = 0;
    for_seeds(16, |rng| {
        let weight = normal_mat::<f64>(4, 6, rng);
        let head = LinearReverse::new("head", weight.as_ref(), &[0.1, -0.2, 0.0, 0.3]).unwrap();
        let stage =
            ChainStage { name: "head".into(), operators: vec![Box::new(head) as Box<dyn ReverseOperator<f64>>] };
        let chain = ReverseChain::new(vec![stage], Interval::new(0.0, f64::INFINITY)).unwrap();
        let input = normal_mat::<f64>(6, 1, rng);
        let input = Mat::from_fn(6, 1, |i, j| input[(i, j)].max(0.0));
        let run = run(&chain, &input, &[2], TargetMode::Attainable, Par::Seq);
        if run.report.boundaries[0].unattained > 0 || run.report.satisfied > 0 {
            return;
        }
        let rivals = [0, 1, 3];
        let problem = fbp_linalg::qp_oracle::BoxQp {
            a: Mat::from_fn(3, 6, |i, j| weight[(2, j)] - weight[(rivals[i], j)]),
            b: [0.1, -0.2, 0.3].iter().map(|bias| 0.0 - bias).collect(),
            v0: input.col_as_slice(0).to_vec(),
            lower_out: vec![1.0; 3],
            upper_out: vec![f64::INFINITY; 3],
            lower_in: vec![0.0; 6],
            upper_in: vec![f64::INFINITY; 6],
        };
        let target = run.targets[0].col_as_slice(0);
        let residual = fbp_linalg::qp_oracle::qp_kkt_residual(&problem, target);
        assert!(residual.max() <= 1e-8, "{residual:?}");
        compared += 1;
    });
    assert!(compared >= 6, "only {compared} of 16 problems had something to do");
}

#[test]
fn a_point_at_the_output_is_reached() {
    for_seeds(4, |rng| {
        let (chain, input, _) = problem::<f64>(rng);
        let mut work = chain.workspace(BATCH, Par::Seq);
        let output = chain.forward(input.as_ref(), &mut work).unwrap().to_owned();
        let wanted = Mat::from_fn(5, BATCH, |i, j| output[(i, j)] + if i == j % 5 { 0.5 } else { -0.1 });
        let goal = ChainGoal { target_out: TargetBox::point(wanted.as_ref()), margins: None };
        let report = chain.reverse(goal, TargetMode::Attainable, &mut work).unwrap();
        for report in &report.boundaries {
            assert_eq!(report.unattained, 0, "{report:?}");
        }
    });
}

/// A layer that hides the derivatives of another one, and may have no solver for its reverse.
struct WithoutDerivatives {
    inner: ActivationReverse<f64>,
    refuses: bool,
}

impl ReverseOperator<f64> for WithoutDerivatives {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn in_shape(&self) -> FeatureShape {
        self.inner.in_shape()
    }

    fn out_shape(&self) -> FeatureShape {
        self.inner.out_shape()
    }

    fn out_range(&self, in_range: Interval<f64>) -> Interval<f64> {
        self.inner.out_range(in_range)
    }

    fn forward(
        &self,
        input: MatRef<'_, f64>,
        output: MatMut<'_, f64>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.inner.forward(input, output, par, stack)
    }

    fn reverse(
        &self,
        pass: crate::ReversePass<'_, f64>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<crate::ReverseReport, InverseError> {
        if self.refuses {
            let source = LinalgError::TooLarge { what: "test", rows: 12, cols: 12, limit: 0 };
            return Err(InverseError::in_layer(self.name())(source));
        }
        self.inner.reverse(pass, par, stack)
    }
}

/// ReLU without derivatives, and a head.
fn hidden_rest(refuses: bool, rng: &mut rand_chacha::ChaCha8Rng) -> ReverseChain<f64> {
    let inner = ActivationReverse::new("relu", Activation::Relu, FeatureShape::vector(12)).unwrap();
    let head = LinearReverse::new("head", normal_mat::<f64>(5, 12, rng).as_ref(), &[0.0; 5]).unwrap();
    let operators: Vec<Box<dyn ReverseOperator<f64>>> =
        vec![Box::new(WithoutDerivatives { inner, refuses }), Box::new(head)];
    ReverseChain::new(vec![ChainStage { name: "all".into(), operators }], Interval::EVERYTHING).unwrap()
}

#[test]
fn a_layer_without_a_solver_leaves_its_samples_unattained() {
    for_seeds(2, |rng| {
        let chain = hidden_rest(true, rng);
        let input = normal_mat::<f64>(12, BATCH, rng);
        let labels: Vec<usize> = (0..BATCH).map(|sample| sample % 5).collect();
        for mode in [TargetMode::Attainable, TargetMode::LayerWise] {
            let run = run(&chain, &input, &labels, mode, Par::Seq);
            let [below, output] = run.report.boundaries[..] else { panic!("two boundaries") };
            assert!(run.report.refused > 0 && below.missed == run.report.refused, "{:?}", run.report);
            assert_eq!((below.unattained, below.corrected), (below.missed, 0));
            assert_eq!(output.unattained, 0);
            assert_eq!(run.targets[0], run.observed[0]);
        }
    });
    let chain = hidden_rest(true, &mut fbp_linalg::testkit::rng(0));
    let mut work = chain.workspace(1, Par::Seq);
    chain.forward(Mat::full(12, 1, 1.0).as_ref(), &mut work).unwrap();
    let (target, labels) = (Mat::full(5, 1, 9.0), [1]);
    let margins = Some(Margins { labels: &labels, margin: 1.0 });
    let goal = ChainGoal { target_out: TargetBox::point(target.as_ref()), margins };
    assert!(matches!(chain.reverse(goal, TargetMode::Point, &mut work), Err(InverseError::Solve { .. })));
}

#[test]
fn without_derivatives_the_layers_are_reversed_one_by_one() {
    for_seeds(2, |rng| {
        let chain = hidden_rest(false, rng);
        let input = normal_mat::<f64>(12, BATCH, rng);
        let labels: Vec<usize> = (0..BATCH).map(|sample| sample % 5).collect();
        let run = run(&chain, &input, &labels, TargetMode::Attainable, Par::Seq);
        let report = run.report.boundaries[0];
        assert!(report.missed > 0 && report.corrected == report.missed && report.unattained == 0, "{report:?}");
    });
}

#[test]
fn satisfied_samples_keep_their_features() {
    for_seeds(4, |rng| {
        let (chain, input, _) = problem::<f32>(rng);
        let mut work = chain.workspace(BATCH, Par::Seq);
        let logits = chain.forward(input.as_ref(), &mut work).unwrap().to_owned();
        let goal = ChainGoal { target_out: TargetBox::point(logits.as_ref()), margins: None };
        let report = chain.reverse(goal, TargetMode::Attainable, &mut work).unwrap();
        assert_eq!(report.satisfied, BATCH);
        for boundary in 0..chain.boundaries() {
            assert_eq!(chain.target(boundary, &work), chain.observed(boundary, &work));
            assert_eq!(report.boundaries[boundary].distance_sq, 0.0);
        }
    });
}

/// Products of another batch size round differently, and searches among many kinks amplify that; what they find is as good.
#[test]
fn a_batch_gives_what_its_samples_give() {
    for_seeds(2, |rng| {
        let (chain, input, labels) = problem::<f64>(rng);
        let whole = run(&chain, &input, &labels, TargetMode::Attainable, Par::rayon(2));
        let mut the_same = 0;
        for sample in 0..BATCH {
            let alone = input.subcols(sample, 1).to_owned();
            let alone = run(&chain, &alone, &labels[sample..=sample], TargetMode::Attainable, Par::Seq);
            for boundary in 0..chain.boundaries() {
                assert_eq!(alone.report.boundaries[boundary].unattained, 0, "boundary {boundary}, sample {sample}");
                let observed = whole.observed[boundary].col(sample);
                let moved = |target: faer::ColRef<'_, f64>| (target - observed).norm_l2();
                let (alone, whole) = (alone.targets[boundary].col(0), whole.targets[boundary].col(sample));
                let gap = (alone - whole).norm_max();
                the_same += usize::from(gap <= 1e4 * f64::EPSILON * alone.norm_max());
                let (one, all) = (moved(alone), moved(whole));
                assert!((one - all).abs() <= 0.02 * all, "boundary {boundary}, sample {sample}: {one} {all}");
            }
        }
        let compared = BATCH * chain.boundaries();
        assert!(2 * the_same > compared, "only {the_same} of {compared} are the same");
    });
}

#[test]
fn point_targets_leave_the_range_and_are_not_corrected() {
    for_seeds(2, |rng| {
        let (chain, input, labels) = problem::<f64>(rng);
        let run = run(&chain, &input, &labels, TargetMode::Point, Par::Seq);
        assert!(run.report.boundaries.iter().all(|boundary| boundary.corrected == 0));
        assert!(run.targets[1].col_iter().flat_map(|c| c.iter()).any(|&v| v < 0.0));
        let moved = &run.targets[1] - &run.observed[1];
        let relative = moved.norm_l2() / run.observed[1].norm_l2();
        assert!((relative - run.report.boundaries[1].distance_relative()).abs() < 1e-12);
    });
}

#[test]
fn bad_goals_are_refused() {
    let mut rng = fbp_linalg::testkit::rng(0);
    let (chain, input, _) = problem::<f32>(&mut rng);
    let mut work = chain.workspace(BATCH, Par::Seq);
    let too_many = Mat::zeros(192, BATCH + 1);
    assert!(matches!(chain.forward(too_many.as_ref(), &mut work), Err(InverseError::Shape { .. })));
    let mut goal = chain.forward(input.as_ref(), &mut work).unwrap().to_owned();
    let labels = vec![5; BATCH];
    let margins = Some(Margins { labels: &labels, margin: 1.0 });
    let wrong = ChainGoal { target_out: TargetBox::point(goal.as_ref()), margins };
    let error = chain.reverse(wrong, TargetMode::Attainable, &mut work);
    assert!(matches!(error, Err(InverseError::Label { sample: 0, label: 5, classes: 5 })));
    goal[(2, 3)] = f32::NAN;
    let nan = ChainGoal { target_out: TargetBox::point(goal.as_ref()), margins: None };
    assert!(matches!(chain.reverse(nan, TargetMode::Attainable, &mut work), Err(InverseError::Solve { .. })));
}

#[test]
fn stages_that_do_not_fit_are_refused() {
    let layer = |rows, cols| {
        Box::new(LinearReverse::<f64>::new("fc", Mat::zeros(rows, cols).as_ref(), &vec![0.0; rows]).unwrap())
    };
    let stage =
        |name: &str, layer| ChainStage { name: name.into(), operators: vec![layer as Box<dyn ReverseOperator<f64>>] };
    let stages = vec![stage("a", layer(3, 4)), stage("b", layer(2, 5))];
    assert!(matches!(ReverseChain::new(stages, Interval::EVERYTHING), Err(InverseError::Chain { .. })));
    assert!(matches!(ReverseChain::<f64>::new(vec![], Interval::EVERYTHING), Err(InverseError::Layer { .. })));
}

/// A covariance with strong correlations.
fn correlated(n: usize, rng: &mut rand_chacha::ChaCha8Rng) -> Mat<f64> {
    let factor = normal_mat::<f64>(n, n / 4, rng);
    &factor * factor.transpose()
}

#[test]
fn targets_in_a_metric_are_right_and_nearer_in_it_than_the_euclidean_ones() {
    for_seeds(4, |rng| {
        let (mut chain, input, labels) = problem::<f32>(rng);
        let euclidean = run(&chain, &input, &labels, TargetMode::Attainable, Par::Seq);
        let metrics = [correlated(192, rng), correlated(27, rng)];
        for (boundary, covariance) in metrics.iter().enumerate() {
            chain.set_metric(boundary, FeatureMetric::mahalanobis(covariance.as_ref(), 0.01).unwrap()).unwrap();
        }
        let found = run(&chain, &input, &labels, TargetMode::Attainable, Par::Seq);
        for (boundary, covariance) in metrics.iter().enumerate() {
            let report = found.report.boundaries[boundary];
            assert_eq!(report.unattained, 0, "boundary {boundary}: {report:?}");
            let target = &found.targets[boundary];
            assert!(target.col_iter().flat_map(|c| c.iter()).all(|&v| v >= 0.0), "targets leave the range");
            let metric = FeatureMetric::<f64>::mahalanobis(covariance.as_ref(), 0.01).unwrap();
            let length = |of: &Run<f32>, sample: usize| {
                let step = |i: usize| f64::from(of.targets[boundary][(i, sample)] - of.observed[boundary][(i, sample)]);
                let step = Mat::from_fn(target.nrows(), 1, |i, _| step(i));
                (step.transpose() * metric.precision() * &step)[(0, 0)].sqrt()
            };
            // The Euclidean nearest point is as a rule not the nearest in a metric of strong correlations, but refined where
            // there are many kinks, and targets in a metric are not. Where nothing nearer is found, the Euclidean target
            // stays; both may differ for samples that go layer by layer.
            let share = |sample: &usize| length(&found, *sample) / length(&euclidean, *sample);
            let nearer = (0..BATCH).filter(|sample| share(sample) < 0.99).count();
            assert!(8 * nearer >= BATCH, "boundary {boundary}: only {nearer} are nearer");
            let farther = (0..BATCH).filter(|sample| share(sample) > 1.001).count();
            assert!(10 * farther <= BATCH, "boundary {boundary}: {farther} are farther");
        }
    });
}

#[test]
fn the_metric_of_the_identity_is_the_euclidean_one() {
    for_seeds(3, |rng| {
        let (mut chain, input, labels) = problem::<f64>(rng);
        let euclidean = run(&chain, &input, &labels, TargetMode::Attainable, Par::Seq);
        let identity = FeatureMetric::mahalanobis(Mat::<f64>::identity(192, 192).as_ref(), 0.0).unwrap();
        chain.set_metric(0, identity).unwrap();
        let found = run(&chain, &input, &labels, TargetMode::Attainable, Par::Seq);
        for sample in 0..BATCH {
            for i in 0..192 {
                let [a, b] = [&found, &euclidean].map(|run| run.targets[0][(i, sample)]);
                assert!((a - b).abs() <= 1e-6, "entry {i} of sample {sample}: {a} {b}");
            }
        }
    });
}

#[test]
fn metrics_of_the_wrong_size_or_without_an_inverse_are_errors() {
    let mut chain = small_rest::<f32>(&mut fbp_linalg::testkit::rng(0));
    let metric = |n: usize| FeatureMetric::<f32>::mahalanobis(Mat::<f64>::identity(n, n).as_ref(), 0.01);
    assert!(matches!(chain.set_metric(0, metric(27).unwrap()), Err(InverseError::Shape { .. })));
    assert!(matches!(chain.set_metric(9, metric(27).unwrap()), Err(InverseError::Shape { .. })));
    let of = |covariance: Mat<f64>, ridge| FeatureMetric::<f32>::mahalanobis(covariance.as_ref(), ridge);
    assert!(matches!(of(Mat::zeros(3, 3), 0.01), Err(LinalgError::Decomposition { .. })));
    assert!(matches!(of(Mat::zeros(3, 2), 0.01), Err(LinalgError::Shape { .. })));
    assert!(matches!(of(Mat::full(3, 3, f64::NAN), 0.01), Err(LinalgError::NonFinite { .. })));
    assert!(matches!(of(Mat::identity(3, 3), f64::NAN), Err(LinalgError::Parameter { .. })));
}

/// Logits that are averages of a ReLU over four pixels, of which every one is 0.
fn dead_rest(rng: &mut rand_chacha::ChaCha8Rng) -> (ReverseChain<f64>, Mat<f64>) {
    let input = FeatureShape::image(6, 2, 2);
    let kernel = normal_mat::<f64>(5, 6, rng);
    let geometry = Conv2dParams::new(input, 5, [1, 1]).check().unwrap();
    let weights: Vec<f64> = (0..30).map(|i| kernel[(i / 6, i % 6)]).collect();
    let conv = Conv2dReverse::new("conv", geometry, &weights, &[-10.0; 5]).unwrap();
    let relu = ActivationReverse::new("relu", Activation::Relu, geometry.out_shape()).unwrap();
    let pool = AvgPoolReverse::global("pool", geometry.out_shape()).unwrap();
    let operators: Vec<Box<dyn ReverseOperator<f64>>> = vec![Box::new(conv), Box::new(relu), Box::new(pool)];
    let stages = vec![ChainStage { name: "head".into(), operators }];
    (ReverseChain::new(stages, Interval::EVERYTHING).unwrap(), kernel)
}

#[test]
fn labels_whose_logit_is_a_dead_relu_have_targets() {
    for_seeds(4, |rng| {
        let (chain, kernel) = dead_rest(rng);
        let input = normal_mat::<f64>(24, BATCH, rng);
        let labels: Vec<usize> = (0..BATCH).map(|sample| sample % 5).collect();
        let run = run(&chain, &input, &labels, TargetMode::Attainable, Par::Seq);
        let report = &run.report.boundaries[0];
        assert_eq!((run.report.satisfied, report.missed, report.unattained), (0, 0, 0), "{report:?}");
        let inverse = (&kernel * kernel.transpose()).partial_piv_lu().inverse();
        for (sample, &label) in labels.iter().enumerate() {
            let row = kernel.row(label);
            // The cheapest single pixel that alone gives the lead while it leaves the other classes as they are.
            let value = |pixel: usize| (0..6).map(|c| row[c] * input[(4 * c + pixel, sample)]).sum::<f64>() - 10.0;
            let cost = |pixel: usize| (4.0 - value(pixel)) * inverse[(label, label)].sqrt();
            let cheapest = (0..4).map(cost).fold(f64::INFINITY, f64::min);
            let (target, observed) = (run.targets[0].col(sample), run.observed[0].col(sample));
            let distance = target.iter().zip(observed.iter()).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
            // The rest is not convex; to lift all four pixels instead of one costs up to twice as much.
            assert!(distance <= 2.0 * cheapest, "sample {sample}: {distance}, {cheapest}");
        }
    });
}

#[test]
fn a_search_ends_within_a_pass_when_it_is_asked_to() {
    let mut rng = fbp_linalg::testkit::rng(5);
    let (chain, input, labels) = problem::<f64>(&mut rng);
    for mode in [TargetMode::Attainable, TargetMode::LayerWise] {
        let whole = run(&chain, &input, &labels, mode, Par::Seq);
        let mut work = chain.workspace(BATCH, Par::Seq);
        let logits = chain.forward(input.as_ref(), &mut work).unwrap().to_owned();
        let mut wanted = Mat::zeros(logits.nrows(), BATCH);
        let mut satisfied = vec![false; BATCH];
        let (logits, target) = (logits.as_ref(), wanted.as_mut());
        let pass = EmbeddingPass { logits, labels: &labels, target, satisfied: &mut satisfied };
        OutputEmbedding::Margin(1.0).embed(pass, Par::Seq).unwrap();
        let margins = Some(Margins { labels: &labels, margin: 1.0 });
        let goal = ChainGoal { target_out: TargetBox::point(wanted.as_ref()), margins };
        let asked = AtomicUsize::new(0);
        // Never asked to end, it gives what it gives without the question, and asks often.
        let never = || asked.fetch_add(1, Ordering::Relaxed) == usize::MAX;
        let report = chain.reverse_unless(goal, mode, &mut work, &never).unwrap();
        assert_eq!(report, whole.report);
        (0..chain.boundaries()).for_each(|b| assert_eq!(chain.target(b, &work).to_owned(), whole.targets[b]));
        let passes = asked.swap(0, Ordering::Relaxed);
        assert!(passes > 2 * chain.boundaries(), "{passes}");
        // Asked to end half way, it does nothing after that question.
        let then = || asked.fetch_add(1, Ordering::Relaxed) + 1 >= passes / 2;
        assert_eq!(chain.reverse_unless(goal, mode, &mut work, &then).err(), Some(InverseError::Stopped));
        assert_eq!(asked.load(Ordering::Relaxed), passes / 2);
    }
}

/// Passes that a search for targets with a lead of 4 takes, and what it tells of the first boundary.
fn passes_and_report(
    chain: &mut ReverseChain<f64>,
    (input, labels): (&Mat<f64>, &[usize]),
    effort: Effort,
) -> (usize, BoundaryReport) {
    chain.set_effort(effort);
    let mut work = chain.workspace(BATCH, Par::Seq);
    chain.forward(input.as_ref(), &mut work).unwrap();
    let margins = Some(Margins { labels, margin: 4.0 });
    let target = Mat::from_fn(chain.out_len(), BATCH, |i, j| if i == labels[j] { 9.0 } else { 0.0 });
    let goal = ChainGoal { target_out: TargetBox::point(target.as_ref()), margins };
    let asked = AtomicUsize::new(0);
    let count = || asked.fetch_add(1, Ordering::Relaxed) == usize::MAX;
    let report = chain.reverse_unless(goal, TargetMode::Attainable, &mut work, &count).unwrap();
    (asked.into_inner(), report.boundaries[0])
}

/// Refining is all that is done for targets that lie many norms away, and other starts are tried where they are near.
#[test]
fn targets_out_of_all_proportion_are_not_searched_for_from_other_starts() {
    let mut rng = fbp_linalg::testkit::rng(11);
    let (mut chain, input, labels) = problem::<f64>(&mut rng);
    // Of features that are nearly zero whatever turns the rest right is far away, and of large ones it is not.
    let [far, near] = [1e-3, 4.0].map(|scale| &input * faer::Scale(scale));
    let mut passes = |input: &Mat<f64>, effort: Effort| {
        let (passes, report) = passes_and_report(&mut chain, (input, &labels), effort);
        (passes, (report.distance_sq / report.observed_sq).sqrt())
    };
    let (refined, distance) = passes(&far, Effort::Refined);
    assert!(distance > 4.0, "{distance}");
    assert_eq!(passes(&far, Effort::Thorough), (refined, distance));
    let (refined, distance) = passes(&near, Effort::Refined);
    assert!(distance < 1.0, "{distance}");
    assert!(passes(&near, Effort::Thorough).0 > 2 * refined);
}

/// Outputs of a tanh never differ by 4, and most climbs get as near as the first. All 128 of them would take over seven times as long as
/// the 16 of a quick search.
#[test]
fn samples_that_no_climb_brings_nearer_are_given_up() {
    let mut rng = fbp_linalg::testkit::rng(12);
    let weight = normal_mat::<f64>(3, 6, &mut rng);
    let linear = LinearReverse::new("linear", weight.as_ref(), &[0.0; 3]).unwrap();
    let tanh = ActivationReverse::new("tanh", Activation::Tanh, FeatureShape::vector(3)).unwrap();
    let stage = ChainStage { name: "head".into(), operators: vec![Box::new(linear), Box::new(tanh)] };
    let mut chain = ReverseChain::new(vec![stage], Interval::EVERYTHING).unwrap();
    let input = normal_mat::<f64>(6, BATCH, &mut rng);
    let labels: Vec<usize> = (0..BATCH).map(|sample| sample % 3).collect();
    let [(quick, of_quick), (thorough, of_thorough)] =
        [Effort::Quick, Effort::Thorough].map(|effort| passes_and_report(&mut chain, (&input, &labels), effort));
    assert_eq!((of_quick.unattained, of_thorough.unattained), (BATCH, BATCH));
    assert!(quick < thorough && thorough < 6 * quick, "{quick}, {thorough}");
}
