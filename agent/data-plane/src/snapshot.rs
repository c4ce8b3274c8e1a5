//! The source's snapshot: what the copy reads.
//!
//! A slot made on a replication connection exports a snapshot of exactly the point where its stream begins.
//! The snapshot can be imported for as long as that connection lives and does nothing else, so a **keeper**
//! holds it. Readers import it into transactions of their own, and these see the same rows even after the
//! keeper is lost.
//!
//! **Invariant:** a snapshot's name is the slot's consistent point, and only readers of the snapshot that
//! the destination agent asked for read rows. When the keeper is lost before the copy was complete, slot
//! and snapshot are made anew, at another point. What was copied of the lost one is made equal to the new
//! one. Until then its slot is kept: it says which rows were touched in between.

mod bucket;
mod former;
mod keeper;
mod pgoutput;
mod reader;
mod reader_slots;
mod tables;
mod throttle;
mod touched;
mod written;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};

use pgportage_link::{Effect, Failure, Remedy, Tasks};
use pgportage_migration::Participation;
use pgportage_migration::journal::{Journal, Note};
use pgportage_postgres::{Door, Lsn, is_passing};
use pgportage_proto::{MigrationId, Reason, Side};
use tokio::sync::Mutex;

pub use self::bucket::Rate;
use self::keeper::Keeper;
use self::reader::Readers;
pub use self::reader::{Piece, REWRITTEN_TABLE, Range, RowStream, Selection};
use self::reader_slots::{ReaderSlot, ReaderSlots};
use self::tables::Published;
pub use self::tables::SnapshotTable;
use self::throttle::Throttle;
use self::touched::{Difference, Touched};
pub use self::written::{Written, WrittenTable};
use crate::peer::Packer;
use crate::slot::Slots;

/// The snapshots of all migrations that this agent is the source of.
///
/// Each migration has a place of its own: making its snapshot waits for the application's transactions, and
/// other migrations must not wait with it. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Snapshots {
    hands: Hands,
    journal: Journal,
    places: Arc<std::sync::Mutex<HashMap<MigrationId, Arc<Place>>>>,
}

/// What makes, keeps and reads a snapshot.
#[derive(Clone, Debug)]
struct Hands {
    door: Door,
    slots: Slots,
    tasks: Tasks,
}

/// The snapshot and the reading of one migration.
#[derive(Debug)]
struct Place {
    kept: Mutex<Option<Arc<Snapshot>>>,
    pace: Pace,
}

/// How fast rows are read, and by how many readers at a time. Outlasts a lost snapshot: both belong to the
/// migration.
#[derive(Clone, Debug)]
struct Pace {
    throttle: Arc<Throttle>,
    readers: Arc<ReaderSlots>,
}

/// How often the reading of the changes since one earlier snapshot may be begun. An attempt ends with the
/// call that asked for it.
const MOST_READINGS: u32 = 3;

/// The permit of one reader. Held until it is dropped.
#[derive(Debug)]
pub struct Permit {
    reader: ReaderSlot,
    throttle: Arc<Throttle>,
}

impl Permit {
    /// Waits until this reader may read. Safe to drop.
    pub async fn wait(&self) {
        self.reader.wait().await;
    }

    /// Charges bytes that were read: waits until more may be. Dropping the future leaves them uncharged.
    pub async fn charge(&self, bytes: usize) {
        self.throttle.pass(bytes).await;
    }
}

/// One snapshot that this agent keeps.
#[derive(Debug)]
pub struct Snapshot {
    /// Where the slot's stream begins: the snapshot's name everywhere.
    pub consistent_point: String,
    tables: Vec<Published>,
    keeper: Keeper,
    readers: Readers,
    /// Whether a table is rewritten of which rows were still to be read.
    rewritten: AtomicBool,
    since: Mutex<Since>,
}

/// What is known of the changes from an earlier snapshot to this one.
#[derive(Debug, Default)]
struct Since {
    /// The earlier snapshot.
    held: Option<Lsn>,
    /// How often their reading was begun.
    readings: u32,
    touched: Option<Arc<Touched>>,
}

/// How a table has changed since the earlier snapshot that the destination holds rows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    None,
    /// In rows that are known.
    SomeRows,
    /// It is not known how.
    Unknown,
}

/// A snapshot, and the changes since an earlier one.
#[derive(Debug)]
pub struct Opened {
    /// The snapshot that is kept now.
    pub snapshot: Arc<Snapshot>,
    touched: Option<Arc<Touched>>,
}

impl Opened {
    /// Every table, with its change since the earlier snapshot.
    pub fn tables(&self) -> impl Iterator<Item = (&SnapshotTable, Change)> {
        self.snapshot.tables.iter().map(|published| {
            let change = match self.touched.as_ref().map(|touched| touched.difference(published.oid)) {
                Some(Difference::None) => Change::None,
                Some(Difference::Keys(_)) => Change::SomeRows,
                Some(Difference::Unknown) | None => Change::Unknown,
            };
            (&published.table, change)
        })
    }
}

impl Snapshots {
    /// No snapshot is kept yet.
    pub fn new(door: Door, journal: Journal, slots: Slots, tasks: Tasks) -> Self {
        Self { hands: Hands { door, slots, tasks }, journal, places: Arc::default() }
    }

    /// Notes how fast a migration's rows may be read, and keeps that over a restart. Readers at work go on
    /// at the new rate. Ignored when this agent is not the migration's source.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`]: the old rate stays.
    pub fn tune(&self, migration: &MigrationId, rate: Option<Rate>) -> Result<(), Failure> {
        let journal = &self.journal;
        if journal.participation(migration)?.is_none_or(|participation| participation.side != Side::Source) {
            return Ok(());
        }
        // Held over both: the task that makes the place reads the note under this lock.
        let places = self.lock();
        match rate {
            _ if read_rate(journal, migration)? == rate => {}
            Some(rate) => journal.set_note(migration, Note::MaxRate, &rate.as_bytes().to_string())?,
            None => journal.clear_note(migration, Note::MaxRate)?,
        }
        if let Some(place) = places.get(migration) {
            place.pace.throttle.set(rate);
        }
        Ok(())
    }

    /// How many readers each migration has, counting those that wait. Migrations without readers are left
    /// out.
    pub fn reading(&self) -> Vec<(MigrationId, usize)> {
        let places = self.lock();
        let readers = places.iter().map(|(migration, place)| (migration.clone(), place.pace.readers.reading()));
        readers.filter(|(_, reading)| *reading > 0).collect()
    }

    /// From now on at most so many readers of each migration read at a time. None: all of them.
    pub fn allow(&self, allowed: Option<usize>) {
        for place in self.lock().values() {
            place.pace.readers.allow(allowed);
        }
    }

    /// Permit to read rows of a migration outside of its snapshot, within the same limits. The caller holds
    /// it while it reads.
    pub fn permit(&self, migration: &MigrationId) -> Result<Permit, Failure> {
        let pace = &self.place(migration)?.pace;
        Ok(Permit { reader: pace.readers.begin(), throttle: Arc::clone(&pace.throttle) })
    }

    /// The snapshot of a migration: the one that is kept, or a new one with a new slot. An older slot of
    /// ours is dropped for the new one. `held` is the snapshot that the destination has rows of. The answer
    /// says what changed since `held`, as far as that is known; what is known of any other earlier snapshot
    /// is forgotten.
    ///
    /// Dropping the future while the server makes the slot ends that attempt.
    ///
    /// # Errors
    ///
    /// [`Reason::WrongState`] when the migration has no slot yet, has none any more, or has completed its
    /// copy; otherwise what the server reports.
    pub async fn open(&self, participation: &Participation, held: Option<Lsn>) -> Result<Opened, Failure> {
        let hands = &self.hands;
        let migration = &participation.migration;
        // Held while the slot is made: a second caller waits and gets the same snapshot.
        let place = self.place(migration)?;
        let pace = place.pace.clone();
        let mut place = place.kept.lock().await;
        if let Some(kept) = place.as_ref().filter(|kept| !kept.is_lost()) {
            let snapshot = Arc::clone(kept);
            let touched = snapshot.touched_since(hands, participation, held).await?;
            return Ok(Opened { snapshot, touched });
        }
        self.hands.slots.stands(migration)?;
        // The watch looks after a slot, and removes it, only if the intent was noted.
        if !hands.slots.is_intended(migration)? {
            return Err(Failure::new(Reason::WrongState, "the act that makes the slot has not come or is undone")
                .effect(Effect::None));
        }
        if let Some(lost) = place.take() {
            tracing::warn!(
                migration.id = %migration, consistent_point = lost.consistent_point,
                rewritten = lost.rewritten.load(Ordering::Relaxed), "the snapshot is lost"
            );
        }
        if let Some(point) = self.journal.note(migration, Note::SnapshotReleased)? {
            return Err(Failure::new(Reason::WrongState, "the copy of this migration was complete")
                .detail(format!("Its snapshot of {point} was released, and its slot must not be lost."))
                .effect(Effect::None));
        }
        former::keep(hands, participation, held).await?;
        pgportage_link::fail_point::hit("snapshot.open.kept");
        let keeper = Keeper::make(hands, participation).await?;
        let readers = Readers::new(hands, &participation.database, &keeper.snapshot_name, pace);
        let tables = readers.tables(participation).await?;
        let snapshot = Arc::new(Snapshot {
            consistent_point: keeper.consistent_point.to_string(),
            tables,
            keeper,
            readers,
            rewritten: AtomicBool::new(false),
            since: Mutex::default(),
        });
        tracing::info!(
            migration.id = %migration, consistent_point = snapshot.consistent_point,
            tables = snapshot.tables.len(), "a snapshot is kept for the copy"
        );
        *place = Some(Arc::clone(&snapshot));
        let touched = snapshot.touched_since(hands, participation, held).await?;
        Ok(Opened { snapshot, touched })
    }

    /// The kept snapshot of a consistent point.
    ///
    /// # Errors
    ///
    /// [`Reason::SnapshotLost`] when there is no such snapshot any more;
    /// [`Reason::WalLimitExceeded`] or [`Reason::SlotLost`] when the slot was given
    /// up: then the rows are of no use.
    pub async fn get(&self, migration: &MigrationId, consistent_point: &str) -> Result<Arc<Snapshot>, Failure> {
        self.hands.slots.stands(migration)?;
        let kept = self.place(migration)?.kept.lock().await.clone();
        kept.filter(|kept| kept.consistent_point == consistent_point && !kept.is_lost())
            .ok_or_else(|| snapshot_lost(consistent_point))
    }

    /// Lets a snapshot go because every row has arrived. The slot stays. Succeeds when it was let go
    /// before.
    ///
    /// # Errors
    ///
    /// [`Reason::SnapshotLost`] when another snapshot was made since: then not every row of that one can
    /// have arrived.
    pub async fn release(&self, migration: &MigrationId, consistent_point: &str) -> Result<(), Failure> {
        let place = self.place(migration)?;
        let mut place = place.kept.lock().await;
        if place.as_ref().is_some_and(|kept| kept.consistent_point != consistent_point) {
            return Err(snapshot_lost(consistent_point));
        }
        self.journal.set_note(migration, Note::SnapshotReleased, consistent_point)?;
        *place = None;
        Ok(())
    }

    /// Forgets a migration's snapshot, for an act that removes its slot too.
    pub fn forget(&self, migration: &MigrationId) -> Result<(), Failure> {
        // A call that makes a snapshot at this moment has just lost its slot, and fails.
        self.lock().remove(migration);
        self.journal.clear_note(migration, Note::SnapshotReleased)
    }

    /// The place of a migration. A new one gets the rate that the journal knows.
    fn place(&self, migration: &MigrationId) -> Result<Arc<Place>, Failure> {
        let mut places = self.lock();
        if let Some(place) = places.get(migration) {
            return Ok(Arc::clone(place));
        }
        let throttle = Arc::new(Throttle::new(self.hands.tasks.clock));
        throttle.set(read_rate(&self.journal, migration)?);
        let place = Arc::new(Place { kept: Mutex::default(), pace: Pace { throttle, readers: Arc::default() } });
        places.insert(migration.clone(), Arc::clone(&place));
        Ok(place)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MigrationId, Arc<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_rate(journal: &Journal, migration: &MigrationId) -> Result<Option<Rate>, Failure> {
    let Some(note) = journal.note(migration, Note::MaxRate)? else { return Ok(None) };
    let rate = note.parse().ok().and_then(Rate::limit);
    rate.map(Some).ok_or_else(|| {
        Failure::new(Reason::StoreUnwritable, format!("the journal knows no rate {note:?}")).effect(Effect::None)
    })
}

impl Snapshot {
    /// The rows that were touched since the snapshot `held`, if that can be known. When `held` is this very
    /// snapshot, or none, the former slot is needed no more and is dropped.
    async fn touched_since(
        &self,
        hands: &Hands,
        participation: &Participation,
        held: Option<Lsn>,
    ) -> Result<Option<Arc<Touched>>, Failure> {
        let upto = self.keeper.consistent_point;
        let mut since = self.since.lock().await;
        let Some(held) = held.filter(|held| *held != upto) else {
            former::forget(hands, participation).await?;
            *since = Since::default();
            return Ok(None);
        };
        if since.held != Some(held) {
            *since = Since { held: Some(held), ..Since::default() };
        }
        if since.touched.is_none() && since.readings < MOST_READINGS {
            since.readings += 1;
            match former::read(hands, participation, &self.tables, held, upto).await {
                Ok(touched) => since.touched = Some(Arc::new(touched)),
                Err(failure) if is_passing(&failure) => return Err(failure),
                Err(failure) => {
                    since.readings = MOST_READINGS;
                    tracing::warn!(
                        migration.id = %participation.migration, %failure, detail = failure.detail,
                        "what was changed since the lost snapshot is not known; every table is copied again"
                    );
                }
            }
        }
        Ok(since.touched.clone())
    }

    /// Reads a range of one table. The stream ends with an error when its reader loses the snapshot;
    /// dropping the stream cancels the reading.
    ///
    /// # Errors
    ///
    /// [`Reason::RequestInvalid`] for a table that is not published: the destination agent gets rows of no
    /// other. Otherwise what the server reports before the first row.
    pub async fn read(&self, range: Range, packer: Packer) -> Result<RowStream, Failure> {
        let asked = |table: &SnapshotTable| table.name == range.table && table.columns == range.columns;
        let Some(published) = self.tables.iter().find(|published| asked(&published.table)) else {
            return Err(Failure::new(Reason::RequestInvalid, "the snapshot holds no such table with these columns")
                .effect(Effect::None)
                .with("field", "table"));
        };
        let doing = format!("read table {}", range.table);
        match range.selection {
            Selection::Blocks { .. } => self.read_of(published, &range.statement(), &doing, packer).await,
            Selection::TouchedKeys { since } => {
                let touched = self.touched(since).await?;
                Ok(self.readers.tell(reader::keys_text(touched.keys(published)?), packer))
            }
            Selection::TouchedRows { since } => {
                let touched = self.touched(since).await?;
                let statement = range.statement_of_keys(published, touched.keys(published)?);
                self.read_of(published, &statement, &doing, packer).await
            }
        }
    }

    async fn read_of(
        &self,
        published: &Published,
        statement: &str,
        doing: &str,
        packer: Packer,
    ) -> Result<RowStream, Failure> {
        let begun = self.readers.read(published, statement, doing, packer).await;
        if begun.as_ref().is_err_and(|failure| failure.metadata.contains_key(REWRITTEN_TABLE)) {
            self.rewritten.store(true, Ordering::Relaxed);
        }
        begun
    }

    /// Whether no row can be read from it any more that the destination agent still needs.
    fn is_lost(&self) -> bool {
        self.keeper.is_lost() || self.rewritten.load(Ordering::Relaxed)
    }

    /// The touched rows since `held` that the answer of [`Snapshots::open`] was about.
    async fn touched(&self, held: Lsn) -> Result<Arc<Touched>, Failure> {
        let since = self.since.lock().await;
        let touched = since.touched.clone().filter(|_| since.held == Some(held));
        touched.ok_or_else(|| snapshot_lost(&self.consistent_point))
    }
}

/// The failure after which the destination agent copies every incomplete table anew.
fn snapshot_lost(consistent_point: &str) -> Failure {
    Failure::new(Reason::SnapshotLost, format!("the source does not keep the snapshot of {consistent_point} any more"))
        .detail("It lives as long as one session of the source's agent.")
        .remedy(Remedy::Wait)
        .effect(Effect::None)
}
