use std::fs;
use std::path::{Path, PathBuf};

use fbp_linalg::FeatureShape;
use fbp_models::Resizing;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{DataError, Dataset};
use crate::image_files::{Decoded, ImageError, Preparation, decode};

/// What a file of one's own holds.
enum Content {
    Pixels(Vec<u8>),
    Inputs(Vec<f32>),
}

/// Reads images of one's own: PNG and JPEG files, or one safetensors file with `inputs` and maybe `labels`.
///
/// An image file holds one image of the network's size, or of any size if `resizing` says how it gets there; grey ones become
/// coloured and coloured ones grey where the network wants that. The tensor `inputs` of shape `[N, C, H, W]` or `[N, C·H·W]` holds pixels if it is of type `U8`, and if it is of
/// type `F32` what the network takes, normalised already. `labels` has shape `[N]` and any type of whole numbers.
///
/// `labels` given here go before those of the file: one for each image, or one for all.
///
/// # Errors
/// [`DataError::OwnFile`] with what is wrong and what to do, [`DataError::Label`], [`DataError::NonFinite`],
/// [`DataError::Empty`].
pub fn read_own(
    files: &[PathBuf],
    labels: &[u8],
    (shape, resizing): (FeatureShape, Option<Resizing>),
    classes: usize,
) -> Result<Dataset, DataError> {
    let is = |path: &Path, extension: &str| path.extension().is_some_and(|own| own.eq_ignore_ascii_case(extension));
    let (content, found) = match files {
        [file] if is(file, "safetensors") => arrays(file, shape)?,
        _ => {
            let mut pixels = Vec::with_capacity(files.len() * shape.len());
            for file in files {
                if !["png", "jpg", "jpeg"].iter().any(|end| is(file, end)) {
                    let reason = "images are JPEG or PNG files, as many as there are, or one .safetensors file with a \
                                  tensor `inputs` and maybe `labels`";
                    return Err(wrong(file, reason));
                }
                pixels.extend(picture(file, shape, resizing)?);
            }
            (Content::Pixels(pixels), None)
        }
    };
    let count = match &content {
        Content::Pixels(pixels) => pixels.len() / shape.len().max(1),
        Content::Inputs(inputs) => inputs.len() / shape.len().max(1),
    };
    let first = files.first().map_or(Path::new("images"), PathBuf::as_path);
    let labels = match (labels, found) {
        ([], Some(found)) => found,
        ([], None) => return Err(wrong(first, "nothing says which class it is: give its label with --label")),
        ([one], _) => vec![*one; count],
        (labels, _) if labels.len() == count => labels.to_vec(),
        (labels, _) => {
            let reason =
                format!("{count} images and {} labels: give one label for each image, or one for all", labels.len());
            return Err(wrong(first, reason));
        }
    };
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    match content {
        Content::Pixels(pixels) => Dataset::new(names.join(", "), shape, classes, pixels, labels),
        Content::Inputs(inputs) => Dataset::of_inputs(names.join(", "), shape, classes, inputs, labels),
    }
}

fn wrong(path: &Path, reason: impl Into<String>) -> DataError {
    DataError::OwnFile { path: path.to_owned(), reason: reason.into() }
}

/// Pixels of one image file, channel after channel.
fn picture(path: &Path, shape: FeatureShape, resizing: Option<Resizing>) -> Result<Vec<u8>, DataError> {
    let bytes = fs::read(path).map_err(DataError::at(path))?;
    let unread = |error: ImageError| wrong(path, format!("it cannot be read as a PNG or JPEG file: {error}"));
    let Decoded { picture, transparent } = decode(&bytes).map_err(unread)?;
    if !matches!(shape.channels, 1 | 3) {
        let wanted = shape.channels;
        let reason =
            format!("an image file has 1 or 3 channels and the network takes {wanted}: use a .safetensors file");
        return Err(wrong(path, reason));
    }
    if transparent {
        return Err(wrong(path, "parts of it are transparent: save it without transparency"));
    }
    let preparation = Preparation { channels: shape.channels, size: [shape.height, shape.width], resizing };
    preparation.apply(picture).map_err(|error| match error {
        ImageError::Size { width, height, wide, high } => {
            let reason = format!("it has {width} × {height} pixels and the network takes {wide} × {high}: resize it");
            wrong(path, reason)
        }
        error => wrong(path, error.to_string()),
    })
}

/// Inputs and labels of a safetensors file.
fn arrays(path: &Path, shape: FeatureShape) -> Result<(Content, Option<Vec<u8>>), DataError> {
    let bytes = fs::read(path).map_err(DataError::at(path))?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|error| wrong(path, format!("it cannot be read as a safetensors file: {error}")))?;
    let inputs = tensors
        .tensor("inputs")
        .map_err(|_| wrong(path, format!("it has no tensor `inputs`, only {}", tensors.names().join(", "))))?;
    let image = [shape.channels, shape.height, shape.width];
    let fits = match inputs.shape() {
        [_, rest @ ..] => *rest == image || *rest == [shape.len()],
        [] => false,
    };
    if !fits {
        let [channels, height, width] = image;
        let reason = format!(
            "`inputs` has shape {:?}, the network takes [N, {channels}, {height}, {width}]; one image needs N = 1 too",
            inputs.shape()
        );
        return Err(wrong(path, reason));
    }
    let content = match inputs.dtype() {
        Dtype::U8 => Content::Pixels(inputs.data().to_vec()),
        Dtype::F32 => {
            let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            Content::Inputs(inputs.data().chunks_exact(4).map(number).collect())
        }
        other => {
            let reason = format!("`inputs` is of type {other:?}: pixels are U8, and what the network takes is F32");
            return Err(wrong(path, reason));
        }
    };
    let labels = match tensors.tensor("labels") {
        Ok(view) => Some(whole_numbers(path, &view, inputs.shape()[0])?),
        Err(_) => None,
    };
    Ok((content, labels))
}

/// Labels of any type of whole numbers.
fn whole_numbers(path: &Path, view: &TensorView<'_>, count: usize) -> Result<Vec<u8>, DataError> {
    if view.shape() != [count] {
        return Err(wrong(path, format!("`labels` has shape {:?}, and there are {count} images", view.shape())));
    }
    let size = match view.dtype() {
        Dtype::U8 | Dtype::I8 => 1,
        Dtype::U16 | Dtype::I16 => 2,
        Dtype::U32 | Dtype::I32 => 4,
        Dtype::U64 | Dtype::I64 => 8,
        other => return Err(wrong(path, format!("`labels` is of type {other:?}: labels are whole numbers"))),
    };
    let label = |bytes: &[u8]| match bytes {
        // Little-endian: of a label that fits, all bytes but the first are zero.
        [label, rest @ ..] if rest.iter().all(|byte| *byte == 0) => Ok(*label),
        _ => Err(wrong(path, "`labels` holds a number that is not 0 to 255")),
    };
    view.data().chunks_exact(size).map(label).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs::File;

    use png::ColorType;

    use super::*;

    const SHAPE: FeatureShape = FeatureShape::image(1, 2, 2);

    fn png(path: &Path, colour: ColorType, size: [u32; 2], bytes: &[u8]) {
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), size[0], size[1]);
        encoder.set_color(colour);
        encoder.write_header().unwrap().write_image_data(bytes).unwrap();
    }

    fn arrays_file(path: &Path, tensors: &[(&str, Dtype, &[usize], &[u8])]) {
        let views: HashMap<&str, TensorView<'_>> = tensors
            .iter()
            .map(|&(name, dtype, shape, bytes)| (name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap()))
            .collect();
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    fn reason(result: Result<Dataset, DataError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn pictures_are_grey_or_coloured_as_the_network_wants() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        png(&path("grey.png"), ColorType::Grayscale, [2, 2], &[0, 50, 100, 255]);
        png(&path("rgb.png"), ColorType::Rgb, [2, 2], &[255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9]);
        let both = read_own(&[path("grey.png"), path("rgb.png")], &[1, 0], (SHAPE, None), 2).unwrap();
        // 0.299, 0.587 and 0.114 of 255.
        assert_eq!(both.images(), [0, 50, 100, 255, 76, 150, 29, 9]);
        assert_eq!(both.labels(), [1, 0]);
        let coloured =
            read_own(&[path("rgb.png"), path("grey.png")], &[1], (FeatureShape::image(3, 2, 2), None), 2).unwrap();
        assert_eq!(coloured.image(0).unwrap(), [255, 0, 0, 9, 0, 255, 0, 9, 0, 0, 255, 9]);
        assert_eq!(coloured.image(1).unwrap(), [0, 50, 100, 255].repeat(3));
        assert_eq!(coloured.labels(), [1, 1]);

        png(&path("alpha.png"), ColorType::GrayscaleAlpha, [2, 2], &[1, 255, 2, 255, 3, 255, 4, 255]);
        assert_eq!(read_own(&[path("alpha.png")], &[0], (SHAPE, None), 2).unwrap().images(), [1, 2, 3, 4]);
        png(&path("glass.png"), ColorType::GrayscaleAlpha, [2, 2], &[1, 255, 2, 255, 3, 255, 4, 0]);
        assert!(reason(read_own(&[path("glass.png")], &[0], (SHAPE, None), 2)).contains("transparent"));
        let resizing = Some(Resizing::default());
        let resized = read_own(&[path("rgb.png")], &[1], (FeatureShape::image(1, 1, 1), resizing), 2).unwrap();
        // The mean of 76, 150, 29 and 9.
        assert_eq!(resized.images(), [66]);
        png(&path("large.png"), ColorType::Grayscale, [3, 1], &[0; 3]);
        assert!(reason(read_own(&[path("large.png")], &[0], (SHAPE, None), 2)).contains("3 × 1 pixels"));
        assert!(
            reason(read_own(&[path("grey.png")], &[0], (FeatureShape::image(2, 2, 2), None), 2)).contains("takes 2")
        );
        assert!(reason(read_own(&[path("grey.png")], &[], (SHAPE, None), 2)).contains("--label"));
        assert!(reason(read_own(&[path("grey.png")], &[0, 1, 1], (SHAPE, None), 2)).contains("1 images and 3 labels"));
        assert!(matches!(
            read_own(&[path("grey.png")], &[2], (SHAPE, None), 2),
            Err(DataError::Label { label: 2, .. })
        ));
        fs::write(path("text.png"), "mine").unwrap();
        assert!(reason(read_own(&[path("text.png")], &[0], (SHAPE, None), 2)).contains("cannot be read as a PNG"));
        assert!(reason(read_own(&[path("grey.gif")], &[0], (SHAPE, None), 2)).contains("PNG files"));
        assert!(matches!(read_own(&[path("none.png")], &[0], (SHAPE, None), 2), Err(DataError::Io { .. })));
    }

    #[test]
    fn arrays_are_pixels_or_inputs_with_labels_of_any_type() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.safetensors");
        let read = |labels: &[u8]| read_own(std::slice::from_ref(&path), labels, (SHAPE, None), 3);
        let labels: Vec<u8> = [2_i64, 0].iter().flat_map(|label| label.to_le_bytes()).collect();
        let pixels: Vec<u8> = (0..8).collect();
        arrays_file(&path, &[("inputs", Dtype::U8, &[2, 1, 2, 2], &pixels), ("labels", Dtype::I64, &[2], &labels)]);
        let data = read(&[]).unwrap();
        assert_eq!((data.images(), data.labels()), (&pixels[..], &[2, 0][..]));
        assert_eq!(read(&[1]).unwrap().labels(), [1, 1]);

        let inputs: Vec<u8> = [0.5_f32, -1.0, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        arrays_file(&path, &[("inputs", Dtype::F32, &[1, 4], &inputs)]);
        assert_eq!((read(&[1]).unwrap().len(), read(&[1]).unwrap().images().len()), (1, 0));
        assert!(reason(read(&[])).contains("--label"));
        arrays_file(&path, &[("inputs", Dtype::F32, &[1, 2, 2], &inputs)]);
        assert!(reason(read(&[1])).contains("[N, 1, 2, 2]"));
        arrays_file(&path, &[("images", Dtype::U8, &[1, 4], &[0; 4])]);
        assert!(reason(read(&[1])).contains("only images"));
        let far: Vec<u8> = [-1_i64].iter().flat_map(|label| label.to_le_bytes()).collect();
        arrays_file(&path, &[("inputs", Dtype::U8, &[1, 4], &[0; 4]), ("labels", Dtype::I64, &[1], &far)]);
        assert!(reason(read(&[])).contains("not 0 to 255"));
        arrays_file(&path, &[("inputs", Dtype::U8, &[1, 4], &[0; 4]), ("labels", Dtype::F32, &[1], &[0; 4])]);
        assert!(reason(read(&[])).contains("whole numbers"));
        arrays_file(&path, &[("inputs", Dtype::F64, &[0, 4], &[])]);
        assert!(reason(read(&[1])).contains("F64"));
        fs::write(&path, "mine").unwrap();
        assert!(reason(read(&[1])).contains("safetensors"));
    }
}
