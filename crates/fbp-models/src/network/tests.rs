use candle_core::DType;

use super::*;
use crate::ops::cross_entropy;
use crate::ops::testing::{assert_close, random};
use crate::spec::WeightInit;
use crate::{AdamW, AdamWParams, zoo};

fn zoo_network(name: &str, seed: u64) -> Network {
    Network::new(&zoo::spec(name).unwrap(), seed).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn var(network: &Network, name: &str) -> Tensor {
    network.state().find(|(other, _)| other == name).unwrap().1.as_detached_tensor()
}

/// The small CNN from candle's own operations, in the order of the description.
fn rival(network: &Network, x: &Tensor) -> Tensor {
    let mut x = x.clone();
    for stage in ["conv1", "conv2"] {
        let bias = var(network, &format!("{stage}.0.bias")).reshape((1, (), 1, 1)).unwrap();
        let y = x.conv2d(&var(network, &format!("{stage}.0.weight")), 0, 1, 1, 1).unwrap();
        x = y.broadcast_add(&bias).unwrap().tanh().unwrap().max_pool2d(2).unwrap();
    }
    let weight = var(network, "out.1.weight").t().unwrap();
    x.flatten_from(1).unwrap().matmul(&weight).unwrap().broadcast_add(&var(network, "out.1.bias")).unwrap()
}

#[test]
fn forward_agrees_with_candle() {
    let network = zoo_network("simple-cnn-mnist-v2-tanh", 5);
    let x = random(&[9, 1, 28, 28], 1);
    assert_close("logits", &network.forward(&x).unwrap(), &rival(&network, &x), 1e-5);
}

#[test]
fn parts_of_the_network_compose() {
    let network = zoo_network("simple-cnn-cifar-v5", 2);
    let x = random(&[4, 3, 32, 32], 1);
    let logits = network.forward(&x).unwrap();
    let trace = network.forward_recorded(&x).unwrap();
    assert_eq!(values(trace.logits()), values(&logits));
    assert_eq!(trace.features().len(), network.stages().len() + 1);
    for stage in 0..network.stages().len() {
        let lower = network.forward_to(stage, &x).unwrap();
        assert_eq!(values(trace.stage_output(stage).unwrap()), values(&lower));
        assert_eq!(values(&network.forward_from(stage, trace.stage_input(stage).unwrap()).unwrap()), values(&logits));
        // Rows of flat features are taken as well.
        let rows = trace.stage_input(stage).unwrap().flatten_from(1).unwrap();
        assert_eq!(values(&network.infer_stages(stage..5, &rows).unwrap()), values(&logits));
    }
    assert!(trace.stage_output(5).is_err() && trace.stage_input(5).is_err());
    assert_eq!(values(&network.forward_from(5, &logits).unwrap()), values(&logits));
}

#[test]
fn a_stage_can_be_cut_at_any_layer() {
    let network = zoo_network("cnn-mnist-large", 2);
    let x = random(&[3, 1, 28, 28], 1);
    let logits = network.infer(&x).unwrap();
    // conv1: convolution, then activation and pooling; fc1: flatten, linear, activation; out: linear.
    for path in ["conv1.0", "conv2.0", "fc1.1", "out.0"] {
        let place = network.place(path).unwrap();
        let LayerInput { input, beside } = network.infer_before(&place, &x).unwrap();
        let own = network.layer(&place).unwrap();
        let output = own.forward(&input, LayerPass::FIXED).unwrap();
        let rest = network.infer_after(&place, &output, &beside).unwrap();
        assert_close("logits", &rest, &logits, 1e-5);
        // Gradients reach the output of the layer.
        let z = Var::from_tensor(&output).unwrap();
        let gradient = network.infer_after(&place, &z, &beside).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(gradient.get(&z).unwrap().dims(), output.dims());
    }
    assert_eq!(network.layer_paths(), ["conv1.0", "conv2.0", "fc1.1", "out.0"]);
    assert!(matches!(network.place("conv1.1"), Err(ModelError::UnknownLayer { known, .. }) if known.len() == 4));
    let other = zoo_network("resnet20", 2).place("layer3.2.conv2").unwrap();
    assert!(network.infer_before(&LayerPlace { stage: 7, ..other }, &x).is_err());
}

#[test]
fn faulty_inputs_give_errors() {
    let network = zoo_network("simple-cnn-mnist-v1", 2);
    for dims in [vec![4, 1, 28, 27], vec![4, 783], vec![28, 28], vec![4, 28, 28], vec![4, 1, 784, 1]] {
        let error = network.forward(&random(&dims, 1)).unwrap_err();
        assert!(matches!(&error, ModelError::InputShape { found, .. } if *found == dims), "{error}");
    }
    assert!(network.forward(&Tensor::zeros((2, 784), DType::F64, &Device::Cpu).unwrap()).is_err());
    let x = random(&[2, 784], 1);
    for (start, end) in [(2, 4), (3, 2), (4, 4)] {
        assert!(matches!(
            network.forward_stages(start..end, &x).unwrap_err(),
            ModelError::StageRange { stages: 3, .. }
        ));
    }
    assert!(network.forward_to(usize::MAX, &x).is_err());
    let error = network.stage_index("conv3").unwrap_err().to_string();
    assert!(error.contains("conv1, conv2, out"), "{error}");
    assert_eq!(network.stage_index("conv2").unwrap(), 1);
}

#[test]
fn batches_of_none_and_one_work() {
    let network = zoo_network("simple-cnn-mnist-v2", 2);
    assert_eq!(network.forward(&random(&[0, 1, 28, 28], 1)).unwrap().dims(), [0, 10]);
    let x = random(&[3, 784], 1);
    let all = network.forward(&x).unwrap();
    for i in 0..3 {
        let alone = network.forward(&x.narrow(0, i, 1).unwrap()).unwrap();
        assert_close("one by one", &alone, &all.narrow(0, i, 1).unwrap(), 1e-6);
    }
}

#[test]
fn initial_weights_are_seeded_and_uniform() {
    let (a, b, c) = (zoo_network("mlp", 1), zoo_network("mlp", 1), zoo_network("mlp", 2));
    for ((name, a), ((_, b), (_, c))) in a.state().zip(b.state().zip(c.state())) {
        assert_eq!(values(&a), values(&b), "{name}");
        assert_ne!(values(&a), values(&c), "{name}");
        let fan_in = match &name[..3] {
            "fc1" => 784.0_f64,
            "fc2" => 128.0,
            _ => 64.0,
        };
        let bound = 1.0 / fan_in.sqrt();
        let all = values(&a);
        assert!(all.iter().all(|v| f64::from(v.abs()) <= bound), "{name}");
        // Standard deviation bound/√3; five standard errors of the sample's second moment.
        let second = all.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / all.len() as f64;
        let slack = 5.0 * (4.0 / 45.0 / all.len() as f64).sqrt();
        assert!((second / (bound * bound) - 1.0 / 3.0).abs() < slack, "{name}: {second}");
    }
}

#[test]
fn frozen_stages_let_gradients_through_but_get_none() {
    let mut network = zoo_network("simple-cnn-mnist-v2", 3);
    let x = random(&[6, 1, 28, 28], 1);
    let labels = [0, 1, 2, 3, 4, 5];
    let gradients = |network: &Network| {
        let loss = cross_entropy(&network.forward(&x).unwrap(), &labels).unwrap();
        let grads = loss.backward().unwrap();
        let all = network.named_vars_of(0..3).unwrap();
        all.into_iter()
            .filter(|(_, var)| grads.get(var.as_tensor()).is_some())
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    let all = ["conv1.0.weight", "conv1.0.bias", "conv2.0.weight", "conv2.0.bias", "out.1.weight", "out.1.bias"];
    assert_eq!(gradients(&network), all);
    network.freeze(1..3).unwrap();
    assert_eq!(gradients(&network), all[..2]);
    assert!(!network.stages()[0].is_frozen() && network.stages()[2].is_frozen());
    network.freeze(0..2).unwrap();
    assert_eq!(gradients(&network), all[4..]);
    network.freeze(0..0).unwrap();
    assert_eq!(gradients(&network), all);
    assert!(network.freeze(2..4).is_err());
    assert!(!network.infer(&x).unwrap().track_op());
    assert!(!network.forward_recorded(&x).unwrap().logits().track_op());
}

#[test]
fn training_lowers_the_loss_and_leaves_frozen_weights_alone() {
    let mut network = zoo_network("simple-cnn-mnist-v2", 4);
    network.freeze(2..3).unwrap();
    let untouched = network.duplicate().unwrap();
    let x = random(&[32, 1, 28, 28], 1);
    let labels: Vec<u32> = (0..32).map(|i| i % 10).collect();
    let params = AdamWParams { learning_rate: 1e-2, ..AdamWParams::default() };
    let mut optimiser = AdamW::new(network.vars_of(0..2).unwrap(), params).unwrap();
    let loss = |network: &Network| cross_entropy(&network.forward(&x).unwrap(), &labels).unwrap();
    let before = loss(&network).to_scalar::<f32>().unwrap();
    for _ in 0..40 {
        optimiser.backward_step(&loss(&network)).unwrap();
    }
    let after = loss(&network).to_scalar::<f32>().unwrap();
    assert!(after < 0.8 * before, "{before} {after}");
    assert_eq!(loss(&untouched).to_scalar::<f32>().unwrap(), before);
    for name in ["out.1.weight", "out.1.bias"] {
        assert_eq!(values(&var(&network, name)), values(&var(&untouched, name)));
    }
    assert_ne!(values(&var(&network, "conv1.0.weight")), values(&var(&untouched, "conv1.0.weight")));
    assert!(untouched.stages()[2].is_frozen());
}

const NORMALISED: &str = r#"
    name = "bn"
    input = [2, 4, 4]
    classes = 3
    [[stages]]
    name = "a"
    layers = [{ type = "batch_norm" }, { type = "relu" }, { type = "max_pool2d", kernel = 2 }]
    [[stages]]
    name = "out"
    layers = [{ type = "flatten" }, { type = "linear", out_features = 3 }, { type = "batch_norm" }]
"#;

#[test]
fn batch_norm_has_a_training_and_an_evaluation_mode() {
    let mut network = Network::new(&NetworkSpec::from_toml(NORMALISED).unwrap(), 1).unwrap();
    let x = ((random(&[50, 2, 4, 4], 1) * 3.0).unwrap() + 1.5).unwrap();
    let before = values(&network.forward(&x).unwrap());
    network.set_training(true);
    for _ in 0..200 {
        network.forward(&x).unwrap();
    }
    let training = network.forward(&x).unwrap();
    network.set_training(false);
    let evaluation = network.forward(&x).unwrap();
    assert_ne!(before, values(&evaluation));
    // The running statistics have converged to those of the batch, the variance up to the factor 50/49.
    assert_close("evaluation", &evaluation, &training, 0.03);
    let mean = values(&var(&network, "a.0.running_mean"));
    let exact = values(&x.transpose(0, 1).unwrap().flatten_from(1).unwrap().mean(1).unwrap());
    assert!(mean.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 1e-5), "{mean:?} {exact:?}");
    assert_eq!(values(&network.infer(&x).unwrap()), values(&evaluation));
    network.set_training(true);
    network.freeze(0..2).unwrap();
    assert_eq!(values(&network.forward(&x).unwrap()), values(&evaluation), "frozen stages are constant functions");
    assert_eq!(network.vars_of(0..2).unwrap().len(), 6, "running statistics are not trained");
    assert_eq!(values(&network.duplicate().unwrap().infer(&x).unwrap()), values(&evaluation));
}

#[test]
fn pooling_runs_before_a_nondecreasing_activation() {
    let network = Network::new(&NetworkSpec::from_toml(NORMALISED).unwrap(), 1).unwrap();
    let steps = |network: &Network| -> Vec<_> {
        network.stages()[0].layers().order().map(|(layer, input)| (layer, input.to_string())).collect()
    };
    let layers = |network: &Network| -> Vec<_> { steps(network).into_iter().map(|(layer, _)| layer).collect() };
    let expected = [(0, "[2, 4, 4]"), (2, "[2, 4, 4]"), (1, "[2, 2, 2]")].map(|(i, s)| (i, s.to_owned()));
    assert_eq!(steps(&network), expected);
    let gelu = NORMALISED.replace("\"relu\"", "\"gelu\"");
    let network = Network::new(&NetworkSpec::from_toml(&gelu).unwrap(), 1).unwrap();
    assert_eq!(layers(&network), [0, 1, 2]);
    let many = NORMALISED.replace("{ type = \"relu\" },", "{ type = \"relu\" }, { type = \"tanh\" },");
    let network = Network::new(&NetworkSpec::from_toml(&many).unwrap(), 1).unwrap();
    assert_eq!(layers(&network), [0, 3, 1, 2]);
}

/// Convolutions that nothing pools right away, in front of both kinds of norms.
const NORMS_OF_CONVOLUTIONS: &str = r#"
    name = "norms"
    input = [2, 12, 12]
    classes = 3
    [[stages]]
    name = "a"
    layers = [{ type = "conv2d", out_channels = 8, kernel = 3, padding = 1 }, { type = "batch_norm" }, { type = "relu" }]
    [[stages]]
    name = "b"
    layers = [{ type = "conv2d", out_channels = 12, kernel = 3 }, { type = "group_norm", groups = 3 }, { type = "relu" }]
    [[stages]]
    name = "out"
    layers = [{ type = "flatten" }, { type = "linear", out_features = 3 }]
"#;

#[test]
fn training_gives_the_same_bits_on_any_number_of_threads() {
    let train = || {
        let mut network = Network::new(&NetworkSpec::from_toml(NORMS_OF_CONVOLUTIONS).unwrap(), 1).unwrap();
        network.set_training(true);
        let mut optimizer = AdamW::new(network.vars_of(0..3).unwrap(), AdamWParams::default()).unwrap();
        let labels: Vec<u32> = (0..50).map(|sample| sample % 3).collect();
        for step in 0..3 {
            let logits = network.forward(&random(&[50, 2, 12, 12], step)).unwrap();
            optimizer.backward_step(&cross_entropy(&logits, &labels).unwrap()).unwrap();
        }
        network.state().map(|(_, var)| values(&var.as_detached_tensor())).collect::<Vec<_>>()
    };
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(train);
    let one = on(1);
    for threads in 2..=4 {
        assert!(one == on(threads), "{threads} threads");
    }
}

#[test]
fn he_weights_tell_images_apart_where_the_default_does_not() {
    let mut spec = zoo::spec("squeezenet1_1").unwrap().adapted([1, 28, 28], 10).unwrap();
    assert_eq!(spec.init, WeightInit::He);
    assert_eq!(NetworkSpec::from_toml(&spec.to_toml().unwrap()).unwrap(), spec);
    let x = random(&[64, 1, 28, 28], 1);
    // Mean variance over samples of a feature below the head.
    let spread = |spec: &NetworkSpec| {
        let features = Network::new(spec, 0).unwrap().infer_stages(0..5, &x).unwrap().flatten_from(1).unwrap();
        let mean_square = values(&features.sqr().unwrap().mean_all().unwrap())[0];
        mean_square - values(&features.mean(0).unwrap().sqr().unwrap().mean_all().unwrap())[0]
    };
    let he = spread(&spec);
    for (name, tensor) in Network::new(&spec, 0).unwrap().state() {
        assert!(!name.ends_with("bias") || values(&tensor).iter().all(|&b| b == 0.0), "{name}");
    }
    spec.init = WeightInit::Default;
    let default = spread(&spec);
    assert!(default < 1e-4 * he, "{he} {default}");
}
