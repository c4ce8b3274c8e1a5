//! The journal's tables and their versions.

use std::time::Duration;

use rusqlite::Connection;

/// The format that this release writes. Each change of the format raises it by one.
pub(super) const VERSION: i64 = 3;

/// Brings a journal of version N to version N+1.
pub(super) const MIGRATIONS: [&str; VERSION as usize] = [
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
    // 1 to 2: facts to be sent are looked up at every fact, also in an outage when there are many.
    "CREATE INDEX fact_to_send ON fact (command_id, sequence) WHERE NOT acknowledged;",
    // 2 to 3: one record in place of seven notes of a switchover, in the form of
    // `switchover::SwitchoverRecord`.
    "CREATE TABLE switchover (
        migration TEXT PRIMARY KEY,
        record TEXT NOT NULL
    ) STRICT;
    INSERT INTO switchover
    SELECT migration, json_object(
        'fence', json(CASE WHEN fence IS NULL THEN json_quote('down')
                           WHEN fence = settled THEN json_object('kept', fence)
                           ELSE json_object('may_stand', fence) END),
        'left', settled,
        'pause', json(CASE WHEN paused GLOB '[0-9]*' AND paused GLOB '* entering'
                           THEN json_object('epoch', CAST(paused AS INTEGER), 'role', 'entering')
                           WHEN paused GLOB '[0-9]*' AND paused NOT GLOB '*[^0-9]*'
                           THEN json_object('epoch', CAST(paused AS INTEGER), 'role', 'leaving') END),
        'lead_here', json(CASE WHEN lead_back IS NULL THEN 'false' ELSE 'true' END),
        'untold', nullif(awaited, settled),
        'hooks_on_leaving', owed,
        'hooks_on_entry', json(CASE WHEN owed_on_entry IS NOT NULL
                                    THEN json_object('epoch', owed_on_entry, 'opened', json('false')) END))
    FROM (SELECT migration,
                 max(CASE key WHEN 'fence.epoch' THEN CAST(value AS INTEGER) END) AS fence,
                 max(CASE key WHEN 'cutover.settled' THEN CAST(value AS INTEGER) END) AS settled,
                 max(CASE key WHEN 'pooler.paused' THEN value END) AS paused,
                 max(CASE key WHEN 'pooler.lead_back' THEN value END) AS lead_back,
                 max(CASE key WHEN 'announcement.awaited' THEN CAST(value AS INTEGER) END) AS awaited,
                 max(CASE key WHEN 'hook.owed' THEN CAST(value AS INTEGER) END) AS owed,
                 max(CASE key WHEN 'hook.owed_on_entry' THEN CAST(value AS INTEGER) END) AS owed_on_entry
          FROM note
          WHERE key IN ('fence.epoch', 'cutover.settled', 'pooler.paused', 'pooler.lead_back', 'announcement.awaited',
                        'hook.owed', 'hook.owed_on_entry')
          GROUP BY migration);
    DELETE FROM note
    WHERE key IN ('fence.epoch', 'cutover.settled', 'pooler.paused', 'pooler.lead_back', 'announcement.awaited',
                  'hook.owed', 'hook.owed_on_entry');",
];

/// Why a journal file cannot be used.
pub(super) enum Problem {
    Sqlite(rusqlite::Error),
    TooNew { found: i64 },
    TooOld { found: i64 },
}

/// What to do with a file that an earlier release wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Older {
    /// Bring it to [`VERSION`].
    TakeUp,
    /// Leave it alone: an agent of that release may be writing to it.
    Refuse,
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Sets the connection up and brings the tables to [`VERSION`].
pub(super) fn prepare(connection: &mut Connection, older: Older) -> Result<(), Problem> {
    connection.busy_timeout(Duration::from_secs(10))?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > VERSION {
        return Err(Problem::TooNew { found });
    }
    if older == Older::Refuse && (1..VERSION).contains(&found) {
        return Err(Problem::TooOld { found });
    }
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Read again inside the transaction: another process may have done it meanwhile.
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or_default()) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(())
}
