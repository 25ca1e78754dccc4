//! What all plots share.

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
