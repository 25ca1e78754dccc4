use candle_core::Tensor;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_inverse::{
    ChainGoal, EmbeddingPass, Interval, Margins, OutputEmbedding, ReverseOperator, ReversePass, TargetBox,
    TargetBoxMut, TargetMode,
};

use super::*;
use crate::bridge::{tensor_from_matrix, with_matrix};
use crate::ops::testing::{assert_close, random};
use crate::{LayerPass, NetworkSpec, Stage, zoo};

/// Every kind of layer in a geometry that can be reversed.
const ALL: &str = r#"
    name = "all"
    input = [2, 13, 12]
    classes = 5
    [[stages]]
    name = "a"
    layers = [
        { type = "conv2d", out_channels = 4, kernel = [3, 2], padding = [1, 0], groups = 2 }, { type = "batch_norm" },
        { type = "leaky_relu", slope = 0.1 }, { type = "max_pool2d", kernel = [2, 3] }, { type = "gelu" },
        { type = "elu" }, { type = "softplus" }, { type = "hard_swish" }, { type = "silu" }, { type = "mish" },
    ]
    [[stages]]
    name = "b"
    layers = [
        { type = "gelu_tanh" }, { type = "conv2d", out_channels = 6, kernel = 2, stride = 2, bias = false },
        { type = "tanh" }, { type = "avg_pool2d", kernel = [3, 1] }, { type = "sigmoid" },
        { type = "global_avg_pool2d" }, { type = "hard_sigmoid" },
    ]
    [[stages]]
    name = "c"
    layers = [
        { type = "flatten" }, { type = "linear", out_features = 7 }, { type = "relu6" }, { type = "hard_tanh" },
        { type = "relu" }, { type = "linear", out_features = 5, bias = false }, { type = "softmax" },
    ]
"#;

fn all_layers() -> Network {
    let mut network = Network::new(&NetworkSpec::from_toml(ALL).unwrap(), 11).unwrap();
    // Running statistics that are not those of a fresh layer.
    network.set_training(true);
    network.forward(&((random(&[30, 2, 13, 12], 1) * 2.0).unwrap() + 0.5).unwrap()).unwrap();
    network.set_training(false);
    network
}

/// Overlapping and padded windows, and normalisation by the statistics of the sample.
const MORE: &str = r#"
    name = "more"
    input = [2, 13, 12]
    classes = 5
    [[stages]]
    name = "a"
    layers = [
        { type = "conv2d", out_channels = 4, kernel = 3, padding = 1 }, { type = "group_norm", groups = 2 },
        { type = "relu" }, { type = "max_pool2d", kernel = 3, stride = 2, padding = 1 },
    ]
    [[stages]]
    name = "b"
    layers = [
        { type = "instance_norm" }, { type = "silu" },
        { type = "avg_pool2d", kernel = 3, stride = 2, padding = 1 }, { type = "rms_norm", last = 1 },
    ]
    [[stages]]
    name = "c"
    layers = [{ type = "flatten" }, { type = "layer_norm" }, { type = "linear", out_features = 5 }]
"#;

/// Transposed convolutions, lines, and pooling of every kind.
const LINES: &str = r#"
    name = "lines"
    input = [2, 9, 10]
    classes = 5
    [[stages]]
    name = "a"
    layers = [
        { type = "max_pool2d", kernel = 3, stride = 2, ceil = true },
        { type = "conv_transpose2d", out_channels = 4, kernel = 3, stride = 2, padding = 1, output_padding = 1, groups = 2 },
        { type = "avg_pool2d", kernel = 3, stride = 2, padding = 1, ceil = true, count_include_pad = false },
        { type = "avg_pool2d", kernel = 2, stride = 1, divisor = 3.0 }, { type = "relu" },
    ]
    [[stages]]
    name = "b"
    layers = [
        { type = "adaptive_avg_pool2d", size = [1, 3] },
        { type = "conv_transpose1d", out_channels = 3, kernel = 3, stride = 2, bias = false }, { type = "relu" },
        { type = "conv1d", out_channels = 2, kernel = 3, stride = 2, padding = 1, dilation = 2 },
    ]
    [[stages]]
    name = "c"
    layers = [{ type = "flatten" }, { type = "linear", out_features = 5 }]
"#;

fn lines() -> Network {
    Network::new(&NetworkSpec::from_toml(LINES).unwrap(), 13).unwrap()
}

fn more_layers() -> Network {
    let network = Network::new(&NetworkSpec::from_toml(MORE).unwrap(), 12).unwrap();
    // Scales and shifts that are not those of a fresh layer.
    for (index, (name, var)) in network.state().enumerate() {
        let is_norm = ["a.1.", "b.0.", "b.3.", "c.1."].iter().any(|start| name.starts_with(start));
        if is_norm {
            let changed = random(var.dims(), 100 + index as u64);
            var.set(&(var.as_detached_tensor() + (changed * 0.5).unwrap()).unwrap()).unwrap();
        }
    }
    network
}

pub(crate) fn run(operators: &[Box<dyn ReverseOperator<f32>>], input: &Tensor) -> Mat<f32> {
    let mut feature = with_matrix(input, |m| m.to_owned()).unwrap();
    for operator in operators {
        let mut output = Mat::zeros(operator.out_shape().len(), feature.ncols());
        let mut memory = MemBuffer::new(operator.forward_scratch(feature.ncols(), Par::Seq));
        operator.forward(feature.as_ref(), output.as_mut(), Par::Seq, MemStack::new(&mut memory)).unwrap();
        feature = output;
    }
    feature
}

/// The stage as it is described, layer by layer without changing places.
fn as_described(stage: &Stage, input: &Tensor) -> Tensor {
    stage.layers().layers().fold(input.clone(), |x, layer| layer.forward(&x, LayerPass::FIXED).unwrap())
}

#[test]
fn operators_and_stages_and_descriptions_give_the_same_features() {
    let small = |name: &str| Network::new(&zoo::spec(name).unwrap(), 3).unwrap();
    for network in
        [all_layers(), more_layers(), lines(), small("simple-cnn-mnist-v2"), small("simple-cnn-mnist-v2-tanh")]
    {
        let x = random(&network.spec().input_dims().tensor_dims(7), 5);
        let trace = network.forward_recorded(&x).unwrap();
        let chain = network.operators(0..network.stages().len()).unwrap();
        for (index, (stage, described)) in chain.iter().zip(network.stages()).enumerate() {
            assert_eq!(stage.name, described.name());
            let input = trace.stage_input(index).unwrap();
            let output = tensor_from_matrix(run(&stage.operators, input).as_ref(), described.output()).unwrap();
            let what = format!("{} {}", network.spec().name, stage.name);
            assert_close(&what, &output, trace.stage_output(index).unwrap(), 4e-6);
            assert_close(&what, &as_described(described, input), trace.stage_output(index).unwrap(), 4e-6);
        }
    }
}

#[test]
fn relu_and_pooling_commute_bit_for_bit() {
    let network = Network::new(&zoo::spec("simple-cnn-mnist-v2").unwrap(), 3).unwrap();
    let x = random(&[20, 1, 28, 28], 5);
    let stage = &network.stages()[0];
    let [conv, relu, pool] = stage.layers().layers().collect::<Vec<_>>()[..] else { panic!("three layers") };
    let run = |order: [&dyn crate::Layer; 3]| {
        let y = order.iter().fold(x.clone(), |x, layer| layer.forward(&x, LayerPass::FIXED).unwrap());
        y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(run([conv, relu, pool]), run([conv, pool, relu]));
}

#[test]
fn operators_come_in_the_order_in_which_layers_run() {
    let network = all_layers();
    let names = |stage: usize| {
        let chain = network.operators(stage..stage + 1).unwrap();
        chain[0].operators.iter().map(|op| op.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(0)[..5], ["a.0.conv2d", "a.1.batch_norm", "a.3.max_pool2d", "a.2.leaky_relu", "a.4.gelu"]);
    assert_eq!(names(1)[..4], ["b.0.gelu_tanh", "b.1.conv2d", "b.2.tanh", "b.3.avg_pool2d"]);
    assert!(network.operators(2..4).is_err());
}

/// A batch normalisation behind a ReLU, whose running variance makes it keep or turn around each channel.
const NORMALISED: &str = r#"
    name = "normalised"
    input = [1, 4, 4]
    classes = 2
    [[stages]]
    name = "a"
    layers = [{ type = "conv2d", out_channels = 2, kernel = 3 }, { type = "relu" }, { type = "batch_norm" }]
    [[stages]]
    name = "b"
    layers = [{ type = "flatten" }, { type = "linear", out_features = 2 }, { type = "softmax" }]
"#;

#[test]
fn ranges_are_what_the_layers_below_can_produce() {
    let network = Network::new(&NetworkSpec::from_toml(NORMALISED).unwrap(), 11).unwrap();
    let set = |name: &str, values: &[f32]| {
        let (_, var) = network.state().find(|(found, _)| found == name).unwrap();
        var.set(&Tensor::new(values, &candle_core::Device::Cpu).unwrap()).unwrap();
    };
    set("a.2.bias", &[3.0, 0.5]);
    // Both channels grow with what the ReLU gives: what they are at least is their shift.
    let range = network.ranges_below(1, Interval::EVERYTHING).unwrap();
    assert_eq!(range.hull(), Interval::new(0.5, f32::INFINITY));
    set("a.2.weight", &[1.0, -1.0]);
    let ranges = network.ranges_below(1, Interval::EVERYTHING).unwrap();
    let [first, second] = [0, 1].map(|channel| ranges.of(channel));
    assert_eq!([first, second], [Interval::new(3.0, f32::INFINITY), Interval::new(f32::NEG_INFINITY, 0.5)]);
    // Logits of a linear layer are anything, and so shares of a softmax between 0 and 1.
    assert_eq!(network.ranges_below(2, Interval::EVERYTHING).unwrap().hull(), Interval::new(0.0, 1.0));
    let small = Network::new(&zoo::spec("simple-cnn-mnist-v2").unwrap(), 3).unwrap();
    assert_eq!(small.ranges_below(1, Interval::EVERYTHING).unwrap().hull(), Interval::new(0.0, f32::INFINITY));
    assert!(small.ranges_below(4, Interval::EVERYTHING).is_err());
}

#[test]
fn layers_that_cannot_be_reversed_are_named() {
    let network = all_layers();
    let (_, weight) = network.state().find(|(name, _)| name == "a.1.weight").unwrap();
    weight.set(&(weight.as_detached_tensor() * f64::NAN).unwrap()).unwrap();
    let Err(error) = network.operators(0..1) else { panic!("weights that are not numbers") };
    assert!(matches!(error, ModelError::Reverse(_)) && error.to_string().contains("a.1.batch_norm"), "{error}");
}

#[test]
fn overlapping_windows_and_norms_hit_attainable_targets() {
    hits_attainable_targets(&more_layers());
}

#[test]
fn transposed_convolutions_and_lines_hit_attainable_targets() {
    hits_attainable_targets(&lines());
}

fn hits_attainable_targets(network: &Network) {
    let dims = network.spec().input_dims().tensor_dims(6);
    let [x, other] = [8, 9].map(|seed| network.forward_recorded(&random(&dims, seed)).unwrap());
    for (index, stage) in network.operators(0..3).unwrap().iter().enumerate() {
        let [mut feature, mut wanted] =
            [&x, &other].map(|trace| with_matrix(trace.stage_input(index).unwrap(), |m| m.to_owned()).unwrap());
        for operator in &stage.operators {
            let [output, target] = [&feature, &wanted].map(|input| {
                let mut output = Mat::zeros(operator.out_shape().len(), input.ncols());
                let mut memory = MemBuffer::new(operator.forward_scratch(input.ncols(), Par::Seq));
                operator.forward(input.as_ref(), output.as_mut(), Par::Seq, MemStack::new(&mut memory)).unwrap();
                output
            });
            let blank = || Mat::<f32>::zeros(feature.nrows(), feature.ncols());
            let (mut point, mut lower, mut upper) = (blank(), blank(), blank());
            let pass = ReversePass {
                observed_in: feature.as_ref(),
                observed_out: output.as_ref(),
                target_out: TargetBox::point(target.as_ref()),
                in_range: Interval::EVERYTHING,
                target_in: TargetBoxMut { point: point.as_mut(), lower: lower.as_mut(), upper: upper.as_mut() },
            };
            let mut memory = MemBuffer::new(operator.reverse_scratch(feature.ncols(), Par::Seq));
            let report = operator.reverse(pass, Par::Seq, MemStack::new(&mut memory)).unwrap();
            let miss = report.violation_max / f64::from(target.norm_max());
            // Activations have a tolerance of their own.
            let checked = ["pool", "norm"].iter().any(|kind| operator.name().contains(kind));
            let allowed = if checked { 1e-5 } else { 1e-3 };
            assert!(report.unattained == 0 && miss <= allowed, "{}: {miss:e}", operator.name());
            (feature, wanted) = (output, target);
        }
    }
}

#[test]
fn reconstructed_features_are_classified_as_their_labels() {
    const MARGIN: f64 = 0.5;
    let network = Network::new(&zoo::spec("simple-cnn-mnist-v2").unwrap(), 3).unwrap();
    let n = 24;
    let x = random(&[n, 1, 28, 28], 7);
    let labels: Vec<usize> = (0..n).map(|i| i % 10).collect();
    let trace = network.forward_recorded(&x).unwrap();
    let chain = network.reverse_chain(1, Interval::EVERYTHING).unwrap();
    let mut work = chain.workspace(n, Par::Seq);
    let logits =
        with_matrix(trace.stage_input(1).unwrap(), |input| chain.forward(input, &mut work).unwrap().to_owned());
    let logits = logits.unwrap();
    let (mut target, mut satisfied) = (Mat::<f32>::zeros(10, n), vec![false; n]);
    let pass =
        EmbeddingPass { logits: logits.as_ref(), labels: &labels, target: target.as_mut(), satisfied: &mut satisfied };
    OutputEmbedding::Margin(MARGIN).embed(pass, Par::Seq).unwrap();
    let target_out = TargetBox::point(target.as_ref());
    let goal = ChainGoal { target_out, margins: Some(Margins { labels: &labels, margin: MARGIN }) };
    chain.reverse(goal, TargetMode::Attainable, &mut work).unwrap();
    let mut right = 0;
    for boundary in 0..2 {
        let stage = boundary + 1;
        let target = tensor_from_matrix(chain.target(boundary, &work), network.stages()[stage].input()).unwrap();
        let logits = network.forward_from(stage, &target).unwrap().to_vec2::<f32>().unwrap();
        right += logits.iter().zip(&labels).filter(|(row, label)| row.iter().all(|v| *v <= row[**label])).count();
    }
    assert_eq!(right, 2 * n);
}
