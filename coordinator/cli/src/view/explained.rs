//! Why a migration does not move.

use std::time::Duration;

use pgportage_report::situation::{Capacity, PreparedTransaction, ServerSession, Slot, Subscription};
use serde::Serialize;

use super::{Failure, Migration, milliseconds};

/// A migration, and why it does not move.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// The migration.
    pub migration: Migration,
    /// Whether something was found that keeps it from moving.
    pub cause_found: bool,
    /// Whether everything could be looked at. If not, what was found may not be
    /// all.
    pub all_checked: bool,
    /// What was found, the most likely cause first.
    pub explanations: Vec<Explanation>,
    /// What the agents said, the source's first.
    pub reports: Vec<Report>,
}

/// One thing that has to do with why a migration does not move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// How sure it is.
    pub weight: Weight,
    /// Stable identifier. Empty when nothing is wrong.
    pub code: String,
    /// Where it is.
    pub side: Side,
    /// One clause.
    pub message: String,
    /// Further facts. May be empty.
    pub detail: String,
    /// What the operator can do. May be empty.
    pub hint: String,
    /// Statements that do it, on the server of the side.
    pub statements: Vec<String>,
    /// The page that explains it. Empty without a code.
    pub page: String,
}

/// How sure an explanation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// It keeps the migration from moving.
    Cause,
    /// It may have to do with it, or will soon.
    Suspicion,
    /// It could not be checked.
    Unchecked,
    /// Sent by a newer coordinator.
    Unrecognised,
}

/// Where something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// On the server moved from.
    Source,
    /// On the server moved to.
    Destination,
    /// On neither, or sent by a newer coordinator.
    Neither,
}

/// What one agent said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The agent's part.
    pub side: Side,
    /// The agent.
    pub agent: String,
    /// What it found. None when it did not answer.
    pub situation: Option<Situation>,
    /// Why it did not answer.
    pub failure: Option<Failure>,
}

/// What is going on around a migration on one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Situation {
    /// The migration's sessions, those that wait for a lock first.
    pub own_sessions: Vec<ServerSession>,
    /// Sessions that those wait for, directly or through others.
    pub blockers: Vec<ServerSession>,
    /// The oldest transactions of others.
    pub oldest_transactions: Vec<ServerSession>,
    /// Prepared transactions.
    pub prepared_transactions: Vec<PreparedTransaction>,
    /// What the server has a fixed number of.
    pub capacities: Vec<Capacity>,
    /// Source: the slot.
    pub slot: Option<Slot>,
    /// Destination: the subscription.
    pub subscription: Option<Subscription>,
    /// Free bytes on the disk of the server's WAL. None where it cannot be seen.
    pub free_disk_bytes: Option<i64>,
    /// How long a greeting to the other agent takes, there and back.
    #[serde(rename = "round_trip_milliseconds", serialize_with = "milliseconds")]
    pub round_trip: Option<Duration>,
}
