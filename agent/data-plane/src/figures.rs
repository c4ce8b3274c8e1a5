//! What is measured between commands: plain figures.
//!
//! Written by what measures (the heartbeat, the watch, the protection, the watch
//! for schema drift, the link), read by the session and the metrics endpoint.
//! Lossy: only the latest matters, and nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgportage_proto::MigrationId;
use pgportage_report::drift::SchemaDrift;
use pgportage_report::forecast::Forecast;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

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
    /// Source: how long the WAL kept may go on growing.
    pub wal_forecast: Option<Forecast>,
    /// What is about to go wrong, for people. Empty while all is well.
    pub warning: String,
    /// Source: while not all readers of the copy may read.
    pub held_back: Option<HeldBack>,
    /// On the subscriber: how its schema compares with the other one.
    pub schema_drift: Option<SchemaDrift>,
}

/// Readers of a copy that wait for the source to recover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// How many may read.
    pub reader_limit: u32,
    /// Why not all, as a clause for people.
    pub cause: String,
}

/// The latest gauges of every migration. Written by the heartbeat and the
/// watch, read by the session and the metrics endpoint. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Gauges(Arc<Mutex<BTreeMap<MigrationId, Gauge>>>);

impl Gauges {
    /// Changes the gauge of one migration.
    pub fn update(&self, migration: &MigrationId, change: impl FnOnce(&mut Gauge)) {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(migration.clone()).or_default());
    }

    /// The schemas are not compared any more.
    pub fn forget_drift(&self, migration: &MigrationId) {
        if let Some(gauge) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(migration) {
            gauge.schema_drift = None;
        }
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

/// What bytes on the link are for, and how they are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LinkLabels {
    carries: &'static str,
    form: &'static str,
}

/// Bytes for the other agent since the start, before and after packing. Cloning is
/// cheap.
#[derive(Clone, Debug, Default)]
pub struct LinkTraffic(pub Family<LinkLabels, Counter>);

/// Bytes of one use of the link.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    plain: Counter,
    sent: Counter,
}

impl LinkTraffic {
    /// Rows of the copy.
    #[must_use]
    pub fn rows(&self) -> Traffic {
        self.of("rows")
    }

    /// The subscription's connections.
    #[must_use]
    pub fn tunnel(&self) -> Traffic {
        self.of("tunnel")
    }

    fn of(&self, carries: &'static str) -> Traffic {
        let form = |form| self.0.get_or_create_owned(&LinkLabels { carries, form });
        Traffic { plain: form("plain"), sent: form("sent") }
    }
}

impl Traffic {
    /// Counts a chunk.
    pub fn count(&self, plain: usize, sent: usize) {
        self.plain.inc_by(plain as u64);
        self.sent.inc_by(sent as u64);
    }

    /// Bytes before packing.
    #[must_use]
    pub fn plain_bytes(&self) -> u64 {
        self.plain.get()
    }

    /// Bytes as they were sent, without what gRPC and TLS add.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent.get()
    }
}

/// How the agent itself stands: for people and metrics, nothing is decided by it.
/// Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    server_version: Arc<AtomicI32>,
    attached: Arc<AtomicBool>,
}

impl Standing {
    /// The server's `server_version_num`. Zero while unknown.
    #[must_use]
    pub fn server_version(&self) -> i32 {
        self.server_version.load(Ordering::Relaxed)
    }

    /// Takes note of the server's version, which an upgrade may change.
    pub fn set_server_version(&self, version_num: i32) {
        self.server_version.store(version_num, Ordering::Relaxed);
    }

    /// Whether a session with the coordinator lives.
    #[must_use]
    pub fn attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed)
    }

    /// The session begins or ends.
    pub fn set_attached(&self, attached: bool) {
        self.attached.store(attached, Ordering::Relaxed);
    }
}
