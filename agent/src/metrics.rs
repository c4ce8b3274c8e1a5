//! What the agent measures.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::migration::MigrationId;

/// What is known about one migration between commands. Lossy: only the latest
/// matters, and nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Source: from a heartbeat row's commit to the news of its arrival.
    pub lag: Option<Duration>,
    /// Source: bytes the destination has not confirmed.
    pub lag_bytes: Option<u64>,
    /// Source: WAL kept on disk for our slot.
    pub retained_wal_bytes: Option<u64>,
    /// Source: age of the oldest transaction id our slot holds back.
    pub xmin_age: Option<u64>,
    /// Free bytes on the disk that holds the WAL.
    pub free_disk_bytes: Option<u64>,
    /// What is about to go wrong, for people. Empty while all is well.
    pub warning: String,
}

/// The latest gauges of every migration. Written by the heartbeat and the
/// watch, read by the session and the metrics endpoint.
#[derive(Debug, Default)]
pub struct Gauges(Mutex<BTreeMap<MigrationId, Gauge>>);

impl Gauges {
    /// Changes the gauge of one migration.
    pub fn update(&self, migration: &MigrationId, change: impl FnOnce(&mut Gauge)) {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(migration.clone()).or_default());
    }

    /// The migration is over.
    pub fn remove(&self, migration: &MigrationId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(migration);
    }

    /// All gauges as they stand.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<MigrationId, Gauge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
