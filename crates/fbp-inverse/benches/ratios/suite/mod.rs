//! Random problems per solver, and what their answers come to when measured without the solvers.
//!
//! For every sample: (a) whether it is called attained although an entry misses by more than the definition; (b) whether
//! it is called unattained although a point that attains it is known; (c) the residual of every row of attained systems
//! over `ε n |a_i| |v|`; (d) how far the objective lies above a bound that multipliers of an oracle prove, over what is
//! allowed. The oracles (one-sided rotations, Clarabel and, where that
//! proves too little, active sets in twice the precision, enumeration) share no code with the solvers.

mod active;
mod affine;
mod boxed;
mod conv;
mod draw;
mod exact;
mod layer;
mod linear;
mod norm;
mod pool;
mod qp;
mod softmax;
mod summary;
mod svd;
mod wide;

use fbp_linalg::testkit;
use rand_chacha::ChaCha8Rng;

pub(crate) use summary::Summary;

/// Largest residual over `ε n |a_i| |v|` of a row of an attained system.
pub(crate) const RESIDUAL_LIMIT: f64 = 30.0;

/// What one sample came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Finding {
    /// What the problem is made of.
    pub(crate) kind: String,
    /// Whether a point that attains the target is known.
    pub(crate) feasible: bool,
    /// Whether the report calls the sample attained.
    pub(crate) attained: bool,
    /// Whether the report says that the answer need not be the nearest.
    pub(crate) early: bool,
    /// Largest miss of an entry over the largest that counts as attained.
    pub(crate) definition: f64,
    /// Residual of the worst row over `ε n |a_i| |v|`.
    pub(crate) residual: Option<f64>,
    /// Error of the optimality conditions or excess over the oracle's objective, over what is allowed.
    pub(crate) optimality: Option<f64>,
    /// Distance moved over that of the known point.
    pub(crate) distance: Option<f64>,
    /// An answer that is none: an error, a point that is not finite or outside its bounds.
    pub(crate) broken: Option<String>,
}

/// One solver in one precision: draws a problem, solves it and measures the answer.
pub(crate) type Trial = fn(&mut ChaCha8Rng) -> Finding;

/// A solver in both precisions.
pub(crate) struct Solver {
    pub(crate) name: &'static str,
    pub(crate) single: Trial,
    pub(crate) double: Trial,
}

/// Every solver that is tried.
pub(crate) const SOLVERS: [Solver; 10] = [
    Solver { name: "linear", single: linear::trial::<f32>, double: linear::trial::<f64> },
    Solver { name: "boxed", single: boxed::plan::<f32>, double: boxed::plan::<f64> },
    Solver { name: "boxed-sample", single: boxed::sample::<f32>, double: boxed::sample::<f64> },
    Solver { name: "conv-exact", single: conv::exact::<f32>, double: conv::exact::<f64> },
    Solver { name: "conv-tolerance", single: conv::tolerance::<f32>, double: conv::tolerance::<f64> },
    Solver { name: "conv-bounded", single: conv::bounded::<f32>, double: conv::bounded::<f64> },
    Solver { name: "norm", single: norm::trial::<f32>, double: norm::trial::<f64> },
    Solver { name: "softmax", single: softmax::trial::<f32>, double: softmax::trial::<f64> },
    Solver { name: "max-pool", single: pool::max::<f32>, double: pool::max::<f64> },
    Solver { name: "average-pool", single: pool::average::<f32>, double: pool::average::<f64> },
];

/// Draws `cases` problems for a solver, by turns in single and double precision.
pub(crate) fn run(solver: &Solver, cases: u64, seed: u64) -> Summary {
    let mut summary = Summary::new(solver.name, cases, seed);
    for case in 0..cases {
        let (precision, trial) = if case % 2 == 0 { ("f32", solver.single) } else { ("f64", solver.double) };
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(case);
        summary.take(seed, precision, trial(&mut testkit::rng(seed)));
    }
    summary
}

/// The solver of a name.
pub(crate) fn find(name: &str) -> Option<&'static Solver> {
    SOLVERS.iter().find(|solver| solver.name == name)
}
