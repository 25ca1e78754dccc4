//! Durations as people write them.

use crate::TrainError;

/// Reads a duration such as `90s`, `15m` or `1h30m`; a number alone counts seconds.
///
/// # Errors
/// [`TrainError::Setting`] with what can be written.
pub fn parse_duration(name: &'static str, text: &str) -> Result<f64, TrainError> {
    let wrong = || TrainError::Setting {
        name,
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
            assert_eq!(parse_duration("time", text).unwrap(), seconds, "{text}");
        }
        for text in ["", "0", "-1", "NaN", "inf", "m", "5x", "5m3", "1..2s", "0s", "5é"] {
            assert!(parse_duration("time", text).is_err(), "{text}");
        }
    }
}
