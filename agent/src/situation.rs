//! The present state around one migration: the facts from which the coordinator explains why the migration
//! does not move.
//!
//! Reading it changes nothing, stores nothing and waits for no act. **Invariant:** a look that failed is
//! reported as such; it never reads as a pass.

mod server;

use std::time::Duration;

use pgportage_data_plane::peer::Peers;
use pgportage_link::{Clock, Effect, Failure};
use pgportage_migration::Participation;
use pgportage_proto::{MigrationId, Reason};
use tokio::time::Instant;

use crate::act::Handles;

/// The facts of one side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Situation {
    /// Sessions of ours on the server, those that wait for a lock first.
    pub own_sessions: Vec<ServerSession>,
    /// Sessions that ours wait for, directly or through other sessions.
    pub blockers: Vec<ServerSession>,
    /// The oldest transactions of other sessions, oldest first.
    pub oldest_transactions: Vec<ServerSession>,
    /// Prepared transactions, those that a session of ours waits for first.
    pub prepared_transactions: Vec<PreparedTransaction>,
    /// Resources of which the server has a fixed number.
    pub capacities: Vec<Capacity>,
    /// On the publisher: the slot of the stream that it publishes.
    pub slot: Option<SlotSituation>,
    /// On the subscriber: the subscription it follows with.
    pub subscription: Option<SubscriptionSituation>,
    /// The disk of the server's WAL, where the agent can see it.
    pub disk: Option<DiskSituation>,
    /// The connection to the other agent.
    pub link: Option<LinkSituation>,
    /// Looks that failed.
    pub unchecked: Vec<Unchecked>,
}

/// A session on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSession {
    /// Its process id.
    pub pid: i32,
    /// The role it works as.
    pub role: String,
    /// Its `application_name`.
    pub application: String,
    /// The database it is in.
    pub database: String,
    /// What kind of process it is.
    pub backend_type: String,
    /// `pg_stat_activity.state`. Empty when the server does not say.
    pub state: String,
    /// The class of what it waits for, as `pg_stat_activity` names it.
    pub wait_event_type: String,
    /// What it waits for, as `pg_stat_activity` names it.
    pub wait_event: String,
    /// How long its transaction has been open.
    pub transaction_age: Option<Duration>,
    /// Whether its transaction has written.
    pub writes: bool,
    /// Ids of the processes that it waits for. Zero is a prepared transaction.
    pub blocked_by: Vec<i32>,
}

/// A prepared transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedTransaction {
    /// Its identifier.
    pub gid: String,
    /// The role that prepared it.
    pub role: String,
    /// The database it is in.
    pub database: String,
    /// How long ago it was prepared.
    pub age: Duration,
    /// Whether a session of ours waits for its end.
    pub awaited: bool,
}

/// A resource of which the server has a fixed number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// The setting that limits it.
    pub setting: String,
    /// How many of them are in use.
    pub used: i64,
    /// How many the server has.
    pub limit: i64,
}

/// The slot of the stream that this side publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSituation {
    /// Whether its creation has ended.
    pub complete: bool,
    /// The process that streams from it, or is still making it.
    pub active_pid: Option<i32>,
    /// WAL kept for it.
    pub retained_wal_bytes: Option<u64>,
    /// Why it cannot be used any more. Empty while it can.
    pub invalidation: String,
}

/// The subscription that this side follows with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionSituation {
    /// Whether it is enabled.
    pub enabled: bool,
    /// Workers that apply the stream.
    pub apply_workers: u32,
    /// How long the oldest of those has been running, if that is known.
    pub apply_worker_age: Option<Duration>,
    /// Workers that copy tables.
    pub sync_workers: u32,
    /// Tables whose copy has not begun.
    pub waiting_tables: u32,
    /// Tables that are being copied or catch up.
    pub copying_tables: u32,
    /// Tables that follow the stream.
    pub ready_tables: u32,
    /// Errors of applying and of copying since the counters were reset. Known from version 15 on.
    pub errors: Option<(u64, u64)>,
}

/// The disk of the server's WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSituation {
    /// Free bytes.
    pub free_bytes: u64,
    /// Below this the policy warns.
    pub warn_bytes: u64,
}

/// The state of the connection to the other agent.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkSituation {
    /// The other agent answered a greeting after this time.
    Answers(Duration),
    /// The other agent did not answer, for this reason.
    Broken(Failure),
}

/// A look that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Unchecked {
    /// Its subject, as a clause.
    pub subject: &'static str,
    /// Why it failed.
    pub failure: Failure,
}

/// Looks at everything around a migration until a moment; looks that have not ended by then are reported as
/// unchecked. Dropping the future leaves nothing behind.
///
/// # Errors
///
/// [`Reason::MigrationMissing`] when this agent takes no part in it, and [`Reason::StoreUnwritable`] when
/// the journal cannot be read.
pub async fn look(handles: &Handles, migration: &MigrationId, until: Instant) -> Result<Situation, Failure> {
    let Some(participation) = handles.journal.participation(migration)? else {
        return Err(Failure::new(
            Reason::MigrationMissing,
            format!("agent {} has no part in {migration} yet", handles.settings.name),
        )
        .detail("An agent learns of a migration with its first command.")
        .effect(Effect::None));
    };
    let limit = Limit { clock: handles.tasks.clock, until };
    let (mut situation, link) = tokio::join!(
        Box::pin(server::look(handles, &participation, limit)),
        greet(&handles.peers, handles.tasks.clock, &participation, limit)
    );
    match link {
        Ok(link) => situation.link = Some(link),
        Err(failure) => situation.unchecked.push(Unchecked { subject: "the link to the other agent", failure }),
    }
    Ok(situation)
}

/// How long the other agent takes to answer. The time to dial is not counted.
async fn greet(
    peers: &Peers,
    clock: Clock,
    participation: &Participation,
    limit: Limit,
) -> Result<LinkSituation, Failure> {
    let greeting = async {
        let peer = peers.call(participation).await?;
        let asked = clock.now();
        peer.greet().await?;
        Ok(clock.now().duration_since(asked))
    };
    match limit.within(greeting).await? {
        Ok(round_trip) => Ok(LinkSituation::Answers(round_trip)),
        Err(failure) => Ok(LinkSituation::Broken(failure)),
    }
}

/// The moment at which looks must end.
#[derive(Clone, Copy, Debug)]
struct Limit {
    clock: Clock,
    until: Instant,
}

impl Limit {
    /// Drives a look until the limit.
    async fn within<T>(self, look: impl Future<Output = T>) -> Result<T, Failure> {
        let left = self.until.saturating_duration_since(self.clock.now());
        self.clock
            .timeout(left, look)
            .await
            .map_err(|_| Failure::new(Reason::CouldNotCheck, "there was no answer in time").effect(Effect::None))
    }
}
