//! Source protection: the agent limits how many readers read at a time.
//!
//! **Invariant:** the source is production. When its commits get slow or its own standbys fall behind while
//! rows are read, fewer readers read at a time, until it has recovered. One reader always goes on: a copy
//! that stopped for good would harm the source too, by the WAL that is kept for it.
//!
//! Two signals, looked at each second, and only while readers are at work:
//!
//! - **How long a tiny commit takes**, without waiting for standbys: every writer of the source feels that
//!   when its disks or cores are busy.
//! - **How far its standbys fall behind**, in time on our own clock: when a position that was written ten
//!   seconds ago is not replayed, that is ten seconds. The server's own figure stands still when the replay
//!   does. How far a standby was behind already when the reading began (`recovery_min_apply_delay`, a
//!   rebuild) is not counted.
//!
//! Sessions that wait are no signal: on a busy server some always do.

mod governor;
mod look;
mod standby;

use std::time::Duration;

use pgportage_data_plane::figures::{Gauges, HeldBack};
use pgportage_data_plane::snapshot::Snapshots;
use pgportage_migration::journal::Journal;
use pgportage_postgres::{Door, Session};
use pgportage_proto::MigrationId;

use pgportage_link::Tasks;

use crate::settings::ProtectionSettings;
use governor::{Governor, Limits};
use standby::Standbys;

const INTERVAL: Duration = Duration::from_secs(1);
/// After so many looks without a reader everything seen is forgotten. One look is not enough: between two
/// ranges there is no reader for a moment.
const IDLE_LOOKS: u32 = 10;

/// Limits the readers of the server that this agent reads from.
#[derive(Debug)]
pub struct Protection {
    door: Door,
    journal: Journal,
    snapshots: Snapshots,
    gauges: Gauges,
    settings: ProtectionSettings,
    tasks: Tasks,
    /// Kept from one round to the next; opened again after it is lost.
    session: Option<Session>,
    standbys: Standbys,
    governor: Governor,
    idle: u32,
}

impl Protection {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(
        door: Door,
        journal: Journal,
        snapshots: Snapshots,
        gauges: Gauges,
        settings: ProtectionSettings,
        tasks: Tasks,
    ) -> Self {
        let governor = Governor::new(limits(&settings));
        let (session, standbys, idle) = (None, Standbys::default(), 0);
        Self { door, journal, snapshots, gauges, settings, tasks, session, standbys, governor, idle }
    }

    /// Protects it until the agent stops.
    pub async fn run(mut self) {
        if !self.settings.enabled {
            return;
        }
        let tasks = self.tasks.clone();
        while tasks.round(self.round(), INTERVAL).await {}
    }

    /// One look, if there are readers.
    async fn round(&mut self) {
        let reading = self.snapshots.reading();
        self.show(&reading);
        let Some(first) = reading.first().map(|(migration, _)| migration.clone()) else {
            self.idle = self.idle.saturating_add(1);
            if self.idle == IDLE_LOOKS {
                self.session = None;
                self.standbys = Standbys::default();
                self.governor = Governor::new(limits(&self.settings));
                self.snapshots.allow(None);
            }
            return;
        };
        self.idle = 0;
        let most = reading.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let sample = self.look(&first).await;
        let before = self.governor.allowed();
        self.governor.observe(self.tasks.clock.now(), &sample, most);
        let allowed = self.governor.allowed();
        if allowed != before {
            tracing::warn!(allowed, before, cause = self.governor.cause(), "how many readers may read has changed");
            self.snapshots.allow(allowed);
        }
    }

    /// Shows operators which migrations are held back, and which no longer are.
    fn show(&self, reading: &[(MigrationId, usize)]) {
        let shown = self.gauges.snapshot();
        for (migration, gauge) in shown {
            let count = reading.iter().find(|(reading, _)| *reading == migration).map_or(0, |(_, count)| *count);
            let held_back = self.governor.allowed().filter(|allowed| *allowed < count).map(|allowed| HeldBack {
                reader_limit: u32::try_from(allowed).unwrap_or(u32::MAX),
                cause: self.governor.cause().to_owned(),
            });
            if gauge.held_back != held_back {
                self.gauges.update(&migration, |gauge| gauge.held_back = held_back);
            }
        }
    }

    /// The present state of the source. A server that does not answer in time counts as that slow.
    async fn look(&mut self, migration: &MigrationId) -> governor::Sample {
        let clock = self.tasks.clock;
        let begun = clock.now();
        match look::look(&self.door, &self.journal, clock, &mut self.session, migration).await {
            Ok(seen) => {
                let standby = self.standbys.observe(clock.now(), seen.position, &seen.standbys);
                governor::Sample { commit_latency: Some(seen.commit_latency), standby }
            }
            Err(failure) => {
                self.session = None;
                tracing::debug!(%failure, detail = failure.detail, "the source could not be looked at");
                let took = clock.now().duration_since(begun);
                governor::Sample { commit_latency: (took >= look::PATIENCE).then_some(took), standby: None }
            }
        }
    }
}

fn limits(settings: &ProtectionSettings) -> Limits {
    Limits { commit_latency: settings.max_commit_latency, standby_lag: settings.max_standby_lag }
}
