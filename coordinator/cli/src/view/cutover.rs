//! A cutover or rollback.

use std::time::Duration;

use serde::Serialize;

use super::{SwitchComparison, milliseconds};

/// What a cutover did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cutover {
    /// Its number.
    pub epoch: i64,
    /// Where it stands.
    pub phase: CutoverPhase,
    /// Whether it was a rollback: what is said of the source holds for the
    /// destination then, and the other way round.
    pub rollback: bool,
    /// From the first lock request on the source to the decision on the
    /// destination, as the coordinator saw it.
    #[serde(rename = "outage_milliseconds", serialize_with = "milliseconds")]
    pub outage: Option<Duration>,
    /// How long the table locks took.
    #[serde(rename = "lock_wait_milliseconds", serialize_with = "milliseconds")]
    pub lock_wait: Option<Duration>,
    /// How long the marker took to arrive.
    #[serde(rename = "drain_milliseconds", serialize_with = "milliseconds")]
    pub drain_time: Option<Duration>,
    /// Sessions whose statement was cancelled for the barrier.
    pub cancelled_session_count: i32,
    /// Sessions that were ended on the source.
    pub terminated_session_count: i32,
    /// The marker.
    pub marker_id: String,
    /// Position of the source after the fence.
    pub fence_lsn: String,
    /// Position of the destination after the decision.
    pub open_lsn: String,
    /// What was compared before it, and did not differ. Absent when nothing was.
    pub comparison: Option<SwitchComparison>,
}

/// Where a cutover stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CutoverPhase {
    /// Nothing durable has happened.
    Preparing,
    /// The source is fenced; the destination has not decided.
    Fenced,
    /// The destination was asked to open and has not answered.
    InDoubt,
    /// The destination is open.
    Open,
    /// Everything was taken back.
    TakenBack,
    /// Sent by a newer coordinator.
    Unrecognised,
}
