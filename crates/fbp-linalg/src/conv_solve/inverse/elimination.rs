use faer::linalg::matmul::matmul;
use faer::linalg::solvers::DenseSolveCore;
use faer::{Accum, Mat, Par};
use rayon::prelude::*;

use super::boundary::{Boundary, Symbols, failed};
use super::symbol::{C64, Symbol};
use crate::LinalgError;

/// A row of a plane of one of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    far: bool,
    plane: usize,
    row: usize,
}

/// Elimination of whole missing rows from a boundary system.
///
/// With `G` the coupling of the missing rows to the lanes, the rows that other missing sites lie in, what is left is
///
/// ```text
/// W[(l, c), (l', c')] = S[(l, c), (l', c')] - 1/cols Σ_k exp(2πi k(c - c')/cols) (G_kᴴ S_k⁻¹ G_k)[l, l']
/// ```
///
/// # Source
/// Own derivation: the system is periodic along the rows, so that its part on them is block-diagonal in frequency.
pub(crate) struct Elimination<'a> {
    boundary: &'a Boundary<'a>,
    /// The symbols, transformed back along the columns.
    symbols: Symbols,
    missing: Vec<Line>,
    lanes: Vec<Line>,
    /// Lane and column of every other missing site.
    others: Vec<(usize, usize)>,
    /// Distances between their columns, either way round.
    distances: Vec<usize>,
}

/// Most bytes that the elimination of missing rows may take.
const LARGEST: usize = 1 << 30;

/// A measure of the condition of a matrix that the scales of its rows do not change: the largest `|S_ij| |S⁻¹_ji|`. NaN if
/// an entry is.
fn condition(matrix: &Mat<C64>, inverse: &Mat<C64>) -> f64 {
    let (mut largest, mut sum) = (0.0_f64, 0.0);
    for (i, j) in (0..matrix.nrows()).flat_map(|i| (0..matrix.ncols()).map(move |j| (i, j))) {
        let product = (matrix[(i, j)].norm_sqr() * inverse[(j, i)].norm_sqr()).sqrt();
        (largest, sum) = (largest.max(product), sum + product);
    }
    // The maximum forgets NaN, the sum does not.
    if sum.is_finite() { largest } else { f64::NAN }
}

impl<'a> Elimination<'a> {
    pub(crate) fn new(boundary: &'a Boundary<'a>, mut symbols: Symbols) -> Self {
        let [rows, cols] = boundary.size;
        for symbol in [&mut symbols.t, &mut symbols.q, &mut symbols.z] {
            boundary.fft.inverse_along_columns(symbol);
            symbol.iter_mut().for_each(|x| *x /= rows as f64);
        }
        let line = |far: bool, line: usize| Line { far, plane: line / rows, row: line % rows };
        let both = |near: &[u32], far: &[u32], per: usize| -> Vec<Line> {
            let near = near.iter().map(|at| line(false, *at as usize / per));
            near.chain(far.iter().map(|at| line(true, *at as usize / per))).collect()
        };
        let (near, far) = (boundary.near, boundary.far);
        let (missing, sites) = (both(&near.lines, &far.lines, 1), both(&near.others, &far.others, cols));
        let mut lanes = sites.clone();
        lanes.dedup();
        let lane = |site| lanes.binary_search(site).unwrap_or(0);
        let columns = || near.others.iter().chain(&far.others).map(|at| *at as usize % cols);
        let others = sites.iter().map(lane).zip(columns()).collect();
        let mut known: Vec<usize> = columns().collect();
        known.sort_unstable();
        known.dedup();
        let pairs = known.iter().flat_map(|&a| known.iter().map(move |&b| (a + cols - b) % cols));
        let mut distances: Vec<usize> = pairs.map(|apart| apart.min(cols - apart)).collect();
        distances.sort_unstable();
        distances.dedup();
        Self { boundary, symbols, missing, lanes, others, distances }
    }

    /// Entry of the system between two rows at one frequency along them.
    fn entry(&self, a: Line, b: Line, frequency: usize) -> C64 {
        let Symbol { p, q, freqs, .. } = *self.boundary.symbol;
        let rows = self.boundary.size[0];
        let of = |values: &[C64], at: usize, (up, down): (usize, usize)| {
            values[at * freqs + frequency * rows + (up + rows - down) % rows]
        };
        match (a.far, b.far) {
            (false, false) => of(&self.symbols.t, a.plane * p + b.plane, (a.row, b.row)),
            (false, true) => of(&self.symbols.q, a.plane * q + b.plane, (a.row, b.row)),
            (true, false) => of(&self.symbols.q, b.plane * q + a.plane, (b.row, a.row)).conj(),
            (true, true) => -of(&self.symbols.z, a.plane * q + b.plane, (a.row, b.row)),
        }
    }

    /// Takes the missing rows out of the system on the other sites (lower triangle); returns the inverses `S_k⁻¹`,
    /// `[frequency][line][line]`.
    ///
    /// # Errors
    /// [`LinalgError::Decomposition`] if one of them is worse conditioned than the limit, or if this takes too much memory.
    pub(crate) fn run(self, rest: &mut Mat<f64>, limit: f64, par: Par) -> Result<Vec<C64>, LinalgError> {
        let (h, count, cols) = (self.missing.len(), self.lanes.len(), self.boundary.size[1]);
        let half = cols / 2 + 1;
        let bytes = 16 * (h * h * half + count * count) + 8 * count * count * self.distances.len();
        if bytes > LARGEST {
            return Err(failed(format!("{h} missing rows and {count} others would take {bytes} bytes to eliminate")));
        }
        // `[lane][distance][lane]`.
        let mut taken = vec![0.0; count * self.distances.len() * count];
        let (mut inverses, mut worst) = (Vec::with_capacity(h * h * half), 0.0_f64);
        let (mut solved, mut product) = (Mat::<C64>::zeros(h, count), Mat::<C64>::zeros(count, count));
        for frequency in 0..half {
            let system = Mat::from_fn(h, h, |i, j| self.entry(self.missing[i], self.missing[j], frequency));
            let inverse = system.partial_piv_lu().inverse();
            let condition = condition(&system, &inverse);
            if condition.is_nan() || condition > limit {
                return Err(failed(format!("condition {condition:.1e} on missing rows at frequency {frequency}")));
            }
            worst = worst.max(condition);
            inverses.extend((0..h * h).map(|at| inverse[(at / h, at % h)]));
            if count > 0 {
                let coupling = Mat::from_fn(h, count, |i, j| self.entry(self.missing[i], self.lanes[j], frequency));
                let one = C64 { re: 1.0, im: 0.0 };
                matmul(solved.as_mut(), Accum::Replace, inverse.as_ref(), coupling.as_ref(), one, par);
                matmul(product.as_mut(), Accum::Replace, coupling.adjoint(), solved.as_ref(), one, par);
                self.add(product.as_ref(), frequency, &mut taken, par);
            }
        }
        tracing::debug!(h, count, worst, "conv solve: missing rows are eliminated");
        self.subtract(&taken, rest);
        Ok(inverses)
    }

    /// Adds what one frequency, and its negative, contribute at every distance.
    fn add(&self, product: faer::MatRef<'_, C64>, frequency: usize, taken: &mut [f64], par: Par) {
        let (count, cols) = (self.lanes.len(), self.boundary.size[1]);
        let weight = if frequency == 0 || 2 * frequency == cols { 1.0 } else { 2.0 } / cols as f64;
        let add = |(lane, taken): (usize, &mut [f64])| {
            let product = product.col(lane);
            for (taken, distance) in taken.chunks_exact_mut(count).zip(&self.distances) {
                let angle = std::f64::consts::TAU * (frequency * distance % cols) as f64 / cols as f64;
                let (re, im) = (weight * angle.cos(), weight * angle.sin());
                taken.iter_mut().zip(product.iter()).for_each(|(sum, z)| *sum += re * z.re - im * z.im);
            }
        };
        let width = count * self.distances.len();
        if par.degree() > 1 {
            taken.par_chunks_exact_mut(width).enumerate().for_each(add);
        } else {
            taken.chunks_exact_mut(width).enumerate().for_each(add);
        }
    }

    fn subtract(&self, taken: &[f64], rest: &mut Mat<f64>) {
        let (count, cols) = (self.lanes.len(), self.boundary.size[1]);
        let at = |row: usize, col: usize, place: usize| taken[(col * self.distances.len() + place) * count + row];
        let places: Vec<usize> =
            (0..cols).map(|apart| self.distances.binary_search(&apart.min(cols - apart)).unwrap_or(0)).collect();
        for (j, &(col, column)) in self.others.iter().enumerate() {
            for (i, &(row, there)) in self.others.iter().enumerate().skip(j) {
                let apart = (there + cols - column) % cols;
                // What lies the other way round is the transpose.
                let value = if 2 * apart <= cols { at(row, col, places[apart]) } else { at(col, row, places[apart]) };
                rest[(i, j)] -= value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv_solve::inverse::fft::PlaneFft;
    use crate::conv_solve::inverse::symbol::symbols;
    use crate::conv_solve::operator::grid::opposite;
    use crate::conv_solve::operator::grid::{End, Grid, Sites};
    use crate::conv_solve::operator::pair::Pair;
    use crate::conv_solve::tests::random_params;
    use crate::conv2d::Conv2d;
    use crate::testkit::{for_seeds, normal_vec};

    /// Missing sites of the near field and of the far one, in order.
    fn both(boundary: &Boundary<'_>, of: impl Fn(&Sites) -> Vec<u32>) -> Vec<(bool, u32)> {
        let near = of(boundary.near).into_iter().map(|at| (false, at));
        near.chain(of(boundary.far).into_iter().map(|at| (true, at))).collect()
    }

    #[test]
    fn what_is_left_is_part_of_the_whole_inverse() {
        for_seeds(8, |rng| {
            let geometry = random_params(rng).check().unwrap();
            for near in [End::Input, End::Output] {
                let pair = Pair { conv: Conv2d::new(geometry), weight: normal_vec(geometry.weight_len(), rng), near };
                let grid = Grid::new(&geometry);
                let fft = PlaneFft::new(grid.size());
                let symbol = &symbols(&pair, &grid, &pair.weight, &fft)[0];
                let inverse = symbol.gram_inverse(0.5).unwrap();
                let boundary = Boundary {
                    symbol,
                    inverse: &inverse.values,
                    near: grid.sites(near),
                    far: grid.sites(opposite(near)),
                    size: grid.size(),
                    fft: &fft,
                };
                let parts = boundary.eliminated::<f64>(f64::INFINITY, Par::Seq).unwrap();
                let whole = boundary.whole::<f64>(Par::Seq).unwrap();
                assert!(parts.strips.is_some() && whole.strips.is_none());
                let left = both(&boundary, |sites| sites.others.clone());
                let all = both(&boundary, |sites| sites.missing.clone());
                assert_eq!((parts.rest.nrows(), whole.rest.nrows()), (left.len(), all.len()));
                let place: Vec<usize> = left.iter().map(|site| all.binary_search(site).unwrap()).collect();
                // Quasi-definite, with blocks whose condition is at most the norm over the shift.
                let condition = symbol.largest().max(1.0) / inverse.least;
                let tol = 64.0 * f64::EPSILON * all.len() as f64 * condition * whole.rest.norm_max();
                for (i, j) in (0..left.len()).flat_map(|i| (0..left.len()).map(move |j| (i, j))) {
                    let error = (parts.rest[(i, j)] - whole.rest[(place[i], place[j])]).abs();
                    assert!(error <= tol, "{geometry:?}, {near:?}: {error} above {tol}");
                }
            }
        });
    }

    #[test]
    fn a_condition_knows_no_scales_and_no_nan() {
        let matrix = |scale: f64| {
            Mat::from_fn(2, 2, |i, j| C64::new(if i == j { 2.0 } else { 1.0 }, 0.0) * scale.powi((i + j) as i32))
        };
        let of = |matrix: &Mat<C64>| condition(matrix, &matrix.partial_piv_lu().inverse());
        let plain = of(&matrix(1.0));
        assert!((plain - 4.0 / 3.0).abs() <= 1e-14 && (of(&matrix(1e3)) / plain - 1.0).abs() <= 1e-14);
        let mut broken = matrix(1.0);
        broken[(0, 1)] = C64::new(f64::NAN, 0.0);
        assert!(condition(&broken, &matrix(1.0)).is_nan());
    }
}
