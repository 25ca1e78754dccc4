//! Sums of products as if in twice the precision of `f64`.

/// An unevaluated sum of two doubles.
///
/// # Source
/// Ogita, Rump, Oishi, *Accurate sum and dot product*, SIAM J. Sci. Comput. 26 (2005), algorithm 5.3.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Exact {
    high: f64,
    low: f64,
}

impl Exact {
    pub(crate) fn add(&mut self, x: f64) {
        let sum = self.high + x;
        let back = sum - self.high;
        self.low += (self.high - (sum - back)) + (x - back);
        self.high = sum;
    }

    pub(crate) fn add_product(&mut self, a: f64, b: f64) {
        let product = a * b;
        self.add(product);
        self.low += a.mul_add(b, -product);
    }

    pub(crate) fn value(self) -> f64 {
        self.high + self.low
    }
}

/// `Σ a_j x_j`.
pub(crate) fn dot(a: &[f64], x: &[f64]) -> f64 {
    let mut sum = Exact::default();
    a.iter().zip(x).for_each(|(&a, &x)| sum.add_product(a, x));
    sum.value()
}

/// Euclidean norm.
pub(crate) fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

/// `|x - y|`.
pub(crate) fn distance(x: &[f64], y: &[f64]) -> f64 {
    norm(&x.iter().zip(y).map(|(x, y)| x - y).collect::<Vec<_>>())
}
