//! Linear systems: the dense plan as such, and the linear layer.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_inverse::LinearReverse;
use fbp_linalg::dense::{AffinePlan, AffineSolve};
use fbp_linalg::{Real, SolveConfig};
use rand_chacha::ChaCha8Rng;

use super::affine::Affine;
use super::draw::{Drawn, chance, equations};
use super::exact::distance;
use super::layer::{Wanted, fault, narrow, reverse, widened};
use super::{Finding, svd};

pub(crate) fn trial<T: Real>(rng: &mut ChaCha8Rng) -> Finding {
    let Drawn { problem, mut kind, known } = equations::<T>(rng);
    let by_layer = chance(rng, 0.5);
    kind.push_str(if by_layer { ", layer" } else { ", plan" });
    let solved = if by_layer { layer::<T>(&problem) } else { plan::<T>(&problem) };
    let found = Finding { kind, feasible: known.is_some(), ..Finding::default() };
    judge::<T>(&problem, known.as_deref(), solved, found)
}

/// Weights of a problem as the layers take them.
pub(crate) fn weights<T: Real>(problem: &Affine) -> (Mat<T>, Vec<T>) {
    let (m, n) = problem.shape();
    let weight = Mat::from_fn(m, n, |i, j| T::from_f64(problem.rows[i][j]));
    (weight, problem.bias.iter().map(|&b| T::from_f64(b)).collect())
}

/// The point, and whether it is called attained.
pub(crate) type Solved = Result<(Vec<f64>, bool), String>;

fn layer<T: Real>(problem: &Affine) -> Solved {
    let (weight, bias) = weights::<T>(problem);
    let layer = LinearReverse::new("linear", weight.as_ref(), &bias).map_err(|error| error.to_string())?;
    let wanted = Wanted { lower: &problem.lower, upper: &problem.upper, range: problem.range };
    let (point, report) = reverse(&layer, &problem.start, &wanted).map_err(|error| error.to_string())?;
    Ok((point, report.unattained == 0))
}

fn plan<T: Real>(problem: &Affine) -> Solved {
    let (weight, bias) = weights::<T>(problem);
    let plan = AffinePlan::<T>::new(weight.as_ref(), Some(&bias), &SolveConfig::default(), Par::Seq);
    let plan = plan.map_err(|error| error.to_string())?;
    let (start, target) = (narrow::<T>(&problem.start), narrow::<T>(&problem.lower));
    let mut solution = Mat::from_fn(problem.start.len(), 1, |_, _| T::from_f64(f64::NAN));
    let pass = AffineSolve {
        observed_in: start.as_ref(),
        observed_out: None,
        target: target.as_ref(),
        solution: solution.as_mut(),
    };
    let mut memory = MemBuffer::new(plan.solve_scratch(1, Par::Seq));
    let report = plan.solve(pass, Par::Seq, MemStack::new(&mut memory)).map_err(|error| error.to_string())?;
    Ok((widened(solution.col_as_slice(0)), report.unattained == 0))
}

/// Measures the answer to a linear system.
pub(crate) fn judge<T: Real>(problem: &Affine, known: Option<&[f64]>, solved: Solved, found: Finding) -> Finding {
    let (point, attained) = match solved {
        Ok(solved) => solved,
        Err(error) => return Finding { broken: Some(error), ..found },
    };
    if let Some(fault) = fault(&point, problem.range) {
        return Finding { broken: Some(fault), ..found };
    }
    let ratios = problem.ratios::<T>(&point);
    let optimality = if attained { excess::<T>(problem, &point) } else { Some(problem.normal_equations::<T>(&point)) };
    let moved = known.map(|known| distance(&point, &problem.start) / distance(known, &problem.start));
    Finding {
        attained,
        definition: ratios.definition,
        residual: Some(ratios.residual),
        optimality,
        distance: moved.filter(|moved| attained && moved.is_finite()),
        ..found
    }
}

/// How far the objective lies above what multipliers prove, over what is allowed; `None` if no point of the oracle is any
/// better.
fn excess<T: Real>(problem: &Affine, point: &[f64]) -> Option<f64> {
    let proofs = svd::proofs(problem);
    let least = proofs.iter().map(|proof| problem.excess::<T>(point, proof)).min_by(f64::total_cmp)?;
    if least <= 1.0 {
        return Some(least);
    }
    let decides = proofs.iter().any(|proof| {
        let own = problem.minimiser(&proof.multipliers);
        problem.ratios::<T>(&own).definition <= 1.0 && problem.excess::<T>(&own, proof) <= 0.5
    });
    decides.then_some(least)
}
