//! Whether one way of training beats another: statistics of differences that are paired by seed.
//!
//! | question | answer |
//! |---|---|
//! | how large is the difference? | mean, with a [bootstrap](bootstrap_interval) percentile 95 % interval |
//! | is it more than chance? | one-sided paired t-test, one-sided [Wilcoxon signed-rank test](wilcoxon_greater) |
//! | how large is it beside the spread over the seeds? | Cohen's `d_z`, mean over standard deviation of the differences |
//! | do two quantities go together? | [Pearson's and Spearman's correlation](Correlation), with bootstrap intervals |
//! | and with many questions at once? | p-values [adjusted by Holm](holm) across the table |
//!
//! ```
//! use fbp_report::statistics::PairedComparison;
//!
//! // Charles Darwin's pairs of maize plants, crossed minus self-fertilised, in eighths of an inch.
//! let differences = [49., -67., 8., 16., 6., 23., 28., 41., 14., 29., 56., 24., 75., 60., -48.];
//! let comparison = PairedComparison::of(&differences, 0).ok_or("no pairs")?;
//! assert!((comparison.p_t.ok_or("one pair")? - 0.0248).abs() < 1e-4); // Fisher 1935, §17: t = 2.148
//! # Ok::<(), &str>(())
//! ```

mod bootstrap;
mod correlation;
mod holm;
mod paired;
mod spread;
mod wilcoxon;

pub use bootstrap::{BOOTSTRAP_SEED, bootstrap_interval};
pub use correlation::{Correlation, pearson, spearman};
pub use holm::holm;
pub use paired::PairedComparison;
pub use spread::Spread;
pub use wilcoxon::{EXACT_PAIRS, wilcoxon_greater};

/// Ranks from 1 on, ties at the mean of the ranks they share, doubled so that they are whole numbers.
fn doubled_ranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0; values.len()];
    let mut start = 0;
    for tied in order.chunk_by(|&a, &b| values[a].total_cmp(&values[b]).is_eq()) {
        // Ranks start + 1 to start + n: their mean, doubled, is 2 start + n + 1.
        let doubled = 2 * start + tied.len() + 1;
        tied.iter().for_each(|&index| ranks[index] = doubled);
        start += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_the_mean_of_their_ranks() {
        assert_eq!(doubled_ranks(&[0.3, 0.1, 0.3, 0.2, 0.3]), [8, 2, 8, 4, 8]);
        assert_eq!(doubled_ranks(&[]), [0; 0]);
    }
}
