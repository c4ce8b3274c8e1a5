//! Which tables are compared, by which columns, in which order.

use pgportage_link::{Effect, Failure};
use pgportage_migration::Participation;
use pgportage_migration::names;
use pgportage_postgres::{RelationName, Session, catalog, quote_ident, sql_failure};
use pgportage_proto::{Reason, Side};

/// A table as it is compared. Equal on both sides when rows can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparedTable {
    /// Its name on both sides.
    pub name: RelationName,
    /// The columns that hold data of their own, sorted by name.
    pub columns: Vec<Column>,
    /// Columns of a unique key by which the table can be read in order. Empty when
    /// there is none.
    pub key: Vec<String>,
    /// Bytes of the main fork and TOAST, without indexes.
    pub size_bytes: i64,
}

/// A column and how it is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, unquoted.
    pub name: String,
    /// How it is hashed.
    pub form: Form,
}

/// How the contents of a column enter the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Its value, by the hash function of its type. Only for types whose equal values have equal bytes:
    /// half the work of making a text.
    Value,
    /// Its characters, whatever its collation calls equal.
    Characters,
    /// Its text by a cast, which prints every digit of it.
    Printed,
    /// Its text as a record prints it: for other types the cast to text may be one that a user defined.
    Text,
    /// The SHA-256 of its bytes. As text they would be twice as long, and half a gigabyte would be too
    /// much.
    Bytes,
    /// Its number: the text of the type `"char"` differs between versions.
    Code,
    /// Its text, which the server computes from other columns.
    Generated,
}

impl Column {
    /// Whether the server computes it from other columns, and accepts no value for it.
    pub fn is_generated(&self) -> bool {
        self.form == Form::Generated
    }
}

impl ComparedTable {
    /// The same table without its key: it is read in no order.
    pub fn without_key(&self) -> Self {
        Self { key: Vec::new(), ..self.clone() }
    }

    /// Whether rows of both sides can be compared.
    ///
    /// # Errors
    ///
    /// What prevents it, as one clause.
    pub fn comparable(&self, there: &Self) -> Result<(), String> {
        let missing = |here: &[Column], there: &[Column]| {
            here.iter().find(|column| !there.iter().any(|other| other.name == column.name)).map(|c| c.name.clone())
        };
        if let Some(name) = missing(&self.columns, &there.columns) {
            return Err(format!("column {} is on the destination only", quote_ident(&name)));
        }
        if let Some(name) = missing(&there.columns, &self.columns) {
            return Err(format!("column {} is on the source only", quote_ident(&name)));
        }
        match self.columns.iter().zip(&there.columns).find(|(here, there)| here != there) {
            Some((column, _)) => {
                Err(format!("column {} is of different kinds on the two sides", quote_ident(&column.name)))
            }
            None => Ok(()),
        }
    }
}

const SUBSCRIBED_TABLES: &str = "\
SELECT n.nspname::text, c.relname::text
FROM pg_subscription s
JOIN pg_database d ON d.oid = s.subdbid
JOIN pg_subscription_rel r ON r.srsubid = s.oid
JOIN pg_class c ON c.oid = r.srrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE s.subname = $1 AND d.datname = current_database()
ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";

/// Every table that the migration replicates, sorted by name. Tables of ours are left out: they differ by
/// nature.
///
/// # Errors
///
/// [`Reason::ObjectConflict`] when there is none, not even ours; otherwise what the server reports.
pub async fn replicated_tables(session: &Session, participation: &Participation) -> Result<Vec<RelationName>, Failure> {
    let name = names::replication_name(&participation.migration);
    let mut replicated = match participation.side {
        Side::Source => catalog::published_tables(session, &name).await?,
        Side::Destination => session
            .query(SUBSCRIBED_TABLES, &[&name])
            .await
            .map_err(|error| sql_failure(error, "list the subscribed tables"))?
            .iter()
            .map(|row| RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)))
            .collect(),
    };
    if replicated.is_empty() {
        return Err(Failure::new(Reason::ObjectConflict, format!("{} replicates no tables", quote_ident(&name)))
            .detail("Not even our own two: the publication or the subscription is gone.")
            .effect(Effect::None));
    }
    replicated.retain(|table| table.schema != names::SCHEMA);
    Ok(replicated)
}

/// A key is a unique index without NULLs, on columns whose order this session can name. Operators of
/// user-defined types (OID 16384 and up) may be outside its search path. Enums are the exception: their
/// operators belong to `anyenum` and are in `pg_catalog`.
const TABLES: &str = "\
SELECT n.nspname::text, c.relname::text, coalesce(a.names, '{}'), coalesce(a.forms, '{}'), coalesce(k.names, '{}'),
       pg_table_size(c.oid)
FROM unnest($1::text[], $2::text[]) AS asked (nspname, relname)
JOIN pg_namespace n ON n.nspname = asked.nspname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = asked.relname
LEFT JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY a.attname COLLATE \"C\") AS names,
           array_agg(CASE WHEN a.attgenerated <> '' THEN 'generated'
                          WHEN a.atttypid = 'bytea'::regtype THEN 'bytes'
                          WHEN a.atttypid = '\"char\"'::regtype THEN 'code'
                          WHEN a.atttypid = ANY ('{bool,int2,int4,int8,oid,uuid,date,timestamp,timestamptz}'::regtype[])
                          THEN 'value'
                          WHEN a.atttypid = ANY ('{text,varchar}'::regtype[]) THEN 'characters'
                          WHEN a.atttypid = ANY ('{numeric,float4,float8,json,jsonb}'::regtype[]) THEN 'printed'
                          ELSE 'text' END ORDER BY a.attname COLLATE \"C\") AS forms
    FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v') a ON true
LEFT JOIN LATERAL (
    SELECT ARRAY(SELECT a.attname::text
                 FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                 WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS names
    FROM pg_index i
    JOIN pg_class x ON x.oid = i.indexrelid
    JOIN pg_am m ON m.oid = x.relam
    WHERE i.indrelid = c.oid AND m.amname = 'btree' AND i.indisunique AND i.indisvalid AND i.indimmediate
      AND i.indpred IS NULL AND i.indexprs IS NULL
      AND NOT EXISTS (
          SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
          JOIN pg_type t ON t.oid = a.atttypid
          WHERE k.place <= i.indnkeyatts
            AND (NOT a.attnotnull
                 OR t.typtype <> 'e' AND CASE t.typbasetype WHEN 0 THEN t.oid ELSE t.typbasetype END >= 16384))
    ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, x.relname COLLATE \"C\"
    LIMIT 1) k ON true
WHERE c.relkind = 'r'
ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";

/// The tables of those names, sorted by name. Some may be gone.
pub(super) async fn describe(session: &Session, names: &[RelationName]) -> Result<Vec<ComparedTable>, Failure> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let relations: Vec<&str> = names.iter().map(|name| name.relation.as_str()).collect();
    let rows = session
        .query(TABLES, &[&schemas, &relations])
        .await
        .map_err(|error| sql_failure(error, "list the columns of the replicated tables"))?;
    rows.iter()
        .map(|row| {
            let (names, forms): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
            let column = |(name, form): (String, String)| Some(Column { name, form: Form::parse(&form)? });
            let columns = names.into_iter().zip(forms).map(column).collect::<Option<_>>();
            Ok(ComparedTable {
                name: RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
                columns: columns.ok_or_else(|| Failure::new(Reason::Internal, "a column is of no known form"))?,
                key: row.get(4),
                size_bytes: row.get(5),
            })
        })
        .collect()
}

impl Form {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "value" => Some(Self::Value),
            "characters" => Some(Self::Characters),
            "printed" => Some(Self::Printed),
            "text" => Some(Self::Text),
            "bytes" => Some(Self::Bytes),
            "code" => Some(Self::Code),
            "generated" => Some(Self::Generated),
            _ => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn table(columns: &[(&str, Form)], key: &[&str]) -> ComparedTable {
        ComparedTable {
            name: RelationName::new("shop", "order"),
            columns: columns.iter().map(|(name, form)| Column { name: (*name).to_owned(), form: *form }).collect(),
            key: key.iter().map(|&name| name.to_owned()).collect(),
            size_bytes: 8192,
        }
    }

    #[test]
    fn tables_are_comparable_column_by_column() {
        let here = table(&[("a", Form::Text), ("b", Form::Text)], &["a"]);
        assert_eq!(here.comparable(&here.without_key()), Ok(()), "the key is no matter of rows");
        let other = table(&[("a", Form::Text), ("B", Form::Text)], &[]);
        assert_eq!(here.comparable(&other).unwrap_err(), "column b is on the destination only");
        let more = table(&[("a", Form::Text), ("b", Form::Text), ("c", Form::Text)], &[]);
        assert_eq!(here.comparable(&more).unwrap_err(), "column c is on the source only");
        let bytes = table(&[("a", Form::Text), ("b", Form::Bytes)], &[]);
        assert_eq!(here.comparable(&bytes).unwrap_err(), "column b is of different kinds on the two sides");
    }
}
