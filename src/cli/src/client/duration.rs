//! Durations as people write and read them.

use std::time::Duration;

/// Reads `500ms`, `60s`, `2m`, `24h`, `7d`; a number without a unit is seconds. Decimals are allowed.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a duration such as 500ms, 60s, 2m, 24h or 7d, found {text:?}");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds: f64 = match unit.trim() {
        "ms" => 1.0,
        "" | "s" => 1_000.0,
        "m" | "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let total = (number * milliseconds).round();
    // A thousand years is more than anyone means, and far from where an f64 stops counting.
    if !total.is_finite() || !(1.0..=3.2e13).contains(&total) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within u64")]
    let milliseconds = total as u64;
    Ok(Duration::from_millis(milliseconds))
}

/// Writes milliseconds with the unit that fits: `340 ms`, `12.3 s`, `4 min 05 s`, `2 h 00 min`.
pub(crate) fn show_ms(milliseconds: u64) -> String {
    let seconds = milliseconds / 1_000;
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..60_000 => format!("{seconds}.{} s", milliseconds % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// The same for a [`Duration`].
pub(crate) fn show(duration: Duration) -> String {
    show_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, milliseconds) in [
            ("500ms", Some(500)),
            ("60s", Some(60_000)),
            ("60", Some(60_000)),
            ("1.5", Some(1_500)),
            ("2m", Some(120_000)),
            ("24h", Some(86_400_000)),
            (" 7d ", Some(604_800_000)),
            ("0", None),
            ("", None),
            ("h", None),
            ("-1s", None),
            ("1w", None),
            ("1.2.3s", None),
            ("99999999999999999999999d", None),
        ] {
            assert_eq!(parse(text).ok(), milliseconds.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn durations_are_shown() {
        for (milliseconds, shown) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1.0 s"),
            (59_999, "59.9 s"),
            (60_000, "1 min 00 s"),
            (245_000, "4 min 05 s"),
            (7_200_000, "2 h 00 min"),
        ] {
            assert_eq!(show_ms(milliseconds), shown);
        }
    }
}
