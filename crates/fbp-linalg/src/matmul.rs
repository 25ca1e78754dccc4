use faer::linalg::matmul::matmul as faer_matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::compile_once;

compile_once! {
    /// `dst = alpha · lhs · rhs`, or `dst += alpha · lhs · rhs`: [`faer::linalg::matmul::matmul`] on column-major views,
    /// compiled once.
    ///
    /// # Shapes
    /// `dst`: `m × n`, `lhs`: `m × k`, `rhs`: `k × n`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn matmul<'a, T>(
        dst: MatMut<'a, T>, accum: Accum, lhs: MatRef<'a, T>, rhs: MatRef<'a, T>, alpha: T, par: Par,
    ) -> () = faer_matmul;
}
