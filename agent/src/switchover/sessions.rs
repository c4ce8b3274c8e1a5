//! What a switchover holds while it is under way: open sessions, and what its acts have found so far.
//! Nothing here is a source of truth.
//!
//! **Invariant:** nothing here knows an act or its context, so that both can be given [`Switchovers`].

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgportage_data_plane::peer::Peers;
use pgportage_data_plane::role::Roles;
use pgportage_data_plane::snapshot::Written;
use pgportage_link::{Effect, Failure, Haste, Remedy, Tasks};
use pgportage_migration::Participation;
use pgportage_migration::journal::Journal;
use pgportage_postgres::catalog::{SequencePosition, Sequences};
use pgportage_postgres::expel::Expulsion;
use pgportage_postgres::{Door, Session};
use pgportage_proto::{MigrationId, Reason};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::canary::Canary;
use super::fingerprint::Fingerprint;
use super::written_rows_check::{WrittenRows, WrittenRowsCheck};
use crate::hook::Hooks;
use crate::policy::Policy;
use crate::pooler::{Poolers, Unreachable};

/// Carries out and settles switchovers, for acts and by itself. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Switchovers {
    pub(crate) door: Door,
    pub(crate) journal: Journal,
    pub(crate) policy: Arc<Policy>,
    pub(crate) roles: Roles,
    pub(crate) peers: Peers,
    pub(crate) poolers: Poolers,
    pub(crate) hooks: Hooks,
    pub(crate) tasks: Tasks,
    pub(crate) sessions: Arc<CutoverSessions>,
}

impl Switchovers {
    /// No switchover is under way yet.
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

/// The barrier stands and the marker is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaiseBarrierResult {
    /// The id of the marker.
    pub marker_id: Uuid,
    /// Position of the source after the marker.
    pub marker_lsn: String,
    /// The positions of all sequences, read after the marker.
    pub sequences: Vec<SequencePosition>,
    /// Digest of the catalog, as both sides can compute it.
    pub catalog_digest: Vec<u8>,
    /// From the first lock request to the last grant.
    pub lock_wait: Duration,
    /// Sessions whose statement was cancelled.
    pub cancelled_session_count: u32,
}

/// No application is left on the source, and none can log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceSourceResult {
    /// Position of the source after the fence.
    pub fence_lsn: String,
    /// The positions of all sequences, read when no application was left.
    pub sequences: Vec<SequencePosition>,
    /// Sessions that were ended.
    pub terminated_session_count: u32,
    /// Digest of the catalog, as both sides can compute it.
    pub catalog_digest: Vec<u8>,
}

/// The marker is applied and flushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainToMarkerResult {
    /// From the command to the visible marker.
    pub drain_time: Duration,
    /// How many sequences were set.
    pub sequence_count: u32,
    /// Position of the destination after the flush.
    pub flush_lsn: String,
    /// What was compared, where the operator asked for that. Nothing of it differed.
    pub compared: Option<WrittenRows>,
}

/// The sessions of cutovers under way, by migration.
#[derive(Debug, Default)]
pub(crate) struct CutoverSessions {
    pub(crate) leaving: Mutex<HashMap<MigrationId, Arc<tokio::sync::Mutex<LeavingSide>>>>,
    pub(crate) entering: Mutex<HashMap<MigrationId, Arc<tokio::sync::Mutex<EnteringSide>>>>,
    /// When the budgets of the standing barriers end: known even while an act holds the barrier's own lock.
    pub(crate) deadlines: Mutex<HashMap<MigrationId, Instant>>,
    /// Notified whenever a barrier stands.
    pub(crate) raised: Notify,
}

/// What the agent of the side that is left holds from P0 to P7. Dropping it closes the sessions, and the
/// barrier ends with them.
#[derive(Debug)]
pub(crate) struct LeavingSide {
    pub(crate) epoch: i64,
    /// Raises the agent's priority while applications may wait. Ends with this value.
    pub(crate) _haste: Haste,
    /// Whether this is a rehearsal, so that no fence may follow.
    pub(crate) rehearsal: bool,
    /// Session X of the protocol: holds the locks in an open transaction.
    pub(crate) holder: Session,
    /// Session Y: writes the marker and the fence.
    pub(crate) writer: Session,
    /// Proves the fence by its refused login.
    pub(crate) canary: Canary,
    /// Digest of this database's catalog at P0, as both sides can compute it.
    pub(crate) catalog_digest: Vec<u8>,
    /// The same for changes only: cheap enough to read under the barrier. Prepared on `writer`, like all
    /// statements that run while applications wait.
    pub(crate) fingerprint: Fingerprint,
    pub(crate) sequences: Sequences,
    pub(crate) expulsion: Expulsion,
    /// Our own roles, which the fence lets in.
    pub(crate) ours: Vec<String>,
    /// Listens to what applications write since P0, where that is to be compared.
    pub(crate) written: Option<Arc<Written>>,
    pub(crate) barrier: Option<Barrier>,
    pub(crate) fenced: Option<FenceSourceResult>,
}

#[derive(Clone, Debug)]
pub(crate) struct Barrier {
    /// When the outage began: poolers were paused, or the first lock was asked
    /// for.
    pub(crate) raised_at: Instant,
    pub(crate) deadline: Instant,
    pub(crate) result: RaiseBarrierResult,
}

/// What the agent of the side that is entered holds from P0 to P6.
#[derive(Debug)]
pub(crate) struct EnteringSide {
    pub(crate) epoch: i64,
    /// Raises the agent's priority while applications may wait. Ends with this value.
    pub(crate) _haste: Haste,
    /// Whether this is a rehearsal, so that no decision may follow.
    pub(crate) rehearsal: bool,
    pub(crate) session: Session,
    pub(crate) catalog_digest: Vec<u8>,
    /// Compares what applications wrote since P0, where the operator asked for that.
    pub(crate) check: Option<WrittenRowsCheck>,
    pub(crate) drained: Option<DrainToMarkerResult>,
    /// The sequences that were set at P3, with their values.
    pub(crate) sequences: HashSet<SequencePosition>,
    /// When the time for opening ends. Set at P3; none once this side may have opened.
    pub(crate) open_deadline: Option<Instant>,
    /// Whether the decision is made and waits, uncommitted, in the session's transaction.
    pub(crate) pending: bool,
    /// What to do about a pooler that does not answer.
    pub(crate) unreachable: Unreachable,
    /// How long clients of poolers may wait here for the end of a rollback.
    pub(crate) clients_wait_until: Option<Instant>,
}

impl CutoverSessions {
    pub(crate) fn hold_leaving(&self, migration: &MigrationId, cutover: LeavingSide) {
        self.leaving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(migration.clone(), Arc::new(tokio::sync::Mutex::new(cutover)));
    }

    pub(crate) fn leaving(&self, migration: &MigrationId) -> Option<Arc<tokio::sync::Mutex<LeavingSide>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).get(migration).map(Arc::clone)
    }

    /// Notes that a barrier stands, and until when at most.
    pub(crate) fn stands_until(&self, migration: &MigrationId, deadline: Instant) {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner).insert(migration.clone(), deadline);
        self.raised.notify_one();
    }

    /// When the budget of the standing barrier ends, if there is one.
    pub(crate) fn deadline(&self, migration: &MigrationId) -> Option<Instant> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner).get(migration).copied()
    }

    /// When the next budget of a standing barrier ends, after `now`.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let deadlines = self.deadlines.lock().unwrap_or_else(PoisonError::into_inner);
        deadlines.values().copied().filter(|deadline| *deadline > now).min()
    }

    /// Drops the sessions on the side that is left; the barrier ends with them.
    pub(crate) fn drop_leaving(&self, migration: &MigrationId) {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner).remove(migration);
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).remove(migration);
    }

    pub(crate) fn hold_entering(&self, migration: &MigrationId, cutover: EnteringSide) {
        self.entering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(migration.clone(), Arc::new(tokio::sync::Mutex::new(cutover)));
    }

    pub(crate) fn entering(&self, migration: &MigrationId) -> Option<Arc<tokio::sync::Mutex<EnteringSide>>> {
        self.entering.lock().unwrap_or_else(PoisonError::into_inner).get(migration).map(Arc::clone)
    }

    pub(crate) fn drop_entering(&self, migration: &MigrationId) {
        self.entering.lock().unwrap_or_else(PoisonError::into_inner).remove(migration);
    }
}

/// What was written during a switchover that leaves this side. For the other agent, which asks after the
/// barrier stands.
///
/// # Errors
///
/// [`Reason::BarrierLost`] when this switchover is not under way, or its writes are not listened to.
pub(crate) async fn written(
    switchovers: &Switchovers,
    participation: &Participation,
    epoch: i64,
) -> Result<Arc<Written>, Failure> {
    let cutover = switchovers.sessions.leaving(&participation.migration).ok_or_else(|| sessions_lost(Effect::None))?;
    // The lock is not held while the changes are read, so that no other task waits for that.
    let cutover = cutover.lock().await;
    let written = cutover.written.as_ref().filter(|_| cutover.epoch == epoch);
    written.map(Arc::clone).ok_or_else(|| sessions_lost(Effect::None))
}

/// The failure of an act whose sessions are gone: the agent was restarted, or another cutover began.
pub(crate) fn sessions_lost(effect: Effect) -> Failure {
    Failure::new(Reason::BarrierLost, "the sessions of this cutover are gone")
        .detail("The agent was restarted or lost its server during the cutover.")
        .hint("The cutover is taken back by itself; try it again.")
        .remedy(Remedy::Operator)
        .effect(effect)
}
