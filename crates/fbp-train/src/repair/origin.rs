use crate::data::{Corruption, DataBundle, DataError, Dataset};
use crate::settings::Part;

/// Images that samples are chosen from.
#[derive(Clone, Copy, Debug)]
pub enum SampleOrigin<'a> {
    /// A part of the data.
    Part(Part),
    /// The images of a part of the data, corrupted; what is to be left alone stays as it is.
    Corrupted(Part, &'a Corrupted),
    /// Images of one's own.
    Own(&'a Dataset),
}

/// All images of some data, corrupted.
#[derive(Clone, Debug)]
pub struct Corrupted {
    corruption: Corruption,
    train: Dataset,
    test: Dataset,
}

impl Corrupted {
    /// Corrupts training and test images; what happens to each follows from the seed.
    ///
    /// # Errors
    /// [`DataError::NoImages`] for data that are no images.
    pub fn new(data: &DataBundle, corruption: Corruption, seed: u64) -> Result<Self, DataError> {
        let [train, test] = [corruption.apply(&data.train, seed, 0)?, corruption.apply(&data.test, seed, 1)?];
        Ok(Self { corruption, train, test })
    }

    /// Clean images, corrupted with another seed.
    pub(super) fn again(&self, clean: &Dataset, seed: u64) -> Result<Dataset, DataError> {
        self.corruption.apply(clean, seed, 0)
    }

    fn part(&self, part: Part) -> &Dataset {
        match part {
            Part::Train => &self.train,
            Part::Test => &self.test,
        }
    }
}

impl<'a> SampleOrigin<'a> {
    /// The images.
    pub fn images(self, data: &'a DataBundle) -> &'a Dataset {
        match self {
            Self::Part(Part::Train) => &data.train,
            Self::Part(Part::Test) => &data.test,
            Self::Corrupted(part, corrupted) => corrupted.part(part),
            Self::Own(images) => images,
        }
    }

    /// Images of the same kind as these in a part of the data: those of which others should come right as well.
    pub(super) fn kin(self, part: Part, data: &'a DataBundle) -> &'a Dataset {
        match self {
            Self::Corrupted(_, corrupted) => corrupted.part(part),
            _ => Self::Part(part).images(data),
        }
    }

    /// What they are called in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Part(Part::Train) => "training samples",
            Self::Part(Part::Test) => "test images",
            Self::Corrupted(..) => "corrupted images",
            Self::Own(_) => "images given",
        }
    }
}

/// The training images, as is usual.
impl Default for SampleOrigin<'_> {
    fn default() -> Self {
        Self::Part(Part::Train)
    }
}

/// Samples to repair.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Images that they are from.
    pub origin: SampleOrigin<'a>,
    /// Their places there, ascending.
    pub samples: &'a [usize],
}

impl Given<'_> {
    /// Those of them that are training images, and so are not to be left alone.
    pub(super) fn in_training(&self) -> &[usize] {
        match self.origin {
            SampleOrigin::Part(Part::Train) => self.samples,
            _ => &[],
        }
    }

    /// Those of them that are test images, and so judge nothing.
    pub(super) fn in_test(&self) -> &[usize] {
        match self.origin {
            SampleOrigin::Part(Part::Test) => self.samples,
            _ => &[],
        }
    }

    /// Places in the test part of which images of the same kind are given.
    pub(super) fn kin_in_test(&self) -> &[usize] {
        match self.origin {
            SampleOrigin::Corrupted(Part::Test, _) => self.samples,
            _ => self.in_test(),
        }
    }
}
