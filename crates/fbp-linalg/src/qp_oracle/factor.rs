use super::{dot, norm};

/// QR factors of a growing set of independent columns, by Gram-Schmidt with every column orthogonalised twice.
#[derive(Default)]
pub(super) struct Factor {
    basis: Vec<Vec<f64>>,
    /// Column `j` of the triangle: `j + 1` entries.
    upper: Vec<Vec<f64>>,
}

impl Factor {
    /// Factors of the given columns.
    pub(super) fn of<'a>(columns: impl Iterator<Item = &'a [f64]>) -> Self {
        let mut factor = Self::default();
        for column in columns {
            let (mut along, mut across) = factor.split(column);
            let length = norm(&across);
            across.iter_mut().for_each(|x| *x /= length);
            along.push(length);
            factor.basis.push(across);
            factor.upper.push(along);
        }
        factor
    }

    /// Orthonormal basis of the columns.
    pub(super) fn basis(&self) -> &[Vec<f64>] {
        &self.basis
    }

    /// Coordinates of `c` in the basis, and what is left of it orthogonal to the basis.
    pub(super) fn split(&self, c: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mut along, mut across) = (vec![0.0; self.basis.len()], c.to_vec());
        for _ in 0..2 {
            for (q, total) in self.basis.iter().zip(&mut along) {
                let share = dot(q, &across);
                across.iter_mut().zip(q).for_each(|(x, q)| *x -= share * q);
                *total += share;
            }
        }
        (along, across)
    }

    /// `x` with `R x = c`.
    pub(super) fn solve_upper(&self, mut c: Vec<f64>) -> Vec<f64> {
        for j in (0..c.len()).rev() {
            c[j] /= self.upper[j][j];
            for i in 0..j {
                c[i] -= self.upper[j][i] * c[j];
            }
        }
        c
    }

    /// `x` with `Rᵀ x = c`.
    pub(super) fn solve_upper_transposed(&self, mut c: Vec<f64>) -> Vec<f64> {
        for j in 0..c.len() {
            let known: f64 = (0..j).map(|i| self.upper[j][i] * c[i]).sum();
            c[j] = (c[j] - known) / self.upper[j][j];
        }
        c
    }
}
