//! What the figures allow to be said, in words.

use super::groups::Group;
use super::rows::Rows;
use fbp_train::settings::Measure;

use crate::page::{gained, signed};
use crate::statistics::PairedComparison;

/// Pairs below which nothing can be told.
const FEW: usize = 3;

/// A statement about one comparison.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    /// Whether a difference was shown, and in which direction.
    pub(super) shown: Shown,
    /// The statement, as HTML.
    pub(super) text: String,
}

/// What a comparison shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Gain,
    Loss,
    Nothing,
}

impl Shown {
    /// A difference counts as shown if zero is outside of the bootstrap interval and a two-sided t-test says so at 5 %:
    /// the first alone is too easily content with few pairs.
    pub(super) fn of(found: &PairedComparison) -> Self {
        let sure = found.p_t_two_sided().is_some_and(|p| p <= 0.05);
        match found.interval {
            Some([low, _]) if sure && low > 0.0 => Self::Gain,
            Some([_, high]) if sure && high < 0.0 => Self::Loss,
            _ => Self::Nothing,
        }
    }

    /// Class of its box in the style sheet.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Gain => "gain",
            Self::Loss => "loss",
            Self::Nothing => "open",
        }
    }
}

/// `+0.50 to +1.10 pp`; nothing for one pair, which has no interval.
pub(super) fn interval_text(found: &PairedComparison, measure: Measure) -> Option<String> {
    let [low, high] = found.interval?.map(|end| signed(100.0 * end, 2));
    Some(format!("{low} to {high} {}", if measure.is_accuracy() { "pp" } else { "%" }))
}

/// `+0.80 pp (95 % interval +0.50 to +1.10 pp, 10 pairs)`.
pub(super) fn with_interval(found: &PairedComparison, measure: Measure) -> String {
    let mean = gained(measure, found.mean);
    match interval_text(found, measure) {
        Some(interval) => format!("{mean} (95 % interval {interval}, {} pairs)", found.pairs),
        None => format!("{mean} (1 pair, so without an interval)"),
    }
}

/// Whether the gain of the method over tuned fine-tuning is real.
pub(super) fn overall(rows: &Rows<'_, '_>) -> Option<Verdict> {
    let method = rows.method.group?;
    let Some(found) = rows.gain_over(&rows.tuned) else {
        let text = "<b>Whether it is a gain cannot be said:</b> there are no runs of tuned fine-tuning with the same seeds. \
                    A method that is not compared with tuned fine-tuning always looks good.";
        return Some(Verdict { shown: Shown::Nothing, text: text.into() });
    };
    let shown = Shown::of(&found);
    let measure = method.measure();
    let mut figures = with_interval(&found, measure);
    if !measure.is_accuracy() {
        figures += " of the RMSE";
    }
    let mut text = match shown {
        Shown::Gain => format!("<b>The gain is real:</b> the targets are worth {figures} against tuned fine-tuning."),
        Shown::Loss => {
            format!("<b>A loss:</b> the targets end at {figures} against tuned fine-tuning. Here, fine-tune instead.")
        }
        Shown::Nothing if found.pairs < FEW => {
            format!("<b>Too few runs to tell:</b> {figures} against tuned fine-tuning. Run more seeds.")
        }
        Shown::Nothing => format!(
            "<b>No gain was shown:</b> {figures} against tuned fine-tuning. Chance alone explains such a difference."
        ),
    };
    if let Some(easy) = rows.gain_over(&rows.same_rate)
        && easy.mean - found.mean > 0.0005
    {
        text += &format!(
            " (Against fine-tuning at the same learning rate it would look like {}; the rest is what tuning fine-tuning is \
             worth.)",
            gained(measure, easy.mean)
        );
    }
    // What cannot be told needs no cause.
    if found.pairs >= FEW
        && let Some(case) = case_of(method, rows, shown)
    {
        text += "</p><p>";
        text += &case;
    }
    if rows.tuned.tried < rows.method.tried {
        text += &format!(
            "</p><p>Mind the budget: {} settings of the targets were tried, {} of fine-tuning.",
            rows.method.tried, rows.tuned.tried
        );
    }
    if rows.unchosen {
        text += "</p><p>Some runs held no images back for validation, so settings among them could not be chosen fairly; \
                 the first one was taken.";
    }
    Some(Verdict { shown, text })
}

/// Which of the two effects of targets this was: they hold features near their start, which protects a network that
/// fine-tuning spoils, and hinders one that can still improve. Measured against fine-tuning of the same layers, so that it
/// is not the frozen ones above that make the difference.
fn case_of(method: &Group<'_>, rows: &Rows<'_, '_>, overall: Shown) -> Option<String> {
    let (plain, what) = match (rows.same_layers, rows.same_rate.group) {
        (Some(same), _) => (same, "Plain fine-tuning of the same layers"),
        (None, Some(same)) => (same, "Plain fine-tuning at the same learning rate"),
        (None, None) => return None,
    };
    let found = method.against(plain)?;
    let shown = Shown::of(&found);
    let mut text = anchoring(shown, what, (method.measure(), plain.gain()));
    if overall == Shown::Loss && shown != Shown::Loss && rows.same_layers.is_some() {
        text += " What loses against tuned fine-tuning here is not the targets, but that fewer layers were trained, or with \
                 other settings.";
    }
    Some(text)
}

/// The effect in words, from what the targets did against plain fine-tuning, and what that did to the start.
fn anchoring(shown: Shown, what: &str, (measure, plain): (Measure, f64)) -> String {
    let (changed, accuracy) = (gained(measure, plain), if measure.is_accuracy() { "accuracy" } else { "RMSE" });
    // Of errors less is more.
    let changed = if measure.is_accuracy() { changed } else { gained(measure, -plain) };
    match (shown, plain > 0.0) {
        (Shown::Nothing, _) => format!(
            "Targets hold the features near their start. That protects a network which fine-tuning spoils, and hinders one \
             that can still improve. Neither was seen here: {} changed the {accuracy} by {changed}, and the targets made no \
             difference to that which chance could not explain.",
            what.replacen('P', "p", 1)
        ),
        (Shown::Gain, true) => format!(
            "{what} gained {changed}, and the targets more: they helped the network improve, and did not just hold it near \
             its start."
        ),
        (Shown::Gain, false) => format!(
            "{what} changed the {accuracy} by {changed}: it spoiled the network, and the targets held the features near their \
             start, which <b>protected</b> it."
        ),
        (Shown::Loss, true) => format!(
            "{what} gained {changed}: the start could still improve, and the targets, which hold the features near it, \
             <b>held it back</b>."
        ),
        (Shown::Loss, false) => format!(
            "{what} changed the {accuracy} by {changed}, and the targets did worse: they neither protected the network nor \
             improved it."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_counts_only_if_interval_and_test_agree() {
        let shown = |differences: &[f64]| Shown::of(&PairedComparison::of(differences, 0).unwrap());
        assert_eq!(shown(&[0.010, 0.012, 0.011, 0.009, 0.010]), Shown::Gain);
        assert_eq!(shown(&[-0.010, -0.012, -0.011, -0.009, -0.010]), Shown::Loss);
        assert_eq!(shown(&[0.01, -0.01, 0.02, -0.02, 0.001]), Shown::Nothing);
        // The interval of three positive differences is above zero, but they spread too much for the test.
        let found = PairedComparison::of(&[0.001, 0.02, 0.005], 0).unwrap();
        assert!(found.interval.unwrap()[0] > 0.0);
        assert_eq!((Shown::of(&found), shown(&[0.5])), (Shown::Nothing, Shown::Nothing));
    }

    #[test]
    fn the_two_cases_are_told_by_what_plain_fine_tuning_did() {
        assert!(anchoring(Shown::Gain, "Plain", (Measure::Accuracy, -0.01)).contains("protected"));
        assert!(anchoring(Shown::Loss, "Plain", (Measure::Accuracy, 0.01)).contains("held it back"));
        assert!(anchoring(Shown::Gain, "Plain", (Measure::Accuracy, 0.01)).contains("helped the network improve"));
        assert!(anchoring(Shown::Nothing, "Plain", (Measure::Rmse, 0.01)).contains("Neither was seen"));
    }
}
