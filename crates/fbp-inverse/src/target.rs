use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{MatMut, MatRef};
use fbp_linalg::{LinalgError, Real, expect_box, expect_finite};

/// What a layer's output should be: per entry an interval `[lower, upper]` and the preferred point in it.
///
/// Most layers do not pin their input down (a ReLU that must give 0 accepts every input `<= 0`), so targets are
/// boxes. A point target has `lower = point = upper`; infinite ends are allowed, the point is always finite.
#[derive(Clone, Copy, Debug)]
pub struct TargetBox<'a, T> {
    /// The preferred point, inside the box.
    pub point: MatRef<'a, T>,
    /// Lower ends, `-∞` where there is none.
    pub lower: MatRef<'a, T>,
    /// Upper ends, `∞` where there is none.
    pub upper: MatRef<'a, T>,
}

/// The box that a reverse pass writes; every entry is write-only.
#[derive(Debug)]
pub struct TargetBoxMut<'a, T> {
    /// The point of the preimage nearest to the observed input.
    pub point: MatMut<'a, T>,
    /// Lower ends of the box of inputs that would do as well.
    pub lower: MatMut<'a, T>,
    /// Upper ends of that box.
    pub upper: MatMut<'a, T>,
}

impl<'a, T: Real> TargetBox<'a, T> {
    /// A point target: the box is the point itself.
    pub fn point(point: MatRef<'a, T>) -> Self {
        Self { point, lower: point, upper: point }
    }

    /// The box of samples `start .. start + count`.
    pub fn columns(&self, start: usize, count: usize) -> Self {
        Self {
            point: self.point.subcols(start, count),
            lower: self.lower.subcols(start, count),
            upper: self.upper.subcols(start, count),
        }
    }

    /// Checks that the point is finite and that every interval holds a finite number: `lower <= upper`, no end NaN, and
    /// not both ends the same infinity.
    ///
    /// # Errors
    /// [`LinalgError::NonFinite`] or [`LinalgError::EmptyBox`] with the first position.
    pub fn check(&self) -> Result<(), LinalgError> {
        expect_finite("target_out", self.point)?;
        expect_box("target_out", self.lower, self.upper)
    }
}

impl<'a, T: Real> TargetBoxMut<'a, T> {
    /// A shorter-lived view of the same memory.
    pub fn rb_mut(&mut self) -> TargetBoxMut<'_, T> {
        TargetBoxMut { point: self.point.rb_mut(), lower: self.lower.rb_mut(), upper: self.upper.rb_mut() }
    }

    /// Sets both ends of the box to the point, for layers that pin their input down.
    pub fn collapse_to_point(&mut self) {
        self.lower.copy_from(self.point.rb());
        self.upper.copy_from(self.point.rb());
    }

    /// A read-only view of what was written.
    pub fn rb(&self) -> TargetBox<'_, T> {
        TargetBox { point: self.point.rb(), lower: self.lower.rb(), upper: self.upper.rb() }
    }
}
