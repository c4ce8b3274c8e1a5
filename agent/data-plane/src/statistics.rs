//! What the source's planner knows of its tables, for a destination server that accepts it.
//!
//! Rows of `pg_stats` go over the link as COPY data. The agents pass them on unread: they hold values of
//! the tables' rows. What describes the file of a table (its pages, how many of them are all visible) stays
//! on the source, where the file is.
//!
//! `pg_stats` shows a role only statistics of tables that the role may read, and none of tables whose rows
//! row-level security hides from it. Where it shows nothing, nothing is sent, and the destination analyses
//! the table.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use pgportage_link::{Failure, Tasks};
use pgportage_migration::Participation;
use pgportage_migration::names;
use pgportage_postgres::{Door, Purpose, RelationName, ServerVersion, Session, quote_literal, sql_failure};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_postgres::CopyOutStream;

use crate::peer::{CHUNK_BYTES, CHUNKS_WAITING, Chunk, Packer};

/// From this version on, `pg_stats` shows what is known of ranges.
const SHOWS_RANGES: i32 = 17;

/// The analysing functions whose statistics `pg_stats` shows on every version. `-`: the default, for types
/// that bring none of their own.
const SHOWN: [&str; 3] = ["-", "array_typanalyze", "ts_typanalyze"];
/// The further ones from [`SHOWS_RANGES`] on.
const SHOWN_OF_RANGES: [&str; 2] = ["range_typanalyze", "multirange_typanalyze"];

/// The text of `money` depends on one more setting than those that every session pins. The destination's
/// session sets the same.
pub const SETTINGS: &str = "SET lc_monetary = 'C'";

/// One column of what is sent: its name, its type on the destination, and the expression that reads it from
/// a row `s` of `pg_stats` of the relation `w`.
struct Column {
    name: &'static str,
    sql_type: &'static str,
    value: &'static str,
    /// The first version whose `pg_stats` has this column.
    since: i32,
}

const fn column(name: &'static str, sql_type: &'static str, value: &'static str) -> Column {
    Column { name, sql_type, value, since: 0 }
}

const fn of_ranges(name: &'static str, sql_type: &'static str, value: &'static str) -> Column {
    Column { name, sql_type, value, since: SHOWS_RANGES }
}

/// Which relation and column the statistics belong to. Columns of a table go by their names, those of an
/// index by their numbers: the server makes up the name of an expression when it makes the index.
const PLACE: [Column; 4] = [
    column("position", "int", "w.position"),
    column("index_name", "text", "CASE WHEN w.is_index THEN w.relation::text END"),
    column("column_name", "text", "CASE WHEN NOT w.is_index THEN s.attname::text END"),
    column(
        "column_number",
        "smallint",
        "CASE WHEN w.is_index THEN \
         (SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = w.oid AND a.attname = s.attname) END",
    ),
];

/// What is sent, under the names that the destination server accepts.
const KNOWN: [Column; 14] = [
    column("inherited", "boolean", "s.inherited"),
    column("null_frac", "real", "s.null_frac"),
    column("avg_width", "int", "s.avg_width"),
    column("n_distinct", "real", "s.n_distinct"),
    column("most_common_vals", "text", "s.most_common_vals::text"),
    column("most_common_freqs", "real[]", "s.most_common_freqs"),
    column("histogram_bounds", "text", "s.histogram_bounds::text"),
    column("correlation", "real", "s.correlation"),
    column("most_common_elems", "text", "s.most_common_elems::text"),
    column("most_common_elem_freqs", "real[]", "s.most_common_elem_freqs"),
    column("elem_count_histogram", "real[]", "s.elem_count_histogram"),
    of_ranges("range_length_histogram", "text", "s.range_length_histogram::text"),
    of_ranges("range_empty_frac", "real", "s.range_empty_frac"),
    of_ranges("range_bounds_histogram", "text", "s.range_bounds_histogram::text"),
];

/// Of published tables, and of those that they are partitions or children of: the destination may learn of
/// no others. For an index on an expression, the analysed type is that of the expression: the index
/// column's, or the operator class's input type.
const FACTS: &str = "\
WITH RECURSIVE published AS (
    SELECT r.prrelid AS oid
    FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = $1
    UNION
    SELECT i.inhparent FROM published JOIN pg_inherits i ON i.inhrelid = published.oid)
SELECT (w.position - 1)::int, c.oid, coalesce(pg_stat_get_mod_since_analyze(c.oid), 0), c.reltuples::float8,
       coalesce(o.threshold, current_setting('autovacuum_analyze_threshold')::float8),
       coalesce(o.scale_factor, current_setting('autovacuum_analyze_scale_factor')::float8),
       EXISTS (
           SELECT FROM (
               SELECT a.atttypid FROM pg_attribute a
               WHERE a.attrelid = ANY (c.oid || x.oids) AND a.attnum > 0 AND NOT a.attisdropped
               UNION ALL
               SELECT k.opcintype FROM pg_index i JOIN pg_opclass k ON k.oid = ANY (i.indclass::oid[])
               WHERE i.indexrelid = ANY (x.oids)) AS used (type)
           JOIN pg_type t ON t.oid = used.type
           WHERE t.typanalyze::text <> ALL ($4::text[])),
       x.oids, x.names
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS w (schema, relation, position)
JOIN pg_namespace n ON n.nspname = w.schema::name
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation::name
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(i.indexrelid ORDER BY i.indexrelid), '{}') AS oids,
           coalesce(array_agg(e.relname::text ORDER BY i.indexrelid), '{}') AS names
    FROM pg_index i JOIN pg_class e ON e.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indexprs IS NOT NULL AND e.relkind = 'i') AS x
CROSS JOIN LATERAL (
    SELECT max(option_value::float8) FILTER (WHERE option_name = 'autovacuum_analyze_threshold') AS threshold,
           max(option_value::float8) FILTER (WHERE option_name = 'autovacuum_analyze_scale_factor') AS scale_factor
    FROM pg_options_to_table(c.reloptions) WHERE option_name LIKE 'autovacuum\\_analyze\\_%') AS o
WHERE c.oid IN (SELECT oid FROM published)";

/// What is sent of a table, or why nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// What there is, which may be nothing.
    Sent,
    /// Nothing: they are so old that autovacuum would make new ones.
    Stale,
    /// Nothing: they are of a kind that `pg_stats` does not show.
    Opaque,
    /// Nothing: the source does not know the table, or gave a reason that this release does not know.
    Unknown,
}

/// What decides whether a table's statistics are sent, read without the statistics themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Facts {
    /// Rows changed since the statistics were made, as far as the server counted.
    changed_rows: i64,
    /// Rows of the table when they were made. Negative: not known.
    rows: f64,
    /// After this many changes autovacuum makes new ones: a number, and a share of the rows.
    threshold: f64,
    scale_factor: f64,
    /// Whether a column's type has statistics of a kind of its own, as geometries have.
    opaque: bool,
}

fn judge(facts: &Facts) -> Condition {
    if facts.opaque {
        return Condition::Opaque;
    }
    // A count of rows is far below where a float loses single units.
    let changed = facts.changed_rows as f64;
    if changed > facts.threshold + facts.scale_factor * facts.rows.max(0.0) {
        return Condition::Stale;
    }
    Condition::Sent
}

struct Wanted {
    /// The table's place in the request.
    position: i32,
    oid: u32,
    name: RelationName,
    is_index: bool,
}

/// One item of what goes over the link.
#[derive(Debug)]
pub enum Piece {
    /// A part of the COPY data.
    Rows(Chunk),
    /// All of the data was sent.
    Complete,
}

/// Statistics on their way: what is sent of each table, then pieces, then [`Piece::Complete`] or an error.
#[derive(Debug)]
pub struct Reading {
    /// What is sent of each table, in the order in which they were asked for.
    pub conditions: Vec<Condition>,
    /// The data, in pieces.
    pub pieces: mpsc::Receiver<Result<Piece, Failure>>,
}

/// Begins to read what the planner knows of tables. Dropping the receiver of the pieces ends the reading.
pub async fn read(
    door: &Door,
    tasks: &Tasks,
    participation: &Participation,
    tables: &[RelationName],
    permit: OwnedSemaphorePermit,
    mut packer: Packer,
) -> Result<Reading, Failure> {
    let failure = |error| sql_failure(error, "read the planner's statistics");
    let session = door.open(&participation.database, Purpose::Scan).await?;
    session.batch_execute(SETTINGS).await.map_err(failure)?;
    let (conditions, wanted) = examine(&session, participation, tables).await?;
    let rows = match statement(session.version, &wanted) {
        Some(statement) => Some(session.copy_out(statement.as_str()).await.map_err(failure)?),
        None => None,
    };
    let (pieces, waiting) = mpsc::channel(CHUNKS_WAITING);
    let stop = tasks.stop.clone();
    tasks.spawn(async move {
        // Dropping the session ends its statement.
        let _held = (permit, session);
        let sent = async {
            if let Some(rows) = rows {
                send(rows, &mut packer, &pieces).await.map_err(failure)?;
            }
            Ok(Piece::Complete)
        };
        let last = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = pieces.closed() => return,
            last = sent => last,
        };
        // If the destination agent has stopped listening, it does not need the closing piece either.
        let _unheard = pieces.send(last).await;
    });
    Ok(Reading { conditions, pieces: waiting })
}

/// What is sent of each table, and the relations that it is read from.
async fn examine(
    session: &Session,
    participation: &Participation,
    tables: &[RelationName],
) -> Result<(Vec<Condition>, Vec<Wanted>), Failure> {
    let publication = names::replication_name(&participation.migration);
    let (schemas, relations): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|table| (table.schema.as_str(), table.relation.as_str())).unzip();
    let rows = session
        .query(FACTS, &[&publication, &schemas, &relations, &shown(session.version)])
        .await
        .map_err(|error| sql_failure(error, "look at the planner's statistics"))?;
    let mut conditions = vec![Condition::Unknown; tables.len()];
    let mut wanted = Vec::new();
    for row in rows {
        let position: i32 = row.get(0);
        let facts = Facts {
            changed_rows: row.get(2),
            rows: row.get(3),
            threshold: row.get(4),
            scale_factor: row.get(5),
            opaque: row.get(6),
        };
        let place = usize::try_from(position).ok().and_then(|place| conditions.get_mut(place).zip(tables.get(place)));
        let Some((condition, table)) = place else { continue };
        *condition = judge(&facts);
        if *condition != Condition::Sent {
            continue;
        }
        wanted.push(Wanted { position, oid: row.get(1), name: table.clone(), is_index: false });
        let indexes = row.get::<_, Vec<u32>>(7).into_iter().zip(row.get::<_, Vec<String>>(8));
        wanted.extend(indexes.map(|(oid, index)| Wanted {
            position,
            oid,
            name: RelationName::new(table.schema.clone(), index),
            is_index: true,
        }));
    }
    Ok((conditions, wanted))
}

/// The analysing functions whose results `pg_stats` shows on this version.
fn shown(version: ServerVersion) -> Vec<&'static str> {
    let of_ranges = if version.major() >= SHOWS_RANGES { SHOWN_OF_RANGES.as_slice() } else { &[] };
    SHOWN.iter().chain(of_ranges).copied().collect()
}

/// The statement that reads the statistics of relations. None when there are no relations.
///
/// The names stand in it twice. Those in the condition are a constant: by them the server finds the
/// relations by an index, and does not look through the statistics of all tables.
fn statement(version: ServerVersion, wanted: &[Wanted]) -> Option<String> {
    if wanted.is_empty() {
        return None;
    }
    let values = PLACE.iter().chain(&KNOWN).map(|column| {
        if version.major() < column.since { format!("NULL::{}", column.sql_type) } else { column.value.to_owned() }
    });
    let name = |name: &str| format!("{}::name", quote_literal(name));
    let relations = wanted.iter().map(|Wanted { position, oid, name: relation, is_index }| {
        format!("({position}, {oid}::oid, {}, {}, {is_index})", name(&relation.schema), name(&relation.relation))
    });
    let names = wanted.iter().map(|wanted| name(&wanted.name.relation));
    Some(format!(
        "COPY (SELECT {} FROM (VALUES {}) AS w (position, oid, schema, relation, is_index) \
         JOIN pg_stats s ON s.schemaname = w.schema AND s.tablename = w.relation \
         WHERE s.tablename = ANY (ARRAY[{}])) TO STDOUT (FORMAT binary)",
        values.collect::<Vec<_>>().join(", "),
        relations.collect::<Vec<_>>().join(", "),
        names.collect::<Vec<_>>().join(", "),
    ))
}

/// The columns of what is sent, as the definition of a table that can hold them.
pub fn definition() -> String {
    let columns = PLACE.iter().chain(&KNOWN);
    columns.map(|column| format!("{} {}", column.name, column.sql_type)).collect::<Vec<_>>().join(", ")
}

/// The names of the columns whose values a server accepts.
pub fn known() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|column| column.name)
}

async fn send(
    rows: CopyOutStream,
    packer: &mut Packer,
    pieces: &mpsc::Sender<Result<Piece, Failure>>,
) -> Result<(), tokio_postgres::Error> {
    tokio::pin!(rows);
    let mut gathered = BytesMut::new();
    while let Some(row) = rows.next().await {
        gathered.extend_from_slice(&row?);
        while gathered.len() >= CHUNK_BYTES {
            pass(gathered.split_to(CHUNK_BYTES).freeze(), packer, pieces).await;
        }
    }
    pass(gathered.freeze(), packer, pieces).await;
    Ok(())
}

async fn pass(bytes: Bytes, packer: &mut Packer, pieces: &mpsc::Sender<Result<Piece, Failure>>) {
    // If the destination agent has stopped listening, the reading is about to end anyway.
    let _unheard = pieces.send(Ok(Piece::Rows(packer.pack(bytes)))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Facts = Facts { changed_rows: 0, rows: 1_000.0, threshold: 50.0, scale_factor: 0.1, opaque: false };

    #[test]
    fn they_are_stale_when_autovacuum_would_make_others() {
        for (changed_rows, rows, condition) in [
            (0, 1_000.0, Condition::Sent),
            (150, 1_000.0, Condition::Sent),
            (151, 1_000.0, Condition::Stale),
            (50, 0.0, Condition::Sent),
            (51, 0.0, Condition::Stale),
            // Versions from 14 on report -1 for a table that was never analysed.
            (50, -1.0, Condition::Sent),
        ] {
            assert_eq!(judge(&Facts { changed_rows, rows, ..FRESH }), condition, "{changed_rows} of {rows}");
        }
        assert_eq!(judge(&Facts { changed_rows: 900, scale_factor: 1.0, ..FRESH }), Condition::Sent);
        assert_eq!(judge(&Facts { changed_rows: 900, threshold: 1_000.0, ..FRESH }), Condition::Sent);
    }

    #[test]
    fn what_the_view_does_not_show_is_made_anew() {
        assert_eq!(judge(&Facts { opaque: true, ..FRESH }), Condition::Opaque);
        let of_ranges = |num| shown(ServerVersion::from_num(num)).contains(&"range_typanalyze");
        assert!(of_ranges(170_000) && !of_ranges(160_009));
    }

    #[test]
    fn names_are_quoted_wherever_they_stand() {
        let wanted = [
            Wanted { position: 3, oid: 17_000, name: RelationName::new("s'", "T\\"), is_index: false },
            Wanted { position: 3, oid: 17_001, name: RelationName::new("s'", "i"), is_index: true },
        ];
        let old = statement(ServerVersion::from_num(150_000), &wanted).unwrap();
        let (schema, table) = (quote_literal("s'"), quote_literal("T\\"));
        assert!(
            old.contains(&format!("(3, 17000::oid, {schema}::name, {table}::name, false), (3, 17001::oid, ")),
            "{old}"
        );
        assert!(old.contains(&format!("ANY (ARRAY[{table}::name, 'i'::name])")), "{old}");
        assert!(old.contains("NULL::real") && !old.contains("range_empty_frac"), "{old}");
        let new = statement(ServerVersion::from_num(170_000), &wanted).unwrap();
        assert!(new.contains("s.range_empty_frac") && !new.contains("NULL::"), "{new}");
        assert_eq!(statement(ServerVersion::from_num(170_000), &[]), None);
    }
}
