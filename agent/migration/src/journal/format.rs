//! The journal's tables and their versions.

use std::time::Duration;

use rusqlite::Connection;

/// The format this release writes. Grows by one with every change of it.
pub(super) const VERSION: i64 = 2;

/// Brings a journal of version N to version N+1.
const MIGRATIONS: [&str; VERSION as usize] = [
    // 0 to 1: an empty file.
    "CREATE TABLE participation (
        migration TEXT PRIMARY KEY,
        side TEXT NOT NULL,
        database TEXT NOT NULL,
        peer TEXT NOT NULL
    ) STRICT;
    CREATE TABLE command (
        id TEXT PRIMARY KEY,
        migration TEXT NOT NULL,
        digest BLOB NOT NULL,
        message BLOB NOT NULL,
        actor TEXT NOT NULL,
        actor_serial TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('open', 'over', 'abandoned')),
        record_time INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE fact (
        command_id TEXT NOT NULL REFERENCES command ON DELETE CASCADE,
        sequence INTEGER NOT NULL,
        message BLOB NOT NULL,
        acknowledged INTEGER NOT NULL DEFAULT FALSE,
        record_time INTEGER NOT NULL,
        PRIMARY KEY (command_id, sequence)
    ) STRICT;
    CREATE TABLE note (
        migration TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (migration, key)
    ) STRICT;
    CREATE TABLE epoch (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        leader_epoch INTEGER NOT NULL,
        session_epoch INTEGER NOT NULL
    ) STRICT;
    INSERT INTO epoch VALUES (1, 0, 0);",
    // 1 to 2: what is still to be told is asked for at every fact, also in an outage.
    "CREATE INDEX fact_to_send ON fact (command_id, sequence) WHERE NOT acknowledged;",
];

/// Why a file cannot be used.
pub(super) enum Problem {
    Sqlite(rusqlite::Error),
    TooNew { found: i64 },
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Sets the connection up and brings the tables to [`VERSION`].
pub(super) fn prepare(connection: &mut Connection) -> Result<(), Problem> {
    connection.busy_timeout(Duration::from_secs(10))?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > VERSION {
        return Err(Problem::TooNew { found });
    }
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Read again: another process may have been faster.
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or_default()) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(())
}
