use std::fmt;
use std::str::FromStr;

use fbp_linalg::FeatureShape;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{DataError, Dataset};

/// Longest side of the images that are corrupted as CIFAR-10-C, the benchmark of small images.
const SMALL: usize = 64;
/// Strength if none is named.
const STRENGTH: u8 = 3;
/// Largest difference of brightness between neighbours at the first scale of a fog, before it is brought to `[0, 1]`.
const WIBBLE: f32 = 100.0;
/// Deviations after which a blur ends.
const BLUR_ENDS: f32 = 4.0;

/// What is wrong with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CorruptionKind {
    /// Normal noise on every pixel.
    Noise,
    /// A Gaussian blur.
    Blur,
    /// Fog: a random cloud is added, and the brightness brought back to its range.
    Fog,
    /// Less contrast: every channel moves towards its mean.
    Contrast,
}

impl CorruptionKind {
    const ALL: [Self; 4] = [Self::Noise, Self::Blur, Self::Fog, Self::Contrast];

    fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Blur => "blur",
            Self::Fog => "fog",
            Self::Contrast => "contrast",
        }
    }

    /// What the five strengths are: of noise and blur the deviation, in units of brightness and in pixels; of fog its share and
    /// how fast its details fade; of contrast what is left of it.
    fn constants(self, is_small: bool) -> [(f32, f32); 5] {
        let one = |values: [f32; 5]| values.map(|value| (value, 0.0));
        match (self, is_small) {
            (Self::Noise, true) => one([0.04, 0.06, 0.08, 0.09, 0.10]),
            (Self::Noise, false) => one([0.08, 0.12, 0.18, 0.26, 0.38]),
            (Self::Blur, true) => one([0.4, 0.6, 0.7, 0.8, 1.0]),
            (Self::Blur, false) => one([1.0, 2.0, 3.0, 4.0, 6.0]),
            (Self::Fog, true) => [(0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)],
            (Self::Fog, false) => [(1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)],
            (Self::Contrast, true) => one([0.75, 0.5, 0.4, 0.3, 0.15]),
            (Self::Contrast, false) => one([0.4, 0.3, 0.2, 0.1, 0.05]),
        }
    }
}

/// A common corruption of images and how strong it is, written `fog:4`.
///
/// Images are changed as brightness in `[0, 1]`, before they are normalised, and become bytes again. Strengths are those of the
/// benchmarks: of CIFAR-10-C for images with sides of at most 64 pixels, of ImageNet-C for larger ones.
///
/// # Source
/// Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019: Gaussian
/// noise, Gaussian blur, fog and contrast. Fog is plasma by diamonds and squares on a torus (Fournier, Fussell & Carpenter, CACM 25
/// (1982)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Corruption {
    kind: CorruptionKind,
    strength: u8,
}

impl Corruption {
    /// A corruption of some strength, 1 to 5.
    ///
    /// # Errors
    /// [`DataError::UnknownCorruption`] for another strength.
    pub fn new(kind: CorruptionKind, strength: u8) -> Result<Self, DataError> {
        match strength {
            1..=5 => Ok(Self { kind, strength }),
            _ => Err(DataError::UnknownCorruption { text: format!("{}:{strength}", kind.name()) }),
        }
    }

    /// What is wrong.
    pub fn kind(self) -> CorruptionKind {
        self.kind
    }

    /// How strong it is, 1 to 5.
    pub fn strength(self) -> u8 {
        self.strength
    }

    /// All images of some data with it. What happens to an image follows from `seed`, its place in the files that were read and
    /// `stream`, by which parts of one data set differ.
    ///
    /// # Errors
    /// [`DataError::NoImages`] for data that are no images.
    pub fn apply(self, data: &Dataset, seed: u64, stream: u64) -> Result<Dataset, DataError> {
        let shape = data.shape();
        if !data.is_pixels() || shape.plane() < 2 {
            return Err(DataError::NoImages { name: data.name().to_owned(), corruption: self.to_string() });
        }
        let mut pixels = vec![0; data.len() * shape.len()];
        pixels.par_chunks_exact_mut(shape.len()).enumerate().for_each(|(index, out)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(2 * data.position(index) as u64 + stream);
            if let Some(image) = data.image(index) {
                self.change(image, shape, &mut rng, out);
            }
        });
        Ok(data.with_pixels(pixels))
    }

    fn change(self, pixels: &[u8], shape: FeatureShape, rng: &mut ChaCha8Rng, out: &mut [u8]) {
        let is_small = shape.height.max(shape.width) <= SMALL;
        let (size, decay) = self.kind.constants(is_small)[usize::from(self.strength) - 1];
        let mut image: Vec<f32> = pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
        match self.kind {
            CorruptionKind::Noise => image.iter_mut().for_each(|value| {
                let draw: f32 = StandardNormal.sample(rng);
                *value += size * draw;
            }),
            CorruptionKind::Blur => {
                let kernel = gaussian(size);
                image.chunks_exact_mut(shape.plane()).for_each(|plane| blur(plane, shape, &kernel));
            }
            CorruptionKind::Fog => add_fog(&mut image, shape, (size, decay), rng),
            CorruptionKind::Contrast => image.chunks_exact_mut(shape.plane()).for_each(|plane| {
                let mean = plane.iter().sum::<f32>() / plane.len() as f32;
                plane.iter_mut().for_each(|value| *value = mean + size * (*value - mean));
            }),
        }
        out.iter_mut().zip(&image).for_each(|(out, value)| *out = (255.0 * value).round().clamp(0.0, 255.0) as u8);
    }
}

/// Weights of a Gaussian from its centre to one side; with the other side they sum to 1.
fn gaussian(deviation: f32) -> Vec<f32> {
    let radius = (BLUR_ENDS * deviation + 0.5) as usize;
    let weight = |k: usize| (-0.5 * (k as f32 / deviation).powi(2)).exp();
    let sum = weight(0) + 2.0 * (1..=radius).map(weight).sum::<f32>();
    (0..=radius).map(|k| weight(k) / sum).collect()
}

/// Blurs one channel along its rows and columns; beyond the border the image goes on as it ends.
fn blur(plane: &mut [f32], shape: FeatureShape, kernel: &[f32]) {
    let (height, width) = (shape.height, shape.width);
    let mut line = Vec::with_capacity(height.max(width));
    let lines = (0..height).map(|y| (y * width, 1, width)).chain((0..width).map(|x| (x, width, height)));
    for (start, step, count) in lines {
        line.clear();
        line.extend((0..count).map(|k| plane[start + k * step]));
        for k in 0..count {
            let pair = |(distance, weight): (usize, &f32)| {
                let (before, after) = (k.saturating_sub(distance), (k + distance).min(count - 1));
                weight * (line[before] + line[after])
            };
            let around: f32 = kernel.iter().enumerate().skip(1).map(pair).sum();
            plane[start + k * step] = kernel[0] * line[k] + around;
        }
    }
}

/// `x ← (x + c f) m / (m + c)` in all channels, `f` a cloud in `[0, 1]` and `m` the largest brightness.
fn add_fog(image: &mut [f32], shape: FeatureShape, (share, decay): (f32, f32), rng: &mut ChaCha8Rng) {
    let side = shape.height.max(shape.width).next_power_of_two();
    let cloud = cloud(side, decay, rng);
    let largest = image.iter().copied().fold(0.0, f32::max);
    let scale = largest / (largest + share);
    for plane in image.chunks_exact_mut(shape.plane()) {
        for (row, fog) in plane.chunks_exact_mut(shape.width).zip(cloud.chunks_exact(side)) {
            row.iter_mut().zip(fog).for_each(|(value, fog)| *value = (*value + share * fog) * scale);
        }
    }
}

/// Plasma on a torus of `side × side` points, `side` a power of two, brought to `[0, 1]`; details fade by `decay` from a scale to the
/// next.
fn cloud(side: usize, decay: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut map = vec![0.0_f32; side * side];
    let (mut step, mut wibble) = (side, WIBBLE);
    while step >= 2 {
        let half = step / 2;
        // The side is a power of two.
        let near = |a: usize| (a + side - half) & (side - 1);
        let far = |a: usize| (a + half) & (side - 1);
        let mut fill = |map: &mut [f32], y: usize, x: usize, around: [(usize, usize); 4]| {
            let mean = around.iter().map(|(y, x)| map[y * side + x]).sum::<f32>() / 4.0;
            map[y * side + x] = mean + wibble * rng.random_range(-wibble..=wibble);
        };
        // Centres of squares, then those of the diamonds between them.
        for (y, x) in grid(side, step, [half, half]) {
            fill(&mut map, y, x, [(near(y), near(x)), (near(y), far(x)), (far(y), near(x)), (far(y), far(x))]);
        }
        for start in [[0, half], [half, 0]] {
            for (y, x) in grid(side, step, start) {
                fill(&mut map, y, x, [(near(y), x), (far(y), x), (y, near(x)), (y, far(x))]);
            }
        }
        step = half;
        wibble /= decay;
    }
    let low = map.iter().copied().fold(f32::INFINITY, f32::min);
    let high = map.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
    map.iter_mut().for_each(|value| *value = (*value - low) * scale);
    map
}

/// Every `step`-th point along both axes from `start` on.
fn grid(side: usize, step: usize, [y, x]: [usize; 2]) -> impl Iterator<Item = (usize, usize)> {
    (y..side).step_by(step).flat_map(move |y| (x..side).step_by(step).map(move |x| (y, x)))
}

impl FromStr for Corruption {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let unknown = || DataError::UnknownCorruption { text: text.to_owned() };
        let (name, strength) = match text.split_once(':') {
            Some((name, strength)) => (name, strength.parse().map_err(|_| unknown())?),
            None => (text, STRENGTH),
        };
        let kind = CorruptionKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(unknown)?;
        Self::new(kind, strength).map_err(|_| unknown())
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.strength)
    }
}

impl TryFrom<String> for Corruption {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self, DataError> {
        text.parse()
    }
}

impl From<Corruption> for String {
    fn from(corruption: Corruption) -> Self {
        corruption.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: FeatureShape = FeatureShape::image(3, 20, 28);

    /// Images with edges, slopes and colours, between 20 and 235.
    fn images(count: usize) -> Dataset {
        let value = |k: usize| {
            let (sample, channel, y, x) = (k / 1680, k % 1680 / 560, k % 560 / 28, k % 28);
            let square = if (y / 5 + x / 7 + sample) % 2 == 0 { 150 } else { 20 };
            (square + 2 * x + 5 * channel + sample) as u8
        };
        let pixels = (0..count * SHAPE.len()).map(value).collect();
        Dataset::new("edges", SHAPE, 2, pixels, (0..count).map(|k| (k % 2) as u8).collect()).unwrap()
    }

    fn corruptions() -> impl Iterator<Item = Corruption> {
        CorruptionKind::ALL.into_iter().flat_map(|kind| (1..=5).map(move |s| Corruption::new(kind, s).unwrap()))
    }

    fn distance(a: &Dataset, b: &Dataset) -> f64 {
        a.images().iter().zip(b.images()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
    }

    #[test]
    fn names_and_strengths_are_parsed_and_printed() {
        for corruption in corruptions() {
            assert_eq!(corruption.to_string().parse::<Corruption>().unwrap(), corruption);
        }
        assert_eq!("fog".parse::<Corruption>().unwrap().to_string(), "fog:3");
        assert_eq!(serde_json::to_string(&"blur:2".parse::<Corruption>().unwrap()).unwrap(), "\"blur:2\"");
        for text in ["", "snow", "fog:", "fog:0", "fog:6", "fog:2.5", "fog:-1", ":3", "Fog:3"] {
            let error = text.parse::<Corruption>().unwrap_err();
            assert!(matches!(error, DataError::UnknownCorruption { .. }), "{text}: {error}");
        }
        assert!(serde_json::from_str::<Corruption>("\"fog:9\"").is_err());
    }

    #[test]
    fn an_image_is_corrupted_alike_whatever_is_beside_it() {
        let data = images(6);
        let some = data.subset(&[4, 1]).unwrap();
        for corruption in corruptions() {
            let whole = corruption.apply(&data, 7, 0).unwrap();
            assert_eq!(whole, corruption.apply(&data, 7, 0).unwrap(), "{corruption}");
            let part = corruption.apply(&some, 7, 0).unwrap();
            assert_eq!((part.image(0), part.image(1)), (whole.image(4), whole.image(1)), "{corruption}");
            assert_eq!((part.labels(), part.position(0)), (some.labels(), 4));
            let is_random = matches!(corruption.kind(), CorruptionKind::Noise | CorruptionKind::Fog);
            assert_eq!(whole != corruption.apply(&data, 8, 0).unwrap(), is_random, "{corruption}");
            assert_eq!(whole != corruption.apply(&data, 7, 1).unwrap(), is_random, "{corruption}");
        }
    }

    #[test]
    fn stronger_ones_are_farther_away() {
        let data = images(40);
        for kind in CorruptionKind::ALL {
            let at = |strength| distance(&data, &Corruption::new(kind, strength).unwrap().apply(&data, 0, 0).unwrap());
            let distances = [1, 2, 3, 4, 5].map(at);
            assert!(distances[0] > 0.0 && distances.is_sorted_by(|a, b| a < b), "{kind:?}: {distances:?}");
        }
    }

    #[test]
    fn each_does_what_its_name_says() {
        let data = images(40);
        let of = |text: &str| text.parse::<Corruption>().unwrap().apply(&data, 0, 0).unwrap();
        let pixels = data.images().len() as f64;
        // Noise has its deviation: no pixel is near enough to black or white to be cut by much.
        let deviation = (distance(&data, &of("noise:1")) / pixels).sqrt() / 255.0;
        assert!((deviation - 0.04).abs() < 0.04 * 5.0 / (2.0 * pixels).sqrt() + 1e-3, "{deviation}");
        // A blur and less contrast keep the mean of every channel, up to rounding and the border.
        let mean = |data: &Dataset| data.images().iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / pixels;
        assert!((mean(&of("contrast:4")) - mean(&data)).abs() < 0.5);
        assert!((mean(&of("blur:5")) - mean(&data)).abs() < 2.0);
        // What is left of the contrast.
        let spread = |data: &Dataset| {
            let image = &data.image(0).unwrap()[..SHAPE.plane()];
            let mean = image.iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / image.len() as f64;
            image.iter().map(|&pixel| (f64::from(pixel) - mean).powi(2)).sum::<f64>().sqrt()
        };
        assert!((spread(&of("contrast:2")) / spread(&data) - 0.5).abs() < 0.02);
        // Fog is no brighter than the brightest pixel, and black stays black without any.
        let largest = |data: &Dataset| data.image(3).unwrap().iter().copied().max();
        assert!(largest(&of("fog:5")) <= largest(&data));
        let black = Dataset::new("black", SHAPE, 1, vec![0; SHAPE.len()], vec![0]).unwrap();
        let fog = Corruption::new(CorruptionKind::Fog, 5).unwrap();
        assert_eq!(fog.apply(&black, 0, 0).unwrap().images(), black.images());
    }

    #[test]
    fn a_cloud_covers_its_range_and_a_kernel_sums_to_one() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for side in [1, 2, 32, 256] {
            let cloud = cloud(side, 2.0, &mut rng);
            assert!(cloud.len() == side * side && cloud.iter().all(|value| (0.0..=1.0).contains(value)));
            assert!(side == 1 || (cloud.contains(&0.0) && cloud.iter().any(|value| *value > 0.999)));
        }
        for deviation in [0.4, 1.0, 6.0] {
            let kernel = gaussian(deviation);
            let sum = kernel[0] + 2.0 * kernel[1..].iter().sum::<f32>();
            assert!((sum - 1.0).abs() <= kernel.len() as f32 * f32::EPSILON, "{sum}");
        }
    }

    #[test]
    fn only_images_are_corrupted() {
        let inputs = Dataset::of_inputs("inputs", FeatureShape::image(1, 2, 2), 2, vec![0.5; 8], vec![0, 1]).unwrap();
        let vector = Dataset::new("vector", FeatureShape::vector(4), 2, vec![1; 8], vec![0, 1]).unwrap();
        for data in [inputs, vector] {
            for corruption in corruptions() {
                let error = corruption.apply(&data, 0, 0).unwrap_err();
                assert!(matches!(error, DataError::NoImages { .. }), "{error}");
            }
        }
    }
}
