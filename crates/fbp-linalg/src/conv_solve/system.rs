use crate::conv_solve::operator::grid::{End, Grid};
use crate::conv2d::Conv2dGeometry;
use crate::{FeatureShape, LinalgError, Real, expect_finite};

/// An affine convolution `v -> A v + b`, or its transpose as a layer of its own.
#[derive(Clone, Copy, Debug)]
pub struct ConvSystem<'a, W> {
    /// The convolution; for a transposed one, the convolution that it transposes.
    pub geometry: Conv2dGeometry,
    /// Its weights, `[out, in/groups, kh, kw]` of the geometry.
    pub weight: &'a [W],
    /// One value per channel of the equations; `None` is zero.
    pub bias: Option<&'a [W]>,
    /// Whether `A` is the adjoint of the convolution, as in a transposed convolution.
    pub transposed: bool,
}

impl<W: Real> ConvSystem<'_, W> {
    /// Shape of `v`.
    pub fn in_shape(&self) -> FeatureShape {
        if self.transposed { self.geometry.out_shape() } else { self.geometry.in_shape() }
    }

    /// Shape of `A v + b`.
    pub fn out_shape(&self) -> FeatureShape {
        if self.transposed { self.geometry.in_shape() } else { self.geometry.out_shape() }
    }

    /// Side of the convolution that holds the equations.
    pub(crate) fn equations(&self) -> End {
        if self.transposed { End::Input } else { End::Output }
    }

    pub(crate) fn check(&self) -> Result<(), LinalgError> {
        let (found, expected) = (self.weight.len(), self.geometry.weight_len());
        if found != expected {
            return Err(LinalgError::Length { what: "conv solve: weight", expected, found });
        }
        let column = |values| faer::MatRef::from_column_major_slice(values, values.len(), 1);
        expect_finite("conv solve: weight", column(self.weight))?;
        if let Some(bias) = self.bias {
            let (found, expected) = (bias.len(), self.out_shape().channels);
            if found != expected {
                return Err(LinalgError::Length { what: "conv solve: bias", expected, found });
            }
            expect_finite("conv solve: bias", column(bias))?;
        }
        // Places are kept in 32 bits.
        let limit = u32::MAX as usize;
        if Grid::entries(&self.geometry) >= limit {
            let (rows, cols) = (self.out_shape().len(), self.in_shape().len());
            return Err(LinalgError::TooLarge { what: "conv solve", rows, cols, limit });
        }
        Ok(())
    }
}

pub(crate) fn bias(system: &ConvSystem<'_, f64>) -> Vec<f64> {
    let channels = system.out_shape().channels;
    system.bias.map_or(vec![0.0; channels], <[f64]>::to_vec)
}
