//! *verify*: row counts, schema objects, and what is not replicated.
//!
//! Counts while writes go on: each table under a short snapshot of its own, so
//! that no transaction holds back xmin for long. The counters of inserted and
//! deleted rows are read after each count, so that the coordinator can tell a
//! difference that writes explain from one that they do not.

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;

use crate::migration::Side;
use crate::names;
use crate::postgres::catalog::{self, SchemaObject};
use crate::postgres::{Purpose, RelationName, Session, quote_ident, sql_failure};
use crate::step::inspect::{Finding, not_replicated};
use crate::step::patience::Patience;
use crate::step::{Context, Progress, ProgressPart, ProgressUnit, Step, Survey};

/// One process of the server is enough for a count: it must not take the
/// application's.
const GENTLE: &str = "SET max_parallel_workers_per_gather = 0";

const SUBSCRIBED_TABLES: &str = "\
SELECT n.nspname::text, c.relname::text
FROM pg_subscription s
JOIN pg_database d ON d.oid = s.subdbid
JOIN pg_subscription_rel r ON r.srsubid = s.oid
JOIN pg_class c ON c.oid = r.srrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE s.subname = $1 AND d.datname = current_database()
ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";

/// Read in a statement of its own after the count. Other sessions report to
/// these counters within a second of their commit.
const COUNTERS: &str = "\
SELECT pg_stat_get_tuples_inserted(c.oid), pg_stat_get_tuples_deleted(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2";

/// Counts rows and lists schema objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountRows {
    /// Only these tables. Empty means every table that is replicated.
    pub tables: Vec<RelationName>,
}

/// What was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountRowsResult {
    /// One entry for each table, sorted by name.
    pub tables: Vec<TableCount>,
    /// Every schema object that both sides must have, sorted.
    pub objects: Vec<SchemaObject>,
    /// What native replication leaves behind, and what becomes of it.
    pub not_replicated: Vec<Finding>,
}

/// The rows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableCount {
    /// The table.
    pub table: RelationName,
    /// Rows under one snapshot.
    pub row_count: i64,
    /// Rows inserted since the server started counting, read after the count.
    pub inserted_count: i64,
    /// Rows deleted since the server started counting, read after the count.
    pub deleted_count: i64,
}

impl Step for CountRows {
    type Output = CountRowsResult;

    /// Never done before: rows change.
    async fn survey(&self, _cx: &Context) -> Result<Survey<CountRowsResult>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<CountRowsResult, Failure> {
        let mut session = open(cx).await?;
        let tables = self.chosen(cx, &session).await?;
        let mut counts: Vec<TableCount> = Vec::with_capacity(tables.len());
        let mut patience = Patience::new(cx);
        while let Some(table) = tables.get(counts.len()) {
            cx.safe_point()?;
            report(cx, table, &counts, tables.len());
            match count(cx, &session, table).await {
                Ok(count) => {
                    counts.push(count);
                    patience.moved(cx);
                }
                Err(failure) => {
                    let lost = failure.reason == Reason::ServerUnreachable;
                    patience.again(cx, failure, &format!("to count {table}")).await?;
                    if lost {
                        session = open(cx).await?;
                    }
                }
            }
        }
        Ok(CountRowsResult {
            tables: counts,
            objects: catalog::schema_objects(&session).await?,
            not_replicated: not_replicated(&session).await?,
        })
    }

    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}

impl CountRows {
    /// The tables to count, sorted: those asked for, as far as they are
    /// replicated. Ours are left out; they differ by nature.
    async fn chosen(&self, cx: &Context, session: &Session) -> Result<Vec<RelationName>, Failure> {
        let name = names::replication_name(&cx.participation.migration);
        let mut replicated = match cx.participation.side {
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
        if let Some(unknown) = self.tables.iter().find(|table| !replicated.contains(table)) {
            return Err(Failure::new(Reason::RequestInvalid, format!("table {unknown} is not replicated"))
                .effect(Effect::None)
                .with("field", "tables"));
        }
        if !self.tables.is_empty() {
            replicated.retain(|table| self.tables.contains(table));
        }
        Ok(replicated)
    }
}

async fn open(cx: &Context) -> Result<Session, Failure> {
    let session = cx.door.open(&cx.participation.database, Purpose::Scan).await?;
    session.batch_execute(GENTLE).await.map_err(|error| sql_failure(error, "begin to count"))?;
    Ok(session)
}

async fn count(cx: &Context, session: &Session, table: &RelationName) -> Result<TableCount, Failure> {
    let failure = |error| sql_failure(error, "count rows");
    let statement = format!("SELECT count(*) FROM ONLY {table}");
    let counting = session.query_one(&statement, &[]);
    let row = tokio::select! {
        biased;
        () = cx.cancel.cancelled() => {
            // A dropped question would be answered all the same, hours later.
            session.cancel_handle().cancel().await.ok();
            return Err(match cx.safe_point() {
                Err(cancelled) => cancelled.effect(Effect::None),
                Ok(()) => Failure::new(Reason::Cancelled, "stopped because it was asked to"),
            });
        }
        row = counting => row.map_err(failure)?,
    };
    let counters = session.query_opt(COUNTERS, &[&table.schema, &table.relation]).await.map_err(failure)?;
    let (inserted, deleted) = counters.map_or((0, 0), |row| (row.get(0), row.get(1)));
    Ok(TableCount { table: table.clone(), row_count: row.get(0), inserted_count: inserted, deleted_count: deleted })
}

fn report(cx: &Context, table: &RelationName, counts: &[TableCount], total: usize) {
    let part = |count: &TableCount| ProgressPart {
        table: count.table.to_string(),
        row_count: count.row_count.unsigned_abs(),
        ready: true,
        ..ProgressPart::default()
    };
    cx.report(Progress {
        subject: format!("counting {table}"),
        completed: counts.len() as u64,
        total: total as u64,
        unit: ProgressUnit::Tables,
        parts: counts.iter().map(part).collect(),
        ..Progress::default()
    });
}
