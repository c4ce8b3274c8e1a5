//! The publisher's half: writes the numbers and hears of their arrival.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgportage_link::Failure;
use pgportage_link::Tasks;
use pgportage_migration::Participation;
use pgportage_migration::journal::{Journal, Note};
use pgportage_migration::ledger;
use pgportage_migration::stream::Stream;
use pgportage_postgres::{Door, Purpose, Session, sql_failure};
use pgportage_proto::MigrationId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::state::{Beats, Reading};
use crate::figures::Gauges;
use crate::peer::Peers;

const INTERVAL: Duration = Duration::from_secs(1);
/// A beat that takes longer is given up, and its session is closed.
const BEAT_LIMIT: Duration = Duration::from_secs(15);
/// First pause after the link failed; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A standby that is lost must not delay the beat.
const SETTINGS: &str = "SET synchronous_commit = local";

/// The statement that writes the next number of a stream. After it has run, everything that was committed
/// before has a lower number.
pub(crate) fn beat_statement(stream: Stream) -> String {
    let table = ledger::table(stream.heartbeat_table());
    format!("UPDATE {table} SET sequence = sequence + 1 WHERE id = 1 RETURNING sequence")
}

const LAG_BYTES: &str = "\
SELECT greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint
FROM pg_replication_slots
WHERE slot_name = $1 AND confirmed_flush_lsn IS NOT NULL";

/// The heartbeats of all migrations whose changes this agent publishes. Cloning is
/// cheap.
#[derive(Clone, Debug)]
pub struct Heartbeats {
    door: Door,
    journal: Journal,
    peers: Peers,
    gauges: Gauges,
    tasks: Tasks,
    running: Arc<Mutex<HashMap<MigrationId, Running>>>,
}

#[derive(Debug)]
struct Running {
    beats: SharedBeats,
    hurry: Arc<Notify>,
    stop: CancellationToken,
    stopped: CancellationToken,
}

type SharedBeats = Arc<Mutex<Beats>>;

impl Heartbeats {
    /// No heartbeat runs yet.
    pub fn new(door: Door, journal: Journal, peers: Peers, gauges: Gauges, tasks: Tasks) -> Self {
        Self { door, journal, peers, gauges, tasks, running: Arc::default() }
    }

    /// Restarts the heartbeats that ran when the process ended. Called once, at start.
    pub fn resume(&self) -> Result<(), Failure> {
        for participation in self.journal.participations()? {
            if self.journal.note(&participation.migration, Note::Heartbeat)?.is_some() {
                self.start(&participation);
            }
        }
        Ok(())
    }

    /// Notes durably that the migration is about to have a heartbeat.
    pub fn intend(&self, participation: &Participation) -> Result<(), Failure> {
        self.journal.set_note(&participation.migration, Note::Heartbeat, "on")
    }

    /// Notes durably that the migration has no heartbeat any more.
    pub fn forget(&self, migration: &MigrationId) -> Result<(), Failure> {
        self.gauges.update(migration, |gauge| {
            gauge.lag = None;
            gauge.lag_bytes = None;
        });
        self.journal.clear_note(migration, Note::Heartbeat)
    }

    /// Starts the heartbeat of a migration, unless it runs already. Its task ends
    /// with [`Heartbeats::stop`] or with the agent.
    pub fn start(&self, participation: &Participation) {
        let mut all = self.lock();
        if all.get(&participation.migration).is_some_and(|running| !running.stopped.is_cancelled()) {
            return;
        }
        let running = Running {
            beats: SharedBeats::default(),
            hurry: Arc::default(),
            stop: self.tasks.stop.child_token(),
            stopped: CancellationToken::new(),
        };
        let task = Task {
            of: self.clone(),
            participation: participation.clone(),
            beats: Arc::clone(&running.beats),
            hurry: Arc::clone(&running.hurry),
            stop: running.stop.clone(),
        };
        let stopped = running.stopped.clone();
        self.tasks.spawn(async move {
            let _stopped = stopped.drop_guard();
            task.run().await;
        });
        all.insert(participation.migration.clone(), running);
    }

    /// Brings the next beat of a migration forward, for an act that waits for its arrival.
    pub fn hurry(&self, migration: &MigrationId) {
        if let Some(running) = self.lock().get(migration) {
            running.hurry.notify_one();
        }
    }

    /// Stops the heartbeat of a migration and waits until its session is closed.
    pub async fn stop(&self, migration: &MigrationId) {
        let running = self.lock().remove(migration);
        if let Some(running) = running {
            running.stop.cancel();
            running.stopped.cancelled().await;
        }
    }

    /// What the heartbeat of a migration says now. None while it is unknown.
    pub fn reading(&self, migration: &MigrationId) -> Option<Reading> {
        let beats = Arc::clone(&self.lock().get(migration)?.beats);
        beats.lock().unwrap_or_else(PoisonError::into_inner).reading(self.tasks.clock.now())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MigrationId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Task {
    of: Heartbeats,
    participation: Participation,
    beats: SharedBeats,
    hurry: Arc<Notify>,
    stop: CancellationToken,
}

impl Task {
    /// The stream that this side publishes, whose lag the heartbeat measures.
    fn stream(&self) -> Stream {
        Stream::published_by(self.participation.side)
    }

    async fn run(self) {
        self.stop.run_until_cancelled(async { tokio::join!(self.write(), self.listen()) }).await;
    }

    /// Writes the next number every second, or at once when an act waits for it. Ends when the migration is
    /// no longer meant to have a heartbeat: `pgportage-agent cleanup`, another process, may have removed
    /// it.
    async fn write(&self) {
        let mut session = None;
        loop {
            if let Err(failure) = self.beat(&mut session).await {
                tracing::debug!(
                    migration.id = %self.participation.migration, failure = %failure, detail = failure.detail,
                    "no heartbeat was written"
                );
                session = None;
                if matches!(self.of.journal.note(&self.participation.migration, Note::Heartbeat), Ok(None)) {
                    self.of.gauges.remove(&self.participation.migration);
                    self.stop.cancel();
                    return;
                }
            }
            self.publish();
            tokio::select! {
                () = self.of.tasks.clock.sleep(INTERVAL) => {}
                () = self.hurry.notified() => {}
            }
        }
    }

    async fn beat(&self, session: &mut Option<Session>) -> Result<(), Failure> {
        let clock = self.of.tasks.clock;
        let failure = |error| sql_failure(error, "write a heartbeat");
        let open = match session {
            Some(open) => open,
            None => {
                let open = self.of.door.open(&self.participation.database, Purpose::Watch).await?;
                open.batch_execute(SETTINGS).await.map_err(failure)?;
                session.insert(open)
            }
        };
        let begun = clock.now();
        let beat = async {
            let row = open.query_opt(&beat_statement(self.stream()), &[]).await.map_err(failure)?;
            if let Some(row) = row {
                self.lock().sent(row.get(0), begun);
            }
            let slot = self.stream().name(&self.participation.migration);
            let lag: Option<i64> = open.query_opt(LAG_BYTES, &[&slot]).await.map_err(failure)?.map(|row| row.get(0));
            self.of.gauges.update(&self.participation.migration, |gauge| {
                gauge.lag_bytes = lag.and_then(|bytes| u64::try_from(bytes).ok());
            });
            Ok(())
        };
        match clock.timeout(BEAT_LIMIT, beat).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(pgportage_proto::Reason::ServerUnreachable, "the server does not answer")),
        }
    }

    /// Receives arrivals from the subscriber's agent. Never returns.
    async fn listen(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.follow(&mut pause).await {
                Ok(()) => tracing::debug!(migration.id = %self.participation.migration, "the heartbeat stream ended"),
                Err(failure) => {
                    tracing::debug!(migration.id = %self.participation.migration, failure = %failure, "no heartbeat stream");
                }
            }
            self.of.tasks.clock.sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn follow(&self, pause: &mut Duration) -> Result<(), Failure> {
        let peer = self.of.peers.call(&self.participation).await?;
        let mut arrivals = peer.watch_heartbeat().await?;
        while let Some(number) = arrivals.next().await? {
            *pause = FIRST_PAUSE;
            self.lock().arrived(number, self.of.tasks.clock.now());
            self.publish();
        }
        Ok(())
    }

    fn publish(&self) {
        let reading = self.lock().reading(self.of.tasks.clock.now());
        self.of.gauges.update(&self.participation.migration, |gauge| gauge.lag = reading.map(|reading| reading.lag));
    }

    fn lock(&self) -> MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
