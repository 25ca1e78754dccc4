use fbp_linalg::{FeatureShape, LinalgError, Real};

use super::copies::{Copies, Run};
use super::tokens;
use crate::InverseError;
use crate::layers::kernel::{delegate_kernel, operator_once};

/// Takes one token, `[T, 1, D]` to a vector of `D`: what a classifier sees of a vision transformer.
///
/// # Reverse
/// Exact: the token moves into its box, all others are free and keep their values.
#[derive(Clone, Debug)]
pub struct SelectToken<T>(Copies<T>);

impl<T: Real> SelectToken<T> {
    /// Takes token `index` of `count` tokens of `width` entries.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if there is no such token.
    pub fn new(name: impl Into<String>, (count, width): (usize, usize), index: usize) -> Result<Self, InverseError> {
        let name = name.into();
        if index >= count {
            return Err(InverseError::Layer { layer: name, reason: format!("token {index} of {count}") });
        }
        let run = Run { from: index * width, to: 0, len: width };
        let shapes = (tokens(count, width), FeatureShape::vector(width));
        Ok(Self(Copies::new(name, shapes, vec![run], vec![T::ZERO; width])))
    }
}

/// Puts a learned token before all others, `[T, 1, D]` to `[T + 1, 1, D]`.
///
/// # Reverse
/// Exact: tokens move into their boxes; what the box asks of the learned token is missed if it is another one.
///
/// # Source
/// Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021, equation 1.
#[derive(Clone, Debug)]
pub struct ClassToken<T>(Copies<T>);

impl<T: Real> ClassToken<T> {
    /// Puts `token` before `count` tokens of its length.
    ///
    /// # Errors
    /// [`InverseError::Solve`] if an entry is not finite.
    pub fn new(name: impl Into<String>, count: usize, token: &[T]) -> Result<Self, InverseError> {
        let (name, width) = (name.into(), token.len());
        expect_finite(&name, "token", token)?;
        let mut background = vec![T::ZERO; (count + 1) * width];
        background[..width].copy_from_slice(token);
        let run = Run { from: 0, to: width, len: count * width };
        let shapes = (tokens(count, width), tokens(count + 1, width));
        Ok(Self(Copies::new(name, shapes, vec![run], background)))
    }
}

/// Surrounds every channel with zeros, as many on each side as are given: the padding that convolutions and pooling without
/// the same on both sides need.
///
/// # Reverse
/// Exact: pixels move into their boxes; what the box asks of the zeros is missed if it excludes 0.
#[derive(Clone, Debug)]
pub struct ZeroPad2d<T>(Copies<T>);

/// Rows and columns that [`ZeroPad2d`] adds on each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl<T: Real> ZeroPad2d<T> {
    /// Pads images of shape `shape`.
    pub fn new(name: impl Into<String>, shape: FeatureShape, padding: Padding) -> Self {
        let Padding { top, bottom, left, right } = padding;
        let out = FeatureShape::image(shape.channels, top + shape.height + bottom, left + shape.width + right);
        let rows = (0..shape.channels).flat_map(|channel| (0..shape.height).map(move |row| (channel, row)));
        let run = |(channel, row): (usize, usize)| Run {
            from: (channel * shape.height + row) * shape.width,
            to: (channel * out.height + top + row) * out.width + left,
            len: shape.width,
        };
        Self(Copies::new(name.into(), (shape, out), rows.map(run).collect(), vec![T::ZERO; out.len()]))
    }
}

/// Refuses learned values that are not finite.
pub(super) fn expect_finite<T: Real>(layer: &str, what: &'static str, values: &[T]) -> Result<(), InverseError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(row) => Err(InverseError::in_layer(layer)(LinalgError::NonFinite { what, row, column: 0 })),
        None => Ok(()),
    }
}

delegate_kernel!(SelectToken);
operator_once!(SelectToken);
delegate_kernel!(ClassToken);
operator_once!(ClassToken);
delegate_kernel!(ZeroPad2d);
operator_once!(ZeroPad2d);
