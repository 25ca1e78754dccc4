use std::fs;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::command::Child;
use crate::error::TaskError;

/// What a measurement depends on.
#[derive(Debug, Serialize)]
pub(super) struct Context {
    /// Time of the run, UTC.
    date: String,
    /// Commit, or nothing outside git.
    commit: Option<String>,
    /// Whether files differ from that commit.
    modified: bool,
    rustc: String,
    cpu: String,
    /// Number of threads that can run at the same time.
    cores: usize,
    system: String,
    /// `RAYON_NUM_THREADS`, if it is set.
    rayon_threads: Option<String>,
}

impl Context {
    pub(super) fn collect() -> Result<Self, TaskError> {
        let git = |arguments: &[&str]| Child::new("git").args(arguments).output().ok();
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Ok(Self {
            date: utc(seconds),
            commit: git(&["rev-parse", "HEAD"]).map(|text| text.trim().to_owned()),
            // Results that earlier runs wrote do not change what is measured.
            modified: git(&["status", "--porcelain", "--", ".", ":!benches/results"])
                .is_some_and(|text| !text.is_empty()),
            rustc: Child::new(compiler).args(["--version"]).output()?.trim().to_owned(),
            cpu: processor(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            rayon_threads: std::env::var("RAYON_NUM_THREADS").ok(),
        })
    }
}

/// Model of the processor, where the system says it.
pub(super) fn processor() -> String {
    let from_proc = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let from_sysctl = || Child::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok();
    from_proc.or_else(from_sysctl).map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Date and time of a number of seconds since the start of 1970, as `YYYY-MM-DDThh:mm:ssZ`.
///
/// # Source
/// H. Hinnant, *chrono-Compatible Low-Level Date Algorithms*, `civil_from_days`: years begin in March, so that the day
/// that leap years add is the last one.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // Reference values of `date --utc --date=@SECONDS`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn the_context_of_this_machine_is_known() {
        let context = Context::collect().unwrap();
        assert!(context.rustc.starts_with("rustc "), "{context:?}");
        assert!(context.cores >= 1 && !context.cpu.is_empty(), "{context:?}");
    }
}
