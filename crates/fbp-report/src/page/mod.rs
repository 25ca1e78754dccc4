//! What every page is made of: text that cannot become markup, tables, pictures of features, one style sheet.

mod features;
mod html;
mod picture;
mod plot;
mod shell;

pub(crate) use features::{Captions, change_row, image_figure, picture_files};
pub(crate) use html::{
    class_name, duration, escape, grouped, named_class, number, percent, points, push, signed, table, table_of_parts,
};
pub(crate) use picture::{Picture, Scale};
pub(crate) use plot::{colour, finish_svg, keys, quiet_mesh, ticks};
pub(crate) use shell::document;
