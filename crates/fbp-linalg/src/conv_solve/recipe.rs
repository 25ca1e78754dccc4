use crate::conv_solve::inverse::boundary::BOUNDARY_LIMIT;

/// What the choice of a method depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvFacts {
    /// Number of equations `m`.
    pub rows: usize,
    /// Number of unknowns `n`.
    pub cols: usize,
    /// Groups of channels, each a system of its own.
    pub groups: usize,
    /// Planes of one group in the space that the iteration lives in, after the stride is unfolded.
    pub near_planes: usize,
    /// Planes of one group in the other space.
    pub far_planes: usize,
    /// Cells of the periodic grid.
    pub cells: usize,
    /// Order of the boundary system of one group, without the missing rows that are eliminated by frequency.
    pub boundary: usize,
    /// Flop of eliminating those rows.
    pub elimination_flops: f64,
    /// Flop of one forward and one adjoint convolution of one sample.
    pub pair_flops: f64,
    /// Whether the kernel is one pixel and every pixel is a system of its own.
    pub pixelwise: bool,
    /// Samples that the set-up is spread over.
    pub samples: usize,
}

/// How a [`ConvSolvePlan`](super::ConvSolvePlan) solves exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvRecipe {
    /// One small dense plan for all pixels of a 1×1 kernel.
    Pixelwise,
    /// The dense plan of the whole operator.
    Dense,
    /// Fourier transforms and the boundary system: direct, whatever the size of the image.
    Boundary,
    /// Conjugate gradients with the periodic inverse as preconditioner.
    Periodic,
    /// Conjugate gradients alone, for wide layers.
    Plain,
}

/// Largest shorter side of a dense operator.
const DENSE_LIMIT: usize = 4096;
/// Largest longer side of a dense operator.
const DENSE_LONG_LIMIT: usize = 8192;
/// Most planes for which small inverses per frequency pay.
const PERIODIC_LIMIT: usize = 32;

/// Floating-point operations per second of factorisations and products in `f64`, and of convolutions.
const FACTOR_RATE: f64 = 30e9;
const CONV_RATE: f64 = 15e9;
/// Bytes per second that a product with few columns reads.
const READ_RATE: f64 = 10e9;
/// Flop per second of transforms and sums over frequencies.
const FOURIER_RATE: f64 = 3e9;

/// Steps that windows along the border leave, counted as those without, and the seconds they take to set up.
const BORDER_STEPS: usize = 40;
const BORDER_SECONDS: f64 = 1.0;

impl ConvFacts {
    /// Seconds of set-up and per sample of a recipe, roughly, on two cores; infinite where it does not fit.
    pub fn cost(&self, recipe: ConvRecipe) -> (f64, f64) {
        let never = (f64::INFINITY, f64::INFINITY);
        let (rows, cols) = (self.rows as f64, self.cols as f64);
        let (short, long) = (rows.min(cols), rows.max(cols));
        match recipe {
            ConvRecipe::Pixelwise if self.pixelwise => (0.0, 0.0),
            ConvRecipe::Pixelwise => never,
            ConvRecipe::Dense if short <= DENSE_LIMIT as f64 && long <= DENSE_LONG_LIMIT as f64 => {
                let setup = (4.0 * short * short * long + 2.0 * short * short * short) / FACTOR_RATE;
                (setup, (4.0 * short * (short + 2.0 * long)) / (4.0 * READ_RATE))
            }
            ConvRecipe::Dense => never,
            ConvRecipe::Boundary if self.boundary <= BOUNDARY_LIMIT && self.near_planes <= 2 * PERIODIC_LIMIT => {
                let order = self.boundary as f64;
                let groups = self.groups as f64;
                let flops = 2.0 * order * order * order + self.elimination_flops;
                let setup = groups * flops / FACTOR_RATE + self.symbol_seconds();
                let products = groups * 4.0 * order * order / READ_RATE / 4.0;
                (setup, 3.0 * (products + self.fourier_seconds(true) + self.pair_flops / CONV_RATE))
            }
            ConvRecipe::Boundary => never,
            ConvRecipe::Periodic if self.near_planes <= PERIODIC_LIMIT => {
                let step = self.fourier_seconds(false) + self.pair_flops / CONV_RATE;
                (self.symbol_seconds(), self.iterations() * 0.6 * step)
            }
            ConvRecipe::Periodic => never,
            ConvRecipe::Plain => (0.0, self.iterations() * self.pair_flops / CONV_RATE),
        }
    }

    /// Whether windows along the border of the image pay for a periodic inverse that takes so many steps without them.
    pub(crate) fn border_pays(&self, steps: usize) -> bool {
        let step = self.fourier_seconds(false) + self.pair_flops / CONV_RATE;
        let saved = steps.saturating_sub(BORDER_STEPS) as f64 * step * self.samples as f64;
        saved > self.groups as f64 * BORDER_SECONDS
    }

    /// Iterations that plain conjugate gradients need: few where the near space has fewer planes, many otherwise.
    fn iterations(&self) -> f64 {
        if self.near_planes < self.far_planes && self.rows != self.cols { 80.0 } else { 800.0 }
    }

    fn symbol_seconds(&self) -> f64 {
        let (p, q) = (self.near_planes as f64, self.far_planes as f64);
        self.groups as f64 * self.cells as f64 * 4.0 * p * (p * p + p * q) / FOURIER_RATE
    }

    /// Transforms and products per frequency of one application.
    fn fourier_seconds(&self, boundary: bool) -> f64 {
        let (p, q, cells) = (self.near_planes as f64, self.far_planes as f64, self.cells as f64);
        let planes = if boundary { 4.0 * p + 2.0 * q } else { 2.0 * p };
        // With a boundary the inverse is applied four times, and the symbol six times.
        let sums = if boundary { 16.0 * p * p + 24.0 * p * q } else { 4.0 * p * p };
        self.groups as f64 * cells * (2.5 * planes * cells.log2().max(1.0) + sums) / FOURIER_RATE
    }
}

impl ConvRecipe {
    /// The cheapest recipe over all samples that are expected; nothing is solved here.
    ///
    /// ```
    /// use fbp_linalg::conv_solve::{ConvFacts, ConvRecipe};
    ///
    /// // 8 -> 4 channels, kernel 5, padding 2 on 64 × 64.
    /// let facts = ConvFacts {
    ///     rows: 16384, cols: 32768, groups: 1, near_planes: 4, far_planes: 8, cells: 4356, boundary: 1536,
    ///     elimination_flops: 2e9, pair_flops: 13.1e6, pixelwise: false, samples: 10_000,
    /// };
    /// assert_eq!(ConvRecipe::choose(&facts), ConvRecipe::Boundary);
    /// assert_eq!(ConvRecipe::choose(&ConvFacts { samples: 1, ..facts }), ConvRecipe::Periodic);
    /// ```
    pub fn choose(facts: &ConvFacts) -> Self {
        let all = [Self::Pixelwise, Self::Dense, Self::Boundary, Self::Periodic, Self::Plain];
        let total = |recipe: &Self| {
            let (setup, each) = facts.cost(*recipe);
            setup + facts.samples as f64 * each
        };
        all.into_iter().min_by(|a, b| total(a).total_cmp(&total(b))).unwrap_or(Self::Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(samples: usize) -> ConvFacts {
        ConvFacts {
            rows: 16384,
            cols: 32768,
            groups: 1,
            near_planes: 4,
            far_planes: 8,
            cells: 4356,
            boundary: 1536,
            elimination_flops: 2e9,
            pair_flops: 13.1e6,
            pixelwise: false,
            samples,
        }
    }

    #[test]
    fn one_pixel_kernels_need_no_transform() {
        assert_eq!(ConvRecipe::choose(&ConvFacts { pixelwise: true, ..facts(1) }), ConvRecipe::Pixelwise);
    }

    #[test]
    fn small_operators_are_dense() {
        let small = ConvFacts { rows: 144, cols: 300, cells: 36, boundary: 80, pair_flops: 1e5, ..facts(1000) };
        assert_eq!(ConvRecipe::choose(&small), ConvRecipe::Dense);
    }

    #[test]
    fn factors_must_pay_for_themselves() {
        assert_eq!(ConvRecipe::choose(&facts(100_000)), ConvRecipe::Boundary);
        assert_eq!(ConvRecipe::choose(&facts(2)), ConvRecipe::Periodic);
    }

    #[test]
    fn what_does_not_fit_is_never_chosen() {
        let wide = ConvFacts { near_planes: 256, far_planes: 512, boundary: 20_000, ..facts(1_000_000) };
        assert_eq!(ConvRecipe::choose(&wide), ConvRecipe::Plain);
        assert_eq!(wide.cost(ConvRecipe::Boundary).0, f64::INFINITY);
        let large = ConvFacts { boundary: BOUNDARY_LIMIT + 1, ..facts(1_000_000) };
        assert_eq!(ConvRecipe::choose(&large), ConvRecipe::Periodic);
    }
}
