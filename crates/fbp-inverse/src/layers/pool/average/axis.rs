use faer::{Mat, Par};
use fbp_linalg::LinalgError;
use fbp_linalg::dense::{Spectrum, thin_svd};

/// Singular values up to this share of the largest count as zero.
const RANK_TOLERANCE: f64 = 1e-10;

/// Weighted sums over runs of sites along one axis: a small matrix `windows × sites`, and its pseudo-inverse.
#[derive(Clone, Debug)]
pub(super) struct MeanAxis {
    /// Number of sites.
    pub(super) size: usize,
    /// First site of every window and the one after its last.
    pub(super) windows: Vec<[usize; 2]>,
    /// Weight of the sites of every window.
    pub(super) weights: Vec<f64>,
    /// Pseudo-inverse, `sites × windows`.
    pub(super) inverse: Mat<f64>,
    /// Number of independent windows.
    pub(super) rank: usize,
}

impl MeanAxis {
    /// Builds the pseudo-inverse.
    pub(super) fn new(size: usize, windows: Vec<[usize; 2]>, weights: Vec<f64>) -> Result<Self, LinalgError> {
        let mut axis = Self { size, windows, weights, inverse: Mat::new(), rank: 0 };
        let matrix = Mat::from_fn(axis.count(), size, |window, site| axis.entry(window, site));
        let Spectrum { u, sigma, mut v } = thin_svd(matrix.as_ref(), Par::Seq)?;
        axis.rank = (0..sigma.len()).filter(|&k| sigma[k] > RANK_TOLERANCE * sigma[0]).count();
        for (k, sigma) in sigma.iter().enumerate().take(axis.rank) {
            let scale = 1.0 / sigma;
            v.col_mut(k).iter_mut().for_each(|entry| *entry *= scale);
        }
        axis.inverse = v.subcols(0, axis.rank) * u.subcols(0, axis.rank).transpose();
        Ok(axis)
    }

    /// Number of windows.
    pub(super) fn count(&self) -> usize {
        self.windows.len()
    }

    /// Entry of the matrix.
    pub(super) fn entry(&self, window: usize, site: usize) -> f64 {
        let [start, end] = self.windows[window];
        if (start..end).contains(&site) { self.weights[window] } else { 0.0 }
    }

    /// Whether some window holds the site.
    pub(super) fn covers(&self, site: usize) -> bool {
        self.windows.iter().any(|&[start, end]| (start..end).contains(&site))
    }

    /// Smallest and largest sum of the weights of a window.
    pub(super) fn sums(&self) -> (f64, f64) {
        let sums = self.windows.iter().zip(&self.weights).map(|([start, end], weight)| weight * (end - start) as f64);
        sums.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), sum| (low.min(sum), high.max(sum)))
    }
}
