//! Why a migration does not move.

use std::time::Duration;

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
    pub own_sessions: Vec<Session>,
    /// Sessions that those wait for, directly or through others.
    pub blockers: Vec<Session>,
    /// The oldest transactions of others.
    pub oldest_transactions: Vec<Session>,
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

/// A session on a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// Its process.
    pub pid: i32,
    /// The role it works as.
    pub role: String,
    /// What it calls itself.
    pub application: String,
    /// The database it is in.
    pub database: String,
    /// What kind of process it is.
    pub backend_type: String,
    /// What it does. Empty when the server does not say.
    #[serde(rename = "session_state")]
    pub state: String,
    /// What kind of thing it waits for.
    pub wait_event_type: String,
    /// What it waits for.
    pub wait_event: String,
    /// How long its transaction has been open.
    #[serde(rename = "transaction_milliseconds", serialize_with = "milliseconds")]
    pub transaction_age: Option<Duration>,
    /// Whether its transaction has written.
    pub writes: bool,
    /// Processes that it waits for. 0 is a prepared transaction.
    pub blocked_by_pids: Vec<i32>,
}

/// A prepared transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PreparedTransaction {
    /// Its identifier.
    pub gid: String,
    /// Who prepared it.
    pub role: String,
    /// The database it is in.
    pub database: String,
    /// How long ago.
    #[serde(rename = "age_milliseconds", serialize_with = "milliseconds")]
    pub age: Option<Duration>,
    /// Whether a session of the migration waits for its end.
    pub awaited: bool,
}

/// Something that a server has a fixed number of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capacity {
    /// The setting that limits it.
    pub setting: String,
    /// How many are in use.
    pub used_count: i64,
    /// How many there are.
    pub limit_count: i64,
}

/// The slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Whether its creation is over.
    pub complete: bool,
    /// The process that streams from it, or still makes it.
    pub active_pid: Option<i32>,
    /// WAL kept for it.
    pub retained_wal_bytes: Option<i64>,
    /// Why it cannot be used any more. Empty while it can.
    pub invalidation: String,
}

/// The subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subscription {
    /// Whether it is enabled.
    pub enabled: bool,
    /// Workers that apply the stream.
    pub apply_worker_count: i32,
    /// Workers that copy tables.
    pub sync_worker_count: i32,
    /// Tables whose copy has not begun.
    pub waiting_table_count: i32,
    /// Tables that are being copied or catch up.
    pub copying_table_count: i32,
    /// Tables that follow the stream.
    pub ready_table_count: i32,
    /// Errors of applying since the counters were reset. None before 15.
    pub apply_error_count: Option<i64>,
    /// The same of copying.
    pub sync_error_count: Option<i64>,
}
