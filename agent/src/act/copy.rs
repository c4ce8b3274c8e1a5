//! *copy*: the rows of the slot's snapshot, then indexes and constraints.
//!
//! Class: transactional. Each part of a table is committed together with its row
//! in `pgportage.copied`, so after any death only parts that are not there are
//! copied again. Indexes and constraints are looked for before they are made.
//! What is left of the schema is run as one script in one transaction with the
//! word that it is there; its foreign keys are made without a look at the rows
//! and validated then, several tables at a time. Each table gets the source's
//! statistics where the server can be told of them, and is analysed elsewhere.
//!
//! The rows come through [`pgportage_data_plane::peer::PeerClient::copy_range`]; when the
//! source's snapshot is lost, another one is asked for. Tables that were complete
//! are brought to it, row by row where they were touched; everything else of the
//! lost one is thrown away: rows of two snapshots are never mixed.

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

/// How long the source may take to make a snapshot: it waits for transactions
/// that are open.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(600);
/// Time between two reports.
const REPORT: Duration = Duration::from_millis(500);
/// Sessions of the agent's budget that other work may need meanwhile.
const SPARE_SESSIONS: usize = 4;

/// Copies the rows of the slot's snapshot, and makes what waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyTables {
    /// With [`CopyMethod::Native`] there is nothing to do.
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
    /// Where the stream begins.
    pub consistent_point: String,
    /// Tables that were complete when a snapshot was lost and were not copied
    /// again.
    pub kept_table_count: u32,
    /// Those of them in which rows that had been touched since were exchanged.
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
        loop {
            cx.safe_point()?;
            let failure = match copy(cx).await {
                Ok(result) => return Ok(result),
                Err(failure) => failure,
            };
            // A lost snapshot is made anew; for the rest the way is the same.
            let passing = is_passing(&failure) || rows::of_the_link(&failure);
            if failure.reason != Reason::SnapshotLost && !passing {
                return Err(failure);
            }
            tracing::warn!(failure = %failure, detail = failure.detail, "the copy begins again where it was");
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

    /// The rows go with the schema that holds them, whose step empties the
    /// database.
    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        later::forget(cx);
        Ok(())
    }
}

/// One attempt, from wherever the last one came to.
async fn copy(cx: &Context) -> Result<CopyTablesResult, Failure> {
    let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    let mut ledger = Ledger::read(&*session).await?;
    if ledger.complete {
        return Ok(ledger.into());
    }
    // When every row is here, what is left needs the source's rows no more.
    let mut snapshot = None;
    while !ledger.rows_complete {
        // Asked once more when it has become the one that is copied: so the source
        // hears that what it keeps of a lost one is needed no more.
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
    Box::pin(complete(cx, &session, &ledger, snapshot.as_ref())).await?;
    Ledger::read(&*session).await.map(Into::into)
}

async fn open_snapshot(cx: &Context, held: &str) -> Result<SourceSnapshot, Failure> {
    cx.report(Progress { subject: "the source, to keep a snapshot".to_owned(), ..Progress::default() });
    let peer = cx.peers.call(&cx.participation).await?;
    peer.open_snapshot(held, SNAPSHOT_LIMIT.min(cx.stall_timeout)).await
}

/// Waits for something that may take long and that dropping ends.
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

/// Rows by several workers, unless all are here (no snapshot), and behind them
/// indexes by as many builders; then the rest of the schema.
async fn complete(
    cx: &Context,
    session: &Session,
    ledger: &Ledger,
    snapshot: Option<&SourceSnapshot>,
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
            let left = remaining(pieces(&snapshot.tables), &snapshot.tables, &ledger.done);
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

/// What a lost snapshot has cost, for people. Empty if none was lost.
fn history(ledger: &Ledger) -> String {
    let (kept, mended) = ledger.kept();
    if kept == 0 && ledger.repeated_bytes == 0 {
        return String::new();
    }
    let megabytes = ledger.repeated_bytes.div_euclid(1_000_000);
    format!("; a snapshot was lost: {kept} tables kept, {mended} of them mended, {megabytes} MB copied again")
}

/// Reports, and ends with a failure when nothing moves any more.
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
        // A server may work at one index for longer than any limit: that shows in
        // its own progress, not in ours.
        if !queue.rows_are_in() && cx.tasks.clock.now().duration_since(queue.moved_at()) >= cx.stall_timeout {
            return stalled(cx, "rows from the source");
        }
    }
}

/// Tells the source that nobody needs its snapshot: its vacuum waits for us. A
/// source that is away must not cost what is being built meanwhile, so patience
/// begins when nothing is.
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

/// Everything that is not an index or a constraint of one table: foreign keys,
/// triggers, rules, policies. All of it and the word that it is there, or nothing;
/// nothing to do when an earlier attempt has had that word.
async fn run_script(cx: &Context, script: &str) -> Result<(), Failure> {
    cx.safe_point()?;
    cx.report(Progress { subject: "making foreign keys and triggers".to_owned(), ..Progress::default() });
    let failure = |error| sql_failure(error, "make what comes after the rows");
    // Thrown away afterwards: the script has changed its settings.
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

/// Workers of a kind: one for each core of this machine, which is the server's,
/// as far as the budget of sessions allows.
fn jobs(cx: &Context) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let budget = usize::from(cx.settings.postgres.max_sessions).saturating_sub(SPARE_SESSIONS) / 2;
    cores.clamp(1, 8).min(budget.max(1))
}
