use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Mat, Par};
use fbp_linalg::LinalgError;

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
        let (m, n) = matrix.shape();
        let order = m.min(n);
        let (mut u, mut v, mut sigma) = (Mat::zeros(m, order), Mat::zeros(n, order), Diag::zeros(order));
        let thin = ComputeSvdVectors::Thin;
        let mut memory = MemBuffer::new(svd_scratch::<f64>(m, n, thin, thin, Par::Seq, Default::default()));
        let stack = MemStack::new(&mut memory);
        svd(matrix.as_ref(), sigma.as_mut(), Some(u.as_mut()), Some(v.as_mut()), Par::Seq, stack, Default::default())
            .map_err(|why| LinalgError::Decomposition { what: "average pooling: svd", reason: format!("{why:?}") })?;
        let sigma = sigma.column_vector();
        axis.rank = (0..order).filter(|&k| sigma[k] > RANK_TOLERANCE * sigma[0]).count();
        for k in 0..axis.rank {
            let scale = 1.0 / sigma[k];
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
