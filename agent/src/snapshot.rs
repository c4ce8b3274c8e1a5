//! The source's snapshot: what the copy reads.
//!
//! A slot made on a replication connection exports a snapshot of exactly the
//! point where its stream begins. The snapshot can be imported for as long as
//! that connection lives and does nothing else, so a **keeper** holds it.
//! Readers import it into transactions of their own, which then see the same
//! rows whatever happens to the keeper.
//!
//! **Invariant:** a snapshot is called by the slot's consistent point, and rows
//! are read only by readers of the snapshot that was asked for. When the keeper
//! is lost before the copy was complete, slot and snapshot are made anew, at
//! another point.

mod keeper;
mod reader;
mod tables;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;
use tokio::sync::Mutex;

use self::keeper::Keeper;
use self::reader::Readers;
pub(crate) use self::reader::{Piece, Range, RowStream};
pub use self::tables::SnapshotTable;
use crate::agent::Agent;
use crate::migration::{MigrationId, Participation};
use crate::peer::Packer;
use crate::step::Context;
use crate::step::subscribe::SLOT_NOTE;
use crate::watch;

/// Journal note: every row of the snapshot of this consistent point has arrived.
/// From then on no other snapshot is made: the subscription streams from that
/// slot, or is about to.
const RELEASED_NOTE: &str = "snapshot.released";

/// The snapshots of all migrations that this agent is the source of.
///
/// Each has a place of its own: making one waits for other people's transactions,
/// and nobody else may wait with it.
#[derive(Debug, Default)]
pub struct Snapshots(std::sync::Mutex<HashMap<MigrationId, Place>>);

type Place = Arc<Mutex<Option<Arc<Snapshot>>>>;

/// One snapshot, kept.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Where the slot's stream begins: the snapshot's name everywhere.
    pub(crate) consistent_point: String,
    /// What it holds.
    pub(crate) tables: Vec<SnapshotTable>,
    keeper: Keeper,
    readers: Readers,
}

impl Snapshots {
    /// The snapshot of a migration: the one that is kept, or a new one with a new
    /// slot. An older slot of ours is dropped for it.
    ///
    /// Dropping the future while the server makes the slot ends that attempt.
    ///
    /// # Errors
    ///
    /// [`Reason::WrongState`] when the migration has no slot yet or any more, or the
    /// copy was complete before; otherwise what the server reports.
    pub(crate) async fn open(&self, agent: &Agent, participation: &Participation) -> Result<Arc<Snapshot>, Failure> {
        let migration = &participation.migration;
        // Held while the slot is made: a second caller waits for the same one.
        let place = self.place(migration);
        let mut place = place.lock().await;
        if let Some(kept) = place.as_ref().filter(|kept| !kept.keeper.is_lost()) {
            return Ok(Arc::clone(kept));
        }
        watch::slot_stands(&agent.journal, migration)?;
        // What is made without this would be watched and removed by nobody.
        if agent.journal.note(migration, SLOT_NOTE)?.is_none() {
            return Err(Failure::new(Reason::WrongState, "the step that makes the slot has not come or is undone")
                .effect(Effect::None));
        }
        if let Some(lost) = place.take() {
            tracing::warn!(
                migration.id = %migration, consistent_point = lost.consistent_point,
                "the snapshot is lost with its session"
            );
        }
        if let Some(point) = agent.journal.note(migration, RELEASED_NOTE)? {
            return Err(Failure::new(Reason::WrongState, "the copy of this migration was complete")
                .detail(format!("Its snapshot of {point} was released, and its slot must not be lost."))
                .effect(Effect::None));
        }
        let keeper = Keeper::make(agent, participation).await?;
        let readers = Readers::new(agent.door.clone(), participation.database.clone(), keeper.snapshot_name.clone());
        let tables = readers.tables(participation).await?;
        let snapshot =
            Arc::new(Snapshot { consistent_point: keeper.consistent_point.clone(), tables, keeper, readers });
        tracing::info!(
            migration.id = %migration, consistent_point = snapshot.consistent_point,
            tables = snapshot.tables.len(), "a snapshot is kept for the copy"
        );
        *place = Some(Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// The kept snapshot of a consistent point.
    ///
    /// # Errors
    ///
    /// [`Reason::SnapshotLost`] when there is no such snapshot any more;
    /// [`Reason::WalLimitExceeded`] or [`Reason::SlotLost`] when the slot was given
    /// up: then the rows are of no use.
    pub(crate) async fn get(
        &self,
        agent: &Agent,
        migration: &MigrationId,
        consistent_point: &str,
    ) -> Result<Arc<Snapshot>, Failure> {
        watch::slot_stands(&agent.journal, migration)?;
        let kept = self.place(migration).lock().await.clone();
        kept.filter(|kept| kept.consistent_point == consistent_point && !kept.keeper.is_lost())
            .ok_or_else(|| snapshot_lost(consistent_point))
    }

    /// Lets a snapshot go because every row has arrived. The slot stays.
    /// Succeeds when it was let go before.
    ///
    /// # Errors
    ///
    /// [`Reason::SnapshotLost`] when another one was made since: then not every
    /// row of that one can have arrived.
    pub(crate) async fn release(
        &self,
        agent: &Agent,
        migration: &MigrationId,
        consistent_point: &str,
    ) -> Result<(), Failure> {
        let place = self.place(migration);
        let mut place = place.lock().await;
        if place.as_ref().is_some_and(|kept| kept.consistent_point != consistent_point) {
            return Err(snapshot_lost(consistent_point));
        }
        agent.journal.set_note(migration, RELEASED_NOTE, consistent_point)?;
        *place = None;
        Ok(())
    }

    /// Forgets a migration's snapshot: its slot goes too.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub(crate) fn forget(&self, cx: &Context) -> Result<(), Failure> {
        let migration = &cx.participation.migration;
        // Whoever makes one at this moment has just lost its slot, and fails.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(migration);
        cx.agent.journal.clear_note(migration, RELEASED_NOTE)
    }

    fn place(&self, migration: &MigrationId) -> Place {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(migration.clone()).or_default())
    }
}

impl Snapshot {
    /// Reads a range of one table. The stream ends with an error when the
    /// snapshot is lost to it; dropping it cancels the reading.
    ///
    /// # Errors
    ///
    /// [`Reason::RequestInvalid`] for anything that is not published: the caller
    /// names a table, and gets no other. Otherwise what the server reports before
    /// the first row.
    pub(crate) async fn read(&self, agent: &Agent, range: Range, packer: Packer) -> Result<RowStream, Failure> {
        let published = |table: &SnapshotTable| table.name == range.table && table.columns == range.columns;
        if !self.tables.iter().any(published) {
            return Err(Failure::new(Reason::RequestInvalid, "the snapshot holds no such table with these columns")
                .effect(Effect::None)
                .with("field", "table"));
        }
        self.readers.read(agent, range, packer).await
    }
}

/// The copy has to begin anew for what is not complete.
fn snapshot_lost(consistent_point: &str) -> Failure {
    Failure::new(Reason::SnapshotLost, format!("the source does not keep the snapshot of {consistent_point} any more"))
        .detail("It lives as long as one session of the source's agent.")
        .remedy(Remedy::Wait)
        .effect(Effect::None)
}
