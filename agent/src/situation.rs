//! What is going on around one migration at this moment: the facts from which
//! the coordinator explains why it does not move.
//!
//! Changes nothing, is stored nowhere, and waits for no act. **Invariant:**
//! what could not be looked at is said; it never looks like a pass.

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
    /// Sessions that ours wait for, directly or through others.
    pub blockers: Vec<ServerSession>,
    /// The oldest transactions of others, oldest first.
    pub oldest_transactions: Vec<ServerSession>,
    /// Prepared transactions, those that a session of ours waits for first.
    pub prepared_transactions: Vec<PreparedTransaction>,
    /// What the server has a fixed number of.
    pub capacities: Vec<Capacity>,
    /// On the publisher: the slot of what it publishes.
    pub slot: Option<SlotSituation>,
    /// On the subscriber: the subscription it follows with.
    pub subscription: Option<SubscriptionSituation>,
    /// The disk of the server's WAL, where it can be seen.
    pub disk: Option<DiskSituation>,
    /// The way to the other agent.
    pub link: Option<LinkSituation>,
    /// What could not be looked at.
    pub unchecked: Vec<Unchecked>,
}

/// A session on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSession {
    /// Its process.
    pub pid: i32,
    /// The role it works as.
    pub role: String,
    /// What it calls itself.
    pub application: String,
    /// The database it is in.
    pub database: String,
    /// What kind of process it is.
    pub backend_type: String,
    /// What it does. Empty when the server does not say.
    pub state: String,
    /// What kind of thing it waits for.
    pub wait_event_type: String,
    /// What it waits for.
    pub wait_event: String,
    /// How long its transaction has been open.
    pub transaction_age: Option<Duration>,
    /// Whether its transaction has written.
    pub writes: bool,
    /// Processes it waits for. Zero is a prepared transaction.
    pub blocked_by: Vec<i32>,
}

/// A prepared transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedTransaction {
    /// Its identifier.
    pub gid: String,
    /// Who prepared it.
    pub role: String,
    /// The database it is in.
    pub database: String,
    /// How long ago.
    pub age: Duration,
    /// Whether a session of ours waits for its end.
    pub awaited: bool,
}

/// Something that the server has a fixed number of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// The setting that limits it.
    pub setting: String,
    /// How many are in use.
    pub used: i64,
    /// How many there are.
    pub limit: i64,
}

/// Our slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSituation {
    /// Whether its creation is over.
    pub complete: bool,
    /// The process that streams from it, or still makes it.
    pub active_pid: Option<i32>,
    /// WAL kept for it.
    pub retained_wal_bytes: Option<u64>,
    /// Why it cannot be used any more. Empty while it can.
    pub invalidation: String,
}

/// Our subscription.
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
    /// Errors of applying and of copying since the counters were reset. Known
    /// from 15 on.
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

/// The way to the other agent.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkSituation {
    /// A greeting took this long, there and back.
    Answers(Duration),
    /// Why it was not answered.
    Broken(Failure),
}

/// What could not be looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Unchecked {
    /// What, as a clause.
    pub subject: &'static str,
    /// Why.
    pub failure: Failure,
}

/// Looks around a migration until a moment; what is not known by then is
/// reported as unchecked. Dropping the future leaves nothing behind.
///
/// # Errors
///
/// [`Reason::MigrationMissing`] when this agent takes no part in it, and
/// [`Reason::StoreUnwritable`] when the journal cannot be read.
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

/// Until when there is time to look.
#[derive(Clone, Copy, Debug)]
struct Limit {
    clock: Clock,
    until: Instant,
}

impl Limit {
    /// Drives a look for as long as there is time.
    async fn within<T>(self, look: impl Future<Output = T>) -> Result<T, Failure> {
        let left = self.until.saturating_duration_since(self.clock.now());
        self.clock
            .timeout(left, look)
            .await
            .map_err(|_| Failure::new(Reason::CouldNotCheck, "there was no answer in time").effect(Effect::None))
    }
}
