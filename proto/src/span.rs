//! Spans of time, as messages carry them.

use std::time::Duration;

/// A span as it is sent. One that is too long for that becomes the longest.
#[must_use]
pub fn span(span: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span).unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// A span as it was sent. Nonsense reads as none.
#[must_use]
pub fn read_span(sent: Option<prost_types::Duration>) -> Option<Duration> {
    sent.and_then(|sent| Duration::try_from(sent).ok())
}
