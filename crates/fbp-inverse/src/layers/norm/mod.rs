//! Normalisation by the statistics of the sample itself.

mod group;
mod joint;
mod kernels;
mod search;
mod sphere;
mod statistics;

use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, LinalgError, Real};

use self::kernels::{Forward, Jacobian, Reverse};
use crate::layers::columns::{MapPass, check_forward, check_jvp, check_vjp, map_columns};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::layers::parts::{reverse_parts, reverse_parts_scratch};
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// Layer, group, instance and RMS normalisation, `y = γ (x - mean)/√(variance + ε) + β` over groups of entries, and its
/// reverse. For RMS normalisation read 0 for the mean and the mean square for the variance.
///
/// Let `u` be the normalised feature of a group of `n`. Only `u` with mean 0 and `|u|² <= n` exist, and the inputs that
/// give one are `mean + s u/|u| √n` with the mean free and the deviation `s` fixed by `|u|² = n s²/(s² + ε)`.
///
/// # What is exact, and what is a choice
/// * *Point targets that exist*: the nearest input, also within an input range. The amplitude of `u` may be off by the
///   relative [tolerance](Self::with_tolerance), without which rounding would decide about the deviation, as `s` is much
///   larger than `√ε` in practice.
/// * *Point targets that do not exist* (off the sphere): those that do and are nearest to them, by the root of a secular
///   equation in one unknown, then the nearest input for these. Exact without an input range.
/// * *Boxes*: the entries and the deviation together, piece by piece with the root of one unknown each; then the nearest
///   input on the line of its inputs. Where that iteration does not end, the `u` in the box that is nearest to the
///   observed one among those of its norm, with a search for the deviation. The set of inputs is not convex; a nearer one
///   may exist. With an input range the mean moves only as far as the intervals need, which is not always the best (1.5 %
///   farther than with a search, on group norms of ReLU features), and a box may be missed. Boxes out of reach are missed
///   by as little as alternating projections find.
/// * *Zero scales* ask for nothing: their entries are free, and what their output misses is reported.
/// * *`ε = 0`* leaves the deviation free; it changes to between 0.1 and 10 times the observed one.
///
/// The result is a point, because the entries of a group are bound to each other.
///
/// # Attained
/// The outputs at the point as it was written are evaluated in double precision, with the mean subtracted first, and every
/// entry is judged by its own scale, see [`fbp_linalg::attained`], plus the relative tolerance of `u` times `γ u`. The
/// point keeps the observed mean: what the features' precision cannot represent so far from 0 is a miss. Misses
/// for that reason are tried again, with intervals that are narrower by the rounding of the inputs, and with deviations
/// that are twice, four times, .. as large, up to 1/16 of the mean, where these do as well.
///
/// # Shapes
/// `[C, H, W]` to the same, in groups of consecutive entries.
///
/// # Source
/// Own derivation; for the secular equation Golub & Van Loan, *Matrix Computations*, 4th ed., §6.2.1.
#[derive(Clone, Debug)]
pub struct NormReverse<T> {
    name: String,
    shape: FeatureShape,
    /// Entries of a group.
    len: usize,
    /// `γ` and `β` of every entry of a feature.
    gain: Vec<T>,
    shift: Vec<T>,
    epsilon: f64,
    centred: bool,
    tolerance: f64,
}

/// Learned parameters of a normalisation.
#[derive(Clone, Copy, Debug)]
pub struct NormParameters<'a, T> {
    /// Scale `γ`.
    pub weight: &'a [T],
    /// Shift `β`.
    pub bias: &'a [T],
    /// Added to the variance, `>= 0`.
    pub epsilon: f64,
}

impl<T: Real> NormReverse<T> {
    /// Default of [`with_tolerance`](Self::with_tolerance).
    pub const DEFAULT_TOLERANCE: f64 = 1e-6;

    /// Layer normalisation of every run of `len` consecutive entries, with `len` scales and shifts.
    ///
    /// `len` is the product of the last dimensions: `C·H·W` for the whole feature, `W` for rows (tokens).
    ///
    /// # Errors
    /// [`InverseError::Layer`] if `len` does not divide the feature, [`InverseError::Solve`] if there are not `len` finite
    /// scales and shifts, [`InverseError::Parameter`] for an `ε` that is negative or not finite.
    pub fn layer_norm(
        name: impl Into<String>,
        shape: FeatureShape,
        len: usize,
        parameters: NormParameters<'_, T>,
    ) -> Result<Self, InverseError> {
        Self::build(name.into(), shape, (len, len, 1), parameters, true)
    }

    /// Group normalisation: `groups` groups of channels, one scale and shift per channel.
    ///
    /// # Errors
    /// As [`layer_norm`](Self::layer_norm), for `groups` that does not divide the channels.
    pub fn group_norm(
        name: impl Into<String>,
        shape: FeatureShape,
        groups: usize,
        parameters: NormParameters<'_, T>,
    ) -> Result<Self, InverseError> {
        let name = name.into();
        if groups == 0 || !shape.channels.is_multiple_of(groups) {
            let reason = format!("{groups} groups do not divide the channels of {shape}");
            return Err(InverseError::Layer { layer: name, reason });
        }
        Self::build(name, shape, (shape.len() / groups, shape.channels, shape.plane()), parameters, true)
    }

    /// Instance normalisation: every channel on its own, with a scale and a shift.
    ///
    /// # Errors
    /// As [`group_norm`](Self::group_norm).
    pub fn instance_norm(
        name: impl Into<String>,
        shape: FeatureShape,
        parameters: NormParameters<'_, T>,
    ) -> Result<Self, InverseError> {
        Self::group_norm(name, shape, shape.channels, parameters)
    }

    /// RMS normalisation of every run of `len` consecutive entries, `y = γ x/√(mean(x²) + ε) + β`.
    ///
    /// # Errors
    /// As [`layer_norm`](Self::layer_norm).
    pub fn rms_norm(
        name: impl Into<String>,
        shape: FeatureShape,
        len: usize,
        parameters: NormParameters<'_, T>,
    ) -> Result<Self, InverseError> {
        Self::build(name.into(), shape, (len, len, 1), parameters, false)
    }

    /// Sets by how much the amplitude of a normalised feature may be off, relative to it: `[1e-14, 0.1]`.
    ///
    /// # Errors
    /// [`InverseError::Parameter`] outside that range.
    pub fn with_tolerance(mut self, tolerance: f64) -> Result<Self, InverseError> {
        if !(1e-14..=0.1).contains(&tolerance) {
            return Err(InverseError::Parameter { name: "tolerance", value: tolerance, range: "[1e-14, 0.1]" });
        }
        self.tolerance = tolerance;
        Ok(self)
    }

    /// `len` entries per group, `count` parameters, each for `repeat` consecutive entries.
    fn build(
        name: String,
        shape: FeatureShape,
        (len, count, repeat): (usize, usize, usize),
        parameters: NormParameters<'_, T>,
        centred: bool,
    ) -> Result<Self, InverseError> {
        let NormParameters { weight, bias, epsilon } = parameters;
        if len == 0 || shape.len() == 0 || !shape.len().is_multiple_of(len) {
            let reason = format!("groups of {len} entries do not divide {shape}");
            return Err(InverseError::Layer { layer: name, reason });
        }
        if !(0.0..f64::INFINITY).contains(&epsilon) {
            return Err(InverseError::Parameter { name: "epsilon", value: epsilon, range: "[0, ∞)" });
        }
        for (what, values) in [("weight", weight), ("bias", bias)] {
            if values.len() != count {
                let source = LinalgError::Length { what, expected: count, found: values.len() };
                return Err(InverseError::in_layer(&name)(source));
            }
            if let Some(row) = values.iter().position(|value| !value.is_finite()) {
                return Err(InverseError::in_layer(&name)(LinalgError::NonFinite { what, row, column: 0 }));
            }
        }
        let spread = |values: &[T]| (0..shape.len()).map(|i| values[i / repeat % count]).collect();
        let (gain, shift) = (spread(weight), spread(bias));
        Ok(Self { name, shape, len, gain, shift, epsilon, centred, tolerance: Self::DEFAULT_TOLERANCE })
    }
}

operator_once!(NormReverse);

impl<T: Real> LayerKernel<T> for NormReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.shape
    }

    fn out_shape(&self) -> FeatureShape {
        self.shape
    }

    fn out_range(&self, _in_range: Interval<T>) -> Interval<T> {
        // The outputs lie on a sphere; an interval around it would never bind, and cost the layer above its fast solve.
        Interval::EVERYTHING
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        map_columns(&Forward(self), MapPass { first: input, second: input, out: output }, par);
        Ok(())
    }

    fn structure(&self) -> crate::Structure {
        crate::Structure::GENERAL.normalising()
    }

    fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        reverse_parts_scratch::<T>(&Reverse(self), batch, par)
    }

    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        reverse_parts(&Reverse(self), pass, par, stack).map_err(InverseError::in_layer(&self.name))
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let pass = MapPass { first: pass.at, second: pass.tangent_in, out: pass.tangent_out };
        map_columns(&Jacobian { layer: self, adjoint: false }, pass, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let pass = MapPass { first: pass.at, second: pass.cotangent_out, out: pass.cotangent_in };
        map_columns(&Jacobian { layer: self, adjoint: true }, pass, par);
        Ok(())
    }
}
