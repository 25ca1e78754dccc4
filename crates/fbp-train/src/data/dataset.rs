use std::sync::Arc;

use faer::Par;
use fbp_linalg::FeatureShape;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{DataError, Normalization};
use crate::hash::hex;

/// Images of one shape with their labels, kept as bytes.
///
/// # Shapes
/// Images lie one after the other, each in row-major `[C, H, W]` order; a label is below [`classes`](Self::classes).
///
/// Images are [pixels](Self::new), or [inputs](Self::of_inputs) of a network that need no normalisation any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    name: String,
    shape: FeatureShape,
    classes: usize,
    images: Values,
    labels: Vec<u8>,
    /// Where its samples were in what was read, if it is a part.
    positions: Option<Vec<usize>>,
    /// What it was taken from, if the split into training and validation is to be that of the whole.
    origin: Option<Origin>,
}

/// The images, one after the other.
#[derive(Clone, Debug, PartialEq)]
enum Values {
    Pixels(Vec<u8>),
    /// As the network sees them.
    Inputs(Vec<f32>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::Pixels(pixels) => pixels.len(),
            Self::Inputs(inputs) => inputs.len(),
        }
    }
}

/// Where the samples of a part were in the data that it was taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// All labels of those data, without noise.
    pub(super) labels: Arc<[u8]>,
    /// Place of each sample of the part, ascending.
    pub(super) places: Vec<usize>,
}

impl Dataset {
    /// Puts images and labels together.
    ///
    /// # Errors
    /// [`DataError::Empty`] without samples or with images of size zero, [`DataError::Parameter`] unless
    /// `1 <= classes <= 256`, [`DataError::Counts`] if the numbers of images and labels differ, [`DataError::Label`]
    /// at the first label that is not a class.
    pub fn new(
        name: impl Into<String>,
        shape: FeatureShape,
        classes: usize,
        images: Vec<u8>,
        labels: Vec<u8>,
    ) -> Result<Self, DataError> {
        Self::of_values(name.into(), shape, classes, Values::Pixels(images), labels)
    }

    /// Puts inputs of a network, which are normalised already, and labels together.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), and [`DataError::NonFinite`].
    pub fn of_inputs(
        name: impl Into<String>,
        shape: FeatureShape,
        classes: usize,
        inputs: Vec<f32>,
        labels: Vec<u8>,
    ) -> Result<Self, DataError> {
        let name = name.into();
        if let Some(index) = inputs.iter().position(|value| !value.is_finite()) {
            return Err(DataError::NonFinite { origin: name, sample: index / shape.len().max(1) });
        }
        Self::of_values(name, shape, classes, Values::Inputs(inputs), labels)
    }

    fn of_values(
        name: String,
        shape: FeatureShape,
        classes: usize,
        images: Values,
        labels: Vec<u8>,
    ) -> Result<Self, DataError> {
        if !(1..=256).contains(&classes) {
            return Err(DataError::Parameter { name: "classes", value: classes as f64, range: "[1, 256]" });
        }
        if shape.len() == 0 || images.len() == 0 {
            return Err(DataError::Empty { origin: name, what: "no images" });
        }
        if images.len() != shape.len() * labels.len() {
            let image_count = images.len() / shape.len();
            let (images, labels, label_count) = (format!("{name} (images)"), format!("{name} (labels)"), labels.len());
            return Err(DataError::Counts { images, image_count, labels, label_count });
        }
        check_labels(&name, &labels, classes)?;
        Ok(Self { name, shape, classes, images, labels, positions: None, origin: None })
    }

    /// Name, for messages and records.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape of one image.
    pub fn shape(&self) -> FeatureShape {
        self.shape
    }

    /// Number of classes; every label is below it.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Never true: a data set has at least one sample.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels of all images, `len · C · H · W` bytes; none of inputs.
    pub fn images(&self) -> &[u8] {
        match &self.images {
            Values::Pixels(pixels) => pixels,
            Values::Inputs(_) => &[],
        }
    }

    /// Where a sample was in the files that were read, from 0: for a part of some data not its place in the part.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn position(&self, index: usize) -> usize {
        self.positions.as_ref().map_or(index, |positions| positions[index])
    }

    /// Pixels of one image, if there is such a sample and it is made of pixels.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        self.images().chunks_exact(self.shape.len()).nth(index)
    }

    /// All labels, in the order of the images.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Number of samples of every class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes];
        for &label in &self.labels {
            counts[usize::from(label)] += 1;
        }
        counts
    }

    /// The given samples, in the given order, as a data set of their own.
    ///
    /// # Errors
    /// [`DataError::Index`] for a sample that is not there, [`DataError::Empty`] without any.
    pub fn subset(&self, indices: &[usize]) -> Result<Self, DataError> {
        self.check_indices(indices)?;
        let len = self.shape.len();
        let images = match &self.images {
            Values::Pixels(pixels) => Values::Pixels(picked(pixels, indices, len)),
            Values::Inputs(inputs) => Values::Inputs(picked(inputs, indices, len)),
        };
        let labels = indices.iter().map(|&index| self.labels[index]).collect();
        let part = Self::of_values(self.name.clone(), self.shape, self.classes, images, labels)?;
        Ok(Self { positions: Some(indices.iter().map(|&index| self.position(index)).collect()), ..part })
    }

    /// The samples at ascending `places`, with other labels for all of the data; the split into training and validation
    /// stays what it is for the data.
    pub(super) fn part_with_labels(&self, places: Vec<usize>, labels: &[u8]) -> Result<Self, DataError> {
        let mut part = self.subset(&places)?;
        part.labels = places.iter().map(|&place| labels[place]).collect();
        part.origin = Some(Origin { labels: self.labels.as_slice().into(), places });
        Ok(part)
    }

    /// What it was taken from.
    pub(super) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// SHA-256 of shape, number of classes, images and labels, in hexadecimal: the same data give the same text.
    pub fn sha256(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(format!("{} {} {}\n", self.shape, self.classes, self.len()));
        match &self.images {
            Values::Pixels(pixels) => hasher.update(pixels),
            Values::Inputs(inputs) => inputs.iter().for_each(|value| hasher.update(value.to_le_bytes())),
        }
        hasher.update(&self.labels);
        hex(&hasher.finalize())
    }

    /// Writes the given samples, normalised, one after the other; inputs as they are.
    ///
    /// With [`Par::Rayon`] the samples are shared out; the result is the same to the last bit.
    ///
    /// # Shapes
    /// `out`: `indices.len() · C · H · W`, row-major `[N, C, H, W]`, which is a column-major `(C·H·W) × N` matrix.
    ///
    /// # Errors
    /// [`DataError::Index`] for a sample that is not there, [`DataError::Length`] if `out` has another length or
    /// `normalization` another number of channels.
    pub fn normalise_into(
        &self,
        indices: &[usize],
        normalization: &Normalization,
        out: &mut [f32],
        par: Par,
    ) -> Result<(), DataError> {
        self.check_indices(indices)?;
        normalization.check_channels(self.shape.channels)?;
        let expected = indices.len() * self.shape.len();
        if out.len() != expected {
            return Err(DataError::Length { what: "buffer of normalised images", expected, found: out.len() });
        }
        self.normalise_checked(indices, normalization, out, par);
        Ok(())
    }

    /// [`normalise_into`](Self::normalise_into) for arguments that have been checked.
    pub(super) fn normalise_checked(&self, indices: &[usize], norm: &Normalization, out: &mut [f32], par: Par) {
        /// Samples of one task: a smaller batch is done before another thread has woken up.
        const SAMPLES: usize = 512;
        let len = self.shape.len();
        let run = |indices: &[usize], out: &mut [f32]| {
            for (&index, out) in indices.iter().zip(out.chunks_exact_mut(len)) {
                match &self.images {
                    Values::Pixels(pixels) => norm.apply(&pixels[index * len..][..len], out),
                    Values::Inputs(inputs) => out.copy_from_slice(&inputs[index * len..][..len]),
                }
            }
        };
        match par {
            Par::Seq => run(indices, out),
            Par::Rayon(_) => {
                let tasks = indices.par_chunks(SAMPLES).zip(out.par_chunks_mut(SAMPLES * len));
                tasks.for_each(|(indices, out)| run(indices, out));
            }
        }
    }

    pub(super) fn check_indices(&self, indices: &[usize]) -> Result<(), DataError> {
        match indices.iter().find(|&&index| index >= self.len()) {
            Some(&index) => Err(DataError::Index { name: self.name.clone(), index, len: self.len() }),
            None => Ok(()),
        }
    }
}

impl Normalization {
    /// Mean and standard deviation (of the population) of all pixels of every channel, exact up to one rounding.
    ///
    /// # Errors
    /// [`DataError::Constant`] if all pixels of a channel are equal.
    pub fn from_images(data: &Dataset) -> Result<Self, DataError> {
        let (shape, plane) = (data.shape(), data.shape().plane());
        let (mut means, mut stds) = (Vec::new(), Vec::new());
        for channel in 0..shape.channels {
            let mut counts = [0_u64; 256];
            for image in data.images().chunks_exact(shape.len()) {
                for &pixel in &image[channel * plane..][..plane] {
                    counts[usize::from(pixel)] += 1;
                }
            }
            // Sums of integers: Σx and Σx² are exact in u128 and so is n Σx² - (Σx)².
            let sum = |power| (0_u128..).zip(counts).map(|(x, count)| x.pow(power) * u128::from(count)).sum::<u128>();
            let (n, sum, squares) = (sum(0), sum(1), sum(2));
            let spread = n * squares - sum * sum;
            if spread == 0 {
                return Err(DataError::Constant { origin: data.name().to_owned(), channel });
            }
            means.push(sum as f64 / n as f64 / 255.0);
            stds.push((spread as f64).sqrt() / n as f64 / 255.0);
        }
        Self::new(means, stds)
    }
}

/// Some samples of length `len`, one after the other.
fn picked<V: Copy>(values: &[V], indices: &[usize], len: usize) -> Vec<V> {
    let mut picked = Vec::with_capacity(indices.len() * len);
    for &index in indices {
        picked.extend_from_slice(&values[index * len..][..len]);
    }
    picked
}

/// Checks that every label is a class; `origin` stands in the error.
pub(super) fn check_labels(origin: &str, labels: &[u8], classes: usize) -> Result<(), DataError> {
    match labels.iter().position(|&label| usize::from(label) >= classes) {
        Some(sample) => Err(DataError::Label { origin: origin.to_owned(), sample, label: labels[sample], classes }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(samples: usize) -> Dataset {
        let images = (0..samples * 12).map(|i| (i * 37 % 256) as u8).collect();
        let labels = (0..samples).map(|i| (i % 3) as u8).collect();
        Dataset::new("counting", FeatureShape::image(2, 2, 3), 3, images, labels).unwrap()
    }

    #[test]
    fn faulty_parts_are_refused() {
        let shape = FeatureShape::vector(2);
        let new = |classes, images: &[u8], labels: &[u8]| {
            Dataset::new("faulty", shape, classes, images.to_vec(), labels.to_vec()).unwrap_err()
        };
        assert!(matches!(new(0, &[1, 2], &[0]), DataError::Parameter { .. }));
        assert!(matches!(new(257, &[1, 2], &[0]), DataError::Parameter { .. }));
        assert!(matches!(new(2, &[], &[]), DataError::Empty { .. }));
        assert!(matches!(new(2, &[1, 2, 3], &[0]), DataError::Counts { .. }));
        assert!(matches!(new(2, &[1, 2], &[0, 1]), DataError::Counts { image_count: 1, label_count: 2, .. }));
        assert!(matches!(new(2, &[1, 2, 3, 4], &[0, 2]), DataError::Label { sample: 1, label: 2, .. }));
        let empty = Dataset::new("faulty", FeatureShape::image(0, 2, 2), 2, vec![1], vec![1]).unwrap_err();
        assert!(matches!(empty, DataError::Empty { .. }));
    }

    #[test]
    fn a_subset_keeps_the_order_asked_for() {
        let data = counting(7);
        let part = data.subset(&[6, 0, 6]).unwrap();
        assert_eq!(part.labels(), [0, 0, 0]);
        assert_eq!(part.image(2), data.image(6));
        assert_eq!((data.image(7), data.class_counts()), (None, vec![3, 2, 2]));
        assert_eq!((0..3).map(|index| part.position(index)).collect::<Vec<_>>(), [6, 0, 6]);
        assert_eq!((data.position(5), part.subset(&[2, 1]).unwrap().position(1)), (5, 0));
        assert!(matches!(data.subset(&[7]), Err(DataError::Index { index: 7, len: 7, .. })));
        assert!(matches!(data.subset(&[]), Err(DataError::Empty { .. })));
    }

    #[test]
    fn the_fingerprint_tells_data_apart() {
        let data = counting(4);
        assert_eq!(data.sha256(), counting(4).sha256());
        assert_eq!(data.sha256().len(), 64);
        let mut other = counting(4);
        other.labels[2] = 0;
        assert_ne!(data.sha256(), other.sha256());
        other = counting(4);
        other.shape = FeatureShape::image(3, 2, 2);
        assert_ne!(data.sha256(), other.sha256());
    }

    #[test]
    fn inputs_reach_the_network_as_they_are() {
        let shape = FeatureShape::vector(2);
        let new = |inputs: Vec<f32>| Dataset::of_inputs("own", shape, 2, inputs, vec![0, 1]);
        let data = new(vec![0.5, -1.0, 2.0, 0.25]).unwrap();
        let norm = Normalization::new(vec![0.1; 2], vec![0.5; 2]).unwrap();
        let mut out = [0.0; 4];
        data.subset(&[1, 0]).unwrap().normalise_into(&[0, 1], &norm, &mut out, Par::Seq).unwrap();
        assert_eq!(out, [2.0, 0.25, 0.5, -1.0]);
        assert_eq!((data.images().len(), data.image(0)), (0, None));
        assert_ne!(data.sha256(), new(vec![0.5, -1.0, 2.0, 0.5]).unwrap().sha256());
        let error = new(vec![0.5, 1.0, f32::NAN, 0.0]).unwrap_err();
        assert!(matches!(error, DataError::NonFinite { sample: 1, .. }), "{error}");
    }

    #[test]
    fn normalised_values_are_those_of_the_formula() {
        let data = counting(1100);
        let (mean, std) = ([0.25, -3.0], [0.5, 0.01]);
        let norm = Normalization::new(mean.to_vec(), std.to_vec()).unwrap();
        let indices: Vec<_> = (0..1100).rev().collect();
        let mut out = vec![f32::NAN; 1100 * 12];
        data.normalise_into(&indices, &norm, &mut out, Par::Seq).unwrap();
        for (sample, &index) in indices.iter().enumerate() {
            for (i, &pixel) in data.image(index).unwrap().iter().enumerate() {
                let channel = i / 6;
                let value = (f64::from(pixel) / 255.0 - mean[channel]) / std[channel];
                // Two factors and two operations, each rounded: relative to the largest intermediate value.
                let size = f64::from(pixel) / 255.0 / std[channel] + mean[channel].abs() / std[channel];
                let error = (f64::from(out[sample * 12 + i]) - value).abs();
                assert!(error <= 2.0 * f64::from(f32::EPSILON) * size, "pixel {i} of {index}: off by {error}");
            }
        }
        let mut parallel = vec![f32::NAN; 1100 * 12];
        data.normalise_into(&indices, &norm, &mut parallel, Par::rayon(2)).unwrap();
        assert_eq!(out, parallel);
    }

    #[test]
    fn normalising_checks_its_arguments() {
        let data = counting(3);
        let two = Normalization::new(vec![0.0; 2], vec![1.0; 2]).unwrap();
        let mut out = [0.0; 12];
        let mut run =
            |indices: &[usize], norm, len: usize| data.normalise_into(indices, norm, &mut out[..len], Par::Seq);
        assert!(matches!(run(&[3], &two, 12), Err(DataError::Index { .. })));
        assert!(matches!(run(&[0], &two, 11), Err(DataError::Length { expected: 12, found: 11, .. })));
        let one = Normalization::fashion_mnist();
        assert!(matches!(run(&[0], &one, 12), Err(DataError::Length { expected: 2, found: 1, .. })));
        run(&[2], &two, 12).unwrap();
    }
}
