//! The embedded store: one SQLite file, one writer.
//!
//! WAL with `synchronous=FULL`: a commit that has returned is on the disk. A
//! lock file keeps a second process out, and one thread does all the writing,
//! so that nothing here ever waits for a lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use pgportage_link::fail_point;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{AgentRecord, History, Store, StoreError};
use crate::workflow::act::Digest;
use crate::workflow::fact::{Event, Fact, Origin};
use crate::workflow::spec::MigrationId;

/// The format this release writes.
const FORMAT: i64 = 1;

/// What leads from each format to the next.
const MIGRATIONS: &[&str] = &["
CREATE TABLE leader (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    epoch INTEGER NOT NULL
) STRICT;
INSERT INTO leader VALUES (1, 0);
CREATE TABLE fact (
    migration_id       TEXT NOT NULL,
    sequence           INTEGER NOT NULL,
    actor              TEXT NOT NULL,
    certificate_serial TEXT NOT NULL,
    request_id         TEXT NOT NULL,
    record_time_us     INTEGER NOT NULL,
    plan_digest        BLOB NOT NULL,
    leader_epoch       INTEGER NOT NULL,
    kind               TEXT NOT NULL,
    version            INTEGER NOT NULL,
    payload            TEXT NOT NULL,
    PRIMARY KEY (migration_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE agent (
    name               TEXT PRIMARY KEY,
    session_epoch      INTEGER NOT NULL,
    software_version   TEXT NOT NULL,
    revision           INTEGER NOT NULL,
    server_version_num INTEGER NOT NULL,
    policy_digest      BLOB NOT NULL,
    attach_time_us     INTEGER NOT NULL,
    contact_time_us    INTEGER NOT NULL,
    has_left           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"];

/// Version of the payloads written. Each fact says which it has.
const PAYLOAD_VERSION: i64 = 1;

const INSERT_FACT: &str = "
INSERT INTO fact (migration_id, sequence, actor, certificate_serial, request_id,
                  record_time_us, plan_digest, leader_epoch, kind, version, payload)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

const RAISE_EPOCH: &str = "UPDATE leader SET epoch = max(epoch, ?1 + 1) WHERE id = 1 RETURNING epoch";

const NEWEST_FACT: &str = "SELECT coalesce(max(sequence), 0) FROM fact WHERE migration_id = ?1";

const SELECT_FACTS: &str = "
SELECT migration_id, sequence, actor, certificate_serial, request_id,
       record_time_us, plan_digest, version, payload
FROM fact ORDER BY migration_id, sequence";

const UPSERT_AGENT: &str = "
INSERT INTO agent (name, session_epoch, software_version, revision, server_version_num,
                   policy_digest, attach_time_us, contact_time_us, has_left)
VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, 0)
ON CONFLICT (name) DO UPDATE SET
    session_epoch = agent.session_epoch + 1,
    software_version = excluded.software_version,
    revision = excluded.revision,
    server_version_num = excluded.server_version_num,
    policy_digest = excluded.policy_digest,
    attach_time_us = excluded.attach_time_us,
    contact_time_us = excluded.contact_time_us,
    has_left = 0
RETURNING session_epoch";

const END_SESSION: &str = "
UPDATE agent SET contact_time_us = ?3, has_left = ?4
WHERE name = ?1 AND session_epoch = ?2";

const SELECT_AGENTS: &str = "
SELECT name, session_epoch, software_version, revision, server_version_num,
       policy_digest, attach_time_us, contact_time_us, has_left
FROM agent ORDER BY name";

type Work = Box<dyn FnOnce(&mut Writer) + Send>;

/// The embedded store. Dropping it closes the file.
#[derive(Debug)]
pub(crate) struct SqliteStore {
    leader_epoch: Arc<AtomicI64>,
    broken: CancellationToken,
    /// Unbounded: every sender waits for its answer, so there are never more
    /// entries than requests under way.
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

struct Writer {
    connection: Connection,
    leader_epoch: Arc<AtomicI64>,
    broken: CancellationToken,
    /// Held for as long as the store is open.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store in a directory, makes it if there is none, brings an
    /// older format up to date, and takes the next leader epoch.
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory).map_err(broken)?;
        let lock = lock(directory)?;
        let path = directory.join("coordinator.db");
        let mut connection = Connection::open(&path).map_err(store_error)?;
        // The directory may be readable by others; the history is nobody else's.
        restrict(&path)?;
        let mode: String =
            connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(store_error)?;
        if mode != "wal" {
            return Err(StoreError::Unreadable(format!("journal_mode is {mode}, and WAL is not possible here")));
        }
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;").map_err(store_error)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(store_error)?;
        migrate(&mut connection)?;
        fail_point::hit("coordinator.store.opened");
        let leader_epoch: i64 = connection
            .query_row("UPDATE leader SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch", [], |row| row.get(0))
            .map_err(store_error)?;
        fail_point::hit("coordinator.store.leading");
        let broken = CancellationToken::new();
        let leader_epoch = Arc::new(AtomicI64::new(leader_epoch));
        let mut writer =
            Writer { connection, leader_epoch: Arc::clone(&leader_epoch), broken: broken.clone(), _lock: lock };
        let (work, queue) = mpsc::channel::<Work>();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                for work in queue {
                    work(&mut writer);
                }
            })
            .map_err(self::broken)?;
        Ok(Self { leader_epoch, broken, work: Some(work), thread: Some(thread) })
    }

    /// Has the writer do something and waits for its answer.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.work.as_ref().is_some_and(|queue| {
            let task: Work = Box::new(move |writer| {
                let result = if writer.broken.is_cancelled() { Err(gone()) } else { work(writer) };
                if matches!(result, Err(StoreError::Broken(_))) {
                    writer.broken.cancel();
                }
                // The asker may have gone; what was written stays written.
                drop(reply.send(result));
            });
            queue.send(task).is_ok()
        });
        Box::pin(async move {
            if !sent {
                return Err(gone());
            }
            answer.await.unwrap_or_else(|_| {
                // The writer died: a panic, after which nothing is known.
                self.broken.cancel();
                Err(gone())
            })
        })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was reported to whoever waited for it.
            drop(thread.join());
        }
    }
}

impl Store for SqliteStore {
    fn leader_epoch(&self) -> i64 {
        self.leader_epoch.load(Ordering::Acquire)
    }

    fn lead_above(&self, seen: i64) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(move |writer| {
            let epoch: i64 = writer.connection.query_row(RAISE_EPOCH, [seen], |row| row.get(0)).map_err(store_error)?;
            writer.leader_epoch.store(epoch, Ordering::Release);
            Ok(())
        })
    }

    fn broken(&self) -> &CancellationToken {
        &self.broken
    }

    fn append(&self, id: MigrationId, facts: Vec<Fact>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(move |writer| writer.append(&id, &facts))
    }

    fn histories(&self) -> BoxFuture<'_, Result<Vec<History>, StoreError>> {
        self.run(|writer| histories(&writer.connection))
    }

    fn begin_session(&self, agent: AgentRecord) -> BoxFuture<'_, Result<i64, StoreError>> {
        self.run(move |writer| {
            let epoch = writer
                .connection
                .query_row(
                    UPSERT_AGENT,
                    params![
                        agent.name,
                        agent.software_version,
                        agent.revision,
                        agent.server_version_num,
                        agent.policy_digest,
                        micros(agent.attach_time),
                        micros(agent.contact_time)
                    ],
                    |row| row.get(0),
                )
                .map_err(store_error)?;
            fail_point::hit("coordinator.store.session_begun");
            Ok(epoch)
        })
    }

    fn end_session(
        &self,
        name: String,
        session_epoch: i64,
        contact_time: SystemTime,
        left: bool,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(move |writer| {
            writer
                .connection
                .execute(END_SESSION, params![name, session_epoch, micros(contact_time), left])
                .map(drop)
                .map_err(store_error)
        })
    }

    fn agents(&self) -> BoxFuture<'_, Result<Vec<AgentRecord>, StoreError>> {
        self.run(|writer| {
            let mut statement = writer.connection.prepare_cached(SELECT_AGENTS).map_err(store_error)?;
            let agents = statement.query_map([], |row| {
                Ok(AgentRecord {
                    name: row.get(0)?,
                    session_epoch: row.get(1)?,
                    software_version: row.get(2)?,
                    revision: row.get(3)?,
                    server_version_num: row.get(4)?,
                    policy_digest: row.get(5)?,
                    attach_time: time(row.get(6)?),
                    contact_time: time(row.get(7)?),
                    left: row.get(8)?,
                })
            });
            agents.map_err(store_error)?.collect::<Result<_, _>>().map_err(store_error)
        })
    }
}

impl Writer {
    fn append(&mut self, id: &MigrationId, facts: &[Fact]) -> Result<(), StoreError> {
        let leader_epoch = self.leader_epoch.load(Ordering::Acquire);
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(store_error)?;
        // Another leader on the same file cannot be, the lock sees to that; this
        // check costs nothing and does not believe it.
        let leading: i64 = transaction
            .prepare_cached("SELECT epoch FROM leader WHERE id = 1")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map_err(store_error)?;
        if leading != leader_epoch {
            return Err(StoreError::Conflict(id.clone()));
        }
        insert(&transaction, id, facts, leader_epoch)?;
        fail_point::hit("coordinator.store.before_commit");
        transaction.commit().map_err(store_error)?;
        fail_point::hit("coordinator.store.after_commit");
        Ok(())
    }
}

fn insert(
    transaction: &Transaction<'_>,
    id: &MigrationId,
    facts: &[Fact],
    leader_epoch: i64,
) -> Result<(), StoreError> {
    let mut newest: i64 = transaction
        .prepare_cached(NEWEST_FACT)
        .and_then(|mut statement| statement.query_row([id.as_str()], |row| row.get(0)))
        .map_err(store_error)?;
    let mut statement = transaction.prepare_cached(INSERT_FACT).map_err(store_error)?;
    for fact in facts {
        newest += 1;
        if fact.sequence != newest {
            return Err(StoreError::Conflict(id.clone()));
        }
        let payload = serde_json::to_string(&fact.event).map_err(|error| StoreError::Unreadable(error.to_string()))?;
        statement
            .execute(params![
                id.as_str(),
                fact.sequence,
                fact.origin.actor,
                fact.origin.certificate_serial,
                fact.origin.request_id,
                micros(fact.time),
                fact.plan_digest.0,
                leader_epoch,
                fact.event.kind(),
                PAYLOAD_VERSION,
                payload
            ])
            .map_err(store_error)?;
    }
    Ok(())
}

fn histories(connection: &Connection) -> Result<Vec<History>, StoreError> {
    let mut statement = connection.prepare(SELECT_FACTS).map_err(store_error)?;
    let mut rows = statement.query([]).map_err(store_error)?;
    let mut histories: Vec<History> = Vec::new();
    while let Some(row) = rows.next().map_err(store_error)? {
        let name: String = row.get(0).map_err(store_error)?;
        let id = MigrationId::new(&name).map_err(|error| StoreError::Unreadable(error.to_string()))?;
        let fact = fact(row).map_err(|why| StoreError::Unreadable(format!("a fact of migration {id}: {why}")))?;
        match histories.last_mut() {
            Some((last, facts)) if *last == id => facts.push(fact),
            _other => histories.push((id, vec![fact])),
        }
    }
    Ok(histories)
}

fn fact(row: &rusqlite::Row<'_>) -> Result<Fact, Box<dyn std::error::Error>> {
    let version: i64 = row.get(7)?;
    if version > PAYLOAD_VERSION {
        return Err(format!("payload version {version} is newer than {PAYLOAD_VERSION}").into());
    }
    let payload: String = row.get(8)?;
    let event: Event = serde_json::from_str(&payload)?;
    Ok(Fact {
        sequence: row.get(1)?,
        origin: Origin { actor: row.get(2)?, certificate_serial: row.get(3)?, request_id: row.get(4)? },
        time: time(row.get(5)?),
        plan_digest: Digest(row.get(6)?),
        event,
    })
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(store_error)?;
    if found > FORMAT {
        return Err(StoreError::TooNew { found, known: FORMAT });
    }
    for (format, script) in (1_i64..).zip(MIGRATIONS).filter(|(format, _)| *format > found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(store_error)?;
        transaction.execute_batch(script).map_err(store_error)?;
        transaction.pragma_update(None, "user_version", format).map_err(store_error)?;
        transaction.commit().map_err(store_error)?;
    }
    let filled: Option<i64> = connection
        .query_row("SELECT epoch FROM leader WHERE id = 1", [], |row| row.get(0))
        .optional()
        .map_err(store_error)?;
    filled.map(drop).ok_or_else(|| StoreError::Unreadable("the leader's epoch is missing".to_owned()))
}

/// Takes the lock file. Released by the kernel when the process ends, however
/// it ends.
fn lock(directory: &Path) -> Result<File, StoreError> {
    let path: PathBuf = directory.join("coordinator.lock");
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(broken)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: directory.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(broken(error)),
    }
}

fn restrict(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(broken)
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Broken(Box::new(error))
}

fn gone() -> StoreError {
    StoreError::Broken("the store's writer has ended".into())
}

/// Sorts SQLite's errors: what may be tried again, what was there wrongly, and
/// everything after which the disk's content is unknown.
fn store_error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Unreadable(error.to_string()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::InUse { path: "coordinator.db".to_owned() }
        }
        _other => broken(error),
    }
}

fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn time(micros: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
