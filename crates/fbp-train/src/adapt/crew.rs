use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::TrainError;
use crate::processor::{Clock, Stopwatch};
use crate::progress::Progress;
use crate::tasks::{locked, run_tasks};

/// As many workers as the caller has threads. Each does a task on one thread, so that what a task gives does not depend on their number.
pub(super) struct Crew<'a> {
    /// They live as long as the crew: the time of threads that have ended is not counted with that of the process.
    pools: Vec<ThreadPool>,
    progress: &'a dyn Progress,
}

/// What a task gave, and its time.
pub(super) struct Timed<T> {
    pub(super) value: T,
    pub(super) seconds: f64,
    pub(super) processor_seconds: Option<f64>,
}

impl<'a> Crew<'a> {
    /// # Errors
    /// [`TrainError::Threads`] if threads cannot be started.
    pub(super) fn new(progress: &'a dyn Progress) -> Result<Self, TrainError> {
        let pool = |_| ThreadPoolBuilder::new().num_threads(1).build();
        Ok(Self { pools: (0..rayon::current_num_threads()).map(pool).collect::<Result<_, _>>()?, progress })
    }

    /// Runs tasks and gives what they gave, in their order; `needs` as [`run_tasks`] has it.
    ///
    /// # Errors
    /// [`TrainError::Stopped`], or the first error of a task, after which no further ones are begun.
    pub(super) fn run<T: Send>(
        &self,
        needs: &[Vec<usize>],
        work: impl Fn(usize) -> Result<T, TrainError> + Sync,
    ) -> Result<Vec<Timed<T>>, TrainError> {
        let done: Vec<Mutex<Option<Timed<T>>>> = needs.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let pool = || Ok(&self.pools[next.fetch_add(1, Ordering::Relaxed)]);
        let one = |task: usize| {
            if self.progress.stop_asked() {
                return Err(stopped());
            }
            let begun = Stopwatch::of_this_thread();
            let value = work(task)?;
            let (seconds, processor_seconds) = (begun.seconds(Clock::Wall), begun.processor_seconds());
            *locked(&done[task]) = Some(Timed { value, seconds, processor_seconds });
            self.progress.advance(1);
            Ok(())
        };
        let failures = run_tasks(needs, self.pools.len(), pool, |pool, task| pool.install(|| one(task)), |_| false)?;
        match failures.into_iter().next() {
            Some((_, error)) => Err(error),
            // Without a failure every task has given something.
            None => Ok(done.iter().filter_map(|timed| locked(timed).take()).collect()),
        }
    }
}

pub(super) fn stopped() -> TrainError {
    let left = "nothing is kept of an adaptation that is not finished; the same command starts it again";
    TrainError::Stopped { left: left.to_owned() }
}
