//! The last roundings of a point that nearly attains its box.
//!
//! The iteration ends where its own sums round, which may be a little more than a row may miss. What the rows then lack is a
//! right-hand side of its own: the smallest change of the entries between their bounds that brings it, and leaves the rows
//! near their ends where they are, moves the point by about as little. It comes from conjugate gradients on the
//! least-squares problem `min |A d - g|` over these rows.
//!
//! # Source
//! CGLS: Björck, *Numerical Methods for Least Squares Problems*, SIAM 1996, §7.4.1.

use crate::LinalgError;
use faer::dyn_stack::MemStack;

use super::map::LinearMap;

/// Steps of the conjugate gradients; a correction needs two digits.
const STEPS: usize = 50;
/// Share of the normal equations' residual that is left.
const LEFT: f64 = 1e-4;

/// The change `d` of the entries marked `free` with the smallest `|A d - gaps|` over the rows marked `active`, about;
/// overwrites `gaps`, which are 0 in the other rows.
pub(super) fn correction(
    map: &dyn LinearMap,
    gaps: &mut [f64],
    (free, active): (&[bool], &[bool]),
    stack: &mut MemStack,
) -> Result<Vec<f64>, LinalgError> {
    let (rows, cols) = map.shape();
    let pull = |residual: &[f64], slope: &mut [f64], stack: &mut MemStack| -> Result<f64, LinalgError> {
        map.adjoint(residual, slope, stack)?;
        keep_marked(slope, free);
        Ok(slope.iter().map(|s| s * s).sum())
    };
    let (mut change, mut slope, mut image) = (vec![0.0; cols], vec![0.0; cols], vec![0.0; rows]);
    let first = pull(gaps, &mut slope, stack)?;
    let (mut direction, mut size) = (slope.clone(), first);
    for _ in 0..STEPS {
        if size <= LEFT * LEFT * first {
            break;
        }
        map.apply(&direction, &mut image, stack)?;
        keep_marked(&mut image, active);
        let length = size / image.iter().map(|y| y * y).sum::<f64>();
        if !length.is_finite() {
            break;
        }
        change.iter_mut().zip(&direction).for_each(|(d, p)| *d += length * p);
        gaps.iter_mut().zip(&image).for_each(|(gap, y)| *gap -= length * y);
        let next = pull(gaps, &mut slope, stack)?;
        direction.iter_mut().zip(&slope).for_each(|(p, s)| *p = s + next / size * *p);
        size = next;
    }
    Ok(change)
}

fn keep_marked(values: &mut [f64], marked: &[bool]) {
    values.iter_mut().zip(marked).filter(|(_, marked)| !**marked).for_each(|(value, _)| *value = 0.0);
}
