//! P1 and P2: the table locks, then the marker. Undone by ending the session.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::{Either, select};
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::switchover::{Event, Role, Switchover};
use pgportage_postgres::{RelationName, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use tokio::try_join;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, error::SqlState};
use uuid::Uuid;

use super::cycle::{WaitsFor, victims};
use super::seeded::Bug;
use super::sequence::positions;
use super::{current_lsn, remaining};
use crate::act::{Act, Consequences, Context, Produced, Survey};
use crate::message::{duration, int32, sequence_messages, span};
use crate::policy::BarrierConflict;
use crate::pooler::Unreachable;
use crate::switchover::{Barrier, LeavingSide, RaiseBarrierResult, sessions_lost};

/// How long autovacuum and other maintenance may take to leave. This hinders no writer. An autovacuum
/// worker leaves when another session has waited for it for `deadlock_timeout`, a second by default, and
/// the tables are locked one by one: the usual three workers may take three seconds on an idle machine.
const MAINTENANCE_EVICTION: Duration = Duration::from_secs(10);
/// How often the agent looks for lock cycles. A session in a cycle cannot get out of it, so waiting longer
/// does not help. PostgreSQL itself cancels one statement of a cycle, perhaps the application's, a
/// `deadlock_timeout` after it began to wait.
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

/// Which other session of this database waits for which. `$1`: the barrier's session.
const LOCK_WAITS: &str = "\
SELECT pid, pg_blocking_pids(pid)
FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> $1";

/// Sessions that hold a lock which the barrier still needs: on a table that it has not locked yet, in a
/// mode that conflicts with its own. `$1`: the barrier's session; `$2`: the tables; `$3`: the barrier's
/// mode; `$4`: the modes that conflict with it.
const STILL_NEEDED: &str = "\
SELECT DISTINCT held.pid
FROM pg_locks held
WHERE held.granted AND held.locktype = 'relation'
  AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND held.relation = ANY ($2) AND held.pid <> $1 AND held.mode = ANY ($4)
  AND NOT EXISTS (SELECT FROM pg_locks ours
                  WHERE ours.pid = $1 AND ours.granted AND ours.locktype = 'relation' AND ours.mode = $3
                    AND ours.database = held.database AND ours.relation = held.relation)";

/// A mode of table locks that the barrier takes.
struct Mode {
    /// Its name in `LOCK TABLE`.
    keywords: &'static str,
    /// Its name in `pg_locks`.
    name: &'static str,
    /// The conflicting modes, as `pg_locks` names them.
    conflicting: &'static [&'static str],
}

/// Conflicts with maintenance and not with writers.
const AGAINST_MAINTENANCE: Mode = Mode {
    keywords: "SHARE UPDATE EXCLUSIVE",
    name: "ShareUpdateExclusiveLock",
    conflicting: &[
        "ShareUpdateExclusiveLock",
        "ShareLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    ],
};

/// Conflicts with writers.
const AGAINST_WRITERS: Mode = Mode {
    keywords: "SHARE",
    name: "ShareLock",
    conflicting: &[
        "RowExclusiveLock",
        "ShareUpdateExclusiveLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    ],
};

/// Sessions that blocked the barrier, for operators, the longest first. `$1`: their pids at the last look.
/// They were noted then, because a barrier that has given up waits for no session any more.
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
    /// The hard limit of the outage.
    pub max_outage: Duration,
}

impl Act for RaiseBarrier {
    const KIND: ActKind = ActKind::RaiseBarrier;
    const WAY_BACK: &'static [Side] = &[Side::Destination];
    type Message = v1::RaiseBarrier;
    type Output = RaiseBarrierResult;

    fn decode(message: v1::RaiseBarrier) -> Result<Self, Failure> {
        Ok(Self { cutover_epoch: message.cutover_epoch, max_outage: duration(message.max_outage, "max_outage")? })
    }

    fn encode(output: RaiseBarrierResult) -> Produced {
        Produced::RaiseBarrier(v1::RaiseBarrierResult {
            marker_id: output.marker_id.to_string(),
            marker_lsn: output.marker_lsn,
            sequences: sequence_messages(output.sequences),
            catalog_digest: output.catalog_digest,
            lock_wait: Some(span(output.lock_wait)),
            cancelled_session_count: int32(output.cancelled_session_count),
        })
    }

    fn consequences(&self, verb: Verb, _side: Side) -> Consequences {
        match verb {
            Verb::Perform => Consequences { max_outage: Some(self.max_outage), ..Consequences::NONE },
            Verb::Undo => Consequences::NONE,
        }
    }

    fn needs_slot(_side: Side) -> bool {
        true
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<RaiseBarrierResult>, Failure> {
        let Some(cutover) = cx.switchovers.sessions.leaving(&cx.participation.migration) else {
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
        let Some(cutover) = cx.switchovers.sessions.leaving(migration) else {
            return Err(sessions_lost(Effect::None));
        };
        let raised = {
            let mut cutover = cutover.lock().await;
            raise(cx, self, &mut cutover).await
        };
        if raised.is_err() {
            // The locks end with their session: the source is open again.
            cx.switchovers.sessions.drop_leaving(migration);
            if let Err(failure) = cx.switchovers.carry_out(&cx.participation).await {
                tracing::error!(detail = failure.detail, "the poolers' clients still wait: {failure}");
            }
        }
        raised
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        cx.switchovers.sessions.drop_leaving(&cx.participation.migration);
        cx.switchovers.carry_out(&cx.participation).await
    }
}

async fn raise(cx: &Context, act: &RaiseBarrier, cutover: &mut LeavingSide) -> Result<RaiseBarrierResult, Failure> {
    let limits = cx.policy.limits();
    let tables = lockable(&cutover.writer).await?;
    begin_and_evict_maintenance(cx, cutover, &tables, limits.barrier_conflict).await?;
    cx.fail_point("raise_barrier.perform.evicted");
    let poolers = cx.poolers.approach(&cx.participation, Unreachable::Refuse).await?;

    // The outage begins. For clients of a pooler, here or at the other agent, it begins with the pause; for
    // other clients with the locks. The locks then meet no transaction of a pooler's client.
    let announced_at = cx.tasks.clock.now();
    let raised_at = match cx.switchovers.announce_locks(&cx.participation, act.cutover_epoch, act.max_outage).await? {
        true => announced_at,
        false => cx.tasks.clock.now(),
    };
    let deadline = raised_at + act.max_outage;
    let pause = Switchover { epoch: act.cutover_epoch, role: Role::Leaving };
    cx.switchovers.carry_out_at(&cx.participation, pause, deadline);
    let note = || cx.journal.happened(&cx.participation.migration, Event::Pauses(pause));
    cx.poolers.pause(&cx.participation, poolers, deadline, note).await?;
    cx.fail_point("raise_barrier.perform.paused");
    let too_early = match Bug::MarkerBeforeBarrier.is_seeded() {
        true => Some(write_marker(&cutover.writer, act.cutover_epoch).await?),
        false => None,
    };
    let locking_since = cx.tasks.clock.now();
    let left = remaining(deadline, locking_since)?;
    let patience = limits.barrier_timeout.min(left);
    let cancelled = lock_against_writers(cx, cutover, &tables, limits.barrier_conflict, left, patience).await?;
    let lock_wait = cx.tasks.clock.now().duration_since(locking_since);
    cx.fail_point("raise_barrier.perform.locked");
    tracing::info!(
        lock_wait_ms = u64::try_from(lock_wait.as_millis()).unwrap_or(u64::MAX),
        cancelled_session_count = cancelled,
        table_count = tables.len(),
        "the barrier stands"
    );

    let marker_id = match too_early {
        Some(marker_id) => marker_id,
        None => write_marker(&cutover.writer, act.cutover_epoch).await?,
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
    remaining(deadline, cx.tasks.clock.now())?;

    let result = RaiseBarrierResult {
        marker_id,
        marker_lsn: marker_lsn.to_string(),
        sequences,
        catalog_digest: cutover.catalog_digest.clone(),
        lock_wait,
        cancelled_session_count: cancelled,
    };
    cutover.barrier = Some(Barrier { raised_at, deadline, result: result.clone() });
    cx.switchovers.sessions.stands_until(&cx.participation.migration, deadline);
    Ok(result)
}

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

fn lock_statement(tables: &[Lockable], mode: &Mode) -> String {
    let list: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.name)).collect();
    match list.is_empty() {
        true => String::new(),
        false => format!("LOCK TABLE {} IN {} MODE", list.join(", "), mode.keywords),
    }
}

/// Opens the barrier's transaction and takes the locks that conflict with maintenance and not with writers.
/// An autovacuum worker leaves when this session has waited for it for `deadlock_timeout`: better here than
/// inside the outage.
///
/// The agent never cancels maintenance that is in a cycle with these locks. A policy that yields gives the
/// cutover up; otherwise PostgreSQL ends the cycle.
async fn begin_and_evict_maintenance(
    cx: &Context,
    cutover: &LeavingSide,
    tables: &[Lockable],
    conflict: BarrierConflict,
) -> Result<(), Failure> {
    let lock = lock_statement(tables, &AGAINST_MAINTENANCE);
    let limit = MAINTENANCE_EVICTION.as_millis();
    let statements = format!("BEGIN; SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = {limit}; {lock}");
    let mut seen = Conflicts::default();
    let granted = match conflict {
        BarrierConflict::Cancel => cutover.holder.batch_execute(&statements).await,
        BarrierConflict::Yield => {
            lock_and_watch(cx, cutover, &statements, tables, (&AGAINST_MAINTENANCE, conflict), &mut seen).await?
        }
    };
    granted.map_err(|error| {
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

/// Takes the locks that stop writers. The policy says what happens to a session in a cycle with them.
/// Returns how many statements of applications were cancelled.
async fn lock_against_writers(
    cx: &Context,
    cutover: &LeavingSide,
    tables: &[Lockable],
    conflict: BarrierConflict,
    max_outage: Duration,
    patience: Duration,
) -> Result<u32, Failure> {
    let statements = bounded(&lock_statement(tables, &AGAINST_WRITERS), max_outage, patience);
    let mut seen = Conflicts::default();
    let granted = lock_and_watch(cx, cutover, &statements, tables, (&AGAINST_WRITERS, conflict), &mut seen).await?;
    if let Err(error) = granted {
        return Err(if error.code() == Some(&SqlState::QUERY_CANCELED) {
            not_granted(cutover, &seen.in_the_way, max_outage, patience).await
        } else {
            sql_failure(error, "lock the tables against writers").effect(Effect::None)
        });
    }
    Ok(u32::try_from(seen.cancelled.len()).unwrap_or(u32::MAX))
}

/// The sessions of applications that the barrier met.
#[derive(Default)]
struct Conflicts {
    /// Those whose statement was cancelled.
    cancelled: BTreeSet<i32>,
    /// Sessions that held locks which the barrier needed, at the last look.
    in_the_way: Vec<i32>,
    /// Why the barrier is given up. Set before its statement is cancelled.
    gave_way: Option<Failure>,
}

/// Lets the barrier's session wait for its locks, and looks for cycles in the meantime.
///
/// # Errors
///
/// [`Reason::BarrierConflict`] where the barrier gives way, or what the server reports to the session that
/// looks.
async fn lock_and_watch(
    cx: &Context,
    cutover: &LeavingSide,
    statements: &str,
    tables: &[Lockable],
    (mode, conflict): (&Mode, BarrierConflict),
    seen: &mut Conflicts,
) -> Result<Result<(), tokio_postgres::Error>, Failure> {
    let waited = {
        let locking = std::pin::pin!(cutover.holder.batch_execute(statements));
        let watching = std::pin::pin!(watch_for_cycles(cx, cutover, tables, (mode, conflict), seen));
        match select(locking, watching).await {
            Either::Left((granted, _)) => Ok(granted),
            Either::Right((Err(failure), _)) => Err(failure),
            Either::Right((Ok(never), _)) => match never {},
        }
    };
    // The barrier's own statement ended first, or was granted before the cancel came.
    match seen.gave_way.take() {
        Some(failure) => Err(failure),
        None => waited,
    }
}

/// The locks and their limits in one message: the barrier never stands without a limit, even if this agent
/// is frozen or lost at that instant. The statement's limit counts for all tables together; `lock_timeout`
/// would count for each. Once the locks are granted the session is idle, and the server ends it when the
/// rest of the budget is over. The server counts from the arrival of this message.
fn bounded(lock: &str, max_outage: Duration, patience: Duration) -> String {
    let (budget, patience) = (max_outage.as_millis().max(1), patience.as_millis().max(1));
    format!(
        "SET LOCAL idle_in_transaction_session_timeout = {budget}; SET LOCAL statement_timeout = {patience}; {lock}; \
         SET LOCAL statement_timeout = 0; \
         SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', greatest(1, {budget} - \
         (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000)::int8)::text, true)"
    )
}

/// The failure of a barrier that was not granted: which sessions blocked it, and which of the two limits
/// ended it.
async fn not_granted(cutover: &LeavingSide, in_the_way: &[i32], max_outage: Duration, patience: Duration) -> Failure {
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
    name_sessions(failure, &cutover.writer, in_the_way).await
}

/// The failure of a barrier that gives way to applications because the policy says so.
async fn gave_way(cutover: &LeavingSide, to: &BTreeSet<i32>) -> Failure {
    let failure = Failure::new(Reason::BarrierConflict, "the barrier and an application wait for each other")
        .hint(
            "The agent's policy says `barrier_conflict = \"yield\"`, so the application goes on and the cutover gives \
             way. Try it again in a quieter moment.",
        )
        .remedy(Remedy::Operator)
        .effect(Effect::None);
    let pids: Vec<i32> = to.iter().copied().collect();
    name_sessions(failure, &cutover.writer, &pids).await
}

/// Adds the names of these sessions, as far as they are still there.
async fn name_sessions(failure: Failure, client: &Client, pids: &[i32]) -> Failure {
    let sessions = match client.query(BLOCKERS, &[&pids]).await {
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
    if sessions.is_empty() { failure } else { failure.detail(format!("In the way: {}.", sessions.join("; "))) }
}

/// Looks, until dropped, for sessions in a cycle with the barrier, and treats them as the policy says.
/// Keeps the list of sessions that block the barrier.
async fn watch_for_cycles(
    cx: &Context,
    cutover: &LeavingSide,
    tables: &[Lockable],
    (mode, conflict): (&Mode, BarrierConflict),
    seen: &mut Conflicts,
) -> Result<Infallible, Failure> {
    let (writer, holder) = (&cutover.writer, cutover.holder.pid);
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let failure = |error| sql_failure(error, "look for lock cycles");
    let (waits, needs) = try_join!(writer.prepare(LOCK_WAITS), writer.prepare(STILL_NEEDED)).map_err(failure)?;
    loop {
        cx.tasks.clock.sleep(LOOK_FOR_CYCLES).await;
        let by_holder: [&(dyn ToSql + Sync); 1] = [&holder];
        let by_mode: [&(dyn ToSql + Sync); 4] = [&holder, &oids, &mode.name, &mode.conflicting];
        let (waiting, needed) =
            try_join!(writer.query(&waits, &by_holder), writer.query(&needs, &by_mode)).map_err(failure)?;
        let mut waits_for: WaitsFor = waiting.iter().map(|row| (row.get(0), row.get(1))).collect();
        seen.in_the_way = needed.iter().map(|row| row.get(0)).collect();
        waits_for.insert(holder, seen.in_the_way.clone());
        let victims = victims(holder, &waits_for);
        match conflict {
            BarrierConflict::Cancel => {
                for pid in victims {
                    // Before the answer: the barrier may be granted before the answer comes.
                    seen.cancelled.insert(pid);
                    cancel(writer, pid).await?;
                }
            }
            BarrierConflict::Yield if victims.is_empty() => {}
            BarrierConflict::Yield => {
                // Asked before these sessions go on. The barrier's statement is cancelled at once, and not
                // only by ending its session: a statement that waits for a lock does not notice that its
                // agent is gone.
                let failure = gave_way(cutover, &victims).await;
                seen.gave_way = Some(failure.clone());
                cancel(writer, holder).await?;
                return Err(failure);
            }
        }
    }
}

async fn cancel(client: &Client, pid: i32) -> Result<(), Failure> {
    client
        .execute("SELECT pg_cancel_backend($1)", &[&pid])
        .await
        .map(drop)
        .map_err(|error| sql_failure(error, "cancel a statement in a cycle with the barrier"))
}

/// Writes the marker. Committed locally, because a lost standby must not block it; P4 checks that the fence
/// has reached the standbys.
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
