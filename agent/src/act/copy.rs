//! *copy*: the rows of the slot's snapshot, then indexes and constraints.
//!
//! Class: transactional. Each part of a table is committed together with its row in `pgportage.copied`, so
//! after a crash only parts without a row are copied again. Indexes and constraints are looked for before
//! they are made. What is left of the schema runs as one script in one transaction, together with the note
//! that it is there. The script makes foreign keys without checking the rows; they are validated
//! afterwards, several tables at a time. Each table gets the source's statistics where the destination
//! server accepts them, and is analysed elsewhere.
//!
//! The rows come through [`pgportage_data_plane::peer::PeerClient::copy_range`]. When the source's snapshot
//! is lost, the destination agent asks for another one. Tables that were complete are brought to the new
//! one, row by row where they were touched. Everything else of the lost snapshot is thrown away: rows of
//! two snapshots are never mixed.

mod begin;
mod build_scheduler;
mod builds;
mod fate;
mod foreign_key;
mod index;
mod ledger;
mod mend;
mod plan;
mod queue;
mod rows;
mod statistics;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::try_join_all;
use pgportage_data_plane::peer::SourceSnapshot;
use pgportage_data_plane::snapshot::REWRITTEN_TABLE;
use pgportage_link::{Effect, Failure};
use pgportage_postgres::{Purpose, Session, is_passing, sql_failure};
use pgportage_proto::{ActKind, CopyMethod, Reason, Side, v1};
use pgportage_report::progress::Progress;

use self::build_scheduler::Statistics;
use self::builds::Builds;
use self::ledger::Ledger;
use self::plan::{pieces, remaining};
use self::queue::CopyQueue;
use super::schema::later;
use crate::act::patience::{Patience, stalled};
use crate::act::{Act, Context, Produced, Survey};
use crate::message::int32;

const ACTION: ActKind = ActKind::CopyTables;

/// How long the source may take to make a snapshot: it waits for open transactions.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(600);
const REPORT: Duration = Duration::from_millis(500);
/// Sessions of the agent's budget that other work may need during the copy.
const SPARE_SESSIONS: usize = 4;

/// Copies the rows of the slot's snapshot, and makes indexes, constraints and the rest of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyTables {
    /// With [`CopyMethod::Native`] PostgreSQL copies the rows, and this act does nothing.
    pub copy_method: CopyMethod,
}

/// Every table is complete and has its indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyTablesResult {
    /// Tables copied.
    pub table_count: u32,
    /// Rows written.
    pub row_count: i64,
    /// Bytes of COPY data written.
    pub copied_bytes: i64,
    /// Bytes that were thrown away with a lost snapshot.
    pub repeated_bytes: i64,
    /// The snapshot's consistent point, where the stream begins.
    pub consistent_point: String,
    /// Tables that were complete when a snapshot was lost and were not copied
    /// again.
    pub kept_table_count: u32,
    /// Those among the kept tables whose touched rows were replaced.
    pub mended_table_count: u32,
}

impl From<Ledger> for CopyTablesResult {
    fn from(ledger: Ledger) -> Self {
        let tables: BTreeSet<_> = ledger.done.iter().map(|done| &done.table).collect();
        let count = |tables: usize| u32::try_from(tables).unwrap_or(u32::MAX);
        let (kept, mended) = ledger.kept();
        Self {
            kept_table_count: count(kept),
            mended_table_count: count(mended),
            table_count: count(tables.len()),
            row_count: ledger.row_count,
            copied_bytes: ledger.copied_bytes,
            repeated_bytes: ledger.repeated_bytes,
            consistent_point: ledger.consistent_point,
        }
    }
}

impl Act for CopyTables {
    const KIND: ActKind = ActKind::CopyTables;
    const SIDE: Option<Side> = Some(Side::Destination);
    const COPIES: bool = true;
    type Message = v1::CopyTables;
    type Output = CopyTablesResult;

    fn decode(message: v1::CopyTables) -> Result<Self, Failure> {
        Ok(Self { copy_method: message.copy_method().into() })
    }

    fn encode(output: CopyTablesResult) -> Produced {
        Produced::CopyTables(v1::CopyTablesResult {
            table_count: int32(output.table_count),
            row_count: output.row_count,
            copied_bytes: output.copied_bytes,
            repeated_bytes: output.repeated_bytes,
            consistent_point: output.consistent_point,
            kept_table_count: int32(output.kept_table_count),
            mended_table_count: int32(output.mended_table_count),
        })
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<CopyTablesResult>, Failure> {
        if self.copy_method == CopyMethod::Native {
            return Ok(Survey::Done(CopyTablesResult::default()));
        }
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let ledger = Ledger::read(&*session).await?;
        Ok(if ledger.complete { Survey::Done(ledger.into()) } else { Survey::Ready })
    }

    async fn perform(&self, cx: &Context) -> Result<CopyTablesResult, Failure> {
        let mut patience = Patience::new(cx);
        let mut seen = Ledger::default();
        // Tables that an application has rewritten before they were read. They come first in the next
        // snapshot: one that is rewritten every minute would otherwise cost a snapshot every minute.
        let mut rewritten = BTreeSet::new();
        loop {
            cx.safe_point()?;
            let failure = match copy(cx, &rewritten).await {
                Ok(result) => return Ok(result),
                Err(failure) => failure,
            };
            // A lost snapshot is made anew; the other failures are waited out.
            let passing = is_passing(&failure) || rows::of_the_link(&failure);
            if failure.reason != Reason::SnapshotLost && !passing {
                return Err(failure);
            }
            tracing::warn!(failure = %failure, detail = failure.detail, "the copy begins again where it was");
            rewritten.extend(failure.metadata.get(REWRITTEN_TABLE).cloned());
            if let Ok(session) = cx.door.open(&cx.participation.database, Purpose::Control).await
                && let Ok(ledger) = Ledger::read(&*session).await
                && ledger != seen
            {
                seen = ledger;
                patience.moved(cx);
            }
            if patience.is_over(cx) {
                return Err(stalled(cx, "the copy").because(&failure));
            }
            cx.pause(REPORT).await?;
        }
    }

    /// The rows go when the act that made the schema empties the database.
    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        later::forget(cx);
        Ok(())
    }
}

/// One attempt. It continues where the last one stopped.
async fn copy(cx: &Context, rewritten: &BTreeSet<String>) -> Result<CopyTablesResult, Failure> {
    let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    let mut ledger = Ledger::read(&*session).await?;
    if ledger.complete {
        return Ok(ledger.into());
    }
    // When every row is here, the rest needs no snapshot of the source.
    let mut snapshot = None;
    while !ledger.rows_complete {
        // Asked again after the new snapshot has become the one that is copied. From that the source agent
        // learns that it can drop what it keeps of the lost snapshot.
        let opened = unless_stopped(cx, open_snapshot(cx, &ledger.consistent_point)).await?;
        if opened.consistent_point == ledger.consistent_point {
            snapshot = Some(opened);
            break;
        }
        // Boxed: the future holds those of logins and of a call.
        unless_stopped(cx, Box::pin(begin::begin(cx, &ledger.consistent_point, &opened))).await?;
        cx.fail_point("copy_tables.perform.begun");
        ledger = Ledger::read(&*session).await?;
    }
    // Boxed: the future holds those of every kind of worker.
    Box::pin(complete(cx, &session, &ledger, snapshot.as_ref(), rewritten)).await?;
    Ledger::read(&*session).await.map(Into::into)
}

async fn open_snapshot(cx: &Context, held: &str) -> Result<SourceSnapshot, Failure> {
    cx.report(Progress { subject: "the source, to keep a snapshot".to_owned(), ..Progress::default() });
    let peer = cx.peers.call(&cx.participation).await?;
    peer.open_snapshot(held, SNAPSHOT_LIMIT.min(cx.stall_timeout)).await
}

/// Waits for work that may take long and that dropping ends, until the command is cancelled.
async fn unless_stopped<T>(cx: &Context, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        () = cx.cancel.cancelled() => {
            cx.safe_point()?;
            Err(Failure::new(Reason::Cancelled, "stopped because it was asked to").effect(Effect::None))
        }
        done = work => done,
    }
}

/// Copies rows with several workers, unless all rows are here (no snapshot). As many builders follow with
/// indexes. Then makes the rest of the schema.
async fn complete(
    cx: &Context,
    session: &Session,
    ledger: &Ledger,
    snapshot: Option<&SourceSnapshot>,
    rewritten: &BTreeSet<String>,
) -> Result<(), Failure> {
    let names: BTreeSet<_> = match snapshot {
        Some(snapshot) => snapshot.tables.iter().map(|table| table.name.clone()).collect(),
        None => ledger.done.iter().map(|done| done.table.clone()).collect(),
    };
    let later = later::read(cx, session, &names).await?;
    let builds = index::by_table(later.builds);
    let told = statistics::can_be_told(session.version);
    let wanted = if told { Statistics::Carried } else { Statistics::Made };
    let queue = match snapshot {
        Some(snapshot) => {
            let mut left = remaining(pieces(&snapshot.tables), &snapshot.tables, &ledger.done);
            left.sort_by_key(|piece| !rewritten.contains(&snapshot.tables[piece.table].name.to_string()));
            CopyQueue::new(&snapshot.tables, left, &builds, wanted, cx.tasks.clock.now()).with_history(history(ledger))
        }
        None => CopyQueue::complete(names.into_iter().collect(), &builds, wanted, cx.tasks.clock.now()),
    }
    .with_rows(&ledger.rows);
    let rows = async {
        if let Some(snapshot) = snapshot {
            let packing = cx.peers.packing(&cx.participation).await;
            try_join_all((0..jobs(cx)).map(|_| rows::work(cx, &queue, snapshot, packing))).await?;
            ledger::rows_are_complete(&**session, &snapshot.consistent_point).await?;
            cx.fail_point("copy_tables.perform.rows_complete");
        }
        let point = snapshot.map_or(&ledger.consistent_point, |snapshot| &snapshot.consistent_point);
        release(cx, &queue, point).await
    };
    let indexes = try_join_all((0..jobs(cx)).map(|_| index::work(cx, &queue, &builds)));
    let carried = async { if told { statistics::work(cx, &queue).await } else { Ok(()) } };
    let all = async { tokio::try_join!(rows, indexes, carried).map(|_| ()) };
    tokio::select! {
        biased;
        outcome = all => outcome?,
        failure = supervise(cx, &queue) => return Err(failure),
    }
    ledger::settle(&**session).await?;
    run_script(cx, &later.script).await?;
    statistics::finish(cx, session, jobs(cx)).await?;
    foreign_key::validate(cx, later.foreign_keys, jobs(cx)).await?;
    ledger::all_is_complete(&**session).await?;
    later::forget(cx);
    Ok(())
}

/// What lost snapshots have cost, for operators. Empty if none was lost.
fn history(ledger: &Ledger) -> String {
    let (kept, mended) = ledger.kept();
    if kept == 0 && ledger.repeated_bytes == 0 {
        return String::new();
    }
    let megabytes = ledger.repeated_bytes.div_euclid(1_000_000);
    format!("; a snapshot was lost: {kept} tables kept, {mended} of them mended, {megabytes} MB copied again")
}

/// Reports progress, and ends with a failure when nothing moves any more.
async fn supervise(cx: &Context, queue: &CopyQueue) -> Failure {
    let mut builds = Builds::default();
    loop {
        let mut progress = queue.progress();
        if queue.is_building() {
            progress.builds = builds.look(cx).await;
        } else {
            builds.rest();
        }
        cx.report(progress);
        cx.tasks.clock.sleep(REPORT).await;
        // A server may build one index for longer than any limit. That shows in the server's progress, not
        // in ours.
        if !queue.rows_are_in() && cx.tasks.clock.now().duration_since(queue.moved_at()) >= cx.stall_timeout {
            return stalled(cx, "rows from the source");
        }
    }
}

/// Tells the source agent that its snapshot is needed no more: the source's vacuum waits for it. A source
/// that is away must not stop builds that are under way, so the patience begins when no build is left.
async fn release(cx: &Context, queue: &CopyQueue, consistent_point: &str) -> Result<(), Failure> {
    let mut patience = Patience::new(cx);
    loop {
        let released = match cx.peers.call(&cx.participation).await {
            Ok(peer) => peer.release_snapshot(consistent_point).await,
            Err(failure) => Err(failure),
        };
        match released {
            Err(failure) if rows::of_the_link(&failure) && !patience.is_over(cx) => {
                tracing::debug!(%failure, "the snapshot is not released yet");
                if !queue.is_built() {
                    patience.moved(cx);
                }
                cx.pause(REPORT).await?;
            }
            outcome => return outcome,
        }
    }
}

/// Everything that is not an index or a constraint of one table: foreign keys, triggers, rules, policies.
/// All of it is made in one transaction with the note that it is there. Does nothing when an earlier
/// attempt has written that note.
async fn run_script(cx: &Context, script: &str) -> Result<(), Failure> {
    cx.safe_point()?;
    cx.report(Progress { subject: "making foreign keys and triggers".to_owned(), ..Progress::default() });
    let failure = |error| sql_failure(error, "make what comes after the rows");
    // A session of its own, dropped afterwards: the script changes its settings.
    let mut session = cx.door.open(&cx.participation.database, Purpose::Scan).await?;
    let transaction = session.transaction().await.map_err(failure)?;
    if Ledger::read(&transaction).await?.scripted {
        return Ok(());
    }
    transaction.batch_execute(script).await.map_err(failure)?;
    ledger::script_is_run(&transaction).await?;
    cx.fail_point("copy_tables.perform.scripted");
    transaction.commit().await.map_err(failure)
}

/// Number of workers of each kind: one for each core of this machine, which is the server's, as far as the
/// session budget allows.
fn jobs(cx: &Context) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let budget = usize::from(cx.settings.postgres.max_sessions).saturating_sub(SPARE_SESSIONS) / 2;
    cores.clamp(1, 8).min(budget.max(1))
}
