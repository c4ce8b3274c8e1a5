//! What survives a crash of the agent.
//!
//! **Invariant:** nothing is done before it is written here, and no outcome is
//! told before it is written here.
//!
//! The journal is the source of truth for: the migrations this agent takes part
//! in, which command ids it knows and what it answered, facts that the
//! coordinator has not acknowledged, small notes of steps, and the highest
//! coordinator epoch seen. It holds no secret. What was done on a server is
//! recorded on that server (the ledger), not here.
//!
//! SQLite in WAL mode with `synchronous=FULL`: every call that writes has
//! reached the disk when it returns. Calls block for one small transaction (a
//! quarter of a millisecond on a virtual disk, a seek on a slow one); they are
//! made from async code directly, because moving each to another thread would
//! cost more than it saves and would let two of them overtake each other.
//!
//! One `run`ning agent holds the journal ([`Journal::open`]). `unfence` and
//! `cleanup` open it beside a running agent ([`Journal::open_beside`]): SQLite
//! orders the writers, nothing of the journal is kept in memory, so each sees
//! what the other wrote.

mod format;

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::migration::{MigrationId, Participation, Side};

/// The journal. See the module for what it holds.
#[derive(Debug)]
pub struct Journal {
    connection: Mutex<Connection>,
    /// Held by the one running agent; absent in [`Journal::open_beside`].
    _lock: Option<File>,
}

/// A command as it was accepted or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandEntry {
    /// Chosen by the coordinator.
    pub id: String,
    /// The migration it belongs to, as sent; refused commands may hold anything.
    pub migration: String,
    /// SHA-256 of its content, without what a repetition may change.
    pub digest: [u8; 32],
    /// The encoded command.
    pub message: Vec<u8>,
    /// SPIFFE id of who sent it.
    pub actor: String,
    /// Serial number of the sender's certificate, in hexadecimal.
    pub actor_serial: String,
}

/// What the journal knows about a command that has just arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Never seen.
    New,
    /// Seen with this content: answered from the journal, nothing is started.
    Same,
    /// Seen with other content.
    Conflict,
}

/// One numbered fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactEntry {
    /// The command it is about.
    pub command_id: String,
    /// From 1, without gaps.
    pub sequence: i64,
    /// The encoded fact.
    pub message: Vec<u8>,
}

/// Whether a fact ends its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactKind {
    /// The command goes on.
    Interim,
    /// The command is over.
    Final,
    /// The command is over, and with it this agent's part in the migration.
    FinalOfMigration,
}

impl Journal {
    /// Opens the journal for the one running agent, and makes it if need be.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreInUse`] when another agent runs on it,
    /// [`Reason::StoreTooNew`] when a newer release wrote it,
    /// [`Reason::StoreUnwritable`] for everything else.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|e| unwritable(path, &e))?;
        }
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.with_extension("lock"))
            .map_err(|error| unwritable(path, &error))?;
        // Dies with the process, however it ends.
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Failure::new(Reason::StoreInUse, format!("another agent runs on {}", path.display()))
                    .hint("Stop the other agent, or give this one another `state_dir`.")
                    .effect(Effect::None));
            }
            Err(error) => return Err(unwritable(path, &std::io::Error::from(error))),
        }
        Self::connect(path, Some(lock))
    }

    /// Opens the journal whether or not an agent runs on it: for the verbs that
    /// are typed on the agent's own machine.
    ///
    /// # Errors
    ///
    /// As [`Journal::open`], without [`Reason::StoreInUse`].
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
        format::prepare(&mut connection).map_err(|problem| match problem {
            format::Problem::Sqlite(error) => unwritable(path, &error),
            format::Problem::TooNew { found } => Failure::new(
                Reason::StoreTooNew,
                format!("{} has format {found}, this release knows {}", path.display(), format::VERSION),
            )
            .hint("Start the release that wrote it, or a newer one.")
            .effect(Effect::None),
        })?;
        Ok(Self { connection: Mutex::new(connection), _lock: lock })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock was held left at most an open transaction,
        // which its guard has rolled back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- Commands and facts.

    /// Whether a command is known.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn known(&self, id: &str, digest: &[u8; 32]) -> Result<Known, Failure> {
        const SQL: &str = "SELECT digest FROM command WHERE id = ?1";
        let known: Option<Vec<u8>> =
            self.connection().query_row(SQL, [id], |row| row.get(0)).optional().map_err(broken)?;
        Ok(match known {
            None => Known::New,
            Some(known) if known == digest => Known::Same,
            Some(_) => Known::Conflict,
        })
    }

    /// Stores an accepted command, its first fact and, unless it is a pure
    /// question, the participation. Afterwards the command is open: it will be
    /// carried out even if the process ends now.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`]; [`Reason::ObjectConflict`] when this agent
    /// already has another part in a migration of this name.
    pub fn accept(
        &self,
        command: &CommandEntry,
        participation: Option<&Participation>,
        fact: &[u8],
        at: SystemTime,
    ) -> Result<(), Failure> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
        if let Some(participation) = participation {
            insert_participation(&transaction, participation)?;
        }
        insert_command(&transaction, command, "open", at)?;
        insert_fact(&transaction, &command.id, fact, at)?;
        transaction.commit().map_err(broken)
    }

    /// Stores a command that is refused, with the fact that says why. It is
    /// over at once, and nothing else is stored.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn refuse(&self, command: &CommandEntry, fact: &[u8], at: SystemTime) -> Result<(), Failure> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
        insert_command(&transaction, command, "over", at)?;
        insert_fact(&transaction, &command.id, fact, at)?;
        transaction.commit().map_err(broken)
    }

    /// Stores the next fact of a command, and forgets the migration with its
    /// last. A second final fact is not stored: what was answered stays answered.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn record(&self, command_id: &str, kind: FactKind, fact: &[u8], at: SystemTime) -> Result<(), Failure> {
        const MIGRATION: &str = "migration = (SELECT migration FROM command WHERE id = ?1)";
        const OVER: &str = "UPDATE command SET state = 'over' WHERE id = ?1 AND state = 'open'";
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
        let open = match kind {
            FactKind::Interim => true,
            FactKind::Final | FactKind::FinalOfMigration => {
                transaction.execute(OVER, [command_id]).map_err(broken)? == 1
            }
        };
        if open {
            insert_fact(&transaction, command_id, fact, at)?;
        }
        if kind == FactKind::FinalOfMigration {
            transaction.execute(&format!("DELETE FROM note WHERE {MIGRATION}"), [command_id]).map_err(broken)?;
            transaction
                .execute(&format!("DELETE FROM participation WHERE {MIGRATION}"), [command_id])
                .map_err(broken)?;
        }
        transaction.commit().map_err(broken)
    }

    /// Commands that were accepted and are not over, oldest first: what a
    /// restarted agent takes up again.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn interrupted(&self) -> Result<Vec<Vec<u8>>, Failure> {
        const SQL: &str = "SELECT message FROM command WHERE state = 'open' ORDER BY rowid";
        self.rows(SQL, |row| row.get(0))
    }

    /// Commands whose last fact is not acknowledged, with the number of that
    /// fact: `Hello.open_commands`.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn unacknowledged(&self) -> Result<Vec<(String, i64)>, Failure> {
        const SQL: &str = "SELECT command.id, max(fact.sequence) FROM command JOIN fact ON fact.command_id = command.id
            WHERE command.state = 'open' OR (command.state = 'over' AND NOT fact.acknowledged)
            GROUP BY command.id ORDER BY command.rowid";
        self.rows(SQL, |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Facts to send: everything not acknowledged, in order.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn facts_to_send(&self) -> Result<Vec<FactEntry>, Failure> {
        const SQL: &str = "SELECT fact.command_id, fact.sequence, fact.message
            FROM fact JOIN command ON command.id = fact.command_id
            WHERE NOT fact.acknowledged AND command.state <> 'abandoned' ORDER BY command.rowid, fact.sequence";
        self.rows(SQL, fact_entry)
    }

    /// Every fact of one command, acknowledged or not: the answer to a
    /// repeated command.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn repeat(&self, command_id: &str) -> Result<(), Failure> {
        const SQL: &str = "UPDATE fact SET acknowledged = FALSE WHERE command_id = ?1";
        self.connection().execute(SQL, [command_id]).map_err(broken)?;
        Ok(())
    }

    /// The coordinator has stored the facts of a command up to a number.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn acknowledge(&self, command_id: &str, sequence: i64) -> Result<(), Failure> {
        const SQL: &str = "UPDATE fact SET acknowledged = TRUE WHERE command_id = ?1 AND sequence <= ?2";
        self.connection().execute(SQL, params![command_id, sequence]).map_err(broken)?;
        Ok(())
    }

    /// The coordinator has no use for a command: its facts are sent no more,
    /// and a restart does not take it up again. The id stays known.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn abandon(&self, command_id: &str) -> Result<(), Failure> {
        const SQL: &str = "UPDATE command SET state = 'abandoned' WHERE id = ?1";
        self.connection().execute(SQL, [command_id]).map_err(broken)?;
        Ok(())
    }

    /// Removes commands that were over and acknowledged long ago. Their ids
    /// were kept until now so that a late repetition starts nothing.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn prune(&self, now: SystemTime, age: Duration) -> Result<usize, Failure> {
        const SQL: &str = "DELETE FROM command WHERE record_time < ?1 AND (state = 'abandoned' OR (state = 'over'
            AND NOT EXISTS (SELECT 1 FROM fact WHERE command_id = command.id AND NOT acknowledged)))";
        let before = millis(now) - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        self.connection().execute(SQL, [before]).map_err(broken)
    }

    // ---- Epochs.

    /// The highest coordinator epoch seen.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn leader_epoch(&self) -> Result<i64, Failure> {
        const SQL: &str = "SELECT leader_epoch FROM epoch";
        self.connection().query_row(SQL, [], |row| row.get(0)).map_err(broken)
    }

    /// Takes note of a coordinator's epoch. It never goes down.
    ///
    /// # Errors
    ///
    /// [`Reason::StaleEpoch`] when a higher one was seen before;
    /// [`Reason::StoreUnwritable`].
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

    /// Takes the terms of a new session. A coordinator with a higher epoch may
    /// have lost its store: it counts sessions anew.
    ///
    /// # Errors
    ///
    /// [`Reason::StaleEpoch`] from a coordinator that is over,
    /// [`Reason::StaleSession`] when there was a later session already;
    /// [`Reason::StoreUnwritable`].
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
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn participation(&self, migration: &MigrationId) -> Result<Option<Participation>, Failure> {
        Ok(self.participations()?.into_iter().find(|participation| participation.migration == *migration))
    }

    /// Every migration this agent takes part in.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn participations(&self) -> Result<Vec<Participation>, Failure> {
        const SQL: &str = "SELECT migration, side, database, peer FROM participation ORDER BY migration";
        let rows: Vec<(String, String, String, String)> =
            self.rows(SQL, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        rows.into_iter()
            .map(|(migration, side, database, peer)| {
                let side = match side.as_str() {
                    "source" => Side::Source,
                    "destination" => Side::Destination,
                    other => {
                        return Err(Failure::new(
                            Reason::StoreUnwritable,
                            format!("the journal knows no side {other:?}"),
                        ));
                    }
                };
                Ok(Participation { migration: MigrationId::new(&migration)?, side, database, peer })
            })
            .collect()
    }

    /// Forgets a migration: its participation and its notes. Facts that are
    /// still to be sent stay.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn forget(&self, migration: &MigrationId) -> Result<(), Failure> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
        transaction.execute("DELETE FROM note WHERE migration = ?1", [migration.as_str()]).map_err(broken)?;
        transaction.execute("DELETE FROM participation WHERE migration = ?1", [migration.as_str()]).map_err(broken)?;
        transaction.commit().map_err(broken)
    }

    /// A small durable note of a step: an intent, a port, a choice.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn note(&self, migration: &MigrationId, key: &str) -> Result<Option<String>, Failure> {
        const SQL: &str = "SELECT value FROM note WHERE migration = ?1 AND key = ?2";
        self.connection().query_row(SQL, [migration.as_str(), key], |row| row.get(0)).optional().map_err(broken)
    }

    /// Writes a note. On disk when it returns.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn set_note(&self, migration: &MigrationId, key: &str, value: &str) -> Result<(), Failure> {
        const SQL: &str = "INSERT INTO note (migration, key, value) VALUES (?1, ?2, ?3)
            ON CONFLICT (migration, key) DO UPDATE SET value = excluded.value";
        self.connection().execute(SQL, [migration.as_str(), key, value]).map_err(broken)?;
        Ok(())
    }

    /// Removes a note.
    ///
    /// # Errors
    ///
    /// [`Reason::StoreUnwritable`].
    pub fn clear_note(&self, migration: &MigrationId, key: &str) -> Result<(), Failure> {
        const SQL: &str = "DELETE FROM note WHERE migration = ?1 AND key = ?2";
        self.connection().execute(SQL, [migration.as_str(), key]).map_err(broken)?;
        Ok(())
    }

    fn rows<T>(&self, sql: &str, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>, Failure> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(sql).map_err(broken)?;
        let rows = statement.query_map([], read).map_err(broken)?;
        rows.collect::<Result<_, _>>().map_err(broken)
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

fn insert_command(connection: &Connection, command: &CommandEntry, state: &str, at: SystemTime) -> Result<(), Failure> {
    const SQL: &str = "INSERT INTO command (id, migration, digest, message, actor, actor_serial, state, record_time)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let CommandEntry { id, migration, digest, message, actor, actor_serial } = command;
    let row = params![id, migration, digest.as_slice(), message, actor, actor_serial, state, millis(at)];
    connection.execute(SQL, row).map_err(broken)?;
    Ok(())
}

fn insert_fact(connection: &Connection, command_id: &str, fact: &[u8], at: SystemTime) -> Result<(), Failure> {
    const SQL: &str = "INSERT INTO fact (command_id, sequence, message, record_time)
        SELECT ?1, coalesce(max(sequence), 0) + 1, ?2, ?3 FROM fact WHERE command_id = ?1";
    connection.execute(SQL, params![command_id, fact, millis(at)]).map_err(broken)?;
    Ok(())
}

fn fact_entry(row: &Row<'_>) -> rusqlite::Result<FactEntry> {
    Ok(FactEntry { command_id: row.get(0)?, sequence: row.get(1)?, message: row.get(2)? })
}

fn millis(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}

fn unwritable(path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Reason::StoreUnwritable, format!("cannot use the journal {}", path.display()))
        .because(error)
        .hint("The directory must exist, belong to the agent's user and have free space.")
        .effect(Effect::None)
}

/// A statement on an open journal failed: full disk, broken disk.
#[expect(clippy::needless_pass_by_value, reason = "fits `map_err`")]
fn broken(error: rusqlite::Error) -> Failure {
    Failure::new(Reason::StoreUnwritable, "cannot write the journal")
        .because(&error)
        .hint("Look at the disk that holds `state_dir`. Nothing is done that cannot be recorded first.")
}

#[cfg(test)]
mod tests;
