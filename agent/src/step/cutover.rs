//! The cutover: P0 to P7 of the protocol, one file for each act.
//!
//! A switch *leaves* one side and *enters* the other: a cutover leaves the source
//! and enters the destination, a rollback leaves the destination and enters the
//! source. The acts are the same; where their names and messages say source and
//! destination they speak of the side that is left and of the side that is entered.
//!
//! Two fences with different failure directions. The *barrier* (table locks)
//! dies with its session: up to P3 any failure reopens the source by itself.
//! The *durable fence* is committed only when everything else is proved; from
//! then on the source is unfenced only on the destination's promise that it
//! never opens at this epoch (`resolve`). The *decision* is one row in the
//! destination, in the transaction that opens it.
//!
//! What has to outlive a single command, the open sessions, is kept in
//! [`CutoverSessions`]; nothing in there is a source of truth. An agent that
//! lost it by dying finds in the server's own tables what is durable, and lets
//! go of the rest.

mod announce;
mod barrier;
mod canary;
mod cycle;
mod drain;
mod fence;
mod fingerprint;
mod flow;
mod let_go;
mod open;
mod prepare;
mod release;
mod resolve;
mod scrutiny;
mod seeded;
mod sequence;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgportage_data_plane::peer::Peers;
use pgportage_data_plane::role::Roles;
use pgportage_data_plane::snapshot::Written;
use pgportage_link::{Effect, Failure, Haste, Remedy, Tasks};
use pgportage_migration::Participation;
use pgportage_migration::journal::Journal;
use pgportage_postgres::catalog::Sequences;
use pgportage_postgres::expel::Expulsion;
use pgportage_postgres::{Door, Lsn, Session, sql_failure};
use pgportage_proto::{MigrationId, Reason};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::GenericClient;

use crate::hook::Hooks;
use crate::policy::Policy;
use crate::pooler::{Poolers, Unreachable};
use fingerprint::Fingerprint;
use scrutiny::Scrutiny;

pub use announce::heed;
pub use barrier::{RaiseBarrier, RaiseBarrierResult};
pub use drain::{DrainToMarker, DrainToMarkerResult};
pub use fence::{FenceSource, FenceSourceResult};
pub use open::{OpenDestination, OpenDestinationResult};
pub use prepare::{PrepareCutover, PrepareCutoverResult, Switch};
pub use release::{ReleaseBarrier, ReleaseBarrierResult};
pub use resolve::{resolve, settle_by_itself, unfence_locally};
pub use scrutiny::WrittenRows;
pub use sequence::SequencePosition;

/// What switches are carried out and settled with, by acts and by themselves.
/// Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Switches {
    door: Door,
    journal: Journal,
    policy: Arc<Policy>,
    roles: Roles,
    peers: Peers,
    poolers: Poolers,
    hooks: Hooks,
    tasks: Tasks,
    sessions: Arc<CutoverSessions>,
}

impl Switches {
    /// None is under way yet.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "called once, where the process is put together")]
    pub fn new(
        door: Door,
        journal: Journal,
        policy: Arc<Policy>,
        roles: Roles,
        peers: Peers,
        poolers: Poolers,
        hooks: Hooks,
        tasks: Tasks,
    ) -> Self {
        Self { door, journal, policy, roles, peers, poolers, hooks, tasks, sessions: Arc::default() }
    }
}

/// The sessions of cutovers under way, by migration.
#[derive(Debug, Default)]
struct CutoverSessions {
    leaving: Mutex<HashMap<MigrationId, Arc<tokio::sync::Mutex<LeavingSide>>>>,
    entering: Mutex<HashMap<MigrationId, Arc<tokio::sync::Mutex<EnteringSide>>>>,
    /// When the budgets of the barriers that stand end: known whoever works on them.
    deadlines: Mutex<HashMap<MigrationId, Instant>>,
    /// Told whenever a barrier stands.
    raised: Notify,
}

/// What the agent of the side that is left holds from P0 to P7. Dropping it closes the sessions,
/// and with them goes the barrier.
#[derive(Debug)]
struct LeavingSide {
    epoch: i64,
    /// Ends with this: applications wait no longer.
    _haste: Haste,
    /// Whether no fence may follow.
    rehearsal: bool,
    /// Session X of the protocol: holds the locks in an open transaction.
    holder: Session,
    /// Session Y: writes the marker and the fence.
    writer: Session,
    /// Proves the fence by being refused.
    canary: canary::Canary,
    /// Catalog of this database at P0, as both sides can compute it.
    catalog_digest: Vec<u8>,
    /// The same for changes only: cheap enough to read under the barrier. Prepared on
    /// `writer`, as is everything else that applications would have to wait for.
    fingerprint: Fingerprint,
    /// Reads the sequences.
    sequences: Sequences,
    /// Ends the sessions of applications.
    expulsion: Expulsion,
    /// The roles of ours that the fence lets in.
    ours: Vec<String>,
    /// Listens to what is written since P0, where that is to be compared.
    written: Option<Arc<Written>>,
    barrier: Option<Barrier>,
    fenced: Option<FenceSourceResult>,
}

/// The barrier that stands.
#[derive(Clone, Debug)]
struct Barrier {
    /// When the outage began: poolers were paused, or the first lock was asked
    /// for.
    raised_at: Instant,
    /// When the budget for the outage ends.
    deadline: Instant,
    result: RaiseBarrierResult,
}

/// What the agent of the side that is entered holds from P0 to P6.
#[derive(Debug)]
struct EnteringSide {
    epoch: i64,
    /// Ends with this: applications wait no longer.
    _haste: Haste,
    /// Whether no decision may follow.
    rehearsal: bool,
    session: Session,
    catalog_digest: Vec<u8>,
    /// Compares what was written since P0, where that was asked for.
    scrutiny: Option<Scrutiny>,
    drained: Option<DrainToMarkerResult>,
    /// The sequences that were set at P3, and where to.
    sequences: HashSet<SequencePosition>,
    /// When the time for opening ends. Set at P3, gone when it may have opened.
    open_deadline: Option<Instant>,
    /// Whether the decision is made and waits for its commit in the session's transaction.
    pending: bool,
    /// What becomes of a pooler that does not answer.
    unreachable: Unreachable,
    /// Until when clients of poolers may wait here for the end of a rollback.
    clients_wait_until: Option<Instant>,
}

impl CutoverSessions {
    fn hold_leaving(&self, migration: &MigrationId, cutover: LeavingSide) {
        self.leaving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(migration.clone(), Arc::new(tokio::sync::Mutex::new(cutover)));
    }

    fn leaving(&self, migration: &MigrationId) -> Option<Arc<tokio::sync::Mutex<LeavingSide>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).get(migration).map(Arc::clone)
    }

    /// A barrier stands, until then at most.
    fn stands_until(&self, migration: &MigrationId, deadline: Instant) {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner).insert(migration.clone(), deadline);
        self.raised.notify_one();
    }

    /// When the budget of the barrier ends, if one stands.
    fn deadline(&self, migration: &MigrationId) -> Option<Instant> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner).get(migration).copied()
    }

    /// When the next budget of a barrier that stands ends, from now on.
    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let deadlines = self.deadlines.lock().unwrap_or_else(PoisonError::into_inner);
        deadlines.values().copied().filter(|deadline| *deadline > now).min()
    }

    /// Lets the sessions on the side that is left go, and with them the barrier.
    fn drop_leaving(&self, migration: &MigrationId) {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner).remove(migration);
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).remove(migration);
    }

    fn hold_entering(&self, migration: &MigrationId, cutover: EnteringSide) {
        self.entering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(migration.clone(), Arc::new(tokio::sync::Mutex::new(cutover)));
    }

    fn entering(&self, migration: &MigrationId) -> Option<Arc<tokio::sync::Mutex<EnteringSide>>> {
        self.entering.lock().unwrap_or_else(PoisonError::into_inner).get(migration).map(Arc::clone)
    }

    fn drop_entering(&self, migration: &MigrationId) {
        self.entering.lock().unwrap_or_else(PoisonError::into_inner).remove(migration);
    }
}

/// What listens to the writes of a switch that leaves this side. For the other agent,
/// which asks behind the barrier.
///
/// # Errors
///
/// [`Reason::BarrierLost`] when this switch is not under way, or nothing listens.
pub(crate) async fn written(
    switches: &Switches,
    participation: &Participation,
    epoch: i64,
) -> Result<Arc<Written>, Failure> {
    let cutover = switches.sessions.leaving(&participation.migration).ok_or_else(|| sessions_lost(Effect::None))?;
    // Not held while it is read: nobody else has to wait for that.
    let cutover = cutover.lock().await;
    let written = cutover.written.as_ref().filter(|_| cutover.epoch == epoch);
    written.map(Arc::clone).ok_or_else(|| sessions_lost(Effect::None))
}

/// The server's position, for the record.
async fn current_lsn(client: &tokio_postgres::Client) -> Result<Lsn, Failure> {
    let row = client
        .query_typed_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .await
        .map_err(|error| sql_failure(error, "read the server's position"))?;
    row.get::<_, &str>(0)
        .parse()
        .map_err(|error| Failure::new(Reason::Internal, "the server's position is unreadable").because(&error))
}

/// Makes the commit of a transaction wait for the disk, whatever the role or the
/// database say. WAL is flushed in order: everything before it is safe as well.
async fn await_disk(transaction: &impl GenericClient) -> Result<(), Failure> {
    let value = if seeded::Bug::NoFlush.is_seeded() { "off" } else { "on" };
    transaction
        .batch_execute(&format!("SET LOCAL synchronous_commit = {value}"))
        .await
        .map_err(|error| sql_failure(error, "wait for the disk"))
}

/// The sessions of this cutover are gone: the agent was restarted, or another
/// cutover began.
fn sessions_lost(effect: Effect) -> Failure {
    Failure::new(Reason::BarrierLost, "the sessions of this cutover are gone")
        .detail("The agent was restarted or lost its server during the cutover.")
        .hint("The cutover is taken back by itself; try it again.")
        .remedy(Remedy::Operator)
        .effect(effect)
}

/// What cannot be taken back by itself is never done in a rehearsal, whoever asks.
fn refuse_in_rehearsal(rehearsal: bool) -> Result<(), Failure> {
    if !rehearsal {
        return Ok(());
    }
    Err(Failure::new(Reason::WrongState, "this cutover is only rehearsed")
        .detail("A rehearsal ends before the fence.")
        .hint("Let the rehearsal be taken back, then type the cutover.")
        .remedy(Remedy::Operator)
        .effect(Effect::None))
}

/// What is left of the budget.
fn remaining(deadline: Instant, now: Instant) -> Result<Duration, Failure> {
    let left = deadline.saturating_duration_since(now);
    if left.is_zero() {
        return Err(Failure::new(Reason::OutageBudgetExceeded, "the outage would exceed its budget")
            .hint("Allow more with --max-outage, or wait for a quieter moment.")
            .remedy(Remedy::Operator)
            .effect(Effect::None));
    }
    Ok(left)
}
