//! Lossy figures: the latest wins, and nothing is decided by them but whether a
//! cutover may begin.

use std::time::{Duration, SystemTime};

use pgportage_proto::v1;

use crate::workflow::drift::Drift;

/// How far a running command is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being worked on or waited for.
    pub subject: String,
    /// Work done, in `unit`.
    pub completed: i64,
    /// Work in total. Zero while unknown.
    pub total: i64,
    /// What is counted.
    pub unit: Unit,
    /// The parts of the work.
    pub parts: Vec<Part>,
    /// Indexes being built, as far as the server shows them.
    pub builds: Vec<Build>,
}

/// An index that is being built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// Its table, quoted.
    pub table: String,
    /// What the build does, in PostgreSQL's words.
    pub phase: String,
    /// How much of this phase is done, in whole percent.
    pub percent: Option<u8>,
}

/// What progress is counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Not stated, or by a newer release.
    #[default]
    None,
    /// Bytes.
    Bytes,
    /// Rows.
    Rows,
    /// Tables.
    Tables,
    /// Milliseconds.
    Milliseconds,
}

/// How far one table is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The table, quoted.
    pub table: String,
    /// Rows so far.
    pub row_count: i64,
    /// Bytes so far.
    pub size_bytes: i64,
    /// Bytes in total. Zero while unknown.
    pub total_bytes: i64,
    /// Rows in total, estimated. Zero while unknown.
    pub total_rows: i64,
    /// Whether it is ready.
    pub ready: bool,
}

/// What one agent measures about a migration between commands.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// As the agent said it, for operators: what is added to it passes through here.
    pub message: v1::MigrationGauge,
    /// Time from a heartbeat row's commit to the news of its arrival.
    pub lag: Option<Duration>,
    /// WAL kept for our slot.
    pub retained_wal_bytes: Option<i64>,
    /// How long that may go on growing.
    pub wal_forecast: Option<Forecast>,
    /// On the side that follows: how its schema compares with the other one. None
    /// while that is not known.
    pub drift: Option<Drift>,
    /// When the coordinator heard it.
    pub time: SystemTime,
}

/// How long the WAL kept for our slot may go on growing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// WAL that the source writes, in bytes a second.
    pub written_bytes_per_second: i64,
    /// By how much the WAL kept grows, in bytes a second.
    pub growth_bytes_per_second: i64,
    /// The limit that is met first.
    pub limit: Option<WalLimit>,
    /// What may still be added before it.
    pub left_bytes: i64,
    /// When that is. None while nothing grows.
    pub time_left: Option<Duration>,
}

/// What limits the WAL kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalLimit {
    /// The server gives the slot up.
    Server,
    /// The policy of the source's agent.
    Policy,
    /// The source's disk.
    Disk,
}
