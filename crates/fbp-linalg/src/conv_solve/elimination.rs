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
pub(super) struct Elimination<'a> {
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

impl<'a> Elimination<'a> {
    pub(super) fn new(boundary: &'a Boundary<'a>, mut symbols: Symbols) -> Self {
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
    /// [`LinalgError::Decomposition`] if one of them is worse conditioned than the limit.
    pub(super) fn run(self, rest: &mut Mat<f64>, limit: f64, par: Par) -> Result<Vec<C64>, LinalgError> {
        let (h, count, cols) = (self.missing.len(), self.lanes.len(), self.boundary.size[1]);
        let half = cols / 2 + 1;
        // `[lane][distance][lane]`.
        let mut taken = vec![0.0; count * self.distances.len() * count];
        let mut inverses = Vec::with_capacity(h * h * half);
        let mut product = Mat::<C64>::zeros(count, count);
        for frequency in 0..half {
            let system = Mat::from_fn(h, h, |i, j| self.entry(self.missing[i], self.missing[j], frequency));
            let inverse = system.partial_piv_lu().inverse();
            let condition = system.norm_max() * inverse.norm_max();
            if condition.is_nan() || condition > limit {
                return Err(failed(format!("condition {condition:.1e} on missing rows at frequency {frequency}")));
            }
            inverses.extend((0..h * h).map(|at| inverse[(at / h, at % h)]));
            if count > 0 {
                let coupling = Mat::from_fn(h, count, |i, j| self.entry(self.missing[i], self.lanes[j], frequency));
                let solved = &inverse * &coupling;
                let one = C64 { re: 1.0, im: 0.0 };
                matmul(product.as_mut(), Accum::Replace, coupling.adjoint(), solved.as_ref(), one, par);
                self.add(product.as_ref(), frequency, &mut taken, par);
            }
        }
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
    use faer::dyn_stack::{MemBuffer, MemStack};
    use rand_chacha::ChaCha8Rng;

    use super::super::cg::Pair;
    use super::super::circulant::{Apply, Circulant, GroupParts};
    use super::super::fft::{PlaneFft, Precision};
    use super::super::grid::{End, Grid, NOWHERE};
    use super::super::plan::symbols;
    use super::super::tests::{random_params, shifted_gram};
    use super::*;
    use crate::FeatureShape;
    use crate::conv2d::{Conv2d, Conv2dParams};
    use crate::testkit::{for_seeds, normal_vec};

    const SHIFT: f64 = 0.5;

    /// Solves with and without elimination and compares the products with the dense system; returns the number of lines and of
    /// other missing sites.
    fn inverts<P: Precision>(params: Conv2dParams, near: End, par: Par, rng: &mut ChaCha8Rng) -> [usize; 2] {
        let geometry = params.check().unwrap();
        let pair = Pair { conv: Conv2d::new(geometry), weight: normal_vec(geometry.weight_len(), rng), near };
        let (grid, batch) = (Grid::new(&geometry), 2);
        let fft = PlaneFft::new(grid.size());
        let symbols = symbols(&pair, &grid, &pair.weight, &fft);
        let inverses: Vec<_> = symbols.iter().map(|symbol| symbol.gram_inverse(SHIFT).unwrap()).collect();
        let pairs = symbols.iter().zip(&inverses);
        let parts: Vec<_> = pairs.map(|(symbol, inverse)| GroupParts { symbol, inverse: &inverse.values }).collect();
        let system = shifted_gram(&geometry, &pair.weight, near, SHIFT);
        let order = system.nrows();
        let used = |at: usize| grid.sites(near).index[at % grid.sites(near).len()] != NOWHERE;
        let r = normal_vec::<f64>(batch * order, rng);
        let mut z = vec![f64::NAN; batch * order];
        let plan = Circulant::<P>::with_boundary(&grid, near, &parts, &fft, par).unwrap();
        let mut memory = MemBuffer::new(plan.scratch(&grid, near, batch, par));
        memory.iter_mut().for_each(|byte| {
            byte.write(0xff);
        });
        plan.apply(Apply { r: &r, z: &mut z }, (&grid, near), par, MemStack::new(&mut memory));
        // The eigenvalues lie between the shift and the norm, so that this bounds what rounding of `z` does to the product.
        let norm = system.norm_l2();
        let tol = 64.0 * P::EPSILON.to_f64() * (norm / SHIFT) * (order as f64).sqrt();
        for (r, z) in r.chunks_exact(order).zip(z.chunks_exact(order)) {
            for i in (0..order).filter(|&i| used(i)) {
                let product: f64 = (0..order).map(|j| system[(i, j)] * z[j]).sum();
                assert!(
                    (product - r[i]).abs() <= tol,
                    "{geometry:?}, {near:?}: {} above {tol}",
                    (product - r[i]).abs()
                );
            }
        }
        [grid.lines(), grid.boundary()]
    }

    #[test]
    fn factors_with_eliminated_rows_are_the_inverse() {
        let image = Conv2dParams::new(FeatureShape::image(2, 9, 14), 3, [3, 3]);
        for_seeds(4, |rng| {
            for near in [End::Input, End::Output] {
                for par in [Par::Seq, Par::rayon(2)] {
                    // Wide, tall, with padding, stride, dilation and groups.
                    for params in [image, image.padding([1, 1]), image.padding([2, 0]), image.stride([2, 1])] {
                        assert!(inverts::<f64>(params, near, par, rng).iter().all(|count| *count > 0));
                        inverts::<f32>(params, near, par, rng);
                    }
                    inverts::<f64>(Conv2dParams::new(FeatureShape::image(2, 11, 5), 2, [4, 2]), near, par, rng);
                    inverts::<f64>(image.dilation([2, 3]).padding([1, 2]), near, par, rng);
                    inverts::<f64>(random_params(rng), near, par, rng);
                }
            }
        });
    }

    #[test]
    fn what_is_left_is_part_of_the_whole_inverse() {
        for_seeds(8, |rng| {
            let geometry = random_params(rng).check().unwrap();
            for near in [End::Input, End::Output] {
                let pair = Pair { conv: Conv2d::new(geometry), weight: normal_vec(geometry.weight_len(), rng), near };
                let grid = Grid::new(&geometry);
                let fft = PlaneFft::new(grid.size());
                let symbols = symbols(&pair, &grid, &pair.weight, &fft);
                let inverse = symbols[0].gram_inverse(SHIFT).unwrap();
                let boundary = Boundary {
                    symbol: &symbols[0],
                    inverse: &inverse.values,
                    near: grid.sites(near),
                    far: grid.sites(super::super::circulant::opposite(near)),
                    size: grid.size(),
                    fft: &fft,
                };
                let (parts, whole) =
                    (boundary.solve::<f64>(Par::Seq).unwrap(), boundary.whole::<f64>(Par::Seq).unwrap());
                assert_eq!(parts.strips.is_some(), grid.lines() > 0);
                let sites = |others: bool| -> Vec<(bool, u32)> {
                    let of = |sites: &'_ super::super::grid::Sites| {
                        if others { sites.others.clone() } else { sites.missing.clone() }
                    };
                    let near = of(boundary.near).into_iter().map(|at| (false, at));
                    near.chain(of(boundary.far).into_iter().map(|at| (true, at))).collect()
                };
                let (left, all) = (sites(true), sites(false));
                let place: Vec<usize> = left.iter().map(|site| all.binary_search(site).unwrap()).collect();
                let largest = whole.rest.norm_max();
                for (i, j) in (0..left.len()).flat_map(|i| (0..left.len()).map(move |j| (i, j))) {
                    let error = (parts.rest[(i, j)] - whole.rest[(place[i], place[j])]).abs();
                    // Quasi-definite with blocks of condition at most the norm over the shift.
                    let condition = inverse.least.recip() * symbols[0].largest().max(1.0);
                    let tol = 64.0 * f64::EPSILON * (all.len() as f64) * condition * largest;
                    assert!(error <= tol, "{geometry:?}, {near:?}: {error} above {tol}");
                }
            }
        });
    }
}
