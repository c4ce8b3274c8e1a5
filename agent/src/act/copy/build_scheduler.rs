//! Decides which index is built when, and by how many processes, and when a table gets its statistics, and
//! from where. Pure.
//!
//! A core that copies rows or builds an index is busy: a second process for the same index only costs. So
//! every build is serial while there is work for every core. When there is not, a build uses the idle
//! cores.

use std::collections::BTreeMap;

use crate::act::schema::later::{Build, Built};

/// How many times longer than a B-tree the other access methods take, measured by one build of each over
/// the same table.
const SLOW_METHOD: i64 = 4;

/// From this size on a key is made in two steps, so that other builds need not wait for its index. For a
/// smaller one, the index takes no longer than the second transaction.
const LARGE: i64 = 16 * 1024 * 1024;

/// One task for a builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// Index of the table in the snapshot's list.
    pub(super) table: usize,
    pub(super) task: Task,
    /// Parallel processes that the build may use.
    pub(super) helpers: usize,
}

/// What can be done to a table whose rows are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// The build of this number in the table's list.
    Build(usize),
    /// Only the index of this build, which is a key.
    Index(usize),
    /// Makes the index of this build the key.
    Promote(usize),
    /// Statistics, once every index is there: indexes on expressions have statistics of their own.
    Analyse,
}

/// How a table gets its statistics, once every index is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Statistics {
    /// From the source, if it has useful ones.
    Carried,
    /// By an ANALYZE here.
    #[default]
    Made,
    /// They are being made or carried, or are there.
    Underway,
}

/// The work that one table needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// Builds that lock the table against all others, one after the other.
    alone: Vec<usize>,
    /// Builds that run side by side, with their weights, the heaviest last.
    together: Vec<(i64, Task)>,
    /// Keys that take over their index, once every index is there.
    promotions: Vec<usize>,
    statistics: Statistics,
    running: usize,
    /// Whether a running task has locked the table.
    locked: bool,
}

impl Demand {
    /// Sorts the builds of a table of that size.
    pub(super) fn new(builds: &[Build], size_bytes: i64, statistics: Statistics) -> Self {
        let mut demand = Self { statistics, ..Self::default() };
        let in_two_steps = size_bytes >= LARGE && builds.len() > 1;
        for (number, build) in builds.iter().enumerate() {
            if in_two_steps && build.key.is_some() {
                demand.together.push((size_bytes, Task::Index(number)));
                demand.promotions.push(number);
                continue;
            }
            // A constraint, and what marks the table as clustered or as identified
            // by an index, is an ALTER TABLE.
            if matches!(build.object, Built::Constraint(_)) || build.statements.contains("ALTER TABLE") {
                demand.alone.push(number);
            } else {
                let slow = !build.statements.contains(" USING btree ");
                let weight = size_bytes.saturating_mul(if slow { SLOW_METHOD } else { 1 });
                demand.together.push((weight, Task::Build(number)));
            }
        }
        demand.alone.reverse();
        demand.promotions.reverse();
        // A stable sort: of the same weight, the first of the list comes last, and is taken first.
        demand.together.reverse();
        demand.together.sort_by_key(|&(weight, _)| weight);
        demand
    }

    /// The task that could begin now, with its weight.
    fn open(&self, size_bytes: i64) -> Option<(i64, Task)> {
        match (self.alone.last(), self.together.last()) {
            _ if self.locked => None,
            (Some(&number), _) => Some((size_bytes, Task::Build(number))),
            (None, Some(&open)) => Some(open),
            (None, None) => match self.promotions.last() {
                Some(&number) => (self.running == 0).then_some((size_bytes, Task::Promote(number))),
                None => self.awaits(Statistics::Made).then_some((size_bytes, Task::Analyse)),
            },
        }
    }

    fn take(&mut self, task: Task) {
        self.running += 1;
        match task {
            Task::Build(number) if self.alone.last() == Some(&number) => {
                self.alone.pop();
                self.locked = true;
            }
            Task::Build(_) | Task::Index(_) => drop(self.together.pop()),
            Task::Promote(_) => {
                self.promotions.pop();
                self.locked = true;
            }
            Task::Analyse => self.statistics = Statistics::Underway,
        }
    }

    /// Whether every index is there and these statistics come next.
    fn awaits(&self, statistics: Statistics) -> bool {
        let built = self.alone.is_empty() && self.together.is_empty() && self.promotions.is_empty();
        built && self.running == 0 && self.statistics == statistics
    }

    /// Tasks that could begin at the same time as the next one.
    fn waiting(&self) -> usize {
        if self.alone.is_empty() { self.together.len().max(1) } else { 1 }
    }

    fn is_done(&self) -> bool {
        self.statistics == Statistics::Underway && self.running == 0
    }
}

/// The tables whose rows are in.
#[derive(Debug, Default)]
pub(super) struct BuildScheduler {
    tables: BTreeMap<usize, (i64, Demand)>,
}

impl BuildScheduler {
    /// Adds a table whose rows are in.
    pub(super) fn open(&mut self, table: usize, size_bytes: i64, demand: Demand) {
        self.tables.insert(table, (size_bytes, demand));
    }

    /// The heaviest task that can begin, so that no long one is left alone at the end. `cores` is the
    /// number of idle cores.
    pub(super) fn take(&mut self, cores: usize) -> Option<Job> {
        let running = self.running();
        let open = self.tables.iter().filter_map(|(&table, (size, demand))| Some((table, demand.open(*size)?)));
        let waiting = open.clone().map(|(table, _)| self.tables[&table].1.waiting()).sum::<usize>();
        let (table, (_, task)) = open.max_by_key(|&(table, (weight, _))| (weight, std::cmp::Reverse(table)))?;
        let busy = running + waiting.max(1);
        let helpers = (cores / busy).saturating_sub(1);
        self.tables.get_mut(&table)?.1.take(task);
        Some(Job { table, task, helpers })
    }

    /// Notes that a job is done. Returns whether its table needs nothing more.
    pub(super) fn done(&mut self, job: Job) -> bool {
        self.leave(job.table, |demand| demand.locked = false)
    }

    /// Tables that wait for the source's statistics: at most `most`, and none while they are fewer than
    /// `least`.
    pub(super) fn take_waiting(&mut self, least: usize, most: usize) -> Vec<usize> {
        let waiting = self.tables.iter_mut().filter(|(_, (_, demand))| demand.awaits(Statistics::Carried));
        let mut waiting: Vec<_> = waiting.take(most).collect();
        if waiting.len() < least {
            return Vec::new();
        }
        for (_, (_, demand)) in &mut waiting {
            demand.statistics = Statistics::Underway;
            demand.running += 1;
        }
        waiting.into_iter().map(|(&table, _)| table).collect()
    }

    /// Notes that a table got the source's statistics, or needs an ANALYZE. Returns whether it needs
    /// nothing more.
    pub(super) fn waited(&mut self, table: usize, carried: bool) -> bool {
        self.leave(table, |demand| {
            if !carried {
                demand.statistics = Statistics::Made;
            }
        })
    }

    /// Changes the demand of a table. Returns whether it needs nothing more.
    fn leave(&mut self, table: usize, change: impl FnOnce(&mut Demand)) -> bool {
        let Some((_, demand)) = self.tables.get_mut(&table) else { return false };
        demand.running -= 1;
        change(demand);
        let done = demand.is_done();
        if done {
            self.tables.remove(&table);
        }
        done
    }

    /// Jobs that were taken and are not done.
    pub(super) fn running(&self) -> usize {
        self.tables.values().map(|(_, demand)| demand.running).sum()
    }

    /// Whether no work is left for the tables that were added.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgportage_postgres::RelationName;

    fn build(object: Built, statements: &str) -> Build {
        Build::new(RelationName::new("public", "t"), object, statements.to_owned())
    }

    fn index(name: &str, rest: &str) -> Build {
        let name = RelationName::new("public", name);
        build(Built::Index(name.clone()), &format!("CREATE INDEX {name} ON public.t USING {rest};"))
    }

    fn key() -> Build {
        build(
            Built::Constraint("t_pkey".to_owned()),
            "ALTER TABLE ONLY public.t ADD CONSTRAINT t_pkey PRIMARY KEY (a);",
        )
    }

    fn tasks(scheduler: &mut BuildScheduler, cores: usize) -> Vec<(usize, Task, usize)> {
        std::iter::from_fn(|| scheduler.take(cores)).map(|job| (job.table, job.task, job.helpers)).collect()
    }

    #[test]
    fn keys_come_alone_then_the_slowest_index_then_statistics() {
        let builds = [index("a", "btree (a)"), index("b", "gin (b)"), key(), index("c", "btree (c)")];
        let mut scheduler = BuildScheduler::default();
        scheduler.open(0, 100, Demand::new(&builds, 100, Statistics::Made));
        assert_eq!(tasks(&mut scheduler, 0), [(0, Task::Build(2), 0)], "nothing beside a key");
        assert!(!scheduler.done(Job { table: 0, task: Task::Build(2), helpers: 0 }));
        let side_by_side = [1, 0, 3].map(|number| (0, Task::Build(number), 0));
        assert_eq!(tasks(&mut scheduler, 0), side_by_side, "the GIN index first");
        for number in [0, 1, 3] {
            assert_eq!(scheduler.take(0), None, "statistics come last");
            assert!(!scheduler.done(Job { table: 0, task: Task::Build(number), helpers: 0 }));
        }
        assert_eq!(tasks(&mut scheduler, 0), [(0, Task::Analyse, 0)]);
        assert!(!scheduler.is_empty());
        assert!(scheduler.done(Job { table: 0, task: Task::Analyse, helpers: 0 }));
        assert!(scheduler.is_empty() && scheduler.running() == 0);
    }

    #[test]
    fn the_index_of_a_large_tables_key_goes_beside_the_others() {
        let builds = [key(), index("a", "btree (a)"), index("b", "gin (b)")];
        let mut scheduler = BuildScheduler::default();
        scheduler.open(0, LARGE, Demand::new(&builds, LARGE, Statistics::Made));
        let side_by_side = [Task::Build(2), Task::Index(0), Task::Build(1)];
        assert_eq!(tasks(&mut scheduler, 0), side_by_side.map(|task| (0, task, 0)), "the slow one first");
        let done = |scheduler: &mut BuildScheduler, task| scheduler.done(Job { table: 0, task, helpers: 0 });
        assert!(!done(&mut scheduler, Task::Index(0)) && !done(&mut scheduler, Task::Build(1)));
        assert_eq!(scheduler.take(0), None, "the key has to have the table for itself");
        assert!(!done(&mut scheduler, Task::Build(2)));
        assert_eq!(tasks(&mut scheduler, 0), [(0, Task::Promote(0), 0)]);
        assert!(!done(&mut scheduler, Task::Promote(0)));
        assert_eq!(tasks(&mut scheduler, 0), [(0, Task::Analyse, 0)]);
        assert!(done(&mut scheduler, Task::Analyse));
    }

    #[test]
    fn a_key_is_made_at_once_where_nothing_waits_for_it() {
        for (builds, size) in [(vec![key()], LARGE), (vec![key(), index("a", "btree (a)")], LARGE - 1)] {
            let mut scheduler = BuildScheduler::default();
            scheduler.open(0, size, Demand::new(&builds, size, Statistics::Made));
            assert_eq!(scheduler.take(0).unwrap().task, Task::Build(0));
        }
    }

    #[test]
    fn statistics_are_carried_in_numbers_and_made_where_they_are_of_no_use() {
        let mut scheduler = BuildScheduler::default();
        for table in 0..3 {
            let builds = if table == 2 { vec![index("a", "btree (a)")] } else { Vec::new() };
            scheduler.open(table, 100, Demand::new(&builds, 100, Statistics::Carried));
        }
        assert_eq!(tasks(&mut scheduler, 0), [(2, Task::Build(0), 0)], "nothing is analysed yet");
        assert!(scheduler.take_waiting(3, 9).is_empty(), "one has no index yet");
        assert!(!scheduler.done(Job { table: 2, task: Task::Build(0), helpers: 0 }));
        assert_eq!(scheduler.take_waiting(1, 2), [0, 1]);
        assert_eq!(scheduler.take_waiting(1, 2), [2]);
        assert_eq!(
            (scheduler.take_waiting(1, 2), scheduler.take(0), scheduler.running()),
            (vec![], None, 3),
            "each once"
        );
        assert!(scheduler.waited(0, true), "needs nothing more");
        assert!(!scheduler.waited(1, false));
        assert!(scheduler.waited(2, true));
        assert!(scheduler.take_waiting(0, 2).is_empty(), "not asked for again");
        assert_eq!(tasks(&mut scheduler, 0), [(1, Task::Analyse, 0)]);
        assert!(scheduler.done(Job { table: 1, task: Task::Analyse, helpers: 0 }));
        assert!(scheduler.is_empty());
    }

    #[test]
    fn an_index_that_marks_its_table_comes_alone() {
        let mut marked = index("a", "btree (a)");
        marked.statements.push_str("\nALTER TABLE public.t CLUSTER ON a;\n");
        let mut scheduler = BuildScheduler::default();
        scheduler.open(0, 100, Demand::new(&[marked, index("b", "btree (b)")], 100, Statistics::Made));
        assert_eq!(tasks(&mut scheduler, 0), [(0, Task::Build(0), 0)]);
    }

    #[test]
    fn large_tables_come_first() {
        let mut scheduler = BuildScheduler::default();
        for (table, size) in [(0, 10), (1, 1_000), (2, 100)] {
            scheduler.open(table, size, Demand::new(&[index("a", "btree (a)")], size, Statistics::Made));
        }
        assert_eq!(tasks(&mut scheduler, 0).iter().map(|task| task.0).collect::<Vec<_>>(), [1, 2, 0]);
    }

    #[test]
    fn cores_that_are_left_over_help() {
        let mut scheduler = BuildScheduler::default();
        scheduler.open(0, 100, Demand::new(&[index("a", "btree (a)"), index("b", "btree (b)")], 100, Statistics::Made));
        assert_eq!(scheduler.take(8).unwrap().helpers, 3, "two builds share eight cores");
        assert_eq!(scheduler.take(2).unwrap().helpers, 0, "two builds, two cores");
        let mut scheduler = BuildScheduler::default();
        scheduler.open(0, 100, Demand::new(&[index("a", "btree (a)")], 100, Statistics::Made));
        assert_eq!(scheduler.take(0).unwrap().helpers, 0, "every core copies rows");
        let mut scheduler = BuildScheduler::default();
        scheduler.open(0, 100, Demand::new(&[index("a", "btree (a)")], 100, Statistics::Made));
        assert_eq!(scheduler.take(4).unwrap().helpers, 3, "there is nothing else to do");
    }
}
