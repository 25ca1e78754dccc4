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

/// Every way to nest layers, and every layer of tokens, with settings that are not the defaults.
const TREE: &str = r#"
    { type = "conv2d", name = "stem", out_channels = 8, kernel = 3, stride = 2, padding = "same" },
    { type = "conv2d", out_channels = 8, kernel = 2, padding = [1, 0, 0, 1] }, { type = "zero_pad2d", padding = 1 },
    { type = "residual", name = "", layers = [
        { type = "conv2d", name = "conv1", out_channels = 4, kernel = 3, padding = 1 }, { type = "drop_path", p = 0.1 },
    ], skip = { name = "downsample", layers = [{ type = "conv2d", out_channels = 4, kernel = 1 }] } },
    { type = "residual", layers = [{ type = "relu" }] },
    { type = "parallel", merge = "concat", branches = [{ layers = [{ type = "relu" }] }, { name = "b", layers = [{ type = "batch_norm" }] }] },
    { type = "parallel", merge = "product", branches = [{}, { layers = [{ type = "global_avg_pool2d" }] }] },
    { type = "parallel", merge = "sum", branches = [{}, { layers = [{ type = "block", layers = [{ type = "relu" }] }] }] },
    { type = "basic_block", channels = 8, stride = 2 }, { type = "bottleneck", channels = 2 },
    { type = "inverted_residual", channels = 8, expand = 2 }, { type = "fire", squeeze = 2, expand = 3 },
    { type = "squeeze_excite", channels = 2, hard = true }, { type = "tokens" },
    { type = "class_token", name = "cls_token" }, { type = "position_embedding", name = "pos_embed" },
    { type = "attention", heads = 2, qkv_bias = false, bias = false },
    { type = "transformer_block", name = "blocks.0", heads = 3, mlp = 5, qkv_bias = false, norm = false, eps = 1e-5 },
    { type = "layer_norm" }, { type = "dropout", p = 0.5 }, { type = "linear", out_features = 4 },
    { type = "block", name = "heads", layers = [{ type = "parallel", merge = "sum", branches = [
        { layers = [{ type = "mean_tokens", first = 1 }] }, { layers = [{ type = "select_token", index = 3 }] } ] }] },
    { type = "linear", name = "fc", out_features = 5 }
"#;

#[test]
fn trees_round_trip_and_have_the_paths_of_their_names() {
    let spec = one_stage(TREE).unwrap();
    assert_eq!(NetworkSpec::from_toml(&spec.to_toml().unwrap()).unwrap(), spec);
    assert_eq!(NetworkSpec::from_json(&spec.to_json().unwrap()).unwrap(), spec);
    let plan = spec.plan().unwrap();
    let outputs: Vec<String> = plan.stages[0].layers.iter().map(|layer| layer.output.to_string()).collect();
    let expected = [
        "[8, 6, 5]",
        "[8, 6, 5]",
        "[8, 8, 7]",
        "[4, 8, 7]",
        "[4, 8, 7]",
        "[8, 8, 7]",
        "[8, 8, 7]",
        "[8, 8, 7]",
        "[8, 4, 4]",
        "[8, 4, 4]",
        "[8, 4, 4]",
        "[6, 4, 4]",
        "[6, 4, 4]",
        "[16, 6]",
        "[17, 6]",
        "[17, 6]",
        "[17, 6]",
        "[17, 6]",
        "[17, 6]",
        "[17, 6]",
        "[17, 4]",
        "[4]",
        "[5]",
    ];
    assert_eq!(outputs, expected);
    let paths: Vec<String> = plan.parameters().map(|(path, _)| path).collect();
    for path in [
        "a.stem.weight",
        "a.conv1.bias",
        "a.downsample.0.weight",
        "a.5.b.0.running_mean",
        "a.8.conv2.weight",
        "a.8.downsample.1.running_var",
        "a.9.bn3.bias",
        "a.10.conv.1.0.weight",
        "a.10.conv.3.weight",
        "a.11.expand3x3.bias",
        "a.12.fc2.weight",
        "a.cls_token",
        "a.pos_embed",
        "a.16.qkv.weight",
        "a.16.proj.weight",
        "a.blocks.0.attn.proj.bias",
        "a.blocks.0.mlp.fc2.weight",
        "a.fc.bias",
    ] {
        assert!(paths.iter().any(|found| found == path), "{path} is not among {paths:?}");
    }
    assert!(!paths.iter().any(|path| path.contains("qkv.bias") || path.contains("norm1")), "{paths:?}");
}

#[test]
fn faults_within_trees_name_the_way_to_the_layer() {
    let fault = |layers: &str| match one_stage(layers).unwrap_err() {
        ModelError::Layer { layer, kind, reason, .. } => (layer, kind, reason),
        other => panic!("{layers}: {other}"),
    };
    let residual = |inner: &str, skip: &str| format!(r#"{{ type = "residual", layers = [{inner}] {skip} }}"#);
    let (layer, kind, reason) = fault(&residual(r#"{ type = "relu" }, { type = "linear", out_features = 2 }"#, ""));
    assert_eq!((layer.as_str(), kind.as_str()), ("0.1", "linear"));
    assert!(reason.contains("flatten"), "{reason}");
    let (layer, kind, reason) = fault(&residual(r#"{ type = "conv2d", out_channels = 3, kernel = 3 }"#, ""));
    assert_eq!((layer.as_str(), kind.as_str()), ("0", "residual"));
    assert!(reason.contains("[3, 10, 8] and [2, 12, 10]"), "{reason}");
    let skip = r#", skip = { name = "down", layers = [{ type = "relu" }, { type = "max_pool2d", kernel = 40 }] }"#;
    assert_eq!(fault(&residual("", skip)).0, "0.down.1");
    // What cannot even be read tells the way in words.
    let (layer, kind, reason) = fault(&residual(r#"{ type = "relu", slope = 1 }"#, ""));
    assert_eq!((layer.as_str(), kind.as_str()), ("0", "residual"));
    assert!(reason.contains("layer 0 (relu)") && reason.contains("slope"), "{reason}");
    for (layers, text) in [
        (r#"{ type = "parallel", merge = "sum", branches = [] }"#, "no branches"),
        (r#"{ type = "parallel", merge = "mean", branches = [{}] }"#, "mean"),
        (r#"{ type = "parallel", merge = "concat", branches = [{}, { layers = [{ type = "flatten" }] }] }"#, "concat"),
        (
            r#"{ type = "parallel", merge = "product", branches = [{}, { layers = [{ type = "flatten" }] }] }"#,
            "product",
        ),
        (r#"{ type = "block", layers = [] }"#, "no layers"),
        (r#"{ type = "tokens" }, { type = "attention", heads = 3 }"#, "divide"),
        (r#"{ type = "attention", heads = 1 }"#, "tokens"),
        (r#"{ type = "tokens" }, { type = "select_token", index = 120 }"#, "120"),
        (r#"{ type = "tokens" }, { type = "batch_norm" }"#, "tokens"),
        (r#"{ type = "dropout", p = 1.0 }"#, "probability"),
        (r#"{ type = "relu", name = "a..b" }"#, "path"),
        (r#"{ type = "relu", name = 3 }"#, "text"),
        (r#"{ type = "zero_pad2d", padding = "same" }"#, "window"),
        (r#"{ type = "conv2d", out_channels = 1, kernel = 3, padding = [1, 1, 1] }"#, "a size or a pair"),
        (r#"{ type = "transformer_block", heads = 2, mlp = 4 }"#, "tokens"),
        (r#"{ type = "fire", squeeze = 0, expand = 4 }"#, "0"),
    ] {
        let reason = fault(layers).2;
        assert!(reason.contains(text), "{layers}: {reason}");
    }
    let twice = one_stage(
        r#"{ type = "conv2d", name = "c", out_channels = 2, kernel = 1 }, { type = "batch_norm", name = "c" }"#,
    );
    assert!(twice.unwrap_err().to_string().contains("a.c.weight"));
}

#[test]
fn same_padding_is_tensorflows() {
    // Rows: input, kernel, stride, padding before and after, as `tf.nn.conv2d` documents them.
    for (input, kernel, stride, expected) in [
        (224, 3, 2, [0, 1]),
        (112, 5, 2, [1, 2]),
        (7, 3, 1, [1, 1]),
        (7, 3, 2, [1, 1]),
        (6, 2, 1, [0, 1]),
        (9, 1, 2, [0, 0]),
    ] {
        assert_eq!(
            Padding::Same.sizes([input; 2], [kernel; 2], [stride; 2]),
            [expected; 2],
            "{input} {kernel} {stride}"
        );
    }
}

#[test]
fn networks_are_adapted_and_split_at_their_blocks() {
    let resnet = zoo::spec("resnet20").unwrap();
    let small = resnet.adapted([1, 28, 28], 7).unwrap();
    assert_eq!((small.input, small.classes), ([1, 28, 28], 7));
    assert!(small.plan().unwrap().parameters().any(|(path, param)| path == "fc.weight" && param.dims == [7, 64]));
    assert!(resnet.adapted([3, 0, 4], 7).is_err() && zoo::spec("mlp").unwrap().adapted([1, 5, 5], 3).is_ok());
    assert_eq!(zoo::spec("squeezenet1_1").unwrap().adapted([3, 64, 64], 10).unwrap().classes, 10);
    let split = resnet.split_at_blocks();
    let names: Vec<_> = split.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names[..5], ["conv1", "layer1-0", "layer1-1", "layer1-2", "layer2-0"]);
    assert_eq!(names.len(), 11);
    let paths = |spec: &NetworkSpec| spec.plan().unwrap().parameters().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(paths(&split), paths(&resnet));
}

#[test]
fn every_layer_round_trips_through_toml_and_json() {
    let spec = one_stage(ALL).unwrap();
    let kinds: Vec<_> = spec.stages[0].layers.iter().map(|own| own.layer.kind()).collect();
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
                let place = position.to_string();
                assert_eq!((stage, layer, kind.as_str()), ("a".to_owned(), place, expected_kind), "{layers}");
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
    let resnet = spec("resnet20");
    let mut other = resnet.clone();
    other.stages[2].layers[0].layer = LayerSpec::BasicBlock { channels: 32, stride: 1 };
    other.stages[2].layers[1].layer = LayerSpec::BasicBlock { channels: 32, stride: 2 };
    let difference = resnet.difference(&other).unwrap();
    assert!(difference.contains("stage layer2, layer 0 (block), branch 0, layer 0 (residual)"), "{difference}");
    assert!(v2.difference(&spec("cnn-mnist-large")).unwrap().contains("conv1"));
    let mut shorter = v2.clone();
    shorter.stages[0].layers.pop();
    assert!(v2.difference(&shorter).unwrap().contains("3 layers, not 2"));
    let mut fewer = v2.clone();
    fewer.stages.pop();
    assert!(v2.difference(&fewer).unwrap().contains("3 stages, not 2"));
}
