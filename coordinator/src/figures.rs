//! Lossy figures: the latest wins, and nothing is decided by them but whether a
//! cutover may begin.

use std::time::{Duration, SystemTime};

use pgportage_proto::v1;
use pgportage_report::drift::SchemaDrift;
use pgportage_report::forecast::Forecast;

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
    pub drift: Option<SchemaDrift>,
    /// When the coordinator heard it.
    pub time: SystemTime,
}
