//! Quantities, as people and programs read them.

use std::time::Duration;

use serde::Serializer;

/// As `pg_size_pretty` counts, with one decimal place: `712 bytes`, `4.2 MB`.
#[must_use]
pub fn size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1024 {
        return format!("{} bytes", bytes.max(0));
    }
    let mut tenths = i128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A span in whole milliseconds, for `serialize_with`.
///
/// # Errors
///
/// What the serializer reports.
pub fn milliseconds<S: Serializer>(
    span: &(impl Into<Option<Duration>> + Copy),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match (*span).into() {
        Some(span) => serializer.serialize_some(&u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        None => serializer.serialize_none(),
    }
}
