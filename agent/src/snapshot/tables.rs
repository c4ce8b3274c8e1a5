//! What a snapshot holds.

use pgportage_link::Failure;
use tokio_postgres::GenericClient;

use crate::postgres::{RelationName, sql_failure};

/// One table, as the snapshot shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTable {
    /// The table.
    pub name: RelationName,
    /// The columns to copy, in the source's order, unquoted. Generated ones are
    /// left out.
    pub columns: Vec<String>,
    /// Whether every column's binary form means the same on both servers.
    pub binary: bool,
    /// Blocks of the main fork.
    pub block_count: i64,
    /// Bytes with what is kept out of line, without indexes.
    pub size_bytes: i64,
}

/// A type with an OID from 16384 up was made in this cluster, and its binary form
/// may hold OIDs of this cluster; so do the `reg*` types and, inside, whatever
/// is made of them. Types without a binary form go as text too, and `tsquery` and
/// the vectors of catalogs: no server takes the binary form of an empty one.
const TABLES: &str = "\
SELECT n.nspname::text, c.relname::text,
       coalesce(a.names, '{}'), coalesce(a.portable, true),
       pg_relation_size(c.oid) / current_setting('block_size')::bigint,
       pg_table_size(c.oid)
FROM pg_publication p
JOIN pg_publication_rel r ON r.prpubid = p.oid
JOIN pg_class c ON c.oid = r.prrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names,
           bool_and(t.oid < 16384 AND t.typsend <> 0 AND t.typreceive <> 0
                    AND t.oid::regtype::text !~ '^(reg|aclitem|int2vector|oidvector|tsquery)') AS portable
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') a ON true
WHERE p.pubname = $1 AND c.relkind = 'r'
ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";

/// Every published table.
///
/// # Errors
///
/// What the server reports.
pub(super) async fn read(client: &impl GenericClient, publication: &str) -> Result<Vec<SnapshotTable>, Failure> {
    let rows =
        client.query(TABLES, &[&publication]).await.map_err(|error| sql_failure(error, "list the published tables"))?;
    Ok(rows
        .iter()
        .map(|row| SnapshotTable {
            name: RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            columns: row.get(2),
            binary: row.get(3),
            block_count: row.get(4),
            size_bytes: row.get(5),
        })
        .collect())
}
