use super::*;
use crate::zoo;

const HEAD: &str = "name = \"t\"\ninput = [2, 12, 10]\nclasses = 5\n";

/// A network of one stage `a` with the given layers.
fn one_stage(layers: &str) -> Result<NetworkSpec, ModelError> {
    NetworkSpec::from_toml(&format!("{HEAD}[[stages]]\nname = \"a\"\nlayers = [{layers}]\n"))
}

/// Every kind of layer, with settings that are not the defaults.
const ALL: &str = r#"
    { type = "conv2d", out_channels = 4, kernel = [3, 2], stride = [1, 2], padding = 1, dilation = [2, 1], groups = 2, bias = false },
    { type = "batch_norm", eps = 1e-3 }, { type = "relu" }, { type = "relu6" }, { type = "leaky_relu", slope = 0.1 },
    { type = "hard_tanh", min = -2, max = 0.5 }, { type = "tanh" }, { type = "sigmoid" }, { type = "hard_sigmoid" },
    { type = "elu", alpha = 0.5 }, { type = "softplus" }, { type = "gelu" }, { type = "gelu_tanh" }, { type = "silu" },
    { type = "hard_swish" }, { type = "mish" }, { type = "instance_norm", eps = 1e-3 },
    { type = "max_pool2d", kernel = [2, 3], stride = 1, padding = [1, 0] },
    { type = "avg_pool2d", kernel = 2, stride = [2, 1], padding = [0, 1] },
    { type = "conv_transpose2d", out_channels = 6, kernel = [2, 3], stride = [2, 1], padding = [1, 0], output_padding = [1, 0], dilation = [1, 2], groups = 2, bias = false },
    { type = "max_pool2d", kernel = 3, stride = 2, ceil = true },
    { type = "avg_pool2d", kernel = 2, ceil = true, count_include_pad = false }, { type = "avg_pool2d", kernel = 1, divisor = 2.5 },
    { type = "adaptive_avg_pool2d", size = [1, 7] },
    { type = "conv1d", out_channels = 4, kernel = 3, stride = 2, padding = 1, dilation = 2, groups = 2 },
    { type = "conv_transpose1d", out_channels = 4, kernel = 3, stride = 2, padding = 1, output_padding = 1, dilation = 2, groups = 4 },
    { type = "global_avg_pool2d" }, { type = "flatten" },
    { type = "linear", out_features = 5, bias = false }, { type = "softmax" },
    { type = "layer_norm", eps = 1e-3, last = 1 }, { type = "rms_norm", eps = 1e-3 },
    { type = "group_norm", groups = 1, eps = 1e-3 }
"#;

#[test]
fn every_layer_round_trips_through_toml_and_json() {
    let spec = one_stage(ALL).unwrap();
    let kinds: Vec<_> = spec.stages[0].layers.iter().map(LayerSpec::kind).collect();
    for kind in &kinds {
        assert!(ALL.contains(&format!("\"{kind}\"")), "{kind}");
    }
    assert_eq!(NetworkSpec::from_toml(&spec.to_toml().unwrap()).unwrap(), spec);
    assert_eq!(NetworkSpec::from_json(&spec.to_json().unwrap()).unwrap(), spec);
    for name in zoo::names() {
        let spec = zoo::spec(name).unwrap();
        let json = NetworkSpec::from_toml(&spec.to_toml().unwrap()).unwrap().to_json().unwrap();
        assert_eq!(NetworkSpec::from_json(&json).unwrap(), spec);
        assert_eq!(serde_json::from_str::<NetworkSpec>(&json).unwrap(), spec);
    }
}

#[test]
fn sizes_are_worked_out() {
    let spec = one_stage(ALL).unwrap();
    let stages = spec.plan().unwrap().stages;
    let outputs: Vec<String> = stages[0].layers.iter().map(|layer| layer.output.to_string()).collect();
    // conv: 12 + 2 - 5 + 1 = 10 rows, (10 + 2 - 2) / 2 + 1 = 6 columns; max: 10 + 2 - 2 + 1, 6 - 3 + 1; avg: 5, 4 + 2 - 2 + 1.
    assert_eq!(outputs[0], "[4, 10, 6]");
    // transposed: (5 - 1)·2 - 2 + 1 + 1 + 1 rows, 4 + 2·2 + 1 columns; lines: (7 + 2 - 5)/2 + 1, (3 - 1)·2 - 2 + 2·2 + 1 + 1.
    let expected = [
        "[4, 11, 4]",
        "[4, 5, 5]",
        "[6, 9, 9]",
        "[6, 4, 4]",
        "[6, 2, 2]",
        "[6, 2, 2]",
        "[6, 1, 7]",
        "[4, 1, 3]",
        "[4, 1, 8]",
        "[4, 1, 1]",
        "[4]",
        "[5]",
        "[5]",
    ];
    assert_eq!(outputs[17..30], expected.map(String::from));
    let params: Vec<_> = spec.plan().unwrap().parameters().map(|(name, p)| (name, p.dims.clone())).collect();
    assert_eq!(params[0], ("a.0.weight".to_owned(), vec![4, 1, 3, 2]));
    assert_eq!(
        params[1..5].iter().map(|p| p.0.as_str()).collect::<Vec<_>>(),
        ["a.1.weight", "a.1.bias", "a.1.running_mean", "a.1.running_var"]
    );
    assert_eq!(params[5..7], ["a.16.weight", "a.16.bias"].map(|name| (name.to_owned(), vec![4])));
    let convolutions: [(&str, &[usize]); 5] = [
        ("a.19.weight", &[4, 3, 2, 3]),
        ("a.24.weight", &[4, 3, 3]),
        ("a.24.bias", &[4]),
        ("a.25.weight", &[4, 1, 3]),
        ("a.25.bias", &[4]),
    ];
    assert_eq!(params[7..12], convolutions.map(|(name, dims)| (name.to_owned(), dims.to_vec())));
    assert_eq!(params[12], ("a.28.weight".to_owned(), vec![5, 4]));
    let norms = ["a.30.weight", "a.30.bias", "a.31.weight", "a.32.weight", "a.32.bias"];
    assert_eq!(params[13..], norms.map(|name| (name.to_owned(), vec![5])));
    assert_eq!(spec.plan().unwrap().parameter_count(), 24 + 8 + 8 + 72 + 40 + 16 + 20 + 5 * 5);
}

#[test]
fn faults_name_the_stage_and_the_layer() {
    let flat = r#"{ type = "flatten" }"#;
    let cases = [
        (r#"{ type = "conv3d", kernel = 3 }"#, 0, "conv3d", "unknown variant"),
        (r#"{ kernel = 3 }"#, 0, "no type", "type"),
        (r#"{ type = "relu", slope = 1.0 }"#, 0, "relu", "slope"),
        (
            r#"{ type = "relu" }, { type = "conv2d", out_channels = 1, kernel = 3, strides = 2 }"#,
            1,
            "conv2d",
            "strides",
        ),
        (r#"{ type = "conv2d", kernel = 3 }"#, 0, "conv2d", "out_channels"),
        (r#"{ type = "conv2d", out_channels = 1, kernel = -3 }"#, 0, "conv2d", "a size or a pair"),
        (r#"{ type = "conv2d", out_channels = 1, kernel = [3, 3, 3] }"#, 0, "conv2d", "a size or a pair"),
        (r#"{ type = "conv2d", out_channels = 0, kernel = 3 }"#, 0, "conv2d", "0"),
        (r#"{ type = "conv2d", out_channels = 1, kernel = 13 }"#, 0, "conv2d", "13"),
        (r#"{ type = "conv2d", out_channels = 3, kernel = 3, groups = 2 }"#, 0, "conv2d", "groups"),
        (r#"{ type = "conv2d", out_channels = 1, kernel = 3, stride = 0 }"#, 0, "conv2d", "stride"),
        (r#"{ type = "conv2d", out_channels = 1099511627776, kernel = 3 }"#, 0, "conv2d", "too large"),
        (r#"{ type = "linear", out_features = 5 }"#, 0, "linear", "flatten"),
        (r#"{ type = "softmax" }"#, 0, "softmax", "flatten"),
        (r#"{ type = "flatten" }, { type = "linear", out_features = 0 }"#, 1, "linear", "at least 1"),
        (r#"{ type = "flatten" }, { type = "linear", out_features = 9007199254740993 }"#, 1, "linear", "too large"),
        (r#"{ type = "flatten" }, { type = "max_pool2d", kernel = 2 }"#, 1, "max_pool2d", "image"),
        (r#"{ type = "flatten" }, { type = "conv2d", out_channels = 1, kernel = 1 }"#, 1, "conv2d", "image"),
        (r#"{ type = "max_pool2d", kernel = 2, padding = 2 }"#, 0, "max_pool2d", "padding"),
        (r#"{ type = "max_pool2d", kernel = 0 }"#, 0, "max_pool2d", "padding"),
        (r#"{ type = "avg_pool2d", kernel = 2, stride = 0 }"#, 0, "avg_pool2d", "stride"),
        (r#"{ type = "avg_pool2d", kernel = 13 }"#, 0, "avg_pool2d", "does not fit"),
        (r#"{ type = "avg_pool2d", kernel = 2, divisor = 0.0 }"#, 0, "avg_pool2d", "divisor"),
        (r#"{ type = "adaptive_avg_pool2d", size = [2, 0] }"#, 0, "adaptive_avg_pool2d", "size"),
        (r#"{ type = "conv1d", out_channels = 2, kernel = 3 }"#, 0, "conv1d", "line"),
        (
            r#"{ type = "conv_transpose2d", out_channels = 2, kernel = 3, output_padding = 1 }"#,
            0,
            "conv_transpose2d",
            "stride",
        ),
        (r#"{ type = "conv_transpose2d", out_channels = 3, kernel = 3, groups = 2 }"#, 0, "conv_transpose2d", "groups"),
        (r#"{ type = "batch_norm", eps = 0.0 }"#, 0, "batch_norm", "eps"),
        (r#"{ type = "layer_norm", eps = -1.0 }"#, 0, "layer_norm", "eps"),
        (r#"{ type = "layer_norm", last = 4 }"#, 0, "layer_norm", "last"),
        (r#"{ type = "rms_norm", last = 0 }"#, 0, "rms_norm", "last"),
        (r#"{ type = "group_norm", groups = 3 }"#, 0, "group_norm", "groups"),
        (r#"{ type = "group_norm" }"#, 0, "group_norm", "groups"),
        (r#"{ type = "flatten" }, { type = "instance_norm" }"#, 1, "instance_norm", "single values"),
        (r#"{ type = "leaky_relu", slope = nan }"#, 0, "leaky_relu", "slope"),
        (r#"{ type = "hard_tanh", min = 1.0, max = 1.0 }"#, 0, "hard_tanh", "max"),
        (r#"{ type = "elu", alpha = inf }"#, 0, "elu", "alpha"),
    ];
    for (layers, position, expected_kind, text) in cases {
        match one_stage(layers).unwrap_err() {
            ModelError::Layer { stage, layer, kind, reason } => {
                assert_eq!((stage.as_str(), layer, kind.as_str()), ("a", position, expected_kind), "{layers}");
                assert!(reason.contains(text), "{layers}: {reason}");
            }
            other => panic!("{layers}: {other}"),
        }
    }
    assert!(one_stage(flat).unwrap_err().to_string().contains("240"));
}

#[test]
fn faults_of_stages_and_networks() {
    let out = "layers = [{ type = \"flatten\" }, { type = \"linear\", out_features = 5 }]\n";
    let stage = |name: &str| format!("[[stages]]\nname = \"{name}\"\n{out}");
    let parse = |text: String| NetworkSpec::from_toml(&text);
    assert!(parse(format!("{HEAD}{}", stage("out"))).is_ok());
    let twice = parse(format!("{HEAD}{}{}", stage("out"), stage("out"))).unwrap_err();
    assert!(matches!(twice, ModelError::Stage { stage, .. } if stage == "out"));
    for name in ["", "a.b", "a b", "é"] {
        assert!(matches!(parse(format!("{HEAD}{}", stage(name))).unwrap_err(), ModelError::Stage { .. }), "{name}");
    }
    let empty = parse(format!("{HEAD}[[stages]]\nname = \"a\"\nlayers = []\n")).unwrap_err();
    assert!(matches!(empty, ModelError::Stage { .. }));
    let network = |text: String| assert!(matches!(parse(text).unwrap_err(), ModelError::Network { .. }));
    network(format!("{HEAD}stages = []\n"));
    network(format!("{}{}", HEAD.replace("classes = 5", "classes = 6"), stage("out")));
    network(format!("{}{}", HEAD.replace("12", "0"), stage("out")));
    network(format!("{}{}", HEAD.replace("12", "4294967296"), stage("out")));
    network(format!(
        "{HEAD}[[stages]]\nname = \"a\"\nlayers = [{{ type = \"conv2d\", out_channels = 5, kernel = [12, 10] }}]\n"
    ));
    let syntax = |text: String| assert!(matches!(parse(text).unwrap_err(), ModelError::Syntax { format: "TOML", .. }));
    syntax("name = ".into());
    syntax(format!("{HEAD}colour = 1\n{}", stage("out")));
    syntax(format!("{HEAD}{}extra = 1\n", stage("out")));
    syntax(HEAD.replace("classes", "klasses"));
    syntax(HEAD.replace("12, ", ""));
    assert!(matches!(NetworkSpec::from_json("[1, 2").unwrap_err(), ModelError::Syntax { format: "JSON", .. }));
}

#[test]
fn differences_are_told_in_words() {
    let spec = |name| zoo::spec(name).unwrap();
    let v2 = spec("simple-cnn-mnist-v2");
    assert_eq!(v2.difference(&v2), None);
    assert!(v2.difference(&spec("simple-cnn-cifar-v1")).unwrap().contains("inputs"));
    assert!(v2.difference(&spec("simple-cnn-mnist-v1")).unwrap().contains("stage conv1, layer 0"));
    assert!(v2.difference(&spec("cnn-mnist-large")).unwrap().contains("conv1"));
    let mut shorter = v2.clone();
    shorter.stages[0].layers.pop();
    assert!(v2.difference(&shorter).unwrap().contains("3 layers, not 2"));
    let mut fewer = v2.clone();
    fewer.stages.pop();
    assert!(v2.difference(&fewer).unwrap().contains("3 stages, not 2"));
}
