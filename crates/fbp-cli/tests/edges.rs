//! Numbers at the edge: every command against inputs, weights and sizes that are as odd as can be. It gives a right answer or one
//! clear error; what it writes and says holds numbers, and never NaN.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]
#![allow(clippy::print_stdout, reason = "--nocapture shows a table")]

mod common;
#[path = "edges/world.rs"]
mod world;

use world::{Data, Edge, Network, check};

/// What says that numbers on the way are too large or too small, in whatever words fit the command: the squares of features
/// that are numbers themselves need not be.
const TOO_LARGE: &str = "too large|not finite";
/// Some distances have no measure where nothing ever changes.
const ALL_THE_SAME: &str = "the same for every sample";

#[test]
fn inputs_at_the_edge() {
    check(&[
        Edge { name: "ordinary", ..Edge::default() },
        // Logits are finite, squares of features are not.
        Edge {
            name: "±1e30",
            data: Data { value: |_, v| if v > 0.0 { 1e30 } else { -1e30 }, ..Data::default() },
            may: TOO_LARGE,
            ..Edge::default()
        },
        Edge {
            name: "one of 1e30",
            data: Data { value: |k, v| if k == 7 { 1e30 } else { v }, ..Data::default() },
            fails: &[("mahalanobis", TOO_LARGE)],
            may: TOO_LARGE,
            ..Edge::default()
        },
        Edge {
            name: "denormal",
            data: Data { value: |_, v| v * 1e-40, ..Data::default() },
            fails: &[("mahalanobis", ALL_THE_SAME)],
            ..Edge::default()
        },
        Edge {
            name: "all zero",
            data: Data { value: |_, _| 0.0, ..Data::default() },
            fails: &[("mahalanobis", ALL_THE_SAME)],
            ..Edge::default()
        },
        Edge {
            name: "NaN",
            data: Data { value: |k, v| if k == 40 { f32::NAN } else { v }, ..Data::default() },
            fails: &[("* pretrain predict", "not finite")],
            ..Edge::default()
        },
        Edge {
            name: "-∞",
            data: Data { value: |k, v| if k == 40 { f32::NEG_INFINITY } else { v }, ..Data::default() },
            fails: &[("* pretrain predict", "not finite")],
            ..Edge::default()
        },
    ]);
}

#[test]
fn weights_at_the_edge() {
    let large = |_: &str, _, w: f32| 1e30_f32.copysign(w);
    check(&[
        Edge { name: "all ±1e30", weights: Some(large), fails: &[("* predict", TOO_LARGE)], ..Edge::default() },
        Edge {
            name: "one of 1e30",
            weights: Some(|name, k, w| if k == 0 && name.starts_with("fc1") { 1e30 } else { w }),
            fails: &[("mahalanobis", TOO_LARGE)],
            may: TOO_LARGE,
            ..Edge::default()
        },
        // Features that would change the outputs by so much are no numbers of single precision.
        Edge {
            name: "denormal",
            weights: Some(|_, _, w| w * 1e-40),
            fails: &[("mahalanobis", ALL_THE_SAME)],
            may: "not finite",
            ..Edge::default()
        },
        Edge {
            name: "denormal out",
            weights: Some(|name, _, w| if name.starts_with("out") { w * 1e-40 } else { w }),
            may: "not finite",
            ..Edge::default()
        },
        Edge { name: "zero", weights: Some(|_, _, _| 0.0), fails: &[("mahalanobis", ALL_THE_SAME)], ..Edge::default() },
        Edge {
            name: "zero conv",
            weights: Some(|name, _, w| if name.starts_with("conv") { 0.0 } else { w }),
            fails: &[("mahalanobis", ALL_THE_SAME)],
            ..Edge::default()
        },
        Edge {
            name: "zero out",
            weights: Some(|name, _, w| if name.starts_with("out") { 0.0 } else { w }),
            ..Edge::default()
        },
        Edge {
            name: "NaN",
            weights: Some(|name, k, w| if k == 0 && name.starts_with("conv") { f32::NAN } else { w }),
            fails: &[("* predict import export", "not finite")],
            ..Edge::default()
        },
        Edge {
            name: "∞",
            weights: Some(|name, k, w| if k == 0 && name.starts_with("out") { f32::INFINITY } else { w }),
            fails: &[("* predict import export", "not finite")],
            ..Edge::default()
        },
    ]);
}

#[test]
fn sizes_at_the_edge() {
    check(&[
        Edge {
            name: "one pixel",
            data: Data { side: 1, ..Data::default() },
            network: Network { side: 1, kernel: 1, ..Network::default() },
            ..Edge::default()
        },
        Edge {
            name: "one class",
            data: Data { label: |_| 0, ..Data::default() },
            network: Network { classes: 1, ..Network::default() },
            ..Edge::default()
        },
        Edge { name: "one label", data: Data { label: |_| 1, ..Data::default() }, ..Edge::default() },
        Edge {
            name: "one sample",
            data: Data { samples: [1, 1], classes: Some(3), ..Data::default() },
            fails: &[
                ("mahalanobis", ALL_THE_SAME),
                ("prune channels quantise", "--calibrate = 40 is more than the 1 images that there are"),
                ("adapt", "--folds = 2 makes no sense for 1 labels"),
                ("analyse-repair", ALL_THE_SAME),
            ],
            ..Edge::default()
        },
        Edge {
            name: "no channels",
            data: Data { channels: 0, ..Data::default() },
            network: Network { channels: 0, ..Network::default() },
            fails: &[("pretrain import", "size of zero"), ("*", "no data")],
            ..Edge::default()
        },
        Edge {
            name: "no samples",
            data: Data { samples: [0, 5], ..Data::default() },
            fails: &[("* pretrain predict", "at least one")],
            ..Edge::default()
        },
        Edge {
            name: "256 classes",
            data: Data { label: |k| 4 * k as i64, classes: Some(256), ..Data::default() },
            network: Network { classes: 256, ..Network::default() },
            ..Edge::default()
        },
        Edge {
            name: "10,000 classes",
            data: Data { label: |k| 150 * k as i64, ..Data::default() },
            network: Network { classes: 10_000, ..Network::default() },
            fails: &[(
                "* pretrain",
                "holds 300 for sample 2: classes are numbered from 0 to below 256, as there can be no more",
            )],
            ..Edge::default()
        },
        Edge {
            name: "label too large",
            data: Data { label: |k| if k == 5 { 7 } else { k as i64 % 3 }, classes: Some(3), ..Data::default() },
            fails: &[("* pretrain", "holds 7 for sample 5: classes are numbered from 0 to below 3")],
            ..Edge::default()
        },
        Edge {
            name: "label -1",
            data: Data { label: |k| if k == 5 { -1 } else { k as i64 % 3 }, ..Data::default() },
            fails: &[("* pretrain", "holds -1 for sample 5")],
            ..Edge::default()
        },
    ]);
}

#[test]
fn outputs_at_the_edge() {
    let two = Network { classes: 2, ..Network::default() };
    let of = |output| Data { output: Some(output), ..Data::default() };
    check(&[
        Edge { name: "ordinary", data: of(|_, v| v), network: two, ..Edge::default() },
        Edge { name: "1e30", data: of(|_, v| v * 1e30), network: two, may: TOO_LARGE, ..Edge::default() },
        Edge { name: "denormal", data: of(|_, v| v * 1e-40), network: two, ..Edge::default() },
        Edge {
            name: "NaN",
            data: of(|k, v| if k == 3 { f32::NAN } else { v }),
            network: two,
            fails: &[("* pretrain", "not finite")],
            ..Edge::default()
        },
        Edge {
            name: "weights of 1e30",
            data: of(|_, v| v),
            network: two,
            weights: Some(|_, _, w| 1e30_f32.copysign(w)),
            fails: &[("* predict", TOO_LARGE)],
            ..Edge::default()
        },
        Edge {
            name: "weights of zero",
            data: of(|_, v| v),
            network: two,
            weights: Some(|_, _, _| 0.0),
            ..Edge::default()
        },
    ]);
}
