use pulp::{Simd, WithSimd};

use crate::Real;

/// What becomes of every output of a forward pass, while it is in the cache: `min(max(y + addend, lower), upper)`, NaN kept.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a, T> {
    /// Added to the output, of its shape; `None` is zero.
    pub addend: Option<&'a [T]>,
    /// What smaller values become.
    pub lower: T,
    /// What larger values become.
    pub upper: T,
}

impl<T: Real> Epilogue<'_, T> {
    /// That of the outputs from number `first` on.
    pub(super) fn from(self, first: usize) -> Self {
        Self { addend: self.addend.map(|addend| &addend[first..]), ..self }
    }

    /// Finishes the first outputs.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(self, simd: S, output: &mut [T]) {
        simd.vectorize(Apply { epilogue: self, output });
    }

    #[inline(always)]
    fn clip(&self, y: T) -> T {
        let y = if y <= self.lower { self.lower } else { y };
        if y >= self.upper { self.upper } else { y }
    }
}

struct Apply<'a, 'b, T> {
    epilogue: Epilogue<'a, T>,
    output: &'b mut [T],
}

impl<T: Real> WithSimd for Apply<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { epilogue, output } = self;
        match epilogue.addend {
            Some(addend) => {
                for (y, addend) in output.iter_mut().zip(addend) {
                    *y = epilogue.clip(*y + *addend);
                }
            }
            None => {
                for y in output.iter_mut() {
                    *y = epilogue.clip(*y);
                }
            }
        }
    }
}
