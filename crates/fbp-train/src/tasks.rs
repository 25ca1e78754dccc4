//! Tasks that wait for others, on some threads.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::TrainError;

/// What has happened so far.
struct State {
    /// For each task, how many that it waits for are not done.
    waiting: Vec<usize>,
    ready: BTreeSet<usize>,
    /// Tasks that are neither done nor given up.
    left: usize,
    given_up: Vec<bool>,
    failures: Vec<(usize, TrainError)>,
    stop: bool,
}

/// What a mutex holds, also after a panic of another thread: that panic ends the work anyway.
pub(crate) fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs tasks on `workers` threads; `needs[t]` are the tasks that have to be done before task `t`, all of them smaller
/// than `t`. Of those that can be run, the one with the smallest number is next, so that what belongs together and is
/// numbered in a row is done in a row.
///
/// `start` makes what a thread works with. After an error of one task, those that need it are given up, and the others
/// go on if `goes_on` says so. Returns the errors, by task.
///
/// # Errors
/// Those of `start`.
pub(crate) fn run_tasks<C>(
    needs: &[Vec<usize>],
    workers: usize,
    start: impl Fn() -> Result<C, TrainError> + Sync,
    work: impl Fn(&C, usize) -> Result<(), TrainError> + Sync,
    goes_on: impl Fn(&TrainError) -> bool + Sync,
) -> Result<Vec<(usize, TrainError)>, TrainError> {
    let mut dependents = vec![Vec::new(); needs.len()];
    for (task, needs) in needs.iter().enumerate() {
        needs.iter().for_each(|&need| dependents[need].push(task));
    }
    let waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    let ready = (0..needs.len()).filter(|&task| waiting[task] == 0).collect();
    let given_up = vec![false; needs.len()];
    let state = State { waiting, ready, left: needs.len(), given_up, failures: Vec::new(), stop: false };
    let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
    let worker = || -> Result<(), TrainError> {
        let _guard = StopOnExit(&shared);
        let context = start()?;
        while let Some(task) = shared.next() {
            let result = work(&context, task);
            shared.end(task, result, &dependents, &goes_on);
        }
        Ok(())
    };
    let workers = workers.clamp(1, needs.len().max(1));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<Vec<_>>().into_iter().collect::<Result<Vec<()>, _>>()
    })?;
    let mut failures = shared.state.into_inner().unwrap_or_else(PoisonError::into_inner).failures;
    failures.sort_by_key(|(task, _)| *task);
    Ok(failures)
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// The next task; none when there will be no more.
    fn next(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.stop || state.left == 0 {
                return None;
            }
            if let Some(task) = state.ready.pop_first() {
                return Some(task);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end(
        &self,
        task: usize,
        result: Result<(), TrainError>,
        dependents: &[Vec<usize>],
        goes_on: impl Fn(&TrainError) -> bool,
    ) {
        let mut state = self.lock();
        state.left -= 1;
        match result {
            Ok(()) => {
                for &dependent in &dependents[task] {
                    state.waiting[dependent] -= 1;
                    if state.waiting[dependent] == 0 && !state.given_up[dependent] {
                        state.ready.insert(dependent);
                    }
                }
            }
            Err(error) => {
                state.stop |= !goes_on(&error);
                state.failures.push((task, error));
                let mut doomed = dependents[task].clone();
                while let Some(task) = doomed.pop() {
                    if !std::mem::replace(&mut state.given_up[task], true) {
                        state.left -= 1;
                        doomed.extend(&dependents[task]);
                    }
                }
            }
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// Ends the other threads when one ends, by an error or a panic: in good order there is nothing left to do then.
struct StopOnExit<'a>(&'a Shared);

impl Drop for StopOnExit<'_> {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(task: usize) -> TrainError {
        TrainError::Diverged { epoch: task }
    }

    #[test]
    fn every_task_runs_once_and_after_those_it_needs() {
        let needs: Vec<Vec<usize>> =
            (0..60).map(|task| if task < 6 { vec![] } else { vec![task - 6, task / 2] }).collect();
        for workers in [1, 2, 7] {
            let done = Mutex::new(Vec::new());
            let work = |_: &(), task: usize| {
                let mut done = done.lock().unwrap();
                assert!(needs[task].iter().all(|need| done.contains(need)), "{task}: {done:?}");
                done.push(task);
                Ok(())
            };
            assert!(run_tasks(&needs, workers, || Ok(()), work, |_| true).unwrap().is_empty());
            let mut done = done.into_inner().unwrap();
            if workers == 1 {
                assert!(done.is_sorted(), "{done:?}");
            }
            done.sort_unstable();
            assert!(done.into_iter().eq(0..60));
        }
    }

    #[test]
    fn what_needs_a_failed_task_is_given_up_and_the_rest_is_done() {
        // 0 → 1 → 3, and 2 on its own; 4 needs both.
        let needs = vec![vec![], vec![0], vec![], vec![1], vec![1, 2]];
        for workers in [1, 3] {
            let done = Mutex::new(Vec::new());
            let work = |_: &(), task: usize| {
                done.lock().unwrap().push(task);
                if task == 1 { Err(failing(task)) } else { Ok(()) }
            };
            let failures = run_tasks(&needs, workers, || Ok(()), work, |_| true).unwrap();
            assert!(matches!(failures[..], [(1, TrainError::Diverged { epoch: 1 })]));
            let mut done = done.into_inner().unwrap();
            done.sort_unstable();
            assert_eq!(done, [0, 1, 2]);
        }
    }

    #[test]
    fn an_error_that_concerns_all_ends_the_work() {
        let work = |_: &(), task: usize| if task == 3 { Err(failing(task)) } else { Ok(()) };
        let failures = run_tasks(&vec![vec![]; 1000], 1, || Ok(()), work, |_| false).unwrap();
        assert_eq!(failures.len(), 1);
        let start = || -> Result<(), TrainError> { Err(failing(0)) };
        assert!(run_tasks(&vec![vec![]; 5], 2, start, |_, _| Ok(()), |_| true).is_err());
        assert!(run_tasks(&[], 2, || Ok(()), |(): &(), _| Ok(()), |_| true).unwrap().is_empty());
    }
}
