//! Which channels can be taken away, and what goes with them.

use fbp_models::LayerSpec;
use fbp_models::spec::{LayerPlan, Merge, NetworkPlan};

use super::record::LeftAlone;

/// A layer whose output channels can be taken away one by one, with everything that then loses an input.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Producer {
    /// Its path.
    pub(super) path: String,
    /// Number of its channels.
    pub(super) channels: usize,
    /// Batch normalisations on the way, the first one directly behind it or not at all.
    pub(super) norms: Vec<String>,
    /// Whether the first norm follows directly.
    pub(super) is_normed: bool,
    /// Depthwise convolutions on the way.
    pub(super) depthwise: Vec<String>,
    /// Layers that read the channels, and the number of entries of their columns' channels that each one is.
    pub(super) consumers: Vec<(String, usize)>,
}

/// What comes after a layer: the rest of its list, of the list around it, and so on, up to where channels are held fast.
#[derive(Clone)]
struct Rest<'a> {
    lists: Vec<&'a [LayerPlan]>,
    end: &'static str,
}

const OUTPUT: &str = "its outputs are those of the network";
const SUM: &str = "its channels are summands of a sum";
const CONCAT: &str = "its channels go into a concatenation";
const PRODUCT: &str = "its channels are factors of a product";

/// All layers whose channels can go, and the linear and convolutional layers that keep theirs, with the reason.
pub(super) fn producers(plan: &NetworkPlan) -> (Vec<Producer>, Vec<LeftAlone>) {
    let (mut found, mut left) = (Vec::new(), Vec::new());
    for stage in 0..plan.stages.len() {
        let later: Vec<&[LayerPlan]> = plan.stages[stage + 1..].iter().map(|stage| &stage.layers[..]).collect();
        visit(&plan.stages[stage].layers, &Rest { lists: later, end: OUTPUT }, &mut found, &mut left);
    }
    (found, left)
}

fn visit<'a>(layers: &'a [LayerPlan], after: &Rest<'a>, found: &mut Vec<Producer>, left: &mut Vec<LeftAlone>) {
    for (place, plan) in layers.iter().enumerate() {
        let mut lists = vec![&layers[place + 1..]];
        lists.extend(&after.lists);
        let rest = Rest { lists, end: after.end };
        match &plan.spec {
            LayerSpec::Block { .. } => plan.branches.iter().for_each(|inner| visit(inner, &rest, found, left)),
            LayerSpec::Residual { .. } => branches(plan, SUM, found, left),
            LayerSpec::Parallel { merge, .. } => {
                let end = match merge {
                    Merge::Sum => SUM,
                    Merge::Concat => CONCAT,
                    Merge::Product => PRODUCT,
                };
                branches(plan, end, found, left);
            }
            spec => match producer(plan, spec, &rest) {
                Some(Ok(producer)) => found.push(producer),
                Some(Err(reason)) => left.push(LeftAlone { layer: plan.path.clone(), reason }),
                None => {}
            },
        }
    }
}

fn branches(plan: &LayerPlan, end: &'static str, found: &mut Vec<Producer>, left: &mut Vec<LeftAlone>) {
    plan.branches.iter().for_each(|inner| visit(inner, &Rest { lists: Vec::new(), end }, found, left));
}

/// None for a layer without a matrix.
fn producer(plan: &LayerPlan, spec: &LayerSpec, rest: &Rest<'_>) -> Option<Result<Producer, String>> {
    let channels = match spec {
        LayerSpec::Conv2d { groups: 1, out_channels, .. } => *out_channels,
        LayerSpec::Linear { out_features, .. } => *out_features,
        // Its channels go with those of the layer before it.
        LayerSpec::Conv2d { .. } if is_depthwise(plan) => return None,
        LayerSpec::Conv2d { .. } => return Some(Err("its channels belong to groups".into())),
        LayerSpec::Attention { .. } => return Some(Err("its outputs belong to heads".into())),
        _ => return None,
    };
    let is_normed = rest.lists.iter().find_map(|list| list.first());
    let is_normed = is_normed.is_some_and(|next| matches!(next.spec, LayerSpec::BatchNorm { .. }));
    let mut producer = Producer { path: plan.path.clone(), channels, is_normed, ..Producer::default() };
    let mut factor = 1;
    for list in &rest.lists {
        match follow(list, &mut factor, &mut producer) {
            Ok(true) => return Some(Ok(producer)),
            Ok(false) => {}
            Err(reason) => return Some(Err(reason)),
        }
    }
    Some(Err(rest.end.into()))
}

fn is_depthwise(plan: &LayerPlan) -> bool {
    matches!(plan.spec, LayerSpec::Conv2d { groups, out_channels, .. }
        if groups > 1 && groups == out_channels && groups == plan.input.shape.channels)
}

/// Follows channels through a list of layers; whether all of them are read within it. `factor` is the number of neighbouring entries
/// that a channel has become.
fn follow(layers: &[LayerPlan], factor: &mut usize, producer: &mut Producer) -> Result<bool, String> {
    for plan in layers {
        match &plan.spec {
            LayerSpec::BatchNorm { .. } if *factor == 1 => producer.norms.push(plan.path.clone()),
            LayerSpec::MaxPool2d { .. }
            | LayerSpec::AvgPool2d { .. }
            | LayerSpec::AdaptiveAvgPool2d { .. }
            | LayerSpec::GlobalAvgPool2d {}
            | LayerSpec::ZeroPad2d { .. }
            | LayerSpec::Dropout { .. }
            | LayerSpec::DropPath { .. } => {}
            LayerSpec::Flatten {} if plan.input.is_image() => {
                *factor *= plan.input.shape.height * plan.input.shape.width;
            }
            LayerSpec::Flatten {} if plan.input.is_flat() => {}
            LayerSpec::Conv2d { groups: 1, .. } | LayerSpec::Linear { .. } => {
                producer.consumers.push((plan.path.clone(), *factor));
                return Ok(true);
            }
            LayerSpec::Conv2d { .. } if is_depthwise(plan) => producer.depthwise.push(plan.path.clone()),
            LayerSpec::Block { .. } => {
                if follow(&plan.branches[0], factor, producer)? {
                    return Ok(true);
                }
            }
            LayerSpec::Residual { .. } | LayerSpec::Parallel { .. } => {
                for branch in &plan.branches {
                    let mut own = *factor;
                    if branch.is_empty() {
                        return Err("its channels go past other layers in a shortcut".into());
                    }
                    if !follow(branch, &mut own, producer)? {
                        return Err(format!("its channels pass through {} and are joined with others", plan.path));
                    }
                }
                return Ok(true);
            }
            other if other.activation().is_some() => {}
            other => return Err(format!("its channels go into a {} layer", other.kind())),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use fbp_models::zoo;

    use super::*;

    fn of(name: &str) -> (Vec<Producer>, Vec<LeftAlone>) {
        producers(&zoo::spec(name).unwrap().plan().unwrap())
    }

    #[test]
    fn channels_go_where_nothing_holds_them() {
        let (found, left) = of("resnet20");
        let paths: Vec<&str> = found.iter().map(|producer| &producer.path[..]).collect();
        assert_eq!(paths.len(), 9, "{paths:?}");
        assert!(paths.iter().all(|path| path.ends_with("conv1") && path.contains('.')));
        assert_eq!(found[0].norms, ["layer1.0.bn1"]);
        assert_eq!(found[0].consumers, [("layer1.0.conv2".to_owned(), 1)]);
        let reason = |path: &str| left.iter().find(|one| one.layer == path).map(|one| one.reason.clone());
        assert_eq!(reason("layer1.0.conv2").unwrap(), SUM);
        assert_eq!(reason("fc").unwrap(), OUTPUT);
        assert!(reason("conv1").unwrap().contains("shortcut"));
        let (found, _) = of("cnn-mnist-large");
        assert_eq!(found.iter().map(|one| one.consumers[0].1).collect::<Vec<_>>(), [1, 16, 1]);
        let (found, _) = of("squeezenet1_1");
        assert!(found.iter().any(|one| one.path.ends_with("squeeze") && one.consumers.len() == 2));
        let (found, _) = of("mobilenet-v2");
        assert!(found.iter().any(|one| one.depthwise.len() == 1 && one.norms.len() == 2));
        let (found, left) = of("simple-vit-v2");
        assert!(found.len() == 4 && found.iter().all(|one| one.path.ends_with("mlp.fc1")), "{left:?}");
    }
}
