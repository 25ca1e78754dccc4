use std::time::{Duration, Instant};

use crate::TrainError;
use crate::progress::Progress;

/// Time in which a state that was found before the deadline may still be looked at.
const GRACE: Duration = Duration::from_millis(500);

/// When a search ends, if it has to: at a time, or when it is asked to stop.
#[derive(Clone, Copy, Default)]
pub(super) struct Deadline<'a> {
    end: Option<Instant>,
    /// Who may ask.
    asked: Option<&'a dyn Progress>,
}

impl<'a> Deadline<'a> {
    /// So many seconds from now; never if there is no such number.
    pub(super) fn after(seconds: Option<f64>) -> Self {
        let after = |seconds: f64| Instant::now().checked_add(Duration::try_from_secs_f64(seconds).ok()?);
        Self { end: seconds.and_then(after), asked: None }
    }

    /// The same, or when `progress` tells to stop.
    pub(super) fn or_asked(self, progress: &'a dyn Progress) -> Self {
        Self { asked: Some(progress), ..self }
    }

    /// Whether it has come.
    pub(super) fn is_over(self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end) || self.asked.is_some_and(Progress::stop_asked)
    }

    /// Asked between two steps of a computation, so that it goes no further when the deadline has come.
    ///
    /// # Errors
    /// [`TrainError::TimeOver`].
    pub(super) fn check(self) -> Result<(), TrainError> {
        if self.is_over() { Err(TrainError::TimeOver) } else { Ok(()) }
    }

    /// For what must be said about a result that came with the deadline: a little later, if that has come already.
    pub(super) fn with_grace(self) -> Self {
        Self { end: self.end.map(|end| end.max(Instant::now() + GRACE)), asked: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_comes_or_never() {
        assert!(!Deadline::default().is_over() && !Deadline::after(Some(1e300)).is_over());
        assert!(Deadline::after(Some(0.0)).is_over() && !Deadline::after(Some(1000.0)).is_over());
        assert!(matches!(Deadline::after(Some(0.0)).check(), Err(TrainError::TimeOver)));
        Deadline::default().with_grace().check().unwrap();
        Deadline::after(Some(1000.0)).check().unwrap();
    }
}
