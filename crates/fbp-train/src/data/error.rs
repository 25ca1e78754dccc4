use std::io;
use std::path::{Path, PathBuf};

use fbp_linalg::FeatureShape;

use super::FolderError;
use crate::image_files::ImageError;

/// What can be wrong with data: its name, its files, or a request for part of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A name that no data set has.
    #[error("unknown data {name:?}: known are {known}")]
    UnknownName {
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A random change that there is not.
    #[error("unknown augmentation {name:?}: known are crop and flip, or both with a comma between them")]
    UnknownAugmentation {
        /// The name that was asked for.
        name: String,
    },
    /// A corruption that there is not.
    #[error(
        "unknown corruption {text:?}: known are noise, blur, fog and contrast, with a strength from 1 to 5, as in fog:4"
    )]
    UnknownCorruption {
        /// What was asked for.
        text: String,
    },
    /// Data that are no images, where images are to be corrupted.
    #[error("corrupt = {corruption} is for images, and {name} are none: leave it out")]
    NoImages {
        /// Name of the data.
        name: String,
        /// What was asked for.
        corruption: String,
    },
    /// A known data set of which no place looked at has all files.
    #[error("{name} is not there or not complete (looked for {}): {remedy}", list(places))]
    NotFound {
        /// Name of the data set.
        name: String,
        /// The folders that were looked for.
        places: Vec<PathBuf>,
        /// What to do, with the command.
        remedy: &'static str,
    },
    /// A folder without one of the files of its format.
    #[error("{}: no file {file} or {file}.gz: {needs}", folder.display())]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// Name of the file, without `.gz`.
        file: String,
        /// What the format asks for.
        needs: &'static str,
    },
    /// The operating system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A gzip stream that is damaged or cut off.
    #[error("{}: the gzip stream is damaged or cut off ({reason}): get the file again", path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// The first four bytes are not those of the kind of IDX file that is needed.
    #[error("{}: starts with {found:#010x}, but {expected} start with {wanted}: is it the right file?", path.display())]
    Magic {
        /// The file.
        path: PathBuf,
        /// The first four bytes, big-endian.
        found: u32,
        /// What was to be read, in words.
        expected: &'static str,
        /// The numbers that such a file starts with.
        wanted: &'static str,
    },
    /// Fewer bytes than the header announces, or not even a header.
    #[error("{}: {expected} bytes announced, {found} there: the file is cut off, get it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Number of bytes that the header (or the format) asks for, header included.
        expected: u64,
        /// Number of bytes there are, after decompression.
        found: u64,
    },
    /// More bytes than the header announces.
    #[error("{}: more bytes than the {expected} that its header announces: the header or the file is damaged", path.display())]
    Trailing {
        /// The file.
        path: PathBuf,
        /// Number of bytes that the header asks for, header included.
        expected: u64,
    },
    /// A file of records that ends within one.
    #[error(
        "{}: {found} bytes are no whole number of records of {record} bytes: the file is cut off or another one, get it again",
        path.display()
    )]
    Records {
        /// The file.
        path: PathBuf,
        /// Number of bytes of a record.
        record: usize,
        /// Number of bytes there are, after decompression.
        found: u64,
    },
    /// Dimensions whose product no file of this size can hold, or that this reader does not accept.
    #[error("{}: the header announces {dims} bytes, more than the {limit} that {reason}: it is damaged or cut off", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The dimensions, as `a × b × c`.
        dims: String,
        /// Largest accepted number of bytes.
        limit: u64,
        /// Where the limit comes from.
        reason: &'static str,
    },
    /// No samples, or images of size zero.
    #[error("{origin}: no data ({what}): at least one is needed")]
    Empty {
        /// The file or data set.
        origin: String,
        /// Which size is zero.
        what: &'static str,
    },
    /// Images and labels that do not belong together.
    #[error(
        "{images} holds {image_count} images, but {labels} holds {label_count} labels: take both from one data set"
    )]
    Counts {
        /// Where the images are from.
        images: String,
        /// Number of images.
        image_count: usize,
        /// Where the labels are from.
        labels: String,
        /// Number of labels.
        label_count: usize,
    },
    /// A label that is not a class.
    #[error("{origin}: label {label} of sample {sample} is not below the number of classes, {classes}")]
    Label {
        /// The file or data set.
        origin: String,
        /// Index of the sample.
        sample: usize,
        /// Its label.
        label: u8,
        /// Number of classes.
        classes: usize,
    },
    /// Training and test images of different shapes.
    #[error("{}: training images are {train}, test images {test}: they must have one shape", folder.display())]
    Shapes {
        /// The folder.
        folder: PathBuf,
        /// Shape of the training images.
        train: FeatureShape,
        /// Shape of the test images.
        test: FeatureShape,
    },
    /// Images that are one grey value all over, which cannot be normalised.
    #[error("{origin}: every pixel of channel {channel} has the same value: such images cannot be told apart")]
    Constant {
        /// The data set.
        origin: String,
        /// Index of the channel.
        channel: usize,
    },
    /// An input that is not finite.
    #[error("{origin}: input {sample} holds a value that is not finite")]
    NonFinite {
        /// The data set.
        origin: String,
        /// Index of the sample.
        sample: usize,
    },
    /// A folder that holds no data of the kind that was asked for.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A file of a folder that gives no image.
    #[error("{}: {error}; repair or remove the file, or leave out what is broken with --skip-broken", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: ImageError,
    },
    /// An output that a sample should give and that is not finite.
    #[error("{origin}: outputs of sample {sample} hold a value that is not finite")]
    NonFiniteOutput {
        /// The data set.
        origin: String,
        /// Index of the sample.
        sample: usize,
    },
    /// A file that should hold tensors and does not.
    #[error("{}: it cannot be read as a safetensors file: it is damaged, cut off or something else", path.display())]
    NotTensors {
        /// The file.
        path: PathBuf,
        /// What the format says.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that a data set needs and a file does not have.
    #[error("{}: it has no tensor `{name}`, only {found}", path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// The names there are, separated by commas.
        found: String,
    },
    /// A tensor of another element type than the data need.
    #[error("{}: `{name}` is of type {found}, and {expected} is needed", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// The type that is needed.
        expected: &'static str,
        /// The type found.
        found: String,
    },
    /// A tensor of another shape than the data need.
    #[error("{}: `{name}` has shape {found:?}, and {expected} is needed", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// The shape that is needed, in words.
        expected: &'static str,
        /// The shape found.
        found: Vec<usize>,
    },
    /// A tensor with another number of samples than there are inputs.
    #[error("{}: `{name}` has {found} rows, and there are {expected} inputs: take both from one data set", path.display())]
    TensorRows {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Number of inputs.
        expected: usize,
        /// Number of its rows.
        found: usize,
    },
    /// A label of a tensor that is not a class.
    #[error(
        "{}: `{name}` holds {label} for sample {sample}: classes are numbered from 0 to below {classes}{}",
        path.display(),
        if *classes == 256 { ", as there can be no more than 256" } else { "" }
    )]
    TensorLabel {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Index of the sample.
        sample: usize,
        /// Its label.
        label: i64,
        /// Number of classes.
        classes: usize,
    },
    /// A file with images of one's own that cannot be used.
    #[error("{}: {reason}", path.display())]
    OwnFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A buffer or an array of another length than the data needs.
    #[error("{what}: expected {expected} values, found {found}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Number of values that are needed.
        expected: usize,
        /// Number of values found.
        found: usize,
    },
    /// A sample that the data set does not have.
    #[error("{name}: no sample {index}, there are {len}")]
    Index {
        /// Name of the data set.
        name: String,
        /// The index that was asked for.
        index: usize,
        /// Number of samples.
        len: usize,
    },
    /// A parameter outside its documented range.
    #[error("{name} = {value} is out of range: it takes {range}")]
    Parameter {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The documented range.
        range: &'static str,
    },
}

impl DataError {
    /// Adds the path to an error of the operating system; for `map_err`.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

fn list(places: &[PathBuf]) -> String {
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
}
