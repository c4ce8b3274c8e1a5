//! Values of the contract that several acts, facts or answers use.
//!
//! Each act reads and writes its own messages beside its code; here is what they share.

use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_postgres::RelationName;
pub(crate) use pgportage_proto::span;
use pgportage_proto::{Reason, read_span, v1};
use uuid::Uuid;

use pgportage_postgres::catalog::SequencePosition;

/// The failure for a field that is missing or wrong.
pub(crate) fn missing(field: &str) -> Failure {
    Failure::new(Reason::RequestInvalid, format!("field `{field}` is missing or malformed"))
        .effect(Effect::None)
        .with("field", field)
}

/// A text that must not be empty.
pub(crate) fn some(text: String, field: &str) -> Result<String, Failure> {
    if text.is_empty() { Err(missing(field)) } else { Ok(text) }
}

/// A duration that must be there and be longer than nothing.
pub(crate) fn duration(message: Option<prost_types::Duration>, field: &str) -> Result<Duration, Failure> {
    read_span(message).filter(|duration| !duration.is_zero()).ok_or_else(|| missing(field))
}

/// A duration that this agent wrote, read back. One that makes no sense reads as zero.
pub(crate) fn reported(message: Option<prost_types::Duration>) -> Duration {
    read_span(message).unwrap_or_default()
}

/// The contract has no unsigned numbers; ours never reach the difference.
pub(crate) fn int64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The same for a small number.
pub(crate) fn int32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A count that this agent wrote, read back.
pub(crate) fn uint32(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

pub(crate) fn relations(names: Vec<v1::RelationName>) -> Vec<RelationName> {
    names.into_iter().map(RelationName::from).collect()
}

/// The id of a switchover's marker.
pub(crate) fn marker(text: &str) -> Result<Uuid, Failure> {
    text.parse().map_err(|_| missing("marker_id"))
}

pub(crate) fn sequences(states: Vec<v1::SequenceState>) -> Result<Vec<SequencePosition>, Failure> {
    let position = |state: v1::SequenceState| {
        let name = RelationName::from(state.sequence.ok_or_else(|| missing("sequences.sequence"))?);
        Ok(SequencePosition { name, last_value: state.last_value, called: state.called })
    };
    states.into_iter().map(position).collect()
}

/// Positions of sequences, as messages of the contract.
pub(crate) fn sequence_messages(positions: Vec<SequencePosition>) -> Vec<v1::SequenceState> {
    let message = |position: SequencePosition| v1::SequenceState {
        sequence: Some(position.name.into()),
        last_value: position.last_value,
        called: position.called,
    };
    positions.into_iter().map(message).collect()
}
