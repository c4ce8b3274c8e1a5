//! What every conversion of the contract's messages needs: a missing field, a span of
//! time.

use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;

/// A field that has to be there is not.
pub(crate) fn missing(field: &str) -> Failure {
    invalid(field, "missing")
}

/// A field holds what it cannot.
pub(crate) fn malformed(field: &str) -> Failure {
    invalid(field, "malformed")
}

fn invalid(field: &str, how: &str) -> Failure {
    Failure::new(Reason::RequestInvalid, format!("field `{field}` is {how}")).effect(Effect::None).with("field", field)
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
