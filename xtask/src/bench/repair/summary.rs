//! Means over seeds, and differences from the rivals seed by seed.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::bench::statistics::{holm, interval, p_value};
use crate::error::TaskError;

/// Fine-tuning on the samples alone.
const FINE_TUNING: &str = "fine-tuning";
/// The same with other training images mixed in.
const MIXING: &str = "fine-tuning, clean images mixed in";

/// What a way came to, in per cent and percentage points.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) efficacy: f64,
    pub(super) generalisation: f64,
    pub(super) drawdown: f64,
    /// Time of the processor, where the record has it.
    pub(super) seconds: Option<f64>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { efficacy, generalisation, drawdown, seconds } = self;
        write!(f, "{efficacy:.1} % right, {generalisation:.1} % of the others, {:+.2} pp", -drawdown)?;
        seconds.map_or(Ok(()), |seconds| write!(f, ", {seconds:.1} s"))
    }
}

impl Outcome {
    /// That of a repair.
    pub(super) fn of(record: &Value) -> Result<Self, TaskError> {
        Self::from(record, "repair_processor_seconds")
    }

    fn from(record: &Value, seconds: &str) -> Result<Self, TaskError> {
        let number = |name: &str| {
            let missing = || TaskError::Refused(format!("a record of a repair has no {name}"));
            record.get(name).and_then(Value::as_f64).ok_or_else(missing)
        };
        Ok(Self {
            efficacy: 100.0 * number("efficacy")?,
            generalisation: 100.0 * number("generalisation")?,
            drawdown: 100.0 * number("drawdown_test")?,
            seconds: record.get(seconds).and_then(Value::as_f64),
        })
    }
}

/// The rivals of every seed.
#[derive(Default)]
pub(super) struct Rivals {
    alone: Vec<Option<Outcome>>,
    mixed: Vec<Option<Outcome>>,
}

impl Rivals {
    /// Adds those of the records of a seed, as far as they are there.
    pub(super) fn push(&mut self, alone: Option<&Value>, mixed: Option<&Value>) -> Result<(), TaskError> {
        let of = |record: Option<&Value>, name: &str| {
            record.map(|record| Outcome::from(&record[name], "processor_seconds")).transpose()
        };
        self.alone.push(of(alone, "rival")?);
        self.mixed.push(of(mixed, "mixed")?);
        Ok(())
    }
}

/// What rows are about.
pub(super) struct Cell {
    pub(super) network: String,
    pub(super) data: String,
    pub(super) samples: String,
}

/// What a way is ahead of a rival, with 95 % intervals and p-values after Holm over all ways of the network.
#[derive(Clone, Debug, Serialize)]
struct Ahead {
    /// Others of their kind that come right more than with the rival.
    generalisation_pp: f64,
    generalisation_ci: Option<[f64; 2]>,
    generalisation_p_holm: Option<f64>,
    /// Accuracy on the test set that is kept over the rival.
    kept_pp: f64,
    kept_ci: Option<[f64; 2]>,
    kept_p_holm: Option<f64>,
}

/// Means of a way over the seeds that it has an answer for, and what it is ahead of the rivals.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    network: String,
    data: String,
    samples: String,
    method: String,
    seeds: usize,
    efficacy_pct: f64,
    generalisation_pct: f64,
    drawdown_pp: f64,
    /// Mean over the seeds whose record has the time of the processor.
    seconds: Option<f64>,
    fine_tuning: Option<Ahead>,
    mixing: Option<Ahead>,
}

impl Ahead {
    fn of(pairs: &[(Outcome, Outcome)]) -> Self {
        let differences =
            |of: fn(&Outcome) -> f64| -> Vec<f64> { pairs.iter().map(|(own, rival)| of(own) - of(rival)).collect() };
        let compared = |of| {
            let differences = differences(of);
            let (mean, half) = interval(&differences);
            (mean, half.map(|half| [mean - half, mean + half]), p_value(&differences))
        };
        let (generalisation_pp, generalisation_ci, generalisation_p_holm) = compared(|outcome| outcome.generalisation);
        let (kept_pp, kept_ci, kept_p_holm) = compared(|outcome| -outcome.drawdown);
        Self { generalisation_pp, generalisation_ci, generalisation_p_holm, kept_pp, kept_ci, kept_p_holm }
    }
}

/// A row for every way, and the rivals behind them.
pub(super) fn rows(cell: &Cell, own: &[(String, Vec<Option<Outcome>>)], rivals: &Rivals) -> Vec<Row> {
    let mut rows: Vec<Row> = own.iter().map(|(method, outcomes)| row(cell, method, outcomes, Some(rivals))).collect();
    rows.push(Row { mixing: None, ..row(cell, MIXING, &rivals.mixed, Some(rivals)) });
    rows.push(row(cell, FINE_TUNING, &rivals.alone, None));
    type Pick = fn(&mut Row) -> Option<&mut Option<f64>>;
    let families: [Pick; 4] = [
        |row| Some(&mut row.fine_tuning.as_mut()?.generalisation_p_holm),
        |row| Some(&mut row.fine_tuning.as_mut()?.kept_p_holm),
        |row| Some(&mut row.mixing.as_mut()?.generalisation_p_holm),
        |row| Some(&mut row.mixing.as_mut()?.kept_p_holm),
    ];
    for of in families {
        let mut family: Vec<&mut f64> = rows.iter_mut().filter_map(|row| of(row)?.as_mut()).collect();
        let adjusted = holm(&family.iter().map(|p| **p).collect::<Vec<_>>());
        family.iter_mut().zip(adjusted).for_each(|(p, adjusted)| **p = adjusted);
    }
    rows
}

fn row(cell: &Cell, method: &str, outcomes: &[Option<Outcome>], rivals: Option<&Rivals>) -> Row {
    let own: Vec<Outcome> = outcomes.iter().flatten().copied().collect();
    let mean = |of: fn(&Outcome) -> f64| own.iter().map(of).sum::<f64>() / own.len().max(1) as f64;
    let times: Vec<f64> = own.iter().filter_map(|outcome| outcome.seconds).collect();
    let ahead = |rivals: &[Option<Outcome>]| {
        let pairs: Vec<_> = outcomes.iter().zip(rivals).filter_map(|(own, rival)| Some(((*own)?, (*rival)?))).collect();
        (!pairs.is_empty()).then(|| Ahead::of(&pairs))
    };
    Row {
        network: cell.network.clone(),
        data: cell.data.clone(),
        samples: cell.samples.clone(),
        method: method.to_owned(),
        seeds: own.len(),
        efficacy_pct: mean(|outcome| outcome.efficacy),
        generalisation_pct: mean(|outcome| outcome.generalisation),
        drawdown_pp: mean(|outcome| outcome.drawdown),
        seconds: (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64),
        fine_tuning: rivals.and_then(|rivals| ahead(&rivals.alone)),
        mixing: rivals.and_then(|rivals| ahead(&rivals.mixed)),
    }
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| network | samples | method | seeds | right, % | others right, % | loss, pp | s | others ahead of fine-tuning, pp | \
         accuracy kept ahead of it, pp | others ahead of mixing, pp | accuracy kept ahead of it, pp |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let with = |mean: f64, ci: &Option<[f64; 2]>| match ci {
        Some([low, high]) => format!("{mean:+.2} ({low:.2} to {high:.2})"),
        None => format!("{mean:+.2}"),
    };
    let both = |ahead: &Option<Ahead>| match ahead {
        Some(ahead) => format!(
            "{} | {}",
            with(ahead.generalisation_pp, &ahead.generalisation_ci),
            with(ahead.kept_pp, &ahead.kept_ci)
        ),
        None => "– | –".to_owned(),
    };
    for row in rows {
        let (alone, mixed) = (both(&row.fine_tuning), both(&row.mixing));
        text.push_str(&format!(
            "| {} | {} | {} | {} | {:.1} | {:.1} | {:.2} | {} | {alone} | {mixed} |\n",
            row.network,
            row.samples,
            row.method,
            row.seeds,
            row.efficacy_pct,
            row.generalisation_pct,
            row.drawdown_pp,
            row.seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1}"))
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_compare_seed_by_seed() {
        let record = |generalisation: f64, drawdown: f64, seconds: f64| {
            let rival = |loss: f64| json!({ "efficacy": 0.5, "generalisation": 0.25, "drawdown_test": loss, "seconds": 3.0, "processor_seconds": 2.0 });
            json!({
                "efficacy": 1.0, "generalisation": generalisation, "drawdown_test": drawdown, "repair_processor_seconds": seconds,
                "rival": rival(0.125), "mixed": rival(0.0625),
            })
        };
        let records = [record(0.5, 0.0, 1.0), record(0.75, 0.0625, 3.0)];
        let own: Vec<Option<Outcome>> = records.iter().map(|record| Some(Outcome::of(record).unwrap())).collect();
        let mut rivals = Rivals::default();
        records.iter().for_each(|record| rivals.push(Some(record), Some(record)).unwrap());
        assert_eq!(rivals.alone[0].unwrap().seconds, Some(2.0));
        let cell = Cell { network: "n".into(), data: "d".into(), samples: "s".into() };
        let found = rows(&cell, &[("repair".into(), own), ("none".into(), vec![None, None])], &rivals);
        let [repair, none, mixing, alone] = &found[..] else { panic!("{found:?}") };
        assert_eq!((repair.efficacy_pct, repair.generalisation_pct, repair.drawdown_pp), (100.0, 62.5, 3.125));
        assert_eq!((repair.seconds, none.seeds, none.fine_tuning.is_none()), (Some(2.0), 0, true));
        let ahead = repair.fine_tuning.as_ref().unwrap();
        assert_eq!((ahead.generalisation_pp, ahead.kept_pp), (37.5, 9.375));
        // Two differences, 25 and 50: 12.706 · 12.5 to both sides.
        let [low, high] = ahead.generalisation_ci.unwrap();
        assert!((low + 121.325).abs() < 1e-9 && (high - 196.325).abs() < 1e-9);
        assert_eq!(repair.mixing.as_ref().unwrap().kept_pp, 3.125);
        assert_eq!((mixing.fine_tuning.as_ref().unwrap().kept_pp, mixing.mixing.is_none()), (6.25, true));
        assert!(alone.fine_tuning.is_none());
        // Two rows have a p-value against fine-tuning, and that of mixing, with no difference, is the larger one.
        let p = ahead.generalisation_p_holm.unwrap();
        assert!((p - 2.0 * p_value(&[25.0, 50.0]).unwrap()).abs() < 1e-12, "{p}");
        assert!(table(&found).contains("| n | s | repair | 2 | 100.0 | 62.5 | 3.12 | 2.0 | +37.50"));
        assert!(Outcome::of(&json!({})).is_err());
    }
}
