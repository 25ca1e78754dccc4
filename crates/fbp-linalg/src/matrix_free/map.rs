use faer::dyn_stack::{MemBuffer, MemStack, StackReq};

use crate::LinalgError;

/// A linear map `A` in double precision.
pub trait LinearMap: Sync {
    /// Number of rows and of columns.
    fn shape(&self) -> (usize, usize);

    /// Workspace of one product.
    fn scratch(&self) -> StackReq;

    /// `image <- A x`.
    ///
    /// # Errors
    /// What the map says.
    fn apply(&self, x: &[f64], image: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError>;

    /// `sum <- Aᵀ weights`.
    ///
    /// # Errors
    /// What the map says.
    fn adjoint(&self, weights: &[f64], sum: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError>;

    /// Sum of the squares of every row.
    ///
    /// # Errors
    /// What the map says.
    fn row_squares(&self, stack: &mut MemStack) -> Result<Vec<f64>, LinalgError>;

    /// `sizes <- Σ_j abs(a_ij) x_j`, for `x >= 0`.
    ///
    /// # Errors
    /// What the map says.
    fn magnitudes(&self, x: &[f64], sizes: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError>;

    /// Number of coefficients of every row that are not zero.
    ///
    /// # Errors
    /// What the map says.
    fn row_terms(&self, stack: &mut MemStack) -> Result<Vec<f64>, LinalgError>;

    /// Flop of a product with `A` and one with `Aᵀ`.
    fn flops(&self) -> f64;
}

/// A map whose rows are multiplied with powers of two that make them of one size.
pub(super) struct EvenMap<'a> {
    map: &'a dyn LinearMap,
    pub(super) scales: Vec<f64>,
}

impl LinearMap for EvenMap<'_> {
    fn shape(&self) -> (usize, usize) {
        self.map.shape()
    }

    fn scratch(&self) -> StackReq {
        self.map.scratch().and(StackReq::new::<f64>(self.scales.len()))
    }

    fn apply(&self, x: &[f64], image: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError> {
        self.map.apply(x, image, stack)?;
        image.iter_mut().zip(&self.scales).for_each(|(y, scale)| *y *= scale);
        Ok(())
    }

    fn adjoint(&self, weights: &[f64], sum: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError> {
        let (scaled, stack) = stack.collect(weights.iter().zip(&self.scales).map(|(weight, scale)| weight * scale));
        self.map.adjoint(&scaled, sum, stack)
    }

    fn row_squares(&self, stack: &mut MemStack) -> Result<Vec<f64>, LinalgError> {
        let mut squares = self.map.row_squares(stack)?;
        squares.iter_mut().zip(&self.scales).for_each(|(square, scale)| *square *= scale * scale);
        Ok(squares)
    }

    fn magnitudes(&self, x: &[f64], sizes: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError> {
        self.map.magnitudes(x, sizes, stack)?;
        sizes.iter_mut().zip(&self.scales).for_each(|(size, scale)| *size *= scale);
        Ok(())
    }

    fn row_terms(&self, stack: &mut MemStack) -> Result<Vec<f64>, LinalgError> {
        self.map.row_terms(stack)
    }

    fn flops(&self) -> f64 {
        self.map.flops()
    }
}

/// Largest ratio of two row norms that is left as it is, as in [`BoxedPlan`](crate::BoxedPlan).
const MOST_UNEVEN: f64 = 16.0;
/// Powers of two that a row may be scaled by.
const MOST_POWERS: f64 = 60.0;

impl<'a> EvenMap<'a> {
    /// None if the rows are of about one size, and keep the metric in which boxes out of reach are missed by the least.
    pub(super) fn of(map: &'a dyn LinearMap, scale: MapScale) -> Result<Option<Self>, LinalgError> {
        if scale.largest_row <= MOST_UNEVEN * scale.smallest_row {
            return Ok(None);
        }
        let mut memory = MemBuffer::new(map.scratch());
        let squares = map.row_squares(MemStack::new(&mut memory))?;
        let even = |square: f64| {
            let power = (-0.5 * square.log2()).ceil().clamp(-MOST_POWERS, MOST_POWERS);
            if square > 0.0 { power.exp2() } else { 1.0 }
        };
        Ok(Some(Self { map, scales: squares.into_iter().map(even).collect() }))
    }
}

/// Sizes of a map that scale the iteration.
#[derive(Clone, Copy, Debug)]
pub struct MapScale {
    /// Mean squared norm of a row; 1 for a map of zeros.
    pub(super) mean_square: f64,
    /// Mean squared norm of a column.
    pub(super) column_square: f64,
    /// Largest norm of a row, and the smallest of those that are not zero.
    pub(super) largest_row: f64,
    pub(super) smallest_row: f64,
}

impl MapScale {
    /// Measures a map.
    ///
    /// # Errors
    /// Those of the map.
    pub fn of(map: &dyn LinearMap) -> Result<Self, LinalgError> {
        let mut memory = MemBuffer::new(map.scratch());
        let squares = map.row_squares(MemStack::new(&mut memory))?;
        let (rows, cols) = map.shape();
        let total: f64 = squares.iter().sum();
        let mean = if total > 0.0 { total / rows as f64 } else { 1.0 };
        let largest = squares.iter().fold(0.0_f64, |largest, x| largest.max(*x));
        let smallest = squares.iter().filter(|x| **x > 0.0).fold(largest, |smallest, x| smallest.min(*x));
        Ok(Self {
            mean_square: mean,
            column_square: total / cols.max(1) as f64,
            largest_row: largest.sqrt(),
            smallest_row: smallest.sqrt(),
        })
    }

    /// About the largest singular value.
    pub(super) fn norm(&self) -> f64 {
        2.0 * self.mean_square.max(self.column_square).sqrt()
    }
}
