//! Row counts, schema objects, and objects that are not replicated.
//!
//! Counts while applications write: short snapshots, each of one large table or of some small ones, so that
//! no transaction holds back xmin for long. The counters of inserted and deleted rows are read after each
//! count. With them the coordinator tells a difference that writes explain from one that they do not.

use pgportage_data_plane::comparison::replicated_tables;
use pgportage_link::{Effect, Failure};
use pgportage_postgres::catalog::{self, SchemaObject, SequencePosition, SequenceState};
use pgportage_postgres::{Purpose, RelationName, Session, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, v1};
use pgportage_report::progress::{Part, Progress, Unit};

use crate::act::inspect::{Finding, not_replicated};
use crate::act::patience::Patience;
use crate::act::{Act, Context, Produced, Survey};
use crate::message::relations;

/// One server process is enough for a count: it must not take the application's.
const GENTLE: &str = "SET max_parallel_workers_per_gather = 0; SET jit = off";

/// Small tables in one statement: each needs a lock.
const BATCH: usize = 50;
/// Bytes of the tables in one statement, unless it is one table.
const BATCH_BYTES: i64 = 16 << 20;

/// Sizes of tables, in the order of the question. A table that is gone counts as small; its count will
/// report that.
const SIZES: &str = "\
SELECT coalesce(pg_relation_size(c.oid), 0)
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (nspname, relname, place)
LEFT JOIN pg_namespace n ON n.nspname = asked.nspname
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = asked.relname
ORDER BY asked.place";

/// Read in a statement of its own after the count. Other sessions report to
/// these counters within a second of their commit.
const COUNTERS: &str = "\
SELECT coalesce(pg_stat_get_tuples_inserted(c.oid), 0), coalesce(pg_stat_get_tuples_deleted(c.oid), 0)
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (nspname, relname, place)
LEFT JOIN pg_namespace n ON n.nspname = asked.nspname
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = asked.relname
ORDER BY asked.place";

/// Counts rows and lists schema objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountRows {
    /// Only these tables. Empty means every table that is replicated.
    pub tables: Vec<RelationName>,
    /// Only the schema objects: the rows are compared by their hashes.
    pub objects_only: bool,
    /// Whether to read the positions of the sequences as well.
    pub sequences: bool,
}

/// What was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountRowsResult {
    /// One entry for each table, sorted by name.
    pub tables: Vec<TableCount>,
    /// Every schema object that both sides must have, sorted.
    pub objects: Vec<SchemaObject>,
    /// What native replication does not carry, and what becomes of it.
    pub not_replicated: Vec<Finding>,
    /// The positions of the sequences, sorted by name, where they were asked for. Cycling sequences are
    /// left out: their values cannot be compared.
    pub sequences: Vec<SequencePlace>,
}

/// The position of one sequence, and its direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequencePlace {
    /// Its name and last value.
    pub position: SequencePosition,
    /// Whether its values become smaller.
    pub descending: bool,
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

impl Act for CountRows {
    const KIND: ActKind = ActKind::CountRows;
    type Message = v1::CountRows;
    type Output = CountRowsResult;

    fn decode(message: v1::CountRows) -> Result<Self, Failure> {
        let v1::CountRows { tables, objects_only, sequences } = message;
        Ok(Self { tables: relations(tables), objects_only, sequences })
    }

    fn encode(output: CountRowsResult) -> Produced {
        Produced::CountRows(v1::CountRowsResult {
            tables: output.tables.into_iter().map(encode_count).collect(),
            objects: output.objects.into_iter().map(encode_object).collect(),
            not_replicated: output.not_replicated.into_iter().map(Into::into).collect(),
            sequences: output.sequences.into_iter().map(encode_place).collect(),
        })
    }

    /// The destination counts its rows with or without a way back.
    fn needs_slot(side: Side) -> bool {
        side == Side::Source
    }

    /// Never done before: rows change.
    async fn survey(&self, _cx: &Context) -> Result<Survey<CountRowsResult>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<CountRowsResult, Failure> {
        let mut session = open(cx).await?;
        let tables = if self.objects_only { Vec::new() } else { self.chosen(cx, &session).await? };
        let mut counts: Vec<TableCount> = Vec::with_capacity(tables.len());
        let mut patience = Patience::new(cx);
        for batch in batches(&tables, &sizes(&session, &tables).await?) {
            loop {
                cx.safe_point()?;
                let Some(first) = batch.first() else { break };
                report(cx, first, &counts, tables.len());
                match count(cx, &session, batch).await {
                    Ok(counted) => {
                        counts.extend(counted);
                        patience.moved(cx);
                        break;
                    }
                    Err(failure) => {
                        let lost = failure.reason == Reason::ServerUnreachable;
                        patience.again(cx, failure, &format!("to count {first}")).await?;
                        if lost {
                            session = open(cx).await?;
                        }
                    }
                }
            }
        }
        Ok(CountRowsResult {
            tables: counts,
            objects: catalog::schema_objects(&session).await?,
            not_replicated: not_replicated(&session).await?,
            sequences: if self.sequences { places(&session).await? } else { Vec::new() },
        })
    }

    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}

impl CountRows {
    /// The tables to count, sorted: those asked for, as far as they are
    /// replicated.
    async fn chosen(&self, cx: &Context, session: &Session) -> Result<Vec<RelationName>, Failure> {
        let mut replicated = replicated_tables(session, &cx.participation).await?;
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

async fn places(session: &Session) -> Result<Vec<SequencePlace>, Failure> {
    let states = catalog::sequences(session).await?;
    let place = |SequenceState { name, last_value, called, increment, .. }: SequenceState| SequencePlace {
        position: SequencePosition { name, last_value, called },
        descending: increment < 0,
    };
    Ok(states.into_iter().filter(|state| !state.cycles).map(place).collect())
}

async fn sizes(session: &Session, tables: &[RelationName]) -> Result<Vec<i64>, Failure> {
    let (schemas, relations) = names_of(tables);
    let rows = session.query(SIZES, &[&schemas, &relations]).await;
    Ok(rows.map_err(|error| sql_failure(error, "read the sizes of tables"))?.iter().map(|row| row.get(0)).collect())
}

/// The tables in order, as many together as one statement may count.
fn batches<'a>(tables: &'a [RelationName], sizes: &[i64]) -> Vec<&'a [RelationName]> {
    let (mut batches, mut first, mut bytes) = (Vec::new(), 0, 0);
    for place in 0..tables.len() {
        let size = sizes.get(place).copied().unwrap_or(i64::MAX);
        if place > first && (place - first == BATCH || size > BATCH_BYTES - bytes) {
            batches.push(&tables[first..place]);
            (first, bytes) = (place, 0);
        }
        bytes = BATCH_BYTES.min(size.saturating_add(bytes));
    }
    if first < tables.len() {
        batches.push(&tables[first..]);
    }
    batches
}

fn names_of(tables: &[RelationName]) -> (Vec<&str>, Vec<&str>) {
    tables.iter().map(|table| (table.schema.as_str(), table.relation.as_str())).unzip()
}

async fn count(cx: &Context, session: &Session, tables: &[RelationName]) -> Result<Vec<TableCount>, Failure> {
    let failure = |error| sql_failure(error, "count rows");
    let counts: Vec<_> = tables.iter().map(|table| format!("(SELECT count(*) FROM ONLY {table})")).collect();
    let statement = format!("SELECT ARRAY[{}]", counts.join(", "));
    let counting = session.query_one(&statement, &[]);
    let row = tokio::select! {
        biased;
        () = cx.cancel.cancelled() => {
            // If the future were only dropped, the server would go on counting, perhaps for hours.
            session.cancel_handle().cancel().await.ok();
            return Err(match cx.safe_point() {
                Err(cancelled) => cancelled.effect(Effect::None),
                Ok(()) => Failure::new(Reason::Cancelled, "stopped because it was asked to"),
            });
        }
        row = counting => row.map_err(failure)?,
    };
    let (schemas, relations) = names_of(tables);
    let counters = session.query(COUNTERS, &[&schemas, &relations]).await.map_err(failure)?;
    let counts: Vec<i64> = row.get(0);
    let counted = tables.iter().zip(counts).zip(&counters).map(|((table, row_count), counters)| TableCount {
        table: table.clone(),
        row_count,
        inserted_count: counters.get(0),
        deleted_count: counters.get(1),
    });
    Ok(counted.collect())
}

fn report(cx: &Context, table: &RelationName, counts: &[TableCount], total: usize) {
    let part = |count: &TableCount| Part {
        table: count.table.to_string(),
        row_count: count.row_count,
        ready: true,
        ..Part::default()
    };
    cx.report(Progress {
        subject: format!("counting {table}"),
        completed: counts.len() as i64,
        total: total as i64,
        unit: Unit::Tables,
        parts: counts.iter().map(part).collect(),
        ..Progress::default()
    });
}

fn encode_count(count: TableCount) -> v1::TableCount {
    v1::TableCount {
        table: Some(count.table.into()),
        row_count: count.row_count,
        inserted_count: count.inserted_count,
        deleted_count: count.deleted_count,
    }
}

fn encode_object(object: SchemaObject) -> v1::SchemaObject {
    v1::SchemaObject { identity: object.identity, digest: object.digest.to_vec() }
}

fn encode_place(place: SequencePlace) -> v1::SequencePlace {
    let SequencePlace { position: SequencePosition { name, last_value, called }, descending } = place;
    v1::SequencePlace { sequence: Some(name.into()), last_value, called, descending }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tables_are_counted_together_and_large_ones_alone() {
        let tables: Vec<_> = (0..120).map(|number| RelationName::new("public", format!("t{number}"))).collect();
        let lengths = |sizes: &[i64]| -> Vec<usize> {
            let batches = batches(&tables[..sizes.len()], sizes);
            assert_eq!(batches.concat(), tables[..sizes.len()], "every table once, in order");
            batches.iter().map(|batch| batch.len()).collect()
        };
        assert_eq!(lengths(&[0; 120]), [50, 50, 20]);
        assert_eq!(lengths(&[]), [0; 0]);
        let (small, large) = (1, 1 << 40);
        assert_eq!(lengths(&[large, small, small, large, large]), [1, 2, 1, 1]);
        assert_eq!(lengths(&[BATCH_BYTES / 2; 5]), [2, 2, 1]);
    }
}
