//! How image files become pixels, as options.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use fbp_models::Interpolation;

/// Options of folder:DIR alone.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ImageFileArgs {
    /// Resize every whole image to N × N pixels, whatever its proportions; by default as the network was trained
    #[arg(long, value_name = "N", help_heading = "Image files (folder:DIR)", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub(crate) size: Option<u32>,
    /// Resize every image so that its shorter side has N pixels, and cut its centre out: see --crop
    #[arg(long, value_name = "N", help_heading = "Image files (folder:DIR)", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub(crate) resize: Option<u32>,
    /// Cut N × N pixels out of the centre
    #[arg(long, value_name = "N", help_heading = "Image files (folder:DIR)", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub(crate) crop: Option<u32>,
    /// How values between pixels are found, with the bytes of Pillow [default: bilinear]
    #[arg(long, value_name = "KIND", help_heading = "Image files (folder:DIR)", value_parser = interpolation())]
    pub(crate) interpolation: Option<Interpolation>,
    /// Leave out files that are no image or a broken one, and say how many
    #[arg(long, help_heading = "Image files (folder:DIR)")]
    pub(crate) skip_broken: bool,
    /// Folder for the decoded images, which are made once [default: FBP_CACHE_DIR, or fbp/images in the user's cache]
    #[arg(long, value_name = "DIR", help_heading = "Image files (folder:DIR)")]
    pub(crate) cache: Option<PathBuf>,
    /// Let decoded images take about so much memory, for example 1GiB [default: 1GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Image files (folder:DIR)", value_parser = bytes)]
    pub(crate) memory: Option<u64>,
}

fn interpolation() -> impl TypedValueParser<Value = Interpolation> {
    PossibleValuesParser::new(["bilinear", "bicubic"]).try_map(|name| name.parse::<Interpolation>())
}

/// A number of bytes: `1GiB`, `512MiB`, `2GB` or plain.
fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("", 1),
    ];
    let parse = |(unit, factor): &(&str, u64)| {
        let number: f64 = text.trim().strip_suffix(unit)?.trim_end().parse().ok()?;
        let bytes = number * *factor as f64;
        (1.0..1e18).contains(&bytes).then_some(bytes as u64)
    };
    UNITS.iter().find_map(parse).ok_or_else(|| "a size is a number with a unit, such as 512MiB, 1GiB or 2GB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(bytes("1.5 MiB"), Ok(3 << 19));
        assert_eq!((bytes("2GB"), bytes("4096")), (Ok(2_000_000_000), Ok(4096)));
        for text in ["", "GiB", "-1GiB", "0", "1 XB", "nan", "inf", "1e30GiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
