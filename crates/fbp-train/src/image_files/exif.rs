/// Tag of the orientation.
const ORIENTATION: u16 = 274;
/// Type of a number of 16 bits.
const SHORT: u16 = 3;

/// The orientation that Exif data tell, 1 to 8; 1, which is upright, if they tell none.
///
/// `tiff` is what follows the mark `Exif`: a TIFF header and the directory that it points to.
///
/// # Source
/// *TIFF 6.0*, section 2, and *Exif 2.32*, section 4.6.4.
pub(super) fn orientation(tiff: &[u8]) -> u8 {
    read(tiff).filter(|found| (1..=8).contains(found)).unwrap_or(1)
}

fn read(tiff: &[u8]) -> Option<u8> {
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| -> Option<u16> {
        let bytes = <[u8; 2]>::try_from(tiff.get(at..at.checked_add(2)?)?).ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let offset = <[u8; 4]>::try_from(tiff.get(4..8)?).ok()?;
    let directory = if little { u32::from_le_bytes(offset) } else { u32::from_be_bytes(offset) } as usize;
    let entries = usize::from(short(directory)?);
    (0..entries)
        .map_while(|entry| directory.checked_add(2 + 12 * entry))
        .find(|&at| short(at) == Some(ORIENTATION) && short(at + 2) == Some(SHORT))
        .and_then(|at| short(at + 8))
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of two entries, the second one with the orientation.
    fn tiff(little: bool, value: u16) -> Vec<u8> {
        let short = |value: u16| if little { value.to_le_bytes() } else { value.to_be_bytes() };
        let long = |value: u32| if little { value.to_le_bytes() } else { value.to_be_bytes() };
        let mut bytes = if little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
        bytes.extend(long(8));
        bytes.extend(short(2));
        for (tag, value) in [(271, 7), (ORIENTATION, value)] {
            bytes.extend([short(tag), short(SHORT)].concat());
            bytes.extend(long(1));
            bytes.extend([short(value), short(0)].concat());
        }
        bytes
    }

    #[test]
    fn both_byte_orders_are_read() {
        for (little, value) in [(true, 6), (false, 8), (true, 1)] {
            assert_eq!(orientation(&tiff(little, value)), value as u8);
        }
        for value in [0, 9, 700] {
            assert_eq!(orientation(&tiff(true, value)), 1);
        }
    }

    #[test]
    fn damaged_data_are_upright() {
        let whole = tiff(true, 6);
        for len in 0..whole.len() - 3 {
            assert_eq!(orientation(&whole[..len]), 1, "{len}");
        }
        let mut far = whole;
        far[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(orientation(&far), 1);
    }
}
