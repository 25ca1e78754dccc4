use serde::{Deserialize, Serialize};

use crate::metrics::argmax;

/// How well a network does on some samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Number of samples.
    pub samples: usize,
    /// Share of the samples whose largest output is that of their label, 0 to 1.
    pub accuracy: f64,
    /// Share of the samples whose label is among the classes with the `k` largest outputs.
    pub top_k: TopK,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Share of right samples of each class, in the order of the labels; none for a class without samples.
    pub per_class: Vec<Option<f64>>,
    /// Number of samples of each class (rows) that were taken for each class (columns).
    pub confusion: Vec<Vec<usize>>,
}

/// Accuracy with several guesses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopK {
    /// Number of guesses.
    pub k: usize,
    /// Share of the samples whose label is among them, 0 to 1.
    pub accuracy: f64,
}

/// Sums over samples, from which [`Measures`] follow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Tally {
    k: usize,
    among: usize,
    loss: f64,
    confusion: Vec<Vec<usize>>,
}

impl Tally {
    pub(super) fn new(classes: usize, k: usize) -> Self {
        Self { k, among: 0, loss: 0.0, confusion: vec![vec![0; classes]; classes] }
    }

    /// Counts one sample with its outputs; `label` is one of them.
    pub(super) fn add(&mut self, outputs: &[f32], label: usize) {
        let own = outputs[label];
        // Ties go to the first, as for the largest.
        let before = |&(class, &z): &(usize, &f32)| z > own || z == own && class < label;
        self.among += usize::from(outputs.iter().enumerate().filter(before).count() < self.k);
        self.loss += cross_entropy(outputs, own);
        self.confusion[label][argmax(outputs)] += 1;
    }

    /// Adds the sums over other samples.
    pub(super) fn merge(&mut self, other: &Self) {
        self.among += other.among;
        self.loss += other.loss;
        for (own, other) in self.confusion.iter_mut().zip(&other.confusion) {
            own.iter_mut().zip(other).for_each(|(own, other)| *own += other);
        }
    }

    /// Whether the sums are of the same kind.
    pub(super) fn fits(&self, other: &Self) -> bool {
        let classes = self.confusion.len();
        self.k == other.k && other.confusion.len() == classes && other.confusion.iter().all(|row| row.len() == classes)
    }

    pub(super) fn measures(self) -> Measures {
        let of_class: Vec<usize> = self.confusion.iter().map(|row| row.iter().sum()).collect();
        let samples = of_class.iter().sum::<usize>();
        let share = |count: usize, all: usize| count as f64 / all.max(1) as f64;
        let right: Vec<usize> = self.confusion.iter().enumerate().map(|(class, row)| row[class]).collect();
        Measures {
            samples,
            accuracy: share(right.iter().sum(), samples),
            top_k: TopK { k: self.k, accuracy: share(self.among, samples) },
            loss: self.loss / samples.max(1) as f64,
            per_class: right.iter().zip(&of_class).map(|(&right, &all)| (all > 0).then(|| share(right, all))).collect(),
            confusion: self.confusion,
        }
    }
}

/// `log Σ exp(z) - z_label`, without overflow.
pub(super) fn cross_entropy(outputs: &[f32], own: f32) -> f64 {
    let largest = f64::from(outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = outputs.iter().map(|&z| (f64::from(z) - largest).exp()).sum();
    largest + sum.ln() - f64::from(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_are_those_of_the_definitions() {
        let mut tally = Tally::new(3, 2);
        tally.add(&[2.0, 1.0, 0.0], 0);
        tally.add(&[2.0, 1.0, 0.0], 1);
        tally.add(&[2.0, 1.0, 0.0], 2);
        // A tie of all: the label is the second guess.
        tally.add(&[0.5, 0.5, 0.5], 1);
        let found = tally.measures();
        assert_eq!((found.samples, found.accuracy, found.top_k.accuracy), (4, 0.25, 0.75));
        assert_eq!(found.confusion, [vec![1, 0, 0], vec![2, 0, 0], vec![1, 0, 0]]);
        assert_eq!(found.per_class, [Some(1.0), Some(0.0), Some(0.0)]);
        let sum = (0_i32..3).map(|z| f64::from(z).exp()).sum::<f64>().ln();
        let loss = (3.0 * sum - 3.0 + 3_f64.ln()) / 4.0;
        // A few operations on numbers of size one.
        assert!((found.loss - loss).abs() <= 16.0 * f64::EPSILON * loss, "{} {loss}", found.loss);
    }

    #[test]
    fn large_outputs_do_not_overflow_and_missing_classes_have_no_share() {
        let mut tally = Tally::new(2, 1);
        tally.add(&[3e4, -3e4], 1);
        let found = tally.measures();
        assert_eq!((found.loss, found.per_class), (6e4, vec![None, Some(0.0)]));
    }
}
