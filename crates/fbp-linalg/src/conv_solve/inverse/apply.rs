/// Near fields of a batch, one sample after the other.
pub(crate) struct Apply<'a> {
    pub(crate) r: &'a [f64],
    /// Overwritten, or added to where the function says so.
    pub(crate) z: &'a mut [f64],
}

/// Squared lengths that a periodic solve predicts for one sample.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Forecast {
    /// `<z, r>` of `z = (M Mᴴ + shift)⁻¹ r`.
    pub(crate) product: f64,
    /// `|z|²`.
    pub(crate) square: f64,
}

impl Forecast {
    /// From `z` on the sites of the near field.
    pub(crate) fn of(r: &[f64], z: &[f64]) -> Self {
        let (mut product, mut square) = (0.0, 0.0);
        for (r, z) in r.iter().zip(z) {
            product += r * z;
            square += z * z;
        }
        Self { product, square }
    }
}
