use crate::InverseError;

/// How blocks without a closed form are reversed.
///
/// | field | default | range | meaning |
/// |---|---|---|---|
/// | `tolerance` | 1e-3 | `[1e-12, 0.1]` | distance of an output to its target box that counts as attained, as a share of the observed one |
/// | `max_steps` | 40 | `1 ..= 1000` | most linearisations of a sample; 25 quasi-Newton steps, which an input range asks for, count as one |
/// | `nearer_steps` | 0 | `0 ..= 100` | steps along the outputs that are reached towards the observed input |
///
/// A step towards the observed input costs about as much as reaching the target. Where the function is smooth, some steps lead
/// to a point from which no short move is nearer; where it is not, each gains a few percent of the distance at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NewtonParams {
    pub(in crate::layers) tolerance: f64,
    pub(in crate::layers) max_steps: usize,
    pub(in crate::layers) nearer_steps: usize,
}

impl Default for NewtonParams {
    fn default() -> Self {
        Self { tolerance: 1e-3, max_steps: 40, nearer_steps: 0 }
    }
}

impl NewtonParams {
    /// The defaults of the table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the tolerance.
    #[must_use]
    pub fn tolerance(self, tolerance: f64) -> Self {
        Self { tolerance, ..self }
    }

    /// Sets the most linearisations of a sample.
    #[must_use]
    pub fn max_steps(self, max_steps: usize) -> Self {
        Self { max_steps, ..self }
    }

    /// Sets the steps towards the observed input.
    #[must_use]
    pub fn nearer_steps(self, nearer_steps: usize) -> Self {
        Self { nearer_steps, ..self }
    }

    /// Checks all ranges.
    ///
    /// # Errors
    /// [`InverseError::Parameter`] with the first field outside its range.
    pub fn check(self) -> Result<Self, InverseError> {
        let refuse = |name, value, range| Err(InverseError::Parameter { name, value, range });
        if !(1e-12..=0.1).contains(&self.tolerance) {
            return refuse("tolerance", self.tolerance, "[1e-12, 0.1]");
        }
        if !(1..=1000).contains(&self.max_steps) {
            return refuse("max_steps", self.max_steps as f64, "1 ..= 1000");
        }
        if self.nearer_steps > 100 {
            return refuse("nearer_steps", self.nearer_steps as f64, "0 ..= 100");
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_all_ranges() {
        let new = NewtonParams::new;
        for good in [new(), new().tolerance(1e-12), new().tolerance(0.1), new().max_steps(1), new().max_steps(1000)] {
            assert_eq!(good.check(), Ok(good));
        }
        let bad = [
            new().tolerance(0.9e-12),
            new().tolerance(0.11),
            new().tolerance(f64::NAN),
            new().max_steps(0),
            new().max_steps(1001),
            new().nearer_steps(101),
        ];
        assert!(new().nearer_steps(100).check().is_ok());
        assert!(bad.iter().all(|bad| bad.check().is_err()));
    }
}
