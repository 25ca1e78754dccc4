use fbp_models::picture::{Picture, Window, resize};
use fbp_models::{Interpolation, Resizing};

use super::{ImageError, MAX_PIXELS};

/// What makes the input of a network of an image: channels and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preparation {
    /// 1 for grey, 3 for red, green and blue.
    pub channels: usize,
    /// Height and width of the result.
    pub size: [usize; 2],
    /// How an image of another size gets this one; none takes images of this size alone.
    pub resizing: Option<Resizing>,
}

impl Preparation {
    /// Pixels of the result, one channel after the other.
    ///
    /// # Errors
    /// [`ImageError::Size`] for an image of another size if there is no resizing, [`ImageError::TooNarrow`].
    pub fn apply(&self, picture: Picture) -> Result<Vec<u8>, ImageError> {
        let [high, wide] = self.size;
        let (width, height) = (picture.width(), picture.height());
        let Resizing { shorter_side, interpolation } = match self.resizing {
            Some(resizing) => resizing,
            None if (width, height) == (wide, high) => Resizing::default(),
            None => return Err(ImageError::Size { width, height, wide, high }),
        };
        let picture = picture.with_channels(self.channels);
        let Some(side) = shorter_side else {
            return Ok(whole(&picture, [wide, high], interpolation));
        };
        let size = with_shorter_side([width, height], side);
        if size[0].checked_mul(size[1]).is_none_or(|pixels| pixels > MAX_PIXELS) {
            return Err(ImageError::TooNarrow { width, height, side });
        }
        let window = Window { left: centred(size[0], wide), top: centred(size[1], high), width: wide, height: high };
        Ok(resize(&picture, size, window, interpolation))
    }
}

fn whole(picture: &Picture, [width, height]: [usize; 2], interpolation: Interpolation) -> Vec<u8> {
    resize(picture, [width, height], Window { left: 0, top: 0, width, height }, interpolation)
}

/// Size with this shorter side and the same proportions; the longer side is rounded down, as torchvision does.
fn with_shorter_side([width, height]: [usize; 2], side: usize) -> [usize; 2] {
    match width <= height {
        true => [side, side * height / width],
        false => [side * width / height, side],
    }
}

/// Where a part of `part` begins in the middle of `all`; a half goes to the even side, as in torchvision.
fn centred(all: usize, part: usize) -> usize {
    let rest = all.saturating_sub(part);
    let half = rest / 2;
    half + rest % 2 * (half % 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_places_are_those_of_torchvision() {
        assert_eq!(with_shorter_side([500, 375], 256), [341, 256]);
        assert_eq!(with_shorter_side([375, 500], 256), [256, 341]);
        assert_eq!(with_shorter_side([7, 7], 3), [3, 3]);
        // Python's round: 0.5 to 0, 1.5 to 2, 2.5 to 2, 58.5 to 58.
        assert_eq!([1, 3, 5, 117].map(|rest| centred(224 + rest, 224)), [0, 2, 2, 58]);
        assert_eq!([0, 2, 32].map(|rest| centred(224 + rest, 224)), [0, 1, 16]);
    }

    #[test]
    fn only_the_centre_of_the_resized_image_is_left() {
        let pixels: Vec<u8> = (0..9 * 5).map(|index| (index * 37 % 256) as u8).collect();
        let picture = Picture::new(9, 5, 1, pixels).unwrap();
        let resizing = Some(Resizing { shorter_side: Some(7), interpolation: Interpolation::Bicubic });
        let part = Preparation { channels: 1, size: [4, 6], resizing }.apply(picture.clone()).unwrap();
        let all = whole(&picture, [12, 7], Interpolation::Bicubic);
        let expected: Vec<u8> = all.chunks(12).skip(2).take(4).flat_map(|row| row[3..9].to_vec()).collect();
        assert_eq!(part, expected);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let picture = || Picture::new(4, 2, 3, vec![7; 24]).unwrap();
        let same = Preparation { channels: 3, size: [2, 4], resizing: None };
        assert_eq!(same.apply(picture()).unwrap(), vec![7; 24]);
        let other = Preparation { size: [2, 2], ..same };
        assert_eq!(other.apply(picture()), Err(ImageError::Size { width: 4, height: 2, wide: 2, high: 2 }));
        let line = Picture::new(MAX_PIXELS / 4, 1, 1, vec![0; MAX_PIXELS / 4]).unwrap();
        let resizing = Some(Resizing { shorter_side: Some(32), ..Resizing::default() });
        let narrow = Preparation { channels: 1, size: [32, 32], resizing };
        assert!(matches!(narrow.apply(line), Err(ImageError::TooNarrow { side: 32, .. })));
    }
}
