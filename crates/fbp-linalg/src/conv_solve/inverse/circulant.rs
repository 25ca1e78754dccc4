use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::{temp_mat_scratch, temp_mat_zeroed};
use faer::mat::AsMatMut;
use faer::{MatMut, Par};
use rustfft::num_complex::Complex;

use super::boundary::{Boundary, Solved};
use super::fft::{PlaneFft, Precision};
use super::strips::Spectra;
use super::symbol::{C64, Symbol};
use super::symmetric::{symmetric_scratch, symmetric_times};
use crate::conv_solve::inverse::apply::Apply;
use crate::conv_solve::inverse::products::add_product;
use crate::conv_solve::inverse::products::multiply;
use crate::conv_solve::inverse::products::multiply_adjoint;
use crate::conv_solve::operator::grid::opposite;
use crate::conv_solve::operator::grid::{End, Grid, NOWHERE};
use crate::parallel::{SplitBatch, for_each_part, parts_scratch};
use crate::{LinalgError, Real};

/// Approximate or exact inverse of `B Bᵀ + shift·I`, `B` the convolution from the far to the near field.
///
/// Without a boundary matrix it is the periodic inverse, embedded; with one it is exact up to rounding:
///
/// ```text
/// w0 = T⁻¹ r,   [u; v] = S⁻¹ [-(w0)_N; -(Mᴴ w0)_F],   w = R (w0 + T⁻¹ (u + M v))
/// ```
///
/// Where whole missing rows are eliminated, `S` is solved in blocks: sources on these rows take away what `w` has there,
/// frequency by frequency; then those on the other missing sites, and once more those on the rows, for what that brings.
///
/// # Source
/// Own derivation: the conditions `w_N = 0` and `v = (Mᴴ w)_F` turn the periodic inverse into that of `B Bᵀ + shift·I`.
#[derive(Clone, Debug)]
pub(crate) struct Circulant<P: Precision> {
    fft: PlaneFft<P>,
    groups: Vec<Group<P>>,
    near_len: usize,
    /// What of the boundary is taken into account.
    reach: Reach,
}

/// What the boundary adds to a periodic inverse.
#[derive(Clone, Copy, Debug, Default)]
struct Reach {
    /// Whether the far field is transformed.
    far: bool,
    /// Missing rows that are eliminated by frequency.
    lines: usize,
    /// Most missing sites that are not eliminated so.
    order: usize,
}

impl Reach {
    fn of(grid: &Grid, near: End) -> Self {
        let far = !grid.sites(opposite(near)).missing.is_empty();
        Self { far, lines: grid.lines(), order: grid.missing() }
    }
}

#[derive(Clone, Debug)]
struct Group<P> {
    /// `(M Mᴴ + shift)⁻¹ / cells`, `[near][near][frequency]`.
    inverse: Vec<Complex<P>>,
    /// `M`, `[near][far][frequency]`; only with a boundary.
    symbol: Vec<Complex<P>>,
    boundary: Option<Solved<P>>,
}

fn narrow<P: Real>(values: &[C64], factor: f64) -> Vec<Complex<P>> {
    let real = |x: f64| P::from_f64(factor * x);
    values.iter().map(|z| Complex { re: real(z.re), im: real(z.im) }).collect()
}

/// `inverse` and `symbol` of one group, before they are rounded.
pub(crate) struct GroupParts<'a> {
    pub(crate) symbol: &'a Symbol,
    pub(crate) inverse: &'a [C64],
}

fn boundary<'a>(grid: &'a Grid, near: End, parts: &GroupParts<'a>, fft: &'a PlaneFft<f64>) -> Boundary<'a> {
    let (symbol, inverse, far) = (parts.symbol, parts.inverse, opposite(near));
    Boundary { symbol, inverse, near: grid.sites(near), far: grid.sites(far), size: grid.size(), fft }
}

impl<P: Precision> Circulant<P> {
    /// The periodic inverse of every group.
    pub(crate) fn periodic(grid: &Grid, near: End, groups: &[GroupParts<'_>]) -> Self {
        let factor = 1.0 / grid.cells() as f64;
        let group = |parts: &GroupParts<'_>| Group {
            inverse: narrow(parts.inverse, factor),
            symbol: Vec::new(),
            boundary: None,
        };
        let near_len = grid.sites(near).len();
        Self {
            fft: PlaneFft::new(grid.size()),
            groups: groups.iter().map(group).collect(),
            near_len,
            reach: Reach::default(),
        }
    }

    /// Whether missing rows are eliminated from a boundary system.
    pub(crate) fn eliminates(&self) -> bool {
        self.groups.iter().any(|group| group.boundary.as_ref().is_some_and(|solved| solved.strips.is_some()))
    }

    /// The inverse with the boundary taken into account, with missing rows eliminated if that is allowed and goes well.
    ///
    /// # Errors
    /// [`LinalgError::Decomposition`] if a boundary matrix is not numerically definite, or too large.
    pub(crate) fn with_boundary(
        grid: &Grid,
        near: End,
        groups: &[GroupParts<'_>],
        eliminate: bool,
        fft: &PlaneFft<f64>,
        par: Par,
    ) -> Result<Self, LinalgError> {
        let mut plan = Self::periodic(grid, near, groups);
        if grid.missing() == 0 {
            return Ok(plan);
        }
        plan.reach = Reach::of(grid, near);
        for (group, parts) in plan.groups.iter_mut().zip(groups) {
            group.symbol = narrow(&parts.symbol.values, 1.0);
            group.boundary = Some(boundary(grid, near, parts, fft).solve(eliminate, par)?);
        }
        Ok(plan)
    }

    fn fields_scratch(&self, grid: &Grid, near: End) -> StackReq {
        fields_scratch(&self.fft, self.reach, (grid, near))
    }

    /// Workspace of [`apply`](Self::apply) for `batch` samples.
    pub(crate) fn scratch(&self, grid: &Grid, near: End, batch: usize, par: Par) -> StackReq {
        scratch(&self.fft, self.reach, (grid, near), batch, par)
    }

    /// The same for a plan with a boundary matrix that is not there yet.
    pub(crate) fn scratch_of(grid: &Grid, near: End, batch: usize, par: Par) -> StackReq {
        scratch(&PlaneFft::<P>::new(grid.size()), Reach::of(grid, near), (grid, near), batch, par)
    }

    /// `z <- (B Bᵀ + shift)⁻¹ r` for every sample, exactly or nearly.
    pub(crate) fn apply(&self, pass: Apply<'_>, (grid, near): (&Grid, End), par: Par, stack: &mut MemStack) {
        let batch = pass.r.len() / (self.near_len * self.groups.len());
        let sample = self.near_len * self.groups.len();
        let Apply { r, z } = pass;
        for (index, group) in self.groups.iter().enumerate() {
            let order = group.boundary.as_ref().map_or(0, |solved| solved.rest.nrows());
            let (mut edge, stack) = temp_mat_zeroed::<P, _, _>(order, batch, stack);
            let (mut inner, stack) = temp_mat_zeroed::<P, _, _>(order, batch, stack);
            let (mut edge, mut inner) = (edge.as_mat_mut(), inner.as_mat_mut());
            let work = Work { plan: self, group, grid, near, offset: index * self.near_len, sample };
            let part = self.fields_scratch(grid, near);
            let first = Stage { r, z: &mut *z, edge: edge.as_mut(), sample };
            for_each_part(first, part, par, stack, &|stage, stack| work.first(stage, stack), &|(), ()| ());
            let Some(solved) = group.boundary.as_ref().filter(|_| order > 0) else { continue };
            symmetric_times(solved.rest.as_ref(), edge.as_ref(), inner.as_mut(), par, stack);
            let second = Stage { r, z: &mut *z, edge: inner, sample };
            for_each_part(second, part, par, stack, &|stage, stack| work.second(stage, stack), &|(), ()| ());
        }
    }
}

fn fields_scratch<P: Precision>(fft: &PlaneFft<P>, reach: Reach, (grid, near): (&Grid, End)) -> StackReq {
    let (p, q) = (grid.sites(near).planes, grid.sites(opposite(near)).planes);
    let q = if reach.far { q } else { 0 };
    let (cells, freqs) = (fft.plane_len(), fft.spectrum_len());
    let spectra = (2 * p + q) * freqs + 2 * reach.lines * fft.half();
    let complex = StackReq::new::<Complex<P>>(spectra).and(StackReq::new::<Complex<P>>(fft.scratch_len()));
    StackReq::new::<P>((p + q) * cells).and(complex)
}

fn scratch<P: Precision>(fft: &PlaneFft<P>, reach: Reach, at: (&Grid, End), batch: usize, par: Par) -> StackReq {
    let edge = temp_mat_scratch::<P>(reach.order, batch);
    let inner = symmetric_scratch::<P>(reach.order, batch, par);
    parts_scratch(fields_scratch(fft, reach, at), batch, par).or(inner).and(edge).and(edge)
}

/// Part of a batch in one stage.
struct Stage<'a, P> {
    r: &'a [f64],
    z: &'a mut [f64],
    edge: MatMut<'a, P>,
    sample: usize,
}

impl<P: Real> SplitBatch for Stage<'_, P> {
    fn batch(&self) -> usize {
        self.r.len() / self.sample
    }

    fn split_at(self, count: usize) -> (Self, Self) {
        let (r, r_rest) = self.r.split_at(count * self.sample);
        let (z, z_rest) = self.z.split_at_mut(count * self.sample);
        let (edge, edge_rest) = self.edge.split_at_col_mut(count);
        let sample = self.sample;
        (Self { r, z, edge, sample }, Self { r: r_rest, z: z_rest, edge: edge_rest, sample })
    }
}

/// One group of one plan at work.
struct Work<'a, P: Precision> {
    plan: &'a Circulant<P>,
    group: &'a Group<P>,
    grid: &'a Grid,
    near: End,
    /// First entry of the group in a sample.
    offset: usize,
    sample: usize,
}

/// Planes and spectra of one sample.
struct Fields<'a, P> {
    near: &'a mut [P],
    far: &'a mut [P],
    a: &'a mut [Complex<P>],
    b: &'a mut [Complex<P>],
    c: &'a mut [Complex<P>],
    /// Missing rows by frequency: what is found there, and the sources that take it away.
    found: &'a mut [Complex<P>],
    wanted: &'a mut [Complex<P>],
    scratch: &'a mut [Complex<P>],
}

impl<P: Precision> Work<'_, P> {
    fn with_fields(&self, stack: &mut MemStack, run: impl FnOnce(Fields<'_, P>)) {
        let Circulant { fft, reach, .. } = self.plan;
        let (p, q) = (self.grid.sites(self.near).planes, self.grid.sites(opposite(self.near)).planes);
        let q = if reach.far { q } else { 0 };
        let (cells, freqs, lines) = (fft.plane_len(), fft.spectrum_len(), reach.lines * fft.half());
        let (real, complex) = (<P as Real>::ZERO, Complex { re: <P as Real>::ZERO, im: <P as Real>::ZERO });
        let (mut planes, stack) = stack.make_with(cells * (p + q), |_| real);
        let (mut spectra, stack) = stack.make_with(freqs * (2 * p + q) + 2 * lines, |_| complex);
        let (mut scratch, _) = stack.make_with(fft.scratch_len(), |_| complex);
        let (near, far) = planes.split_at_mut(cells * p);
        let (a, rest) = spectra.split_at_mut(freqs * p);
        let (b, rest) = rest.split_at_mut(freqs * p);
        let (c, rest) = rest.split_at_mut(freqs * q);
        let (found, wanted) = rest.split_at_mut(lines);
        run(Fields { near, far, a, b, c, found, wanted, scratch: &mut scratch });
    }

    fn forward(&self, planes: &mut [P], spectra: &mut [Complex<P>], scratch: &mut [Complex<P>]) {
        let fft = &self.plan.fft;
        let planes = planes.chunks_exact_mut(fft.plane_len());
        planes.zip(spectra.chunks_exact_mut(fft.spectrum_len())).for_each(|(x, y)| fft.forward(x, y, scratch));
    }

    fn inverse(&self, spectra: &mut [Complex<P>], planes: &mut [P], scratch: &mut [Complex<P>]) {
        let fft = &self.plan.fft;
        let planes = planes.chunks_exact_mut(fft.plane_len());
        planes.zip(spectra.chunks_exact_mut(fft.spectrum_len())).for_each(|(x, y)| fft.inverse(y, x, scratch));
    }

    /// The fields that belong to the sources `a`, with those on missing rows that make them vanish there: `b` of the near
    /// field. With `far`, `c` of the far one.
    fn solve(&self, fields: &mut Fields<'_, P>, far: bool) {
        let freqs = self.plan.fft.spectrum_len();
        let Fields { a, b, c, found, wanted, .. } = fields;
        multiply(&self.group.inverse, a, b, freqs);
        let strips = self.group.boundary.as_ref().and_then(|solved| solved.strips.as_ref());
        if let Some(strips) = strips {
            if strips.reach_far() {
                multiply_adjoint(&self.group.symbol, b, c, freqs);
            }
            strips.solve(Spectra { near: b, near_source: a, far: c }, found, wanted);
            if strips.reach_far() {
                add_product(&self.group.symbol, c, a, freqs);
            }
            multiply(&self.group.inverse, a, b, freqs);
        }
        if far {
            multiply_adjoint(&self.group.symbol, b, c, freqs);
        }
    }

    /// Missing sites of the near and the far field that the boundary matrix belongs to.
    fn edges(&self) -> (&[u32], &[u32]) {
        let sites = |end| self.group.boundary.as_ref().map_or(&[][..], |solved| solved.sites(self.grid.sites(end)));
        (sites(self.near), sites(opposite(self.near)))
    }

    /// `z <- w`, the fields with the sources on missing rows, and `edge <- [-w_N; -(Mᴴ w)_F]` on the other missing sites.
    fn first(&self, mut stage: Stage<'_, P>, stack: &mut MemStack) {
        let (near, (near_edge, far_edge)) = (self.grid.sites(self.near), self.edges());
        self.with_fields(stack, |mut fields| {
            let samples = stage.r.chunks_exact(self.sample).zip(stage.z.chunks_exact_mut(self.sample));
            for (j, (r, z)) in samples.enumerate() {
                let (r, z) = (&r[self.offset..][..near.len()], &mut z[self.offset..][..near.len()]);
                fields.near.fill(<P as Real>::ZERO);
                for (&at, &r) in near.index.iter().zip(r).filter(|(at, _)| **at != NOWHERE) {
                    fields.near[at as usize] = <P as Real>::from_f64(r);
                }
                self.forward(fields.near, fields.a, fields.scratch);
                self.solve(&mut fields, !far_edge.is_empty());
                if !far_edge.is_empty() {
                    self.inverse(fields.c, fields.far, fields.scratch);
                    for (i, &at) in far_edge.iter().enumerate() {
                        stage.edge[(near_edge.len() + i, j)] = -fields.far[at as usize];
                    }
                }
                self.inverse(fields.b, fields.near, fields.scratch);
                for (i, &at) in near_edge.iter().enumerate() {
                    stage.edge[(i, j)] = -fields.near[at as usize];
                }
                for (&at, z) in near.index.iter().zip(z) {
                    *z = if at == NOWHERE { 0.0 } else { fields.near[at as usize].to_f64() };
                }
            }
        });
    }

    /// `z += R T⁻¹ (u + M v)`, with what keeps the fields at zero on missing rows.
    fn second(&self, stage: Stage<'_, P>, stack: &mut MemStack) {
        let freqs = self.plan.fft.spectrum_len();
        let (near, (near_edge, far_edge)) = (self.grid.sites(self.near), self.edges());
        self.with_fields(stack, |mut fields| {
            for (j, z) in stage.z.chunks_exact_mut(self.sample).enumerate() {
                fields.near.fill(<P as Real>::ZERO);
                for (i, &at) in near_edge.iter().enumerate() {
                    fields.near[at as usize] = stage.edge[(i, j)];
                }
                self.forward(fields.near, fields.a, fields.scratch);
                if !far_edge.is_empty() {
                    fields.far.fill(<P as Real>::ZERO);
                    for (i, &at) in far_edge.iter().enumerate() {
                        fields.far[at as usize] = stage.edge[(near_edge.len() + i, j)];
                    }
                    self.forward(fields.far, fields.c, fields.scratch);
                    add_product(&self.group.symbol, fields.c, fields.a, freqs);
                }
                self.solve(&mut fields, false);
                self.inverse(fields.b, fields.near, fields.scratch);
                for (&at, z) in near.index.iter().zip(&mut z[self.offset..]).filter(|(at, _)| **at != NOWHERE) {
                    *z += fields.near[at as usize].to_f64();
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use faer::dyn_stack::MemBuffer;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::FeatureShape;
    use crate::conv_solve::inverse::symbol::symbols;
    use crate::conv_solve::operator::pair::Pair;
    use crate::conv_solve::tests::{random_params, shifted_gram};
    use crate::conv2d::{Conv2d, Conv2dParams};
    use crate::testkit::{for_seeds, normal_vec};

    const SHIFT: f64 = 0.5;

    /// Factors with missing rows eliminated, and without, against the dense system; returns the grid.
    fn inverts<P: Precision>(params: Conv2dParams, near: End, par: Par, rng: &mut ChaCha8Rng) -> Grid {
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
        let r = normal_vec::<f64>(batch * order, rng);
        for eliminated in [true, false] {
            let plan = Circulant::<P>::with_boundary(&grid, near, &parts, eliminated, &fft, par).unwrap();
            assert_eq!(plan.eliminates(), eliminated && grid.lines() > 0, "{geometry:?}");
            let mut z = vec![f64::NAN; batch * order];
            let mut memory = MemBuffer::new(plan.scratch(&grid, near, batch, par));
            memory.iter_mut().for_each(|byte| {
                byte.write(0xff);
            });
            plan.apply(Apply { r: &r, z: &mut z }, (&grid, near), par, MemStack::new(&mut memory));
            // The eigenvalues lie between the shift and the norm, so that this bounds what rounding of `z` does.
            let tol = 64.0 * P::EPSILON.to_f64() * (system.norm_l2() / SHIFT) * (order as f64).sqrt();
            for (r, z) in r.chunks_exact(order).zip(z.chunks_exact(order)) {
                let used = |i: &usize| grid.sites(near).index[i % grid.sites(near).len()] != NOWHERE;
                for i in (0..order).filter(used) {
                    let error = ((0..order).map(|j| system[(i, j)] * z[j]).sum::<f64>() - r[i]).abs();
                    assert!(error <= tol, "{geometry:?}, {near:?}, {eliminated}: {error} above {tol}");
                }
            }
        }
        grid
    }

    #[test]
    fn factors_are_the_inverse() {
        let image = Conv2dParams::new(FeatureShape::image(2, 9, 14), 3, [3, 3]);
        for_seeds(4, |rng| {
            for near in [End::Input, End::Output] {
                for par in [Par::Seq, Par::rayon(2)] {
                    for params in [image, image.padding([1, 1]), image.padding([2, 0]), image.stride([2, 1])] {
                        let grid = inverts::<f64>(params, near, par, rng);
                        assert!(grid.lines() > 0 && grid.boundary() > 0);
                        inverts::<f32>(params, near, par, rng);
                    }
                    inverts::<f64>(image.dilation([2, 3]).padding([1, 2]), near, par, rng);
                    inverts::<f64>(random_params(rng), near, par, rng);
                }
            }
        });
    }

    #[test]
    fn the_grid_is_turned_so_that_whole_rows_are_missing() {
        let tall = FeatureShape::image(2, 12, 7);
        for_seeds(2, |rng| {
            for (image, kernel) in [(tall, [4, 1]), (tall, [1, 4]), (FeatureShape::image(2, 7, 7), [1, 3])] {
                let grid = inverts::<f64>(Conv2dParams::new(image, 3, kernel), End::Output, Par::Seq, rng);
                assert!(grid.lines() > 0 && grid.boundary() == 0, "{kernel:?}");
            }
            let both = inverts::<f64>(Conv2dParams::new(tall, 2, [3, 3]), End::Input, Par::Seq, rng);
            assert_eq!(both.size(), [7, 12]);
        });
    }
}
