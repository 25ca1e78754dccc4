use super::DataError;

/// What the samples of a data set should give, one after the other: numbers in place of a label.
///
/// Outputs may be a *trajectory*: poses of two entries (x, y) or three (x, y and a heading), one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    values: Vec<f32>,
    len: usize,
    pose: Option<usize>,
}

/// What the samples of a data set should give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted<'a> {
    /// The largest output at the label.
    Labels(&'a [u8]),
    /// These outputs.
    Outputs(&'a Outputs),
}

impl Outputs {
    /// Outputs of `len` entries for each sample, as poses of `pose` entries if they are a trajectory.
    ///
    /// # Errors
    /// [`DataError::Parameter`] if `len` is 0, or unless `pose` is 2 or 3 and divides it; [`DataError::Length`] for values that
    /// are no whole number of samples.
    pub fn new(values: Vec<f32>, len: usize, pose: Option<usize>) -> Result<Self, DataError> {
        if len == 0 {
            return Err(DataError::Parameter { name: "outputs", value: 0.0, range: "1 or more for each sample" });
        }
        if let Some(pose) = pose
            && !((2..=3).contains(&pose) && len.is_multiple_of(pose))
        {
            let range = "2 or 3 entries, which divide the number of outputs";
            return Err(DataError::Parameter { name: "pose", value: pose as f64, range });
        }
        if !values.len().is_multiple_of(len) {
            let (what, found) = ("outputs of whole samples", values.len());
            return Err(DataError::Length { what, expected: found.next_multiple_of(len), found });
        }
        Ok(Self { values, len, pose })
    }

    /// Entries of one sample.
    pub fn entries(&self) -> usize {
        self.len
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.values.len() / self.len
    }

    /// Entries of one pose, 2 or 3, if the outputs are a trajectory.
    pub fn pose(&self) -> Option<usize> {
        self.pose
    }

    /// All values, one sample after the other.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// What one sample should give.
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn of(&self, sample: usize) -> &[f32] {
        &self.values[sample * self.len..][..self.len]
    }

    /// Those of some samples, which are there.
    pub(crate) fn picked(&self, samples: &[usize]) -> Self {
        let mut values = Vec::with_capacity(samples.len() * self.len);
        samples.iter().for_each(|&sample| values.extend_from_slice(self.of(sample)));
        Self { values, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_and_samples_picked() {
        let new = |values: usize, len, pose| Outputs::new((0..values).map(|k| k as f32).collect(), len, pose);
        assert!(matches!(new(4, 0, None), Err(DataError::Parameter { name: "outputs", .. })));
        assert!(matches!(new(6, 4, None), Err(DataError::Length { expected: 8, found: 6, .. })));
        for pose in [0, 1, 4] {
            assert!(matches!(new(12, 12, Some(pose)), Err(DataError::Parameter { name: "pose", .. })));
        }
        assert!(matches!(new(8, 4, Some(3)), Err(DataError::Parameter { name: "pose", .. })));
        let outputs = new(12, 4, Some(2)).unwrap();
        assert_eq!((outputs.samples(), outputs.entries(), outputs.pose()), (3, 4, Some(2)));
        assert_eq!(outputs.picked(&[2, 0]).values(), [8.0, 9.0, 10.0, 11.0, 0.0, 1.0, 2.0, 3.0]);
    }
}
