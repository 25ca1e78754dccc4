use faer::Mat;
use serde::{Deserialize, Serialize};

/// Single weights that are listed.
const LISTED: usize = 12;

/// Which weights of a layer changed, and by how much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightChange {
    /// Number of outputs of the layer: rows of its weight matrix.
    pub outputs: usize,
    /// Number of inputs, of a patch for a convolution: columns of its weight matrix.
    pub inputs: usize,
    /// Length of the change of each output's weights and bias, and their length before.
    pub by_output: Vec<[f64; 2]>,
    /// Share of the weights and biases, the most changed ones, that hold half of the squared length of the change.
    pub half_share: f64,
    /// The most changed single weights.
    pub largest: Vec<SingleWeight>,
}

/// One weight before and after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SingleWeight {
    /// Number of the output.
    pub output: usize,
    /// Number of the input; none for the bias.
    pub input: Option<usize>,
    /// Its value before.
    pub before: f64,
    /// Its value after.
    pub after: f64,
}

impl WeightChange {
    /// Describes `change` of `old`, both `outputs × (inputs + 1)` with the bias in the last column.
    pub(super) fn of(old: &Mat<f64>, change: &Mat<f64>) -> Self {
        let (outputs, columns) = (old.nrows(), old.ncols());
        let inputs = columns - 1;
        let length = |matrix: &Mat<f64>, row: usize| matrix.row(row).norm_l2();
        let mut places: Vec<(usize, usize)> = (0..outputs * columns).map(|k| (k / columns, k % columns)).collect();
        places.sort_by(|a, b| change[*b].abs().total_cmp(&change[*a].abs()));
        let whole = change.norm_l2().powi(2);
        let mut sum = 0.0;
        let half = places.iter().take_while(|place| {
            let missing = sum < 0.5 * whole;
            sum += change[**place].powi(2);
            missing
        });
        let half_share = half.count() as f64 / places.len().max(1) as f64;
        let single = |&(output, column): &(usize, usize)| SingleWeight {
            output,
            input: (column < inputs).then_some(column),
            before: old[(output, column)],
            after: old[(output, column)] + change[(output, column)],
        };
        let changed = |place: &&(usize, usize)| change[**place] != 0.0;
        Self {
            outputs,
            inputs,
            by_output: (0..outputs).map(|row| [length(change, row), length(old, row)]).collect(),
            half_share,
            largest: places.iter().filter(changed).take(LISTED).map(single).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_changes_come_first_and_the_bias_is_told() {
        let old = Mat::from_fn(2, 3, |i, j| (3 * i + j) as f64);
        let mut change = Mat::zeros(2, 3);
        (change[(1, 2)], change[(0, 0)], change[(0, 1)]) = (-4.0, 3.0, 1.0);
        let found = WeightChange::of(&old, &change);
        assert_eq!((found.outputs, found.inputs), (2, 2));
        let weight = |output, input, before, after| SingleWeight { output, input, before, after };
        let expected = [weight(1, None, 5.0, 1.0), weight(0, Some(0), 0.0, 3.0), weight(0, Some(1), 1.0, 2.0)];
        assert_eq!(found.largest, expected);
        // 16 of 26: the first one alone is more than half.
        assert!((found.half_share - 1.0 / 6.0).abs() < 1e-12);
        assert!((found.by_output[0][0] - 10f64.sqrt()).abs() < 1e-12 && found.by_output[1][0] == 4.0);
        let none = WeightChange::of(&old, &Mat::zeros(2, 3));
        assert_eq!((none.half_share, none.largest.len()), (0.0, 0));
    }
}
