use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Mat, Par};

use super::grid::End;
use crate::conv2d::Conv2dGeometry;

/// Kernels whose rows are closer to dependent than this are not whitened.
const RANK_TOL: f64 = 1e-9;

/// Equations mixed across channels so that the kernels of a group become orthonormal.
///
/// With the kernels of a group as the rows of `M = L Q` the equations `A v = r` and `L⁻¹ A v = L⁻¹ r` have the same
/// solutions, and the condition number of `M` disappears from the second.
#[derive(Clone, Debug)]
pub(crate) struct Whitening {
    /// `L⁻¹` of every group, row-major, lower triangular.
    mixes: Vec<Vec<f64>>,
    channels: usize,
    plane: usize,
    /// Weights of the mixed operator, in the layout of the given ones.
    pub(crate) weight: Vec<f64>,
}

impl Whitening {
    /// Whitens the equations, which live at `end`; `None` if the kernels of a group are numerically dependent.
    pub(crate) fn new(g: &Conv2dGeometry, end: End, weight: &[f64], par: Par) -> Option<Self> {
        let (co, ci) = (g.out_channels_per_group(), g.in_channels_per_group());
        let taps = g.kernel()[0] * g.kernel()[1];
        let (channels, others, plane) = match end {
            End::Output => (co, ci, g.out_shape().plane()),
            End::Input => (ci, co, g.in_shape().plane()),
        };
        // Entry of a group's weights for an equation channel and an index into its kernel.
        let place = |channel: usize, at: usize| match end {
            End::Output => channel * others * taps + at,
            End::Input => (at / taps * ci + channel) * taps + at % taps,
        };
        if channels > others * taps {
            return None;
        }
        let mut white = weight.to_vec();
        let mut mixes = Vec::with_capacity(g.groups());
        for (from, to) in weight.chunks_exact(co * ci * taps).zip(white.chunks_exact_mut(co * ci * taps)) {
            let tall = Mat::from_fn(others * taps, channels, |at, c| from[place(c, at)]);
            let qr = tall.qr();
            let lower = Mat::from_fn(channels, channels, |i, j| if j <= i { qr.R()[(j, i)] } else { 0.0 });
            let sizes = (0..channels).map(|i| lower[(i, i)].abs());
            let (least, most) = sizes.fold((f64::INFINITY, 0.0_f64), |(a, b), x| (a.min(x), b.max(x)));
            if most == 0.0 || least <= RANK_TOL * most {
                return None;
            }
            let mut mix = Mat::zeros(channels, channels);
            invert_lower_triangular(mix.as_mut(), lower.as_ref(), par);
            let q = qr.compute_thin_Q();
            for c in 0..channels {
                for at in 0..others * taps {
                    to[place(c, at)] = q[(at, c)];
                }
            }
            mixes.push((0..channels * channels).map(|at| mix[(at / channels, at % channels)]).collect());
        }
        Some(Self { mixes, channels, plane, weight: white })
    }

    /// `white <- L⁻¹ r` for every pixel of every sample.
    pub(crate) fn apply(&self, r: &[f64], white: &mut [f64]) {
        let group = self.channels * self.plane;
        let groups = self.mixes.iter().cycle();
        for ((r, white), mix) in r.chunks_exact(group).zip(white.chunks_exact_mut(group)).zip(groups) {
            for (c, white) in white.chunks_exact_mut(self.plane).enumerate() {
                white.fill(0.0);
                for (r, factor) in r.chunks_exact(self.plane).zip(&mix[c * self.channels..=c * self.channels + c]) {
                    white.iter_mut().zip(r).for_each(|(white, r)| *white += factor * r);
                }
            }
        }
    }
}
