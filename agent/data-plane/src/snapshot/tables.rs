//! The tables of a snapshot.

use pgportage_link::Failure;
use pgportage_postgres::{RelationName, sql_failure};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

/// One table, as the snapshot shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTable {
    /// The table.
    pub name: RelationName,
    /// The columns to copy, in the source's order, unquoted. Generated columns are left out.
    pub columns: Vec<String>,
    /// Whether every column's binary form means the same on both servers.
    pub binary: bool,
    /// Blocks of the main fork.
    pub block_count: i64,
    /// Bytes of the main fork and TOAST, without indexes.
    pub size_bytes: i64,
    /// Rows, as the planner would estimate them. Zero while unknown.
    pub row_estimate: i64,
    /// Two snapshots with the same identity show the same table, and every change of its rows in between is
    /// in the stream. Empty: not known.
    pub identity: String,
    /// The columns that identify a row, unquoted. Empty where only the whole row does.
    pub key: Vec<String>,
}

/// A table, with what only the source's own server understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) oid: u32,
    /// The file that holds its rows.
    pub(super) file: u32,
    pub(super) table: SnapshotTable,
    /// How each column of the key is compared.
    pub(super) key_types: Vec<KeyType>,
}

/// How values of a key column are compared with their texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyType {
    /// As values of this type, whose operator is in `pg_catalog`.
    Value(String),
    /// As texts.
    Text,
}

/// A type with an OID from 16384 up was made in this cluster, and its binary form may hold OIDs of this
/// cluster; so do the `reg*` types and, inside, whatever is made of them. Types without a binary form go as
/// text too. So do `tsquery` and the vectors of catalogs, because no server accepts the binary form of an
/// empty one.
///
/// The identity changes with everything that changes rows outside of the stream (another file: a rewrite,
/// TRUNCATE), with the columns, with the replica identity, and with the publication.
const TABLES: &str = "\
SELECT n.nspname::text, c.relname::text,
       coalesce(a.names, '{}'), coalesce(a.portable, true),
       pg_relation_size(c.oid) / current_setting('block_size')::bigint,
       pg_table_size(c.oid),
       c.oid,
       encode(sha256(convert_to(concat_ws('/', p.oid, r.oid, c.oid, c.relfilenode, c.relreplident, k.index, a.definition),
                                getdatabaseencoding())), 'hex'),
       coalesce(k.names, '{}'), coalesce(k.types, '{}'), coalesce(k.comparable, '{}'),
       CASE WHEN c.relpages > 0 AND c.reltuples > 0
            THEN (c.reltuples / c.relpages * (pg_relation_size(c.oid) / current_setting('block_size')::bigint))::bigint
            ELSE 0 END,
       c.relfilenode
FROM pg_publication p
JOIN pg_publication_rel r ON r.prpubid = p.oid
JOIN pg_class c ON c.oid = r.prrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attgenerated = '') AS names,
           bool_and(t.oid < 16384 AND t.typsend <> 0 AND t.typreceive <> 0
                    AND t.oid::regtype::text !~ '^(reg|aclitem|int2vector|oidvector|tsquery)')
               FILTER (WHERE a.attgenerated = '') AS portable,
           string_agg(format('%s %I %s %s %s', a.attnum, a.attname, a.atttypid::bigint, a.atttypmod, a.attgenerated),
                      ',' ORDER BY a.attnum) AS definition
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) a ON true
LEFT JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY k.position) AS names,
           array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY k.position) AS types,
           array_agg(t.typnamespace = 'pg_catalog'::regnamespace OR t.typtype = 'e' ORDER BY k.position) AS comparable,
           max(i.indexrelid::bigint) AS index
    FROM pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    JOIN pg_type t ON t.oid = a.atttypid
    WHERE i.indrelid = c.oid AND i.indimmediate AND i.indisvalid AND k.position <= i.indnkeyatts
      AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END) k ON true
WHERE p.pubname = $1 AND c.relkind = 'r'
ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";

pub(super) async fn read(client: &impl GenericClient, publication: &str) -> Result<Vec<Published>, Failure> {
    let rows =
        client.query(TABLES, &[&publication]).await.map_err(|error| sql_failure(error, "list the published tables"))?;
    let key_type = |(name, comparable): (String, bool)| if comparable { KeyType::Value(name) } else { KeyType::Text };
    Ok(rows
        .iter()
        .map(|row| Published {
            oid: row.get(6),
            file: row.get(12),
            key_types: row
                .get::<_, Vec<String>>(9)
                .into_iter()
                .zip(row.get::<_, Vec<bool>>(10))
                .map(key_type)
                .collect(),
            table: SnapshotTable {
                name: RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
                columns: row.get(2),
                binary: row.get(3),
                block_count: row.get(4),
                size_bytes: row.get(5),
                row_estimate: row.get(11),
                identity: row.get(7),
                key: row.get(8),
            },
        })
        .collect())
}

/// Whether a reader that has imported the snapshot will read the table's rows from the file in which the
/// snapshot shows them. From then on it does: a rewrite waits until the reader's transaction has ended.
///
/// A rewrite (`ALTER TABLE` with a new type, or with a default that is computed for each row) writes every
/// row with its own transaction, which the snapshot does not see: the table looks empty. `VACUUM FULL` moves
/// rows to other blocks. The function reads `pg_class` as it is now, the list above as the snapshot shows it.
pub(super) async fn is_in_its_file(reader: &impl GenericClient, published: &Published) -> Result<bool, Failure> {
    let table = &published.table.name;
    let failure = |error| sql_failure(error, &format!("look whether table {table} was rewritten"));
    // Takes the lock that the COPY takes.
    reader.batch_execute(&format!("SELECT FROM ONLY {table} LIMIT 0")).await.map_err(failure)?;
    let file = "SELECT pg_relation_filenode($1)";
    let row = reader.query_typed_one(file, &[(&published.oid, Type::OID)]).await.map_err(failure)?;
    Ok(row.get::<_, Option<u32>>(0) == Some(published.file))
}
