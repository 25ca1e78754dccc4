use pulp::Arch;

use super::{correlate, weight_grad};

/// The kernels of a scalar, compiled once in this crate: some hundred register tiles, which every crate that calls the
/// generic methods of [`Conv2d`](super::Conv2d) would compile again.
pub trait Compiled: Sized {
    #[doc(hidden)]
    fn correlate(arch: Arch, samples: correlate::Samples<'_, Self>);
    #[doc(hidden)]
    fn sum_products(arch: Arch, samples: weight_grad::Samples<'_, Self>);
}

macro_rules! impl_compiled {
    ($scalar:ident) => {
        impl Compiled for $scalar {
            #[inline(never)]
            fn correlate(arch: Arch, samples: correlate::Samples<'_, Self>) {
                arch.dispatch(samples);
            }
            #[inline(never)]
            fn sum_products(arch: Arch, samples: weight_grad::Samples<'_, Self>) {
                arch.dispatch(samples);
            }
        }
    };
}

impl_compiled!(f32);
impl_compiled!(f64);
