//! The tables that are left to compare, and the results: shared by the workers of one attempt.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgportage_data_plane::comparison::{ComparedTable, Difference, Hashing, RowKey};
use pgportage_link::Failure;
use pgportage_postgres::RelationName;
use pgportage_report::Digest;
use pgportage_report::comparison::{RowComparison, TableComparison};
use pgportage_report::progress::{Progress, Unit};
use tokio::time::Instant;

use super::checkpoint::{Checkpoint, TableNote};
use super::repair::header;
use crate::act::Context;

/// Tables up to this size are compared together with others.
const SMALL: i64 = 1 << 20;
/// Small tables in one question.
const BATCH: usize = 50;
/// Time between two saved states. An interrupted comparison goes back to the last one.
pub(super) const SAVE_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Small tables, each as one part.
    Batch(Vec<Arc<ComparedTable>>),
    /// One table, part by part.
    Table(Arc<ComparedTable>),
}

#[derive(Debug)]
pub(super) struct RangeQueue<'a> {
    cx: &'a Context,
    pub(super) hashing: Hashing,
    /// Whether to write statements that correct differences.
    repair: bool,
    begun: Instant,
    deadline: Option<Instant>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    checkpoint: Checkpoint,
    work: VecDeque<Work>,
    /// Every table, for the report.
    tables: Vec<RelationName>,
    total_bytes: i64,
    done_bytes: i64,
    saved_at: Instant,
}

impl<'a> RangeQueue<'a> {
    /// Queues the work: large tables first, so that none of them is left alone at the end. Tables that are
    /// complete by the checkpoint are not compared again. `obstructed` tables cannot be compared at all;
    /// the checkpoint says why.
    pub(super) fn new(
        cx: &'a Context,
        hashing: Hashing,
        repair: bool,
        time_limit: Option<Duration>,
        checkpoint: Checkpoint,
        mut tables: Vec<Arc<ComparedTable>>,
        obstructed: Vec<RelationName>,
    ) -> Self {
        let begun = cx.tasks.clock.now();
        let mut names = obstructed;
        names.extend(tables.iter().map(|table| table.name.clone()));
        names.sort();
        let total_bytes = tables.iter().map(|table| table.size_bytes).sum();
        let is_done = |table: &Arc<ComparedTable>| checkpoint.table(&table.name).is_some_and(|note| note.complete);
        let done_bytes = tables.iter().filter(|table| is_done(table)).map(|table| table.size_bytes).sum();
        tables.retain(|table| !is_done(table));
        let state = State { work: deal(tables), tables: names, total_bytes, done_bytes, saved_at: begun, checkpoint };
        let deadline = time_limit.map(|limit| begun + limit);
        Self { cx, hashing, repair, begun, deadline, state: Mutex::new(state) }
    }

    /// The next piece of work. None when no work is left, or the time is over.
    pub(super) fn take(&self) -> Option<Work> {
        if self.is_over() {
            return None;
        }
        self.lock().work.pop_front()
    }

    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| self.cx.tasks.clock.now() >= deadline)
    }

    /// What the checkpoint knows of a table.
    pub(super) fn known(&self, table: &RelationName) -> TableNote {
        self.lock().checkpoint.table(table).cloned().unwrap_or_default()
    }

    /// Counts a part that was compared.
    pub(super) fn compared(&self, table: &RelationName, bytes: i64) {
        let mut state = self.lock();
        state.checkpoint.count_range();
        state.done_bytes += bytes;
        let progress = Progress {
            subject: format!("comparing {table}"),
            completed: state.done_bytes.min(state.total_bytes),
            total: state.total_bytes,
            unit: Unit::Bytes,
            ..Progress::default()
        };
        drop(state);
        self.cx.report(progress);
    }

    /// Counts rows that are compared once more.
    pub(super) fn rechecked(&self, rows: usize) {
        self.lock().checkpoint.count_rechecks(rows);
    }

    /// Notes a row that differs. Its key goes into the report, `statement` into the other file.
    pub(super) fn differs(
        &self,
        table: &ComparedTable,
        difference: Difference,
        key: &RowKey,
        statement: Option<&str>,
    ) -> Result<(), Failure> {
        let mut state = self.lock();
        state.checkpoint.report(table, difference, key)?;
        let Some(statement) = statement else { return Ok(()) };
        let [_, written] = state.checkpoint.paths()?;
        if written.is_empty() {
            state.checkpoint.mend(&header(self.cx.participation.side))?;
        }
        state.checkpoint.mend(statement)
    }

    pub(super) fn mends(&self) -> bool {
        self.repair
    }

    /// Notes the state of a table, and saves from time to time.
    pub(super) fn note(&self, table: &RelationName, note: TableNote) -> Result<(), Failure> {
        let mut state = self.lock();
        state.checkpoint.note(table, note);
        let now = self.cx.tasks.clock.now();
        if now.duration_since(state.saved_at) < SAVE_INTERVAL {
            return Ok(());
        }
        state.saved_at = now;
        self.save(&mut state).map(|_| ())
    }

    /// Saves the state, and returns it as the result.
    pub(super) fn close(&self) -> Result<RowComparison, Failure> {
        let mut state = self.lock();
        let elapsed = self.save(&mut state)?;
        let [report_path, repair_path] = state.checkpoint.paths()?;
        let tables: Vec<_> = state.tables.iter().map(|name| told(name, state.checkpoint.table(name))).collect();
        Ok(RowComparison {
            complete: tables.iter().all(|table| table.complete),
            range_count: state.checkpoint.range_count(),
            recheck_count: state.checkpoint.recheck_count(),
            tables,
            elapsed,
            report_path,
            repair_path,
        })
    }

    fn save(&self, state: &mut State) -> Result<Duration, Failure> {
        let elapsed = state.checkpoint.elapsed() + self.cx.tasks.clock.now().duration_since(self.begun);
        state.checkpoint.save(elapsed)?;
        Ok(elapsed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(name: &RelationName, note: Option<&TableNote>) -> TableComparison {
    let note = note.cloned().unwrap_or_default();
    TableComparison {
        table: name.clone(),
        row_count: note.digest.row_count,
        digest: Digest(note.digest.bytes()),
        missing_count: note.missing,
        extra_count: note.extra,
        changed_count: note.changed,
        unsettled_count: note.unsettled,
        obstacle: note.obstacle,
        complete: note.complete,
    }
}

fn deal(mut tables: Vec<Arc<ComparedTable>>) -> VecDeque<Work> {
    tables.sort_by_key(|table| std::cmp::Reverse(table.size_bytes));
    let (large, small): (Vec<_>, Vec<_>) = tables.into_iter().partition(|table| table.size_bytes > SMALL);
    let batches = small.chunks(BATCH).map(|tables| Work::Batch(tables.to_vec()));
    large.into_iter().map(Work::Table).chain(batches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tables_come_first_and_small_ones_together() {
        let table = |number: i64, size_bytes| {
            Arc::new(ComparedTable {
                name: RelationName::new("public", format!("t{number}")),
                columns: Vec::new(),
                key: Vec::new(),
                size_bytes,
            })
        };
        let mut tables: Vec<_> = (0..60).map(|number| table(number, SMALL)).collect();
        tables.extend([table(100, SMALL + 1), table(101, SMALL * 9)]);
        let work: Vec<_> = deal(tables).into();
        let sizes: Vec<_> = work
            .iter()
            .map(|work| match work {
                Work::Batch(tables) => tables.len(),
                Work::Table(table) => usize::try_from(table.size_bytes / SMALL).unwrap() * 1000,
            })
            .collect();
        assert_eq!(sizes, [9000, 1000, 50, 10]);
    }
}
