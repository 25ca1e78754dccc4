use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use fbp_models::{Checkpoint, checkpoint};
use rayon::ThreadPool;
use serde::{Deserialize, Serialize};

use super::config::SweepConfig;
use super::grid::{Grid, RunPlan, StartOrigin, StartPlan, digest};
use super::plan::{Plan, PlannedRun, TargetPlan, Task, describe};
use super::shared::{RunList, is_run_done, make, remove_targets};
use crate::TrainError;
use crate::atomic::{FolderLock, prepare_folder, write_atomic};
use crate::data::DataBundle;
use crate::hash::bytes_sha256;
use crate::identity::file_sha256;
use crate::input::Input;
use crate::json::{differences, read_json, write_json};
use crate::outputs::{OutputLock, record_path};
use crate::progress::{Progress, Quiet};
use crate::settings::{Embedding, Metric, check};
use crate::share::{Share, wait_for_lock, wait_until_free};
use crate::store::{StoreWriter, TargetStore};
use crate::targets::{OutputGoal, TargetsOptions, TargetsSource, compute_targets};
use crate::tasks::run_tasks;
use crate::train::{
    Goal, Host, PostTrainRecord, PostTrainSettings, PretrainRecord, PretrainSettings, SaveEvery, StateFiles,
    post_train_kept, pretrain_to_file,
};

/// What all runs of one folder have in common.
const SUBJECT_FILE: &str = "sweep.json";
/// Folder of the records, with one folder for each start.
pub const RUNS_FOLDER: &str = "runs";

/// A sweep, with all its runs listed.
#[derive(Debug)]
pub struct Sweep {
    grid: Grid,
    input: Input,
    /// What starts are trained on, if that is something else.
    start_input: Option<Input>,
    out: PathBuf,
    threads_per_run: usize,
    keep_checkpoints: bool,
    keep_targets: bool,
}

/// Contents of [`SUBJECT_FILE`].
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Subject {
    data_sha256: String,
    validation: f64,
}

impl Sweep {
    /// Lists the runs of a description; results go to `out`.
    ///
    /// # Errors
    /// [`TrainError::Sweep`] for what cannot be run, [`TrainError::Data`] or [`TrainError::Read`] if data or a checkpoint
    /// cannot be read.
    pub fn new(config: &SweepConfig, out: &Path) -> Result<Self, TrainError> {
        let wrong = |error: TrainError| config.error(error.one_line());
        check("threads_per_run", config.threads_per_run, 1..=1024, "1 to 1024").map_err(wrong)?;
        check("validation", config.validation, 0.0..1.0, "[0, 1)").map_err(wrong)?;
        let input = config.data.load()?;
        let start_input = config.data.before_recovery().map(|data| data.load()).transpose()?;
        let start_data = start_input.as_ref().unwrap_or(&input);
        Ok(Self {
            grid: Grid::new(config, &input.identity, start_data, out)?,
            input,
            start_input,
            out: out.to_owned(),
            threads_per_run: config.threads_per_run,
            keep_checkpoints: config.keep_checkpoints,
            keep_targets: config.keep_targets,
        })
    }

    /// Number of runs, each counted once.
    pub fn len(&self) -> usize {
        self.grid.runs.len()
    }

    /// Never true: a sweep without runs is an error.
    pub fn is_empty(&self) -> bool {
        self.grid.runs.is_empty()
    }

    /// How many runs were written down more than once.
    pub fn duplicates(&self) -> usize {
        self.grid.duplicates
    }

    /// Every run and whether it is done.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn list(&self) -> Result<Vec<PlannedRun>, TrainError> {
        let planned = |run: &RunPlan| {
            Ok(PlannedRun {
                start: self.start_of(run).name.clone(),
                name: run.name.clone(),
                done: self.is_done(run)?,
                text: describe(run),
            })
        };
        self.grid.runs.iter().map(planned).collect()
    }

    /// Does the runs that are missing, `threads / threads_per_run` at a time.
    ///
    /// A run whose training diverges has no record; the others go on, and the error comes at the end.
    ///
    /// # Errors
    /// [`TrainError::OtherSettings`] if the folder has runs on other data, [`TrainError::Busy`] if another sweep writes
    /// there, [`TrainError::SweepRuns`] if runs diverged, and those of pretraining, targets and post-training.
    pub fn run(&self, threads: usize, progress: &dyn Progress) -> Result<(), TrainError> {
        prepare_folder(&self.out)?;
        let _lock = FolderLock::acquire(&self.out)?;
        self.check_subject()?;
        self.work(None, threads, progress)?;
        if self.keep_targets { Ok(()) } else { remove_targets(&self.out) }
    }

    /// Does a share of the runs that are missing, beside other processes that do theirs. Starts and targets that several of
    /// them need are made by the first one, for which the others wait. [`merge_sweep`](super::merge_sweep) closes the sweep.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`TrainError::Busy`] if another process does the same share, or the sweep alone.
    pub fn run_share(&self, share: Share, threads: usize, progress: &dyn Progress) -> Result<(), TrainError> {
        make(&self.out)?;
        let _lock = FolderLock::share(&self.out)?;
        let _own = OutputLock::acquire(&self.out.join(format!("shard{}", share.suffix())))?;
        {
            let _turn = wait_for_lock(&self.out.join(SUBJECT_FILE), progress)?;
            self.check_subject()?;
            let files = self.grid.runs.iter().map(|run| {
                let file = Path::new(RUNS_FOLDER).join(&self.start_of(run).name).join(format!("{}.json", run.name));
                file.to_string_lossy().into_owned()
            });
            let (keep_checkpoints, keep_targets) = (self.keep_checkpoints, self.keep_targets);
            RunList { runs: files.collect(), keep_checkpoints, keep_targets }.leave_in(&self.out)?;
        }
        self.work(Some(share), threads, progress)
    }

    /// Does what is missing, of a share if there is one.
    fn work(&self, share: Option<Share>, threads: usize, progress: &dyn Progress) -> Result<(), TrainError> {
        // Of shared folders nothing is removed: other machines may be at work, whose locks are not seen everywhere.
        let prepare = if share.is_some() { make } else { prepare_folder };
        for start in &self.grid.starts {
            prepare(&self.runs_folder(start))?;
        }
        prepare(&self.out.join("starts"))?;
        let plan = self.plan(share)?;
        let weights: Vec<usize> = plan.tasks.iter().map(|task| self.weight(*task)).collect();
        let pool = || Ok(rayon::ThreadPoolBuilder::new().num_threads(self.threads_per_run).build()?);
        let work = |pool: &ThreadPool, task: usize| {
            pool.install(|| self.task(&plan, plan.tasks[task], (share, progress)))?;
            progress.advance(weights[task]);
            Ok(())
        };
        progress.begin("sweep", weights.iter().sum(), "epochs");
        let failures = run_tasks(&plan.needs, threads / self.threads_per_run, pool, work, concerns_one_run);
        progress.end();
        let mut failures = failures?;
        match failures.iter().position(|(_, error)| !concerns_one_run(error)) {
            Some(fatal) => Err(match failures.swap_remove(fatal).1 {
                TrainError::Stopped { .. } => stopped(),
                error => error,
            }),
            None => self.failed(&plan, &failures, share),
        }
    }

    /// The error that sums failed runs up, if there are any.
    fn failed(&self, plan: &Plan, failures: &[(usize, TrainError)], share: Option<Share>) -> Result<(), TrainError> {
        let Some((task, error)) = failures.first() else { return Ok(()) };
        let (mut failed, mut total) = (0, 0);
        for (_, run) in self.runs_of(share) {
            total += 1;
            failed += usize::from(!self.is_done(run)?);
        }
        let name = match plan.tasks[*task] {
            Task::Start(start) => format!("pretraining {}", self.grid.starts[start].file.display()),
            Task::Targets(targets) | Task::Remove(targets) => plan.targets[targets].folder.display().to_string(),
            Task::Run(run) => {
                let run = &self.grid.runs[run];
                format!("{}, {}", self.start_of(run).name, describe(run))
            }
        };
        let first = format!("{name}: {}", error.one_line());
        Err(TrainError::SweepRuns { failed, total, first })
    }

    /// The runs of a share, or all of them, with their numbers.
    fn runs_of(&self, share: Option<Share>) -> impl Iterator<Item = (usize, &RunPlan)> {
        let runs = self.grid.runs.iter().enumerate();
        runs.filter(move |(index, _)| share.is_none_or(|share| share.has(*index)))
    }

    fn check_subject(&self) -> Result<(), TrainError> {
        let path = self.out.join(SUBJECT_FILE);
        let validation = self.grid.runs.first().map_or(0.0, |run| run.options.validation);
        let subject = Subject { data_sha256: self.input.identity.sha256.clone(), validation };
        match read_json::<Subject>(&path, "subject of a sweep")? {
            None => write_json(&path, &subject),
            Some(found) if found == subject => Ok(()),
            Some(found) => Err(TrainError::OtherSettings { path, differences: differences(&found, &subject) }),
        }
    }

    fn start_of(&self, run: &RunPlan) -> &StartPlan {
        &self.grid.starts[run.start]
    }

    fn runs_folder(&self, start: &StartPlan) -> PathBuf {
        self.out.join(RUNS_FOLDER).join(&start.name)
    }

    fn record_file(&self, run: &RunPlan) -> PathBuf {
        self.runs_folder(self.start_of(run)).join(format!("{}.json", run.name))
    }

    /// Where the targets of a run are, if it uses some of a store.
    fn target_folder(&self, run: &RunPlan) -> Option<PathBuf> {
        let options = run.targets.filter(|_| !run.of_output)?;
        Some(self.out.join("targets").join(digest(&(&self.start_of(run).origin, options))))
    }

    /// Whether the record of a run is there, and its checkpoint if it is to be kept.
    fn is_done(&self, run: &RunPlan) -> Result<bool, TrainError> {
        is_run_done(&self.record_file(run), self.keep_checkpoints)
    }

    /// What is missing.
    fn plan(&self, share: Option<Share>) -> Result<Plan, TrainError> {
        let mut plan = Plan::default();
        let mut starts = HashMap::new();
        let mut targets = HashMap::new();
        let mut users: Vec<Vec<usize>> = Vec::new();
        for (index, run) in self.runs_of(share) {
            if self.is_done(run)? {
                continue;
            }
            let start = match starts.get(&run.start) {
                Some(start) => *start,
                None => {
                    let missing = !self.has_start(self.start_of(run))?;
                    let task = missing.then(|| plan.add(Task::Start(run.start), Vec::new()));
                    starts.insert(run.start, task);
                    task
                }
            };
            let mut needs: Vec<usize> = start.into_iter().collect();
            let place = self.target_folder(run).zip(run.targets).map(|(folder, options)| {
                *targets.entry(folder.clone()).or_insert_with(|| {
                    plan.targets.push(TargetPlan { start: run.start, options, folder });
                    users.push(Vec::new());
                    (plan.targets.len() - 1, plan.add(Task::Targets(plan.targets.len() - 1), needs.clone()))
                })
            });
            needs.extend(place.map(|(_, task)| task));
            let task = plan.add(Task::Run(index), needs);
            if let Some((place, _)) = place {
                users[place].push(task);
            }
        }
        // Others may need them as well.
        if !self.keep_targets && share.is_none() {
            users.into_iter().enumerate().for_each(|(place, users)| {
                plan.add(Task::Remove(place), users);
            });
        }
        Ok(plan)
    }

    /// Passes over the training data that a task takes, more or less.
    fn weight(&self, task: Task) -> usize {
        match task {
            Task::Start(start) => match &self.grid.starts[start].origin {
                StartOrigin::Pretraining(settings) => settings.epochs,
                StartOrigin::Checkpoint(_) => 0,
            },
            Task::Run(run) if self.grid.runs[run].options.objective.takes_steps() => self.grid.runs[run].options.epochs,
            Task::Run(_) | Task::Targets(_) => 1,
            Task::Remove(_) => 0,
        }
    }

    fn task(
        &self,
        plan: &Plan,
        task: Task,
        (share, progress): (Option<Share>, &dyn Progress),
    ) -> Result<(), TrainError> {
        let quiet = &Quiet(progress);
        match task {
            _ if progress.stop_asked() => Err(stopped()),
            Task::Start(start) => self.pretrain(&self.grid.starts[start], share, quiet),
            Task::Targets(targets) => self.compute_targets(&plan.targets[targets], share, quiet),
            Task::Run(run) => self.post_train(&self.grid.runs[run], quiet),
            Task::Remove(targets) => {
                let folder = &plan.targets[targets].folder;
                std::fs::remove_dir_all(folder).map_err(TrainError::writing(folder))
            }
        }
    }

    fn has_start(&self, start: &StartPlan) -> Result<bool, TrainError> {
        let StartOrigin::Pretraining(settings) = &start.origin else { return Ok(true) };
        let record: Option<PretrainRecord> = read_json(&record_path(&start.file), "pretraining record")?;
        Ok(record.is_some_and(|record| {
            record.settings == **settings
                && file_sha256(&start.file).is_ok_and(|sha256| sha256 == record.checkpoint_sha256)
        }))
    }

    fn pretrain(&self, start: &StartPlan, share: Option<Share>, progress: &dyn Progress) -> Result<(), TrainError> {
        let StartOrigin::Pretraining(settings) = &start.origin else { return Ok(()) };
        let _turn = share.map(|_| wait_for_lock(&start.file, progress)).transpose()?;
        if share.is_some() && self.has_start(start)? {
            return Ok(());
        }
        let settings = PretrainSettings::clone(settings);
        let data = &self.start_input.as_ref().unwrap_or(&self.input).bundle;
        let files = (&*start.file, &*record_path(&start.file));
        // Their names tell the settings of starts, so what is there belongs to the same.
        pretrain_to_file(settings, data, files, (SaveEvery::Auto, true), progress)?;
        Ok(())
    }

    /// The data, normalised as the checkpoint says.
    fn data_for(&self, checkpoint: &Checkpoint) -> Result<Cow<'_, DataBundle>, TrainError> {
        let own = &self.input.bundle;
        match &checkpoint.preprocessing {
            Some(preprocessing) if *preprocessing != own.preprocessing()? => {
                let mut data = own.clone();
                data.normalise_as(preprocessing)?;
                Ok(Cow::Owned(data))
            }
            _ => Ok(Cow::Borrowed(own)),
        }
    }

    fn compute_targets(
        &self,
        targets: &TargetPlan,
        share: Option<Share>,
        progress: &dyn Progress,
    ) -> Result<(), TrainError> {
        let file = &self.grid.starts[targets.start].file;
        let checkpoint = Checkpoint::load(file)?;
        let (data, network) = (self.data_for(&checkpoint)?, checkpoint.network);
        let manifest = targets.options.manifest(&network, file_sha256(file)?, self.input.identity.clone())?;
        // Its name tells its settings, so what is there is a part of the same.
        let open = || StoreWriter::open(&targets.folder, manifest.clone(), false);
        let writer = if share.is_some() { wait_until_free(progress, open)? } else { open()? };
        let source = TargetsSource { network: &network, data: &data.train, normalization: &data.normalization };
        compute_targets(source, &writer, progress)?;
        Ok(())
    }

    fn post_train(&self, run: &RunPlan, progress: &dyn Progress) -> Result<(), TrainError> {
        let start = self.start_of(run);
        let checkpoint = Checkpoint::load(&start.file)?;
        let mut metadata = checkpoint.kept_metadata()?;
        let (data, mut network) = (self.data_for(&checkpoint)?, checkpoint.network);
        let sha256 = file_sha256(&start.file)?;
        let store = self.target_folder(run).map(|folder| TargetStore::open(&folder)).transpose()?;
        let goal = match (&store, run.targets) {
            (Some(store), _) => Some(Goal::of_store(store, &network, run.options.objective, &run.stage)?),
            (None, Some(options)) => Some(Goal::Output(OutputGoal::of_options(&options))),
            (None, None) => None,
        };
        let fingerprint = |options: TargetsOptions| {
            let manifest = options.manifest(&network, sha256.clone(), self.input.identity.clone())?;
            Ok::<_, TrainError>(manifest.settings)
        };
        let targets = run.targets.map(fingerprint).transpose()?;
        let mut settings = self.settings(run, network.spec().name.clone());
        (settings.checkpoint_sha256, settings.targets) = (sha256, targets);
        let record_file = self.record_file(run);
        let state = StateFiles::new(&record_file.with_extension("safetensors"), &settings, SaveEvery::Auto)?;
        state.check(true)?;
        let curves =
            post_train_kept(&mut network, &run.stage, &data, goal, &run.options, Host::alone(&state), progress)
                .map_err(|error| state.drop_after(error))?;
        metadata.extend(data.preprocessing()?.to_metadata()?);
        let bytes = checkpoint::to_bytes(&network, &metadata)?;
        let checkpoint = if self.keep_checkpoints { format!("{}.safetensors", run.name) } else { String::new() };
        if self.keep_checkpoints {
            write_atomic(&record_file.with_file_name(&checkpoint), &bytes)?;
        }
        let record = PostTrainRecord {
            checkpoint,
            checkpoint_sha256_after: bytes_sha256(&bytes),
            seconds: state.seconds(),
            ..PostTrainRecord::new(settings, curves)
        };
        write_json(&record_file, &record)?;
        state.remove()
    }

    /// The settings of a run, but for the hashes of its start and targets.
    fn settings(&self, run: &RunPlan, model: String) -> PostTrainSettings {
        PostTrainSettings {
            metric: run.targets.map_or(Metric::Euclidean, |targets| targets.metric),
            start: Some(self.start_of(run).name.clone()),
            margin: run.targets.filter(|targets| targets.tolerance.is_none()).map(|targets| targets.margin),
            tolerance: run.targets.and_then(|targets| targets.tolerance),
            embedding: run.targets.map(|targets| targets.embedding).filter(|embedding| *embedding != Embedding::Margin),
            target_mode: run.targets.filter(|_| !run.of_output).map(|targets| targets.mode),
            ..run.options.settings(model, self.input.identity.clone(), run.stage.clone())
        }
    }
}

fn stopped() -> TrainError {
    let left =
        "the runs that are done are kept, and the states of those that were not; the same command goes on from there";
    TrainError::Stopped { left: left.into() }
}

/// Whether an error says something about one run, so that the others can go on.
fn concerns_one_run(error: &TrainError) -> bool {
    matches!(error, TrainError::Diverged { .. } | TrainError::NonFiniteOutput | TrainError::Singular { .. })
}
