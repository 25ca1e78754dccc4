use faer::Par;
use faer::dyn_stack::MemStack;

use super::circulant::Circulant;
use crate::conv_solve::inverse::apply::Apply;
use crate::conv_solve::operator::grid::{End, Grid};

/// What the conjugate gradients for the exact solution are preconditioned with.
#[derive(Clone, Debug)]
pub(crate) enum Preconditioner {
    /// The identity over this eigenvalue.
    Scale(f64),
    Single(Circulant<f32>),
    Double(Circulant<f64>),
}

impl Preconditioner {
    /// `z <- M r` for every sample.
    pub(crate) fn apply(&self, pass: Apply<'_>, at: (&Grid, End), par: Par, stack: &mut MemStack) {
        match self {
            Self::Scale(scale) => pass.z.iter_mut().zip(pass.r).for_each(|(z, r)| *z = r / scale),
            Self::Single(plan) => plan.apply(pass, at, par, stack),
            Self::Double(plan) => plan.apply(pass, at, par, stack),
        }
    }
}
