use crate::data::{DataBundle, Dataset};
use crate::settings::Part;

/// Images that samples are chosen from.
#[derive(Clone, Copy, Debug)]
pub enum SampleOrigin<'a> {
    /// A part of the data.
    Part(Part),
    /// Images of one's own.
    Own(&'a Dataset),
}

impl<'a> SampleOrigin<'a> {
    /// The images.
    pub fn images(self, data: &'a DataBundle) -> &'a Dataset {
        match self {
            Self::Part(Part::Train) => &data.train,
            Self::Part(Part::Test) => &data.test,
            Self::Own(images) => images,
        }
    }

    /// What they are called in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Part(Part::Train) => "training samples",
            Self::Part(Part::Test) => "test images",
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
}
