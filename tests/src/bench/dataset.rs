//! What is copied. Always the same rows: everything is computed from row numbers.

use anyhow::{Result, ensure};

use crate::cluster::Cluster;
use crate::site::APPLICATION;

/// A database to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dataset {
    /// Two large tables and a small one, eight indexes, a GIN among them. The
    /// number is its size: hundreds of thousands of narrow rows, and two fifths as
    /// many documents. [`FULL`] is a little more than 2 GB with indexes.
    Large(u32),
    /// So many tables of a hundred rows, each with a key and another index.
    ManyTables(u32),
}

/// The scale at which it is what `docs/benchmarks.md` says.
pub const FULL: u32 = 64;

/// Bytes of the database, of all its tables, and of the largest one.
const SHAPE: &str = "
SELECT pg_database_size(current_database()), sum(pg_table_size(oid))::bigint, max(pg_table_size(oid))
  FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";

impl Dataset {
    fn statements(self) -> Vec<String> {
        match self {
            Self::Large(scale) => large(scale),
            Self::ManyTables(count) => many_tables(count),
        }
    }

    /// Makes it in a database, as the application's own tables, analysed and
    /// written to disk.
    pub async fn make(self, cluster: &Cluster, database: &str) -> Result<()> {
        let client = cluster.connect(database).await?;
        client.batch_execute(&format!("SET ROLE {APPLICATION}; SET synchronous_commit = off")).await?;
        for statement in self.statements() {
            client.batch_execute(&statement).await?;
        }
        client.batch_execute("RESET ROLE").await?;
        for statement in ["VACUUM (FREEZE, ANALYZE)", "CHECKPOINT"] {
            client.batch_execute(statement).await?;
        }
        if let Self::Large(FULL..) = self {
            let row = client.query_one(SHAPE, &[]).await?;
            let (database, tables, largest): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
            ensure!(database >= 2_000_000_000, "the page promises 2 GB, and the database has {database} bytes");
            ensure!(2 * largest >= tables, "no table is half of all: {largest} of {tables} bytes");
        }
        Ok(())
    }
}

fn large(scale: u32) -> Vec<String> {
    let (narrow, documents) = (u64::from(scale) * 100_000, u64::from(scale) * 40_000);
    vec![
        "CREATE TABLE narrow (id bigint PRIMARY KEY, a int NOT NULL, b int NOT NULL, c timestamptz NOT NULL, d text)"
            .to_owned(),
        format!(
            "INSERT INTO narrow SELECT i, i % 1000, hashint8(i), timestamptz '2026-01-01' + i * interval '1 second',
                    'row ' || (i % 5000) FROM generate_series(1, {narrow}) i"
        ),
        "CREATE INDEX ON narrow (a)".to_owned(),
        "CREATE INDEX ON narrow (b)".to_owned(),
        "CREATE INDEX ON narrow (c)".to_owned(),
        "CREATE TABLE document (id bigint PRIMARY KEY, owner int NOT NULL, body jsonb NOT NULL)".to_owned(),
        format!(
            "INSERT INTO document SELECT i, hashint8(i) % 10000,
                    jsonb_build_object('name', 'customer ' || i % 20000, 'tags', jsonb_build_array(i % 7, i % 11),
                                       'note', md5(i::text), 'city', 'town ' || i % 300, 'trace', md5((-i)::text),
                                       'history', repeat('ordered, paid, shipped; ', (i % 7)::int))
               FROM generate_series(1, {documents}) i"
        ),
        "CREATE INDEX ON document (owner)".to_owned(),
        "CREATE INDEX ON document USING gin (body jsonb_path_ops)".to_owned(),
        "CREATE INDEX ON document ((body ->> 'city'))".to_owned(),
        "CREATE TABLE small (id int PRIMARY KEY, v text)".to_owned(),
        "INSERT INTO small SELECT i, 'v' || i FROM generate_series(1, 10000) i".to_owned(),
    ]
}

fn many_tables(count: u32) -> Vec<String> {
    (0..count)
        .map(|number| {
            format!(
                "CREATE TABLE t{number} (id int PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL);
                 INSERT INTO t{number} SELECT i, 'name ' || i, timestamptz '2026-01-01' + i * interval '1 minute'
                   FROM generate_series(1, 100) i;
                 CREATE INDEX ON t{number} (name)"
            )
        })
        .collect()
}
