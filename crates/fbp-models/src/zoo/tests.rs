use super::*;

#[test]
fn every_name_is_a_valid_network_of_that_name() {
    for name in names() {
        let spec = spec(name).unwrap();
        assert_eq!(spec.name, *name);
        spec.plan().unwrap();
        let tanh = spec.stages[0].layers.contains(&LayerSpec::Tanh {}.into());
        assert_eq!(tanh, name.ends_with("-tanh"));
    }
}

#[test]
fn parameter_counts_are_the_documented_ones() {
    // Weights and biases layer by layer, independent of the code that plans them.
    let conv = |c: usize, co: usize, k: usize| co * c * k * k + co;
    let linear = |i: usize, o: usize| i * o + o;
    let cifar = |c: [usize; 3], hidden: usize| {
        let convolutions = conv(3, c[0], 5) + conv(c[0], c[1], 3) + conv(c[1], c[2], 3);
        convolutions + linear(c[2] * 16, hidden) + linear(hidden, 10)
    };
    let expected = [
        ("mlp", linear(784, 128) + linear(128, 64) + linear(64, 10), 109_386),
        ("simple-cnn-mnist-v1", conv(1, 2, 5) + conv(2, 4, 5) + linear(64, 10), 906),
        ("simple-cnn-mnist-v2", conv(1, 3, 5) + conv(3, 3, 5) + linear(48, 10), 796),
        ("cnn-mnist-large", conv(1, 10, 5) + conv(10, 20, 5) + linear(320, 64) + linear(64, 10), 26_474),
        ("simple-cnn-cifar-v1", cifar([5, 10, 15], 128), 34_343),
        ("simple-cnn-cifar-v2", cifar([10, 10, 10], 128), 24_478),
        ("simple-cnn-cifar-v3", cifar([15, 10, 5], 128), 14_613),
        ("simple-cnn-cifar-v4", cifar([5, 10, 15], 64), 18_279),
        ("simple-cnn-cifar-v5", cifar([15, 10, 5], 64), 8_789),
    ];
    assert_eq!(2 * expected.len() + REAL.len(), names().len());
    for (name, count, documented) in expected {
        assert_eq!(count, documented, "{name}");
        for name in [name.to_owned(), format!("{name}-tanh")] {
            assert_eq!(spec(&name).unwrap().plan().unwrap().parameter_count(), count, "{name}");
        }
    }
}

/// Networks of other people, their published numbers of parameters, and a path that they have.
const REAL: [(&str, usize, &str); 14] = [
    ("mlp-planner", 538_128, "fc1.1.weight"),
    ("resnet18", 11_689_512, "layer4.0.downsample.1.running_var"),
    ("resnet34", 21_797_672, "layer3.5.conv2.weight"),
    ("resnet18-cifar", 11_173_962, "conv1.weight"),
    ("resnet34-cifar", 21_282_122, "bn1.bias"),
    ("resnet20", 272_474, "layer2.0.downsample.0.weight"),
    ("se-resnet20", 274_847, "layer3.2.se.fc1.weight"),
    ("mobilenet-v2", 3_504_872, "features.18.1.running_mean"),
    ("mobilenet-v2-035", 1_677_128, "features.2.conv.1.0.weight"),
    ("squeezenet1_1", 1_235_496, "features.12.expand3x3.bias"),
    ("vit-tiny-patch16-224", 5_717_416, "blocks.11.attn.qkv.weight"),
    ("simple-vit", 0, "patch_embed.proj.bias"),
    ("simple-vit-v2", 0, "blocks.3.norm2.weight"),
    ("vit-192-9-12", 0, "pos_embed"),
];

#[test]
fn real_networks_have_the_published_sizes_and_paths() {
    // Weights of a transformer, independent of the code that plans them.
    let vit = |width: usize, depth: usize, ratio: usize, norm: bool| {
        let norms = if norm { 4 * width } else { 0 };
        let block = norms + (3 * width + 3) * width + (width + 1) * width + ratio * width * (2 * width + 1) + width;
        let embedding = (3 * 16 + 1) * width + width + 65 * width;
        embedding + depth * block + if norm { 2 * width } else { 0 } + 10 * width + 10
    };
    for (name, count, path) in REAL {
        let plan = spec(name).unwrap().plan().unwrap();
        let count = match name {
            "simple-vit" => vit(64, 4, 2, false),
            "simple-vit-v2" => vit(64, 4, 2, true),
            "vit-192-9-12" => vit(192, 9, 2, true),
            _ => count,
        };
        assert_eq!(plan.parameter_count(), count, "{name}");
        assert!(plan.parameters().any(|(found, _)| found == path), "{name}: no {path}");
    }
}

#[test]
fn stages_have_the_documented_order() {
    let spec = spec("cnn-mnist-large").unwrap();
    let stages: Vec<_> =
        spec.stages.iter().map(|s| (s.name.as_str(), s.layers.iter().map(|own| own.layer.kind()).collect())).collect();
    let expected: Vec<(&str, Vec<&str>)> = vec![
        ("conv1", vec!["conv2d", "relu", "max_pool2d"]),
        ("conv2", vec!["conv2d", "relu", "max_pool2d"]),
        ("fc1", vec!["flatten", "linear", "relu"]),
        ("out", vec!["linear"]),
    ];
    assert_eq!(stages, expected);
}

#[test]
fn unknown_names_list_the_known_ones() {
    for name in ["", "lenet", "mlp-relu", "simple-cnn-mnist-v3", "mlp-tanh-tanh"] {
        let error = spec(name).unwrap_err();
        assert!(matches!(&error, ModelError::UnknownModel { known, .. } if known.len() == 32));
        assert!(error.to_string().contains("simple-cnn-cifar-v5-tanh"), "{error}");
    }
}
