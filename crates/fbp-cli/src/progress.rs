use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fbp_train::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::signals;

/// Time between two lines where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress on the standard error stream: bars with the time left on a terminal, plain lines otherwise.
#[derive(Debug, Default)]
pub(crate) struct Stderr {
    state: Mutex<State>,
    /// Nothing is shown.
    is_silent: bool,
}

impl Stderr {
    /// One that shows something, or that only tells when work should end.
    pub(crate) fn new(shows: bool) -> Self {
        Self { is_silent: !shows, ..Self::default() }
    }
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Bar(ProgressBar),
    Lines(Lines),
}

/// Work that is reported in lines.
#[derive(Debug)]
struct Lines {
    what: String,
    unit: String,
    total: usize,
    done: usize,
    begun: Instant,
    last: Instant,
}

impl Lines {
    fn text(&self) -> String {
        let (done, total) = (self.done, self.total);
        let elapsed = self.begun.elapsed().as_secs_f64();
        let left = elapsed / done.max(1) as f64 * total.saturating_sub(done) as f64;
        format!("{}: {done} of {total} {}, {left:.0} s left", self.what, self.unit)
    }
}

/// Writes a line; a closed stream is no reason to stop working.
fn write_line(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

impl Progress for Stderr {
    fn begin(&self, what: &str, total: usize, unit: &str) {
        if self.is_silent {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = if std::io::stderr().is_terminal() {
            let template = format!("{{msg}} {{bar:30}} {{human_pos}}/{{human_len}} {unit}, {{eta}} left");
            let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
            State::Bar(ProgressBar::new(total as u64).with_style(style).with_message(what.to_owned()))
        } else {
            let now = Instant::now();
            State::Lines(Lines { what: what.into(), unit: unit.into(), total, done: 0, begun: now, last: now })
        };
    }

    fn advance(&self, units: usize) {
        match &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Idle => {}
            State::Bar(bar) => bar.inc(units as u64),
            State::Lines(lines) => {
                lines.done += units;
                if lines.last.elapsed() >= LINE_EVERY {
                    lines.last = Instant::now();
                    write_line(&lines.text());
                }
            }
        }
    }

    fn note(&self, line: &str) {
        if self.is_silent {
            return;
        }
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Bar(bar) => bar.suspend(|| write_line(line)),
            _ => write_line(line),
        }
    }

    fn end(&self) {
        let state = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        if let State::Bar(bar) = state {
            bar.finish_and_clear();
        }
    }

    fn stop_asked(&self) -> bool {
        signals::came().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_what_is_done_and_what_is_left() {
        let begun = Instant::now() - Duration::from_secs(10);
        let lines = Lines { what: "targets".into(), unit: "images".into(), total: 300, done: 100, begun, last: begun };
        assert_eq!(lines.text(), "targets: 100 of 300 images, 20 s left");
    }

    #[test]
    fn work_may_begin_and_end_in_any_order() {
        let progress = Stderr::default();
        progress.advance(3);
        progress.end();
        progress.begin("a", 0, "images");
        progress.advance(1);
        progress.begin("b", 10, "images");
        progress.end();
    }
}
