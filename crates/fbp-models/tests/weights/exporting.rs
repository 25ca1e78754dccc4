//! What came in goes out as it was.

use std::collections::BTreeMap;

use fbp_models::weights::{ElementType, ExportOptions, ImportOptions, StateDict, export, import};
use fbp_models::{Checkpoint, Network, WeightsFault, checkpoint};
use safetensors::SafeTensors;

use super::{Folder, fault, kept, tiny};

const PLAIN: ExportOptions = ExportOptions { original_prefix: false };

/// Tensors of a file: type, shape and bytes.
fn contents(path: &std::path::Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let owned = tensors.iter().map(|(name, tensor)| {
        (name.to_owned(), (format!("{:?}", tensor.dtype()), tensor.shape().to_vec(), tensor.data().to_vec()))
    });
    owned.collect()
}

/// Imports a file, keeps the network as a checkpoint, and exports that.
fn there_and_back(folder: &Folder, file: &str, options: ExportOptions) -> std::path::PathBuf {
    let weights = StateDict::open(&kept(file)).unwrap();
    let found = import(&tiny(), &weights, &ImportOptions::default()).unwrap();
    let (path, out) = (folder.path("c.safetensors"), folder.path("out.safetensors"));
    checkpoint::save(&path, &found.network, &found.metadata().unwrap()).unwrap();
    let loaded = Checkpoint::load(&path).unwrap();
    let report = export(&out, &loaded.network, &loaded.metadata, options).unwrap();
    assert_eq!((report.imported_from.as_deref(), report.exported.len()), (Some(file), 9));
    out
}

#[test]
fn every_tensor_leaves_bit_for_bit_as_it_came() {
    let folder = Folder::new();
    let expected = contents(&kept("model.safetensors"));
    for file in ["zip.pth", "legacy.pth", "channels_last.pth", "module.pth", "wrapped.pth", "model.safetensors"] {
        assert_eq!(contents(&there_and_back(&folder, file, PLAIN)), expected, "{file}");
    }
}

#[test]
fn types_of_fewer_or_more_bits_come_back() {
    let folder = Folder::new();
    for (file, element) in [("half.pth", "F16"), ("bfloat16.pth", "BF16"), ("double.pth", "F64")] {
        let found = contents(&there_and_back(&folder, file, PLAIN));
        let weights = StateDict::open(&kept(file)).unwrap();
        let back = StateDict::open(&folder.path("out.safetensors")).unwrap();
        for (name, (found, shape, _)) in &found {
            let is_counter = name.ends_with("num_batches_tracked");
            assert_eq!(found, if is_counter { "I64" } else { element }, "{file}: {name}");
            assert_eq!(*shape, weights.tensors()[name].shape);
            if !is_counter {
                assert_eq!(back.read(name).unwrap(), weights.read(name).unwrap());
            }
        }
    }
}

#[test]
fn a_tensor_that_has_changed_is_not_rounded() {
    let folder = Folder::new();
    let found = import(&tiny(), &StateDict::open(&kept("half.pth")).unwrap(), &ImportOptions::default()).unwrap();
    let (name, var) = found.network.named_vars_of(1..2).unwrap().remove(0);
    let changed = (var.as_tensor() + 0.1).unwrap();
    var.set(&changed).unwrap();
    let out = folder.path("out.safetensors");
    let report = export(&out, &found.network, &found.metadata().unwrap(), PLAIN).unwrap();
    assert_eq!(report.widened.len(), 1);
    assert_eq!(report.widened[0], name);
    let back = StateDict::open(&out).unwrap();
    assert_eq!(back.tensors()[&name].element, ElementType::F32);
    assert_eq!(back.tensors()["stem.0.weight"].element, ElementType::F16);
    assert_eq!(back.read(&name).unwrap(), changed.flatten_all().unwrap().to_vec1::<f32>().unwrap());
}

#[test]
fn the_original_prefix_comes_back_on_request() {
    let folder = Folder::new();
    let out = there_and_back(&folder, "wrapped.pth", ExportOptions { original_prefix: true });
    assert!(contents(&out).keys().all(|name| name.starts_with("state_dict.module.")));
    let back = import(&tiny(), &StateDict::open(&out).unwrap(), &ImportOptions::default()).unwrap();
    assert_eq!(back.report.prefix, "state_dict.module.");
}

#[test]
fn a_network_of_ones_own_gets_counters_of_zero() {
    let folder = Folder::new();
    let out = folder.path("out.safetensors");
    let report = export(&out, &Network::new(&tiny(), 1).unwrap(), &BTreeMap::new(), PLAIN).unwrap();
    assert_eq!(report.imported_from, None);
    let back = StateDict::open(&out).unwrap();
    assert_eq!(back.read_integers("stem.1.num_batches_tracked").unwrap(), [0]);
    assert_eq!(back.tensors()["stem.1.num_batches_tracked"].shape, [0; 0]);
    assert!(import(&tiny(), &back, &ImportOptions::default()).is_ok());
}

#[test]
fn metadata_that_cannot_be_read_are_told() {
    let folder = Folder::new();
    let metadata = BTreeMap::from([("fbp.import".to_owned(), "nonsense".to_owned())]);
    let network = Network::new(&tiny(), 1).unwrap();
    let error = fault(export(&folder.path("out"), &network, &metadata, PLAIN).unwrap_err());
    assert!(matches!(error, WeightsFault::Provenance { .. }), "{error}");
    assert!(!folder.path("out").exists());
}
