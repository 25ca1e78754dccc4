use std::sync::OnceLock;

use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::{Mat, Par};
use fbp_linalg::{BOXED_LIMIT, Real, expect_finite, get_or_make};

use crate::layers::affine::AffineReverse;
use crate::layers::newton::Function;
use crate::tape::TapeMemory;
use crate::{InverseError, JvpPass};

/// Columns of the matrix that are found together.
const COLUMNS: usize = 64;

/// The plans of a function that is affine and small enough to be written down, made when they are first needed.
pub(super) struct AffineWhole<T: Real> {
    plans: OnceLock<Result<AffineReverse<T>, InverseError>>,
}

impl<T: Real> AffineWhole<T> {
    pub(super) fn new() -> Self {
        Self { plans: OnceLock::new() }
    }

    /// Whether a function of these lengths is written down.
    pub(super) fn is_small((outputs, inputs): (usize, usize)) -> bool {
        outputs.max(inputs) <= BOXED_LIMIT
    }

    /// Workspace of the reversal.
    pub(super) fn scratch(shape: (usize, usize), batch: usize, par: Par) -> StackReq {
        AffineReverse::<T>::scratch_of(shape, batch, par)
    }

    /// The plans of a function, which is the same at every call.
    pub(super) fn plans(&self, name: &str, function: &dyn Function<T>) -> Result<&AffineReverse<T>, InverseError> {
        get_or_make(&self.plans, || write_down(name, function)).as_ref().map_err(Clone::clone)
    }
}

/// The matrix column by column from products, and the bias from the output at 0.
fn write_down<T: Real>(name: &str, function: &dyn Function<T>) -> Result<AffineReverse<T>, InverseError> {
    let (inputs, outputs, par) = (function.in_len(), function.out_len(), Par::Seq);
    let lens = function.tape_lens();
    let mut tape = TapeMemory::<T>::new(lens.iter().sum(), COLUMNS);
    let scratch = function.forward_scratch(COLUMNS, par).or(function.product_scratch(COLUMNS, par));
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    let origin = Mat::<T>::zeros(inputs, COLUMNS);
    let mut images = Mat::<T>::zeros(outputs, COLUMNS);
    function.forward(origin.as_ref(), images.as_mut(), tape.view_mut(lens, COLUMNS), par, stack)?;
    let bias = (0..outputs).map(|i| images[(i, 0)].to_f64()).collect();
    let mut matrix = Mat::<f64>::zeros(outputs, inputs);
    for start in (0..inputs).step_by(COLUMNS) {
        let count = COLUMNS.min(inputs - start);
        let units = Mat::from_fn(inputs, COLUMNS, |i, j| if i == start + j { T::ONE } else { T::ZERO });
        let pass = JvpPass { at: origin.as_ref(), tangent_in: units.as_ref(), tangent_out: images.as_mut() };
        function.jvp(pass, tape.view(lens, COLUMNS), par, stack)?;
        for j in 0..count {
            (0..outputs).for_each(|i| matrix[(i, start + j)] = images[(i, j)].to_f64());
        }
    }
    expect_finite("matrix of the block", matrix.as_ref()).map_err(InverseError::in_layer(name))?;
    Ok(AffineReverse::new(matrix).with_bias(bias))
}
