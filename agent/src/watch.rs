//! The watch: what our slot costs its server, and when the migration gives way.
//!
//! **Invariant:** the source is production. Whatever the coordinator and the destination do, a slot of ours
//! that is about to harm its server is dropped, as far as the policy allows it.
//!
//! One task for all migrations that this agent publishes for: as the source, and for the way back as the
//! destination. It is independent of every act, and continues when the agent starts again. Giving way is
//! written into the journal before the slot is dropped, so that a slot that vanished is never taken for one
//! that was not made yet.

mod forecast;
mod limit;
mod look;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgportage_data_plane::figures::{Gauge, Gauges};
use pgportage_data_plane::slot::Slots;
use pgportage_link::Failure;
use pgportage_link::Tasks;
use pgportage_migration::Participation;
use pgportage_migration::journal::Journal;
use pgportage_postgres::{Door, Purpose, Session};
use pgportage_proto::MigrationId;
use pgportage_proto::Reason;

use crate::policy::{DestructiveAct, Policy};
use forecast::{Bounds, Measurements};
use limit::{Judgement, judge};
use look::{Seen, drop_slots, slots};

/// Time between two looks. At a gigabyte of WAL a second, the fastest that one
/// server writes, a limit is exceeded by a few gigabytes at most.
const INTERVAL: Duration = Duration::from_secs(3);
/// A slot counts as lost when so many looks in a row do not find it. One is not enough: a slot that is
/// dropped on purpose is gone a moment before its note is.
const MISSED_LOOKS: u32 = 3;

/// Watches the slots of this agent's migrations, and drops one that is about to harm its server.
#[derive(Debug)]
pub struct Watch {
    door: Door,
    maintenance_database: String,
    journal: Journal,
    slots: Slots,
    policy: Arc<Policy>,
    gauges: Gauges,
    tasks: Tasks,
    /// Kept from one round to the next; opened again after it is lost.
    session: Option<Session>,
    known: BTreeMap<MigrationId, Known>,
}

/// What earlier rounds have seen of a migration.
#[derive(Debug, Default)]
struct Known {
    seen: bool,
    missed: u32,
    warning: String,
    measurements: Measurements,
}

impl Watch {
    /// A watch that has looked at no slot yet. It reads from `maintenance_database`, which is open to the
    /// agent even while the migrations' own databases are closed.
    #[must_use]
    pub fn new(
        door: Door,
        maintenance_database: &str,
        journal: Journal,
        slots: Slots,
        policy: Arc<Policy>,
        gauges: Gauges,
        tasks: Tasks,
    ) -> Self {
        let maintenance_database = maintenance_database.to_owned();
        let (session, known) = (None, BTreeMap::new());
        Self { door, maintenance_database, journal, slots, policy, gauges, tasks, session, known }
    }

    /// Watches until the agent stops.
    pub async fn run(mut self) {
        let tasks = self.tasks.clone();
        while tasks.round(Box::pin(self.round()), INTERVAL).await {}
    }

    /// One look at every slot of ours.
    async fn round(&mut self) {
        let watched = match self.watched() {
            Ok(watched) => watched,
            Err(failure) => {
                tracing::error!(causes = ?failure.causes, "the watch cannot read the journal: {failure}");
                return;
            }
        };
        self.forget_all_but(&watched);
        if watched.is_empty() {
            // Without slots the session is closed.
            self.session = None;
            return;
        }
        for participation in watched {
            if let Err(failure) = self.look_at(&participation).await {
                self.session = None;
                let text = format!("the slot cannot be watched: {failure}");
                self.warn(&participation.migration, text);
            }
        }
    }

    /// Migrations whose slot exists or is about to.
    fn watched(&self) -> Result<Vec<Participation>, Failure> {
        let mut watched = Vec::new();
        for participation in self.journal.participations()? {
            if self.slots.is_intended(&participation.migration)? {
                watched.push(participation);
            }
        }
        Ok(watched)
    }

    fn forget_all_but(&mut self, watched: &[Participation]) {
        let gauges = &self.gauges;
        self.known.retain(|migration, _| {
            let stays = watched.iter().any(|participation| participation.migration == *migration);
            if !stays && gauges.snapshot().contains_key(migration) {
                gauges.update(migration, |gauge| {
                    let Gauge { lag, lag_bytes, held_back, schema_drift, .. } = gauge.clone();
                    *gauge = Gauge { lag, lag_bytes, held_back, schema_drift, ..Gauge::default() };
                });
            }
            stays
        });
    }

    async fn look_at(&mut self, participation: &Participation) -> Result<(), Failure> {
        let migration = &participation.migration;
        let session = match self.session.take() {
            Some(session) if !session.is_closed() => session,
            Some(_) | None => self.door.open(&self.maintenance_database, Purpose::Watch).await?,
        };
        let session = &*self.session.insert(session);
        let seen = slots(session, &self.slots, participation).await?;
        let measurements = &mut self.known.entry(migration.clone()).or_default().measurements;
        measurements.add(&seen, self.tasks.clock.now());
        let forecast = measurements.forecast(&seen, &Bounds::of(&self.policy));
        self.gauges.update(migration, |gauge| {
            gauge.wal_forecast = forecast;
            gauge.retained_wal_bytes = seen.retained_wal_bytes;
            gauge.xmin_age = seen.xmin_age;
            gauge.free_disk_bytes = seen.free_disk_bytes;
        });
        if let Err(failure) = self.slots.stands(migration) {
            // The slot was given up before, perhaps by an agent that was killed before it could drop it. So
            // nothing of it may stay.
            if failure.reason == Reason::WalLimitExceeded && seen.exist {
                drop_slots(&self.slots, self.tasks.clock, participation, session).await?;
            }
            self.warn(migration, format!("{failure}; abort the migration"));
            return Ok(());
        }
        let lost = self.lost(migration, &seen);
        if let Some(detail) = lost {
            return self.give_up(participation, Reason::SlotLost, detail);
        }
        match judge(&seen, self.policy.limits()) {
            Judgement::Well => self.warn(migration, String::new()),
            Judgement::Warn(text) => self.warn(migration, text),
            Judgement::GiveWay(text) if self.policy.destructive().allows(DestructiveAct::DropSlot) => {
                self.give_up(participation, Reason::WalLimitExceeded, text)?;
                pgportage_link::fail_point::hit("watch.give_up.noted");
                let Some(session) = &self.session else { return Ok(()) };
                drop_slots(&self.slots, self.tasks.clock, participation, session).await?;
                tracing::error!(migration.id = %migration, "the replication slot is dropped, the source is free of it");
            }
            Judgement::GiveWay(text) => {
                self.warn(migration, format!("{text}; the policy does not allow the agent to drop the slot"));
            }
        }
        Ok(())
    }

    /// Why the slot cannot be used any more, if it cannot.
    fn lost(&mut self, migration: &MigrationId, seen: &Seen) -> Option<String> {
        let known = self.known.entry(migration.clone()).or_default();
        if seen.exist {
            known.seen = true;
            known.missed = 0;
            return seen.invalidated.clone();
        }
        known.missed += 1;
        (known.seen && known.missed >= MISSED_LOOKS)
            .then(|| "It was dropped by hand, or the server lost it in a failover.".to_owned())
    }

    /// Notes that the slot is given up. Durable when it returns: from here on every act that needs the slot
    /// fails.
    fn give_up(&mut self, participation: &Participation, reason: Reason, detail: String) -> Result<(), Failure> {
        let migration = &participation.migration;
        self.slots.give_up(migration, reason, &detail)?;
        tracing::error!(migration.id = %migration, database = participation.database, "{reason}: {detail}");
        self.warn(migration, detail);
        Ok(())
    }

    /// Shows a warning, and logs it when its kind has changed. Numbers change all the time, so they are not
    /// compared.
    fn warn(&mut self, migration: &MigrationId, text: String) {
        let known = self.known.entry(migration.clone()).or_default();
        let digits = |c: char| c.is_ascii_digit() || c == '.';
        if known.warning.replace(digits, "") != text.replace(digits, "") {
            if text.is_empty() {
                tracing::info!(migration.id = %migration, "the source is out of danger");
            } else {
                tracing::warn!(migration.id = %migration, "{text}");
            }
        }
        known.warning.clone_from(&text);
        self.gauges.update(migration, |gauge| gauge.warning = text);
    }
}
