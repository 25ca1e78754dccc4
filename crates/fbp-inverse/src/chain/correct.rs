//! Joint correction of a sample whose layer-wise targets miss the goal: damped Gauss-Newton on the whole frozen rest.

use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::{Mat, MatRef, Par};
use fbp_linalg::{BoxedPass, BoxedPlan, Real};

use super::ReverseChain;
use super::verify::SampleGoal;
use super::workspace::ChainWorkspace;
use crate::{DifferentiableOperator, InverseError, VjpPass};

const STEPS: usize = 20;
const HALVINGS: usize = 6;

/// A feature that the frozen rest turns into the goal, and what it turns it into.
struct Reached<T> {
    point: Vec<T>,
    output: Vec<T>,
}

/// The frozen rest of the network above one boundary, at one sample.
struct Rest<'a, T> {
    operators: Vec<&'a dyn DifferentiableOperator<T>>,
    memory: MemBuffer,
}

impl<T: Real> ReverseChain<T> {
    /// Tries to bring the target of one open sample to the goal; true on success.
    ///
    /// Every step linearises the rest of the network, solves for the smallest change within the range of the
    /// boundary that meets the goal, and is shortened until the violation falls. It starts from the layer-wise
    /// target and, if that leads nowhere, from the observed feature. This path is rare and allocates.
    pub(super) fn correct(
        &self,
        boundary: usize,
        slot: usize,
        goal: SampleGoal<'_, T>,
        work: &mut ChainWorkspace<T>,
    ) -> Result<bool, InverseError> {
        let first = self.starts[boundary];
        let Some(operators) = self.operators[first..].iter().map(|op| op.differentiable()).collect::<Option<Vec<_>>>()
        else {
            return Ok(false);
        };
        if operators.is_empty() {
            return Ok(false);
        }
        let scratch = operators.iter().fold(StackReq::EMPTY, |req, op| {
            let classes = self.out_len();
            req.or(op.forward_scratch(1, Par::Seq)).or(op.derivative_scratch(classes, Par::Seq))
        });
        let mut rest = Rest { operators, memory: MemBuffer::new(scratch) };
        let sample = work.open[slot];
        let rows = work.lens[first];
        let range = self.ranges[first];
        let starts = [work.targets[boundary].column(rows, sample), work.features[first].column(rows, sample)];
        let mut found = None;
        for start in starts {
            let clipped = start.iter().map(|&v| range.clip(v)).collect();
            if let Some(result) = rest.descend(clipped, (range.lower, range.upper), goal)? {
                found = Some(result);
                break;
            }
        }
        let Some(Reached { point, output }) = found else { return Ok(false) };
        work.targets[boundary].column_mut(rows, sample).copy_from_slice(&point);
        work.pushed[boundary].column_mut(output.len(), slot).copy_from_slice(&output);
        Ok(true)
    }
}

impl<T: Real> Rest<'_, T> {
    /// Gauss-Newton from `point`; the point and its output once the goal is reached.
    fn descend(
        &mut self,
        mut point: Vec<T>,
        bounds: (T, T),
        goal: SampleGoal<'_, T>,
    ) -> Result<Option<Reached<T>>, InverseError> {
        let mut features = self.forward(&point)?;
        for _ in 0..STEPS {
            let output = features.last().map(|last| last.col_as_slice(0)).unwrap_or(&[]);
            let violation = goal.violation(output);
            if violation <= goal.tolerance(output) {
                return Ok(Some(Reached { output: output.to_vec(), point }));
            }
            let step = self.step(&point, &features, bounds, goal)?;
            let mut accepted = None;
            for halving in 0..HALVINGS {
                let length = T::from_f64(0.5_f64.powi(halving as i32));
                let trial: Vec<T> = point.iter().zip(&step).map(|(&v, &d)| v + length * d).collect();
                let trial: Vec<T> = trial.into_iter().map(|v| v.clip(bounds.0, bounds.1)).collect();
                let trial_features = self.forward(&trial)?;
                let reached = trial_features.last().map_or(f64::INFINITY, |last| goal.violation(last.col_as_slice(0)));
                if reached < violation * (1.0 - 1e-2 * length.to_f64()) {
                    accepted = Some((trial, trial_features));
                    break;
                }
            }
            let Some((trial, trial_features)) = accepted else { return Ok(None) };
            (point, features) = (trial, trial_features);
        }
        Ok(None)
    }

    /// Every feature of one sample, from the boundary to the output.
    fn forward(&mut self, point: &[T]) -> Result<Vec<Mat<T>>, InverseError> {
        let mut features = vec![MatRef::from_column_major_slice(point, point.len(), 1).to_owned()];
        for operator in &self.operators {
            let input = &features[features.len() - 1];
            let mut output = Mat::zeros(operator.out_shape().len(), 1);
            operator.forward(input.as_ref(), output.as_mut(), Par::Seq, MemStack::new(&mut self.memory))?;
            features.push(output);
        }
        Ok(features)
    }

    /// The smallest change of `point` that meets the linearised goal.
    fn step(
        &mut self,
        point: &[T],
        features: &[Mat<T>],
        bounds: (T, T),
        goal: SampleGoal<'_, T>,
    ) -> Result<Vec<T>, InverseError> {
        let output = features[features.len() - 1].col_as_slice(0);
        let linear = LinearGoal::new(goal, output);
        let jacobian = self.jacobian_rows(features, &linear.weights)?;
        let wide = Mat::from_fn(jacobian.ncols(), jacobian.nrows(), |i, j| jacobian[(j, i)].to_f64());
        let in_layer = || InverseError::in_layer("correction");
        let plan = BoxedPlan::<T>::new(wide.as_ref()).map_err(in_layer())?;
        let mut solution = Mat::zeros(point.len(), 1);
        let mut memory = MemBuffer::new(plan.solve_scratch(1, Par::Seq));
        let rows = linear.value.len();
        let problem = BoxedPass {
            observed_in: MatRef::from_column_major_slice(point, point.len(), 1),
            observed_out: MatRef::from_column_major_slice(&linear.value, rows, 1),
            lower: MatRef::from_column_major_slice(&linear.lower, rows, 1),
            upper: MatRef::from_column_major_slice(&linear.upper, rows, 1),
            bounds,
            solution: solution.as_mut(),
        };
        plan.solve(problem, Par::Seq, MemStack::new(&mut memory)).map_err(in_layer())?;
        Ok(point.iter().zip(solution.col_as_slice(0)).map(|(&v, &next)| next - v).collect())
    }

    /// `Jᵀ w` for every column `w` of `weights`.
    fn jacobian_rows(&mut self, features: &[Mat<T>], weights: &Mat<T>) -> Result<Mat<T>, InverseError> {
        let columns = weights.ncols();
        let mut cotangent = weights.clone();
        for (operator, at) in self.operators.iter().zip(features).rev() {
            let at = Mat::from_fn(at.nrows(), columns, |i, _| at[(i, 0)]);
            let mut below = Mat::zeros(at.nrows(), columns);
            let pass = VjpPass { at: at.as_ref(), cotangent_out: cotangent.as_ref(), cotangent_in: below.as_mut() };
            operator.vjp(pass, Par::Seq, MemStack::new(&mut self.memory))?;
            cotangent = below;
        }
        Ok(cotangent)
    }
}

/// The goal as linear inequalities `lower <= wᵀ output <= upper`, one column `w` each.
struct LinearGoal<T> {
    weights: Mat<T>,
    value: Vec<T>,
    lower: Vec<T>,
    upper: Vec<T>,
}

impl<T: Real> LinearGoal<T> {
    fn new(goal: SampleGoal<'_, T>, output: &[T]) -> Self {
        let classes = output.len();
        match goal {
            SampleGoal::Margin { label, margin } => {
                let rivals: Vec<usize> = (0..classes).filter(|&class| class != label).collect();
                let weight = |row: usize, column: usize| {
                    if row == label {
                        T::ONE
                    } else if row == rivals[column] {
                        -T::ONE
                    } else {
                        T::ZERO
                    }
                };
                Self {
                    weights: Mat::from_fn(classes, rivals.len(), weight),
                    value: rivals.iter().map(|&rival| output[label] - output[rival]).collect(),
                    lower: vec![T::from_f64(margin); rivals.len()],
                    upper: vec![T::INFINITY; rivals.len()],
                }
            }
            SampleGoal::Box { lower, upper } => Self {
                weights: Mat::from_fn(classes, classes, |i, j| if i == j { T::ONE } else { T::ZERO }),
                value: output.to_vec(),
                lower: lower.to_vec(),
                upper: upper.to_vec(),
            },
        }
    }
}
