//! What all plots share.

use std::ops::Range;

use plotters::chart::MeshStyle;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::{DrawingBackend, RGBColor, TRANSPARENT};

use super::html::{escape, push};

/// Colours of lines and points (Okabe and Ito), told apart also by colour-blind readers.
const COLOURS: [(u8, u8, u8); 7] =
    [(0, 0, 0), (213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233)];

/// Colour of line `index`.
pub(crate) fn colour(index: usize) -> (u8, u8, u8) {
    COLOURS[index % COLOURS.len()]
}

/// Grey lines without finer ones between them, and text of this size: how the mesh of every plot looks.
pub(crate) fn quiet_mesh<X: Ranged, Y: Ranged, DB: DrawingBackend>(mesh: &mut MeshStyle<'_, '_, X, Y, DB>, text: i32) {
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(RGBColor(90, 90, 90))
        .label_style(("sans-serif", text))
        .axis_desc_style(("sans-serif", text));
}

/// Writes the numbers along an axis with at most `labels` of them: with as many digits as it takes to tell them apart.
///
/// plotters puts them at steps of 1, 2 or 5 times a power of ten, none smaller than the range over their number.
pub(crate) fn ticks(range: Range<f64>, labels: usize) -> impl Fn(&f64) -> String {
    let least = (range.end - range.start).abs().max(f64::MIN_POSITIVE) / labels.max(1) as f64;
    let digits = (-least.log10()).ceil().clamp(0.0, 9.0) as usize;
    move |value| {
        // Without a sign before a zero.
        let value = if value.abs() < 0.5 * 10f64.powi(-(digits as i32)) { 0.0 } else { *value };
        format!("{value:.digits$}").replace('-', "−")
    }
}

/// Makes a drawing of plotters fit every screen, and says what it shows to those who cannot see it.
pub(crate) fn finish_svg(svg: &str, (width, height): (u32, u32), label: &str) -> String {
    let fixed = format!("width=\"{width}\" height=\"{height}\" ");
    svg.replacen(&fixed, &format!("role=\"img\" aria-label=\"{}\" ", escape(label)), 1)
}

/// The key of a plot: `(index of the colour, text as HTML)`.
pub(crate) fn keys<'a>(entries: impl IntoIterator<Item = (usize, &'a str)>) -> String {
    let mut html = String::from("<figcaption class=\"keys\">");
    for (index, text) in entries {
        let (r, g, b) = colour(index);
        push(
            &mut html,
            format_args!("<span><i class=\"key\" style=\"background:rgb({r},{g},{b})\"></i>{text}</span> "),
        );
    }
    html + "</figcaption>"
}

#[cfg(test)]
mod tests {
    use plotters::coord::ranged1d::KeyPointHint;
    use plotters::coord::types::RangedCoordf64;

    use super::*;

    struct Hint(usize);

    impl KeyPointHint for Hint {
        fn max_num_points(&self) -> usize {
            self.0
        }

        fn weight(&self) -> plotters::coord::ranged1d::KeyPointWeight {
            plotters::coord::ranged1d::KeyPointWeight::Any
        }

        fn bold_points(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn numbers_along_an_axis_differ_whatever_its_range() {
        for labels in [4, 5, 6, 8] {
            for exponent in -8..6 {
                for width in [1.0, 1.3, 1.99, 2.0, 2.7, 4.1, 5.0, 7.7, 9.9] {
                    let width = width * 10f64.powi(exponent);
                    for start in [0.0, -0.6 * width, 81.3] {
                        let range = start..start + width;
                        let points = RangedCoordf64::from(range.clone()).key_points(Hint(labels));
                        let text: Vec<String> = points.iter().map(ticks(range.clone(), labels)).collect();
                        let mut different = text.clone();
                        different.dedup();
                        assert_eq!(text, different, "{range:?}");
                    }
                }
            }
        }
        assert_eq!([0.0, 0.5, 2.0].iter().map(ticks(0.0..2.0, 6)).collect::<Vec<_>>(), ["0.0", "0.5", "2.0"]);
        assert_eq!([-0.0001, -50.0].iter().map(ticks(-60.0..10.0, 5)).collect::<Vec<_>>(), ["0", "−50"]);
    }
}
