//! On the subscriber: compares the rows of every table with those of the other side, by their hashes. The
//! destination is the subscriber until the cutover, the source after it; messages call the publisher
//! *source*.
//!
//! No table is locked and no snapshot is old: a table is read part by part, each part on both sides at the
//! same moment and under a snapshot of its own. This agent looks for the boundaries of parts on the
//! subscriber, where no application waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use pgportage_data_plane::comparison::{ComparedTable, Hashing, Questions, Reader};
use pgportage_link::{Effect, Failure};
use pgportage_postgres::{Purpose, RelationName};
use pgportage_proto::{ActKind, Side, v1};
use pgportage_report::comparison::RowComparison;
use pgportage_report::progress::Progress;

use super::checkpoint::{Checkpoint, TableNote};
use super::queue::RangeQueue;
use super::scan::Worker;
use crate::act::{Act, Context, Produced, Survey, history};
use crate::message::duration;

/// Tables compared at the same time: while the publisher reads a part of one, the subscriber reads a part
/// of another. Each costs both servers a session.
const WORKERS: usize = 2;

/// Compares rows by their hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompareRows {
    /// Number of the comparison. The number of the previous one continues it where it stopped.
    pub comparison_id: i64,
    /// How long it may take. None: until it is complete.
    pub time_limit: Option<Duration>,
    /// Whether to write statements that correct the differences.
    pub repair: bool,
}

impl Act for CompareRows {
    const KIND: ActKind = ActKind::CompareRows;
    const WAY_BACK: &'static [Side] = &[Side::Source];
    type Message = v1::CompareRows;
    type Output = RowComparison;

    fn decode(message: v1::CompareRows) -> Result<Self, Failure> {
        Ok(Self {
            comparison_id: message.comparison_id,
            time_limit: message.time_limit.map(|limit| duration(Some(limit), "time_limit")).transpose()?,
            repair: message.repair,
        })
    }

    fn encode(output: RowComparison) -> Produced {
        Produced::CompareRows(output.into())
    }

    /// Never done before: rows change.
    async fn survey(&self, _cx: &Context) -> Result<Survey<RowComparison>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<RowComparison, Failure> {
        cx.report(Progress { subject: "listing the tables".to_owned(), ..Progress::default() });
        let (mut here, mut there) = open(cx).await?;
        let (plan, hashing) = Plan::make(cx, &mut here, &mut there).await?;
        tracing::info!(
            migration.id = %cx.participation.migration, tables = plan.tables.len(), ?hashing,
            "comparing rows by their hashes"
        );
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let server = pgportage_postgres::history(&*session).await?;
        let mut checkpoint =
            Checkpoint::open(&cx.settings.state_dir, &cx.participation.migration, self.comparison_id, &server)?;
        let begun_on = checkpoint.server().to_owned();
        let mut obstructed = Vec::new();
        for (table, obstacle) in plan.obstacles {
            checkpoint.note(&table, TableNote { obstacle, complete: true, ..TableNote::default() });
            obstructed.push(table);
        }
        let queue = RangeQueue::new(cx, hashing, self.repair, self.time_limit, checkpoint, plan.tables, obstructed);
        let mut ends = vec![Some((here, there))];
        ends.resize_with(WORKERS, || None);
        let workers = ends.into_iter().map(|ends| Box::pin(Worker::new(cx, &queue, ends).run()));
        let worked = tokio::select! {
            biased;
            // Dropping the sessions ends their statements on both servers.
            () = cx.cancel.cancelled() => cx.safe_point().map_err(|cancelled| cancelled.effect(Effect::None)),
            worked = try_join_all(workers) => worked.map(|_| ()),
        };
        let result = queue.close()?;
        worked?;
        if is_level(&result) && begun_on == server {
            history::take_up(cx, &server).await?;
        }
        Ok(result)
    }

    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}

/// Whether every row of every table was compared, and none differs.
fn is_level(compared: &RowComparison) -> bool {
    compared.complete
        && compared.tables.iter().all(|table| {
            table.obstacle.is_empty()
                && table.missing_count + table.extra_count + table.changed_count + table.unsettled_count == 0
        })
}

pub(in crate::act) async fn open(cx: &Context) -> Result<(Reader, Questions), Failure> {
    let here = Reader::open(&cx.door, &cx.participation.database).await?;
    let there = cx.peers.call(&cx.participation).await?.compare_rows().await?;
    Ok((here, there))
}

/// The tables that can be compared, and those that cannot.
#[derive(Debug)]
pub(in crate::act) struct Plan {
    /// Every table that both sides have with the same columns.
    pub(in crate::act) tables: Vec<Arc<ComparedTable>>,
    /// The other tables, each with the reason.
    obstacles: Vec<(RelationName, String)>,
}

impl Plan {
    /// Asks both ends which tables they have, and how rows can be hashed.
    pub(in crate::act) async fn make(
        cx: &Context,
        here: &mut Reader,
        there: &mut Questions,
    ) -> Result<(Self, Hashing), Failure> {
        let ours = here.tables(&cx.participation).await?;
        let (theirs, probe) = there.tables().await?;
        let hashing = if here.probe().await? == probe { Hashing::Native } else { Hashing::Portable };
        Ok((Self::of(ours, theirs), hashing))
    }

    /// Compares the tables of both sides with each other.
    fn of(ours: Vec<ComparedTable>, theirs: Vec<ComparedTable>) -> Self {
        let mut theirs: BTreeMap<_, _> = theirs.into_iter().map(|table| (table.name.clone(), table)).collect();
        let (mut tables, mut obstacles) = (Vec::new(), Vec::new());
        for table in ours {
            let Some(other) = theirs.remove(&table.name) else {
                obstacles.push((table.name, "is replicated on the destination only".to_owned()));
                continue;
            };
            match table.comparable(&other) {
                Ok(()) if table.key == other.key => tables.push(Arc::new(table)),
                // One side has no such key, or the sides have different ones.
                Ok(()) => tables.push(Arc::new(table.without_key())),
                Err(obstacle) => obstacles.push((table.name, obstacle)),
            }
        }
        obstacles.extend(theirs.into_keys().map(|name| (name, "is replicated on the source only".to_owned())));
        Self { tables, obstacles }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::verify::columns;

    #[test]
    fn tables_are_matched_and_nothing_is_left_out() {
        let table = |name: &str, own: &[&str], key: &[&str]| ComparedTable {
            name: RelationName::new("public", name),
            columns: columns(own, &[]),
            key: key.iter().map(|&name| name.to_owned()).collect(),
            size_bytes: 0,
        };
        let ours = vec![
            table("both", &["a"], &["a"]),
            table("here", &["a"], &[]),
            table("keys", &["a", "b"], &["a"]),
            table("wide", &["a", "b"], &[]),
        ];
        let theirs = vec![
            table("both", &["a"], &["a"]),
            table("keys", &["a", "b"], &["a", "b"]),
            table("there", &["a"], &[]),
            table("wide", &["a"], &[]),
        ];
        let plan = Plan::of(ours, theirs);
        let compared: Vec<_> =
            plan.tables.iter().map(|table| (table.name.relation.as_str(), table.key.is_empty())).collect();
        assert_eq!(compared, [("both", false), ("keys", true)]);
        let obstacles: Vec<_> =
            plan.obstacles.iter().map(|(name, text)| format!("{}: {text}", name.relation)).collect();
        assert_eq!(
            obstacles,
            [
                "here: is replicated on the destination only",
                "wide: column b is on the destination only",
                "there: is replicated on the source only"
            ]
        );
    }
}
