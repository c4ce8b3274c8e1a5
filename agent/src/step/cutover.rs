//! The cutover: P0 to P7 of the protocol, one file for each act.
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

mod barrier;
mod canary;
mod cycle;
mod drain;
mod fence;
mod fingerprint;
mod let_go;
mod open;
mod prepare;
mod release;
mod resolve;
mod sequence;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;
use tokio::time::Instant;

use crate::migration::MigrationId;
use crate::postgres::{Lsn, Session, sql_failure};

pub use barrier::{RaiseBarrier, RaiseBarrierResult};
pub use drain::{DrainToMarker, DrainToMarkerResult};
pub use fence::{FenceSource, FenceSourceResult};
pub use open::{OpenDestination, OpenDestinationResult};
pub use prepare::{PrepareCutover, PrepareCutoverResult};
pub use release::{ReleaseBarrier, ReleaseBarrierResult};
pub use resolve::{Resolution, resolve, settle_by_itself, unfence_locally};
pub use sequence::SequencePosition;

/// The sessions of cutovers under way, by migration.
#[derive(Debug, Default)]
pub struct CutoverSessions {
    source: Mutex<HashMap<MigrationId, Arc<tokio::sync::Mutex<SourceCutover>>>>,
    destination: Mutex<HashMap<MigrationId, Arc<tokio::sync::Mutex<DestinationCutover>>>>,
}

/// What the source agent holds from P0 to P7. Dropping it closes the sessions,
/// and with them goes the barrier.
#[derive(Debug)]
struct SourceCutover {
    epoch: i64,
    /// Session X of the protocol: holds the locks in an open transaction.
    holder: Session,
    /// Session Y: writes the marker and the fence.
    writer: Session,
    /// Proves the fence by being refused.
    canary: canary::Canary,
    /// Catalog of this database at P0, as both sides can compute it.
    catalog_digest: Vec<u8>,
    /// The same for changes only: cheap enough to read under the barrier.
    fingerprint: String,
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

/// What the destination agent holds from P0 to P6.
#[derive(Debug)]
struct DestinationCutover {
    epoch: i64,
    session: Session,
    catalog_digest: Vec<u8>,
    drained: Option<DrainToMarkerResult>,
    /// When the time for opening ends. Set at P3.
    open_deadline: Option<Instant>,
}

impl CutoverSessions {
    fn hold_source(&self, migration: &MigrationId, cutover: SourceCutover) {
        self.source
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(migration.clone(), Arc::new(tokio::sync::Mutex::new(cutover)));
    }

    fn source(&self, migration: &MigrationId) -> Option<Arc<tokio::sync::Mutex<SourceCutover>>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).get(migration).map(Arc::clone)
    }

    /// Lets the source's sessions go, and with them the barrier.
    fn drop_source(&self, migration: &MigrationId) {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).remove(migration);
    }

    fn hold_destination(&self, migration: &MigrationId, cutover: DestinationCutover) {
        self.destination
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(migration.clone(), Arc::new(tokio::sync::Mutex::new(cutover)));
    }

    fn destination(&self, migration: &MigrationId) -> Option<Arc<tokio::sync::Mutex<DestinationCutover>>> {
        self.destination.lock().unwrap_or_else(PoisonError::into_inner).get(migration).map(Arc::clone)
    }

    fn drop_destination(&self, migration: &MigrationId) {
        self.destination.lock().unwrap_or_else(PoisonError::into_inner).remove(migration);
    }
}

/// The server's position, for the record.
async fn current_lsn(client: &tokio_postgres::Client) -> Result<Lsn, Failure> {
    let row = client
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .await
        .map_err(|error| sql_failure(error, "read the server's position"))?;
    row.get::<_, &str>(0)
        .parse()
        .map_err(|error| Failure::new(Reason::Internal, "the server's position is unreadable").because(&error))
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
