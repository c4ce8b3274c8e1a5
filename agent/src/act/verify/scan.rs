//! One worker: reads tables part by part on both sides, and looks closer where digests differ.

use std::sync::Arc;
use std::time::Duration;

use pgportage_data_plane::comparison::{
    ComparedTable, Digest, MOST_BUCKETS, Part, PartDigest, Questions, Reader, RowKey, Suspect, Which, differing,
};
use pgportage_link::{Failure, Remedy};
use pgportage_postgres::is_passing;
use pgportage_proto::Reason;
use tokio::time::Instant;

use super::checkpoint::TableNote;
use super::compare::open;
use super::queue::{RangeQueue, SAVE_INTERVAL, Work};
use crate::act::Context;
use crate::act::patience::Patience;

/// Rows of the first part of a table.
const FIRST_ROWS: u32 = 4_096;
/// The time that reading a part should take, which is how long its snapshot lives. The number of its rows
/// follows from it.
const PART_TIME: Duration = Duration::from_millis(200);
const FEWEST_ROWS: u32 = 16;
/// Most rows in a part. So many, each with key and hash, are still no burden for the link.
const MOST_ROWS: u32 = 1 << 16;
/// After so many rows under suspicion the worker looks closer at them.
const SUSPECTS: usize = 1_000;
/// Rows of a table without a key that are listed in one question.
const LISTED: i64 = 50_000;
/// Rows of a bucket, and buckets listed in one question.
const BUCKET_ROWS: i64 = 4_096;
const BUCKETS: usize = 8;

/// Takes work from the queue until there is none.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    pub(super) cx: &'a Context,
    pub(super) queue: &'a RangeQueue<'a>,
    /// Both ends. None when one of them was lost.
    ends: Option<(Reader, Questions)>,
}

enum End {
    /// All of it is compared.
    Complete,
    /// The time was over.
    Interrupted,
}

impl<'a> Worker<'a> {
    pub(super) fn new(cx: &'a Context, queue: &'a RangeQueue<'a>, ends: Option<(Reader, Questions)>) -> Self {
        Self { cx, queue, ends }
    }

    pub(super) async fn run(mut self) -> Result<(), Failure> {
        while let Some(work) = self.queue.take() {
            match work {
                Work::Batch(tables) => {
                    for table in Box::pin(self.batch(tables)).await? {
                        self.table(&table).await?;
                    }
                }
                Work::Table(table) => self.table(&table).await?,
            }
        }
        Ok(())
    }

    /// Both ends, opened anew if one was lost.
    pub(super) async fn ends(&mut self) -> Result<&mut (Reader, Questions), Failure> {
        if self.ends.is_none() {
            self.ends = Some(open(self.cx).await?);
        }
        self.ends.as_mut().ok_or_else(|| Failure::new(Reason::Internal, "both ends were opened and are not there"))
    }

    /// Compares small tables in one question. Returns those that have to be compared one by one: all of
    /// them when the question failed.
    async fn batch(&mut self, tables: Vec<Arc<ComparedTable>>) -> Result<Vec<Arc<ComparedTable>>, Failure> {
        self.cx.safe_point()?;
        let parts: Vec<_> = tables.iter().map(|table| self.part(table, Which::ALL)).collect();
        let digests = match self.digests(&parts).await {
            Ok(digests) => digests,
            Err(failure) => {
                tracing::debug!(%failure, detail = failure.detail, "tables are compared one by one");
                self.ends = None;
                return Ok(tables);
            }
        };
        let mut left = Vec::new();
        for (place, table) in tables.into_iter().enumerate() {
            let [here, there] = [&digests.0, &digests.1].map(|side| digest_of(side, place));
            if here == there {
                self.queue.compared(&table.name, table.size_bytes);
                let note = TableNote { digest: here, complete: true, ..TableNote::default() };
                self.queue.note(&table.name, note)?;
            } else {
                left.push(table);
            }
        }
        Ok(left)
    }

    /// Compares one table, to its end or until the time is over. A failure of this table alone is noted; a
    /// failure that may pass is waited out.
    async fn table(&mut self, table: &Arc<ComparedTable>) -> Result<(), Failure> {
        let mut patience = Patience::new(self.cx);
        let mut begun = self.queue.known(&table.name).position;
        loop {
            let failure = match Box::pin(self.scan(table)).await {
                Ok(End::Complete | End::Interrupted) => return Ok(()),
                Err(failure) => failure,
            };
            // A statement that was cut off leaves an answer in the stream, which would be taken for the
            // next one.
            self.ends = None;
            self.cx.safe_point()?;
            let position = self.queue.known(&table.name).position;
            if position != begun {
                patience.moved(self.cx);
                begun = position;
            }
            if is_passing(&failure) || failure.remedy == Remedy::Wait {
                patience.again(self.cx, passing(failure), &format!("to compare {}", table.name)).await?;
            } else if let Some(state) = &failure.sqlstate {
                let obstacle = format!("{failure} (SQLSTATE {state})");
                let note = TableNote { obstacle, complete: true, ..self.queue.known(&table.name) };
                return self.queue.note(&table.name, note);
            } else {
                return Err(failure);
            }
        }
    }

    /// Scans from the checkpoint's position to the table's end. Notes progress only while no row is under
    /// suspicion.
    async fn scan(&mut self, table: &Arc<ComparedTable>) -> Result<End, Failure> {
        let (mut table, mut note) = (Arc::clone(table), self.queue.known(&table.name));
        let (mut suspects, mut rows) = (Vec::new(), FIRST_ROWS);
        let mut saved_at = self.cx.tasks.clock.now();
        loop {
            self.cx.safe_point()?;
            if self.queue.is_over() {
                self.settle(&table, &mut note, &mut suspects).await?;
                self.queue.note(&table.name, note)?;
                return Ok(End::Interrupted);
            }
            let begun = self.cx.tasks.clock.now();
            let first = note.position.clone();
            let end = if table.key.is_empty() {
                None
            } else {
                self.ends().await?.0.key_behind(&table, first.as_ref(), rows).await?
            };
            let part = self.part(&table, Which::Range { first, end: end.clone() });
            let (here, there) = self.digests(std::slice::from_ref(&part)).await?;
            if there.iter().any(|digest| digest.disordered) {
                tracing::info!(table = %table.name, "the sides sort the key differently: compared as one without a key");
                (table, note) = (Arc::new(table.without_key()), TableNote::default());
                suspects.clear();
                continue;
            }
            let [mine, theirs] = [&here, &there].map(|side| digest_of(side, 0));
            if mine != theirs {
                let keys = self.differing(&part, mine.row_count.max(theirs.row_count)).await?;
                suspects.extend(keys.into_iter().map(Suspect::new));
            }
            note.digest += mine;
            note.position = end;
            rows = adapted(rows, self.cx.tasks.clock.now().duration_since(begun));
            let read = if note.position.is_none() && note.digest == mine { table.size_bytes } else { size_of(&here) };
            self.queue.compared(&table.name, read);
            let complete = note.position.is_none();
            if complete || suspects.len() >= SUSPECTS || self.is_due(saved_at) {
                self.settle(&table, &mut note, &mut suspects).await?;
                note.complete = complete;
                saved_at = self.cx.tasks.clock.now();
                self.queue.note(&table.name, note.clone())?;
            }
            if complete {
                return Ok(End::Complete);
            }
        }
    }

    fn is_due(&self, saved_at: Instant) -> bool {
        self.cx.tasks.clock.now().duration_since(saved_at) >= SAVE_INTERVAL
    }

    pub(super) fn part(&self, table: &Arc<ComparedTable>, which: Which) -> Part {
        Part { table: Arc::clone(table), hashing: self.queue.hashing, which }
    }

    /// Digests of both sides, read at the same time.
    async fn digests(&mut self, parts: &[Part]) -> Result<(Vec<PartDigest>, Vec<PartDigest>), Failure> {
        let (here, there) = self.ends().await?;
        tokio::try_join!(here.digests(parts), there.digests(parts))
    }

    /// The keys of a part at which the sides seem to differ.
    async fn differing(&mut self, part: &Part, row_count: i64) -> Result<Vec<RowKey>, Failure> {
        if !part.table.key.is_empty() || row_count <= LISTED {
            return self.differing_rows(part).await;
        }
        let count = u64::try_from(row_count / BUCKET_ROWS).unwrap_or(1).next_power_of_two();
        let count = i64::try_from(count).unwrap_or(MOST_BUCKETS).min(MOST_BUCKETS);
        let dealt = self.part(&part.table, Which::Buckets { count, only: Vec::new() });
        let (here, there) = self.digests(&[dealt]).await?;
        let buckets = differing_buckets(&here, &there);
        let mut keys = Vec::new();
        for only in buckets.chunks(BUCKETS) {
            self.cx.safe_point()?;
            let part = self.part(&part.table, Which::Buckets { count, only: only.to_vec() });
            keys.extend(self.differing_rows(&part).await?);
        }
        Ok(keys)
    }

    async fn differing_rows(&mut self, part: &Part) -> Result<Vec<RowKey>, Failure> {
        let (here, there) = self.ends().await?;
        let (here, there) = tokio::try_join!(here.rows(part), there.rows(part))?;
        Ok(differing(&here, &there))
    }
}

/// A failure of the other agent may pass, like one of a server.
fn passing(failure: Failure) -> Failure {
    if is_passing(&failure) {
        return failure;
    }
    Failure { reason: Reason::ServerUnreachable, ..failure }
}

fn digest_of(side: &[PartDigest], place: usize) -> Digest {
    side.iter().find(|digest| digest.part == place).map(|digest| digest.digest).unwrap_or_default()
}

fn size_of(side: &[PartDigest]) -> i64 {
    side.iter().map(|digest| digest.size_bytes).sum()
}

/// Buckets whose digests differ, or that only one side has.
fn differing_buckets(here: &[PartDigest], there: &[PartDigest]) -> Vec<i64> {
    let missing = |ours: &[PartDigest], theirs: &[PartDigest]| -> Vec<i64> {
        let same =
            |mine: &PartDigest| theirs.iter().any(|other| (other.bucket, other.digest) == (mine.bucket, mine.digest));
        ours.iter().filter(|mine| !same(mine)).map(|mine| mine.bucket).collect()
    };
    let mut buckets = missing(here, there);
    buckets.extend(missing(there, here));
    buckets.sort_unstable();
    buckets.dedup();
    buckets
}

/// How many rows the next part has, so that it takes as long as it should.
fn adapted(rows: u32, took: Duration) -> u32 {
    let wanted = f64::from(rows) * PART_TIME.as_secs_f64() / took.as_secs_f64().max(0.001);
    // Changed step by step: one slow moment does not make a slow table.
    let wanted = wanted.clamp(f64::from(rows) / 4.0, f64::from(rows) * 4.0);
    (wanted as u32).clamp(FEWEST_ROWS, MOST_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_and_shrink_with_the_time_they_take() {
        assert_eq!(adapted(4_096, PART_TIME), 4_096);
        assert_eq!(adapted(4_096, PART_TIME / 2), 8_192);
        assert_eq!(adapted(4_096, Duration::ZERO), 16_384, "not all at once");
        assert_eq!(adapted(MOST_ROWS, Duration::ZERO), MOST_ROWS);
        assert_eq!(adapted(4_096, PART_TIME * 100), 1_024);
        assert_eq!(adapted(FEWEST_ROWS, PART_TIME * 100), FEWEST_ROWS);
    }

    #[test]
    fn buckets_differ_by_digest_or_by_being_there() {
        let bucket = |bucket, row_count| PartDigest {
            bucket,
            digest: Digest { row_count, sums: [0, 0] },
            ..PartDigest::default()
        };
        let here = [bucket(1, 5), bucket(2, 5), bucket(3, 5)];
        let there = [bucket(2, 5), bucket(3, 6), bucket(4, 5)];
        assert_eq!(differing_buckets(&here, &there), [1, 3, 4]);
        assert_eq!(differing_buckets(&here, &here), [0_i64; 0]);
    }
}
