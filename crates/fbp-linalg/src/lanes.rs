use pulp::{Arch, NullaryFnOnce, Simd};

/// Runs a loop on the widest registers of this machine.
///
/// The closure and what it calls must be `#[inline(always)]`, down to the loops: what is not inlined is compiled for the
/// narrowest registers of the target. Given to [`pulp::Arch::dispatch`] as it is, a closure that could be called again ends in a
/// function of its own, whatever its attributes: there it is called as `FnOnce`, through a wrapper.
///
/// ```
/// let mut values = [1.0_f32; 100];
/// fbp_linalg::dispatch(
///     #[inline(always)]
///     || values.iter_mut().for_each(|v| *v *= 2.0),
/// );
/// assert_eq!(values, [2.0; 100]);
/// ```
#[inline(always)]
pub fn dispatch<R>(f: impl FnMut() -> R) -> R {
    Arch::new().dispatch(Repeatable(f))
}

/// A closure that is called as `FnMut`.
struct Repeatable<F>(F);

impl<R, F: FnMut() -> R> NullaryFnOnce for Repeatable<F> {
    type Output = R;

    #[inline(always)]
    fn call(mut self) -> R {
        (self.0)()
    }
}

/// Vectors of a scalar under any instruction set that [`pulp`] knows, for kernels generic over `f32` and `f64`.
///
/// Every function is inlined into the caller, which must run inside [`Simd::vectorize`].
pub trait Lanes: Copy {
    /// A register full of scalars.
    type Vector<S: Simd>: Copy;
    /// A truth value per lane.
    type Mask<S: Simd>: Copy;

    /// Number of scalars in a register.
    fn lanes<S: Simd>() -> usize;
    /// All lanes the same.
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;
    /// The first scalars of a slice that has at least [`lanes`](Self::lanes) of them.
    fn load<S: Simd>(simd: S, slice: &[Self]) -> Self::Vector<S>;
    /// All scalars of a slice that has at most [`lanes`](Self::lanes) of them, then zeros.
    fn load_partial<S: Simd>(simd: S, slice: &[Self]) -> Self::Vector<S>;
    /// Writes to the first scalars of a slice that has at least [`lanes`](Self::lanes) of them.
    fn store<S: Simd>(simd: S, slice: &mut [Self], value: Self::Vector<S>);
    /// A slice as registers; values that fill none are left out.
    fn vectors<S: Simd>(simd: S, slice: &[Self]) -> &[Self::Vector<S>];
    /// The same to write to.
    fn vectors_mut<S: Simd>(simd: S, slice: &mut [Self]) -> &mut [Self::Vector<S>];
    /// Transposes four rows in squares of four, for `f32` in registers of at least four lanes: lanes `4i..4i + 4` of result `j` are lane
    /// `4i + j` of each row.
    fn transpose_quads<S: Simd>(simd: S, rows: [Self::Vector<S>; 4]) -> [Self::Vector<S>; 4];
    /// The lanes `start..end`, none if `start` is not below `end`; bounds above the number of lanes are cut off.
    fn mask_lanes<S: Simd>(simd: S, start: usize, end: usize) -> Self::Mask<S>;
    /// The lanes of a mask, zero elsewhere, whatever was there.
    fn keep_lanes<S: Simd>(simd: S, mask: Self::Mask<S>, value: Self::Vector<S>) -> Self::Vector<S>;
    /// `a + b`.
    fn add_lanes<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// `a·b + c`, fused where the instruction set can.
    fn mul_add_lanes<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
    /// Sum of all lanes.
    fn sum_lanes<S: Simd>(simd: S, value: Self::Vector<S>) -> Self;
    /// The larger of two values, lane by lane; which one if one is NaN is not said.
    fn max_lanes<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// The largest of all lanes; which one if one is NaN is not said.
    fn largest_lane<S: Simd>(simd: S, value: Self::Vector<S>) -> Self;
}

/// Most scalars that a register of any supported instruction set holds (sixteen `f32` in AVX-512).
pub(crate) const MAX_LANES: usize = 16;

macro_rules! impl_lanes {
    (
        $scalar:ident, $vector:ident, $mask:ident, $lanes:ident, $split:ident, $split_mut:ident, $splat:ident,
        $partial:ident, $between:ident, $select:ident, $add:ident, $mul_add:ident, $reduce_sum:ident, $max:ident,
        $reduce_max:ident, $deinterleave:ident
    ) => {
        impl Lanes for $scalar {
            type Vector<S: Simd> = S::$vector;
            type Mask<S: Simd> = S::$mask;

            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }
            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S> {
                simd.$splat(value)
            }
            #[inline(always)]
            fn load<S: Simd>(_: S, slice: &[Self]) -> Self::Vector<S> {
                S::$split(&slice[..S::$lanes]).0[0]
            }
            #[inline(always)]
            fn load_partial<S: Simd>(simd: S, slice: &[Self]) -> Self::Vector<S> {
                simd.$partial(slice)
            }
            #[inline(always)]
            fn store<S: Simd>(_: S, slice: &mut [Self], value: Self::Vector<S>) {
                S::$split_mut(&mut slice[..S::$lanes]).0[0] = value;
            }
            #[inline(always)]
            fn vectors<S: Simd>(_: S, slice: &[Self]) -> &[Self::Vector<S>] {
                S::$split(slice).0
            }
            #[inline(always)]
            fn vectors_mut<S: Simd>(_: S, slice: &mut [Self]) -> &mut [Self::Vector<S>] {
                S::$split_mut(slice).0
            }
            #[inline(always)]
            fn transpose_quads<S: Simd>(simd: S, rows: [Self::Vector<S>; 4]) -> [Self::Vector<S>; 4] {
                simd.$deinterleave(rows)
            }
            #[inline(always)]
            fn mask_lanes<S: Simd>(simd: S, start: usize, end: usize) -> Self::Mask<S> {
                let end = end.min(S::$lanes);
                // That from the last lane to the last lane is not in pulp's table.
                let (start, end) = if start < end { (start, end) } else { (0, 0) };
                simd.$between(start as _, end as _).mask()
            }
            #[inline(always)]
            fn keep_lanes<S: Simd>(simd: S, mask: Self::Mask<S>, value: Self::Vector<S>) -> Self::Vector<S> {
                simd.$select(mask, value, simd.$splat(0.0))
            }
            #[inline(always)]
            fn add_lanes<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S> {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn mul_add_lanes<S: Simd>(
                simd: S,
                a: Self::Vector<S>,
                b: Self::Vector<S>,
                c: Self::Vector<S>,
            ) -> Self::Vector<S> {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn sum_lanes<S: Simd>(simd: S, value: Self::Vector<S>) -> Self {
                simd.$reduce_sum(value)
            }
            #[inline(always)]
            fn max_lanes<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S> {
                simd.$max(a, b)
            }
            #[inline(always)]
            fn largest_lane<S: Simd>(simd: S, value: Self::Vector<S>) -> Self {
                simd.$reduce_max(value)
            }
        }
    };
}

impl_lanes!(
    f32,
    f32s,
    m32s,
    F32_LANES,
    as_simd_f32s,
    as_mut_simd_f32s,
    splat_f32s,
    partial_load_f32s,
    mask_between_m32s,
    select_f32s,
    add_f32s,
    mul_add_e_f32s,
    reduce_sum_f32s,
    max_f32s,
    reduce_max_f32s,
    deinterleave_shfl_f32s
);
impl_lanes!(
    f64,
    f64s,
    m64s,
    F64_LANES,
    as_simd_f64s,
    as_mut_simd_f64s,
    splat_f64s,
    partial_load_f64s,
    mask_between_m64s,
    select_f64s,
    add_f64s,
    mul_add_e_f64s,
    reduce_sum_f64s,
    max_f64s,
    reduce_max_f64s,
    deinterleave_shfl_f64s
);

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use super::*;
    use pulp::WithSimd;

    struct Quads;

    impl WithSimd for Quads {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let lanes = f32::lanes::<S>();
            if lanes < 4 {
                return;
            }
            let values: Vec<f32> = (0..4 * lanes).map(|i| i as f32).collect();
            let rows = f32::vectors(simd, &values);
            let found = f32::transpose_quads(simd, [rows[0], rows[1], rows[2], rows[3]]);
            for (j, found) in found.into_iter().enumerate() {
                let mut result = vec![0.0; lanes];
                f32::store(simd, &mut result, found);
                let expected: Vec<f32> = (0..lanes).map(|lane| (lane % 4 * lanes + lane / 4 * 4 + j) as f32).collect();
                assert_eq!(result, expected, "result {j} of {lanes} lanes");
            }
        }
    }

    /// All masks of a scalar.
    struct Masks<T>(PhantomData<T>);

    impl<T: Lanes + From<u8> + PartialEq + std::fmt::Debug> WithSimd for Masks<T> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let lanes = T::lanes::<S>();
            let ones = T::splat(simd, T::from(1));
            for start in 0..=lanes + 1 {
                for end in 0..=lanes + 1 {
                    let mut kept = vec![T::from(0); lanes];
                    T::store(simd, &mut kept, T::keep_lanes(simd, T::mask_lanes(simd, start, end), ones));
                    let wanted: Vec<T> = (0..lanes).map(|i| T::from((start..end).contains(&i).into())).collect();
                    assert_eq!(kept, wanted, "{start}..{end} of {lanes}");
                }
            }
        }
    }

    fn archs() -> impl Iterator<Item = Arch> {
        #[cfg(target_arch = "x86_64")]
        let narrower = pulp::x86::V3::try_new().map(Arch::V3);
        #[cfg(not(target_arch = "x86_64"))]
        let narrower = None;
        [Arch::new(), Arch::Scalar].into_iter().chain(narrower)
    }

    #[test]
    fn quads_are_transposed_in_every_instruction_set() {
        archs().for_each(|arch| arch.dispatch(Quads));
    }

    #[test]
    fn masks_keep_what_they_say_in_every_instruction_set() {
        for arch in archs() {
            arch.dispatch(Masks(PhantomData::<f32>));
            arch.dispatch(Masks(PhantomData::<f64>));
        }
    }
}
