//! How fast bytes come, and how long the rest of them will take. Pure.
//!
//! Progress says how much there is, never how fast it came: that is worked out
//! here, from looks at the same work. The first look at a step under way counts
//! from its beginning; once it was watched for a while, only that counts.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use time::OffsetDateTime;

use crate::render::{running_tables, whole};
use crate::view::{Migration, Part, Progress, StepState, Unit};

/// Looks from before this say nothing about the present.
const WINDOW: Duration = Duration::from_secs(30);
/// Looks closer together than this are kept as one: it bounds how many there
/// are.
const GAP: Duration = Duration::from_secs(1);
/// Agents report about once a second: over less than this, chance decides.
const SHORTEST: Duration = Duration::from_secs(3);

/// Looks at the work of the step that runs, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Nothing before the first look.
    work: Option<Work>,
    looks: VecDeque<Look>,
}

/// What looks belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Work {
    step: String,
    attempt: i32,
    unit: Option<Unit>,
}

#[derive(Clone, Debug)]
struct Look {
    time: OffsetDateTime,
    bytes: Option<i64>,
    /// Of each table under way.
    tables: HashMap<String, i64>,
}

/// How fast bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// Bytes in a second.
    pub bytes_per_second: i64,
    /// How long the rest will take at this speed, if it is known how much that
    /// is.
    pub left: Option<Duration>,
}

impl Pace {
    /// What a single look can tell: the average since the step began.
    pub fn since_start(migration: &Migration, now: OffsetDateTime) -> Self {
        let mut pace = Self::default();
        pace.look(migration, now);
        pace
    }

    /// Looks once more.
    pub fn look(&mut self, migration: &Migration, now: OffsetDateTime) {
        let Some(step) = migration.steps.iter().find(|step| step.state == StepState::Running) else {
            self.looks.clear();
            return;
        };
        let progress = step.progress.as_ref();
        let work =
            Work { step: step.name.clone(), attempt: step.attempt_count, unit: progress.map(|progress| progress.unit) };
        let first = self.work.is_none();
        if self.work.as_ref() != Some(&work) || self.looks.back().is_some_and(|last| now < last.time) {
            self.looks.clear();
            self.work = Some(work);
        }
        let Some(progress) = progress else { return };
        let bytes = (progress.unit == Unit::Bytes).then_some(progress.completed);
        // Later attempts begin with what earlier ones have done.
        if let Some(start) = step.start_time.filter(|start| first && step.attempt_count <= 1 && *start < now) {
            self.looks.push_back(Look { time: start, bytes: bytes.map(|_| 0), tables: HashMap::new() });
        }
        let crowded = self.looks.iter().rev().nth(1).is_some_and(|before| now - before.time < GAP);
        if crowded {
            self.looks.pop_back();
        }
        let tables = running_tables(progress).map(|part| (part.table.clone(), part.size_bytes)).collect();
        self.looks.push_back(Look { time: now, bytes, tables });
        while self.looks.len() > 2 && self.looks.get(1).is_some_and(|second| second.time <= now - WINDOW) {
            self.looks.pop_front();
        }
    }

    /// How fast the work of the step goes.
    pub fn step(&self, progress: &Progress) -> Option<Speed> {
        let bytes_per_second = self.speed(|look| look.bytes)?;
        Some(Speed::until(bytes_per_second, progress.completed, progress.total))
    }

    /// How fast a table comes.
    pub fn table(&self, part: &Part) -> Option<Speed> {
        let bytes_per_second = self.speed(|look| look.tables.get(&part.table).copied())?;
        Some(Speed::until(bytes_per_second, part.size_bytes, part.total_bytes))
    }

    /// Bytes in a second, over the looks that know of them. What shrank was begun
    /// anew: only what came since counts.
    fn speed(&self, bytes: impl Fn(&Look) -> Option<i64>) -> Option<i64> {
        let mut known = self.looks.iter().rev().map_while(|look| bytes(look).map(|bytes| (look.time, bytes)));
        let newest = known.next()?;
        let mut oldest = newest;
        for earlier in known {
            if earlier.1 > oldest.1 {
                break;
            }
            oldest = earlier;
        }
        let span = Duration::try_from(newest.0 - oldest.0).ok().filter(|span| *span >= SHORTEST)?;
        let came = i128::from(newest.1) - i128::from(oldest.1);
        i64::try_from(came * 1000 / i128::try_from(span.as_millis()).ok()?).ok()
    }
}

impl Speed {
    fn until(bytes_per_second: i64, completed: i64, total: i64) -> Self {
        let left = whole(completed, total).filter(|_| bytes_per_second > 0).and_then(|total| {
            let seconds = (i128::from(total) - i128::from(completed)) / i128::from(bytes_per_second);
            u64::try_from(seconds).ok().map(Duration::from_secs)
        });
        Self { bytes_per_second, left }
    }
}

#[cfg(test)]
mod tests {
    use pgportage_proto::v1;

    use super::*;

    const START: i64 = 1_000_000;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(START + second).unwrap()
    }

    /// A copy begun at second 0: its bytes, and those of each table.
    fn copying(completed: i64, total: i64, tables: &[(&str, i64, i64)]) -> Migration {
        let parts = tables.iter().map(|(table, size_bytes, total_bytes)| v1::ProgressPart {
            table: (*table).to_owned(),
            size_bytes: *size_bytes,
            total_bytes: *total_bytes,
            ..Default::default()
        });
        let progress = v1::CommandProgress {
            completed,
            total,
            unit: v1::command_progress::Unit::Bytes.into(),
            parts: parts.collect(),
            ..Default::default()
        };
        let step = v1::Step {
            name: "copy".to_owned(),
            state: v1::step::State::Running.into(),
            attempt_count: 1,
            start_time: Some(prost_types::Timestamp { seconds: START, nanos: 0 }),
            progress: Some(progress),
            ..Default::default()
        };
        Migration::from(v1::Migration { steps: vec![step], ..Default::default() })
    }

    fn step(pace: &Pace, migration: &Migration) -> Option<(i64, Option<u64>)> {
        let progress = migration.steps[0].progress.as_ref().unwrap();
        pace.step(progress).map(|speed| (speed.bytes_per_second, speed.left.map(|left| left.as_secs())))
    }

    fn table(pace: &Pace, migration: &Migration, number: usize) -> Option<(i64, Option<u64>)> {
        let progress = migration.steps[0].progress.as_ref().unwrap();
        pace.table(&progress.parts[number]).map(|speed| (speed.bytes_per_second, speed.left.map(|left| left.as_secs())))
    }

    #[test]
    fn a_single_look_tells_the_average_of_the_whole_and_of_no_table() {
        let now = copying(1_000, 5_000, &[("a", 500, 900)]);
        let pace = Pace::since_start(&now, at(10));
        assert_eq!(step(&pace, &now), Some((100, Some(40))));
        assert_eq!(table(&pace, &now, 0), None);
        // Without a total there is a speed and no end.
        let now = copying(1_000, 0, &[]);
        assert_eq!(step(&Pace::since_start(&now, at(10)), &now), Some((100, None)));
        // One that was estimated too small is none.
        let now = copying(1_000, 900, &[]);
        assert_eq!(step(&Pace::since_start(&now, at(10)), &now), Some((100, None)));
    }

    #[test]
    fn an_attempt_that_goes_on_where_another_broke_has_no_average() {
        let mut now = copying(1_000, 5_000, &[]);
        now.steps[0].attempt_count = 2;
        assert_eq!(step(&Pace::since_start(&now, at(10)), &now), None);
    }

    #[test]
    fn whoever_watches_sees_the_present_speed() {
        let mut pace = Pace::default();
        // Slow for a minute, then fast: after half a minute the slow one is
        // forgotten.
        let mut seen = Vec::new();
        for second in 1..=100 {
            let bytes = if second <= 60 { second * 10 } else { 600 + (second - 60) * 1_000 };
            let now = copying(bytes, 50_600, &[("a", bytes, 50_600), ("b", 0, 10)]);
            pace.look(&now, at(second));
            if [60, 100].contains(&second) {
                seen.push((step(&pace, &now), table(&pace, &now, 0), table(&pace, &now, 1)));
            }
        }
        let slow = Some((10, Some(5_000)));
        let fast = Some((1_000, Some(10)));
        assert_eq!(seen, [(slow, slow, None), (fast, fast, None)]);
        assert!(pace.looks.len() <= 33, "{} looks", pace.looks.len());
    }

    #[test]
    fn news_in_quick_succession_takes_no_room() {
        let mut pace = Pace::default();
        for tenth in 0..10_000 {
            let now = copying(tenth, 20_000, &[]);
            pace.look(&now, at(1) + Duration::from_millis(u64::try_from(tenth).unwrap() * 100));
            assert!(pace.looks.len() <= 64);
        }
        let now = copying(9_999, 20_000, &[]);
        assert_eq!(step(&pace, &now).map(|(speed, _)| speed), Some(10));
    }

    #[test]
    fn what_stands_still_has_no_end() {
        let mut pace = Pace::default();
        for second in 1..=60 {
            pace.look(&copying(700, 1_000, &[]), at(second));
        }
        assert_eq!(step(&pace, &copying(700, 1_000, &[])), Some((0, None)));
    }

    #[test]
    fn what_was_begun_anew_counts_from_there() {
        let mut pace = Pace::default();
        for (second, bytes) in [(1, 5_000), (5, 9_000), (6, 0), (8, 100), (10, 400)] {
            pace.look(&copying(bytes, 10_000, &[("a", bytes, 0)]), at(second));
        }
        let now = copying(400, 10_000, &[("a", 400, 0)]);
        assert_eq!(step(&pace, &now), Some((100, Some(96))));
        // It was not under way at zero bytes, and seen for two seconds only since.
        assert_eq!(table(&pace, &now, 0), None);
    }

    #[test]
    fn other_work_is_another_matter() {
        let mut pace = Pace::default();
        for second in 1..=20 {
            pace.look(&copying(second * 100, 10_000, &[]), at(second));
        }
        let mut next = copying(9_000, 10_000, &[]);
        next.steps[0].name = "catch-up".to_owned();
        pace.look(&next, at(21));
        assert_eq!(step(&pace, &next), None, "a watcher knows when it was not there yet");
        next.steps[0].progress.as_mut().unwrap().unit = Unit::Tables;
        pace.look(&next, at(25));
        assert_eq!(step(&pace, &next), None);
        next.steps[0].state = StepState::Succeeded;
        pace.look(&next, at(30));
        assert!(pace.looks.is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_begins_anew() {
        let mut pace = Pace::default();
        pace.look(&copying(100, 1_000, &[]), at(100));
        pace.look(&copying(200, 1_000, &[]), at(90));
        assert_eq!(pace.looks.len(), 1);
        pace.look(&copying(700, 1_000, &[]), at(95));
        assert_eq!(step(&pace, &copying(700, 1_000, &[])), Some((100, Some(3))));
    }
}
