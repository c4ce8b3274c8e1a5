//! Spans, sizes and ages, as people say them.

use std::time::Duration;

pub(crate) use pgportage_report::quantity::size;
use time::OffsetDateTime;

use crate::pace::Speed;
use crate::view::{Figures, WalLimit};

/// `under 1 ms`, `3 ms`, `1.2 s`, `3 min 20 s`, `2 h 5 min`, `4 d 1 h`.
pub(crate) fn span(span: Duration) -> String {
    let milliseconds = span.as_millis();
    if milliseconds == 0 && !span.is_zero() {
        return "under 1 ms".to_owned();
    }
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{}.{} s", seconds, span.subsec_millis() / 100),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// `, 12.9 M of 30.0 M rows`, to follow a size; nothing while no rows are known. The
/// total is an estimate: one that is passed says nothing any more.
pub(crate) fn rows(completed: i64, total: i64) -> String {
    match (completed, whole(completed, total)) {
        (..=0, None) => String::new(),
        (_, Some(total)) => format!(", {} of {} rows", amount(completed), amount(total)),
        (_, None) => format!(", {} row{}", amount(completed), if completed == 1 { "" } else { "s" }),
    }
}

/// In thousands from ten thousand on, with one decimal place: `9999`, `10.0 k`.
fn amount(number: i64) -> String {
    const UNITS: [&str; 5] = ["k", "M", "G", "T", "P"];
    if number < 10_000 {
        return number.max(0).to_string();
    }
    let mut tenths = i128::from(number) / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// How long ago, `now` for the last second and for what clocks that differ
/// place in the future.
pub(crate) fn age(then: OffsetDateTime, now: OffsetDateTime) -> String {
    match Duration::try_from(now - then) {
        Ok(passed) if passed.as_secs() == 0 => "now".to_owned(),
        Ok(passed) => format!("{} ago", elapsed(passed)),
        Err(_) => "now".to_owned(),
    }
}

/// A span that still grows: whole seconds are enough.
pub(crate) fn elapsed(passed: Duration) -> String {
    match passed.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => span(Duration::from_secs(seconds)),
    }
}

/// The total, if it is known and holds: one that was estimated may be passed,
/// and then says nothing any more.
pub(crate) fn whole(completed: i64, total: i64) -> Option<i64> {
    (total > 0 && completed <= total).then_some(total)
}

/// The share that is done, in whole percent, never 100 before all of it is.
pub(crate) fn rate(completed: i64, total: i64) -> Option<i64> {
    let total = whole(completed, total)?;
    let percent = i128::from(completed.max(0)) * 100 / i128::from(total);
    i64::try_from(percent).ok()
}

/// `1.2 GB, limit in 3 h 0 min at this rate (disk)`: the WAL kept, `place` after
/// its size, and how long that goes well. Empty while unknown.
pub(crate) fn kept(figures: &Figures, place: &str) -> String {
    let Some(bytes) = figures.retained_wal_bytes else { return String::new() };
    let forecast = figures.wal_forecast.as_ref();
    let when = match forecast.and_then(|forecast| Some((forecast.limit?, forecast.time_left?))) {
        None => String::new(),
        Some((limit, left)) => {
            let limit = match limit {
                WalLimit::Server => " (max_slot_wal_keep_size)",
                WalLimit::Policy => " (policy)",
                WalLimit::Disk => " (disk)",
                WalLimit::Unrecognised => "",
            };
            format!(", limit in {} at this rate{limit}", elapsed(left))
        }
    };
    format!("{}{place}{when}", size(bytes))
}

/// `, 68.6 MB/s, 6 min 52 s left`, to follow a clause; nothing while unknown.
pub(crate) fn pace(speed: Option<Speed>) -> String {
    let Some(speed) = speed else { return String::new() };
    let left = speed.left.map(|left| format!(", {} left", elapsed(left))).unwrap_or_default();
    format!(", {}/s{left}", size(speed.bytes_per_second))
}

#[cfg(test)]
mod tests {
    use pgportage_proto::v1;

    use super::*;

    #[test]
    fn spans() {
        let cases = [
            (Duration::ZERO, "0 ms"),
            (Duration::from_micros(1), "under 1 ms"),
            (Duration::from_millis(999), "999 ms"),
            (Duration::from_millis(1_250), "1.2 s"),
            (Duration::from_secs(60), "1 min 0 s"),
            (Duration::from_secs(3_725), "1 h 2 min"),
            (Duration::from_secs(90_000), "1 d 1 h"),
        ];
        for (value, text) in cases {
            assert_eq!(span(value), text);
        }
    }

    #[test]
    fn sizes() {
        let cases = [
            (-1, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 kB"),
            (1024 * 1024 - 1, "1023.9 kB"),
            (1024 * 1024, "1.0 MB"),
            (5 * 1024 * 1024 * 1024 + 214_748_365, "5.2 GB"),
            (i64::MAX, "8191.9 PB"),
        ];
        for (value, text) in cases {
            assert_eq!(size(value), text);
        }
    }

    #[test]
    fn rows_are_counted_in_thousands_when_they_are_many() {
        let cases = [
            ((0, 0), ""),
            ((1, 0), ", 1 row"),
            ((9_999, 0), ", 9999 rows"),
            ((0, 20_000), ", 0 of 20.0 k rows"),
            ((12_949_999, 30_000_000), ", 12.9 M of 30.0 M rows"),
            ((999_999, 1_000_000), ", 999.9 k of 1.0 M rows"),
            // The estimate was too low.
            ((30_000, 20_000), ", 30.0 k rows"),
            ((i64::MAX, 0), ", 9223.3 P rows"),
        ];
        for ((completed, total), text) in cases {
            assert_eq!(rows(completed, total), text);
        }
    }

    #[test]
    fn wal_kept_says_when_that_ends_if_it_does() {
        let figures = |forecast: Option<v1::WalForecast>| {
            Figures::from(v1::MigrationFigures {
                retained_wal_bytes: 5 << 30,
                wal_forecast: forecast,
                ..Default::default()
            })
        };
        let growing = |limit: i32| v1::WalForecast {
            limit,
            left_bytes: 1 << 30,
            time_left: Some(prost_types::Duration { seconds: 10_800, nanos: 0 }),
            ..Default::default()
        };
        let unlimited = v1::WalForecast::default();
        let level = v1::WalForecast { time_left: None, ..growing(2) };
        for (forecast, text) in [
            (None, "5.0 GB"),
            (Some(unlimited), "5.0 GB"),
            (Some(level), "5.0 GB"),
            (Some(growing(1)), "5.0 GB, limit in 3 h 0 min at this rate (max_slot_wal_keep_size)"),
            (Some(growing(2)), "5.0 GB, limit in 3 h 0 min at this rate (policy)"),
            (Some(growing(3)), "5.0 GB, limit in 3 h 0 min at this rate (disk)"),
            (Some(growing(99)), "5.0 GB, limit in 3 h 0 min at this rate"),
        ] {
            assert_eq!(kept(&figures(forecast), ""), text);
        }
        assert_eq!(kept(&Figures::from(v1::MigrationFigures { retained_wal_bytes: -1, ..Default::default() }), ""), "");
    }

    #[test]
    fn a_pace_says_what_is_left_when_that_is_known() {
        assert_eq!(pace(None), "");
        let unending = Speed { bytes_per_second: 0, left: None };
        assert_eq!(pace(Some(unending)), ", 0 bytes/s");
        let ending = Speed { bytes_per_second: 3 << 20, left: Some(Duration::from_millis(65_900)) };
        assert_eq!(pace(Some(ending)), ", 3.0 MB/s, 1 min 5 s left");
    }

    #[test]
    fn a_share_is_never_all_before_all_is_done() {
        assert_eq!(rate(999, 1000), Some(99));
        assert_eq!(rate(1000, 1000), Some(100));
        assert_eq!(rate(7, 0), None);
        assert_eq!(rate(-7, 1000), Some(0));
        // More than there was thought to be.
        assert_eq!(rate(1001, 1000), None);
        assert_eq!(rate(i64::MAX, i64::MAX), Some(100));
    }
}
