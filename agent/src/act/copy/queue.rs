//! The work that is left, the work under way, and its progress: shared by the workers of one attempt.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pgportage_data_plane::snapshot::SnapshotTable;
use pgportage_postgres::RelationName;
use pgportage_report::progress::{Part, Progress, Unit};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::build_scheduler::{BuildScheduler, Demand, Job, Statistics};
use super::index::Builds;
use super::plan::Piece;
use crate::act::schema::later::Build;

/// Most tables in one question to the source: each question costs the source a login.
pub(super) const MOST_ASKED: usize = 64;

#[derive(Debug)]
pub(super) struct CopyQueue {
    /// Indexed by the table number in a part.
    names: Vec<RelationName>,
    /// Reported after the present work: what lost snapshots have cost.
    history: String,
    state: Mutex<State>,
    /// Notified whenever there may be new work, or no more at all.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    tables: Vec<Table>,
    pieces: VecDeque<Piece>,
    /// Parts that a worker has taken and not finished.
    copying: usize,
    /// Tables whose rows are in and whose indexes are to be built.
    scheduler: BuildScheduler,
    moved_at: Instant,
}

#[derive(Debug)]
struct Table {
    size_bytes: i64,
    row_estimate: i64,
    /// Parts that are not copied yet.
    parts_left: usize,
    done_bytes: i64,
    row_count: i64,
    /// The work that it needs when its rows are in.
    demand: Demand,
    built: bool,
}

/// The answer to a worker that asks for work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// Do this.
    Take(T),
    /// No work now; perhaps later.
    Later,
    /// No work any more.
    Never,
}

impl CopyQueue {
    /// Queues what is left of a snapshot's tables. Tables without a part left wait for their indexes at
    /// once.
    pub(super) fn new(
        tables: &[SnapshotTable],
        pieces: Vec<Piece>,
        builds: &Builds,
        statistics: Statistics,
        now: Instant,
    ) -> Self {
        let demand = |table: &SnapshotTable| {
            let builds: &[Build] = builds.get(&table.name).map_or(&[], Vec::as_slice);
            Demand::new(builds, table.size_bytes.max(0), statistics)
        };
        let mut all: Vec<Table> = tables
            .iter()
            .map(|table| Table {
                size_bytes: table.size_bytes.max(0),
                row_estimate: table.row_estimate.max(0),
                parts_left: 0,
                done_bytes: table.size_bytes.max(0),
                row_count: 0,
                demand: demand(table),
                built: false,
            })
            .collect();
        for piece in &pieces {
            let table = &mut all[piece.table];
            table.parts_left += 1;
            table.done_bytes = (table.done_bytes - piece.size_bytes).max(0);
        }
        let mut scheduler = BuildScheduler::default();
        for (index, table) in all.iter_mut().enumerate().filter(|(_, table)| table.parts_left == 0) {
            scheduler.open(index, table.size_bytes, std::mem::take(&mut table.demand));
        }
        Self {
            names: tables.iter().map(|table| table.name.clone()).collect(),
            history: String::new(),
            state: Mutex::new(State { tables: all, pieces: pieces.into(), copying: 0, scheduler, moved_at: now }),
            changed: Notify::new(),
        }
    }

    /// Counts the rows that earlier attempts have brought.
    pub(super) fn with_rows(self, rows: &BTreeMap<RelationName, i64>) -> Self {
        for (table, name) in self.lock().tables.iter_mut().zip(&self.names) {
            table.row_count += rows.get(name).copied().unwrap_or_default();
        }
        self
    }

    /// Adds a text to report after the present work.
    pub(super) fn with_history(mut self, history: String) -> Self {
        self.history = history;
        self
    }

    /// Queues tables whose rows are all in, and whose sizes are unknown.
    pub(super) fn complete(names: Vec<RelationName>, builds: &Builds, statistics: Statistics, now: Instant) -> Self {
        let unknown = |name| SnapshotTable {
            name,
            columns: Vec::new(),
            binary: false,
            block_count: 0,
            size_bytes: 0,
            row_estimate: 0,
            identity: String::new(),
            key: Vec::new(),
        };
        let tables: Vec<_> = names.into_iter().map(unknown).collect();
        Self::new(&tables, Vec::new(), builds, statistics, now)
    }

    pub(super) fn name(&self, table: usize) -> &RelationName {
        &self.names[table]
    }

    pub(super) fn next_piece(&self) -> Next<Piece> {
        let mut state = self.lock();
        match state.pieces.pop_front() {
            Some(piece) => {
                state.copying += 1;
                Next::Take(piece)
            }
            // A part under way may be put back.
            None if state.copying > 0 => Next::Later,
            None => Next::Never,
        }
    }

    pub(super) fn copied(&self, piece: &Piece, row_count: i64, now: Instant) {
        let mut state = self.lock();
        state.copying -= 1;
        state.moved_at = now;
        let table = &mut state.tables[piece.table];
        table.parts_left -= 1;
        table.done_bytes += piece.size_bytes;
        table.row_count += row_count;
        if table.parts_left == 0 {
            table.done_bytes = table.size_bytes;
            let (size_bytes, demand) = (table.size_bytes, std::mem::take(&mut table.demand));
            state.scheduler.open(piece.table, size_bytes, demand);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Returns a part that was not copied and has to be tried again.
    pub(super) fn put_back(&self, piece: Piece) {
        let mut state = self.lock();
        state.copying -= 1;
        state.pieces.push_front(piece);
        drop(state);
        self.changed.notify_waiters();
    }

    /// The next job for a builder on a server with so many cores. Copying rows uses cores first.
    pub(super) fn next_job(&self, cores: usize) -> Next<Job> {
        let mut state = self.lock();
        let rows_are_in = state.pieces.is_empty() && state.copying == 0;
        match state.scheduler.take(if rows_are_in { cores } else { 0 }) {
            Some(job) => Next::Take(job),
            None if rows_are_in && state.scheduler.is_empty() => Next::Never,
            None => Next::Later,
        }
    }

    pub(super) fn job_done(&self, job: Job, now: Instant) {
        let mut state = self.lock();
        state.moved_at = now;
        if state.scheduler.done(job) {
            state.tables[job.table].built = true;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Tables that wait for the source's statistics: a full question, or all that wait when no more rows
    /// come.
    pub(super) fn next_waiting(&self) -> Next<Vec<usize>> {
        let mut state = self.lock();
        let rows_are_in = state.pieces.is_empty() && state.copying == 0;
        let waiting = state.scheduler.take_waiting(if rows_are_in { 1 } else { MOST_ASKED }, MOST_ASKED);
        if !waiting.is_empty() {
            Next::Take(waiting)
        } else if rows_are_in && state.scheduler.is_empty() {
            Next::Never
        } else {
            Next::Later
        }
    }

    /// Notes that a table got the source's statistics, or needs an ANALYZE.
    pub(super) fn waited(&self, table: usize, carried: bool, now: Instant) {
        let mut state = self.lock();
        state.moved_at = now;
        if state.scheduler.waited(table, carried) {
            state.tables[table].built = true;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// The rows of a table that are in.
    pub(super) fn row_count(&self, table: usize) -> i64 {
        self.lock().tables[table].row_count
    }

    /// Notes that something has moved.
    pub(super) fn moves(&self, now: Instant) {
        self.lock().moved_at = now;
    }

    pub(super) fn moved_at(&self) -> Instant {
        self.lock().moved_at
    }

    pub(super) fn rows_are_in(&self) -> bool {
        let state = self.lock();
        state.pieces.is_empty() && state.copying == 0
    }

    pub(super) fn is_building(&self) -> bool {
        self.lock().scheduler.running() > 0
    }

    /// Whether every table has its indexes.
    pub(super) fn is_built(&self) -> bool {
        self.lock().tables.iter().all(|table| table.built)
    }

    /// Waits for a change. The caller makes it before it looks for work, so that it misses no change.
    pub(super) fn change(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// The progress, for operators.
    pub(super) fn progress(&self) -> Progress {
        let state = self.lock();
        let sum = |of: fn(&Table) -> i64| state.tables.iter().map(of).sum::<i64>().max(0);
        let subject = if state.pieces.is_empty() && state.copying == 0 {
            let built = state.tables.iter().filter(|table| table.built).count();
            format!("building indexes, {built} of {} tables done", state.tables.len())
        } else {
            format!("copying rows{}", self.history)
        };
        Progress {
            subject,
            completed: sum(|table| table.done_bytes),
            total: sum(|table| table.size_bytes),
            unit: Unit::Bytes,
            parts: state
                .tables
                .iter()
                .zip(&self.names)
                .map(|(table, name)| Part {
                    table: name.to_string(),
                    row_count: table.row_count,
                    size_bytes: table.done_bytes,
                    total_bytes: table.size_bytes,
                    // The estimate may be below the real number.
                    total_rows: match (table.parts_left, table.row_estimate) {
                        (0, _) => table.row_count,
                        (_, 0) => 0,
                        (_, estimate) => estimate.max(table.row_count),
                    },
                    ready: table.parts_left == 0,
                })
                .collect(),
            ..Progress::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use pgportage_link::Clock;

    use super::super::build_scheduler::Task;
    use super::super::plan::pieces;
    use super::*;

    fn tables() -> Vec<SnapshotTable> {
        [("large", 10_000_i64), ("small", 1)]
            .map(|(name, block_count)| SnapshotTable {
                name: RelationName::new("public", name),
                columns: Vec::new(),
                binary: true,
                block_count,
                size_bytes: block_count * 8192,
                row_estimate: block_count * 100,
                identity: String::new(),
                key: Vec::new(),
            })
            .to_vec()
    }

    #[test]
    fn a_table_is_built_when_its_last_part_is_in() {
        let now = Clock.now();
        let tables = tables();
        let all = pieces(&tables);
        let queue = CopyQueue::new(&tables, all.clone(), &Builds::new(), Statistics::Made, now);
        let analyse = |table| Job { table, task: Task::Analyse, helpers: 0 };
        assert_eq!(queue.next_job(2), Next::Later);
        for piece in &all {
            assert_eq!(queue.next_piece(), Next::Take(piece.clone()));
        }
        assert_eq!(queue.next_piece(), Next::Later, "one may come back");
        queue.put_back(all[0].clone());
        assert_eq!(queue.next_piece(), Next::Take(all[0].clone()));
        for piece in all.iter().rev() {
            queue.copied(piece, 1, now);
        }
        assert_eq!(queue.next_piece(), Next::Never);
        assert_eq!(queue.next_job(2), Next::Take(analyse(0)), "the larger one first");
        assert_eq!(queue.next_job(2), Next::Take(analyse(1)));
        assert_eq!(queue.next_job(2), Next::Later);
        assert!(queue.is_building());
        queue.job_done(analyse(1), now);
        assert!(!queue.is_built());
        queue.job_done(analyse(0), now);
        assert_eq!(queue.next_job(2), Next::Never);
        assert!(queue.is_built());
        let progress = queue.progress();
        assert_eq!(progress.completed, progress.total);
        assert!(progress.parts.iter().all(|part| part.ready && part.size_bytes == part.total_bytes));
    }

    #[test]
    fn the_source_is_asked_for_many_tables_or_for_the_last() {
        let now = Clock.now();
        let many = vec![tables()[1].clone(); MOST_ASKED + 1];
        let all = pieces(&many);
        let queue = CopyQueue::new(&many, all.clone(), &Builds::new(), Statistics::Carried, now);
        let (last, others) = all.split_last().unwrap();
        for piece in others {
            assert_eq!(queue.next_waiting(), Next::Later, "too few, and more will come");
            assert_eq!(queue.next_piece(), Next::Take(piece.clone()));
            queue.copied(piece, 7, now);
        }
        let Next::Take(waiting) = queue.next_waiting() else { panic!("there are enough") };
        assert_eq!((waiting.len(), queue.row_count(waiting[0])), (MOST_ASKED, 7));
        assert_eq!(queue.next_piece(), Next::Take(last.clone()));
        queue.copied(last, 7, now);
        assert_eq!(queue.next_waiting(), Next::Take(vec![last.table]));
        assert_eq!(queue.next_job(2), Next::Later, "one may come back");
        for &table in &waiting {
            queue.waited(table, true, now);
        }
        assert_eq!(queue.next_waiting(), Next::Later);
        queue.waited(last.table, false, now);
        let analyse = Job { table: last.table, task: Task::Analyse, helpers: 0 };
        let Next::Take(job) = queue.next_job(1) else { panic!("it needs its own") };
        assert_eq!(job, analyse);
        queue.job_done(job, now);
        assert_eq!((queue.next_waiting(), queue.next_job(1)), (Next::Never, Next::Never));
        assert!(queue.is_built());
    }

    #[test]
    fn what_was_copied_before_counts_from_the_start() {
        let tables = tables();
        let left = pieces(&tables).split_off(1);
        let queue = CopyQueue::new(&tables, left, &Builds::new(), Statistics::Made, Clock.now());
        let progress = queue.progress();
        assert!(progress.completed > 0 && progress.completed < progress.total, "{progress:?}");
    }
}
