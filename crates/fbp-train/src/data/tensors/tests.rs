use std::fs;
use std::path::PathBuf;

use safetensors::Dtype;

use super::*;
use crate::data::{LoadOptions, Wanted, load};

type Tensor<'a> = (&'a str, Dtype, &'a [usize], Vec<u8>);

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn whole_bytes(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn file(folder: &tempfile::TempDir, tensors: &[Tensor<'_>]) -> PathBuf {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
    let path = folder.path().join("d.safetensors");
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

fn read_file(path: &Path) -> Result<DataBundle, DataError> {
    load(&format!("tensors:{}", path.display()), &LoadOptions::default())
}

fn inputs(samples: usize) -> Tensor<'static> {
    let values: Vec<f32> = (0..2 * samples).map(|k| k as f32).collect();
    ("inputs", Dtype::F32, Box::leak(Box::new([samples, 2])), bytes(&values))
}

#[test]
fn labels_and_outputs_come_with_their_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let path =
        file(&folder, &[inputs(10), ("labels", Dtype::I64, &[10], whole_bytes(&[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]))]);
    let data = read_file(&path).unwrap();
    assert_eq!((data.train.classes(), data.train.len() + data.test.len()), (3, 10));
    assert!(!data.train.is_pixels() && !data.test.is_empty());
    let outputs: Vec<f32> = (0..40).map(|k| 0.5 * k as f32).collect();
    let path = file(&folder, &[inputs(10), ("outputs", Dtype::F32, &[10, 2, 2], bytes(&outputs))]);
    let data = read_file(&path).unwrap();
    let again = read_file(&path).unwrap();
    assert_eq!((&data.train, &data.test), (&again.train, &again.test), "the same file gives the same parts");
    let Wanted::Outputs(found) = data.train.wanted() else { panic!("no outputs") };
    assert_eq!((found.entries(), found.pose(), data.test.len()), (4, Some(2), 2));
    for (index, sample) in (0..data.train.len()).map(|index| (index, data.train.position(index))) {
        assert_eq!(found.of(index), &outputs[4 * sample..4 * (sample + 1)]);
    }
    let parts = [&data.train, &data.test].map(|part| (0..part.len()).map(|k| part.position(k)).collect::<Vec<_>>());
    let mut all = parts.concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..10));
}

#[test]
fn a_test_part_of_the_file_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let part = |name, count: usize| (name, Dtype::F32, bytes(&vec![count as f32; 2 * count]));
    let [(a, d, train), (b, _, test), (c, _, more), (e, _, last)] =
        [part("inputs", 6), part("test_inputs", 3), part("outputs", 6), part("test_outputs", 3)];
    let tensors = [(a, d, &[6, 2][..], train), (b, d, &[3, 2], test), (c, d, &[6, 2], more), (e, d, &[3, 2], last)];
    let data = read_file(&file(&folder, &tensors)).unwrap();
    assert_eq!((data.train.len(), data.test.len()), (6, 3));
    assert_eq!(data.test.outputs().unwrap().of(2), [3.0, 3.0]);
    let other = [tensors[0].clone(), tensors[2].clone(), tensors[1].clone(), (e, d, &[3, 1], bytes(&[0.0; 3]))];
    assert!(matches!(read_file(&file(&folder, &other)), Err(DataError::TensorShape { .. })));
}

#[test]
fn pixels_are_normalised_and_other_numbers_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let images = ("inputs", Dtype::U8, &[10, 1, 1, 2][..], (0..20).collect());
    let labels = ("labels", Dtype::U8, &[10][..], vec![0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
    let data = read_file(&file(&folder, &[images, labels])).unwrap();
    assert!(data.train.is_pixels() && data.normalization.mean()[0] > 0.0);
    let path = file(&folder, &[inputs(10), ("outputs", Dtype::F32, &[10, 1], bytes(&[0.5; 10]))]);
    assert_eq!(read_file(&path).unwrap().normalization, Normalization::none(2).unwrap());
}

#[test]
fn what_is_wrong_is_told_with_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let read = |tensors: &[Tensor<'_>]| read_file(&file(&folder, tensors)).unwrap_err();
    let outputs = |values: &[f32], shape: &'static [usize]| ("outputs", Dtype::F32, shape, bytes(values));
    let labels = |values: &[i64]| ("labels", Dtype::I64, &[5][..], whole_bytes(values));
    assert!(matches!(read(&[outputs(&[0.0; 5], &[5, 1])]), DataError::NoTensor { name, .. } if name == "inputs"));
    assert!(
        matches!(read(&[inputs(5)]), DataError::NoTensor { name, found, .. } if name.contains("outputs") && found == "inputs")
    );
    assert!(matches!(read(&[inputs(5), outputs(&[0.0; 5], &[5])]), DataError::TensorShape { .. }));
    assert!(matches!(
        read(&[inputs(5), outputs(&[0.0; 4], &[4, 1])]),
        DataError::TensorRows { expected: 5, found: 4, .. }
    ));
    let wrong_type = ("outputs", Dtype::F64, &[5, 1][..], vec![0; 40]);
    assert!(matches!(read(&[inputs(5), wrong_type]), DataError::TensorType { found, .. } if found == "F64"));
    assert!(matches!(
        read(&[inputs(5), ("labels", Dtype::F32, &[5], bytes(&[0.0; 5]))]),
        DataError::TensorType { expected: "whole numbers, as I64", .. }
    ));
    let nan = outputs(&[0.0, 1.0, f32::NAN, 3.0, 4.0], &[5, 1]);
    let error = read(&[inputs(5), nan]);
    assert!(matches!(error, DataError::NonFiniteOutput { sample: 2, .. }), "{error}");
    let infinite = ("inputs", Dtype::F32, &[5, 2][..], bytes(&[0., 0., 0., 0., 0., 0., 0., f32::INFINITY, 0., 0.]));
    assert!(matches!(read(&[infinite, labels(&[0; 5])]), DataError::NonFinite { sample: 3, .. }));
    assert!(matches!(
        read(&[inputs(5), labels(&[0, 1, -1, 0, 0])]),
        DataError::TensorLabel { sample: 2, label: -1, .. }
    ));
    assert!(matches!(
        read(&[inputs(5), labels(&[0, 1, 300, 0, 0])]),
        DataError::TensorLabel { label: 300, classes: 256, .. }
    ));
    let path = file(&folder, &[inputs(5), labels(&[0, 1, 2, 0, 0])]);
    let two = LoadOptions { classes: Some(2), ..LoadOptions::default() };
    let error = load(&format!("tensors:{}", path.display()), &two).unwrap_err();
    assert!(matches!(error, DataError::TensorLabel { sample: 2, classes: 2, .. }), "{error}");
    fs::write(&path, "mine").unwrap();
    assert!(matches!(read_file(&path), Err(DataError::NotTensors { .. })));
    assert!(matches!(read_file(Path::new("nowhere.safetensors")), Err(DataError::Io { .. })));
}
