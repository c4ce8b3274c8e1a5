//! What every conversion of the contract's messages needs: a missing field, a span of
//! time, and the failure of what was not begun.

use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;

/// A field that has to be there is not.
pub(crate) fn missing(field: &str) -> Failure {
    invalid(field, format!("field `{field}` is missing"))
}

/// A field holds what it cannot.
pub(crate) fn malformed(field: &str) -> Failure {
    invalid(field, format!("field `{field}` is malformed"))
}

/// A field holds what is not accepted.
pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Failure {
    refusal(Reason::RequestInvalid, message).with("field", field)
}

/// The failure of what was not begun.
pub(crate) fn refusal(reason: Reason, message: impl Into<String>) -> Failure {
    Failure::new(reason, message).effect(Effect::None)
}

/// A span of time from outside.
pub(crate) fn duration(field: &str, value: prost_types::Duration) -> Result<Duration, Failure> {
    Duration::try_from(value).map_err(|_| malformed(field))
}

/// A span of time that an agent reports. Nonsense reads as none.
pub(crate) fn reported(value: Option<prost_types::Duration>) -> Duration {
    value.and_then(|value| Duration::try_from(value).ok()).unwrap_or_default()
}

/// A span of time as it is sent.
pub(crate) fn to_duration(value: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(value).ok()
}
