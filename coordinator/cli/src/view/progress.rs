//! How far the work is.

use std::time::Duration;

use serde::Serialize;

use super::milliseconds;

/// How far a step has come.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progress {
    /// What is being worked on or waited for.
    pub subject: String,
    /// Work done so far, in `unit`.
    pub completed: i64,
    /// Work known in total. Zero while unknown.
    pub total: i64,
    /// What `completed` and `total` count.
    pub unit: Unit,
    /// The parts of the work.
    pub parts: Vec<Part>,
    /// Indexes being built, as far as the server shows them.
    pub builds: Vec<Build>,
}

/// What progress is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Rows.
    Rows,
    /// Tables.
    Tables,
    /// Milliseconds.
    Milliseconds,
    /// Not stated, or sent by a newer coordinator.
    Unrecognised,
}

/// One part of a step's work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The table, quoted as PostgreSQL would quote it.
    pub table: String,
    /// Rows copied so far.
    pub row_count: i64,
    /// Bytes copied so far.
    pub size_bytes: i64,
    /// Size of the table on the source. Zero while unknown.
    pub total_bytes: i64,
    /// Rows of the table on the source, estimated. Zero while unknown.
    pub total_rows: i64,
    /// Whether the table is ready.
    pub ready: bool,
}

/// An index that is being built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Build {
    /// Its table, quoted as PostgreSQL would quote it.
    pub table: String,
    /// What the build does, in PostgreSQL's words.
    pub phase: String,
    /// How much of this phase is done, in whole percent.
    pub percent: Option<i32>,
}

/// How long the WAL kept on the source may go on growing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// WAL that the source writes, in bytes a second.
    pub written_bytes_per_second: i64,
    /// By how much the WAL kept grows, in bytes a second. Negative while it
    /// shrinks.
    pub growth_bytes_per_second: i64,
    /// The limit that is met first.
    pub limit: Option<WalLimit>,
    /// What may still be added before it.
    pub left_bytes: Option<i64>,
    /// When that is at the present growth. None while nothing grows.
    #[serde(rename = "left_milliseconds", serialize_with = "milliseconds")]
    pub left: Option<Duration>,
}

/// What limits the WAL kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WalLimit {
    /// The server gives the slot up.
    Server,
    /// The migration gives way, as the policy of the source's agent says.
    Policy,
    /// The source's disk.
    Disk,
    /// Sent by a newer coordinator.
    Unrecognised,
}
