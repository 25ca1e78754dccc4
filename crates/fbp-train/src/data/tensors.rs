//! Data sets of one's own as one safetensors file.

use std::path::Path;

use fbp_linalg::FeatureShape;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{DataBundle, DataError, Dataset, Normalization, Outputs, Split};

/// Share of the samples that are the test set where the file has none.
pub const TEST_SHARE: f64 = 0.2;
/// Seed of that choice: another one than that of the validation part, which is chosen among the others.
const TEST_SEED: u64 = 1;
/// Metadata of the file: entries of a pose, where `outputs` is a matrix of trajectories.
pub const POSE_KEY: &str = "pose";

/// What one part of a file holds.
struct Part {
    shape: FeatureShape,
    inputs: Inputs,
    wanted: Found,
}

enum Inputs {
    Pixels(Vec<u8>),
    Values(Vec<f32>),
}

enum Found {
    Labels(Vec<i64>),
    Outputs(Outputs),
}

/// A file and its tensors.
struct Arrays<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    pose: Option<usize>,
}

/// Reads a data set from one safetensors file.
///
/// | tensor | type and shape | meaning |
/// |---|---|---|
/// | `inputs` | F32 or U8, `[N, F]` or `[N, C, H, W]` | F32 as the network takes them; U8 are pixels, normalised by their mean and deviation |
/// | `labels` | whole numbers, `[N]` | classes, counted from 0 |
/// | `outputs` | F32, `[N, K]`, `[N, P, 2]` or `[N, P, 3]` | in place of labels, and before them if both are there; with poses of 2 or 3 entries they are trajectories |
/// | `test_inputs`, `test_labels`, `test_outputs` | the same | the test set |
///
/// A matrix of outputs is a trajectory too if the metadata of the file have the key [`POSE_KEY`] with the number of entries of a
/// pose. Without a test set, [`TEST_SHARE`] of the samples are one, drawn at random, of every class the same share; the same
/// file always gives the same. The number of classes is `classes`, or else one more than the largest label.
///
/// F32 inputs are not normalised: what is right for pixels is seldom right for numbers of different units. Scale them yourself.
///
/// # Errors
/// [`DataError::Io`], [`DataError::NotTensors`], [`DataError::NoTensor`], [`DataError::TensorType`],
/// [`DataError::TensorShape`], [`DataError::TensorRows`], [`DataError::TensorLabel`], [`DataError::NonFinite`],
/// [`DataError::NonFiniteOutput`], [`DataError::Parameter`].
pub(super) fn read(path: &Path, name: &str, classes: Option<usize>) -> Result<DataBundle, DataError> {
    let bytes = std::fs::read(path).map_err(DataError::at(path))?;
    let not_tensors = |source| DataError::NotTensors { path: path.to_owned(), source };
    let tensors = SafeTensors::deserialize(&bytes).map_err(not_tensors)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(not_tensors)?;
    let pose = header.metadata().as_ref().and_then(|metadata| metadata.get(POSE_KEY)?.trim().parse().ok());
    let arrays = Arrays { path, tensors, pose };
    let train = arrays.part("")?;
    let test = arrays.has("test_inputs").then(|| arrays.part("test_")).transpose()?;
    let classes = arrays.classes(classes, [Some(&train), test.as_ref()])?;
    let entries = |part: &Part| match &part.wanted {
        Found::Outputs(outputs) => (part.shape, outputs.entries(), outputs.pose()),
        Found::Labels(_) => (part.shape, 0, None),
    };
    if let Some(test) = &test
        && entries(test) != entries(&train)
    {
        let expected = "the shape of `inputs` and `outputs`, but for the number of samples";
        return Err(arrays.wrong_shape("test_inputs", expected));
    }
    let train = arrays.dataset(train, format!("{name} (training)"), classes, "")?;
    let test = test.map(|test| arrays.dataset(test, format!("{name} (test)"), classes, "test_")).transpose()?;
    let (train, test) = match test {
        Some(test) => (train, test),
        None => divide(&train, name)?,
    };
    let normalization = match train.is_pixels() {
        true => Normalization::from_images(&train)?,
        false => Normalization::none(train.shape().channels)?,
    };
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    Ok(DataBundle::new(train, test, normalization, folder))
}

/// Training and test samples of data without a test set.
pub(super) fn divide(all: &Dataset, name: &str) -> Result<(Dataset, Dataset), DataError> {
    let Split { train, validation: test } = Split::stratified(all, TEST_SHARE, TEST_SEED)?;
    if test.is_empty() {
        return Err(DataError::Empty { origin: name.to_owned(), what: "no samples left for a test set" });
    }
    let named = |part: Dataset, what: &str| part.renamed(format!("{name} ({what})"));
    Ok((named(all.subset(&train)?, "training"), named(all.subset(&test)?, "test")))
}

/// A data set as the bytes of such a file, with its test set; the same data always give the same bytes.
///
/// # Errors
/// [`DataError::NotTensors`] if the format cannot hold them, which does not happen for data that were checked.
pub fn to_tensors(data: &DataBundle) -> Result<Vec<u8>, DataError> {
    let parts = [("", &data.train), ("test_", &data.test)];
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (prefix, part) in parts {
        let (samples, shape) = (part.len(), part.shape());
        let dims = match shape.plane() {
            1 => vec![samples, shape.channels],
            _ => vec![samples, shape.channels, shape.height, shape.width],
        };
        let inputs = match part.inputs() {
            Some(values) => (Dtype::F32, bytes(values)),
            None => (Dtype::U8, part.images().to_vec()),
        };
        tensors.push((format!("{prefix}inputs"), inputs.0, dims, inputs.1));
        tensors.push(match part.outputs() {
            Some(outputs) => {
                let dims = match outputs.pose() {
                    Some(pose) => vec![samples, outputs.entries() / pose, pose],
                    None => vec![samples, outputs.entries()],
                };
                (format!("{prefix}outputs"), Dtype::F32, dims, bytes(outputs.values()))
            }
            None => {
                let labels = part.labels().iter().flat_map(|label| i64::from(*label).to_le_bytes()).collect();
                (format!("{prefix}labels"), Dtype::I64, vec![samples], labels)
            }
        });
    }
    let broken = |source| DataError::NotTensors { path: data.folder.clone(), source };
    let views = tensors.iter().map(|(name, dtype, dims, bytes)| {
        Ok((name.as_str(), TensorView::new(*dtype, dims.clone(), bytes).map_err(broken)?))
    });
    let views = views.collect::<Result<Vec<_>, DataError>>()?;
    safetensors::serialize(views, None).map_err(broken)
}

impl Arrays<'_> {
    fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'_>, DataError> {
        self.tensors.tensor(name).map_err(|_| self.no_tensor(name.to_owned()))
    }

    fn no_tensor(&self, name: String) -> DataError {
        let mut found: Vec<String> = self.tensors.names().into_iter().map(ToString::to_string).collect();
        found.sort_unstable();
        DataError::NoTensor { path: self.path.to_owned(), name, found: found.join(", ") }
    }

    fn wrong_shape(&self, name: &str, expected: &'static str) -> DataError {
        let found = self.tensors.tensor(name).map(|view| view.shape().to_vec()).unwrap_or_default();
        DataError::TensorShape { path: self.path.to_owned(), name: name.to_owned(), expected, found }
    }

    fn wrong_type(&self, name: &str, found: Dtype, expected: &'static str) -> DataError {
        DataError::TensorType {
            path: self.path.to_owned(),
            name: name.to_owned(),
            expected,
            found: format!("{found:?}"),
        }
    }

    /// The tensors whose names begin with `prefix`.
    fn part(&self, prefix: &str) -> Result<Part, DataError> {
        let name = format!("{prefix}inputs");
        let view = self.tensor(&name)?;
        let shape = match *view.shape() {
            [_, len] => FeatureShape::vector(len),
            [_, channels, height, width] => FeatureShape::image(channels, height, width),
            _ => return Err(self.wrong_shape(&name, "[N, F] or [N, C, H, W]")),
        };
        let inputs = match view.dtype() {
            Dtype::F32 => Inputs::Values(floats(&view)),
            Dtype::U8 => Inputs::Pixels(view.data().to_vec()),
            other => return Err(self.wrong_type(&name, other, "F32, or U8 for pixels")),
        };
        let samples = view.shape()[0];
        let (labels, outputs) = (format!("{prefix}labels"), format!("{prefix}outputs"));
        let wanted = match (self.has(&labels), self.has(&outputs)) {
            (true, false) => Found::Labels(self.labels(&labels, samples)?),
            (_, true) => Found::Outputs(self.outputs(&outputs, samples)?),
            (false, false) => return Err(self.no_tensor(format!("{labels}` or `{outputs}"))),
        };
        Ok(Part { shape, inputs, wanted })
    }

    fn labels(&self, name: &str, samples: usize) -> Result<Vec<i64>, DataError> {
        let view = self.tensor(name)?;
        if view.shape().len() != 1 {
            return Err(self.wrong_shape(name, "[N]"));
        }
        self.check_rows(name, view.shape()[0], samples)?;
        whole(&view).ok_or_else(|| self.wrong_type(name, view.dtype(), "whole numbers, as I64"))
    }

    fn outputs(&self, name: &str, samples: usize) -> Result<Outputs, DataError> {
        let view = self.tensor(name)?;
        if view.dtype() != Dtype::F32 {
            return Err(self.wrong_type(name, view.dtype(), "F32"));
        }
        let (rows, len, pose) = match *view.shape() {
            [rows, len] if len > 0 => (rows, len, self.pose),
            [rows, poses, pose @ (2 | 3)] if poses > 0 => (rows, poses * pose, Some(pose)),
            _ => return Err(self.wrong_shape(name, "[N, K], [N, P, 2] or [N, P, 3]")),
        };
        self.check_rows(name, rows, samples)?;
        Outputs::new(floats(&view), len, pose)
    }

    fn check_rows(&self, name: &str, found: usize, expected: usize) -> Result<(), DataError> {
        match found == expected {
            true => Ok(()),
            false => Err(DataError::TensorRows { path: self.path.to_owned(), name: name.to_owned(), expected, found }),
        }
    }

    /// The number of classes, which is that asked for or follows from the labels.
    fn classes(&self, asked: Option<usize>, parts: [Option<&Part>; 2]) -> Result<usize, DataError> {
        let labels = parts.into_iter().flatten().filter_map(|part| match &part.wanted {
            Found::Labels(labels) => labels.iter().max().copied(),
            Found::Outputs(_) => None,
        });
        Ok(asked.unwrap_or_else(|| usize::try_from(labels.max().unwrap_or(0)).unwrap_or(0).saturating_add(1)).min(256))
    }

    fn dataset(&self, part: Part, name: String, classes: usize, prefix: &str) -> Result<Dataset, DataError> {
        let Part { shape, inputs, wanted } = part;
        let labels = match wanted {
            Found::Labels(labels) => labels,
            Found::Outputs(outputs) => {
                return match inputs {
                    Inputs::Values(values) => Dataset::of_inputs_with_outputs(name, shape, values, outputs),
                    Inputs::Pixels(pixels) => Dataset::of_pixels_with_outputs(name, shape, pixels, outputs),
                };
            }
        };
        let wrong = labels.iter().position(|label| !usize::try_from(*label).is_ok_and(|label| label < classes));
        if let Some(sample) = wrong {
            let (path, name, label) = (self.path.to_owned(), format!("{prefix}labels"), labels[sample]);
            return Err(DataError::TensorLabel { path, name, sample, label, classes });
        }
        let labels = labels.into_iter().map(|label| label as u8).collect();
        match inputs {
            Inputs::Values(values) => Dataset::of_inputs(name, shape, classes, values, labels),
            Inputs::Pixels(pixels) => Dataset::new(name, shape, classes, pixels, labels),
        }
    }
}

/// The numbers of a tensor of type F32.
fn floats(view: &TensorView<'_>) -> Vec<f32> {
    view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The numbers of a tensor of whole numbers; none for another type.
fn whole(view: &TensorView<'_>) -> Option<Vec<i64>> {
    macro_rules! of {
        ($type:ty) => {
            view.data().as_chunks().0.iter().map(|bytes| <$type>::from_le_bytes(*bytes) as i64).collect()
        };
    }
    Some(match view.dtype() {
        Dtype::I64 => of!(i64),
        Dtype::I32 => of!(i32),
        Dtype::I16 => of!(i16),
        Dtype::U8 => of!(u8),
        Dtype::I8 => of!(i8),
        Dtype::U16 => of!(u16),
        Dtype::U32 => of!(u32),
        // Beyond the largest I64 no label is a class anyway.
        Dtype::U64 => {
            view.data().as_chunks().0.iter().map(|b| u64::from_le_bytes(*b).min(i64::MAX as u64) as i64).collect()
        }
        _ => return None,
    })
}

#[cfg(test)]
#[path = "tensors/tests.rs"]
mod tests;
