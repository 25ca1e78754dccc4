use std::time::{Duration, Instant};

use crate::TrainError;

/// Time in which a state that was found before the deadline may still be looked at.
const GRACE: Duration = Duration::from_millis(500);

/// When a search ends, if it has to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// So many seconds from now; never if there is no such number.
    pub(super) fn after(seconds: Option<f64>) -> Self {
        let after = |seconds: f64| Instant::now().checked_add(Duration::try_from_secs_f64(seconds).ok()?);
        Self(seconds.and_then(after))
    }

    /// Whether it has come.
    pub(super) fn is_over(self) -> bool {
        self.0.is_some_and(|end| Instant::now() >= end)
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
        Self(self.0.map(|end| end.max(Instant::now() + GRACE)))
    }
}

/// Reads a duration such as `90s`, `15m` or `1h30m`; a number alone counts seconds.
///
/// # Errors
/// [`TrainError::Setting`] with what can be written.
pub fn parse_duration(text: &str) -> Result<f64, TrainError> {
    let wrong = || TrainError::Setting {
        name: "time",
        value: text.to_owned(),
        reason: "is no duration: write it like 90s, 15m or 1h30m".into(),
    };
    if let Ok(seconds) = text.parse::<f64>() {
        return if seconds > 0.0 && seconds.is_finite() { Ok(seconds) } else { Err(wrong()) };
    }
    let (mut seconds, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let mut letters = rest[end..].chars();
        seconds += number
            * match letters.next() {
                Some('h') => 3600.0,
                Some('m') => 60.0,
                Some('s') => 1.0,
                _ => return Err(wrong()),
            };
        rest = letters.as_str();
    }
    if seconds > 0.0 { Ok(seconds) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [("90", 90.0), ("90s", 90.0), ("15m", 900.0), ("1h30m", 5400.0), ("0.5m", 30.0)] {
            assert_eq!(parse_duration(text).unwrap(), seconds, "{text}");
        }
        for text in ["", "0", "-1", "NaN", "inf", "m", "5x", "5m3", "1..2s", "0s", "5é"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_deadline_comes_or_never() {
        assert!(!Deadline::default().is_over() && !Deadline::after(Some(1e300)).is_over());
        assert!(Deadline::after(Some(0.0)).is_over() && !Deadline::after(Some(1000.0)).is_over());
        assert!(matches!(Deadline::after(Some(0.0)).check(), Err(TrainError::TimeOver)));
        Deadline::default().with_grace().check().unwrap();
        Deadline::after(Some(1000.0)).check().unwrap();
    }
}
