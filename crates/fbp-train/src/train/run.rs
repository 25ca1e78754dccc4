use fbp_models::Network;

use super::curves::PostTrainCurves;
use super::goal::{Goal, check_policy, check_stage};
use super::host::Host;
use super::options::PostTrainOptions;
use super::segments::cut_names;
use super::session::Session;
use super::sums::LayerSums;
use super::{closed_form, head, joint, segments, tail};
use crate::TrainError;
use crate::affine::AffineLayer;
use crate::data::{DataBundle, SPLIT_SEED, Split};
use crate::progress::Progress;
use crate::settings::{LossKind, Objective};
use crate::share::Share;
use crate::targets::{transitional_names, transitional_stage};

/// Word for every stage, where one is chosen.
pub const ALL_STAGES: &str = "all";

/// Checks that `stage` is given where the objective needs one, and names what is trained where it is not: `all` for full
/// fine-tuning, the last stage for the head. The objectives with a distance that gradients minimise (joint and local)
/// take the last stage too, whose targets come straight from the labels; without a stage they train all of them that way.
/// [`ALL_STAGES`] means the same as no stage.
///
/// # Errors
/// [`TrainError::UnknownStage`], [`TrainError::Missing`], or [`TrainError::Setting`] for a stage that is not needed.
pub fn stage_of_mode(network: &Network, mode: Objective, stage: Option<&str>) -> Result<String, TrainError> {
    let last = network.stages().last().map_or("", |stage| stage.name());
    let names = || network.stages().iter().map(|stage| stage.name().to_owned()).collect::<Vec<_>>();
    // The word stands for every stage, unless one is called like that.
    let stage = stage.filter(|stage| *stage != ALL_STAGES || names().iter().any(|name| name == ALL_STAGES));
    let (default, known) = match mode {
        // The stages up to the last one are all of them.
        Objective::Joint | Objective::Local => (Some(last), names()),
        Objective::Tail => (None, transitional_names(network)),
        Objective::ClosedForm => {
            let known = transitional_names(network);
            (None, known.into_iter().filter(|name| AffineLayer::of(network, name).is_ok()).collect())
        }
        Objective::Hierarchical => return cut_names(network, stage),
        Objective::Full => (Some(ALL_STAGES), Vec::new()),
        Objective::Head => (Some(last), vec![last.to_owned()]),
    };
    match (default, stage) {
        (_, Some(stage)) if known.iter().any(|name| name == stage) => Ok(stage.to_owned()),
        (Some(name), None) => Ok(name.to_owned()),
        (None, None) => {
            let reason = match mode {
                Objective::Tail => "the mode tail trains the stages above one; name it",
                _ => "the mode closed-form solves for a layer of one stage; name it",
            };
            Err(TrainError::Missing { name: "stage", reason: format!("{reason}: {}", known.join(", ")) })
        }
        (_, Some(stage)) if matches!(mode, Objective::Full | Objective::Head) => {
            let reason = "has no meaning for the modes full and head, which know what to train: leave it out";
            Err(TrainError::Setting { name: "stage", value: stage.to_owned(), reason: reason.into() })
        }
        // Says why it cannot be solved for.
        (None, Some(stage))
            if mode == Objective::ClosedForm && transitional_names(network).iter().any(|s| s == stage) =>
        {
            AffineLayer::of(network, stage).map(|_| stage.to_owned())
        }
        (_, Some(stage)) => Err(TrainError::UnknownStage { stage: stage.to_owned(), known: known.join(", ") }),
    }
}

/// Goes on training a network in place.
///
/// | objective | trains | on |
/// |---|---|---|
/// | joint | stages up to `stage` | `CE(z_L, y) + w · MSE(z_r, ẑ_r)` with the weight of the published recipe; α = 0 leaves the second term out |
/// | local | stages up to `stage` | `MSE(z_r, ẑ_r)` alone; the stages above are not evaluated |
/// | full | every stage | `CE`: plain fine-tuning |
/// | tail | stages above `stage` | `CE`, from the features of `stage`, which are computed once |
/// | hierarchical | every stage | the stages named cut the network in segments; all at the same time, each segment on `MSE(z_r, ẑ_r)` from its features, which are computed once, the last one on `CE` or, with live targets, on the distance to them |
/// | closed-form | one layer of `stage` | ridge regression from its inputs to its targets |
/// | head | the last linear layer | `CE` and a damping towards the old weights, a convex problem, by L-BFGS; for outputs least squares |
///
/// For data with outputs `CE` is their loss, `mse` or `smooth-l1`.
///
/// `goal` may be left out if [`uses_targets`](PostTrainOptions::uses_targets) is false; its samples are those of
/// `data.train`. [`stage_of_mode`] says what `stage` has to be. With joint and local, targets that do not turn the frozen
/// rest of the network right are left out of the distance, unless they are point targets; with the policy refresh, the
/// targets of the samples that are trained on are computed again before every epoch but the first.
///
/// After an error the weights are somewhere on the way, but no stage is frozen.
///
/// # Errors
/// [`TrainError::UnknownStage`], [`TrainError::Parameter`], [`TrainError::Mismatch`] if the targets do not fit the data
/// or the stage, [`TrainError::Diverged`].
///
/// # Source
/// arXiv:2506.07188 (joint and local); the others are common practice.
pub fn post_train(
    network: &mut Network,
    stage: &str,
    data: &DataBundle,
    goal: Option<Goal<'_>>,
    options: &PostTrainOptions,
    progress: &dyn Progress,
) -> Result<PostTrainCurves, TrainError> {
    post_train_kept(network, stage, data, goal, options, Host::default(), progress)
}

/// As [`post_train`], and keeps the state of the training in files, from which it goes on if they are there. They stay until
/// [`StateFiles::remove`](super::StateFiles::remove). The modes closed-form and head take no steps and keep none.
///
/// Several ranks can do two of the modes together. With full each has its slice of every batch, and all have the result. With
/// hierarchical each trains the segments that are dealt to it, without a word to the others, and the first one gets them all:
/// only its network and curves are the result.
///
/// # Errors
/// Those of [`post_train`], [`TrainError::Stopped`] if `progress` says so, [`TrainError::Write`], [`TrainError::Setting`] for
/// several ranks and another mode, [`TrainError::Collective`].
pub fn post_train_kept(
    network: &mut Network,
    stage: &str,
    data: &DataBundle,
    goal: Option<Goal<'_>>,
    options: &PostTrainOptions,
    host: Host<'_>,
    progress: &dyn Progress,
) -> Result<PostTrainCurves, TrainError> {
    options.check()?;
    check_team(options.objective, &host)?;
    if let Some(state) = host.state {
        host.team.check_alike(state.settings())?;
    }
    options.objective.check_loss(LossKind::of(options.loss, &data.train)?)?;
    let stage = stage_of_mode(network, options.objective, Some(stage))?;
    check_policy(network, &stage, options)?;
    let split = Split::stratified(&data.train, options.validation, SPLIT_SEED)?;
    let session = Session { data, split, options, progress, host };
    let result = match options.objective {
        Objective::Joint | Objective::Local => joint::run(network, &stage, goal, session),
        Objective::Full => tail::run_full(network, session),
        Objective::Tail => tail::run_cached(network, transitional_stage(network, &stage)?, session),
        Objective::Head => head::run(network, session),
        Objective::Hierarchical => {
            let Some(Goal::Stages(store)) = goal else { return Err(missing_targets(options.objective)) };
            segments::run(network, &stage, store, session)
        }
        Objective::ClosedForm => {
            let stage = transitional_stage(network, &stage)?;
            let Some(Goal::Stage(targets)) = goal else { return Err(missing_targets(options.objective)) };
            check_stage(network, stage, data, targets).and_then(|()| closed_form::run(network, stage, targets, session))
        }
    };
    if result.is_err() {
        progress.end();
        network.set_group(None);
        network.set_training(false);
        network.freeze(0..0)?;
    }
    result
}

/// What a share of the samples adds to the closed form of a stage. The sums of all shares, added in their order, go to
/// [`post_train_kept`] in its [`Host`], which solves for the layer.
///
/// # Errors
/// Those of [`post_train`], [`TrainError::Setting`] for another mode, which adds nothing.
pub fn closed_form_sums(
    network: &Network,
    stage: &str,
    data: &DataBundle,
    goal: Option<Goal<'_>>,
    (options, share): (&PostTrainOptions, Share),
    progress: &dyn Progress,
) -> Result<LayerSums, TrainError> {
    options.check()?;
    if options.objective != Objective::ClosedForm {
        let reason = "is for the mode closed-form, whose sums can be added: leave it out".into();
        return Err(TrainError::Setting { name: "shard", value: share.to_string(), reason });
    }
    let split = Split::stratified(&data.train, options.validation, SPLIT_SEED)?;
    let session = Session { data, split, options, progress, host: Host::default() };
    let stage = transitional_stage(network, stage)?;
    let Some(Goal::Stage(targets)) = goal else { return Err(missing_targets(options.objective)) };
    check_stage(network, stage, data, targets)?;
    closed_form::sums_of(network, stage, targets, &session, Some(share)).map(LayerSums)
}

/// Checks that a mode can be done by as many ranks as there are.
fn check_team(mode: Objective, host: &Host<'_>) -> Result<(), TrainError> {
    if host.team.size() == 1 || matches!(mode, Objective::Full | Objective::Hierarchical) {
        return Ok(());
    }
    let reason = "is for one process: several ranks can do the modes full and hierarchical together".into();
    Err(TrainError::Setting { name: "mode", value: mode.to_string(), reason })
}

fn missing_targets(mode: Objective) -> TrainError {
    let reason = format!("the mode {mode} needs them: make some with `fbp targets` and name their folder");
    TrainError::Missing { name: "targets", reason }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use fbp_linalg::FeatureShape;
    use fbp_models::zoo;

    use super::super::{SaveEvery, StateFiles};
    use super::*;
    use crate::data::{Dataset, Normalization};
    use crate::progress::Silent;
    use crate::settings::TargetPolicy;
    use crate::store::{StoreWriter, TargetStore};
    use crate::targets::{TargetsOptions, TargetsSource, compute_targets};

    #[test]
    fn no_stage_is_frozen_after_an_error() {
        let images = (0..40 * 784).map(|k| (k * 37 % 251) as u8).collect();
        let labels = (0..40).map(|sample| sample % 10).collect();
        let train = Dataset::new("toy", FeatureShape::image(1, 28, 28), 10, images, labels).unwrap();
        let normalization = Normalization::fashion_mnist();
        let data = DataBundle::new(train.clone(), train, normalization, "toy");
        // Every step multiplies the weights by 1 - 10.
        let options = PostTrainOptions {
            alpha: 0.0,
            learning_rate: 1.0,
            weight_decay: 10.0,
            batch: 4,
            epochs: 50,
            ..PostTrainOptions::default()
        };
        let mut network = Network::new(&zoo::spec("simple-cnn-mnist-v1").unwrap(), 0).unwrap();
        let result = post_train(&mut network, "conv1", &data, None, &options, &Silent);
        assert!(matches!(result, Err(TrainError::Diverged { .. } | TrainError::NonFiniteOutput)), "{result:?}");
        assert!(network.stages().iter().all(|stage| !stage.is_frozen()));
    }

    /// Asks for the end after half of the images that were announced: where the second of two epochs begins.
    #[derive(Default)]
    struct EndsHalfWay {
        total: AtomicUsize,
        done: AtomicUsize,
    }

    impl Progress for EndsHalfWay {
        fn begin(&self, _: &str, total: usize, _: &str) {
            self.total.store(total, Ordering::Relaxed);
        }

        fn advance(&self, units: usize) {
            self.done.fetch_add(units, Ordering::Relaxed);
        }

        fn note(&self, _: &str) {}

        fn end(&self) {}

        fn stop_asked(&self) -> bool {
            let total = self.total.load(Ordering::Relaxed);
            total > 0 && 2 * self.done.load(Ordering::Relaxed) >= total
        }
    }

    #[test]
    fn a_stop_while_targets_are_refreshed_says_what_is_kept_of_the_training() {
        const SAMPLES: usize = 40;
        let images = (0..SAMPLES * 784).map(|k| (k * k % 251) as u8).collect();
        let labels = (0..SAMPLES).map(|sample| (sample % 10) as u8).collect();
        let train = Dataset::new("toy", FeatureShape::image(1, 28, 28), 10, images, labels).unwrap();
        let data = DataBundle::new(train.clone(), train, Normalization::fashion_mnist(), "toy");
        let network = Network::new(&zoo::spec("simple-cnn-mnist-v1").unwrap(), 2).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let source = TargetsSource { network: &network, data: &data.train, normalization: &data.normalization };
        let identity = crate::DataIdentity { name: "toy".into(), sha256: String::new(), samples: SAMPLES };
        let manifest = TargetsOptions::default().manifest(&network, String::new(), identity).unwrap();
        let writer = StoreWriter::open(folder.path(), manifest, false).unwrap();
        compute_targets(source, &writer, &Silent).unwrap();
        let store = TargetStore::open(folder.path()).unwrap();
        let options =
            PostTrainOptions { policy: TargetPolicy::Refresh, epochs: 2, batch: 8, ..PostTrainOptions::default() };
        let files = StateFiles::new(&folder.path().join("p.safetensors"), &1, SaveEvery::Auto).unwrap();
        let wanted =
            ["no state was kept after step 0 of epoch 2 of 2", "its state after step 0 of epoch 2 of 2 is kept"];
        for (state, wanted) in [None, Some(&files)].into_iter().zip(wanted) {
            let (mut network, goal) = (network.duplicate().unwrap(), Some(Goal::Stage(store.stage("conv1").unwrap())));
            let host = Host { state, ..Host::default() };
            let stopped = post_train_kept(&mut network, "conv1", &data, goal, &options, host, &EndsHalfWay::default());
            let Err(TrainError::Stopped { left }) = stopped else { panic!("{stopped:?}") };
            assert!(left.starts_with(wanted), "{left}");
        }
        assert!(folder.path().join("p.safetensors.state-0").exists());
    }

    #[test]
    fn no_stage_and_all_mean_the_same() {
        let network = Network::new(&zoo::spec("cnn-mnist-large").unwrap(), 0).unwrap();
        let of = |mode, stage| stage_of_mode(&network, mode, stage);
        for (mode, expected) in [
            (Objective::Joint, "out"),
            (Objective::Local, "out"),
            (Objective::Full, "all"),
            (Objective::Head, "out"),
            (Objective::Hierarchical, "conv1+conv2+fc1"),
        ] {
            assert_eq!(of(mode, None).unwrap(), expected, "{mode}");
            assert_eq!(of(mode, Some("all")).unwrap(), expected, "{mode}");
        }
        for mode in [Objective::Tail, Objective::ClosedForm] {
            for stage in [None, Some("all")] {
                let error = of(mode, stage).unwrap_err().one_line();
                assert!(error.contains("conv1, conv2, fc1"), "{error}");
            }
        }
        assert!(of(Objective::Full, Some("conv1")).is_err() && of(Objective::Joint, Some("conv9")).is_err());
    }
}
