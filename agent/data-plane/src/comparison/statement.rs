//! The statements behind a comparison. They need version 14. Names and values are
//! quoted here; a value has no type, so it takes that of the column beside it.

use pgportage_postgres::{quote_ident, quote_literal};

use super::part::{Hashing, Part, RowKey, Which};
use super::table::{Column, ComparedTable, Form};

/// Two numbers, so that the two halves of a hash have nothing in common.
const SEEDS: [i64; 2] = [0x5851_F42D_4C95_7F2D, 0x1405_7B7E_F767_814F];

/// Hashes of a record of every type that is hashed as a value, and of some texts:
/// equal on two servers whose own hash functions are the same, whose texts have the
/// same bytes, and which print numbers alike.
pub(super) fn probe() -> String {
    let native = |seed: &i64| format!("hash_record_extended(r, {seed})");
    format!(
        "SELECT string_agg({} || ' ' || {}, ' ' ORDER BY place) FROM (\
         SELECT 0 AS place, ROW(true, -1::int2, 2::int4, -3::int8, 4::oid, 'b2e1c5c2-58a1-4f0b-9d0a-3f4d6c7e8f90'::uuid, \
         '2026-01-02'::date, '2026-01-02 03:04:05.678901'::timestamp, '2026-01-02 03:04:05.678901+00'::timestamptz, \
         'a'::text COLLATE \"C\", chr(233)::varchar COLLATE \"C\", '\\x00ff'::bytea, NULL::int4) AS r \
         UNION ALL SELECT length(t), ROW(t COLLATE \"C\") FROM (VALUES (''), ('a'), (chr(233) || 'b'), \
         (repeat('0123456789', 10)), ((0.1::float8 / 3)::text || repeat('x', 200))) AS texts (t)) AS records",
        native(&SEEDS[0]),
        native(&SEEDS[1]),
    )
}

/// The digests of parts, under one snapshot. A result row: place of the part, bucket, rows, both sums as
/// text, bytes, whether the part is out of order.
pub(super) fn digests(parts: &[Part]) -> String {
    parts.iter().enumerate().map(digest).collect::<Vec<_>>().join("\nUNION ALL\n")
}

fn digest((place, part): (usize, &Part)) -> String {
    let (bucket, grouping) = match &part.which {
        Which::Buckets { count, .. } => (format!("h1 & {}", count - 1), " GROUP BY 2"),
        Which::Range { .. } | Which::Keys(_) => ("0::int8".to_owned(), ""),
    };
    format!(
        "SELECT {place}::int4, {bucket}, count(*), coalesce(sum(h1), 0)::text, coalesce(sum(h2), 0)::text, \
         coalesce(sum(size), 0)::int8, {disordered} FROM ({hashed}) AS hashed{condition}{grouping}",
        disordered = disordered(part),
        hashed = hashed(part, "pg_column_size(r) AS size", ""),
        condition = outer_condition(part),
    )
}

/// The rows of a part. A result row: key, both halves of the hash, version.
pub(super) fn rows(part: &Part) -> String {
    let version = "xmin::text || ' ' || ctid::text AS version";
    if part.table.key.is_empty() {
        // Equal rows cannot be told from each other, so they come as one, with their count.
        return format!(
            "SELECT ARRAY[h1::text, h2::text], count(*), 0::int8, \
             sum(hashtextextended(version COLLATE \"C\", {seed}))::text \
             FROM ({hashed}) AS hashed{condition} GROUP BY h1, h2",
            seed = SEEDS[0],
            hashed = hashed(part, "version", version),
            condition = outer_condition(part),
        );
    }
    format!(
        "SELECT key, h1, h2, version FROM ({}) AS hashed",
        hashed(part, "key, version", &format!("{} AS key, {version}", texts(&part.table.key)))
    )
}

/// The contents of rows with keys. A result row: key, columns.
pub(super) fn contents(part: &Part) -> String {
    let columns: Vec<_> = part.table.columns.iter().map(|column| column.name.clone()).collect();
    format!(
        "SELECT {}, {} FROM ONLY {}{}",
        texts(&part.table.key),
        texts(&columns),
        part.table.name,
        inner_condition(part)
    )
}

/// The key that comes so many rows after another, or after the beginning.
pub(super) fn key_behind(table: &ComparedTable, first: Option<&RowKey>, rows: u32) -> String {
    let from = first.map(|key| format!(" WHERE {} >= {}", names(table), values(key))).unwrap_or_default();
    let order: Vec<_> = table.key.iter().map(|name| quote_ident(name)).collect();
    format!(
        "SELECT {} FROM ONLY {}{from} ORDER BY {} OFFSET {rows} LIMIT 1",
        texts(&table.key),
        table.name,
        order.join(", ")
    )
}

/// Rows with both halves of their hashes and `outer`. `OFFSET 0` keeps the server from computing a row once
/// for each half.
fn hashed(part: &Part, outer: &str, inner: &str) -> String {
    let half = |index: usize| match part.hashing {
        Hashing::Native => format!("hash_record_extended(r, {})", SEEDS[index]),
        Hashing::Portable => format!(
            "('x' || encode(substr(sha256(convert_to(r, 'UTF8')), {}, 8), 'hex'))::bit(64)::int8",
            index * 8 + 1
        ),
    };
    let row = match part.hashing {
        Hashing::Native => record(&part.table),
        Hashing::Portable => text(part.table.columns.iter()),
    };
    let inner = if inner.is_empty() { String::new() } else { format!(", {inner}") };
    format!(
        "SELECT {} AS h1, {} AS h2, {outer} FROM (SELECT {row} AS r{inner} FROM ONLY {}{} OFFSET 0) AS rows",
        half(0),
        half(1),
        part.table.name,
        inner_condition(part)
    )
}

/// A row as one record for the server's own hash function. Columns that are hashed by their text come as
/// one text.
fn record(table: &ComparedTable) -> String {
    let of_a_record = |column: &&Column| matches!(column.form, Form::Text | Form::Generated);
    let columns = table.columns.iter().filter(|column| !of_a_record(column)).map(|column| {
        let name = quote_ident(&column.name);
        match column.form {
            Form::Characters => format!("{name} COLLATE \"C\""),
            Form::Printed => format!("{name}::text COLLATE \"C\""),
            Form::Value | Form::Text | Form::Bytes | Form::Code | Form::Generated => content(column),
        }
    });
    let mut others = table.columns.iter().filter(of_a_record).peekable();
    let others = others.peek().is_some().then(|| text(others));
    format!("ROW({})", columns.chain(others).collect::<Vec<_>>().join(", "))
}

/// The text of columns, as a record prints it.
fn text<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    format!("ROW({})::text COLLATE \"C\"", columns.map(content).collect::<Vec<_>>().join(", "))
}

/// The expression that is hashed for a column.
fn content(column: &Column) -> String {
    let name = quote_ident(&column.name);
    match column.form {
        Form::Value | Form::Characters | Form::Printed | Form::Text | Form::Generated => name,
        Form::Bytes => format!("sha256({name})"),
        Form::Code => format!("{name}::int4"),
    }
}

/// The condition on columns, which the server checks before it hashes a row.
fn inner_condition(part: &Part) -> String {
    let table = &*part.table;
    let conditions = match &part.which {
        _ if table.key.is_empty() => vec![],
        Which::Range { first, end } => {
            let first = first.as_ref().map(|key| format!("{} >= {}", names(table), values(key)));
            let end = end.as_ref().map(|key| format!("{} < {}", names(table), values(key)));
            first.into_iter().chain(end).collect()
        }
        Which::Keys(keys) => vec![among(&names(table), keys)],
        Which::Buckets { .. } => vec![],
    };
    clause(&conditions)
}

fn outer_condition(part: &Part) -> String {
    let conditions = match &part.which {
        Which::Keys(keys) if part.table.key.is_empty() => vec![among("(h1, h2)", keys)],
        Which::Buckets { count, only } if !only.is_empty() => {
            let only: Vec<_> = only.iter().map(i64::to_string).collect();
            vec![format!("h1 & {} IN ({})", count - 1, only.join(", "))]
        }
        Which::Range { .. } | Which::Keys(_) | Which::Buckets { .. } => vec![],
    };
    clause(&conditions)
}

fn clause(conditions: &[String]) -> String {
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}

fn among(names: &str, keys: &[RowKey]) -> String {
    if keys.is_empty() {
        return "false".to_owned();
    }
    let keys: Vec<_> = keys.iter().map(values).collect();
    format!("{names} IN ({})", keys.join(", "))
}

/// Whether the end of a range comes before its beginning in the order of the table's own server. Servers
/// may sort texts differently. Both servers mean the same rows by a range only if its ends are in the same
/// order on both.
fn disordered(part: &Part) -> String {
    let Which::Range { first: Some(first), end: Some(end) } = &part.which else { return "false".to_owned() };
    if part.table.key.is_empty() {
        return "false".to_owned();
    }
    let columns: Vec<_> = part.table.key.iter().map(|name| quote_ident(name)).collect();
    let first: Vec<_> = first.0.iter().map(|value| quote_literal(value)).collect();
    // The table gives these constants the types and collations of its columns.
    format!(
        "(SELECT NOT {} < {} FROM (SELECT {} FROM ONLY {} WHERE false UNION ALL SELECT {}) AS ends)",
        names(&part.table),
        values(end),
        columns.join(", "),
        part.table.name,
        first.join(", ")
    )
}

fn names(table: &ComparedTable) -> String {
    tuple(table.key.iter().map(|name| quote_ident(name)))
}

fn values(key: &RowKey) -> String {
    tuple(key.0.iter().map(|value| quote_literal(value)))
}

fn tuple(items: impl Iterator<Item = String>) -> String {
    format!("({})", items.collect::<Vec<_>>().join(", "))
}

fn texts(columns: &[String]) -> String {
    let columns: Vec<_> = columns.iter().map(|name| format!("{}::text", quote_ident(name))).collect();
    format!("ARRAY[{}]::text[]", columns.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::table::tests::table;
    use super::*;

    fn part(key: &[&str], which: Which) -> Part {
        let columns = [("id", Form::Text), ("it's \"odd\"", Form::Bytes), ("kind", Form::Code)];
        Part { table: Arc::new(table(&columns, key)), hashing: Hashing::Native, which }
    }

    fn key(values: &[&str]) -> RowKey {
        RowKey(values.iter().map(|&value| value.to_owned()).collect())
    }

    #[test]
    fn a_row_is_its_columns_by_name() {
        let all = digests(&[part(&["id"], Which::ALL)]);
        assert!(
            all.contains(
                "SELECT ROW(sha256(\"it's \"\"odd\"\"\"), kind::int4, ROW(id)::text COLLATE \"C\") AS r \
                 FROM ONLY shop.\"order\" OFFSET 0"
            ),
            "{all}"
        );
        assert!(!all.contains("WHERE"), "{all}");
        assert_eq!(digests(&[part(&[], Which::ALL), part(&[], Which::ALL)]).matches("UNION ALL").count(), 1);
    }

    #[test]
    fn only_what_needs_it_becomes_text() {
        let columns = [
            ("id", Form::Value),
            ("name", Form::Characters),
            ("body", Form::Printed),
            ("shape", Form::Text),
            ("sum", Form::Generated),
        ];
        let mut part = Part { table: Arc::new(table(&columns, &["id"])), hashing: Hashing::Native, which: Which::ALL };
        let native = digests(&[part.clone()]);
        let row = "ROW(id, name COLLATE \"C\", body::text COLLATE \"C\", ROW(shape, sum)::text COLLATE \"C\") AS r";
        assert!(native.contains(row), "{native}");
        part.hashing = Hashing::Portable;
        let portable = digests(&[part]);
        assert!(portable.contains("ROW(id, name, body, shape, sum)::text COLLATE \"C\" AS r"), "{portable}");
    }

    #[test]
    fn a_range_is_half_open_and_quoted() {
        let range = Which::Range { first: Some(key(&["a'b", "\\"])), end: Some(key(&["z", "2"])) };
        let statement = digests(&[part(&["id", "kind"], range)]);
        assert!(
            statement.contains("WHERE (id, kind) >= ('a''b',  E'\\\\') AND (id, kind) < ('z', '2')"),
            "{statement}"
        );
        assert!(statement.contains("WHERE false UNION ALL SELECT 'a''b',  E'\\\\') AS ends"), "{statement}");
    }

    #[test]
    fn without_a_key_rows_are_found_by_their_hash() {
        let keys = Which::Keys(vec![key(&["1", "-2"])]);
        let keyed = rows(&part(&["id"], Which::Keys(vec![key(&["7"]), key(&["8"])])));
        assert!(keyed.contains("WHERE (id) IN (('7'), ('8')) OFFSET 0"), "{keyed}");
        let keyless = rows(&part(&[], keys));
        assert!(keyless.contains("AS hashed WHERE (h1, h2) IN (('1', '-2')) GROUP BY h1, h2"), "{keyless}");
        assert!(rows(&part(&["id"], Which::Keys(vec![]))).contains("WHERE false"));
        let buckets = rows(&part(&[], Which::Buckets { count: 16, only: vec![3, 5] }));
        assert!(buckets.contains("WHERE h1 & 15 IN (3, 5) GROUP BY"), "{buckets}");
    }
}
