//! What survives a crash of the agent.
//!
//! **Invariant:** the agent does nothing before it has written here what it intends, and reports no outcome
//! before it has written it here.
//!
//! The journal is the source of truth for: the migrations this agent takes part in, which command ids it
//! knows and what it answered, facts that the coordinator has not acknowledged, small notes of acts, and
//! the highest coordinator epoch seen. It holds no secret. What was done on a server is recorded on that
//! server (the ledger), not here.
//!
//! SQLite in WAL mode with `synchronous=FULL`: when a call that writes returns, its write has reached the
//! disk; [`Journal::acknowledge`] is the exception. Calls block for one small transaction (a quarter of a
//! millisecond on a virtual disk, a seek on a slow one); they are made from async code directly, because
//! moving each to another thread would cost more than it saves and would let two of them overtake each
//! other.
//!
//! One `run`ning agent holds the journal ([`Journal::open`]). `unfence` and `cleanup` open it beside a
//! running agent ([`Journal::open_beside`]). SQLite orders the writers, and no part of the journal is kept
//! in memory, so each process sees what the other wrote.

mod command;
mod format;
mod note;

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgportage_link::{Effect, Failure};
use pgportage_proto::{MigrationId, Reason, Side};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior};

use self::format::Older;

pub use self::command::{CommandEntry, FactEntry, FactKind, Known, PastFact};
pub use self::note::Note;
use crate::Participation;
use crate::switchover::{Event, SwitchoverRecord};

/// The journal. The module's documentation says what it holds. Clones share one connection.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Mutex<Connection>,
    /// The lock of the one running agent; absent after [`Journal::open_beside`].
    _lock: Option<File>,
}

impl Journal {
    /// Opens the journal for the one running agent, and makes it if it is missing.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreInUse`] when another agent runs on it, [`Reason::StoreTooNew`] when a newer release
    /// wrote it, [`Reason::StoreUnwritable`] for everything else.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|e| unwritable(path, &e))?;
        }
        let Some(lock) = try_lock(path)? else {
            return Err(Failure::new(Reason::StoreInUse, format!("another agent runs on {}", path.display()))
                .hint("Stop the other agent, or give this one another `state_dir`.")
                .effect(Effect::None));
        };
        Self::connect(path, Some(lock))
    }

    /// Opens the journal whether or not an agent runs on it: for the verbs that an operator types on the
    /// agent's own machine.
    ///
    /// # Errors
    ///
    /// As [`Journal::open`]; [`Reason::StoreInUse`] only when an agent of an earlier release runs on it:
    /// that agent would not know what is written here.
    pub fn open_beside(path: &Path) -> Result<Self, Failure> {
        if !path.exists() {
            return Err(Failure::new(Reason::StoreUnwritable, format!("there is no journal at {}", path.display()))
                .hint("Give the configuration file of the agent whose migration this is.")
                .effect(Effect::None));
        }
        Self::connect(path, None)
    }

    fn connect(path: &Path, lock: Option<File>) -> Result<Self, Failure> {
        // SQLite would make the file with the process's umask.
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| unwritable(path, &error))?;
        let mut connection = Connection::open(path).map_err(|error| unwritable(path, &error))?;
        let older = if lock.is_some() { Older::TakeUp } else { Older::Refuse };
        let mut prepared = format::prepare(&mut connection, older);
        if let Err(format::Problem::TooOld { .. }) = prepared
            && let Some(_idle) = try_lock(path)?
        {
            // No agent runs on the journal, and none can start while this process holds the lock.
            prepared = format::prepare(&mut connection, Older::TakeUp);
        }
        prepared.map_err(|problem| match problem {
            format::Problem::Sqlite(error) => unwritable(path, &error),
            format::Problem::TooNew { found } => Failure::new(
                Reason::StoreTooNew,
                format!("{} has format {found}, this release knows {}", path.display(), format::VERSION),
            )
            .hint("Start the release that wrote it, or a newer one.")
            .effect(Effect::None),
            format::Problem::TooOld { found } => Failure::new(
                Reason::StoreInUse,
                format!("an agent of an earlier release runs on {}, which has format {found}", path.display()),
            )
            .hint("Start the agent again, with this release, then repeat the command.")
            .effect(Effect::None),
        })?;
        Ok(Self(Arc::new(Inner { connection: Mutex::new(connection), _lock: lock })))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock was held left at most an open transaction,
        // which its guard has rolled back.
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- Epochs.

    /// The highest coordinator epoch seen.
    pub fn leader_epoch(&self) -> Result<i64, Failure> {
        const SQL: &str = "SELECT leader_epoch FROM epoch";
        self.connection().query_row(SQL, [], |row| row.get(0)).map_err(broken)
    }

    /// Notes a coordinator's epoch. It never goes down.
    ///
    /// # Errors
    ///
    /// [`Reason::StaleEpoch`] when a higher one was seen before; [`Reason::StoreUnwritable`].
    pub fn raise_leader_epoch(&self, epoch: i64) -> Result<(), Failure> {
        const SQL: &str = "UPDATE epoch SET leader_epoch = ?1 WHERE leader_epoch < ?1";
        let seen = self.leader_epoch()?;
        if epoch < seen {
            return Err(stale_epoch(epoch, seen));
        }
        if epoch > seen {
            self.connection().execute(SQL, [epoch]).map_err(broken)?;
        }
        Ok(())
    }

    /// Notes the epochs of a new session. A coordinator with a higher epoch may have lost its store, and
    /// then counts sessions from the beginning.
    ///
    /// # Errors
    ///
    /// [`Reason::StaleEpoch`] from a coordinator that a later one has replaced, [`Reason::StaleSession`]
    /// when there was a later session already; [`Reason::StoreUnwritable`].
    pub fn begin_session(&self, leader_epoch: i64, session_epoch: i64) -> Result<(), Failure> {
        const SQL: &str = "UPDATE epoch SET leader_epoch = ?1, session_epoch = ?2
            WHERE leader_epoch < ?1 OR (leader_epoch = ?1 AND session_epoch < ?2)";
        let seen = self.leader_epoch()?;
        if leader_epoch < seen {
            return Err(stale_epoch(leader_epoch, seen));
        }
        if self.connection().execute(SQL, [leader_epoch, session_epoch]).map_err(broken)? == 0 {
            return Err(Failure::new(
                Reason::StaleSession,
                format!("session {session_epoch} is not newer than the last one"),
            )
            .effect(Effect::None));
        }
        Ok(())
    }

    // ---- Participations and notes.

    /// This agent's part in a migration.
    pub fn participation(&self, migration: &MigrationId) -> Result<Option<Participation>, Failure> {
        const SQL: &str = "SELECT migration, side, database, peer FROM participation WHERE migration = ?1";
        let connection = self.connection();
        let mut statement = connection.prepare_cached(SQL).map_err(broken)?;
        statement
            .query_row([migration.as_str()], read_row)
            .optional()
            .map_err(broken)?
            .map(read_participation)
            .transpose()
    }

    /// Every migration that this agent takes part in.
    pub fn participations(&self) -> Result<Vec<Participation>, Failure> {
        const SQL: &str = "SELECT migration, side, database, peer FROM participation ORDER BY migration";
        self.rows(SQL, read_row)?.into_iter().map(read_participation).collect()
    }

    /// Forgets a migration: its participation, its notes and its switchovers. Facts that
    /// are still to be sent stay.
    pub fn forget(&self, migration: &MigrationId) -> Result<(), Failure> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
        transaction.execute("DELETE FROM note WHERE migration = ?1", [migration.as_str()]).map_err(broken)?;
        transaction.execute("DELETE FROM switchover WHERE migration = ?1", [migration.as_str()]).map_err(broken)?;
        transaction.execute("DELETE FROM participation WHERE migration = ?1", [migration.as_str()]).map_err(broken)?;
        transaction.commit().map_err(broken)
    }

    /// Reads a note.
    pub fn note(&self, migration: &MigrationId, note: Note) -> Result<Option<String>, Failure> {
        const SQL: &str = "SELECT value FROM note WHERE migration = ?1 AND key = ?2";
        self.connection()
            .query_row(SQL, [migration.as_str(), note.as_str()], |row| row.get(0))
            .optional()
            .map_err(broken)
    }

    /// Writes a note. On disk when it returns.
    pub fn set_note(&self, migration: &MigrationId, note: Note, value: &str) -> Result<(), Failure> {
        const SQL: &str = "INSERT INTO note (migration, key, value) VALUES (?1, ?2, ?3)
            ON CONFLICT (migration, key) DO UPDATE SET value = excluded.value";
        self.connection().execute(SQL, [migration.as_str(), note.as_str(), value]).map_err(broken)?;
        Ok(())
    }

    /// Removes a note.
    pub fn clear_note(&self, migration: &MigrationId, note: Note) -> Result<(), Failure> {
        const SQL: &str = "DELETE FROM note WHERE migration = ?1 AND key = ?2";
        self.connection().execute(SQL, [migration.as_str(), note.as_str()]).map_err(broken)?;
        Ok(())
    }

    // ---- Switchovers.

    /// The record of a migration's switchovers.
    pub fn switchover(&self, migration: &MigrationId) -> Result<SwitchoverRecord, Failure> {
        read_switchover(&self.connection(), migration)
    }

    /// Notes an event of a switchover. Reading the record and writing it is one transaction: no other task
    /// or process writes in between. On disk when it returns.
    ///
    /// # Errors
    ///
    /// [`Reason::WrongState`] when the event cannot have happened, or must not happen: nothing is written,
    /// and the caller must not act on it. [`Reason::StoreUnwritable`].
    pub fn happened(&self, migration: &MigrationId, event: Event) -> Result<(), Failure> {
        const SQL: &str = "INSERT INTO switchover (migration, record) VALUES (?1, ?2)
            ON CONFLICT (migration) DO UPDATE SET record = excluded.record";
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
        let record = read_switchover(&transaction, migration)?;
        let next = record.next(event)?;
        if next == record {
            return Ok(());
        }
        let text = serde_json::to_string(&next).map_err(|error| {
            Failure::new(Reason::Internal, "cannot encode the record of switchovers").because(&error)
        })?;
        transaction.execute(SQL, [migration.as_str(), &text]).map_err(broken)?;
        transaction.commit().map_err(broken)
    }

    fn rows<T>(&self, sql: &str, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>, Failure> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(sql).map_err(broken)?;
        let rows = statement.query_map([], read).map_err(broken)?;
        rows.collect::<Result<_, _>>().map_err(broken)
    }
}

type ParticipationRow = (String, String, String, String);

fn read_row(row: &Row<'_>) -> rusqlite::Result<ParticipationRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn read_participation((migration, side, database, peer): ParticipationRow) -> Result<Participation, Failure> {
    let Some(side) = [Side::Source, Side::Destination].into_iter().find(|known| known.as_str() == side) else {
        return Err(Failure::new(Reason::StoreUnwritable, format!("the journal knows no side {side:?}")));
    };
    Ok(Participation { migration: MigrationId::new(&migration)?, side, database, peer })
}

fn read_switchover(connection: &Connection, migration: &MigrationId) -> Result<SwitchoverRecord, Failure> {
    const SQL: &str = "SELECT record FROM switchover WHERE migration = ?1";
    let text: Option<String> =
        connection.query_row(SQL, [migration.as_str()], |row| row.get(0)).optional().map_err(broken)?;
    text.map_or_else(|| Ok(SwitchoverRecord::default()), |text| serde_json::from_str(&text)).map_err(|error| {
        Failure::new(Reason::StoreUnwritable, "the journal's record of switchovers is unreadable").because(&error)
    })
}

/// Takes the lock of the one running agent; none when another process holds it. The lock ends with the
/// process, however the process ends.
fn try_lock(path: &Path) -> Result<Option<File>, Failure> {
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.with_extension("lock"))
        .map_err(|error| unwritable(path, &error))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(unwritable(path, &std::io::Error::from(error))),
    }
}

fn stale_epoch(epoch: i64, seen: i64) -> Failure {
    Failure::new(Reason::StaleEpoch, format!("coordinator epoch {epoch} is over, this agent has seen {seen}"))
        .detail("Another coordinator has taken over, or the coordinator's store was lost.")
        .effect(Effect::None)
}

fn insert_participation(connection: &Connection, participation: &Participation) -> Result<(), Failure> {
    const INSERT: &str = "INSERT INTO participation (migration, side, database, peer) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO NOTHING";
    const SAME: &str = "SELECT side = ?2 AND database = ?3 AND peer = ?4 FROM participation WHERE migration = ?1";
    let Participation { migration, side, database, peer } = participation;
    let row = [migration.as_str(), side.as_str(), database, peer];
    connection.execute(INSERT, row).map_err(broken)?;
    if connection.query_row(SAME, row, |row| row.get(0)).map_err(broken)? {
        return Ok(());
    }
    Err(Failure::new(
        Reason::ObjectConflict,
        format!("this agent already has another part in a migration named {migration}"),
    )
    .hint(format!("Choose another name, or run `pgportage-agent cleanup {migration}` here if that one is over."))
    .effect(Effect::None))
}

fn unwritable(path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Reason::StoreUnwritable, format!("cannot use the journal {}", path.display()))
        .because(error)
        .hint("The directory must exist, belong to the agent's user and have free space.")
        .effect(Effect::None)
}

/// The failure of a statement on an open journal: full disk, broken disk.
#[expect(clippy::needless_pass_by_value, reason = "fits `map_err`")]
fn broken(error: rusqlite::Error) -> Failure {
    Failure::new(Reason::StoreUnwritable, "cannot write the journal")
        .because(&error)
        .hint("Look at the disk that holds `state_dir`. Nothing is done that cannot be recorded first.")
}

#[cfg(test)]
mod tests;
