//! Inverses of `B Bᵀ + shift`: exact ones, and such as conjugate gradients are preconditioned with.

pub(crate) mod apply;
pub(crate) mod border;
pub(crate) mod boundary;
pub(crate) mod circulant;
pub(crate) mod eigen;
pub(crate) mod elimination;
pub(crate) mod fft;
pub(crate) mod ladder;
pub(crate) mod preconditioner;
pub(crate) mod products;
pub(crate) mod shifted;
pub(crate) mod strips;
pub(crate) mod symbol;
pub(crate) mod symmetric;
