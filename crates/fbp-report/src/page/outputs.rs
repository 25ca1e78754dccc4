//! What a network gave and what was wanted, for data with outputs: a drawing of trajectories, a table of other numbers.

use super::html::{number, table};
use super::path::{Drawn, Stroke, View, birds_eye, ends_of, stroke_keys};

/// Most outputs that a table lists.
const LISTED: usize = 24;

/// Outputs under one name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    /// As HTML.
    pub(crate) name: &'a str,
    pub(crate) values: &'a [f32],
}

/// What one sample gave, what was wanted, and what it would give or gives now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) wanted: &'a [f32],
    pub(crate) before: Named<'a>,
    pub(crate) after: Option<Named<'a>>,
    /// Entries of a pose, if the outputs are a trajectory.
    pub(crate) pose: Option<usize>,
    pub(crate) tolerance: f64,
}

/// A figure of one sample; `label` is plain text for those who cannot see it.
pub(crate) fn outputs_figure(shown: &Shown<'_>, label: &str) -> String {
    let Some(pose) = shown.pose else { return outputs_table(shown, label) };
    let drawn = |poses, stroke| Drawn { poses, pose, stroke };
    let mut paths = vec![drawn(shown.wanted, Stroke::Wanted), drawn(shown.before.values, Stroke::Before)];
    let mut keys = vec![(Stroke::Wanted, "as it should have been"), (Stroke::Before, shown.before.name)];
    if let Some(after) = &shown.after {
        paths.push(drawn(after.values, Stroke::After));
        keys.push((Stroke::After, after.name));
    }
    let view = View { tolerance: shown.tolerance, many: false, ends: ends_of(paths.iter().copied()) };
    format!("<figure>{}{}</figure>", birds_eye(&paths, view, label), stroke_keys(&keys))
}

fn outputs_table(shown: &Shown<'_>, label: &str) -> String {
    let mut headings = vec!["output", "wanted", shown.before.name];
    headings.extend(shown.after.iter().map(|after| after.name));
    let of = |values: &[f32], entry: usize| values.get(entry).map_or("–".into(), |value| number(f64::from(*value)));
    let rows: Vec<Vec<String>> = (0..shown.wanted.len().min(LISTED))
        .map(|entry| {
            let own = [entry.to_string(), of(shown.wanted, entry), of(shown.before.values, entry)];
            own.into_iter().chain(shown.after.iter().map(|after| of(after.values, entry))).collect()
        })
        .collect();
    table(label, &headings, &rows)
}

/// Largest error of an output, and the mean distance of a pose from the wanted one for trajectories.
pub(crate) fn errors_of(found: &[f32], wanted: &[f32], pose: Option<usize>) -> (f64, Option<f64>) {
    let errors = found.iter().zip(wanted).map(|(found, wanted)| f64::from((found - wanted).abs()));
    let displacement = pose.map(|pose| {
        let pairs = found.chunks_exact(pose).zip(wanted.chunks_exact(pose));
        let distances: Vec<f64> = pairs.map(|(a, b)| f64::from(a[0] - b[0]).hypot(f64::from(a[1] - b[1]))).collect();
        distances.iter().sum::<f64>() / distances.len().max(1) as f64
    });
    (errors.fold(0.0, f64::max), displacement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trajectories_are_drawn_and_other_outputs_listed() {
        let before = Named { name: "as it was", values: &[1.0, 2.5] };
        let shown = Shown { wanted: &[1.0, 2.0], before, after: None, pose: None, tolerance: 0.1 };
        let html = outputs_figure(&shown, "sample 1");
        assert!(html.contains("<table") && html.contains("2.50") && !html.contains("<svg"));
        let html = outputs_figure(&Shown { pose: Some(2), ..shown }, "sample 1");
        assert!(html.contains("<svg") && html.contains("as it was") && html.contains("as it should have been"));
        assert_eq!(errors_of(&[3.0, 4.0], &[0.0, 0.0], Some(2)), (4.0, Some(5.0)));
        assert_eq!(errors_of(&[3.0, 4.0], &[0.0, 0.0], None), (4.0, None));
    }
}
