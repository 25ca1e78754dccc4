/// Largest dimension of the Krylov space.
pub(super) const BASIS: usize = 20;

/// The least-squares problem of GMRES for one sample: a Hessenberg matrix, made triangular by Givens rotations as it grows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotations {
    triangle: [[f64; BASIS]; BASIS],
    cosines: [f64; BASIS],
    sines: [f64; BASIS],
    /// Right-hand side, rotated.
    rotated: [f64; BASIS + 1],
    /// Columns so far.
    pub(super) count: usize,
}

impl Rotations {
    pub(super) fn new() -> Self {
        let zeros = [0.0; BASIS];
        Self { triangle: [zeros; BASIS], cosines: zeros, sines: zeros, rotated: [0.0; BASIS + 1], count: 0 }
    }

    /// Begins with the norm of the right-hand side.
    pub(super) fn restart(&mut self, norm: f64) {
        self.count = 0;
        self.rotated[0] = norm;
    }

    /// Adds a column of the Hessenberg matrix, `below` under its diagonal; returns the norm of the residual.
    pub(super) fn push(&mut self, column: &[f64], below: f64) -> f64 {
        let k = self.count;
        let mut entries = [0.0; BASIS];
        entries[..=k].copy_from_slice(&column[..=k]);
        for i in 0..k {
            let (c, s) = (self.cosines[i], self.sines[i]);
            (entries[i], entries[i + 1]) = (c * entries[i] + s * entries[i + 1], c * entries[i + 1] - s * entries[i]);
        }
        let length = entries[k].hypot(below);
        let (c, s) = if length > 0.0 { (entries[k] / length, below / length) } else { (1.0, 0.0) };
        entries[k] = length;
        (self.cosines[k], self.sines[k]) = (c, s);
        for (row, entry) in entries[..=k].iter().enumerate() {
            self.triangle[row][k] = *entry;
        }
        (self.rotated[k], self.rotated[k + 1]) = (c * self.rotated[k], -s * self.rotated[k]);
        self.count = k + 1;
        self.rotated[k + 1].abs()
    }

    /// Coefficients of the solution in the basis.
    pub(super) fn solution(&self) -> [f64; BASIS] {
        let mut solution = [0.0; BASIS];
        for row in (0..self.count).rev() {
            let known: f64 = (row + 1..self.count).map(|j| self.triangle[row][j] * solution[j]).sum();
            let pivot = self.triangle[row][row];
            solution[row] = if pivot > 0.0 { (self.rotated[row] - known) / pivot } else { 0.0 };
        }
        solution
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fbp_linalg::assert_close;
    use fbp_linalg::testkit::Tol;

    #[test]
    fn a_small_hessenberg_system_is_solved() {
        // [2 1; 1 3; 0 0] y = [3, 4, 0] has the solution [1, 1].
        let mut rotations = Rotations::new();
        rotations.restart(5.0);
        // In the basis whose first vector is the right-hand side [3, 4]/5: [3 1; 1 2] is similar to a Hessenberg matrix; here
        // the system [3 1; 1 2] y = [5, 0].
        assert!(rotations.push(&[3.0], 1.0) > 0.0);
        let left = rotations.push(&[1.0, 2.0], 0.0);
        assert_close!([left], [0.0], Tol::eps::<f64>().times(8).scale(5.0));
        assert_close!(rotations.solution()[..2].to_vec(), vec![2.0, -1.0], Tol::eps::<f64>().times(32).scale(2.0));
    }
}
