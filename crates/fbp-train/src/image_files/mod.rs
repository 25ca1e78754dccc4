//! Image files as people have them: JPEG and PNG to pixels, and pixels to the size that a network takes.
//!
//! What a file is follows from its first bytes, not from its name. Pixels come out grey or as red, green and blue, eight bits
//! each; of 16 bits the upper eight count, and transparency is dropped, as torchvision's loader does. The orientation that a
//! camera noted is applied. Images with more than [`MAX_PIXELS`] are refused before memory is taken for them.
//!
//! [`resize`](fbp_models::picture::resize) gives the same bytes as Pillow.

mod decode;
mod error;
mod exif;
mod jpeg;
mod png_file;
mod prepare;

pub use decode::{Decoded, Header, decode, read_header};
pub use error::{ImageError, MAX_PIXELS};
pub use prepare::Preparation;
