//! What every page is made of: text that cannot become markup, tables, pictures of features, one style sheet.

mod features;
mod html;
mod outputs;
mod path;
mod picture;
mod plot;
mod shell;
mod units;

pub(crate) use features::{Captions, change_row, image_figure, picture_files};
pub(crate) use html::{
    class_name, duration, escape, gained, grouped, named_class, number, percent, push, signed, table, table_of_parts,
};
pub(crate) use outputs::{Named, Shown, errors_of, outputs_figure};
pub(crate) use path::{Drawn, Stroke, View, birds_eye, ends_of, stroke_keys, with_errors};
pub(crate) use picture::{Picture, Scale};
pub(crate) use plot::{colour, finish_svg, keys, quiet_mesh, ticks};
pub(crate) use shell::document;
pub(crate) use units::units;
