use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::origin::{Given, SampleOrigin};
use crate::TrainError;
use crate::data::{DataBundle, DataError, Dataset};

/// Largest shift of a neighbour, in pixels.
const SHIFT: i32 = 1;
/// Deviation of the noise on a neighbour, in levels of 255.
const NOISE: f32 = 5.0;

impl Given<'_> {
    /// `count` images that people would call the same for each of the samples, one round of all samples after the other: other
    /// draws of the corruption where images are corrupted, else moved by up to a pixel, with a little noise.
    ///
    /// # Errors
    /// [`TrainError::Data`] for samples that are no images.
    pub(super) fn neighbours(&self, data: &DataBundle, count: usize, seed: u64) -> Result<Dataset, TrainError> {
        let images = self.origin.images(data);
        if !images.is_pixels() {
            let corruption = format!("{count} neighbours");
            return Err(DataError::NoImages { name: images.name().to_owned(), corruption }.into());
        }
        let shape = images.shape();
        let mut pixels = Vec::with_capacity(count * self.samples.len() * shape.len());
        for round in 0..count as u64 {
            match self.origin {
                SampleOrigin::Corrupted(part, corrupted) => {
                    let clean = SampleOrigin::Part(part).images(data).subset(self.samples)?;
                    // The samples themselves were drawn with the seed of the data.
                    let again = corrupted.again(&clean, seed.wrapping_add(round + 1))?;
                    (0..again.len()).filter_map(|k| again.image(k)).for_each(|image| pixels.extend_from_slice(image));
                }
                _ => {
                    let mut rng = ChaCha8Rng::seed_from_u64(seed);
                    rng.set_stream(round);
                    for image in self.samples.iter().filter_map(|&sample| images.image(sample)) {
                        move_and_blur(image, [shape.channels, shape.height, shape.width], &mut rng, &mut pixels);
                    }
                }
            }
        }
        let places: Vec<usize> = (0..count).flat_map(|_| self.samples).copied().collect();
        Ok(images.subset(&places)?.with_pixels(pixels))
    }
}

/// Adds an image that is moved by a draw from `-SHIFT..=SHIFT` along both axes, its edges repeated, with noise.
fn move_and_blur(image: &[u8], [channels, height, width]: [usize; 3], rng: &mut ChaCha8Rng, out: &mut Vec<u8>) {
    let mut draw = || rng.random_range(-SHIFT..=SHIFT) as isize;
    let (down, right) = (draw(), draw());
    let from = |place: usize, shift: isize, len: usize| place.saturating_add_signed(-shift).min(len - 1);
    for channel in 0..channels {
        for row in 0..height {
            for column in 0..width {
                let (y, x) = (from(row, down, height), from(column, right, width));
                let noise: f32 = StandardNormal.sample(rng);
                let value = f32::from(image[(channel * height + y) * width + x]) + NOISE * noise;
                out.push(value.round().clamp(0.0, 255.0) as u8);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;

    use super::*;
    use crate::data::{Corruption, Normalization};
    use crate::repair::Corrupted;
    use crate::settings::Part;

    fn bundle() -> DataBundle {
        let pixels: Vec<u8> = (0..4 * 64).map(|k| (k * 37 % 251) as u8).collect();
        let data = Dataset::new("own", FeatureShape::image(1, 8, 8), 4, pixels, vec![0, 1, 2, 3]).unwrap();
        let normalization = Normalization::from_images(&data).unwrap();
        DataBundle::new(data.clone(), data, normalization, "")
    }

    #[test]
    fn neighbours_keep_labels_and_differ_a_little() {
        let data = bundle();
        let given = Given { origin: SampleOrigin::Part(Part::Train), samples: &[1, 3] };
        let found = given.neighbours(&data, 3, 5).unwrap();
        assert_eq!(found.labels(), [1, 3, 1, 3, 1, 3]);
        assert_eq!(found.sha256(), given.neighbours(&data, 3, 5).unwrap().sha256());
        assert_ne!(found.image(0), found.image(2));
        for k in 0..6 {
            let own = data.train.image([1, 3][k % 2]).unwrap();
            // Moved by one pixel in any direction, some pixel within five deviations of the noise is the same.
            let near = |p: usize, value: u8| {
                let (y, x) = (p / 8, p % 8);
                (y.saturating_sub(1)..(y + 2).min(8)).any(|y| {
                    (x.saturating_sub(1)..(x + 2).min(8))
                        .any(|x| f32::from(own[8 * y + x].abs_diff(value)) <= 5.0 * NOISE)
                })
            };
            assert!(found.image(k).unwrap().iter().enumerate().all(|(p, &value)| near(p, value)));
        }
    }

    #[test]
    fn corrupted_images_are_drawn_again() {
        let data = bundle();
        let corruption: Corruption = "fog:3".parse().unwrap();
        let corrupted = Corrupted::new(&data, corruption, 0).unwrap();
        let given = Given { origin: SampleOrigin::Corrupted(Part::Test, &corrupted), samples: &[2] };
        let found = given.neighbours(&data, 2, 0).unwrap();
        assert_eq!(found.labels(), [2, 2]);
        let images = [given.origin.images(&data).image(2), found.image(0), found.image(1), data.test.image(2)];
        for (k, one) in images.iter().enumerate() {
            assert!(images[..k].iter().all(|other| other != one), "{k}");
        }
    }

    #[test]
    fn vectors_have_no_neighbours() {
        let shape = FeatureShape::image(1, 1, 3);
        let own = Dataset::of_inputs("own", shape, 2, vec![0.5; 6], vec![0, 1]).unwrap();
        let data = DataBundle { train: own.clone(), test: own, ..bundle() };
        let given = Given { origin: SampleOrigin::Part(Part::Train), samples: &[0] };
        assert!(matches!(given.neighbours(&data, 1, 0), Err(TrainError::Data(DataError::NoImages { .. }))));
    }
}
