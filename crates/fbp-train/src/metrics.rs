//! Decisions and their counts.

/// Index of the largest value, the first one of several; 0 for no values. NaN never wins.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, &value) in values.iter().enumerate() {
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
}

/// Lead of a class over the strongest other one.
pub(crate) fn lead(values: &[f32], class: usize) -> f32 {
    let rivals = values.iter().enumerate().filter(|(other, _)| *other != class);
    values[class] - rivals.map(|(_, &value)| value).fold(f32::NEG_INFINITY, f32::max)
}

/// Length of a change relative to what was changed; of what was zero 1, unless it still is.
pub(crate) fn relative(change: f64, old: f64) -> f64 {
    match (change, old) {
        (0.0, _) => 0.0,
        (_, 0.0) => 1.0,
        _ => change / old,
    }
}

/// Whether all values are finite. Without an early exit inside a chunk the comparison vectorises.
pub fn all_finite(values: &[f32]) -> bool {
    values.chunks(4096).all(|chunk| chunk.iter().fold(true, |finite, v| finite & v.is_finite()))
}

/// Number of rows of `logits` whose largest value is at the label.
pub fn count_right(logits: &[f32], classes: usize, labels: &[u32]) -> usize {
    logits.chunks_exact(classes).zip(labels).filter(|(row, label)| argmax(row) == **label as usize).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_first_and_nan_never_wins() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, -2.0]), 1);
        assert_eq!(argmax(&[]), 0);
        assert_eq!(count_right(&[1.0, 2.0, 4.0, 3.0, 0.0, 1.0], 2, &[1, 1, 1]), 2);
    }

    #[test]
    fn what_was_zero_changes_by_the_whole() {
        assert_eq!([relative(0.0, 0.0), relative(3.0, 0.0), relative(3.0, 6.0)], [0.0, 1.0, 0.5]);
    }
}
