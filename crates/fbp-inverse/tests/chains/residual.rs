//! The joint iteration on a residual network, which is no chain of layers.

use std::cell::RefCell;

use faer::dyn_stack::MemStack;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use fbp_inverse::joint::{FrozenRest, JointGoal, JointWorkspace, RestForward, RestVjp, nearest};
use fbp_inverse::{Interval, InverseError, Margins};
use fbp_linalg::Real;
use fbp_linalg::attained::attained_slack;

use crate::dice::Dice;
use crate::network::dot;
use crate::oracle::{Plain, Problem};
use crate::reversal::MARGIN;
use crate::{note, quantile};

pub(crate) const WIDTH: usize = 20;
pub(crate) const HIDDEN: usize = 32;
pub(crate) const CLASSES: usize = 6;
const BLOCKS: usize = 2;

pub(crate) fn activate<T: Real>(block: usize, v: T) -> T {
    if block.is_multiple_of(2) { v.max(T::ZERO) } else { T::from_f64(v.to_f64().tanh()) }
}

/// The slope of the activation where it gives `h`.
pub(crate) fn slope<T: Real>(block: usize, h: T) -> T {
    if block.is_multiple_of(2) { if h > T::ZERO { T::ONE } else { T::ZERO } } else { T::ONE - h * h }
}

/// `x + B φ(A x + c)` twice (with ReLU, then with tanh), and a linear head; entries are those of the rows.
#[derive(Clone)]
pub(crate) struct Weights {
    blocks: Vec<[Vec<f64>; 3]>,
    pub(crate) head: Vec<f64>,
}

impl Weights {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let block = |dice: &mut Dice| {
            let up = dice.normals(HIDDEN * WIDTH, (1.0 / WIDTH as f64).sqrt());
            let down = dice.normals(WIDTH * HIDDEN, 0.7 * (2.0 / HIDDEN as f64).sqrt());
            [up, dice.normals(HIDDEN, 0.2), down]
        };
        let blocks = (0..BLOCKS).map(|_| block(dice)).collect();
        Self { blocks, head: dice.normals(CLASSES * WIDTH, (1.0 / WIDTH as f64).sqrt()) }
    }
}

fn times(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks(x.len()).map(|row| dot(row, x)).collect()
}

fn transposed_times(matrix: &[f64], y: &[f64]) -> Vec<f64> {
    let cols = matrix.len() / y.len();
    (0..cols).map(|j| y.iter().enumerate().map(|(i, y)| matrix[i * cols + j] * y).sum()).collect()
}

fn add(a: &mut [f64], b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
}

impl Plain for Weights {
    fn trace(&self, v: &[f64]) -> Vec<Vec<f64>> {
        let (mut x, mut trace) = (v.to_vec(), Vec::new());
        for (k, [up, shift, down]) in self.blocks.iter().enumerate() {
            let mut hidden = times(up, &x);
            add(&mut hidden, shift);
            hidden.iter_mut().for_each(|h| *h = activate(k, *h));
            add(&mut x, &times(down, &hidden));
            trace.push(hidden);
        }
        trace.push(times(&self.head, &x));
        trace
    }

    fn pull(&self, trace: &[Vec<f64>], weights: Vec<f64>) -> Vec<f64> {
        let mut g = transposed_times(&self.head, &weights);
        for (k, [up, _, down]) in self.blocks.iter().enumerate().rev() {
            let mut inner = transposed_times(down, &g);
            inner.iter_mut().zip(&trace[k]).for_each(|(g, h)| *g *= slope(k, *h));
            add(&mut g, &transposed_times(up, &inner));
        }
        g
    }
}

/// What the iteration has asked for.
#[derive(Default)]
struct Log<T> {
    /// The points of every forward pass.
    forwards: Vec<Mat<T>>,
    /// Number of cotangents of every call for products.
    products: Vec<usize>,
}

/// The network as the library sees it.
pub(crate) struct Residual<T> {
    pub(crate) blocks: Vec<[Mat<T>; 3]>,
    head: Mat<T>,
    lens: Vec<usize>,
    log: RefCell<Log<T>>,
}

impl<T: Real> Residual<T> {
    /// `blocks` of the network, and its head.
    pub(crate) fn new(weights: &Weights, blocks: usize) -> Self {
        let mat = |values: &[f64], cols: usize| {
            Mat::from_fn(values.len() / cols, cols, |i, j| T::from_f64(values[i * cols + j]))
        };
        let block = |[up, shift, down]: &[Vec<f64>; 3]| [mat(up, WIDTH), mat(shift, 1), mat(down, HIDDEN)];
        Self {
            blocks: weights.blocks[..blocks].iter().map(block).collect(),
            head: mat(&weights.head, WIDTH),
            lens: vec![HIDDEN; blocks],
            log: RefCell::new(Log { forwards: Vec::new(), products: Vec::new() }),
        }
    }
}

impl<T: Real> FrozenRest<T> for Residual<T> {
    fn in_len(&self) -> usize {
        WIDTH
    }

    fn out_len(&self) -> usize {
        CLASSES
    }

    fn interval(&self) -> Interval<T> {
        Interval::new(T::ZERO, T::INFINITY)
    }

    fn tape_lens(&self) -> &[usize] {
        &self.lens
    }

    fn forward(&self, mut pass: RestForward<'_, T>, par: Par, _: &mut MemStack) -> Result<(), InverseError> {
        self.log.borrow_mut().forwards.push(pass.at.to_owned());
        let mut x = pass.at.to_owned();
        for (k, [up, shift, down]) in self.blocks.iter().enumerate() {
            let mut hidden = pass.tape.feature_mut(k);
            matmul(hidden.as_mut(), Accum::Replace, up, &x, T::ONE, par);
            for column in hidden.as_mut().col_iter_mut() {
                column.iter_mut().zip(shift.col(0).iter()).for_each(|(h, c)| *h = activate(k, *h + *c));
            }
            matmul(x.as_mut(), Accum::Add, down, hidden.as_ref(), T::ONE, par);
        }
        matmul(pass.output, Accum::Replace, &self.head, &x, T::ONE, par);
        Ok(())
    }

    fn vjp(&self, mut pass: RestVjp<'_, T>, par: Par, _: &mut MemStack) -> Result<(), InverseError> {
        let mut log = self.log.borrow_mut();
        log.products.push(pass.count());
        let forwarded = &log.forwards[log.forwards.len() - 1];
        let is_forwarded = |point: faer::ColRef<'_, T>| forwarded.col_iter().any(|at| at == point);
        assert!(pass.at.col_iter().all(is_forwarded), "the tape is that of other points");
        for index in 0..pass.count() {
            let tape = pass.tape;
            let (given, mut product) = pass.cotangent(index);
            let mut g = self.head.transpose() * given;
            for (k, [up, _, down]) in self.blocks.iter().enumerate().rev() {
                let (inner, hidden) = (down.transpose() * &g, tape.feature(k));
                let inner = Mat::from_fn(HIDDEN, g.ncols(), |i, j| slope(k, hidden[(i, j)]) * inner[(i, j)]);
                matmul(g.as_mut(), Accum::Add, up.transpose(), &inner, T::ONE, par);
            }
            product.copy_from(&g);
        }
        Ok(())
    }
}

pub(crate) fn draw_features(count: usize, dice: &mut Dice) -> Vec<Vec<f64>> {
    (0..count).map(|_| dice.normals(WIDTH, 1.0).into_iter().map(|v| v.max(0.0)).collect()).collect()
}

/// Targets of residual networks against the oracle.
fn residual_targets_are_near<T: Real>() {
    let samples = 8;
    let (mut ratios, mut given_up) = (Vec::new(), 0);
    for seed in 0..6 {
        let mut dice = Dice::new(7000 + seed);
        let weights = Weights::draw(&mut dice);
        let rest = Residual::<T>::new(&weights, BLOCKS);
        let features = draw_features(samples, &mut dice);
        let labels: Vec<usize> = (0..samples).map(|_| dice.below(CLASSES)).collect();
        let observed = Mat::from_fn(WIDTH, samples, |i, j| T::from_f64(features[j][i]));
        let goal = JointGoal::Margins(Margins { labels: &labels, margin: MARGIN });
        let found = nearest(&rest, observed.as_ref(), goal, Par::Seq).unwrap();
        for (sample, observed) in features.into_iter().enumerate() {
            let label = labels[sample];
            let rest = Box::new(weights.clone());
            let problem = Problem { rest, observed, label, margin: MARGIN, range: (0.0, f64::INFINITY) };
            let target: Vec<f64> = found.targets.col(sample).iter().map(|v| v.to_f64()).collect();
            if problem.excess(&problem.observed) >= 0.0 {
                assert!(found.attained[sample] && problem.distance(&target) <= attained_slack::<T>(WIDTH, 4.0));
                continue;
            }
            let nearest = problem.nearest(6, &mut dice);
            if !found.attained[sample] {
                given_up += usize::from(nearest.is_some());
                continue;
            }
            assert!(target.iter().all(|&v| v >= 0.0), "the target leaves the interval");
            // The plain network adds up in its own order.
            let size = problem.rest.trace(&target)[BLOCKS].iter().fold(1.0_f64, |size, v| size.max(v.abs()));
            let slack = attained_slack::<T>(BLOCKS * (WIDTH + HIDDEN) * WIDTH, size);
            assert!(problem.excess(&target) >= -slack, "short of the margin by {:e}", -problem.excess(&target));
            let nearest = nearest.expect("what the iteration reaches is within reach");
            ratios.push(problem.distance(&target) / nearest);
        }
    }
    let [low, median, high, worst] = [0.0, 0.5, 0.9, 1.0].map(|share| quantile(&mut ratios, share));
    let count = ratios.len();
    note(&format!("residual: {count}, given up {given_up}, {low:.5} {median:.5} {high:.5} worst {worst:.5}"));
    assert!(count >= 20, "only {count} targets were compared");
    assert_eq!(given_up, 0, "samples within reach are called unattained");
    assert!(median < 1.02 && worst < 1.1, "median {median}, worst {worst}");
}

#[test]
fn residual_targets_are_near_in_double_precision() {
    residual_targets_are_near::<f64>();
}

#[test]
fn residual_targets_are_near_in_single_precision() {
    residual_targets_are_near::<f32>();
}

/// On a linear rest the first step ends at the goal, or a rounding away from it on the way through the margin.
#[test]
fn a_linear_rest_runs_once_per_iterate() {
    for seed in 0..20 {
        let mut dice = Dice::new(8000 + seed);
        let rest = Residual::<f64>::new(&Weights::draw(&mut dice), 0);
        let features = draw_features(1, &mut dice);
        let observed = Mat::from_fn(WIDTH, 1, |i, _| features[0][i]);
        let goal = JointGoal::Margins(Margins { labels: &[dice.below(CLASSES)], margin: MARGIN });
        let found = nearest(&rest, observed.as_ref(), goal, Par::Seq).unwrap();
        let log = rest.log.borrow();
        let iterates = &log.forwards;
        let repeated = (1..iterates.len()).filter(|&k| iterates[..k].contains(&iterates[k])).count();
        assert_eq!(repeated, 0, "of {} forward passes", iterates.len());
        if found.report.satisfied == 1 {
            assert_eq!((iterates.len(), log.products.len()), (1, 0));
        } else {
            // All rivals but one are asked about in one call at the observed feature.
            assert_eq!(log.products, [4]);
            assert!((2..=3).contains(&iterates.len()), "{} forward passes", iterates.len());
        }
    }
}

/// Where the rest bends, searches start again from the targets found before; no step runs the rest twice.
#[test]
fn a_bent_rest_runs_once_per_iterate() {
    let (mut forwards, mut repeated, mut products) = (0, 0, 0);
    for seed in 0..10 {
        let mut dice = Dice::new(9000 + seed);
        let rest = Residual::<f64>::new(&Weights::draw(&mut dice), BLOCKS);
        let features = draw_features(1, &mut dice);
        let observed = Mat::from_fn(WIDTH, 1, |i, _| features[0][i]);
        let goal = JointGoal::Margins(Margins { labels: &[dice.below(CLASSES)], margin: MARGIN });
        nearest(&rest, observed.as_ref(), goal, Par::Seq).unwrap();
        let log = rest.log.borrow();
        forwards += log.forwards.len();
        repeated += log.forwards.windows(2).filter(|pair| pair[0] == pair[1]).count();
        products += log.products.len();
        // One call for all products at a point.
        assert!(log.products.len() <= log.forwards.len());
    }
    note(&format!("{forwards} forward passes, {repeated} of them repeated, {products} calls for products"));
    // A sample goes through at most one search by cuts and five descents, each with a refinement.
    assert!(repeated <= 10 * 7, "{repeated} of {forwards} forward passes were repeated");
}

#[test]
fn a_workspace_gives_for_every_batch_what_one_call_gives() {
    let mut dice = Dice::new(10_000);
    let rest = Residual::<f64>::new(&Weights::draw(&mut dice), BLOCKS);
    let mut work = JointWorkspace::new(&rest, 5, Par::Seq);
    for samples in [5, 2, 0, 4] {
        let features = draw_features(samples, &mut dice);
        let labels: Vec<usize> = (0..samples).map(|_| dice.below(CLASSES)).collect();
        let observed = Mat::from_fn(WIDTH, samples, |i, j| features[j][i]);
        let goal = JointGoal::Margins(Margins { labels: &labels, margin: MARGIN });
        let report = work.nearest(observed.as_ref(), goal).unwrap();
        let found = nearest(&rest, observed.as_ref(), goal, Par::Seq).unwrap();
        assert_eq!(report, found.report);
        assert_eq!(work.targets(), found.targets);
        assert_eq!(work.outputs(), found.outputs);
        let moved = (&found.targets - &observed).squared_norm_l2();
        assert!((moved - report.distance_sq).abs() <= 1e3 * f64::EPSILON * moved);
    }
    let (too_many, labels) = (Mat::zeros(WIDTH, 6), [0; 6]);
    let goal = |labels| JointGoal::Margins(Margins { labels, margin: MARGIN });
    assert!(matches!(work.nearest(too_many.as_ref(), goal(&labels)), Err(InverseError::Shape { .. })));
    let one = Mat::full(WIDTH, 1, 1.0);
    assert!(matches!(work.nearest(one.as_ref(), goal(&[CLASSES])), Err(InverseError::Label { .. })));
    assert!(matches!(work.nearest(one.as_ref(), goal(&[])), Err(InverseError::Shape { .. })));
    let nan = Mat::full(WIDTH, 1, f64::NAN);
    assert!(matches!(work.nearest(nan.as_ref(), goal(&[0])), Err(InverseError::Solve { .. })));
}
