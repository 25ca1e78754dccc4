use std::fmt;
use std::str::FromStr;

use fbp_linalg::FeatureShape;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::{DataError, Normalization};

/// Rows and columns of black that are put around an image before a part of its own size is cut out.
const PADDING: usize = 4;
/// First of the random streams of a seed that augmentation draws from, one for each epoch.
const STREAM: u64 = 1 << 63;
/// Numbers of 32 bits that a sample has for its own.
const WORDS: u128 = 16;

/// Random changes of training images that leave their class as it is, others in every epoch.
///
/// | name   | what                                                                                                 |
/// |--------|------------------------------------------------------------------------------------------------------|
/// | `crop` | 4 rows and columns of black are put around the image, and a part of its own size is cut out anywhere |
/// | `flip` | every second image is mirrored, left to right                                                        |
///
/// What becomes of a sample follows from the seed, the epoch and its place in the data: neither the batch nor the number of
/// threads matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Augmentation {
    /// Cut a part out of the image with a black border.
    pub crop: bool,
    /// Mirror every second image.
    pub flip: bool,
}

impl Augmentation {
    /// Whether it changes nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What becomes of one sample.
    fn draw(&self, (seed, epoch): (u64, u64), sample: usize) -> Change {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(STREAM.wrapping_add(epoch));
        rng.set_word_pos(sample as u128 * WORDS);
        let [down, right, mirror] = [0; 3].map(|_| rng.next_u32());
        // 2³² is no multiple of the number of places: the most likely one is so by 1 in 10⁹.
        let place = |word: u32| if self.crop { word as usize % (2 * PADDING + 1) } else { PADDING };
        Change { down: place(down), right: place(right), flip: self.flip && mirror % 2 == 1 }
    }

    /// Writes the changed and normalised image.
    pub(super) fn apply(
        &self,
        (epoch, sample): ((u64, u64), usize),
        (pixels, shape): (&[u8], FeatureShape),
        norm: &Normalization,
        out: &mut [f32],
    ) {
        let Change { down, right, flip } = self.draw(epoch, sample);
        let (plane, width) = (shape.plane(), shape.width);
        // Columns of the result that show some of the image.
        let shown = PADDING.saturating_sub(right).min(width)..(width + PADDING).saturating_sub(right).min(width);
        let planes = pixels.chunks_exact(plane).zip(out.chunks_exact_mut(plane));
        for (channel, (pixels, out)) in planes.enumerate() {
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                out.fill(norm.black(channel));
                let source = (row + down).checked_sub(PADDING).filter(|row| *row < shape.height);
                if let Some(row) = source.filter(|_| !shown.is_empty()) {
                    let start = row * width + shown.start + right - PADDING;
                    norm.apply_channel(channel, &pixels[start..][..shown.len()], &mut out[shown.clone()]);
                }
                if flip {
                    out.reverse();
                }
            }
        }
    }
}

/// Rows and columns of the bordered image that are left out before the cut, and whether it is mirrored.
struct Change {
    down: usize,
    right: usize,
    flip: bool,
}

impl fmt::Display for Augmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.crop, self.flip) {
            (false, false) => "none",
            (true, false) => "crop",
            (false, true) => "flip",
            (true, true) => "crop,flip",
        })
    }
}

impl FromStr for Augmentation {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let mut found = Self::default();
        for name in text.split(',').map(str::trim) {
            match name {
                "crop" => found.crop = true,
                "flip" => found.flip = true,
                "none" => {}
                _ => return Err(DataError::UnknownAugmentation { name: name.to_owned() }),
            }
        }
        Ok(found)
    }
}

impl TryFrom<String> for Augmentation {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self, DataError> {
        text.parse()
    }
}

impl From<Augmentation> for String {
    fn from(augmentation: Augmentation) -> Self {
        augmentation.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Augmentation = Augmentation { crop: true, flip: true };

    #[test]
    fn names_are_parsed_and_printed() {
        for text in ["none", "crop", "flip", "crop,flip"] {
            assert_eq!(text.parse::<Augmentation>().unwrap().to_string(), text);
        }
        assert_eq!("flip, crop".parse::<Augmentation>().unwrap(), BOTH);
        for text in ["", "rotate", "crop,,flip"] {
            assert!(text.parse::<Augmentation>().is_err(), "{text}");
        }
        assert_eq!(serde_json::to_string(&BOTH).unwrap(), "\"crop,flip\"");
        assert!(serde_json::from_str::<Augmentation>("\"zoom\"").is_err());
    }

    #[test]
    fn every_change_is_a_shift_with_a_border_and_perhaps_a_mirror() {
        let shape = FeatureShape::image(2, 5, 7);
        let pixels: Vec<u8> = (1..=70).collect();
        let norm = Normalization::new(vec![0.0, 0.5], vec![1.0 / 255.0; 2]).unwrap();
        let at = |channel: usize, y: isize, x: isize| {
            let inside = (0..5).contains(&y) && (0..7).contains(&x);
            let value = if inside { f32::from(pixels[channel * 35 + y as usize * 7 + x as usize]) } else { 0.0 };
            value - if channel == 1 { 127.5 } else { 0.0 }
        };
        let (mut places, mut mirrored) = (std::collections::HashSet::new(), 0);
        for sample in 0..2000 {
            let Change { down, right, flip } = BOTH.draw((3, 5), sample);
            places.insert((down, right));
            mirrored += usize::from(flip);
            let mut out = [f32::NAN; 70];
            BOTH.apply(((3, 5), sample), (&pixels, shape), &norm, &mut out);
            for (index, found) in out.into_iter().enumerate() {
                let (channel, y, x) = (index / 35, index % 35 / 7, index % 7);
                let x = if flip { 6 - x } else { x };
                let expected = at(channel, (y + down) as isize - 4, (x + right) as isize - 4);
                // One rounding of a number up to 255.
                assert!((found - expected).abs() <= 255.0 * f32::EPSILON, "{index}: {found} {expected}");
            }
        }
        assert_eq!(places.len(), 81, "every place occurs");
        // Binomial with n = 2000, p = 1/2: deviation 22.
        assert!((1000 - 110..=1000 + 110).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn nothing_is_drawn_twice_and_without_both_the_image_stays() {
        let draws = |epoch| -> Vec<_> {
            (0..50)
                .map(|sample| {
                    let c = BOTH.draw((1, epoch), sample);
                    (c.down, c.right, c.flip)
                })
                .collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        let norm = Normalization::new(vec![0.3], vec![0.2]).unwrap();
        let (mut changed, mut same) = ([0.0; 12], [0.0; 12]);
        let pixels: Vec<u8> = (0..12).map(|index| index * 20).collect();
        let shape = FeatureShape::image(1, 3, 4);
        Augmentation::default().apply(((1, 1), 0), (&pixels, shape), &norm, &mut changed);
        norm.apply(&pixels, &mut same);
        assert_eq!(changed, same);
        // An image that is smaller than the border may be shifted out of sight.
        let mut dot = [0.0; 1];
        (0..100)
            .for_each(|sample| BOTH.apply(((0, 0), sample), (&[255], FeatureShape::image(1, 1, 1)), &norm, &mut dot));
    }
}
