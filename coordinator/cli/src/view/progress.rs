//! How far the work is.

use serde::Serialize;

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
    /// Whether the table is ready.
    pub ready: bool,
}
