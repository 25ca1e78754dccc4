//! Box-constrained nearest points: the linear layer within a range, and single problems with a matrix of their own.

use faer::Mat;
use faer::dyn_stack::{MemBuffer, MemStack};
use fbp_inverse::LinearReverse;
use fbp_linalg::{BoxedSample, Real, StopReason};
use rand_chacha::ChaCha8Rng;

use super::affine::Affine;
use super::draw::{Drawn, boxes, rounded};
use super::exact::distance;
use super::layer::{Wanted, fault, forward, reverse, widened};
use super::linear::weights;
use super::{Finding, active, qp};

/// Takes observed outputs for those of the problem: they are all that a solver knows of the bias.
fn observe(problem: &mut Affine, observed: Vec<f64>) {
    for (i, observed) in observed.iter().enumerate() {
        let mut image = problem.image(i, &problem.start);
        image.add(-observed);
        problem.bias[i] -= image.value();
    }
    problem.outputs = Some(observed);
}

pub(crate) fn plan<T: Real>(rng: &mut ChaCha8Rng) -> Finding {
    let Drawn { mut problem, kind, known } = boxes::<T>(rng, true);
    let found = Finding { kind, feasible: known.is_some(), ..Finding::default() };
    let (weight, bias) = weights::<T>(&problem);
    let solved = LinearReverse::new("linear", weight.as_ref(), &bias).and_then(|layer| {
        let observed = forward::<T>(&layer, &problem.start)?;
        observe(&mut problem, widened(observed.col_as_slice(0)));
        reverse(&layer, &problem.start, &Wanted { lower: &problem.lower, upper: &problem.upper, range: problem.range })
    });
    let solved = solved.map(|(point, report)| (point, report.unattained == 0, report.stopped_early));
    judge::<T>(&problem, known.as_deref(), solved.map_err(|error| error.to_string()), found)
}

pub(crate) fn sample<T: Real>(rng: &mut ChaCha8Rng) -> Finding {
    let Drawn { mut problem, kind, known } = boxes::<T>(rng, false);
    let found = Finding { kind, feasible: known.is_some(), ..Finding::default() };
    let (m, n) = problem.shape();
    let observed: Vec<f64> = (0..m).map(|i| rounded::<T>(problem.image(i, &problem.start).value())).collect();
    observe(&mut problem, observed.clone());
    let rows = Mat::from_fn(n, m, |j, i| T::from_f64(problem.rows[i][j]));
    let cast = |values: &[f64]| -> Vec<T> { values.iter().map(|&x| T::from_f64(x)).collect() };
    let mut solution = vec![T::from_f64(f64::NAN); n];
    let mut memory = MemBuffer::new(BoxedSample::<T>::solve_scratch(m, n));
    let report = BoxedSample {
        rows: rows.as_ref(),
        observed_in: &cast(&problem.start),
        observed_out: &cast(&observed),
        lower: &cast(&problem.lower),
        upper: &cast(&problem.upper),
        bounds: (T::from_f64(problem.range.0), T::from_f64(problem.range.1)).into(),
        solution: &mut solution,
    }
    .solve(MemStack::new(&mut memory));
    let point: Vec<f64> = solution.iter().map(|x| x.to_f64()).collect();
    let solved = report.map(|report| (point, report.unattained == 0, report.stop == StopReason::MaxIterations));
    judge::<T>(&problem, known.as_deref(), solved.map_err(|error| error.to_string()), found)
}

/// The point, whether it is called attained, and whether the search for it ended early.
pub(crate) type Solved = Result<(Vec<f64>, bool, bool), String>;

/// Measures the answer to a box-constrained problem.
pub(crate) fn judge<T: Real>(problem: &Affine, known: Option<&[f64]>, solved: Solved, found: Finding) -> Finding {
    let (point, attained, early) = match solved {
        Ok(solved) => solved,
        Err(error) => return Finding { broken: Some(error), ..found },
    };
    if let Some(fault) = fault(&point, problem.range) {
        return Finding { broken: Some(fault), ..found };
    }
    let ratios = problem.ratios::<T>(&point);
    let reach = known.map(|known| distance(known, &problem.start));
    let moved = distance(&point, &problem.start);
    let optimality = if attained && moved > 0.0 { excess::<T>(problem, &point, reach.unwrap_or(moved)) } else { None };
    Finding {
        attained,
        early,
        definition: ratios.definition,
        residual: Some(ratios.residual),
        optimality: if attained && moved == 0.0 { Some(0.0) } else { optimality },
        distance: reach.map(|reach| moved / reach).filter(|ratio| attained && ratio.is_finite()),
        ..found
    }
}

/// Shares of what counts as attained by which the boxes are widened for the exact oracle, one after the other: data that
/// were rounded may describe a problem that is feasible but for their rounding.
const WIDTHS: [f64; 4] = [0.0, 0.125, 0.5, 0.9];

/// How far the objective lies above what an oracle proves, over what is allowed; `None` if no oracle proves enough for its
/// verdict to count.
pub(crate) fn excess<T: Real>(problem: &Affine, point: &[f64], unit: f64) -> Option<f64> {
    let mut least = None;
    let exact = |share: &f64| {
        let widths: Vec<f64> = (0..problem.rows.len()).map(|i| share * problem.slack::<T>(i, point)).collect();
        active::solve(problem, &widths)
    };
    // Every set of multipliers proves a bound, so the best of them counts.
    for oracle in qp::solve(problem, unit).into_iter().chain(WIDTHS.iter().filter_map(exact)) {
        let excess = problem.excess::<T>(point, &oracle.proof);
        if excess <= 1.0 {
            return Some(excess);
        }
        // An oracle's own point must attain the box, by the definition that holds for ours, and pass by the same measure: multipliers of
        // a wider box prove too little for this one.
        let is_sound = problem.ratios::<T>(&oracle.point).definition <= 1.0
            && problem.excess::<T>(&oracle.point, &oracle.proof) <= 0.5;
        if is_sound && least.is_none_or(|least| excess < least) {
            least = Some(excess);
        }
    }
    least
}
