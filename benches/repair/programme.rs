use std::collections::BTreeSet;
use std::error::Error;

use clarabel::algebra::CscMatrix;
use clarabel::solver::{DefaultSettings, DefaultSolver, IPSolver, SolverStatus, SupportedConeT};
use faer::Mat;
use fbp_train::processor::{Clock, Stopwatch};

/// Changes that are looked for at once; more only where none of them satisfies the conditions, or others would be cheaper.
const COLUMNS: usize = 3000;
/// How far a condition may be missed.
const TOLERANCE: f64 = 1e-6;
/// How far a change that is left out may seem cheaper, of 1.
const PRICE: f64 = 1e-5;

/// What is made small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norm {
    /// The sum of the sizes.
    L1,
    /// The largest size.
    Max,
}

/// `slopeᵀ ΔW x >= demand` for one sample.
pub(crate) struct Condition {
    /// Its column.
    pub(crate) sample: usize,
    /// Derivative of the lead over one other class by the outputs of the layer.
    pub(crate) slope: Vec<f64>,
    /// What is missing from the lead.
    pub(crate) demand: f64,
}

/// The smallest change of a layer in a norm that satisfies all conditions.
pub(crate) struct Programme<'a> {
    /// Inputs of the layer and a constant, one column per sample.
    pub(crate) x: &'a Mat<f64>,
    /// All of them.
    pub(crate) conditions: &'a [Condition],
    /// Outputs of the layer.
    pub(crate) outputs: usize,
    /// What is made small.
    pub(crate) norm: Norm,
}

/// How a programme ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All conditions hold, and no change is smaller.
    Solved,
    /// No change satisfies all conditions.
    Infeasible,
    /// The time was over, or the solver gave up.
    Unfinished,
}

/// An answer.
pub(crate) struct Answer {
    /// How it ended.
    pub(crate) end: End,
    /// The change; zero unless it is solved.
    pub(crate) change: Mat<f64>,
    /// Its norm.
    pub(crate) norm: f64,
    /// Programmes that were solved.
    pub(crate) rounds: usize,
    /// Conditions of the last one.
    pub(crate) rows: usize,
    /// Weights that could change in the last one.
    pub(crate) columns: usize,
    /// Iterations of the solver in all of them.
    pub(crate) iterations: u32,
}

impl Programme<'_> {
    /// Solves with few conditions and, for the sum of sizes, few weights, and adds what is violated or would be cheaper until there is
    /// nothing to add: the answer is that of the whole programme.
    ///
    /// No round begins once `limit` seconds of the processor are spent.
    ///
    /// # Errors
    /// If the solver refuses a programme.
    pub(crate) fn solve(&self, limit: f64) -> Result<Answer, Box<dyn Error>> {
        let (begun, inputs) = (Stopwatch::start(), self.x.nrows());
        let n = self.outputs * inputs;
        let mut rows = self.tightest();
        let all = self.norm == Norm::Max || n <= COLUMNS;
        let ones: Vec<f64> = rows.iter().map(|_| 1.0).collect();
        let mut columns: BTreeSet<usize> = match all {
            true => (0..n).collect(),
            false => self.strongest(&rows, &ones, 0.0, &BTreeSet::new()),
        };
        let mut answer = Answer {
            end: End::Unfinished,
            change: Mat::zeros(self.outputs, inputs),
            norm: 0.0,
            rounds: 0,
            rows: 0,
            columns: 0,
            iterations: 0,
        };
        loop {
            if begun.seconds(Clock::Processor) > limit {
                return Ok(answer);
            }
            let chosen: Vec<usize> = columns.iter().copied().collect();
            let solver = self.restricted(&rows, &chosen)?;
            (answer.rounds, answer.rows, answer.columns) = (answer.rounds + 1, rows.len(), chosen.len());
            answer.iterations += solver.solution.iterations;
            let (x, z) = (&solver.solution.x, &solver.solution.z[..rows.len()]);
            let price = match solver.solution.status {
                SolverStatus::Solved | SolverStatus::AlmostSolved => 1.0 + PRICE,
                SolverStatus::PrimalInfeasible | SolverStatus::AlmostPrimalInfeasible => {
                    PRICE * z.iter().fold(0.0, |most: f64, value| most.max(value.abs()))
                }
                _ => return Ok(answer),
            };
            let more = if all { BTreeSet::new() } else { self.strongest(&rows, z, price, &columns) };
            if price < 1.0 {
                if more.is_empty() {
                    answer.end = End::Infeasible;
                    return Ok(answer);
                }
                columns.extend(more);
                continue;
            }
            let mut change = Mat::zeros(self.outputs, inputs);
            chosen.iter().zip(x).for_each(|(&k, &value)| change[(k / inputs, k % inputs)] = value);
            let missed = self.missed(&change);
            if missed.is_empty() && more.is_empty() {
                answer.norm = match self.norm {
                    Norm::L1 => x[..chosen.len()].iter().map(|value| value.abs()).sum(),
                    Norm::Max => x[..chosen.len()].iter().fold(0.0, |most: f64, value| most.max(value.abs())),
                };
                (answer.end, answer.change) = (End::Solved, change);
                return Ok(answer);
            }
            columns.extend(more);
            rows.extend(missed.into_iter().filter(|row| !rows.contains(row)).collect::<Vec<_>>());
        }
    }

    /// The condition of every sample that misses most.
    fn tightest(&self) -> Vec<usize> {
        let mut of_sample: Vec<Option<usize>> = vec![None; self.x.ncols()];
        for (k, condition) in self.conditions.iter().enumerate() {
            let own = &mut of_sample[condition.sample];
            if own.is_none_or(|best| self.conditions[best].demand < condition.demand) {
                *own = Some(k);
            }
        }
        of_sample.into_iter().flatten().collect()
    }

    /// Conditions that a change does not satisfy.
    fn missed(&self, change: &Mat<f64>) -> Vec<usize> {
        let moved = change * self.x;
        let along = |condition: &Condition| -> f64 {
            condition.slope.iter().enumerate().map(|(o, slope)| slope * moved[(o, condition.sample)]).sum()
        };
        let is_missed = |k: &usize| {
            let Condition { demand, .. } = self.conditions[*k];
            along(&self.conditions[*k]) < demand - TOLERANCE * (1.0 + demand.abs())
        };
        (0..self.conditions.len()).filter(is_missed).collect()
    }

    /// Weights outside `columns` whose entry of `Σ z slope xᵀ` is larger than `price`, the largest ones.
    fn strongest(&self, rows: &[usize], z: &[f64], price: f64, columns: &BTreeSet<usize>) -> BTreeSet<usize> {
        let inputs = self.x.nrows();
        let left = Mat::from_fn(self.outputs, rows.len(), |o, k| self.conditions[rows[k]].slope[o] * z[k]);
        let right = Mat::from_fn(rows.len(), inputs, |k, i| self.x[(i, self.conditions[rows[k]].sample)]);
        let sums = left * right;
        let size = |k: usize| sums[(k / inputs, k % inputs)].abs();
        let mut found: Vec<usize> =
            (0..self.outputs * inputs).filter(|k| size(*k) > price && !columns.contains(k)).collect();
        found.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
        found.truncate(COLUMNS);
        found.into_iter().collect()
    }

    /// The programme of some conditions and some weights: `min Σ t` or `min t` subject to `-t <= v <= t` and the conditions.
    fn restricted(&self, rows: &[usize], columns: &[usize]) -> Result<DefaultSolver<f64>, Box<dyn Error>> {
        let (m, n, inputs) = (rows.len(), columns.len(), self.x.nrows());
        let (mut starts, mut indices, mut values) = (vec![0], Vec::new(), Vec::new());
        for (place, &k) in columns.iter().enumerate() {
            for (row, &condition) in rows.iter().enumerate() {
                let Condition { sample, slope, .. } = &self.conditions[condition];
                let entry = slope[k / inputs] * self.x[(k % inputs, *sample)];
                if entry != 0.0 {
                    indices.push(row);
                    values.push(-entry);
                }
            }
            indices.extend([m + place, m + n + place]);
            values.extend([1.0, -1.0]);
            starts.push(indices.len());
        }
        let sizes = if self.norm == Norm::L1 { n } else { 1 };
        match self.norm {
            Norm::L1 => (0..n).for_each(|place| {
                indices.extend([m + place, m + n + place]);
                values.extend([-1.0, -1.0]);
                starts.push(indices.len());
            }),
            Norm::Max => {
                indices.extend(m..m + 2 * n);
                values.extend(std::iter::repeat_n(-1.0, 2 * n));
                starts.push(indices.len());
            }
        }
        let variables = n + sizes;
        let constraints = CscMatrix::new(m + 2 * n, variables, starts, indices, values);
        let demands = rows.iter().map(|&row| -self.conditions[row].demand);
        let bounds: Vec<f64> = demands.chain(std::iter::repeat_n(0.0, 2 * n)).collect();
        let costs: Vec<f64> = (0..variables).map(|k| if k < n { 0.0 } else { 1.0 }).collect();
        let cones = [SupportedConeT::NonnegativeConeT(m + 2 * n)];
        let settings = DefaultSettings { verbose: false, ..DefaultSettings::default() };
        let hessian = CscMatrix::zeros((variables, variables));
        let mut solver = DefaultSolver::new(&hessian, &costs, &constraints, &bounds, &cones, settings)?;
        solver.solve();
        Ok(solver)
    }
}
