//! What a comparison paired by seed found, as every table and summary has it.

use serde::{Deserialize, Serialize};

use crate::statistics::{PairedComparison, holm};

/// Differences of test accuracies over the seeds that both sides have, in percentage points; for outputs the per cent of the other
/// side's RMSE that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Number of pairs.
    pub seeds: usize,
    /// Mean difference.
    pub mean_pp: f64,
    /// Lower end of the bootstrap 95 % interval; none for one pair.
    pub ci_low: Option<f64>,
    /// Its upper end.
    pub ci_high: Option<f64>,
    /// One-sided paired t-test; none for one pair.
    pub p_t: Option<f64>,
    /// The same, adjusted by Holm over the table.
    pub p_t_holm: Option<f64>,
    /// Two-sided paired t-test, adjusted by Holm over the table: for verdicts in both directions.
    pub p_two_sided_holm: Option<f64>,
    /// One-sided Wilcoxon signed-rank test.
    pub p_wilcoxon: Option<f64>,
    /// The same, adjusted by Holm over the table.
    pub p_wilcoxon_holm: Option<f64>,
    /// Cohen's `d_z`.
    pub d_z: Option<f64>,
}

impl From<PairedComparison> for Difference {
    /// Not yet adjusted: see `adjust`.
    fn from(found: PairedComparison) -> Self {
        Self {
            seeds: found.pairs,
            mean_pp: 100.0 * found.mean,
            ci_low: found.interval.map(|[low, _]| 100.0 * low),
            ci_high: found.interval.map(|[_, high]| 100.0 * high),
            p_t: found.p_t,
            p_t_holm: found.p_t,
            p_two_sided_holm: found.p_t_two_sided(),
            p_wilcoxon: found.p_wilcoxon,
            p_wilcoxon_holm: found.p_wilcoxon,
            d_z: found.d_z,
        }
    }
}

impl Difference {
    /// What the columns of [`cells`](Self::cells) are called.
    pub(crate) const HEADINGS: [&'static str; 9] =
        ["seeds", "mean_pp", "ci_low", "ci_high", "p_t", "p_t_holm", "p_wilcoxon", "p_wilcoxon_holm", "d_z"];

    /// The numbers of a row.
    pub(crate) fn cells(&self) -> [String; 9] {
        let p = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.4}"));
        let end = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:+.3}"));
        [
            self.seeds.to_string(),
            format!("{:+.3}", self.mean_pp),
            end(self.ci_low),
            end(self.ci_high),
            p(self.p_t),
            p(self.p_t_holm),
            p(self.p_wilcoxon),
            p(self.p_wilcoxon_holm),
            self.d_z.map_or_else(|| "-".into(), |d_z| format!("{d_z:+.2}")),
        ]
    }

    /// Adjusts the p-values over a table; those that are not there stay so.
    pub(crate) fn adjust(table: &mut [&mut Self]) {
        let fields: [fn(&mut Self) -> &mut Option<f64>; 3] =
            [|row| &mut row.p_t_holm, |row| &mut row.p_two_sided_holm, |row| &mut row.p_wilcoxon_holm];
        for field in fields {
            let values: Vec<f64> = table.iter_mut().map(|row| field(row).unwrap_or(f64::NAN)).collect();
            for (row, adjusted) in table.iter_mut().zip(holm(&values)) {
                *field(row) = Some(adjusted).filter(|adjusted| !adjusted.is_nan());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_values_are_adjusted_over_the_table_and_gaps_stay() {
        let mut table = [Some(0.01), Some(0.04), None].map(|p_t| Difference { p_t_holm: p_t, ..Difference::default() });
        Difference::adjust(&mut table.iter_mut().collect::<Vec<_>>());
        assert_eq!(table.map(|row| row.p_t_holm), [Some(0.02), Some(0.04), None]);
    }
}
