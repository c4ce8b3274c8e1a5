//! Makes a snapshot the one that is copied.
//!
//! When another snapshot was copied before and is lost, one transaction brings all rows that are here to
//! the new one. Tables that were complete stay, except for the rows that were touched since; everything
//! else is thrown away. After a crash in between, the destination holds what it held before.

use pgportage_data_plane::peer::SourceSnapshot;
use pgportage_link::Failure;
use pgportage_migration::ledger;
use pgportage_postgres::{Purpose, RelationName, sql_failure};
#[cfg(doc)]
use pgportage_proto::Reason;
use pgportage_report::progress::Progress;
use tokio_postgres::Transaction;

use super::fate::{Fate, fates};
use super::ledger::{DDL, Ledger, another};
use super::mend::mend;
use super::plan::pieces;
use crate::act::Context;

/// The destination agent then asks for the new snapshot as the one that it holds, and the source agent drops what it
/// keeps of the lost one. So this must be durable before.
const DURABLE: &str = "SET LOCAL synchronous_commit = on";

/// Parts under way hold the row: they are committed before this transaction gets it, or never.
const LOCK: &str = "\
INSERT INTO pgportage.copy (id, consistent_point) VALUES (1, '') ON CONFLICT (id) DO NOTHING;
SELECT FROM pgportage.copy WHERE id = 1 FOR UPDATE";

/// Forgets the parts of all other tables. Returns how many bytes they had.
const THROW_AWAY: &str = "\
WITH thrown AS (
    DELETE FROM pgportage.copied c
    WHERE NOT EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS kept (schema, relation)
                      WHERE kept.schema = c.schema AND kept.relation = c.relation)
    RETURNING c.copied_bytes)
SELECT coalesce(sum(copied_bytes), 0)::bigint FROM thrown";

/// Joins the parts of a kept table into one, as [`super::ledger::WHOLE`] says.
const JOIN_PARTS: &str = "\
INSERT INTO pgportage.copied (schema, relation, first_block, row_count, copied_bytes)
SELECT schema, relation, -1, sum(row_count), sum(copied_bytes)
FROM pgportage.copied WHERE first_block >= 0 GROUP BY schema, relation;
DELETE FROM pgportage.copied WHERE first_block >= 0;
DELETE FROM pgportage.copied_table";

const PLAN: &str = "\
INSERT INTO pgportage.copied_table (schema, relation, identity, part_count, kept, mended)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::boolean[], $6::boolean[])";

const ADD: &str = "\
UPDATE pgportage.copied SET row_count = row_count + $3, copied_bytes = copied_bytes + $4
WHERE schema = $1 AND relation = $2";

const BEGIN: &str = "\
UPDATE pgportage.copy
SET consistent_point = $1, rows_complete = false, repeated_bytes = repeated_bytes + $2
WHERE id = 1";

const BATCH: usize = 500;

/// Makes a snapshot the one that is copied. `held` is the snapshot whose rows are here, empty if there is
/// none; `snapshot` says what changed since that one.
///
/// Dropping the future leaves everything as it was.
///
/// # Errors
///
/// [`Reason::SnapshotLost`] when the rows here are of another one by now, or the source lost this one;
/// otherwise what either server reports.
pub(super) async fn begin(cx: &Context, held: &str, snapshot: &SourceSnapshot) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "begin the copy");
    let mut session = cx.door.open(&cx.participation.database, Purpose::Scan).await?;
    let transaction = session.transaction().await.map_err(failure)?;
    for statements in [DURABLE, DDL, LOCK] {
        transaction.batch_execute(statements).await.map_err(failure)?;
    }
    let ledger = Ledger::read(&transaction).await?;
    if ledger.consistent_point != held || ledger.rows_complete {
        return Err(another());
    }
    let fates = fates(&ledger, snapshot);
    let repeated_bytes = throw_away(&transaction, &ledger, snapshot, &fates).await?;
    plan(&transaction, &ledger, snapshot, &fates).await?;
    mend_all(cx, &transaction, held, snapshot, &fates).await?;
    transaction.execute(BEGIN, &[&snapshot.consistent_point, &repeated_bytes]).await.map_err(failure)?;
    ledger::record(&transaction, cx.entry(), super::ACTION, pgportage_proto::Verb::Perform).await?;
    cx.fail_point("copy_tables.perform.level");
    transaction.commit().await.map_err(failure)?;
    if !held.is_empty() {
        let count = |fate| fates.iter().filter(|&&other| other == fate).count();
        tracing::warn!(
            lost = held,
            made = snapshot.consistent_point,
            tables_kept = count(Fate::Kept),
            tables_mended = count(Fate::Mended),
            tables_begun_anew = count(Fate::Anew),
            repeated_bytes,
            "the snapshot was lost; what was complete and is known to be level is kept"
        );
    }
    Ok(())
}

/// Empties every table that is not kept.
async fn throw_away(
    transaction: &Transaction<'_>,
    ledger: &Ledger,
    snapshot: &SourceSnapshot,
    fates: &[Fate],
) -> Result<i64, Failure> {
    let failure = |error| sql_failure(error, "throw away what was copied of the lost snapshot");
    let kept: Vec<&RelationName> = snapshot
        .tables
        .iter()
        .zip(fates)
        .filter(|(_, fate)| **fate != Fate::Anew)
        .map(|(table, _)| &table.name)
        .collect();
    let mut gone: Vec<String> = ledger
        .done
        .iter()
        .map(|done| &done.table)
        .filter(|table| !kept.contains(table))
        .map(|table| format!("ONLY {table}"))
        .collect();
    gone.dedup();
    for batch in gone.chunks(BATCH) {
        transaction.batch_execute(&format!("TRUNCATE {}", batch.join(", "))).await.map_err(failure)?;
    }
    let (schemas, relations) = names(kept.into_iter());
    let thrown = transaction.query_one(THROW_AWAY, &[&schemas, &relations]).await.map_err(failure)?;
    transaction.batch_execute(JOIN_PARTS).await.map_err(failure)?;
    Ok(thrown.get(0))
}

/// Notes in the ledger what is to be copied, for the next time.
async fn plan(
    transaction: &Transaction<'_>,
    ledger: &Ledger,
    snapshot: &SourceSnapshot,
    fates: &[Fate],
) -> Result<(), Failure> {
    let mut part_counts = vec![0_i64; snapshot.tables.len()];
    for piece in pieces(&snapshot.tables) {
        part_counts[piece.table] += 1;
    }
    for (part_count, _) in part_counts.iter_mut().zip(fates).filter(|(_, fate)| **fate != Fate::Anew) {
        *part_count = 1;
    }
    let (schemas, relations) = names(snapshot.tables.iter().map(|table| &table.name));
    let identities: Vec<&str> = snapshot.tables.iter().map(|table| table.identity.as_str()).collect();
    let kept: Vec<bool> = fates.iter().map(|fate| *fate != Fate::Anew).collect();
    let mended: Vec<bool> = snapshot
        .tables
        .iter()
        .zip(fates)
        .map(|(table, fate)| match fate {
            Fate::Anew => false,
            Fate::Mended => true,
            Fate::Kept => ledger.tables.get(&table.name).is_some_and(|planned| planned.mended),
        })
        .collect();
    transaction
        .execute(PLAN, &[&schemas, &relations, &identities, &part_counts, &kept, &mended])
        .await
        .map_err(|error| sql_failure(error, "write down what is to be copied"))?;
    Ok(())
}

/// Replaces the rows that were touched.
async fn mend_all(
    cx: &Context,
    transaction: &Transaction<'_>,
    held: &str,
    snapshot: &SourceSnapshot,
    fates: &[Fate],
) -> Result<(), Failure> {
    let tables: Vec<_> =
        snapshot.tables.iter().zip(fates).filter(|(_, fate)| **fate == Fate::Mended).map(|(table, _)| table).collect();
    if tables.is_empty() {
        return Ok(());
    }
    let peer = cx.peers.connect(&cx.participation, 1).await?;
    let packing = cx.peers.known_packing(&cx.participation).await;
    for (number, table) in tables.iter().enumerate() {
        let subject = format!("a snapshot was lost: exchanging touched rows, table {} of {}", number + 1, tables.len());
        cx.report(Progress { subject, ..Progress::default() });
        let mended = mend(cx, transaction, &peer, (held, snapshot), table, packing).await?;
        transaction
            .execute(ADD, &[&table.name.schema, &table.name.relation, &mended.more_rows, &mended.bytes])
            .await
            .map_err(|error| sql_failure(error, "write down what was exchanged"))?;
    }
    Ok(())
}

fn names<'a>(tables: impl Iterator<Item = &'a RelationName>) -> (Vec<&'a str>, Vec<&'a str>) {
    tables.map(|table| (table.schema.as_str(), table.relation.as_str())).unzip()
}
