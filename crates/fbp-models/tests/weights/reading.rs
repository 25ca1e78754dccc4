//! Every kind of file gives the same numbers.

use fbp_models::weights::{ElementType, Format, StateDict};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use zip::CompressionMethod;

use super::{Folder, kept, opened, tiny_file};

/// Values of a tensor of `torch_files.py`, whose name has this CRC-32 modulo 97.
fn expected(len: usize, start: i64) -> Vec<f32> {
    (0..len as i64).map(|k| ((k * 37 + start) % 97 - 48) as f32 / 64.0).collect()
}

#[test]
fn files_of_pytorch_give_the_same_numbers_whatever_their_form() {
    let reference = StateDict::open(&kept("model.safetensors")).unwrap();
    assert_eq!(reference.format(), Format::Safetensors);
    let weight = reference.read("out.1.weight").unwrap();
    assert!((0..97).any(|start| weight == expected(192, start)));
    for (file, format) in [
        ("zip.pth", Format::Zip),
        ("legacy.pth", Format::Legacy),
        ("protocol1.pth", Format::Zip),
        ("legacy_protocol1.pth", Format::Legacy),
        ("protocol4.pth", Format::Zip),
        ("legacy_protocol5.pth", Format::Legacy),
        ("module.pth", Format::Zip),
        ("channels_last.pth", Format::Zip),
        ("half.pth", Format::Zip),
        ("bfloat16.pth", Format::Zip),
        ("double.pth", Format::Zip),
    ] {
        let weights = StateDict::open(&kept(file)).unwrap();
        assert_eq!(weights.format(), format, "{file}");
        let names = |weights: &StateDict| weights.tensors().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&weights), names(&reference), "{file}");
        for (name, info) in weights.tensors() {
            assert_eq!(info.shape, reference.tensors()[name].shape, "{file}: {name}");
            if name.ends_with("num_batches_tracked") {
                assert_eq!(weights.read_integers(name).unwrap(), [7], "{file}");
                assert!(weights.read(name).is_err());
            } else {
                assert_eq!(weights.read(name).unwrap(), reference.read(name).unwrap(), "{file}: {name}");
            }
        }
    }
    let wrapped = StateDict::open(&kept("wrapped.pth")).unwrap();
    assert_eq!(wrapped.read("state_dict.module.out.1.weight").unwrap(), weight);
}

#[test]
fn types_and_shapes_are_known_before_reading() {
    let weights = StateDict::open(&kept("half.pth")).unwrap();
    let info = &weights.tensors()["stem.0.weight"];
    assert_eq!(
        (info.element, info.shape.as_slice(), info.byte_len()),
        (ElementType::F16, &[4, 2, 3, 3][..], Some(144))
    );
}

#[test]
fn made_files_of_all_kinds_give_their_numbers() {
    let file = tiny_file();
    let deflated = file.zip_with(CompressionMethod::Deflated);
    for (bytes, format) in
        [(file.zip(), Format::Zip), (deflated, Format::Zip), (file.legacy(), Format::Legacy), (file.tar(), Format::Tar)]
    {
        let folder = Folder::new();
        let weights = StateDict::open(&folder.write("w", &bytes)).unwrap();
        assert_eq!((weights.format(), weights.tensors().len()), (format, 8));
        assert_eq!(weights.read("stem.0.weight").unwrap()[..3], [1.0, 1.0 + 1.0 / 64.0, 1.0 + 2.0 / 64.0]);
    }
}

#[test]
fn strides_and_offsets_are_followed() {
    let mut file = tiny_file();
    let view = file.view("out.1.weight");
    (view.shape, view.stride, view.offset) = (vec![3, 3], vec![2, 64], 5);
    for bytes in [file.zip(), file.legacy(), file.tar()] {
        let folder = Folder::new();
        let weights = StateDict::open(&folder.write("w", &bytes)).unwrap();
        let values = weights.read("out.1.weight").unwrap();
        // The weight is the seventh tensor, and its numbers are 1 + (600 + position) / 64.
        let positions: Vec<f32> = values.iter().map(|value| (value - 1.0) * 64.0 - 600.0).collect();
        assert_eq!(positions, [5.0, 69.0, 133.0, 7.0, 71.0, 135.0, 9.0, 73.0, 137.0]);
    }
}

#[test]
fn shards_are_read_through_their_index_or_their_folder() {
    let folder = Folder::new();
    for (file, name, values) in [("a.safetensors", "x", [1.0_f32, 2.0]), ("b.safetensors", "y", [3.0, 4.0])] {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![2], &bytes).unwrap();
        folder.write(file, &safetensors::serialize([(name, view)], None).unwrap());
    }
    let index = r#"{"metadata": {"total_size": 16}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#;
    let path = folder.write("model.safetensors.index.json", index.as_bytes());
    for path in [path.as_path(), folder.0.path()] {
        let weights = StateDict::open(path).unwrap();
        assert_eq!(weights.format(), Format::ShardedSafetensors);
        assert_eq!(weights.read("x").unwrap(), [1.0, 2.0]);
        assert_eq!(weights.read("y").unwrap(), [3.0, 4.0]);
    }
}

#[test]
fn nothing_is_read_that_is_not_asked_for() {
    // The bytes of one storage are gone; everything else can still be had.
    let mut file = tiny_file();
    file.storages[0].truncate(3);
    let folder = Folder::new();
    let weights = StateDict::open(&folder.write("w", &file.zip())).unwrap();
    assert!(weights.read("stem.0.weight").is_err());
    assert!(weights.read("out.1.weight").is_ok());
    assert!(opened(&file.legacy()).is_err());
}
