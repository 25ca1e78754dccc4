//! Time of the processor, which does not grow while other programs are at work.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::settings::{Choice, choice};

choice! {
    /// What a time is measured by.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Clock ("clock") {
        /// The time that passes.
        Wall [default] = "wall",
        /// The time that the threads of this process have had of the processor; where the system does not tell, the time that passes.
        Processor = "processor",
    }
}

/// Whose time of the processor counts.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Process,
    Thread,
}

impl Whose {
    /// Time that the present thread, or all living threads of this process, have had of the processor; none where the system does not
    /// tell.
    fn processor_time(self) -> Option<Duration> {
        let of =
            |folder: &Path| fs::read_to_string(folder.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok();
        if matches!(self, Self::Thread) {
            return of(Path::new("/proc/thread-self")).map(Duration::from_nanos);
        }
        let threads = fs::read_dir("/proc/self/task").ok()?;
        // A thread may have ended in between.
        let times: Vec<u64> = threads.flatten().filter_map(|thread| of(&thread.path())).collect();
        (!times.is_empty()).then(|| Duration::from_nanos(times.iter().sum()))
    }
}

/// Measures from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    wall: Instant,
    processor: Option<Duration>,
    whose: Whose,
}

impl Stopwatch {
    /// Starts now; time of the processor is that of all threads of the process, without those that end in between.
    pub fn start() -> Self {
        Self::of(Whose::Process)
    }

    /// Starts now, for work that one thread does: time of the processor is that of the thread that asks, which is to be this one.
    pub(crate) fn of_this_thread() -> Self {
        Self::of(Whose::Thread)
    }

    fn of(whose: Whose) -> Self {
        Self { wall: Instant::now(), processor: whose.processor_time(), whose }
    }

    /// Seconds since the start.
    pub fn seconds(&self, clock: Clock) -> f64 {
        let processor = match clock {
            Clock::Wall => None,
            Clock::Processor => self.processor_seconds(),
        };
        processor.unwrap_or_else(|| self.wall.elapsed().as_secs_f64())
    }

    /// Seconds of the processor, if the system tells.
    pub fn processor_seconds(&self) -> Option<f64> {
        Some(self.whose.processor_time()?.saturating_sub(self.processor?).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_has_its_own_time() {
        let watch = Stopwatch::of_this_thread();
        let other = std::thread::spawn(|| {
            let own = Stopwatch::of_this_thread();
            let mut sum = 0.0_f64;
            while own.processor_seconds().unwrap() < 0.1 {
                sum += (0..1000).map(|k| f64::from(k).sqrt()).sum::<f64>();
            }
            sum
        });
        assert!(other.join().unwrap() > 0.0);
        assert!(watch.processor_seconds().unwrap() < 0.05 && watch.seconds(Clock::Wall) >= 0.1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_sleep_takes_time_but_no_processor_and_work_takes_both() {
        // Other tests of this process are at work too, so only a thread's own share is sure: work is seen.
        let watch = Stopwatch::start();
        let mut sum = 0.0_f64;
        while watch.processor_seconds().unwrap() < 0.05 {
            sum += (0..1000).map(|k| f64::from(k).sqrt()).sum::<f64>();
        }
        assert!(sum > 0.0 && watch.seconds(Clock::Wall) > 0.0);
        assert!(watch.seconds(Clock::Processor) >= 0.05);
    }
}
