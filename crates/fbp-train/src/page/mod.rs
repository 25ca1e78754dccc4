//! What every page is made of: text that cannot become markup, tables, pictures of features, one style sheet.

mod features;
mod html;
mod picture;
mod plot;
mod shell;

pub use features::ChannelChange;
pub(crate) use features::{Captions, Change, change_row, image_figure};
pub(crate) use html::{class_name, duration, escape, grouped, number, percent, points, push, signed, table};
pub(crate) use picture::{Picture, Scale};
pub(crate) use plot::{colour, finish_svg, keys};
pub(crate) use shell::document;
