//! Residual networks, branches and transformers: forward, gradients, reverse operators and modes.

use candle_core::{Tensor, Var};
use faer::Par;
use fbp_inverse::{Interval, TargetMode};

use crate::bridge::{tensor_from_matrix, with_matrix};
use crate::ops::cross_entropy;
use crate::ops::testing::{assert_close, assert_near, random};
use crate::{LayerInput, LayerPass, Network, NetworkSpec, Sequence, zoo};

/// Small networks of every kind of block, with statistics and weights that are not those of fresh ones.
fn networks() -> Vec<Network> {
    let adapted = |name: &str, input| zoo::spec(name).unwrap().adapted(input, 4).unwrap();
    let specs = [
        adapted("resnet20", [2, 9, 9]),
        adapted("se-resnet20", [2, 8, 8]),
        adapted("mobilenet-v2-035", [3, 32, 32]),
        adapted("squeezenet1_1", [3, 33, 33]),
        adapted("simple-vit", [3, 8, 8]),
        adapted("simple-vit-v2", [1, 12, 8]),
        NetworkSpec::from_toml(TREE).unwrap(),
    ];
    specs.iter().map(|spec| trained_looking(spec, 7)).collect()
}

/// Asymmetric padding, merges of every kind, the mean of tokens, and dropout.
const TREE: &str = r#"
    name = "tree"
    input = [2, 8, 6]
    classes = 4
    [[stages]]
    name = "a"
    layers = [
        { type = "conv2d", out_channels = 6, kernel = 3, stride = 2, padding = "same" }, { type = "batch_norm" }, { type = "silu" },
        { type = "parallel", merge = "product", branches = [{}, { layers = [{ type = "global_avg_pool2d" }, { type = "sigmoid" }] }] },
        { type = "parallel", merge = "concat", branches = [{ layers = [{ type = "max_pool2d", kernel = 3, stride = 1, padding = 1 }] }, {}] },
        { type = "dropout", p = 0.3 },
    ]
    [[stages]]
    name = "b"
    layers = [
        { type = "parallel", merge = "sum", branches = [{}, { layers = [{ type = "gelu" }] }, { layers = [{ type = "bottleneck", channels = 3 }] }] },
        { type = "tokens" }, { type = "transformer_block", heads = 3, mlp = 8 },
        { type = "mean_tokens", first = 1 },
    ]
    [[stages]]
    name = "out"
    layers = [{ type = "linear", out_features = 4 }]
"#;

/// Two residual blocks, the second one with a shortcut of its own.
const RESIDUAL: &str = r#"
    name = "residual"
    input = [1, 8, 8]
    classes = 4
    [[stages]]
    name = "stem"
    layers = [{ type = "conv2d", out_channels = 6, kernel = 3, padding = 1 }, { type = "batch_norm" }, { type = "relu" }]
    [[stages]]
    name = "blocks"
    layers = [{ type = "basic_block", channels = 6 }, { type = "basic_block", channels = 8, stride = 2 }]
    [[stages]]
    name = "out"
    layers = [{ type = "global_avg_pool2d" }, { type = "flatten" }, { type = "linear", out_features = 4 }]
"#;

fn trained_looking(spec: &NetworkSpec, seed: u64) -> Network {
    let mut network = Network::new(spec, seed).unwrap();
    network.set_training(true);
    for step in 0..20 {
        network.forward(&random(&network.spec().input_dims().tensor_dims(16), step)).unwrap();
    }
    network.set_training(false);
    network
}

#[test]
fn joined_layers_differ_from_layers_one_by_one_by_rounding_alone() {
    for network in networks() {
        let x = random(&network.spec().input_dims().tensor_dims(5), 1);
        let joined = network.infer(&x).unwrap();
        // Nothing is joined on a tape.
        let single = network.infer(Var::from_tensor(&x).unwrap().as_tensor()).unwrap();
        assert!(single.track_op());
        assert_close(&network.spec().name, &joined, &single, 2e-5);
        assert_close("recorded", network.forward_recorded(&x).unwrap().logits(), &joined, 0.0);
    }
}

/// What layers that run one after the other give, each as an operation of its own.
fn one_by_one(layers: &Sequence, x: &Tensor, pass: LayerPass<'_>) -> Tensor {
    let all: Vec<_> = layers.layers().collect();
    layers.order().fold(x.clone(), |x, (index, _)| match all[index].branches() {
        [] => all[index].forward(&x, pass).unwrap(),
        branches => {
            let outputs: Vec<_> = branches.iter().map(|branch| one_by_one(branch, &x, pass)).collect();
            all[index].merge(&outputs).unwrap()
        }
    })
}

#[test]
fn a_network_that_is_not_fused_runs_each_layer_as_an_operation_of_its_own() {
    let pass = LayerPass::FIXED.fused(false);
    for mut network in networks() {
        let name = network.spec().name.clone();
        let x = random(&network.spec().input_dims().tensor_dims(5), 1);
        let fused = network.infer(&x).unwrap();
        network.set_fused(false);
        let separate = network.infer(&x).unwrap();
        let expected = network.stages().iter().fold(x.clone(), |x, stage| one_by_one(stage.layers(), &x, pass));
        assert_close(&name, &separate, &expected, 0.0);
        assert_close(&name, &separate, &fused, 2e-5);
        assert_close(&name, &network.duplicate().unwrap().infer(&x).unwrap(), &separate, 0.0);
        if name == "resnet20" {
            let bits = |logits: &Tensor| logits.to_vec2::<f32>().unwrap();
            assert_ne!(bits(&fused), bits(&separate), "both took the same way");
        }
        // The same where a network is left and entered again at a layer.
        for path in network.layer_paths() {
            let place = network.place(&path).unwrap();
            let LayerInput { input, beside } = network.infer_before(&place, &x).unwrap();
            let output = network.layer(&place).unwrap().forward(&input, pass).unwrap();
            let logits = network.infer_after(&place, &output, &beside).unwrap();
            assert_close(&path, &logits, &separate, 0.0);
        }
    }
}

#[test]
fn gradients_of_training_are_the_same_with_and_without_fusion() {
    for network in networks() {
        let gradients = |fused: bool| {
            let mut own = network.duplicate().unwrap();
            own.set_training(true);
            own.set_fused(fused);
            let x = random(&own.spec().input_dims().tensor_dims(5), 2);
            let loss = cross_entropy(&own.forward(&x).unwrap(), &[1, 3, 0, 2, 1]).unwrap();
            let store = crate::backward(&loss).unwrap();
            let vars = own.named_vars_of(0..own.stages().len()).unwrap();
            let flat = |var: &Var| store.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let all: Vec<f32> = vars.iter().flat_map(|(_, var)| flat(var)).collect();
            // Statistics of the batch went into the running ones.
            let state: Vec<f32> = own.state().flat_map(|(_, v)| v.flatten_all().unwrap().to_vec1().unwrap()).collect();
            (all, state)
        };
        let ((fused, statistics), (separate, expected)) = (gradients(true), gradients(false));
        let apart = |a: &[f32], b: &[f32]| {
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
        };
        let (gradient, state) = (apart(&fused, &separate), apart(&statistics, &expected));
        assert!(gradient <= 2e-5, "{}: {gradient:e}", network.spec().name);
        assert!(state <= 1e-7, "{}: {state:e}", network.spec().name);
    }
}

#[test]
fn reverse_operators_of_blocks_give_the_features_of_the_network() {
    for network in networks() {
        let x = random(&network.spec().input_dims().tensor_dims(3), 5);
        let trace = network.forward_recorded(&x).unwrap();
        for (index, stage) in network.operators(0..network.stages().len()).unwrap().iter().enumerate() {
            let output = crate::reverse::tests::run(&stage.operators, trace.stage_input(index).unwrap());
            let output = tensor_from_matrix(output.as_ref(), network.stages()[index].output()).unwrap();
            let what = format!("{} {}", network.spec().name, stage.name);
            assert_close(&what, &output, trace.stage_output(index).unwrap(), 2e-5);
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    for network in networks() {
        let dims = network.spec().input_dims().tensor_dims(2);
        let x = Var::from_tensor(&random(&dims, 5)).unwrap();
        let loss = |x: &Tensor| cross_entropy(&network.infer(x).unwrap(), &[1, 3]).unwrap();
        let gradients = loss(x.as_tensor()).backward().unwrap();
        let gradient = gradients.get(&x).unwrap();
        // Along the gradient, from both sides, by a length that few kinks fit into: rounding is of the order of ε / length.
        let norm = gradient.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar::<f32>().unwrap();
        let direction = (gradient / f64::from(norm)).unwrap();
        let h = 1e-3;
        let at = |sign: f64| {
            let moved = (x.as_tensor() + (&direction * (sign * h)).unwrap()).unwrap();
            loss(&moved).to_scalar::<f32>().unwrap()
        };
        let difference = (at(1.0) - at(-1.0)) / (2.0 * h as f32);
        let rounding = 16.0 * f32::EPSILON / h as f32;
        let name = &network.spec().name;
        assert!((norm - difference).abs() < 0.02 * norm + rounding, "{name}: {norm} {difference}");
    }
}

#[test]
fn layers_within_blocks_can_be_cut_out() {
    for network in networks() {
        let x = random(&network.spec().input_dims().tensor_dims(2), 5);
        let logits = network.infer(&x).unwrap();
        for path in network.layer_paths() {
            let place = network.place(&path).unwrap();
            let LayerInput { input, beside } = network.infer_before(&place, &x).unwrap();
            let dims: Vec<_> = beside.iter().map(|t| t.dims()[1..].to_vec()).collect();
            assert_eq!(dims, network.dims_beside(&place).unwrap(), "{path}");
            let output = network.layer(&place).unwrap().forward(&input, LayerPass::FIXED).unwrap();
            assert_close(&path, &network.infer_after(&place, &output, &beside).unwrap(), &logits, 1e-5);
        }
    }
}

#[test]
fn joint_targets_of_blocks_are_right() {
    let vit = zoo::spec("simple-vit-v2").unwrap().adapted([1, 12, 8], 4).unwrap();
    let resnet = NetworkSpec::from_toml(RESIDUAL).unwrap();
    for spec in [vit, resnet] {
        let network = trained_looking(&spec, 7);
        let x = random(&spec.input_dims().tensor_dims(4), 9);
        let chain = network.reverse_chain(1, Interval::EVERYTHING).unwrap();
        let labels = [0, 1, 2, 3];
        let margin = 0.05;
        let features = network.forward_to(0, &x).unwrap();
        let made = with_matrix(&features, |at| chain.targets(at, &labels, margin, TargetMode::Attainable, Par::Seq));
        let made = made.unwrap().unwrap();
        for (stage, targets) in (1..).zip(&made.targets[..network.stages().len() - 1]) {
            let name = network.stages()[stage].name();
            let features = tensor_from_matrix(targets.as_ref(), network.stages()[stage].input()).unwrap();
            let logits = network.forward_from(stage, &features).unwrap().to_vec2::<f32>().unwrap();
            for (row, label) in logits.iter().zip(labels) {
                let own = row[label];
                let lead = (0..4).filter(|&k| k != label).map(|k| own - row[k]).fold(f32::INFINITY, f32::min);
                // The network rounds in another order than its operators.
                assert!(f64::from(lead) > 0.99 * margin, "{} {name}: {lead}", spec.name);
            }
        }
    }
}

#[test]
fn dropout_drops_in_training_only_and_is_seeded() {
    let mut network = trained_looking(&NetworkSpec::from_toml(TREE).unwrap(), 7);
    let x = random(&[5, 2, 8, 6], 1);
    let values = |network: &Network| network.forward(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let plain = values(&network);
    assert_eq!(plain, values(&network));
    let joined = network.infer(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    network.set_training(true);
    let mut copies = [network.duplicate().unwrap(), network.duplicate().unwrap()];
    copies.iter_mut().for_each(|copy| copy.set_training(true));
    let [first, second] = copies.each_ref().map(|copy| [values(copy), values(copy)]);
    assert_eq!(first, second, "equal networks drop the same");
    assert_ne!(first[0], first[1], "every pass drops anew");
    network.freeze(0..network.stages().len()).unwrap();
    // Frozen layers are joined, as in inference.
    assert_eq!(values(&network), joined, "frozen stages drop nothing");
}

#[test]
fn a_network_split_at_its_blocks_is_the_same_network() {
    for network in networks() {
        let x = random(&network.spec().input_dims().tensor_dims(2), 5);
        let split = network.split_at_blocks().unwrap();
        assert!(split.stages().len() >= network.stages().len());
        assert_close("logits", &split.infer(&x).unwrap(), &network.infer(&x).unwrap(), 1e-7);
    }
}

/// Gradients of the input and of every parameter by the crate's own sweep, beside those of candle's, which knows each operation.
#[test]
fn one_sweep_gives_the_gradients_of_candles_graph() {
    for (index, network) in networks().into_iter().enumerate() {
        for (trainable, training) in [(true, true), (true, false), (false, false)] {
            // Statistics and dropout change with every pass, so both ways start from a copy.
            let run = |by_tape: bool| {
                let mut own = network.duplicate().unwrap();
                own.set_training(training);
                let stages = 0..own.stages().len();
                if !trainable {
                    own.freeze(stages.clone()).unwrap();
                }
                let [c, h, w] = own.spec().input;
                let x = Var::from_tensor(&random(&[5, c, h, w], index as u64)).unwrap();
                let logits = if by_tape {
                    own.forward(&x).unwrap()
                } else {
                    let pass = LayerPass::new(trainable, training);
                    own.stages()
                        .iter()
                        .fold(x.as_tensor().clone(), |x, stage| stage.layers().forward(&x, pass).unwrap())
                };
                let weights = random(logits.dims(), 3);
                let gradients = (&logits * &weights).unwrap().sum_all().unwrap().backward().unwrap();
                let vars = own.named_vars_of(stages).unwrap().into_iter();
                let all = vars.map(|(name, var)| (name, gradients.get(&var).cloned()));
                let all: Vec<_> = all.chain([("input".to_owned(), gradients.get(&x).cloned())]).collect();
                (logits.detach(), all)
            };
            let ((logits, found), (expected_logits, expected)) = (run(true), run(false));
            let name = &network.spec().name;
            assert_close(name, &logits, &expected_logits, 0.0);
            // Some gradients are zero but for rounding (biases before normalisation), so the largest one is the measure.
            let flat = |gradient: &Tensor| gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let largest = expected.iter().filter_map(|(_, gradient)| gradient.as_ref()).flat_map(flat);
            let largest = f64::from(largest.fold(0.0_f32, |most, entry| most.max(entry.abs())));
            for ((path, found), (_, expected)) in found.iter().zip(&expected) {
                assert_eq!(found.is_some(), trainable || path == "input", "{name}, {path}");
                let (Some(found), Some(expected)) = (found, expected) else { continue };
                // Features with several uses add their gradients in another order.
                let tol = 64.0 * f64::from(f32::EPSILON) * largest;
                for (found, expected) in flat(found).into_iter().zip(flat(expected)) {
                    assert_near(&format!("{name}, {path}"), found, expected.into(), tol);
                }
            }
        }
    }
}

/// Several sweeps over one forward pass: as the classes of one batch ask for their gradients one after the other.
#[test]
fn a_tape_can_be_run_back_again() {
    let network = trained_looking(&NetworkSpec::from_toml(RESIDUAL).unwrap(), 3);
    let x = Var::from_tensor(&random(&[3, 1, 8, 8], 1)).unwrap();
    let logits = network.forward(&x).unwrap();
    let gradient = |class: usize| {
        let store = logits.narrow(1, class, 1).unwrap().sum_all().unwrap().backward().unwrap();
        store.get(&x).unwrap().clone()
    };
    let (first, second) = (gradient(0), gradient(1));
    assert_close("again", &gradient(0), &first, 0.0);
    let both = logits.narrow(1, 0, 2).unwrap().sum_all().unwrap().backward().unwrap();
    assert_close("sum", both.get(&x).unwrap(), &(first + second).unwrap(), 64.0 * f64::from(f32::EPSILON));
}
