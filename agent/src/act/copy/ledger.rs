//! What has been copied, noted in the same transactions as the rows.
//!
//! **Invariant:** a part of a table is there if and only if its row is, and every row is as the snapshot
//! that `pgportage.copy` names shows it. A session left by an attempt of a killed agent can neither add
//! rows twice (its part's row is unique) nor rows of another snapshot (it holds the snapshot's name until
//! its end).

use std::collections::{BTreeMap, BTreeSet};

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_postgres::{RelationName, sql_failure};
use pgportage_proto::Reason;
use tokio_postgres::{GenericClient, Transaction};

use super::plan::Done;

/// Run once; IF NOT EXISTS because several sessions may find the tables missing.
pub(super) const DDL: &str = "\
CREATE TABLE IF NOT EXISTS pgportage.copy (
    id int PRIMARY KEY CHECK (id = 1),
    consistent_point text NOT NULL,
    repeated_bytes bigint NOT NULL DEFAULT 0,
    rows_complete boolean NOT NULL DEFAULT false,
    scripted boolean NOT NULL DEFAULT false,
    complete boolean NOT NULL DEFAULT false
);
CREATE TABLE IF NOT EXISTS pgportage.copied (
    schema text NOT NULL,
    relation text NOT NULL,
    first_block bigint NOT NULL,
    row_count bigint NOT NULL DEFAULT 0,
    copied_bytes bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (schema, relation, first_block)
);
CREATE TABLE IF NOT EXISTS pgportage.copied_table (
    schema text NOT NULL,
    relation text NOT NULL,
    identity text NOT NULL,
    part_count bigint NOT NULL,
    kept boolean NOT NULL,
    mended boolean NOT NULL,
    PRIMARY KEY (schema, relation)
)";

/// The second table is missing where an older agent began.
const EXISTS: &str = "\
SELECT to_regclass('pgportage.copy') IS NOT NULL, to_regclass('pgportage.copied_table') IS NOT NULL";

const STATE: &str = "\
SELECT consistent_point, repeated_bytes, rows_complete, scripted, complete FROM pgportage.copy WHERE id = 1";

const COPIED: &str = "SELECT schema, relation, first_block, row_count, copied_bytes FROM pgportage.copied";

const TABLES: &str = "SELECT schema, relation, identity, part_count, kept, mended FROM pgportage.copied_table";

/// Holds the row, so that no other session changes the snapshot while a part is copied.
const HOLD: &str = "SELECT FROM pgportage.copy WHERE id = 1 AND consistent_point = $1 AND NOT rows_complete FOR SHARE";

const CLAIM: &str = "INSERT INTO pgportage.copied (schema, relation, first_block) VALUES ($1, $2, $3)";

const COUNT: &str = "\
UPDATE pgportage.copied SET row_count = $4, copied_bytes = $5
WHERE schema = $1 AND relation = $2 AND first_block = $3";

/// The SQLSTATE of an insert of a part whose row is there already.
const UNIQUE_VIOLATION: &str = "23505";

/// The part number of a table that was complete when its snapshot was lost: the next snapshot cuts tables
/// at other borders.
pub(super) const WHOLE: i64 = -1;

/// How far the copy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// The snapshot that is being copied; empty before the first.
    pub(super) consistent_point: String,
    /// Bytes that were copied and thrown away with an earlier snapshot.
    pub(super) repeated_bytes: i64,
    pub(super) rows_complete: bool,
    /// The rest of the schema is made; foreign keys may still have to be validated.
    pub(super) scripted: bool,
    /// Everything is here, and every foreign key is validated.
    pub(super) complete: bool,
    pub(super) done: BTreeSet<Done>,
    pub(super) tables: BTreeMap<RelationName, Planned>,
    pub(super) row_count: i64,
    pub(super) rows: BTreeMap<RelationName, i64>,
    pub(super) copied_bytes: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// As [`pgportage_data_plane::snapshot::SnapshotTable::identity`].
    pub(super) identity: String,
    pub(super) part_count: i64,
    /// It was complete when a snapshot was lost, and stayed.
    pub(super) kept: bool,
    /// Touched rows of it were replaced then.
    pub(super) mended: bool,
}

impl Ledger {
    /// Reads the ledger. Empty when there is none yet.
    pub(super) async fn read(client: &impl GenericClient) -> Result<Self, Failure> {
        let failure = |error| sql_failure(error, "read what has been copied");
        let exists = client.query_one(EXISTS, &[]).await.map_err(failure)?;
        if !exists.get::<_, bool>(0) {
            return Ok(Self::default());
        }
        let Some(state) = client.query_opt(STATE, &[]).await.map_err(failure)? else { return Ok(Self::default()) };
        let mut ledger = Self {
            consistent_point: state.get(0),
            repeated_bytes: state.get(1),
            rows_complete: state.get(2),
            scripted: state.get(3),
            complete: state.get(4),
            ..Self::default()
        };
        for row in client.query(COPIED, &[]).await.map_err(failure)? {
            let table = RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            ledger.row_count += row.get::<_, i64>(3);
            *ledger.rows.entry(table.clone()).or_default() += row.get::<_, i64>(3);
            ledger.copied_bytes += row.get::<_, i64>(4);
            ledger.done.insert(Done { table, first_block: row.get(2) });
        }
        if exists.get(1) {
            for row in client.query(TABLES, &[]).await.map_err(failure)? {
                let table = RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1));
                let planned =
                    Planned { identity: row.get(2), part_count: row.get(3), kept: row.get(4), mended: row.get(5) };
                ledger.tables.insert(table, planned);
            }
        }
        Ok(ledger)
    }

    /// Number of tables that were not copied again when a snapshot was lost, and of those among them whose
    /// touched rows were replaced.
    pub(super) fn kept(&self) -> (usize, usize) {
        let count = |of: fn(&Planned) -> bool| self.tables.values().filter(|planned| of(planned)).count();
        (count(|planned| planned.kept), count(|planned| planned.mended))
    }
}

/// Which transaction brings a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// This one.
    Ours,
    /// A session of an earlier attempt has brought it already. This transaction cannot be used any more.
    There,
}

/// Begins a part. Until the transaction ends, no other session copies this part, and none changes the
/// snapshot.
///
/// # Errors
///
/// [`Reason::SnapshotLost`] when another snapshot is being copied by now.
pub(super) async fn claim(
    transaction: &Transaction<'_>,
    consistent_point: &str,
    part: &Done,
) -> Result<Claim, Failure> {
    let failure = |error| sql_failure(error, "begin a part of the copy");
    if transaction.query_opt(HOLD, &[&consistent_point]).await.map_err(failure)?.is_none() {
        return Err(another());
    }
    let Done { table, first_block } = part;
    match transaction.execute(CLAIM, &[&table.schema, &table.relation, first_block]).await.map_err(failure) {
        Ok(_) => Ok(Claim::Ours),
        Err(taken) if taken.sqlstate.as_deref() == Some(UNIQUE_VIOLATION) => Ok(Claim::There),
        Err(failure) => Err(failure),
    }
}

/// Notes the rows and bytes of a part.
pub(super) async fn count(
    transaction: &Transaction<'_>,
    part: &Done,
    row_count: i64,
    copied_bytes: i64,
) -> Result<(), Failure> {
    let Done { table, first_block } = part;
    transaction
        .execute(COUNT, &[&table.schema, &table.relation, first_block, &row_count, &copied_bytes])
        .await
        .map_err(|error| sql_failure(error, "write down what was copied"))?;
    Ok(())
}

/// Notes that every row of a snapshot is here.
///
/// # Errors
///
/// [`Reason::SnapshotLost`] when another snapshot is being copied by now.
pub(super) async fn rows_are_complete(client: &impl GenericClient, consistent_point: &str) -> Result<(), Failure> {
    let statement = "UPDATE pgportage.copy SET rows_complete = true WHERE id = 1 AND consistent_point = $1";
    match client.execute(statement, &[&consistent_point]).await {
        Ok(0) => Err(another()),
        Ok(_) => Ok(()),
        Err(error) => Err(sql_failure(error, "write down that every row is here")),
    }
}

/// The failure of an attempt that copies a snapshot which is not the current one.
pub(super) fn another() -> Failure {
    Failure::new(Reason::SnapshotLost, "another snapshot is being copied by now")
        .remedy(Remedy::Wait)
        .effect(Effect::None)
}

/// Makes everything durable that any session has committed before. This session has to be older than all of
/// those commits. Then a crash of the server that took one of them back would have ended this session too,
/// so it cannot go unnoticed.
pub(super) async fn settle(client: &impl GenericClient) -> Result<(), Failure> {
    client
        .execute("UPDATE pgportage.copy SET id = id WHERE id = 1", &[])
        .await
        .map_err(|error| sql_failure(error, "make the copy durable"))?;
    Ok(())
}

/// Notes that the rest of the schema is made. Part of the transaction that made it.
pub(super) async fn script_is_run(transaction: &Transaction<'_>) -> Result<(), Failure> {
    transaction
        .execute("UPDATE pgportage.copy SET scripted = true WHERE id = 1", &[])
        .await
        .map_err(|error| sql_failure(error, "write down that the schema is complete"))?;
    Ok(())
}

/// Notes durably that everything is here, on a session as [`settle`] needs it.
pub(super) async fn all_is_complete(client: &impl GenericClient) -> Result<(), Failure> {
    client
        .execute("UPDATE pgportage.copy SET complete = true WHERE id = 1", &[])
        .await
        .map_err(|error| sql_failure(error, "write down that the copy is complete"))?;
    Ok(())
}
