use safetensors::tensor::{SafeTensors, TensorView, serialize};

use super::*;
use crate::{LayerSpec, zoo};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn network(name: &str, seed: u64) -> Network {
    Network::new(&zoo::spec(name).unwrap(), seed).unwrap()
}

/// Writes the bytes and returns the fault that loading them gives.
fn fault_of(bytes: &[u8]) -> CheckpointFault {
    let folder = folder();
    let path = folder.path().join("c.safetensors");
    std::fs::write(&path, bytes).unwrap();
    match Checkpoint::load(&path).unwrap_err() {
        ModelError::Checkpoint { path: named, fault } => {
            assert_eq!(named, path);
            fault
        }
        other => panic!("{other}"),
    }
}

/// A checkpoint with its tensors changed by `change`, written by the safetensors library.
fn changed(change: impl Fn(&mut BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>)) -> Vec<u8> {
    let bytes = to_bytes(&network("simple-cnn-mnist-v2", 3), &BTreeMap::new()).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned = |t: TensorView<'_>| (t.dtype(), t.shape().to_vec(), t.data().to_vec());
    let mut tensors = file.iter().map(|(name, t)| (name.to_owned(), owned(t))).collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize(views, header.metadata().clone()).unwrap()
}

#[test]
fn a_saved_network_comes_back_bit_for_bit() {
    let folder = folder();
    let path = folder.path().join("c.safetensors");
    let metadata = BTreeMap::from([("seed".to_owned(), "7".to_owned()), ("accuracy".to_owned(), "0.9".to_owned())]);
    for name in ["simple-cnn-mnist-v2", "simple-cnn-cifar-v1-tanh"] {
        let network = network(name, 7);
        save(&path, &network, &metadata).unwrap();
        let first = std::fs::read(&path).unwrap();
        save(&path, &network, &metadata).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap(), "equal networks give equal files");
        let back = Checkpoint::load_for(&path, network.spec()).unwrap();
        assert_eq!(back.network.spec(), network.spec());
        assert_eq!(back.metadata, metadata);
        for ((name, a), (other, b)) in network.state().zip(back.network.state()) {
            assert_eq!(name, other);
            let bits = |v: &Tensor| v.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(bits(&a), bits(&b), "{name}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn other_software_can_read_it() {
    let bytes = to_bytes(&network("mlp", 1), &BTreeMap::new()).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("fc1.1.weight").unwrap().shape(), [128, 784]);
    assert_eq!(file.len(), 6);
}

#[test]
fn files_that_are_no_checkpoints_are_refused() {
    assert!(matches!(fault_of(b""), CheckpointFault::Format(_)));
    assert!(matches!(fault_of(b"hello, world, this is text"), CheckpointFault::Format(_)));
    assert!(matches!(fault_of(&u64::MAX.to_le_bytes()), CheckpointFault::Format(_)));
    let whole = to_bytes(&network("simple-cnn-mnist-v1", 1), &BTreeMap::new()).unwrap();
    for cut in [7, 8, 20, whole.len() / 2, whole.len() - 1] {
        assert!(matches!(fault_of(&whole[..cut]), CheckpointFault::Format(_)), "cut at {cut}");
    }
    let longer: Vec<u8> = whole.iter().copied().chain([0]).collect();
    assert!(matches!(fault_of(&longer), CheckpointFault::Format(_)));
    // A tensor that claims more than the file holds.
    let header = br#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,16]}}"#;
    let mut hostile = (header.len() as u64).to_le_bytes().to_vec();
    hostile.extend_from_slice(header);
    hostile.extend_from_slice(&[0; 16]);
    assert!(matches!(fault_of(&hostile), CheckpointFault::Format(_)));
}

/// A file without tensors and with the given architecture.
fn with_architecture(json: Option<&str>) -> Vec<u8> {
    let metadata = json.map(|json| HashMap::from([(NETWORK_KEY.to_owned(), json.to_owned())]));
    serialize(Vec::<(String, TensorView<'_>)>::new(), metadata).unwrap()
}

#[test]
fn architectures_are_checked() {
    assert!(matches!(fault_of(&with_architecture(None)), CheckpointFault::NoArchitecture));
    assert!(matches!(fault_of(&with_architecture(Some("{}"))), CheckpointFault::BadArchitecture(_)));
    let of_size = |size: usize| {
        let layers = format!(r#"[{{"type":"flatten"}},{{"type":"linear","out_features":{size}}}]"#);
        let stages = format!(r#"[{{"name":"a","layers":{layers}}}]"#);
        let json = format!(r#"{{"name":"x","input":[1,1,1],"classes":{size},"stages":{stages}}}"#);
        fault_of(&with_architecture(Some(&json)))
    };
    // Large ones are not allocated before their tensors are found, and larger ones are refused.
    assert!(matches!(of_size(1 << 27), CheckpointFault::MissingTensor(_)));
    assert!(matches!(of_size(1 << 28), CheckpointFault::BadArchitecture(_)));
    let folder = folder();
    let path = folder.path().join("c.safetensors");
    save(&path, &network("simple-cnn-mnist-v2", 1), &BTreeMap::new()).unwrap();
    let error = Checkpoint::load_for(&path, &zoo::spec("simple-cnn-mnist-v1").unwrap()).unwrap_err().to_string();
    assert!(error.contains("simple-cnn-mnist-v1") && error.contains("stage conv1, layer 0"), "{error}");
    let mut renamed = zoo::spec("simple-cnn-mnist-v2").unwrap();
    renamed.name = "mine".into();
    assert!(Checkpoint::load_for(&path, &renamed).is_ok());
    renamed.stages[0].layers[1] = LayerSpec::Tanh {}.into();
    assert!(Checkpoint::load_for(&path, &renamed).is_err());
}

#[test]
fn tensors_are_checked() {
    let fault = fault_of(&changed(|t| drop(t.remove("conv2.0.bias"))));
    assert!(matches!(fault, CheckpointFault::MissingTensor(name) if name == "conv2.0.bias"));
    let fault = fault_of(&changed(|t| drop(t.insert("extra".into(), (Dtype::F32, vec![1], vec![0; 4])))));
    assert!(matches!(fault, CheckpointFault::UnexpectedTensor(name) if name == "extra"));
    let text = fault_of(&changed(|t| t.get_mut("out.1.weight").unwrap().1 = vec![48, 10])).to_string();
    assert!(text.contains("out.1.weight") && text.contains("[48, 10]") && text.contains("[10, 48]"), "{text}");
    let fault = fault_of(&changed(|t| drop(t.insert("conv2.0.bias".into(), (Dtype::F64, vec![3], vec![0; 24])))));
    assert!(matches!(fault, CheckpointFault::Dtype { found, .. } if found == "F64"));
    for value in [f32::NAN, f32::NEG_INFINITY] {
        let fault =
            fault_of(&changed(|t| t.get_mut("out.1.bias").unwrap().2[8..12].copy_from_slice(&value.to_le_bytes())));
        assert!(matches!(fault, CheckpointFault::NonFinite { tensor, index: 2 } if tensor == "out.1.bias"));
    }
}

#[test]
fn corrupt_headers_never_panic() {
    let whole = to_bytes(&network("simple-cnn-mnist-v1", 1), &BTreeMap::new()).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let folder = folder();
    let path = folder.path().join("c.safetensors");
    for position in 0..header + 8 {
        let mut bytes = whole.clone();
        bytes[position] ^= 1 << (position % 7);
        std::fs::write(&path, &bytes).unwrap();
        // A change inside a free text, such as the name of the network, may go unnoticed.
        drop(Checkpoint::load(&path));
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = folder();
    let path = folder.path().join("missing").join("c.safetensors");
    let error = save(&path, &network("simple-cnn-mnist-v1", 1), &BTreeMap::new()).unwrap_err();
    assert!(matches!(&error, ModelError::Io { .. }) && error.to_string().contains("missing"), "{error}");
    assert!(matches!(Checkpoint::load(&path).unwrap_err(), ModelError::Io { action: "open", .. }));
}

#[test]
fn the_preprocessing_comes_back_and_has_to_fit_the_network() {
    let folder = folder();
    let path = folder.path().join("c.safetensors");
    let network = network("simple-cnn-mnist-v1", 1);
    let own = Preprocessing::new([1, 28, 28], vec![0.25], vec![0.5]).unwrap();
    let mut metadata = own.to_metadata().unwrap();
    metadata.insert("seed".into(), "7".into());
    save(&path, &network, &metadata).unwrap();
    let back = Checkpoint::load(&path).unwrap();
    assert_eq!((back.preprocessing, back.metadata.len()), (Some(own), 1));
    save(&path, &network, &BTreeMap::new()).unwrap();
    assert_eq!(Checkpoint::load(&path).unwrap().preprocessing, None);
    let other = Preprocessing::imagenet(32, 32).unwrap().to_metadata().unwrap();
    let text = fault_of(&to_bytes(&network, &other).unwrap()).to_string();
    assert!(text.contains("[3, 32, 32]") && text.contains("[1, 28, 28]"), "{text}");
    let hostile = BTreeMap::from([(PREPROCESSING_KEY.to_owned(), "{}".to_owned())]);
    let fault = fault_of(&to_bytes(&network, &hostile).unwrap());
    assert!(matches!(fault, CheckpointFault::BadPreprocessing(_)));
}
