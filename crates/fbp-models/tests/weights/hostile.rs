//! Files that lie: one clear error each, and no memory for what they claim.

use fbp_models::WeightsFault;
use fbp_models::weights::StateDict;
use zip::CompressionMethod;

use super::torch_file::{Node, TorchFile, zip_of};
use super::{Folder, fault, kept, opened, tiny_file};

fn damaged(result: Result<StateDict, WeightsFault>, part: &str) {
    match result.unwrap_err() {
        WeightsFault::Damaged(text) if text.contains(part) && text.len() < 500 => {}
        other => panic!("{other:?} does not say {part:?}"),
    }
}

fn limit(result: Result<StateDict, WeightsFault>, part: &str) {
    match result.unwrap_err() {
        WeightsFault::Limit(text) if text.contains(part) => {}
        other => panic!("{other:?} does not say {part:?}"),
    }
}

#[test]
fn what_is_no_file_of_weights_is_told() {
    for (bytes, part) in [
        (&b""[..], "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<html></html>", "web page"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09", "none of PyTorch's kinds"),
    ] {
        let error = opened(bytes).unwrap_err();
        assert!(matches!(&error, WeightsFault::Unknown(text) if text.contains(part)), "{error}");
    }
    let error = opened(&zip_of(&[("readme.txt".into(), b"hello".to_vec())], CompressionMethod::Stored)).unwrap_err();
    assert!(matches!(&error, WeightsFault::Unknown(text) if text.contains("data.pkl")), "{error}");
}

/// PyTorch writes such files and cannot load them: it names storages by tuples, and the protocol holds their text only.
#[test]
fn pickle_protocol_0_is_told_with_what_to_do() {
    for file in ["protocol0.pth", "legacy_protocol0.pth"] {
        let error = fault(StateDict::open(&kept(file)).unwrap_err());
        let is_told = |text: &str| text.contains("protocol 0") && text.contains("save them again");
        assert!(matches!(&error, WeightsFault::Unknown(text) if is_told(text)), "{file}: {error}");
    }
}

#[test]
fn files_cut_off_anywhere_are_errors() {
    let file = tiny_file();
    for whole in [file.zip(), file.legacy(), file.tar()] {
        let step = (whole.len() / 60).max(1);
        for length in (1..whole.len() - 1024.min(whole.len() / 2)).step_by(step) {
            let Ok(weights) = opened(&whole[..length]) else { continue };
            panic!("{length} of {} bytes open as {:?}", whole.len(), weights.format());
        }
    }
}

#[test]
fn single_bytes_that_are_wrong_make_no_panic() {
    let file = tiny_file();
    for whole in [file.zip(), file.legacy(), file.tar()] {
        for at in (0..whole.len()).step_by(whole.len() / 150) {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                let folder = Folder::new();
                if let Ok(weights) = StateDict::open(&folder.write("w", &bytes)) {
                    weights.tensors().keys().for_each(|name| drop(weights.read(name)));
                }
            }
        }
    }
}

#[test]
fn a_zip_bomb_is_refused() {
    let mut file = tiny_file();
    file.storages[0] = vec![0; 32 << 20];
    let bytes = file.zip_with(CompressionMethod::Deflated);
    assert!(bytes.len() < 100_000);
    limit(opened(&bytes), "would unpack to 33554432");
    // The same in the pickle.
    let entries = [("m/data.pkl".to_owned(), vec![b']'; 17 << 20])];
    limit(opened(&zip_of(&entries, CompressionMethod::Deflated)), "data.pkl");
    limit(opened(&zip_of(&entries, CompressionMethod::Stored)), "operations");
}

#[test]
fn tensors_larger_than_their_storage_are_refused() {
    // 10 TiB out of four bytes, by strides of zero.
    let mut file = tiny_file();
    let view = file.view("out.1.weight");
    (view.shape, view.stride) = (vec![10 << 20, 1 << 18], vec![0, 0]);
    for bytes in [file.zip(), file.legacy(), file.tar()] {
        damaged(opened(&bytes), "limit");
    }
    // A product of sizes beyond all numbers.
    file.view("out.1.weight").shape = vec![i64::MAX, i64::MAX];
    damaged(opened(&file.zip()), "overflow");
    let mut file = tiny_file();
    file.view("out.1.weight").offset = 1;
    damaged(opened(&file.zip()), "needs 193 elements");
}

#[test]
fn numbers_below_zero_are_refused() {
    for change in [
        |file: &mut TorchFile| file.view("out.1.weight").stride[0] = -1,
        |file: &mut TorchFile| file.view("out.1.weight").offset = -4,
        |file: &mut TorchFile| file.view("out.1.weight").shape[0] = -3,
        |file: &mut TorchFile| file.view("out.1.weight").elements = -192,
    ] {
        let mut file = tiny_file();
        change(&mut file);
        for bytes in [file.zip(), file.legacy()] {
            damaged(opened(&bytes), "non-negative");
        }
    }
}

#[test]
fn lengths_that_lie_are_found_when_the_tensor_is_read() {
    // The pickle says there are 192 elements, and the entry has 10.
    let mut file = tiny_file();
    let storage = file.view("out.1.weight").storage;
    file.storages[storage].truncate(40);
    let folder = Folder::new();
    let weights = StateDict::open(&folder.write("w", &file.zip())).unwrap();
    let error = fault(weights.read("out.1.weight").unwrap_err());
    assert!(matches!(&error, WeightsFault::Damaged(text) if text.contains("192 elements")), "{error}");
    damaged(opened(&file.legacy()), "beyond the end");
}

#[test]
fn deep_and_multiplying_pickles_are_refused() {
    let nested = |depth: usize| {
        let mut operations = vec![b']'; depth];
        operations.extend(vec![b'a'; depth - 1]);
        TorchFile { root: Node::Dict(vec![("a".into(), Node::Raw(operations))]), storages: Vec::new() }
    };
    damaged(opened(&nested(200_000).zip()), "nesting");
    damaged(opened(&nested(200_000).legacy()), "nesting");
    // Every step holds the one before ten times.
    let mut operations = b"]q\x00".to_vec();
    for step in 0..30_u8 {
        operations.extend([b'(']);
        (0..10).for_each(|_| operations.extend([b'h', step]));
        operations.extend([b't', b'q', step + 1]);
    }
    let bomb = TorchFile { root: Node::Dict(vec![("a".into(), Node::Raw(operations))]), storages: Vec::new() };
    damaged(opened(&bomb.zip()), "");
}

#[test]
fn names_that_occur_twice_are_refused() {
    let mut file = tiny_file();
    let again = file.entries()[0].clone();
    file.entries().push(again);
    for bytes in [file.zip(), file.legacy(), file.tar()] {
        let error = opened(&bytes).unwrap_err();
        assert!(matches!(error, WeightsFault::Ambiguous { tensors: 9, names: 8 }), "{error}");
    }
    // {"stem": {"0.weight": …}, "stem.0": {"weight": …}}
    let mut file = tiny_file();
    let (_, tensor) = file.entries().remove(0);
    let inner = |name: &str| Node::Dict(vec![(name.to_owned(), tensor.clone())]);
    let two = [("stem".to_owned(), inner("0.weight")), ("stem.0".to_owned(), inner("weight"))];
    file.entries().extend(two);
    assert!(matches!(opened(&file.zip()), Err(WeightsFault::Ambiguous { .. })));
}

#[test]
fn sparse_entries_of_a_tar_file_are_refused() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize = *b"77777777777\0";
    archive.append_data(&mut header, "storages", std::io::empty()).unwrap();
    let mut bytes = archive.into_inner().unwrap();
    bytes[257..262].copy_from_slice(b"ustar");
    assert!(matches!(opened(&bytes), Err(WeightsFault::Limit(_) | WeightsFault::Damaged(_))));
}

#[test]
fn safetensors_that_lie_are_refused() {
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let one = r#""x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    assert!(opened(&file(&format!("{{{one}}}"), 8)).is_ok());
    damaged(opened(&file(&format!("{{{one}}}"), 7)), "should have");
    damaged(opened(&file(&format!("{{{one}}}"), 9)), "should have");
    damaged(opened(&file(&format!("{{{}}}", one.replace("[2]", "[3]")), 8)), "");
    damaged(opened(&file(&format!("{{{}}}", one.replace("[0,8]", "[4,12]")), 12)), "");
    damaged(opened(&file(&format!("{{{}}}", one.replace("[0,8]", "[8,0]")), 8)), "");
    damaged(opened(&file(&format!("{{{}}}", one.replace("[2]", "[18446744073709551615,8]")), 8)), "");
    damaged(opened(&file(&format!("{{{}}}", one.replace("F32", "F99")), 8)), "F99");
    damaged(opened(&file("{\"x\":", 0)), "header");
    let twice = opened(&file(&format!("{{{one},{one}}}"), 8)).unwrap_err();
    assert!(matches!(&twice, WeightsFault::Duplicate(name) if name == "x"), "{twice}");
    let mut long = u64::from(u32::MAX).to_le_bytes().to_vec();
    long.extend(b"{}");
    damaged(opened(&long), "header");
}

#[test]
fn an_index_cannot_lead_out_of_its_folder() {
    let folder = Folder::new();
    for name in ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "c:x", "a\\b"] {
        let index = serde_json::json!({ "weight_map": { "x": name } }).to_string();
        let error = fault(StateDict::open(&folder.write("m.safetensors.index.json", index.as_bytes())).unwrap_err());
        assert!(matches!(&error, WeightsFault::ShardName(found) if found == name), "{name}: {error}");
    }
    let index = r#"{"weight_map": {"x": "a.safetensors", "x": "b.safetensors"}}"#;
    let error = fault(StateDict::open(&folder.write("m.safetensors.index.json", index.as_bytes())).unwrap_err());
    assert!(matches!(&error, WeightsFault::Damaged(text) if text.contains("x occurs twice")), "{error}");
    let empty = Folder::new();
    let error = fault(StateDict::open(empty.0.path()).unwrap_err());
    assert!(matches!(error, WeightsFault::Unknown(_)), "{error}");
}
