//! Weights find their places, or everything that keeps them from it is said at once.

use candle_core::{Device, Tensor};
use fbp_models::weights::{ElementType, Head, Import, ImportOptions, StateDict, import};
use fbp_models::{Mismatch, ModelError, Network, NetworkSpec, WeightsFault};

use super::torch_file::{Node, TorchFile};
use super::{Folder, TINY, fault, kept, tiny, tiny_file};

fn import_file(file: &TorchFile, options: &ImportOptions) -> Result<Import, ModelError> {
    let folder = Folder::new();
    import(&tiny(), &StateDict::open(&folder.write("w.pth", &file.zip()))?, options)
}

fn mismatch(result: Result<Import, ModelError>) -> Mismatch {
    match fault(result.unwrap_err()) {
        WeightsFault::Mismatch(mismatch) => *mismatch,
        other => panic!("{other}"),
    }
}

/// Logits of the kept images, and what PyTorch gives for them.
fn logits(network: &Network) -> [Vec<f32>; 2] {
    let reference = StateDict::open(&kept("logits.safetensors")).unwrap();
    let images = Tensor::from_vec(reference.read("images").unwrap(), (2, 2, 6, 6), &Device::Cpu).unwrap();
    let own = network.forward(&images).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    [own, reference.read("logits").unwrap()]
}

#[test]
fn logits_are_those_of_pytorch_whatever_the_file() {
    for file in [
        "zip.pth",
        "legacy.pth",
        "protocol4.pth",
        "legacy_protocol5.pth",
        "module.pth",
        "channels_last.pth",
        "half.pth",
    ]
    .iter()
    .chain(&["bfloat16.pth", "double.pth", "wrapped.pth", "model.safetensors"])
    {
        let weights = StateDict::open(&kept(file)).unwrap();
        let found = import(&tiny(), &weights, &ImportOptions::default()).unwrap();
        let [own, reference] = logits(&found.network);
        let largest = reference.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        // Sums of 64 products, twice.
        let tolerance = 128.0 * f32::EPSILON * largest;
        for (a, b) in own.iter().zip(&reference) {
            assert!((a - b).abs() <= tolerance, "{file}: {a} and {b}");
        }
        assert_eq!((found.report.imported.len(), found.report.counters), (8, 1), "{file}");
        assert!(found.report.imported.iter().all(|row| !row.rounded), "{file}");
    }
}

#[test]
fn the_usual_wrappers_are_found_and_said() {
    let weights = StateDict::open(&kept("wrapped.pth")).unwrap();
    let report = import(&tiny(), &weights, &ImportOptions::default()).unwrap().report;
    assert_eq!((report.prefix.as_str(), report.prefix_found), ("state_dict.module.", true));
    assert_eq!(report.elsewhere, 1);
    assert_eq!(report.imported[0].tensor, "state_dict.module.stem.0.weight");
    let given = ImportOptions { prefix: Some("state_dict.module".into()), ..ImportOptions::default() };
    assert!(!import(&tiny(), &weights, &given).unwrap().report.prefix_found);

    // Teacher and student: the teacher is taken, and the other is said.
    let inner = Node::Dict(tiny_file().entries().clone());
    let both = vec![("student".to_owned(), inner.clone()), ("teacher".to_owned(), inner)];
    let file = TorchFile { root: Node::Dict(both), storages: tiny_file().storages };
    let report = import_file(&file, &ImportOptions::default()).unwrap().report;
    assert_eq!((report.prefix.as_str(), report.prefixes_as_good), ("teacher.", vec!["student.".to_owned()]));
}

#[test]
fn an_unusual_prefix_is_suggested() {
    let inner = Node::Dict(tiny_file().entries().clone());
    let file = TorchFile { root: Node::Dict(vec![("my.own".to_owned(), inner)]), storages: tiny_file().storages };
    let found = mismatch(import_file(&file, &ImportOptions::default()));
    assert_eq!((found.missing.len(), found.better_prefix.clone()), (8, Some(("my.own.".to_owned(), 8))));
    assert!(found.to_string().contains("with the prefix \"my.own.\", 8 tensors would be found"), "{found}");
    let given = ImportOptions { prefix: Some("my.own".into()), ..ImportOptions::default() };
    assert_eq!(import_file(&file, &given).unwrap().report.prefix, "my.own.");
}

#[test]
fn everything_that_does_not_fit_is_one_error_with_the_nearest_names() {
    let mut file = tiny_file();
    file.entries()[0].0 = "stem.0.weights".into();
    file.view("out.1.weight").shape = vec![3, 4, 16];
    file.view("out.1.weight").stride = vec![64, 16, 1];
    file.add("extra.weight", "FloatStorage", &[1], vec![0; 4]);
    let at = file.entries().iter().position(|(name, _)| name == "stem.1.bias").unwrap();
    file.entries().remove(at);
    file.add("stem.1.bias", "LongStorage", &[4], vec![0; 32]);
    let found = mismatch(import_file(&file, &ImportOptions::default()));
    assert_eq!(found.missing, [("stem.0.weight".to_owned(), Some("stem.0.weights".to_owned()))]);
    assert_eq!(found.misshapen, [("out.1.weight".to_owned(), vec![3, 64], vec![3, 4, 16])]);
    assert_eq!(found.mistyped, [("stem.1.bias".to_owned(), "I64".to_owned())]);
    assert_eq!(found.left_over, ["extra.weight", "stem.0.weights"]);
    assert_eq!(found.fitting, 5);
    let text = found.to_string();
    for part in ["tiny", "5 tensors fit", "nearest: stem.0.weights", "[3, 4, 16] and should be [3, 64]", "2 left over"]
    {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn counters_may_lack() {
    let report = import_file(&tiny_file(), &ImportOptions::default()).unwrap().report;
    assert_eq!((report.counters, report.imported.len()), (0, 8));
    let mut file = tiny_file();
    file.add("stem.1.num_batches_tracked", "LongStorage", &[], 5_i64.to_le_bytes().to_vec());
    assert_eq!(import_file(&file, &ImportOptions::default()).unwrap().report.counters, 1);
    file.add("stem.0.num_batches_tracked", "LongStorage", &[], vec![0; 8]);
    assert_eq!(mismatch(import_file(&file, &ImportOptions::default())).left_over, ["stem.0.num_batches_tracked"]);
}

#[test]
fn a_new_head_starts_afresh_for_another_number_of_classes() {
    let spec =
        NetworkSpec::from_toml(&TINY.replace("classes = 3", "classes = 5").replace("features = 3", "features = 5"));
    let spec = spec.unwrap();
    let weights = StateDict::open(&kept("zip.pth")).unwrap();
    assert_eq!(mismatch(import(&spec, &weights, &ImportOptions::default())).misshapen.len(), 2);
    let options = ImportOptions { head: Head::New { seed: 4 }, ..ImportOptions::default() };
    let found = import(&spec, &weights, &options).unwrap();
    assert_eq!(found.report.fresh, ["out.1.weight", "out.1.bias"]);
    assert_eq!(found.report.replaced, ["out.1.bias", "out.1.weight"]);
    let values = |network: &Network, name: &str| {
        let vars = network.named_vars_of(0..2).unwrap();
        let (_, var) = vars.into_iter().find(|(other, _)| other == name).unwrap();
        var.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let fresh = Network::new(&spec, 4).unwrap();
    assert_eq!(values(&found.network, "out.1.weight"), values(&fresh, "out.1.weight"));
    assert_eq!(values(&found.network, "stem.0.weight"), weights.read("stem.0.weight").unwrap());
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    let mut file = tiny_file();
    file.storages[0][4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let error = fault(import_file(&file, &ImportOptions::default()).unwrap_err());
    assert!(matches!(&error, WeightsFault::NonFinite { tensor, index: 1 } if tensor == "stem.0.weight"), "{error}");
}

#[test]
fn numbers_of_64_bits_are_rounded_and_the_report_says_so() {
    let mut file = tiny_file();
    let at = file.entries().iter().position(|(name, _)| name == "out.1.bias").unwrap();
    file.entries().remove(at);
    let bytes = [0.1_f64, 0.5, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    file.add("out.1.bias", "DoubleStorage", &[3], bytes);
    let report = import_file(&file, &ImportOptions::default()).unwrap().report;
    let row = report.imported.iter().find(|row| row.parameter == "out.1.bias").unwrap();
    assert_eq!((row.element, row.rounded), (ElementType::F64, true));
}
