use fbp_models::LayerSpec;
use fbp_models::spec::{LayerPlan, NetworkPlan};

use super::record::LeftAlone;
use crate::patches::Patches;

/// A linear layer or convolution as `W x̃` on columns, one matrix for every group of channels.
#[derive(Clone, Debug)]
pub(super) struct MatrixLayer {
    /// Path of the layer, for example `layer1.0.conv1` or `blocks.0.attn.qkv`.
    pub(super) path: String,
    pub(super) form: Form,
    /// Outputs of one group.
    pub(super) outputs: usize,
    /// Length of a column of one group, without the constant.
    pub(super) inputs: usize,
    pub(super) groups: usize,
    pub(super) has_bias: bool,
    /// Path of the batch normalisation that follows, if one does: it takes up any shift and scale.
    pub(super) norm: Option<String>,
}

/// How columns are made of the layer's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    /// One column per sample, or one per token.
    Rows,
    /// One column per output position.
    Conv(Patches),
}

/// How values lie in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// `[N, C, ..]`: all places of a channel, then those of the next one.
    ChannelsFirst,
    /// `[.., C]`: all channels of a place side by side.
    ChannelsLast,
}

impl MatrixLayer {
    /// Name of its weight.
    pub(super) fn weight(&self) -> String {
        format!("{}.weight", self.path)
    }

    /// Name of its bias, if it has one.
    pub(super) fn bias(&self) -> String {
        format!("{}.bias", self.path)
    }

    /// Outputs of all groups.
    pub(super) fn all_outputs(&self) -> usize {
        self.groups * self.outputs
    }

    /// Positions of a kernel, which are the neighbours of one channel in a column.
    pub(super) fn taps(&self) -> usize {
        match self.form {
            Form::Rows => 1,
            Form::Conv(patches) => patches.taps(),
        }
    }

    /// How its outputs lie in a batch.
    pub(super) fn order(&self) -> Order {
        match self.form {
            Form::Rows => Order::ChannelsLast,
            Form::Conv(_) => Order::ChannelsFirst,
        }
    }

    /// Columns are one longer if the layer has a bias, or if a normalisation that follows takes the place of one.
    pub(super) fn has_constant(&self) -> bool {
        self.has_bias || self.norm.is_some()
    }

    /// The layer of a plan, or those within attention; none for other kinds.
    pub(super) fn of(plan: &LayerPlan, next: Option<&LayerPlan>) -> Vec<Self> {
        let next = next.filter(|next| matches!(next.spec, LayerSpec::BatchNorm { .. }));
        let norm = next.map(|next| next.path.clone());
        let has = |name: &str| plan.params.iter().any(|param| param.name == name);
        let dims = |name: &str| plan.params.iter().find(|param| param.name == name).map(|param| param.dims.clone());
        let rows = |part: &str, path: String, norm: Option<String>| {
            let dims = dims(&join(part, "weight"))?;
            Some(Self {
                path,
                form: Form::Rows,
                outputs: dims[0],
                inputs: dims[1],
                groups: 1,
                has_bias: has(&join(part, "bias")),
                norm,
            })
        };
        match plan.spec {
            LayerSpec::Linear { .. } => rows("", plan.path.clone(), norm).into_iter().collect(),
            LayerSpec::Attention { .. } => {
                ["qkv", "proj"].iter().filter_map(|part| rows(part, format!("{}.{part}", plan.path), None)).collect()
            }
            LayerSpec::Conv2d { kernel, groups, .. } => {
                let outputs = plan.output.shape.channels / groups;
                let inputs = plan.input.shape.channels / groups * kernel.h * kernel.w;
                let own = |patches| Self {
                    path: plan.path.clone(),
                    form: Form::Conv(patches),
                    outputs,
                    inputs,
                    groups,
                    has_bias: has("bias"),
                    norm,
                };
                Patches::of(plan).map(own).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

fn join(part: &str, name: &str) -> String {
    if part.is_empty() { name.to_owned() } else { format!("{part}.{name}") }
}

/// Every layer that can be compressed, in the order of the description, and what else has weights and stays as it is.
pub(super) fn matrix_layers(plan: &NetworkPlan) -> (Vec<MatrixLayer>, Vec<LeftAlone>) {
    let (mut found, mut left) = (Vec::new(), Vec::new());
    for stage in &plan.stages {
        collect(&stage.layers, &mut found, &mut left);
    }
    (found, left)
}

fn collect(layers: &[LayerPlan], found: &mut Vec<MatrixLayer>, left: &mut Vec<LeftAlone>) {
    for (place, plan) in layers.iter().enumerate() {
        let own = MatrixLayer::of(plan, layers.get(place + 1));
        let has_matrix = plan.params.iter().any(|param| param.name.ends_with("weight") && param.dims.len() > 1);
        if own.is_empty() && has_matrix {
            let reason = format!("a {} layer is no matrix on columns here", plan.spec.kind());
            left.push(LeftAlone { layer: plan.path.clone(), reason });
        }
        found.extend(own);
        plan.branches.iter().for_each(|branch| collect(branch, found, left));
    }
}
