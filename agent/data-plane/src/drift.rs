//! Schema drift: DDL that was run on one side only, noticed within seconds.
//!
//! Replication carries rows, not DDL. While a side follows the other one, its agent compares the schemas of
//! both, by the same hashes as the verification. It reports what differs to the coordinator by name. The
//! operator makes the change on the other side as well, or takes it back.
//!
//! A side follows when it is closed and has its subscription. The subscription is made when the schema is
//! whole, so what the copy has not built yet is no drift. **Invariant:** only what has differed for
//! [`pace::INTERVAL`] is reported, so a change that an operator is making on both sides is no drift either.
//! A schema that could not be compared is never reported as equal.

mod difference;
mod pace;
mod published;

use std::collections::HashMap;

use pgportage_link::{Failure, Tasks};
use pgportage_migration::Participation;
use pgportage_migration::journal::Journal;
use pgportage_migration::stream::subscribed_name;
use pgportage_postgres::catalog::{self, SchemaObject};
use pgportage_postgres::{Door, Purpose, Session, sql_failure};
use pgportage_proto::{MigrationId, Side};
use pgportage_report::drift::SchemaDrift;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::figures::Gauges;
use crate::peer::Peers;

use pace::{INTERVAL, Pace};

pub use difference::{Differences, Published, by_urgency, compare};
pub use published::published;

/// Most objects that are named to the coordinator; of the rest it learns the number.
const NAMED: usize = 20;

/// Whether this may be a side that follows: closed, with its subscription. On a source that was never left,
/// our tables are missing.
const CANDIDATE: &str = "SELECT to_regclass('pgportage.decision') IS NOT NULL";

const FOLLOWS: &str = "\
SELECT EXISTS (SELECT FROM pgportage.decision WHERE id = 1 AND state = 'closed')
   AND EXISTS (SELECT FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
                WHERE s.subname = $1 AND d.datname = current_database())";

async fn follows(session: &Session, participation: &Participation) -> Result<bool, Failure> {
    let failure = |error| sql_failure(error, "look whether this side follows the other one");
    if !session.query_one(CANDIDATE, &[]).await.map_err(failure)?.get::<_, bool>(0) {
        return Ok(false);
    }
    Ok(session.query_one(FOLLOWS, &[&subscribed_name(participation)]).await.map_err(failure)?.get(0))
}

/// Watches every migration of this agent for drift. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Drift {
    door: Door,
    journal: Journal,
    peers: Peers,
    gauges: Gauges,
    tasks: Tasks,
}

impl Drift {
    /// A watch that has compared nothing yet.
    #[must_use]
    pub fn new(door: Door, journal: Journal, peers: Peers, gauges: Gauges, tasks: Tasks) -> Self {
        Self { door, journal, peers, gauges, tasks }
    }

    /// Watches until the agent stops.
    pub async fn run(self) {
        let mut watched: HashMap<MigrationId, CancellationToken> = HashMap::new();
        loop {
            let participations = self.journal.participations().unwrap_or_default();
            watched.retain(|migration, stop| {
                let stays = participations.iter().any(|known| known.migration == *migration);
                if !stays {
                    stop.cancel();
                }
                stays
            });
            for participation in participations {
                watched.entry(participation.migration.clone()).or_insert_with(|| {
                    let stop = self.tasks.stop.child_token();
                    let watch = Watch { with: self.clone(), participation, told: None };
                    self.tasks.spawn(watch.run(stop.clone()));
                    stop
                });
            }
            tokio::select! {
                biased;
                () = self.tasks.stop.cancelled() => return,
                () = self.tasks.clock.sleep(INTERVAL) => {}
            }
        }
    }
}

#[derive(Debug)]
struct Watch {
    with: Drift,
    participation: Participation,
    /// The differences reported last, so that each change is reported once.
    told: Option<Differences>,
}

/// What was seen of both schemas, and since when they differ.
#[derive(Debug, Default)]
struct Sight {
    theirs: Option<Published>,
    ours: Vec<SchemaObject>,
    differing: Option<(Differences, Instant)>,
}

impl Watch {
    async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                if let Err(failure) = self.follow().await {
                    tracing::debug!(
                        migration.id = %self.participation.migration, %failure, detail = failure.detail,
                        "the schemas could not be compared"
                    );
                }
                // A drift is reported until a comparison shows that it is gone. Without one, "equal" is not
                // reported either.
                if self.told.as_ref().is_some_and(Differences::is_empty) {
                    self.tell_nothing();
                }
                self.with.tasks.clock.sleep(INTERVAL).await;
            }
        })
        .await;
        if !self.with.tasks.stop.is_cancelled() {
            self.tell_nothing();
        }
    }

    /// Compares for as long as this side follows. The session stays open while it does not: the
    /// preconditions of a switchover would meet a session that comes and goes, and could not know whose it
    /// was.
    async fn follow(&mut self) -> Result<(), Failure> {
        let clock = self.with.tasks.clock;
        // A source that was never left follows no other side, so it needs no session.
        while self.participation.side == Side::Source
            && self.with.journal.switchover(&self.participation.migration)?.left.is_none()
        {
            clock.sleep(INTERVAL).await;
        }
        let session = self.with.door.open(&self.participation.database, Purpose::Control).await?;
        while !follows(&session, &self.participation).await? {
            self.tell_nothing();
            clock.sleep(INTERVAL).await;
        }
        let mut theirs = self.with.peers.call(&self.participation).await?.watch_schema().await?;
        let (mut sight, mut known, mut pace) = (Sight::default(), None, Pace::default());
        let mut due = clock.now();
        loop {
            tokio::select! {
                listing = theirs.next() => match listing? {
                    Some(listing) => sight.theirs = Some(listing),
                    None => return Ok(()),
                },
                () = clock.sleep_until(due) => {}
            }
            let begun = clock.now();
            if !follows(&session, &self.participation).await? {
                self.tell_nothing();
                return Ok(());
            }
            if published::changed(&session, &mut known, begun).await? {
                sight.ours = catalog::schema_objects(&session).await?;
            }
            self.judge(&mut sight);
            due = begun + pace.after(clock.now().duration_since(begun));
        }
    }

    /// Reports what has differed for long enough.
    fn judge(&mut self, sight: &mut Sight) {
        let Some(theirs) = &sight.theirs else { return };
        let differences = compare(theirs, &sight.ours);
        if differences.is_empty() {
            sight.differing = None;
            self.tell_level();
            return;
        }
        let now = self.with.tasks.clock.now();
        let since = match &sight.differing {
            Some((before, since)) if *before == differences => *since,
            Some(_) | None => now,
        };
        sight.differing = Some((differences.clone(), since));
        if now.duration_since(since) >= INTERVAL && self.told.as_ref() != Some(&differences) {
            self.tell(differences);
        }
    }

    fn tell(&mut self, differences: Differences) {
        let Participation { migration, side, .. } = &self.participation;
        let object_count = i32::try_from(differences.len()).unwrap_or(i32::MAX);
        tracing::warn!(
            migration.id = %migration, %side, objects = object_count,
            "schema drift: the two sides are not level"
        );
        let mut objects = by_urgency(&differences);
        objects.truncate(NAMED);
        let drift = SchemaDrift { follower: *side, object_count, objects };
        self.with.gauges.update(migration, |gauge| gauge.schema_drift = Some(drift));
        self.told = Some(differences);
    }

    fn tell_level(&mut self) {
        let migration = &self.participation.migration;
        if self.told.as_ref().is_some_and(Differences::is_empty) {
            return;
        }
        if self.told.is_some() {
            tracing::info!(migration.id = %migration, "the schemas of both sides are level again");
        }
        let level = SchemaDrift { follower: self.participation.side, object_count: 0, objects: Vec::new() };
        self.with.gauges.update(migration, |gauge| gauge.schema_drift = Some(level));
        self.told = Some(Differences::new());
    }

    /// Withdraws the last report.
    fn tell_nothing(&mut self) {
        if self.told.take().is_some() {
            self.with.gauges.forget_drift(&self.participation.migration);
        }
    }
}
