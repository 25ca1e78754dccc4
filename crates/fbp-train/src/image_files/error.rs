/// Most pixels of an image.
pub const MAX_PIXELS: usize = 1 << 26;

/// Why a file gives no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Neither of the formats.
    #[error("it is neither a JPEG nor a PNG file: it starts with {start}")]
    Unknown {
        /// The first bytes, as text where they are text.
        start: String,
    },
    /// A file without bytes.
    #[error("the file has no bytes")]
    Empty,
    /// A file that is too large for one image.
    #[error("it has {bytes} bytes, and an image file may have {limit}")]
    LargeFile {
        /// Its size.
        bytes: u64,
        /// What is accepted.
        limit: u64,
    },
    /// A file that ends before its image does.
    #[error("the {format} file is cut off")]
    CutOff {
        /// JPEG or PNG.
        format: &'static str,
    },
    /// A file that does not follow its format.
    #[error("the {format} file is damaged ({reason})")]
    Damaged {
        /// JPEG or PNG.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// More pixels than one image may have.
    #[error("it has {width} × {height} pixels, and an image may have {MAX_PIXELS}: scale it down")]
    TooLarge {
        /// Pixels of a row, as the header says.
        width: usize,
        /// Number of rows.
        height: usize,
    },
    /// An image without pixels.
    #[error("it has {width} × {height} pixels")]
    NoPixels {
        /// Pixels of a row, as the header says.
        width: usize,
        /// Number of rows.
        height: usize,
    },
    /// Colours for a printer.
    #[error("its colours are CMYK, for print, which no network takes: convert it to RGB")]
    Cmyk,
    /// A size that is not the one that is needed, and nothing says how to get there.
    #[error("it has {width} × {height} pixels, and {wide} × {high} are needed")]
    Size {
        /// Pixels of a row.
        width: usize,
        /// Number of rows.
        height: usize,
        /// Pixels of a row that are needed.
        wide: usize,
        /// Number of rows that are needed.
        high: usize,
    },
    /// An image so narrow that it would get too large.
    #[error("it has {width} × {height} pixels: with a shorter side of {side} it would get too large")]
    TooNarrow {
        /// Pixels of a row.
        width: usize,
        /// Number of rows.
        height: usize,
        /// What the shorter side would become.
        side: usize,
    },
}
