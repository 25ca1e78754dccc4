//! Which units of a layer should have said what, as a drawing.

use fbp_train::explain::Change;

use super::html::{escape, number, push};

/// Units that are drawn, the most changed ones.
const UNITS: usize = 12;
/// Height of a row, width of the names, of the bars and of the numbers, in CSS pixels.
const ROW: f64 = 19.0;
const NAMES: f64 = 62.0;
const BARS: f64 = 200.0;
const NUMBERS: f64 = 136.0;
/// More is red and less is blue, as in the pictures of changes.
const MORE: &str = "#b2182b";
const LESS: &str = "#2166ac";

/// A row for each of the units that change most: a ring where it was, a dot where it should have been, an arrow from one to the
/// other. Nothing if nothing changes.
pub(crate) fn units(change: &Change<'_>, stage: &str) -> String {
    let mut order: Vec<usize> = (0..change.before.len().min(change.after.len())).collect();
    let moved = |unit: usize| f64::from(change.after[unit] - change.before[unit]);
    order.retain(|&unit| moved(unit) != 0.0);
    order.sort_by(|&a, &b| moved(b).abs().total_cmp(&moved(a).abs()));
    order.truncate(UNITS);
    if order.is_empty() {
        return String::new();
    }
    let values = || order.iter().flat_map(|&unit| [change.before[unit], change.after[unit]]).map(f64::from);
    let (low, high) = (values().fold(0.0, f64::min), values().fold(0.0, f64::max));
    let width = (high - low).max(f64::MIN_POSITIVE);
    let at = |value: f32| NAMES + 8.0 + (BARS - 16.0) * (f64::from(value) - low) / width;
    let (all, height) = (NAMES + BARS + NUMBERS, ROW * order.len() as f64 + 4.0);
    let mut svg = format!(
        "<svg class=\"units\" viewBox=\"0 0 {all:.0} {height:.0}\" width=\"{all:.0}\" height=\"{height:.0}\" role=\"img\" \
         aria-label=\"units of {} that should have changed most\" xmlns=\"http://www.w3.org/2000/svg\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"currentColor\">",
        escape(stage)
    );
    push(
        &mut svg,
        format_args!("<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"0\" y2=\"{height:.0}\" stroke=\"#c6cbd1\"/>", at(0.0)),
    );
    for (row, &unit) in order.iter().enumerate() {
        let (before, after) = (change.before[unit], change.after[unit]);
        let (y, colour) = (ROW * (row as f64 + 0.5) + 2.0, if after > before { MORE } else { LESS });
        let (from, to) = (at(before), at(after));
        push(&mut svg, format_args!("<text x=\"0\" y=\"{:.1}\">unit {unit}</text>", y + 4.0));
        push(
            &mut svg,
            format_args!(
                "<line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"3\" \
                 stroke-opacity=\"0.55\"/><circle cx=\"{from:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#fff\" stroke=\"#374151\" \
                 stroke-width=\"1.5\"/><circle cx=\"{to:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{colour}\"/>"
            ),
        );
        let text = format!("{} → {}", number(f64::from(before)), number(f64::from(after)));
        push(&mut svg, format_args!("<text x=\"{:.0}\" y=\"{:.1}\">{text}</text>", NAMES + BARS + 4.0, y + 4.0));
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_changed_units_come_first_and_what_stays_is_left_out() {
        let (before, after) = ([0.0, 1.0, 2.0, 0.5], [0.0, 3.0, 1.5, 0.5]);
        let change = Change { shape: [4, 1, 1], before: &before, after: &after, image: false };
        let svg = units(&change, "hidden <1>");
        let place = |text: &str| svg.find(text).unwrap_or_else(|| panic!("{text} is not in {svg}"));
        assert!(place(">unit 1<") < place(">unit 2<") && !svg.contains(">unit 0<") && !svg.contains(">unit 3<"));
        assert!(svg.contains(MORE) && svg.contains(LESS) && svg.contains("hidden &lt;1&gt;"));
        let same = Change { after: &before, ..change };
        assert_eq!(units(&same, "h"), "");
    }
}
