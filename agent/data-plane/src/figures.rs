//! What is measured between commands: plain figures.
//!
//! Written by the heartbeat, the watch, the protection, the watch for schema drift and the link; read by
//! the session and the metrics endpoint. Lossy: only the latest matters, and no decision rests on them.

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

/// What is known about one migration between commands. Lossy: only the latest matters, and no decision
/// rests on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Source: time from a heartbeat row's commit to the news of its arrival.
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
    /// A warning of what is about to fail, for operators. Empty while all is well.
    pub warning: String,
    /// Source: set while not all readers of the copy may read.
    pub held_back: Option<HeldBack>,
    /// On the subscriber: how its schema compares with the publisher's.
    pub schema_drift: Option<SchemaDrift>,
}

/// Readers of a copy that this agent holds back until the source recovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// How many readers may read.
    pub reader_limit: u32,
    /// Why not all of them may, as a clause for operators.
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

    /// Forgets the drift: the schemas are not compared any more.
    pub fn forget_drift(&self, migration: &MigrationId) {
        if let Some(gauge) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(migration) {
            gauge.schema_drift = None;
        }
    }

    /// Forgets a migration that is over.
    pub fn remove(&self, migration: &MigrationId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(migration);
    }

    /// A copy of all gauges.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<MigrationId, Gauge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the bytes on the link are for, and whether they were counted before or after packing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LinkLabels {
    carries: &'static str,
    form: &'static str,
}

/// Bytes sent to the other agent since the start, before and after packing. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct LinkTraffic(pub Family<LinkLabels, Counter>);

/// Bytes of one use of the link.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    plain: Counter,
    sent: Counter,
}

impl LinkTraffic {
    /// Counts the rows of the copy.
    #[must_use]
    pub fn rows(&self) -> Traffic {
        self.of("rows")
    }

    /// Counts the subscription's connections.
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
    /// Counts one chunk, before packing and as sent.
    pub fn count(&self, plain: usize, sent: usize) {
        self.plain.inc_by(plain as u64);
        self.sent.inc_by(sent as u64);
    }

    /// Bytes before packing.
    #[must_use]
    pub fn plain_bytes(&self) -> u64 {
        self.plain.get()
    }

    /// Bytes as they were sent, without the overhead of gRPC and TLS.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent.get()
    }
}

/// The state of the agent itself, for operators and metrics; no decision rests on it. Clones share it.
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

    /// Notes the server's version, which an upgrade may change.
    pub fn set_server_version(&self, version_num: i32) {
        self.server_version.store(version_num, Ordering::Relaxed);
    }

    /// Whether a session with the coordinator lives.
    #[must_use]
    pub fn attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed)
    }

    /// Notes that the session with the coordinator began or ended.
    pub fn set_attached(&self, attached: bool) {
        self.attached.store(attached, Ordering::Relaxed);
    }
}
