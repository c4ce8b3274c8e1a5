//! P1 and P2: the table locks, then the marker. Undone by letting go.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::{Either, select};
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;
use tokio::try_join;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, error::SqlState};
use uuid::Uuid;

use super::announce::announce_locks;
use super::cycle::{WaitsFor, victims};
use super::let_go::{let_go, let_go_in_time};
use super::seeded::Bug;
use super::sequence::{SequencePosition, positions};
use super::{Barrier, LeavingSide, current_lsn, remaining, sessions_lost};
use crate::pooler::{Occasion, Pause, Unreachable};
use crate::postgres::{RelationName, sql_failure};
use crate::step::{Context, Step, Survey};

/// How long autovacuum and other maintenance get to leave. Hinders no writer. A
/// worker of autovacuum leaves when somebody has waited for it for
/// `deadlock_timeout`, a second by default, and the tables are taken one by one:
/// the usual three workers may take three seconds on an idle machine.
const MAINTENANCE_EVICTION: Duration = Duration::from_secs(10);
/// How often cycles are looked for. Whoever is in one cannot get out of it, so
/// there is nothing to be patient for.
const LOOK_FOR_CYCLES: Duration = Duration::from_millis(5);

/// Every relation whose rows an application may write: leaves, their ancestors
/// and descendants. Locking leaves only would let ATTACH PARTITION through.
const LOCKABLE: &str = "\
SELECT c.oid, n.nspname::text, c.relname::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgportage')
  AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'
ORDER BY c.oid";

/// Who waits for whom among the other sessions of this database. `$1`: the
/// barrier's session.
const LOCK_WAITS: &str = "\
SELECT pid, pg_blocking_pids(pid)
FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> $1";

/// Who holds a lock that the barrier still needs: on a table that it has not got
/// yet, in a mode that SHARE conflicts with. `$1`: the barrier's session; `$2`:
/// the tables.
const STILL_NEEDED: &str = "\
SELECT DISTINCT held.pid
FROM pg_locks held
WHERE held.granted AND held.locktype = 'relation'
  AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND held.relation = ANY ($2) AND held.pid <> $1
  AND held.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                    'AccessExclusiveLock')
  AND NOT EXISTS (SELECT FROM pg_locks ours
                  WHERE ours.pid = $1 AND ours.granted AND ours.locktype = 'relation' AND ours.mode = 'ShareLock'
                    AND ours.database = held.database AND ours.relation = held.relation)";

/// Who was in the way, for people, the longest first. `$1`: their pids when that was
/// last looked at. Once the barrier has given up, it waits for nobody.
const BLOCKERS: &str = "\
SELECT a.pid, coalesce(a.usename, '')::text, coalesce(a.application_name, '')::text, coalesce(a.state, '')::text,
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8
FROM pg_stat_activity a WHERE a.pid = ANY ($1) AND a.xact_start IS NOT NULL
ORDER BY a.xact_start LIMIT 5";

/// P1 and P2 on the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaiseBarrier {
    /// Number of this cutover.
    pub cutover_epoch: i64,
    /// The hard budget for the outage.
    pub max_outage: Duration,
}

/// The barrier stands and the marker is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaiseBarrierResult {
    /// The marker.
    pub marker_id: Uuid,
    /// Position of the source after the marker.
    pub marker_lsn: String,
    /// Every sequence.
    pub sequences: Vec<SequencePosition>,
    /// The catalog, as both sides can compute it.
    pub catalog_digest: Vec<u8>,
    /// From the first lock request to the last grant.
    pub lock_wait: Duration,
    /// Sessions whose statement was cancelled.
    pub cancelled_session_count: u32,
}

impl Step for RaiseBarrier {
    type Output = RaiseBarrierResult;

    async fn survey(&self, cx: &Context) -> Result<Survey<RaiseBarrierResult>, Failure> {
        let Some(cutover) = cx.agent.cutovers.leaving(&cx.participation.migration) else {
            return Err(sessions_lost(Effect::None));
        };
        let cutover = cutover.lock().await;
        if cutover.epoch != self.cutover_epoch {
            return Err(sessions_lost(Effect::None));
        }
        Ok(match &cutover.barrier {
            Some(barrier) if !cutover.holder.is_closed() => Survey::Done(barrier.result.clone()),
            _ => Survey::Ready,
        })
    }

    async fn perform(&self, cx: &Context) -> Result<RaiseBarrierResult, Failure> {
        let migration = &cx.participation.migration;
        let Some(cutover) = cx.agent.cutovers.leaving(migration) else {
            return Err(sessions_lost(Effect::None));
        };
        let raised = {
            let mut cutover = cutover.lock().await;
            raise(cx, self, &mut cutover).await
        };
        if raised.is_err() {
            // The locks go with their session: the source is open again.
            cx.agent.cutovers.drop_leaving(migration);
            if let Err(failure) = let_go(&cx.agent, &cx.participation).await {
                tracing::error!(detail = failure.detail, "the poolers' clients still wait: {failure}");
            }
        }
        raised
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        cx.agent.cutovers.drop_leaving(&cx.participation.migration);
        let_go(&cx.agent, &cx.participation).await
    }
}

async fn raise(cx: &Context, step: &RaiseBarrier, cutover: &mut LeavingSide) -> Result<RaiseBarrierResult, Failure> {
    let limits = cx.agent.policy.limits();
    let tables = lockable(&cutover.writer).await?;
    begin_and_evict_maintenance(&cutover.holder, &tables).await?;
    cx.fail_point("raise_barrier.perform.evicted");
    let poolers = cx.agent.poolers.approach(&cx.agent, &cx.participation, Unreachable::Refuse).await?;

    // The outage begins: for the clients of a pooler here or beside the other agent,
    // for others with the locks, which then find no transaction of a pooler in their way.
    let announced_at = cx.clock.now();
    let raised_at = match announce_locks(cx, step.cutover_epoch, step.max_outage).await? {
        true => announced_at,
        false => cx.clock.now(),
    };
    let deadline = raised_at + step.max_outage;
    let pause = Pause { cutover_epoch: step.cutover_epoch, occasion: Occasion::Leaving };
    let_go_in_time(&cx.agent, &cx.participation, pause, deadline);
    cx.agent.poolers.pause(&cx.agent, &cx.participation, pause, poolers, deadline).await?;
    cx.fail_point("raise_barrier.perform.paused");
    let too_early = match Bug::MarkerBeforeBarrier.is_seeded() {
        true => Some(write_marker(&cutover.writer, step.cutover_epoch).await?),
        false => None,
    };
    let locking_since = cx.clock.now();
    let left = remaining(deadline, locking_since)?;
    let patience = limits.barrier_timeout.min(left);
    let cancelled = lock_against_writers(cx, cutover, &tables, left, patience).await?;
    let lock_wait = cx.clock.now().duration_since(locking_since);
    cx.fail_point("raise_barrier.perform.locked");
    tracing::info!(
        lock_wait_ms = u64::try_from(lock_wait.as_millis()).unwrap_or(u64::MAX),
        cancelled_session_count = cancelled,
        table_count = tables.len(),
        "the barrier stands"
    );

    let marker_id = match too_early {
        Some(marker_id) => marker_id,
        None => write_marker(&cutover.writer, step.cutover_epoch).await?,
    };
    cx.fail_point("raise_barrier.perform.marked");
    // Read after the barrier and the marker, never before: what was committed
    // until here is what the destination must have.
    let writer = &cutover.writer;
    let (marker_lsn, sequences, ()) = try_join!(
        current_lsn(writer),
        positions(writer, &cutover.sequences),
        cutover.fingerprint.prove_unchanged(writer)
    )?;
    remaining(deadline, cx.clock.now())?;

    let result = RaiseBarrierResult {
        marker_id,
        marker_lsn: marker_lsn.to_string(),
        sequences,
        catalog_digest: cutover.catalog_digest.clone(),
        lock_wait,
        cancelled_session_count: cancelled,
    };
    cutover.barrier = Some(Barrier { raised_at, deadline, result: result.clone() });
    cx.agent.cutovers.stands_until(&cx.participation.migration, deadline);
    Ok(result)
}

/// A table to lock.
struct Lockable {
    oid: u32,
    name: RelationName,
}

async fn lockable(client: &Client) -> Result<Vec<Lockable>, Failure> {
    Ok(client
        .query(LOCKABLE, &[])
        .await
        .map_err(|error| sql_failure(error, "list the tables to lock"))?
        .iter()
        .map(|row| Lockable { oid: row.get(0), name: RelationName { schema: row.get(1), relation: row.get(2) } })
        .collect())
}

fn lock_statement(tables: &[Lockable], mode: &str) -> Option<String> {
    let list: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.name)).collect();
    (!list.is_empty()).then(|| format!("LOCK TABLE {} IN {mode} MODE", list.join(", ")))
}

/// Opens the barrier's transaction and takes the locks that conflict with
/// maintenance and not with writers. An autovacuum worker leaves when somebody
/// has waited for it for `deadlock_timeout`; better here than inside the outage.
async fn begin_and_evict_maintenance(holder: &Client, tables: &[Lockable]) -> Result<(), Failure> {
    let lock = lock_statement(tables, "SHARE UPDATE EXCLUSIVE").unwrap_or_default();
    let limit = MAINTENANCE_EVICTION.as_millis();
    holder
        .batch_execute(&format!("BEGIN; SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = {limit}; {lock}"))
        .await
        .map_err(|error| {
            if error.code() == Some(&SqlState::QUERY_CANCELED) {
                Failure::new(Reason::BarrierTimeout, "maintenance holds a table")
                    .detail("VACUUM, ANALYZE, CREATE INDEX or ALTER TABLE runs on a table of the database.")
                    .hint("Wait until it is done, or stop it, and try the cutover again.")
                    .remedy(Remedy::Operator)
                    .effect(Effect::None)
            } else {
                sql_failure(error, "begin the barrier").effect(Effect::None)
            }
        })
}

/// Takes the locks that stop writers, and cancels whoever stands in a cycle
/// with them. Returns how many were cancelled.
async fn lock_against_writers(
    cx: &Context,
    cutover: &LeavingSide,
    tables: &[Lockable],
    max_outage: Duration,
    patience: Duration,
) -> Result<u32, Failure> {
    let lock = lock_statement(tables, "SHARE").unwrap_or_default();
    let statements = bounded(&lock, max_outage, patience);
    let (mut cancelled, mut in_the_way) = (BTreeSet::new(), Vec::new());
    let granted = {
        let locking = std::pin::pin!(cutover.holder.batch_execute(&statements));
        let breaking = std::pin::pin!(break_cycles(cx, cutover, tables, &mut cancelled, &mut in_the_way));
        match select(locking, breaking).await {
            Either::Left((granted, _)) => granted,
            Either::Right((Err(failure), _)) => return Err(failure),
            Either::Right((Ok(never), _)) => match never {},
        }
    };
    if let Err(error) = granted {
        return Err(if error.code() == Some(&SqlState::QUERY_CANCELED) {
            not_granted(cutover, &in_the_way, max_outage, patience).await
        } else {
            sql_failure(error, "lock the tables against writers").effect(Effect::None)
        });
    }
    Ok(u32::try_from(cancelled.len()).unwrap_or(u32::MAX))
}

/// The locks and their limits in one message: at no instant does the barrier stand
/// without a limit, should this agent be frozen or lost then. The limit for the
/// statement counts for all tables together; `lock_timeout` would count for each.
/// From the grant on the session is idle, and dies by itself when the rest of the
/// budget is over: the server counts it from the arrival of this message.
fn bounded(lock: &str, max_outage: Duration, patience: Duration) -> String {
    let (budget, patience) = (max_outage.as_millis().max(1), patience.as_millis().max(1));
    format!(
        "SET LOCAL idle_in_transaction_session_timeout = {budget}; SET LOCAL statement_timeout = {patience}; {lock}; \
         SET LOCAL statement_timeout = 0; \
         SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', greatest(1, {budget} - \
         (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000)::int8)::text, true)"
    )
}

/// Says who was in the way, and which of the two limits it was.
async fn not_granted(cutover: &LeavingSide, in_the_way: &[i32], max_outage: Duration, patience: Duration) -> Failure {
    let blockers = match cutover.writer.query(BLOCKERS, &[&in_the_way]).await {
        Ok(rows) => rows
            .iter()
            .map(|row| {
                format!(
                    "pid {} of role {:?} (application {:?}, {}, transaction open for {:.1} s)",
                    row.get::<_, i32>(0),
                    row.get::<_, String>(1),
                    row.get::<_, String>(2),
                    row.get::<_, String>(3),
                    row.get::<_, f64>(4)
                )
            })
            .collect::<Vec<_>>(),
        Err(_) => Vec::new(),
    };
    let (reason, limit, or) = match patience < max_outage {
        true => (Reason::BarrierTimeout, "", ""),
        false => (Reason::OutageBudgetExceeded, " that were left of the budget", ", or allow more with --max-outage"),
    };
    let failure =
        Failure::new(reason, format!("the table locks were not granted within {} ms{limit}", patience.as_millis()))
            .hint(format!(
                "A transaction holds a table for longer. Wait until it ends or end it{or}, then try the cutover again."
            ))
            .remedy(Remedy::Operator)
            .effect(Effect::None);
    if blockers.is_empty() { failure } else { failure.detail(format!("In the way: {}.", blockers.join("; "))) }
}

/// Cancels the statements of sessions in a cycle with the barrier, until
/// dropped. Keeps who is in its way.
async fn break_cycles(
    cx: &Context,
    cutover: &LeavingSide,
    tables: &[Lockable],
    cancelled: &mut BTreeSet<i32>,
    in_the_way: &mut Vec<i32>,
) -> Result<Infallible, Failure> {
    let (writer, holder) = (&cutover.writer, cutover.holder.pid);
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let failure = |error| sql_failure(error, "look for lock cycles");
    let (waits, needs) = try_join!(writer.prepare(LOCK_WAITS), writer.prepare(STILL_NEEDED)).map_err(failure)?;
    loop {
        cx.clock.sleep(LOOK_FOR_CYCLES).await;
        let (by_holder, by_holder_and_tables): (&[&(dyn ToSql + Sync)], &[&(dyn ToSql + Sync)]) =
            (&[&holder], &[&holder, &oids]);
        let (waiting, needed) =
            try_join!(writer.query(&waits, by_holder), writer.query(&needs, by_holder_and_tables)).map_err(failure)?;
        let mut waits_for: WaitsFor = waiting.iter().map(|row| (row.get(0), row.get(1))).collect();
        *in_the_way = needed.iter().map(|row| row.get(0)).collect();
        waits_for.insert(holder, in_the_way.clone());
        for pid in victims(holder, &waits_for) {
            // Before the answer: the barrier may be granted sooner than it comes.
            cancelled.insert(pid);
            writer
                .execute("SELECT pg_cancel_backend($1)", &[&pid])
                .await
                .map_err(|error| sql_failure(error, "cancel a statement in a cycle with the barrier"))?;
        }
    }
}

/// Writes the marker. Committed locally: a lost standby must not hang it; that
/// the fence reached the standbys is P4's business.
async fn write_marker(writer: &Client, cutover_epoch: i64) -> Result<Uuid, Failure> {
    let marker_id = Uuid::new_v4();
    writer
        .batch_execute(&format!(
            "BEGIN; SET LOCAL synchronous_commit = local; DELETE FROM pgportage.marker; \
             INSERT INTO pgportage.marker (marker_id, cutover_epoch) VALUES ('{marker_id}', {cutover_epoch}); COMMIT"
        ))
        .await
        .map_err(|error| sql_failure(error, "write the marker"))?;
    Ok(marker_id)
}
