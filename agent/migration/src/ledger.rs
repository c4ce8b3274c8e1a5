//! Our schema on both servers, and the ledger of transactional acts in it.
//!
//! **Invariant:** an effect that a transaction can carry and its ledger row are
//! committed together, and the row is refused when a later coordinator has
//! written there before. After an unknown outcome the row says what happened.

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_postgres::access::{DECISION_TABLE_DDL, FENCE_TABLE_DDL};
use pgportage_postgres::{quote_ident, sql_failure};
use pgportage_proto::{ActKind, MigrationId, Reason, Side, Verb};
use tokio::try_join;
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Transaction};

use crate::Participation;
use crate::names;

/// Version of the layout of the tables below. Raised when an older agent could not read them.
const FORMAT: i32 = 1;

const CREATE_SCHEMA: &str = "CREATE SCHEMA pgportage";

const MIGRATION_TABLE_DDL: &str = "\
CREATE TABLE pgportage.migration (
    migration_id text PRIMARY KEY,
    side text NOT NULL,
    format int NOT NULL
)";

const LEDGER_TABLE_DDL: &str = "\
CREATE TABLE pgportage.ledger (
    command_id text PRIMARY KEY,
    action text NOT NULL,
    verb text NOT NULL,
    leader_epoch bigint NOT NULL,
    plan_digest bytea NOT NULL,
    result bytea,
    record_time timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
)";

const HEARTBEAT_TABLE_DDL: &str = "\
CREATE TABLE pgportage.heartbeat (
    id int PRIMARY KEY,
    sequence bigint NOT NULL
)";

const HEARTBEAT_BACK_TABLE_DDL: &str = "\
CREATE TABLE pgportage.heartbeat_back (
    id int PRIMARY KEY,
    sequence bigint NOT NULL
)";

const MARKER_TABLE_DDL: &str = "\
CREATE TABLE pgportage.marker (
    marker_id uuid PRIMARY KEY,
    cutover_epoch bigint NOT NULL
)";

const FIRST_HEARTBEAT: &str = "\
INSERT INTO pgportage.heartbeat (id, sequence) VALUES (1, 0) ON CONFLICT (id) DO NOTHING";

/// On both sides: the way back copies nothing, so this row must be there for its updates to find.
const FIRST_HEARTBEAT_BACK: &str = "\
INSERT INTO pgportage.heartbeat_back (id, sequence) VALUES (1, 0) ON CONFLICT (id) DO NOTHING";

const INSERT_MIGRATION: &str = "\
INSERT INTO pgportage.migration (migration_id, side, format) VALUES ($1, $2, $3)";

const SELECT_MIGRATION: &str = "SELECT migration_id, side, format FROM pgportage.migration";

const RELATION_EXISTS: &str = "\
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = 'pgportage' AND c.relname = $1)";

const SCHEMA_EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'pgportage')";

/// No other coordinator's command writes between the check of the epochs and our row.
const LOCK_LEDGER: &str = "LOCK TABLE pgportage.ledger IN SHARE ROW EXCLUSIVE MODE";

const HIGHEST_EPOCH: &str = "SELECT coalesce(max(leader_epoch), 0) FROM pgportage.ledger";

/// A command that is carried out again after a crash keeps its one row.
const RECORD: &str = "\
INSERT INTO pgportage.ledger (command_id, action, verb, leader_epoch, plan_digest, result)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (command_id) DO UPDATE
SET leader_epoch = excluded.leader_epoch, result = excluded.result, record_time = pg_catalog.clock_timestamp()";

const RECORDED: &str = "SELECT result FROM pgportage.ledger WHERE command_id = $1";

const RESULTS: &str = "\
SELECT result FROM pgportage.ledger
WHERE action = $1 AND verb = 'perform' AND result IS NOT NULL
ORDER BY record_time";

const LATEST_RESULT: &str = "\
SELECT result FROM pgportage.ledger
WHERE action = ANY ($1) AND verb = 'perform' AND result IS NOT NULL
ORDER BY record_time DESC LIMIT 1";

const FIRST_RESULT: &str = "SELECT result FROM pgportage.ledger ORDER BY record_time LIMIT 1";

const DROP_SCHEMA: &str = "DROP SCHEMA pgportage CASCADE";

/// Which migration schema `pgportage` belongs to in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// There is no such schema.
    Absent,
    /// It belongs to the migration asked about, on the side asked about.
    Ours,
    /// It belongs to another migration or is not of this program; described for operators.
    Other(String),
}

/// The command that a row of the ledger records.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its identifier, the key of the row.
    pub command_id: &'a str,
    /// Epoch of the coordinator that sent it.
    pub leader_epoch: i64,
    /// Digest of the plan it belongs to.
    pub plan_digest: &'a [u8],
}

/// The row of one command in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// What the command stored with its effect. Empty if nothing.
    pub result: Vec<u8>,
}

/// Looks which migration schema `pgportage` belongs to in the session's database.
///
/// # Errors
///
/// What the server reports; [`Reason::StoreTooNew`] when a newer release made it.
pub async fn ownership(client: &impl GenericClient, participation: &Participation) -> Result<Ownership, Failure> {
    let doing = "look at schema pgportage";
    let failure = |error| sql_failure(error, doing);
    let exists: bool = client.query_one(SCHEMA_EXISTS, &[]).await.map_err(failure)?.get(0);
    if !exists {
        return Ok(Ownership::Absent);
    }
    if !relation_exists(client, "migration").await? {
        return Ok(Ownership::Other("another program or user: it has no table of migrations".to_owned()));
    }
    let rows = client.query(SELECT_MIGRATION, &[]).await.map_err(failure)?;
    let [row] = rows.as_slice() else {
        return Ok(Ownership::Other(format!("{} migrations", rows.len())));
    };
    let (migration, side, format): (String, String, i32) = (row.get(0), row.get(1), row.get(2));
    if format > FORMAT {
        return Err(Failure::new(Reason::StoreTooNew, "schema pgportage was made by a newer release")
            .detail(format!("Its format is {format}; this agent knows up to {FORMAT}."))
            .hint("Run the newer agent.")
            .effect(Effect::None));
    }
    if migration == participation.migration.as_str() && side == participation.side.as_str() {
        Ok(Ownership::Ours)
    } else {
        Ok(Ownership::Other(format!("migration {migration} ({side})")))
    }
}

/// The failure of an act that finds a schema `pgportage` which is not its migration's.
fn conflict(owner: &str, migration: &MigrationId) -> Failure {
    Failure::new(Reason::ObjectConflict, "schema pgportage belongs to another migration")
        .detail(format!("It belongs to {owner}."))
        .hint(format!(
            "If that migration is over, run `pgportage-agent cleanup` for it on this machine, then retry {migration}."
        ))
        .effect(Effect::None)
}

/// Makes our schema and its tables, where they are missing. Part of the caller's transaction.
///
/// # Errors
///
/// [`Reason::ObjectConflict`] when schema `pgportage` is not this migration's;
/// otherwise what the server reports.
pub async fn ensure(transaction: &Transaction<'_>, participation: &Participation) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "make schema pgportage");
    match ownership(transaction, participation).await? {
        Ownership::Ours => {}
        Ownership::Other(owner) => return Err(conflict(&owner, &participation.migration)),
        Ownership::Absent => {
            transaction.batch_execute(CREATE_SCHEMA).await.map_err(failure)?;
            transaction.batch_execute(MIGRATION_TABLE_DDL).await.map_err(failure)?;
            let (migration, side) = (participation.migration.as_str(), participation.side.as_str());
            transaction.execute(INSERT_MIGRATION, &[&migration, &side, &FORMAT]).await.map_err(failure)?;
        }
    }
    let tables = [
        (names::LEDGER_TABLE, LEDGER_TABLE_DDL),
        (names::HEARTBEAT_TABLE, HEARTBEAT_TABLE_DDL),
        (names::HEARTBEAT_BACK_TABLE, HEARTBEAT_BACK_TABLE_DDL),
        (names::MARKER_TABLE, MARKER_TABLE_DDL),
        ("fence", FENCE_TABLE_DDL),
        ("decision", DECISION_TABLE_DDL),
    ];
    for (name, ddl) in tables {
        if !relation_exists(transaction, name).await? {
            transaction.batch_execute(ddl).await.map_err(failure)?;
        }
    }
    transaction.batch_execute(FIRST_HEARTBEAT_BACK).await.map_err(failure)?;
    // On the destination the row comes with the initial copy.
    if participation.side == Side::Source {
        transaction.batch_execute(FIRST_HEARTBEAT).await.map_err(failure)?;
    }
    Ok(())
}

/// Removes our schema, the ledger included. Part of the caller's transaction. Does nothing when there is no
/// such schema, or when it is not this migration's.
///
/// The caller has made sure that neither a fence nor an undecided cutover is recorded in it.
///
/// # Errors
///
/// [`Reason::StaleEpoch`] when a later coordinator has written in the ledger; otherwise what the server
/// reports.
pub async fn remove(
    transaction: &Transaction<'_>,
    participation: &Participation,
    leader_epoch: i64,
) -> Result<(), Failure> {
    match ownership(transaction, participation).await? {
        Ownership::Absent | Ownership::Other(_) => Ok(()),
        Ownership::Ours => {
            check_epoch(transaction, leader_epoch).await?;
            transaction.batch_execute(DROP_SCHEMA).await.map_err(|error| sql_failure(error, "drop schema pgportage"))
        }
    }
}

/// Writes the command's ledger row. Part of the transaction that has the effect. `action` and `verb` are
/// the names of [`ActKind`] and [`Verb`].
///
/// # Errors
///
/// [`Reason::StaleEpoch`] when a later coordinator has written in the ledger; otherwise what the server
/// reports.
pub async fn record(
    transaction: &Transaction<'_>,
    entry: Entry<'_>,
    action: ActKind,
    verb: Verb,
) -> Result<(), Failure> {
    record_with(transaction, entry, action, verb, None).await
}

/// As [`record`], and keeps `result` in the row.
pub async fn record_with(
    transaction: &Transaction<'_>,
    entry: Entry<'_>,
    action: ActKind,
    verb: Verb,
    result: Option<&[u8]>,
) -> Result<(), Failure> {
    check_epoch(transaction, entry.leader_epoch).await?;
    write_row(transaction, entry, action, verb, result).await
}

/// Writes the ledger row alone: the second half of [`record_with`], after [`check_epoch`] in the same
/// transaction.
pub async fn write_row(
    transaction: &impl GenericClient,
    entry: Entry<'_>,
    action: ActKind,
    verb: Verb,
    result: Option<&[u8]>,
) -> Result<(), Failure> {
    transaction
        .query_typed(
            RECORD,
            &[
                (&entry.command_id, Type::TEXT),
                (&action.as_str(), Type::TEXT),
                (&verb.as_str(), Type::TEXT),
                (&entry.leader_epoch, Type::INT8),
                (&entry.plan_digest, Type::BYTEA),
                (&result, Type::BYTEA),
            ],
        )
        .await
        .map_err(|error| sql_failure(error, "write the ledger"))?;
    Ok(())
}

/// The ledger row of a command, if its effect was committed.
pub async fn recorded(client: &impl GenericClient, command_id: &str) -> Result<Option<Recorded>, Failure> {
    if !relation_exists(client, names::LEDGER_TABLE).await? {
        return Ok(None);
    }
    let row =
        client.query_opt(RECORDED, &[&command_id]).await.map_err(|error| sql_failure(error, "read the ledger"))?;
    Ok(row.map(|row| Recorded { result: row.get::<_, Option<Vec<u8>>>(0).unwrap_or_default() }))
}

/// What earlier commands of a kind stored with their effects, oldest first.
pub async fn results(client: &impl GenericClient, action: ActKind) -> Result<Vec<Vec<u8>>, Failure> {
    if !relation_exists(client, names::LEDGER_TABLE).await? {
        return Ok(Vec::new());
    }
    let rows =
        client.query(RESULTS, &[&action.as_str()]).await.map_err(|error| sql_failure(error, "read the ledger"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What the first command of all stored with its effect: the one whose transaction has made the ledger.
///
/// # Errors
///
/// What the server reports.
pub async fn first_result(client: &impl GenericClient) -> Result<Option<Vec<u8>>, Failure> {
    if !relation_exists(client, names::LEDGER_TABLE).await? {
        return Ok(None);
    }
    let row = client.query_opt(FIRST_RESULT, &[]).await.map_err(|error| sql_failure(error, "read the ledger"))?;
    Ok(row.and_then(|row| row.get(0)))
}

/// What the latest command of some kinds stored with its effect.
///
/// # Errors
///
/// What the server reports.
pub async fn latest_result(client: &impl GenericClient, actions: &[ActKind]) -> Result<Option<Vec<u8>>, Failure> {
    let actions: Vec<_> = actions.iter().map(|action| action.as_str()).collect();
    let row = client.query_opt(LATEST_RESULT, &[&actions]).await;
    Ok(row.map_err(|error| sql_failure(error, "read the ledger"))?.map(|row| row.get(0)))
}

/// The highest coordinator epoch in the ledger. Zero when it has no row.
pub async fn highest_epoch(client: &impl GenericClient) -> Result<i64, Failure> {
    if !relation_exists(client, names::LEDGER_TABLE).await? {
        return Ok(0);
    }
    let row = client.query_one(HIGHEST_EPOCH, &[]).await.map_err(|error| sql_failure(error, "read the ledger"))?;
    Ok(row.get(0))
}

/// Refuses a command of a coordinator that a later one has replaced: the first half of [`record_with`].
///
/// # Errors
///
/// [`Reason::StaleEpoch`]; otherwise what the server reports.
pub async fn check_epoch(transaction: &impl GenericClient, leader_epoch: i64) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "read the ledger");
    // In one round trip: the server locks the table before it reads the epochs.
    let ((), highest) =
        try_join!(biased; transaction.batch_execute(LOCK_LEDGER), transaction.query_typed_one(HIGHEST_EPOCH, &[]))
            .map_err(failure)?;
    let highest: i64 = highest.get(0);
    if highest > leader_epoch {
        return Err(Failure::new(Reason::StaleEpoch, "a later coordinator has worked on this database")
            .detail(format!("The command carries epoch {leader_epoch}; the ledger knows {highest}."))
            .remedy(Remedy::Operator)
            .effect(Effect::None));
    }
    Ok(())
}

async fn relation_exists(client: &impl GenericClient, name: &str) -> Result<bool, Failure> {
    let row = client
        .query_one(RELATION_EXISTS, &[&name])
        .await
        .map_err(|error| sql_failure(error, "look at schema pgportage"))?;
    Ok(row.get(0))
}

/// One of our tables as an SQL identifier.
pub fn table(name: &str) -> String {
    format!("{}.{}", quote_ident(names::SCHEMA), quote_ident(name))
}
