//! Brings one table from one snapshot to the next: deletes the rows that were touched in between, and
//! inserts them as the next snapshot shows them.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::SinkExt;
use pgportage_data_plane::peer::{Packing, PeerClient, RangeStream, SourceSnapshot, Touched};
use pgportage_data_plane::snapshot::SnapshotTable;
use pgportage_link::Failure;
use pgportage_postgres::{quote_ident, sql_failure};
use tokio_postgres::{CopyInSink, GenericClient, Transaction};

use super::rows;
use crate::act::Context;
use crate::act::patience::stalled;

/// Columns that are compared by an operator, as on the source: those whose type has one in `pg_catalog`.
/// Other columns are compared as texts.
const COMPARABLE: &str = "\
SELECT a.attname::text
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid
JOIN pg_type t ON t.oid = a.atttypid
WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = ANY ($3::text[])
  AND (t.typnamespace = 'pg_catalog'::regnamespace OR t.typtype = 'e')";

const KEYS_ARRIVE: &str = "COPY pg_temp.touched FROM STDIN (FORMAT text)";

const KEYS_LEAVE: &str = "DROP TABLE pg_temp.touched";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mended {
    /// How many more rows it has than before.
    pub(super) more_rows: i64,
    /// COPY data of the rows that came in.
    pub(super) bytes: i64,
}

/// Replaces the touched rows of a table, from the held snapshot to the next one. No index is needed.
pub(super) async fn mend(
    cx: &Context,
    transaction: &Transaction<'_>,
    peer: &PeerClient,
    (held, snapshot): (&str, &SourceSnapshot),
    table: &SnapshotTable,
    packing: Packing,
) -> Result<Mended, Failure> {
    let failure = |error| sql_failure(error, &format!("exchange touched rows of {}", table.name));
    let columns = |of: &[String]| of.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
    // Of the columns' own types, so that an arriving key is understood as the column understands it.
    let room = format!(
        "CREATE TEMPORARY TABLE touched ON COMMIT DROP AS SELECT {} FROM ONLY {} WITH NO DATA",
        columns(&table.key),
        table.name
    );
    transaction.batch_execute(&room).await.map_err(failure)?;
    let keys = peer.copy_touched(snapshot, held, table, Touched::Keys, packing).await?;
    carry(cx, transaction, keys, KEYS_ARRIVE).await?;
    let deletion = deletion(transaction, table).await?;
    let gone = transaction.execute(deletion.as_str(), &[]).await.map_err(failure)?;
    let rows = peer.copy_touched(snapshot, held, table, Touched::Rows, packing).await?;
    let (came, bytes) = carry(cx, transaction, rows, &rows::statement(table, false)).await?;
    transaction.batch_execute(KEYS_LEAVE).await.map_err(failure)?;
    let count = |rows: u64| i64::try_from(rows).unwrap_or(i64::MAX);
    tracing::debug!(table = %table.name, gone, came, "touched rows are exchanged");
    Ok(Mended { more_rows: count(came) - count(gone), bytes })
}

async fn deletion(client: &impl GenericClient, table: &SnapshotTable) -> Result<String, Failure> {
    let comparable: Vec<String> = client
        .query(COMPARABLE, &[&table.name.schema, &table.name.relation, &table.key])
        .await
        .map_err(|error| sql_failure(error, "look at a table's key"))?
        .iter()
        .map(|row| row.get(0))
        .collect();
    Ok(statement(table, &comparable))
}

fn statement(table: &SnapshotTable, comparable: &[String]) -> String {
    let equal = |column: &String| {
        let name = quote_ident(column);
        if comparable.contains(column) {
            format!("t.{name} = touched.{name}")
        } else {
            format!("format('%s', t.{name}) = format('%s', touched.{name})")
        }
    };
    let condition: Vec<String> = table.key.iter().map(equal).collect();
    format!("DELETE FROM ONLY {} AS t USING pg_temp.touched WHERE {}", table.name, condition.join(" AND "))
}

/// Passes everything from the link to the server. Returns the number of rows and bytes.
async fn carry(
    cx: &Context,
    transaction: &Transaction<'_>,
    mut stream: RangeStream,
    statement: &str,
) -> Result<(u64, i64), Failure> {
    let failure = |error| sql_failure(error, "write touched rows");
    let sink = transaction.copy_in::<_, Bytes>(statement).await.map_err(failure)?;
    let mut sink: Pin<Box<CopyInSink<Bytes>>> = Box::pin(sink);
    let mut bytes = 0_i64;
    loop {
        let next = cx.tasks.clock.timeout(cx.stall_timeout, stream.next()).await;
        match next.map_err(|_| stalled(cx, "touched rows from the source"))?? {
            Some(chunk) => {
                bytes += i64::try_from(chunk.len()).unwrap_or(0);
                sink.send(chunk).await.map_err(failure)?;
            }
            None => break,
        }
    }
    Ok((sink.as_mut().finish().await.map_err(failure)?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgportage_postgres::RelationName;

    #[test]
    fn rows_go_by_every_column_of_their_key() {
        let table = SnapshotTable {
            name: RelationName::new("s", "t"),
            columns: Vec::new(),
            binary: true,
            block_count: 1,
            size_bytes: 1,
            row_estimate: 1,
            identity: String::new(),
            key: vec!["id".to_owned(), "Code".to_owned()],
        };
        assert_eq!(
            statement(&table, &["id".to_owned()]),
            "DELETE FROM ONLY s.t AS t USING pg_temp.touched WHERE t.id = touched.id \
             AND format('%s', t.\"Code\") = format('%s', touched.\"Code\")"
        );
    }
}
