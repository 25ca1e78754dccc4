//! The comparison that every method owes: fine-tuning at its learning rate, fine-tuning tuned, and the method tuned.

use fbp_train::settings::Objective;

use super::groups::Group;
use crate::statistics::PairedComparison;

/// One row of the comparison.
#[derive(Debug)]
pub(super) struct Row<'g, 'a> {
    pub(super) title: &'static str,
    /// The settings chosen; none if there are no such runs.
    pub(super) group: Option<&'g Group<'a>>,
    /// Number of settings that were chosen from.
    pub(super) tried: usize,
    /// Time of all their runs.
    pub(super) seconds: f64,
}

/// The three rows, and those of other ways to train.
#[derive(Debug)]
pub(super) struct Rows<'g, 'a> {
    /// Fine-tuning with the learning rate and schedule of the method's row.
    pub(super) same_rate: Row<'g, 'a>,
    /// Fine-tuning with the settings that are best on the validation part.
    pub(super) tuned: Row<'g, 'a>,
    /// The method with the settings that are best on the validation part.
    pub(super) method: Row<'g, 'a>,
    /// Fine-tuning of the same layers as in the method's row, with the same settings or else the best ones.
    pub(super) same_layers: Option<&'g Group<'a>>,
    /// Refit of the last layer, and fine-tuning above features that are computed once.
    pub(super) others: Vec<Row<'g, 'a>>,
    /// Whether some runs have no validation part, so that nothing can be chosen among their settings without a look at the
    /// test images.
    pub(super) unchosen: bool,
}

impl<'g, 'a> Rows<'g, 'a> {
    pub(super) fn new(groups: &'g [Group<'a>]) -> Self {
        let of = |title, wanted: &dyn Fn(&Group<'a>) -> bool| Row::best(title, groups, wanted);
        let method = of("the targets, tuned", &|group| group.uses_targets());
        let same = |group: &Group<'a>| {
            let rate = |group: &Group<'a>| (group.hyper.learning_rate, group.hyper.schedule);
            group.is_baseline() && method.group.is_some_and(|method| rate(method) == rate(group))
        };
        let same_rate = of("fine-tuning at that learning rate", &same);
        let tuned = of("fine-tuning, tuned", &|group| group.is_baseline());
        let like_method = |group: &Group<'a>, exactly: bool| {
            let same = |method: &Group<'a>| method.stage == group.stage && (!exactly || method.hyper == group.hyper);
            group.is_baseline() && method.group.is_some_and(same)
        };
        let same_layers = of("", &|group| like_method(group, true)).group;
        let same_layers = same_layers.or(of("", &|group| like_method(group, false)).group);
        let mode = |title, mode: Objective| of(title, &|group| group.mode == mode);
        let others = [mode("refit of the last layer", Objective::Head), mode("only the upper stages", Objective::Tail)];
        let others = others.into_iter().filter(|row| row.group.is_some()).collect();
        let unchosen = groups.iter().any(|group| group.validation().is_none());
        Self { same_rate, tuned, method, same_layers, others, unchosen }
    }

    /// The rows in the order of the page.
    pub(super) fn all(&self) -> Vec<&Row<'g, 'a>> {
        [&self.same_rate, &self.tuned, &self.method].into_iter().chain(&self.others).collect()
    }

    /// Number of groups that the rows show.
    pub(super) fn drawn(&self) -> usize {
        let mut shown: Vec<*const Group<'a>> =
            self.all().iter().filter_map(|row| row.group).map(std::ptr::from_ref).collect();
        shown.sort_unstable();
        shown.dedup();
        shown.len()
    }

    /// The method against a row of fine-tuning.
    pub(super) fn gain_over(&self, row: &Row<'g, 'a>) -> Option<PairedComparison> {
        self.method.group?.against(row.group?)
    }
}

impl<'g, 'a> Row<'g, 'a> {
    /// The best group on the validation part; the first of equals, and the first one if no group has such a part.
    fn best(title: &'static str, groups: &'g [Group<'a>], wanted: &dyn Fn(&Group<'a>) -> bool) -> Self {
        let candidates: Vec<&'g Group<'a>> = groups.iter().filter(|group| wanted(group)).collect();
        let mut best: Option<&'g Group<'a>> = None;
        for group in &candidates {
            if best.is_none_or(|best| group.is_better_than(best)) {
                best = Some(group);
            }
        }
        let seconds = candidates.iter().map(|group| group.total_seconds()).sum();
        Self { title, group: best, tried: candidates.len(), seconds }
    }
}
