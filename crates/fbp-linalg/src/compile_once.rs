/// Defines a function generic over [`Real`](crate::Real) whose body is compiled once for `f32` and once for `f64`, here.
///
/// The body is a path to a function with the same signature, generic over the same scalar. References share one
/// named lifetime.
///
/// ```
/// use fbp_linalg::{Real, compile_once};
///
/// fn sum_of_squares<T: Real>(values: &[T]) -> T {
///     values.iter().map(|&v| v * v).sum()
/// }
///
/// compile_once! {
///     /// Sum of the squares of all values.
///     pub fn energy<'a, T>(values: &'a [T]) -> T = sum_of_squares::<T>;
/// }
///
/// assert_eq!(energy(&[3.0_f32, 4.0]), 25.0);
/// ```
#[macro_export]
macro_rules! compile_once {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident<$a:lifetime, $T:ident>($($arg:ident: $ty:ty),* $(,)?) -> $out:ty = $body:expr;)+) => {$(
        $(#[$meta])*
        #[inline]
        $vis fn $name<$a, $T: $crate::Real>($($arg: $ty),*) -> $out {
            struct Once;
            impl $crate::PerScalar for Once {
                type Args<$a, $T: $crate::Real> = ($($ty,)*);
                type Output<$a, $T: $crate::Real> = $out;

                #[inline(never)]
                fn single<$a>(($($arg,)*): Self::Args<$a, f32>) -> Self::Output<$a, f32> {
                    body($($arg),*)
                }

                #[inline(never)]
                fn double<$a>(($($arg,)*): Self::Args<$a, f64>) -> Self::Output<$a, f64> {
                    body($($arg),*)
                }
            }
            #[inline(always)]
            fn body<$a, $T: $crate::Real>($($arg: $ty),*) -> $out {
                $body($($arg),*)
            }
            <$T as $crate::Real>::per_scalar::<Once>(($($arg,)*))
        }
    )+};
}
