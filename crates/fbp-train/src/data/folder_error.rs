use std::io;
use std::path::PathBuf;

/// What can be wrong with a folder of image files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// No training or validation folder.
    #[error(
        "{}: no folder {missing}: image folders hold a folder `train` and one of `val`, `valid`, `validation` or `test`, \
         both with a folder of JPEG or PNG files for each class",
        folder.display()
    )]
    NoPart {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
    /// A class without a file.
    #[error("{}: no image file is in this folder, so the class has no images: fill it or remove it", folder.display())]
    EmptyClass {
        /// Folder of the class.
        folder: PathBuf,
    },
    /// Fewer than two classes.
    #[error("{}: {found} class folders, and at least 2 are needed to tell images apart", folder.display())]
    FewClasses {
        /// The training folder.
        folder: PathBuf,
        /// Number of class folders.
        found: usize,
    },
    /// More classes than labels.
    #[error("{}: {found} class folders, and data may have 256 classes", folder.display())]
    ManyClasses {
        /// The training folder.
        folder: PathBuf,
        /// Number of class folders.
        found: usize,
    },
    /// Training and validation images of different classes.
    #[error("the class folders of {} and {} differ: {differences}", train.display(), test.display())]
    ClassesDiffer {
        /// The training folder.
        train: PathBuf,
        /// The validation folder.
        test: PathBuf,
        /// Which are in one of them alone.
        differences: String,
    },
    /// A line of the annotations of Tiny-ImageNet that makes no sense, or an image without a line.
    #[error("{}: {reason}", path.display())]
    Annotations {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Images of different sizes, and none is asked for.
    #[error(
        "the images have different sizes ({} has {} × {} pixels, {} has {} × {}): choose one with --size N, or with \
         --resize N --crop N",
        first.display(), first_size[0], first_size[1], other.display(), other_size[0], other_size[1]
    )]
    Sizes {
        /// An image.
        first: PathBuf,
        /// Its width and height.
        first_size: [usize; 2],
        /// Another one.
        other: PathBuf,
        /// Its width and height.
        other_size: [usize; 2],
    },
    /// A part of which no file can be decoded.
    #[error("{}: every image file is broken", folder.display())]
    AllBroken {
        /// The training or validation folder.
        folder: PathBuf,
    },
    /// No place for the decoded images.
    #[error("cannot keep decoded images in {}: name another folder with --cache", path.display())]
    Cache {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
