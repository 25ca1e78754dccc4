//! The convolution as a linear map: its equations, its grid, and what is done to it before it is inverted.

pub(crate) mod grid;
pub(crate) mod pair;
pub(crate) mod rows;
pub(crate) mod whiten;
