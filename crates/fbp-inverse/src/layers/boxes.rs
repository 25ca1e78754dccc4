//! Boxes and ranges of layers that are too large for a matrix.

use faer::Par;
use faer::dyn_stack::MemStack;
use fbp_linalg::matrix_free::{LinearMap, MapScale, solve_in_boxes};
use fbp_linalg::{BoxedPass, LinalgError, Real};

use super::columns::{column, squared_norms};
use super::solved::solved_report;
use crate::{ReversePass, ReverseReport};

/// Writes the nearest point of every sample into `pass.target_in.point` and its box as that point.
///
/// A box that no point of the range reaches gets the nearest point among those that come closest to it.
///
/// # Errors
/// Those of the map, and [`LinalgError::NonFinite`] if a sample overflows.
pub(super) fn reverse_in_boxes<T: Real>(
    map: &dyn LinearMap,
    scale: MapScale,
    mut pass: ReversePass<'_, T>,
    par: Par,
    stack: &mut MemStack,
) -> Result<ReverseReport, LinalgError> {
    let problem = BoxedPass {
        observed_in: pass.observed_in,
        observed_out: pass.observed_out,
        lower: pass.target_out.lower,
        upper: pass.target_out.upper,
        bounds: (pass.in_range.lower, pass.in_range.upper),
        solution: pass.target_in.point.as_mut(),
    };
    let solved = solve_in_boxes(map, scale, problem, par, stack)?;
    pass.target_in.collapse_to_point();
    let mut moved = ReverseReport::default();
    for index in 0..pass.batch() {
        let point = column(pass.target_in.point.as_ref(), index);
        let (distance, observed) = squared_norms(point, column(pass.observed_in, index));
        moved.distance_sq += distance;
        moved.observed_sq += observed;
    }
    Ok(ReverseReport { kkt_max: solved.optimality, ..solved_report(&pass, &solved.solve, moved) })
}
