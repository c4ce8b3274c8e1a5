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
//! another point. What was copied of the lost one is made level with the new one:
//! its slot is kept until then, and says which rows were touched in between.

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
use std::sync::{Arc, MutexGuard, PoisonError};

use pgportage_link::Effect;
use pgportage_link::Failure;
use pgportage_link::Remedy;
use pgportage_link::Tasks;
use pgportage_migration::Participation;
use pgportage_migration::journal::{Journal, Note};
use pgportage_postgres::{Door, Lsn, is_passing};
use pgportage_proto::MigrationId;
use pgportage_proto::Reason;
use pgportage_proto::Side;
use tokio::sync::Mutex;

pub use self::bucket::Rate;
use self::keeper::Keeper;
use self::reader::Readers;
pub use self::reader::{Piece, Range, RowStream, Selection};
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
/// Each has a place of its own: making one waits for other people's transactions,
/// and nobody else may wait with it. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Snapshots {
    hands: Hands,
    journal: Journal,
    places: Arc<std::sync::Mutex<HashMap<MigrationId, Arc<Place>>>>,
}

/// What a snapshot is made, kept and read with.
#[derive(Clone, Debug)]
struct Hands {
    door: Door,
    slots: Slots,
    tasks: Tasks,
}

/// What belongs to one migration.
#[derive(Debug)]
struct Place {
    kept: Mutex<Option<Arc<Snapshot>>>,
    pace: Pace,
}

/// How fast, and how many at a time. Outlasts a lost snapshot: both are the
/// migration's.
#[derive(Clone, Debug)]
struct Pace {
    throttle: Arc<Throttle>,
    readers: Arc<ReaderSlots>,
}

/// How often the changes since one earlier snapshot may be begun to be read. An
/// attempt ends with the call that asked for it.
const MOST_READINGS: u32 = 3;

/// Permit to read rows, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    reader: ReaderSlot,
    throttle: Arc<Throttle>,
}

impl Permit {
    /// Waits until this one may read. Safe to drop.
    pub async fn wait(&self) {
        self.reader.wait().await;
    }

    /// Pays for bytes that were read: waits until more may be. Dropping the future
    /// leaves them unpaid.
    pub async fn charge(&self, bytes: usize) {
        self.throttle.pass(bytes).await;
    }
}

/// One snapshot, kept.
#[derive(Debug)]
pub struct Snapshot {
    /// Where the slot's stream begins: the snapshot's name everywhere.
    pub consistent_point: String,
    /// What it holds.
    tables: Vec<Published>,
    keeper: Keeper,
    readers: Readers,
    since: Mutex<Since>,
}

/// What is known of the way from an earlier snapshot to this one.
#[derive(Debug, Default)]
struct Since {
    /// The earlier one.
    held: Option<Lsn>,
    /// Times that somebody began to read.
    readings: u32,
    touched: Option<Arc<Touched>>,
}

/// What a table is, for somebody who holds the rows of an earlier snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The same.
    None,
    /// The same but for rows that are known.
    SomeRows,
    /// Nobody knows.
    Unknown,
}

/// A snapshot, and what changed since an earlier one.
#[derive(Debug)]
pub struct Opened {
    /// The one that is kept now.
    pub snapshot: Arc<Snapshot>,
    touched: Option<Arc<Touched>>,
}

impl Opened {
    /// Every table, with what became of it since.
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
    /// None is kept yet.
    #[must_use]
    pub fn new(door: Door, journal: Journal, slots: Slots, tasks: Tasks) -> Self {
        Self { hands: Hands { door, slots, tasks }, journal, places: Arc::default() }
    }

    /// Takes note of how fast a migration's rows may be read, and keeps it over a
    /// restart. Whoever reads goes on at that rate. Ignored when this agent is not
    /// the migration's source.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`]: the rate is as it was.
    pub fn tune(&self, migration: &MigrationId, rate: Option<Rate>) -> Result<(), Failure> {
        let journal = &self.journal;
        if journal.participation(migration)?.is_none_or(|participation| participation.side != Side::Source) {
            return Ok(());
        }
        // Held over both: whoever makes the place reads the note under it.
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

    /// How many want to read, for each migration of which somebody does.
    pub fn reading(&self) -> Vec<(MigrationId, usize)> {
        let places = self.lock();
        let readers = places.iter().map(|(migration, place)| (migration.clone(), place.pace.readers.reading()));
        readers.filter(|(_, reading)| *reading > 0).collect()
    }

    /// Lets so many read of each migration from now on. None: all.
    pub fn allow(&self, allowed: Option<usize>) {
        for place in self.lock().values() {
            place.pace.readers.allow(allowed);
        }
    }

    /// Permit to read rows of a migration outside of its snapshot, within the same
    /// limits. Held while somebody reads.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read.
    pub fn permit(&self, migration: &MigrationId) -> Result<Permit, Failure> {
        let pace = &self.place(migration)?.pace;
        Ok(Permit { reader: pace.readers.begin(), throttle: Arc::clone(&pace.throttle) })
    }

    /// The snapshot of a migration: the one that is kept, or a new one with a new
    /// slot. An older slot of ours is dropped for it. `held` is the snapshot that
    /// the destination has rows of: what changed since is said as far as it is
    /// known, and what is known of any other is forgotten.
    ///
    /// Dropping the future while the server makes the slot ends that attempt.
    ///
    /// # Errors
    ///
    /// [`Reason::WrongState`] when the migration has no slot yet or any more, or the
    /// copy was complete before; otherwise what the server reports.
    pub async fn open(&self, participation: &Participation, held: Option<Lsn>) -> Result<Opened, Failure> {
        let hands = &self.hands;
        let migration = &participation.migration;
        // Held while the slot is made: a second caller waits for the same one.
        let place = self.place(migration)?;
        let pace = place.pace.clone();
        let mut place = place.kept.lock().await;
        if let Some(kept) = place.as_ref().filter(|kept| !kept.keeper.is_lost()) {
            let snapshot = Arc::clone(kept);
            let touched = snapshot.touched_since(hands, participation, held).await?;
            return Ok(Opened { snapshot, touched });
        }
        self.hands.slots.stands(migration)?;
        // What is made without this would be watched and removed by nobody.
        if !hands.slots.is_intended(migration)? {
            return Err(Failure::new(Reason::WrongState, "the act that makes the slot has not come or is undone")
                .effect(Effect::None));
        }
        if let Some(lost) = place.take() {
            tracing::warn!(
                migration.id = %migration, consistent_point = lost.consistent_point,
                "the snapshot is lost with its session"
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

    /// Forgets a migration's snapshot: its slot goes too.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn forget(&self, migration: &MigrationId) -> Result<(), Failure> {
        // Whoever makes one at this moment has just lost its slot, and fails.
        self.lock().remove(migration);
        self.journal.clear_note(migration, Note::SnapshotReleased)
    }

    /// A migration's place; made with the rate that the journal knows.
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
    /// What was touched since another snapshot, if that can be known. Asked for
    /// this very one, or for none, the slot of the former is needed no more.
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

    /// Reads a range of one table. The stream ends with an error when the
    /// snapshot is lost to it; dropping it cancels the reading.
    ///
    /// # Errors
    ///
    /// [`Reason::RequestInvalid`] for anything that is not published: the caller
    /// names a table, and gets no other. Otherwise what the server reports before
    /// the first row.
    pub async fn read(&self, range: Range, packer: Packer) -> Result<RowStream, Failure> {
        let asked = |table: &SnapshotTable| table.name == range.table && table.columns == range.columns;
        let Some(published) = self.tables.iter().find(|published| asked(&published.table)) else {
            return Err(Failure::new(Reason::RequestInvalid, "the snapshot holds no such table with these columns")
                .effect(Effect::None)
                .with("field", "table"));
        };
        let doing = format!("read table {}", range.table);
        match range.selection {
            Selection::Blocks { .. } => self.readers.read(&range.statement(), &doing, packer).await,
            Selection::TouchedKeys { since } => {
                let touched = self.touched(since).await?;
                Ok(self.readers.tell(reader::keys_text(touched.keys(published)?), packer))
            }
            Selection::TouchedRows { since } => {
                let touched = self.touched(since).await?;
                let statement = range.statement_of_keys(published, touched.keys(published)?);
                self.readers.read(&statement, &doing, packer).await
            }
        }
    }

    /// What the caller of [`Snapshots::open`] was told about.
    async fn touched(&self, held: Lsn) -> Result<Arc<Touched>, Failure> {
        let since = self.since.lock().await;
        let touched = since.touched.clone().filter(|_| since.held == Some(held));
        touched.ok_or_else(|| snapshot_lost(&self.consistent_point))
    }
}

/// The copy has to begin anew for what is not complete.
fn snapshot_lost(consistent_point: &str) -> Failure {
    Failure::new(Reason::SnapshotLost, format!("the source does not keep the snapshot of {consistent_point} any more"))
        .detail("It lives as long as one session of the source's agent.")
        .remedy(Remedy::Wait)
        .effect(Effect::None)
}
