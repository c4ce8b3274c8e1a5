//! The journal's commands, and the facts about them.

use std::time::{Duration, SystemTime};

use pgportage_link::Failure;
use pgportage_proto::MigrationId;
#[cfg(doc)]
use pgportage_proto::Reason;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::{Journal, broken, insert_participation};
use crate::Participation;

/// A command that this agent accepted or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandEntry {
    /// Chosen by the coordinator.
    pub id: String,
    /// The migration it belongs to, as sent; in a refused command this may be any text.
    pub migration: String,
    /// SHA-256 of its content, without the fields that may differ when it is sent again.
    pub digest: [u8; 32],
    /// The encoded command.
    pub message: Vec<u8>,
    /// SPIFFE id of the coordinator that sent it.
    pub actor: String,
    /// Serial number of the sender's certificate, in hexadecimal.
    pub actor_serial: String,
}

/// What the journal knows about a command that has just arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It was never seen.
    New,
    /// It was seen with this content: the agent answers from the journal and starts nothing.
    Same,
    /// It was seen with other content.
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

/// One past fact, with the command it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastFact {
    /// The encoded command.
    pub command: Vec<u8>,
    /// The encoded fact.
    pub fact: Vec<u8>,
}

/// Whether a fact ends its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactKind {
    /// The command goes on.
    Interim,
    /// The command has ended.
    Final,
    /// The command has ended, and with it this agent's part in the migration.
    FinalOfMigration,
}

impl Journal {
    /// Whether the journal knows a command.
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

    /// Stores a command that is refused, with the fact that says why. The command has ended at once, and
    /// nothing else is stored.
    pub fn refuse(&self, command: &CommandEntry, fact: &[u8], at: SystemTime) -> Result<(), Failure> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
        insert_command(&transaction, command, "over", at)?;
        insert_fact(&transaction, &command.id, fact, at)?;
        transaction.commit().map_err(broken)
    }

    /// Stores the next fact of a command, and forgets the migration with its last one. A second final fact
    /// is not stored: the first answer stands.
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

    /// Commands that were accepted and have not ended, oldest first: a restarted agent continues them.
    pub fn interrupted(&self) -> Result<Vec<Vec<u8>>, Failure> {
        const SQL: &str = "SELECT message FROM command WHERE state = 'open' ORDER BY rowid";
        self.rows(SQL, |row| row.get(0))
    }

    /// Commands whose last fact is not acknowledged, with the number of that
    /// fact: `Hello.open_commands`.
    pub fn unacknowledged(&self) -> Result<Vec<(String, i64)>, Failure> {
        const SQL: &str = "SELECT command.id, max(fact.sequence) FROM command JOIN fact ON fact.command_id = command.id
            WHERE command.state = 'open' OR (command.state = 'over' AND NOT fact.acknowledged)
            GROUP BY command.id ORDER BY command.rowid";
        self.rows(SQL, |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Facts to send: everything not acknowledged, in order.
    pub fn facts_to_send(&self) -> Result<Vec<FactEntry>, Failure> {
        const SQL: &str = "SELECT fact.command_id, fact.sequence, fact.message
            FROM fact INDEXED BY fact_to_send CROSS JOIN command ON command.id = fact.command_id
            WHERE NOT fact.acknowledged AND command.state <> 'abandoned' ORDER BY command.rowid, fact.sequence";
        self.rows(SQL, fact_entry)
    }

    /// How many facts are still to be sent.
    pub fn unsent_facts(&self) -> Result<i64, Failure> {
        const SQL: &str = "SELECT count(*)
            FROM fact INDEXED BY fact_to_send CROSS JOIN command ON command.id = fact.command_id
            WHERE NOT fact.acknowledged AND command.state <> 'abandoned'";
        self.connection().query_row(SQL, [], |row| row.get(0)).map_err(broken)
    }

    /// What this agent did in a migration: every fact, acknowledged or not, of every
    /// command that was not abandoned, in order.
    pub fn history(&self, migration: &MigrationId) -> Result<Vec<PastFact>, Failure> {
        const SQL: &str = "SELECT command.message, fact.message FROM command JOIN fact ON fact.command_id = command.id
            WHERE command.migration = ?1 AND command.state <> 'abandoned' ORDER BY command.rowid, fact.sequence";
        let connection = self.connection();
        let mut statement = connection.prepare_cached(SQL).map_err(broken)?;
        let past = |row: &Row<'_>| Ok(PastFact { command: row.get(0)?, fact: row.get(1)? });
        let rows = statement.query_map([migration.as_str()], past).map_err(broken)?;
        rows.collect::<Result<_, _>>().map_err(broken)
    }

    /// Marks every fact of one command to be sent again, acknowledged or not: the answer to a repeated
    /// command.
    pub fn repeat(&self, command_id: &str) -> Result<(), Failure> {
        const SQL: &str = "UPDATE fact SET acknowledged = FALSE WHERE command_id = ?1";
        self.connection().execute(SQL, [command_id]).map_err(broken)?;
        Ok(())
    }

    /// Notes that the coordinator has stored the facts of a command up to a number.
    ///
    /// The one write that does not wait for the disk; it reaches the disk with the next one. If the machine
    /// fails before that, the agent sends the facts again, and the coordinator acknowledges them again.
    pub fn acknowledge(&self, command_id: &str, sequence: i64) -> Result<(), Failure> {
        const SQL: &str = "UPDATE fact SET acknowledged = TRUE WHERE command_id = ?1 AND sequence <= ?2";
        let connection = self.connection();
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(broken)?;
        let acknowledged = connection.execute(SQL, params![command_id, sequence]);
        connection.pragma_update(None, "synchronous", "FULL").map_err(broken)?;
        acknowledged.map(drop).map_err(broken)
    }

    /// Notes that the coordinator needs no facts of a command any more: they are no longer sent, and a
    /// restarted agent does not continue the command. The id stays known.
    pub fn abandon(&self, command_id: &str) -> Result<(), Failure> {
        const SQL: &str = "UPDATE command SET state = 'abandoned' WHERE id = ?1";
        self.connection().execute(SQL, [command_id]).map_err(broken)?;
        Ok(())
    }

    /// Removes commands that ended and were acknowledged long ago. Their ids were kept until now so that a
    /// late repetition starts nothing.
    pub fn prune(&self, now: SystemTime, age: Duration) -> Result<usize, Failure> {
        const SQL: &str = "DELETE FROM command WHERE record_time < ?1 AND (state = 'abandoned' OR (state = 'over'
            AND NOT EXISTS (SELECT 1 FROM fact WHERE command_id = command.id AND NOT acknowledged)))";
        let before = millis(now) - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        self.connection().execute(SQL, [before]).map_err(broken)
    }
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
