use std::sync::Arc;

use faer::Par;
use fbp_linalg::FeatureShape;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::pixels::{Facts, Pixels};
use super::{Augmentation, DataError, Normalization, Outputs, Wanted};
use crate::hash::hex;

/// Images of one shape with their labels, kept as bytes: in memory, or in a file that is mapped into it.
///
/// # Shapes
/// Images lie one after the other, each in row-major `[C, H, W]` order; a label is below [`classes`](Self::classes).
///
/// Images are [pixels](Self::new), or [inputs](Self::of_inputs) of a network that need no normalisation any more. In place of a
/// label a sample may have [outputs](Self::of_inputs_with_outputs) that it should give; its class is then 0, as all are.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    name: String,
    shape: FeatureShape,
    classes: usize,
    images: Values,
    labels: Vec<u8>,
    /// What the samples should give in place of their labels, which are then all 0.
    outputs: Option<Outputs>,
    /// Where its samples were in what was read, if it is a part.
    positions: Option<Vec<usize>>,
    /// What it was taken from, if the split into training and validation is to be that of the whole.
    origin: Option<Origin>,
}

/// The images, one after the other.
#[derive(Clone, Debug, PartialEq)]
enum Values {
    Pixels(Pixels),
    /// As the network sees them.
    Inputs(Vec<f32>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::Pixels(pixels) => pixels.bytes(),
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
        Self::of_pixels(name.into(), shape, classes, Pixels::in_memory(images, shape.len()), labels)
    }

    /// [`new`](Self::new) for pixels that may be mapped.
    pub(super) fn of_pixels(
        name: String,
        shape: FeatureShape,
        classes: usize,
        pixels: Pixels,
        labels: Vec<u8>,
    ) -> Result<Self, DataError> {
        Self::of_values(name, shape, classes, Values::Pixels(pixels), labels)
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

    /// Puts inputs of a network and the outputs that it should give together.
    ///
    /// # Errors
    /// Those of [`of_inputs`](Self::of_inputs), and [`DataError::NonFiniteOutput`].
    pub fn of_inputs_with_outputs(
        name: impl Into<String>,
        shape: FeatureShape,
        inputs: Vec<f32>,
        outputs: Outputs,
    ) -> Result<Self, DataError> {
        Self::of_inputs(name, shape, 1, inputs, vec![0; outputs.samples()])?.with_outputs(outputs)
    }

    /// Puts pixels and the outputs that they should give together.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), and [`DataError::NonFiniteOutput`].
    pub fn of_pixels_with_outputs(
        name: impl Into<String>,
        shape: FeatureShape,
        images: Vec<u8>,
        outputs: Outputs,
    ) -> Result<Self, DataError> {
        Self::new(name, shape, 1, images, vec![0; outputs.samples()])?.with_outputs(outputs)
    }

    /// The samples, as many as outputs, with these in place of labels.
    fn with_outputs(self, outputs: Outputs) -> Result<Self, DataError> {
        match outputs.values().iter().position(|value| !value.is_finite()) {
            Some(index) => Err(DataError::NonFiniteOutput { origin: self.name, sample: index / outputs.entries() }),
            None => Ok(Self { outputs: Some(outputs), ..self }),
        }
    }

    /// The same data under another name.
    pub(super) fn renamed(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// The same samples with other pixels, as many as they are made of.
    pub(crate) fn with_pixels(&self, pixels: Vec<u8>) -> Self {
        let images = Values::Pixels(Pixels::in_memory(pixels, self.shape.len()));
        let (outputs, positions, origin) = (self.outputs.clone(), self.positions.clone(), self.origin.clone());
        let (name, labels) = (self.name.clone(), self.labels.clone());
        Self { name, shape: self.shape, classes: self.classes, images, labels, outputs, positions, origin }
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
        Ok(Self { name, shape, classes, images, labels, outputs: None, positions: None, origin: None })
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

    /// Pixels of all images, `len · C · H · W` bytes; none of inputs, nor of images in a [mapped](Self::is_mapped) file, of
    /// which [`image`](Self::image) gives one at a time.
    pub fn images(&self) -> &[u8] {
        match &self.images {
            Values::Pixels(pixels) => pixels.all(),
            Values::Inputs(_) => &[],
        }
    }

    /// Inputs of all samples as the network takes them; none of pixels.
    pub fn inputs(&self) -> Option<&[f32]> {
        match &self.images {
            Values::Pixels(_) => None,
            Values::Inputs(inputs) => Some(inputs),
        }
    }

    /// Whether the images stay in a file, and only those that are in use are in memory.
    pub fn is_mapped(&self) -> bool {
        matches!(&self.images, Values::Pixels(pixels) if pixels.all().is_empty())
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
        match &self.images {
            Values::Pixels(pixels) if index < self.len() => Some(pixels.image(index)),
            _ => None,
        }
    }

    /// What is known of the pixels without looking at them.
    fn facts(&self) -> Option<&Facts> {
        match &self.images {
            Values::Pixels(pixels) => pixels.facts(),
            Values::Inputs(_) => None,
        }
    }

    /// How often every value occurs in each channel; never of inputs.
    pub(super) fn histogram(&self) -> Vec<[u64; 256]> {
        if let Some(facts) = self.facts() {
            return facts.histogram.clone();
        }
        let mut counts = vec![[0_u64; 256]; self.shape.channels];
        for image in (0..self.len()).filter_map(|index| self.image(index)) {
            for (counts, plane) in counts.iter_mut().zip(image.chunks_exact(self.shape.plane())) {
                plane.iter().for_each(|&pixel| counts[usize::from(pixel)] += 1);
            }
        }
        counts
    }

    /// All labels, in the order of the images.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// What the samples should give.
    pub fn wanted(&self) -> Wanted<'_> {
        self.outputs.as_ref().map_or(Wanted::Labels(&self.labels), Wanted::Outputs)
    }

    /// What they should give in place of labels, if they have none.
    pub fn outputs(&self) -> Option<&Outputs> {
        self.outputs.as_ref()
    }

    /// Whether it is made of pixels, which are normalised.
    pub fn is_pixels(&self) -> bool {
        matches!(self.images, Values::Pixels(_))
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
            Values::Pixels(pixels) => Values::Pixels(pixels.picked(indices)),
            Values::Inputs(inputs) => Values::Inputs(picked(inputs, indices, len)),
        };
        let labels = indices.iter().map(|&index| self.labels[index]).collect();
        let part = Self::of_values(self.name.clone(), self.shape, self.classes, images, labels)?;
        let positions = Some(indices.iter().map(|&index| self.position(index)).collect());
        Ok(Self { positions, outputs: self.outputs.as_ref().map(|outputs| outputs.picked(indices)), ..part })
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

    /// SHA-256 of shape, number of classes, images and labels or outputs, in hexadecimal: the same data give the same text.
    pub fn sha256(&self) -> String {
        if let Some(facts) = self.facts() {
            return facts.sha256.clone();
        }
        let mut hasher = Sha256::new();
        hasher.update(format!("{} {} {}\n", self.shape, self.classes, self.len()));
        match &self.images {
            Values::Pixels(pixels) => (0..self.len()).for_each(|index| hasher.update(pixels.image(index))),
            Values::Inputs(inputs) => inputs.iter().for_each(|value| hasher.update(value.to_le_bytes())),
        }
        hasher.update(&self.labels);
        if let Some(outputs) = &self.outputs {
            hasher.update(format!("\n{} outputs, poses of {:?}\n", outputs.entries(), outputs.pose()));
            outputs.values().iter().for_each(|value| hasher.update(value.to_le_bytes()));
        }
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
        self.normalise_checked(indices, normalization, None, out, par);
        Ok(())
    }

    /// [`normalise_into`](Self::normalise_into) for arguments that have been checked; pixels are changed on the way as an
    /// augmentation says for a seed and an epoch.
    pub(super) fn normalise_checked(
        &self,
        indices: &[usize],
        norm: &Normalization,
        change: Option<(Augmentation, (u64, u64))>,
        out: &mut [f32],
        par: Par,
    ) {
        /// Samples of one task: a smaller batch is done before another thread has woken up.
        const SAMPLES: usize = 512;
        let len = self.shape.len();
        let run = |indices: &[usize], out: &mut [f32]| {
            for (&index, out) in indices.iter().zip(out.chunks_exact_mut(len)) {
                match (&self.images, change) {
                    (Values::Pixels(pixels), Some((augmentation, epoch))) => {
                        augmentation.apply((epoch, index), (pixels.image(index), self.shape), norm, out);
                    }
                    (Values::Pixels(pixels), None) => norm.apply(pixels.image(index), out),
                    (Values::Inputs(inputs), _) => out.copy_from_slice(&inputs[index * len..][..len]),
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
        let (mut means, mut stds) = (Vec::new(), Vec::new());
        for (channel, counts) in data.histogram().into_iter().enumerate() {
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
mod tests;
