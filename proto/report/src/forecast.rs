//! How long the WAL that is kept for our slot may go on growing.

use std::time::Duration;

use pgportage_proto::{read_span, span, v1};
use serde::Serialize;

use crate::quantity::milliseconds;

/// What will happen if writing goes on as it did. The serde form is the CLI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// WAL that the server writes, in bytes a second.
    pub written_bytes_per_second: i64,
    /// By how much the WAL kept grows, in bytes a second. Negative while it shrinks.
    pub growth_bytes_per_second: i64,
    /// The limit that is met first, if there is one.
    pub limit: Option<WalLimit>,
    /// What may still be added before it.
    pub left_bytes: Option<i64>,
    /// When that is. None while nothing grows.
    #[serde(rename = "left_milliseconds", serialize_with = "milliseconds")]
    pub time_left: Option<Duration>,
}

/// What limits the WAL that the server keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WalLimit {
    /// Over `max_slot_wal_keep_size` the server invalidates the slot.
    Server,
    /// Over the policy's limit the migration gives way.
    Policy,
    /// Below the policy's floor of free bytes the migration gives way; where it
    /// may not, the disk is full.
    Disk,
    /// Sent by a newer release.
    Unrecognised,
}

impl From<Forecast> for v1::WalForecast {
    fn from(forecast: Forecast) -> Self {
        let limit = match forecast.limit {
            None | Some(WalLimit::Unrecognised) => v1::wal_forecast::Limit::Unspecified,
            Some(WalLimit::Server) => v1::wal_forecast::Limit::Server,
            Some(WalLimit::Policy) => v1::wal_forecast::Limit::Policy,
            Some(WalLimit::Disk) => v1::wal_forecast::Limit::Disk,
        };
        Self {
            written_bytes_per_second: forecast.written_bytes_per_second,
            growth_bytes_per_second: forecast.growth_bytes_per_second,
            limit: limit.into(),
            left_bytes: forecast.left_bytes.unwrap_or(0),
            time_left: forecast.time_left.map(span),
        }
    }
}

impl From<v1::WalForecast> for Forecast {
    fn from(sent: v1::WalForecast) -> Self {
        let limit = match v1::wal_forecast::Limit::try_from(sent.limit) {
            Ok(v1::wal_forecast::Limit::Unspecified) => None,
            Ok(v1::wal_forecast::Limit::Server) => Some(WalLimit::Server),
            Ok(v1::wal_forecast::Limit::Policy) => Some(WalLimit::Policy),
            Ok(v1::wal_forecast::Limit::Disk) => Some(WalLimit::Disk),
            Err(_) => Some(WalLimit::Unrecognised),
        };
        Self {
            written_bytes_per_second: sent.written_bytes_per_second,
            growth_bytes_per_second: sent.growth_bytes_per_second,
            limit,
            left_bytes: limit.map(|_| sent.left_bytes),
            time_left: read_span(sent.time_left),
        }
    }
}
