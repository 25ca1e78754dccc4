use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, LinalgError, Real, expect_finite};

use crate::tape::{Tape, TapeMut};
use crate::{ChannelRanges, Interval, InverseError, ReverseReport, TargetBox, TargetBoxMut};

/// One layer that can be run backwards on features: the trait that a new layer inverse implements.
///
/// The reverse of a layer `f` at the observed input `x0` with target box `[lo, hi]` and input range `R` is
///
/// ```text
/// argmin_x |x - x0|²   subject to   lo <= f(x) <= hi,  x in R        (attainable)
/// the nearest to x0 among the minimisers in R of the distance of f(x) to the box   (not attainable)
/// ```
///
/// together with the box of inputs around it that would do as well (a point, if the layer knows no better). Equality and
/// inclusion are meant up to rounding, as [`fbp_linalg::attained`] defines it for every kind of layer.
/// The conformance kit (`testkit::check_reverse_operator`) checks an implementation against this contract.
///
/// # Shapes
/// Inputs are `in_shape().len() × N`, outputs `out_shape().len() × N`, one contiguous column per sample.
///
/// # Source
/// arXiv:2506.07188 for the idea; boxes and ranges are this project's own derivation.
pub trait ReverseOperator<T: Real>: Send + Sync {
    /// Name of the layer, used in errors and reports.
    fn name(&self) -> &str;

    /// Shape of one input feature.
    fn in_shape(&self) -> FeatureShape;

    /// Shape of one output feature.
    fn out_shape(&self) -> FeatureShape;

    /// What this layer can produce from inputs within `in_range`: ReLU `[0, ∞)`, affine layers everything.
    fn out_range(&self, in_range: Interval<T>) -> Interval<T>;

    /// The same channel by channel, for layers that know it; as it stands, [`out_range`](Self::out_range) for all of them.
    ///
    /// Intervals have to hold what [`forward`](Self::forward) computes, its rounding included.
    fn out_ranges(&self, in_ranges: &ChannelRanges<T>) -> ChannelRanges<T> {
        self.out_range(in_ranges.hull()).into()
    }

    /// Workspace of [`forward`](Self::forward) for `batch` samples.
    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        let _ = (batch, par);
        StackReq::EMPTY
    }

    /// Runs the layer: `output = f(input)`; `output` is write-only.
    ///
    /// # Errors
    /// [`InverseError::Shape`] if a view has another shape than the layer.
    ///
    /// # Panics
    /// If `stack` has less room than [`forward_scratch`](Self::forward_scratch) asks for with the batch and the threads of the
    /// call.
    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError>;

    /// Workspace of [`reverse`](Self::reverse) for `batch` samples.
    fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        let _ = (batch, par);
        StackReq::EMPTY
    }

    /// Writes the nearest preimage of the target box and the box around it into `pass.target_in`.
    ///
    /// A sample whose observed output already lies in its target box gets its observed input back bit for bit. Every point
    /// written is finite. Which samples count as attained says [`fbp_linalg::attained`].
    ///
    /// # Errors
    /// [`InverseError::Shape`] on other shapes, [`InverseError::Solve`] on NaN, a box or range that holds no
    /// finite number, or a failed solve. An unattainable target is no error: the report counts it.
    ///
    /// # Panics
    /// If `stack` has less room than [`reverse_scratch`](Self::reverse_scratch) asks for with the batch and the threads of the
    /// call.
    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError>;

    /// What a block may make use of when it is reversed as a whole.
    fn structure(&self) -> Structure {
        Structure::GENERAL
    }

    /// The layer's derivatives, if it has them; needed inside composite blocks and for joint corrections.
    fn differentiable(&self) -> Option<&dyn DifferentiableOperator<T>> {
        None
    }
}

/// What is known of a layer beyond its values: the default promises nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    /// `f(x) = A x + b`.
    pub affine: bool,
    /// Every output depends on at most one input, and no two outputs on the same one, so that
    /// [`reverse`](ReverseOperator::reverse) turns a box into the box of all inputs (of one branch, where the function has
    /// several) that the layer maps into it.
    pub separable: bool,
    /// [`reverse`](ReverseOperator::reverse) is an iteration that stops near the target, so that a block may as well reverse the
    /// layer together with what is above it, up to a tolerance of its own.
    pub iterated: bool,
    /// The layer scales features by their statistics. A chain does not reverse a large affine layer below it layer by layer, but
    /// searches for its targets through the whole rest.
    pub normalises: bool,
}

impl Structure {
    /// Nothing is known.
    pub const GENERAL: Self = Self { affine: false, separable: false, iterated: false, normalises: false };
    /// An affine map that mixes entries.
    pub const AFFINE: Self = Self { affine: true, ..Self::GENERAL };
    /// A function that is reversed by an iteration.
    pub const ITERATED: Self = Self { iterated: true, ..Self::GENERAL };
    /// A function of single entries.
    pub const SEPARABLE: Self = Self { separable: true, ..Self::GENERAL };
    /// An affine function of single entries.
    pub const SEPARABLE_AFFINE: Self = Self { affine: true, separable: true, ..Self::GENERAL };

    /// The same layer as one that normalises.
    pub const fn normalising(self) -> Self {
        Self { normalises: true, ..self }
    }
}

/// A layer that also offers products with its Jacobian `J(x)`.
///
/// What it gives for a sample must not depend on the other samples of a batch: blocks ask for products of some samples at a time, on
/// several threads at once.
pub trait DifferentiableOperator<T: Real>: ReverseOperator<T> {
    /// Workspace of [`jvp`](Self::jvp) and [`vjp`](Self::vjp) for `batch` samples.
    fn derivative_scratch(&self, batch: usize, par: Par) -> StackReq {
        let _ = (batch, par);
        StackReq::EMPTY
    }

    /// `tangent_out = J(at) · tangent_in`, column by column.
    ///
    /// # Errors
    /// [`InverseError::Shape`] on other shapes.
    ///
    /// # Panics
    /// If `stack` has less room than [`derivative_scratch`](Self::derivative_scratch) asks for with the batch and the threads of the
    /// call.
    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError>;

    /// `cotangent_in = J(at)ᵀ · cotangent_out`, column by column.
    ///
    /// # Errors
    /// [`InverseError::Shape`] on other shapes.
    ///
    /// # Panics
    /// If `stack` has less room than [`derivative_scratch`](Self::derivative_scratch) asks for with the batch and the threads of the
    /// call.
    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError>;

    /// Length per sample of each feature that [`forward_on_tape`](Self::forward_on_tape) leaves on its tape; the same at every
    /// call. None for a layer whose products need no more than its input; composite blocks name those of their inner layers.
    fn tape_lens(&self) -> &[usize] {
        &[]
    }

    /// [`forward`](ReverseOperator::forward) that also leaves on the tape what products at the same points need.
    ///
    /// # Errors
    /// [`InverseError::Shape`] on other shapes.
    fn forward_on_tape(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        tape: TapeMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let _ = tape;
        self.forward(input, output, par, stack)
    }

    /// [`jvp`](Self::jvp) with the tape of the forward pass at the same points.
    ///
    /// # Errors
    /// [`InverseError::Shape`] on other shapes.
    fn jvp_on_tape(
        &self,
        pass: JvpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let _ = tape;
        self.jvp(pass, par, stack)
    }

    /// [`vjp`](Self::vjp) with the tape of the forward pass at the same points.
    ///
    /// # Errors
    /// [`InverseError::Shape`] on other shapes.
    fn vjp_on_tape(
        &self,
        pass: VjpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let _ = tape;
        self.vjp(pass, par, stack)
    }
}

/// The views of one reverse pass.
#[derive(Debug)]
pub struct ReversePass<'a, T> {
    /// Input of the layer in the forward pass.
    pub observed_in: MatRef<'a, T>,
    /// Output of the layer in the forward pass, `f(observed_in)`.
    pub observed_out: MatRef<'a, T>,
    /// What the output should have been.
    pub target_out: TargetBox<'a, T>,
    /// What the layers below can produce.
    pub in_range: Interval<T>,
    /// What the input should have been: written by the pass.
    pub target_in: TargetBoxMut<'a, T>,
}

/// The views of one Jacobian-vector product.
#[derive(Debug)]
pub struct JvpPass<'a, T> {
    /// Input at which the layer is linearised.
    pub at: MatRef<'a, T>,
    /// Direction in input space.
    pub tangent_in: MatRef<'a, T>,
    /// Resulting direction in output space; write-only.
    pub tangent_out: MatMut<'a, T>,
}

/// The views of one vector-Jacobian product.
#[derive(Debug)]
pub struct VjpPass<'a, T> {
    /// Input at which the layer is linearised.
    pub at: MatRef<'a, T>,
    /// Weights on the outputs.
    pub cotangent_out: MatRef<'a, T>,
    /// Resulting weights on the inputs; write-only.
    pub cotangent_in: MatMut<'a, T>,
}

impl<T: Real> ReversePass<'_, T> {
    /// Number of samples.
    pub fn batch(&self) -> usize {
        self.observed_in.ncols()
    }

    /// Checks all views once: shapes, contiguous columns, finite observations and points, and a finite number in every
    /// interval of the boxes and in the range.
    ///
    /// # Errors
    /// [`InverseError::Shape`] or [`InverseError::Solve`], with the name of the layer.
    pub fn check(&self, layer: &dyn ReverseOperator<T>) -> Result<(), InverseError> {
        let batch = self.batch();
        let input = (layer.in_shape().len(), batch);
        let output = (layer.out_shape().len(), batch);
        let views = [
            ("observed_in", self.observed_in, input),
            ("observed_out", self.observed_out, output),
            ("target_out.point", self.target_out.point, output),
            ("target_out.lower", self.target_out.lower, output),
            ("target_out.upper", self.target_out.upper, output),
            ("target_in.point", self.target_in.point.as_ref(), input),
            ("target_in.lower", self.target_in.lower.as_ref(), input),
            ("target_in.upper", self.target_in.upper.as_ref(), input),
        ];
        for (what, view, expected) in views {
            expect_batch(layer.name(), what, view, expected)?;
        }
        let in_layer = || InverseError::in_layer(layer.name());
        if self.in_range.is_empty() {
            return Err(in_layer()(LinalgError::EmptyBox { what: "in_range", row: 0, column: 0 }));
        }
        expect_finite("observed_in", self.observed_in).map_err(in_layer())?;
        expect_finite("observed_out", self.observed_out).map_err(in_layer())?;
        self.target_out.check().map_err(in_layer())
    }
}

/// Checks the shape of a batch view and that its columns are contiguous.
///
/// # Errors
/// [`InverseError::Shape`], or [`InverseError::Solve`] with [`LinalgError::Strided`].
pub fn expect_batch<T: Real>(
    layer: &str,
    what: &'static str,
    view: MatRef<'_, T>,
    expected: (usize, usize),
) -> Result<(), InverseError> {
    if view.shape() != expected {
        return Err(InverseError::Shape { layer: layer.to_owned(), what, expected, found: view.shape() });
    }
    if view.nrows() > 1 && view.row_stride() != 1 {
        let source = LinalgError::Strided { what, row_stride: view.row_stride() };
        return Err(InverseError::Solve { layer: layer.to_owned(), source });
    }
    Ok(())
}
