//! P4: the durable fence, and the proof that no application is left.
//!
//! Undone only by P6a: the source agent asks the destination agent over the link, and lifts the fence only
//! on the durable promise that the destination never opens at this epoch.

use std::time::Duration;

use futures_util::TryFutureExt;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::ledger;
use pgportage_migration::switchover::Event;
use pgportage_postgres::access::Access;
use pgportage_postgres::{quote_ident, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use pgportage_report::progress::Progress;
use tokio::time::Instant;
use tokio::try_join;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

use super::seeded::{self, Bug};
use super::sequence::positions;
use super::{current_lsn, refuse_in_rehearsal, remaining};
use crate::act::{Act, Consequences, Context, Produced, Survey};
use crate::message::{int32, marker, sequence_messages};
use crate::policy::{DestructiveAct, HookPoint};
use crate::switchover::{FenceSourceResult, LeavingSide, sessions_lost};
use pgportage_postgres::catalog::SequencePosition;

/// Every role that could log in to the session's database. Superusers are left out: no grant keeps them
/// out, and P0 has checked for them.
const COULD_LOG_IN: &str = "\
SELECT rolname::text FROM pg_roles
WHERE rolcanlogin AND NOT rolsuper AND rolname <> ALL ($1)
  AND has_database_privilege(oid, current_database(), 'CONNECT')
ORDER BY 1";

/// Standbys that have not flushed up to a position. Programs that stream WAL to files report no replay
/// position and are left out; so is our own slot.
const STANDBYS_BEHIND: &str = "\
SELECT count(*) FROM pg_stat_replication r
LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
WHERE coalesce(s.slot_type, 'physical') = 'physical' AND r.state = 'streaming'
  AND r.usename <> $2
  AND r.replay_lsn IS NOT NULL AND r.flush_lsn < $1::text::pg_lsn";

const DOING: &str = "fence the database";

const FENCE: &str = "INSERT INTO pgportage.fence (id, cutover_epoch, saved_access) VALUES (1, $1, $2)";

/// P4 on the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceSource {
    /// Number of this cutover.
    pub cutover_epoch: i64,
    /// The marker whose arrival the drain proved.
    pub marker_id: Uuid,
}

impl Act for FenceSource {
    const KIND: ActKind = ActKind::FenceSource;
    const WAY_BACK: &'static [Side] = &[Side::Destination];
    type Message = v1::FenceSource;
    type Output = FenceSourceResult;

    fn decode(message: v1::FenceSource) -> Result<Self, Failure> {
        Ok(Self { cutover_epoch: message.cutover_epoch, marker_id: marker(&message.marker_id)? })
    }

    fn encode(output: FenceSourceResult) -> Produced {
        Produced::FenceSource(v1::FenceSourceResult {
            fence_lsn: output.fence_lsn,
            sequences: sequence_messages(output.sequences),
            terminated_session_count: int32(output.terminated_session_count),
            catalog_digest: output.catalog_digest,
        })
    }

    fn consequences(&self, verb: Verb, _side: Side) -> Consequences {
        match verb {
            Verb::Perform => Consequences::of(&[DestructiveAct::Fence, DestructiveAct::TerminateSessions]),
            Verb::Undo => Consequences::NONE,
        }
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<FenceSourceResult>, Failure> {
        let Some(cutover) = cx.switchovers.sessions.leaving(&cx.participation.migration) else {
            return Err(sessions_lost(Effect::Unknown));
        };
        let cutover = cutover.lock().await;
        if cutover.epoch != self.cutover_epoch {
            return Err(sessions_lost(Effect::Unknown));
        }
        if let Some(fenced) = &cutover.fenced {
            return Ok(Survey::Done(fenced.clone()));
        }
        match &cutover.barrier {
            Some(barrier) if barrier.result.marker_id == self.marker_id => Ok(Survey::Ready),
            Some(_) | None => Err(sessions_lost(Effect::None)),
        }
    }

    async fn perform(&self, cx: &Context) -> Result<FenceSourceResult, Failure> {
        let Some(cutover) = cx.switchovers.sessions.leaving(&cx.participation.migration) else {
            return Err(sessions_lost(Effect::Unknown));
        };
        let mut cutover = cutover.lock().await;
        let fenced = fence(cx, self, &mut cutover).await?;
        cutover.fenced = Some(fenced.clone());
        Ok(fenced)
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        cx.switchovers.settle_fence(&cx.participation).await
    }
}

async fn fence(cx: &Context, act: &FenceSource, cutover: &mut LeavingSide) -> Result<FenceSourceResult, Failure> {
    refuse_in_rehearsal(cutover.rehearsal)?;
    let participation = &cx.participation;
    let deadline = match &cutover.barrier {
        Some(barrier) => barrier.deadline,
        None => return Err(sessions_lost(Effect::None)),
    };
    remaining(deadline, cx.tasks.clock.now())?;
    let replication_role = cx.roles.names(participation).replication;
    cx.journal.happened(&participation.migration, Event::Fences(act.cutover_epoch))?;
    cx.fail_point("fence_source.perform.noted");
    if Bug::FenceOfOneRole.is_seeded() {
        return seeded::fence_owner(act.cutover_epoch, &participation.database, cutover).await;
    }
    let begun = cx.tasks.clock.now();
    let access_version = commit_fence(cx, act.cutover_epoch, cutover).await?;
    let committed = cx.tasks.clock.now();
    cx.fail_point("fence_source.perform.committed");
    let fence_lsn = current_lsn(&cutover.writer).await?.to_string();
    await_standbys(cx, &cutover.writer, &fence_lsn, &replication_role, deadline).await?;
    let flushed = cx.tasks.clock.now();
    cx.report(Progress { subject: "ending the sessions of applications".to_owned(), ..Progress::default() });
    // Both at once: clients whose sessions were ended try to log in again and again, which slows the whole
    // server.
    let ((), emptied) =
        try_join!(cutover.canary.prove_refused(), empty(cx, cutover, &replication_role, &access_version, deadline))?;
    let ms = |from: Instant, to: Instant| u64::try_from(to.duration_since(from).as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        commit_ms = ms(begun, committed),
        standbys_ms = ms(committed, flushed),
        expulsion_ms = ms(flushed, emptied.nobody_left_at),
        proof_ms = ms(emptied.nobody_left_at, emptied.proved_at),
        terminated_session_count = emptied.terminated_session_count,
        "no application is left behind the fence"
    );
    cx.fail_point("fence_source.perform.proved");
    let left = remaining(deadline, cx.tasks.clock.now()).map_err(|failure| failure.effect(Effect::Unknown))?;
    cx.hooks.ask(participation, HookPoint::AfterFence, Some(left)).await?;
    Ok(FenceSourceResult {
        fence_lsn,
        sequences: emptied.sequences,
        terminated_session_count: emptied.terminated_session_count,
        catalog_digest: cutover.catalog_digest.clone(),
    })
}

/// What was seen once no session of an application was left.
struct Emptied {
    terminated_session_count: u32,
    sequences: Vec<SequencePosition>,
    nobody_left_at: Instant,
    proved_at: Instant,
}

/// Ends the sessions of applications after the fence is committed, and reads what can only be read when
/// none is left.
async fn empty(
    cx: &Context,
    cutover: &LeavingSide,
    replication_role: &str,
    access_version: &str,
    deadline: Instant,
) -> Result<Emptied, Failure> {
    let LeavingSide { writer, holder, expulsion, fingerprint, ours, .. } = cutover;
    let own_sessions = || cx.door.own_sessions();
    let terminated_session_count =
        expulsion.carry_out(writer, own_sessions, replication_role, cx.tasks.clock, deadline).await?;
    let nobody_left_at = cx.tasks.clock.now();
    cx.fail_point("fence_source.perform.expelled");
    // One round trip: clients whose sessions were ended keep trying to log in, which keeps the machine
    // busy. Read again because SHARE locks stop neither nextval nor CREATE INDEX.
    let (sequences, (), (), ()) = try_join!(
        positions(writer, &cutover.sequences),
        fingerprint.prove_unchanged(writer).map_err(|failure| failure.effect(Effect::Unknown)),
        prove_nobody_can_log_in(writer, ours, access_version),
        prove_barrier_stood(holder)
    )?;
    Ok(Emptied { terminated_session_count, sequences, nobody_left_at, proved_at: cx.tasks.clock.now() })
}

/// Commits the fence in one transaction: its row, and the revokes that the row records. Returns the version
/// of the database's row that holds it ([`Access::version`]).
async fn commit_fence(cx: &Context, epoch: i64, cutover: &mut LeavingSide) -> Result<String, Failure> {
    let transaction = cutover.writer.transaction().await.map_err(|error| sql_failure(error, DOING))?;
    let version = put_up_fence(cx, &transaction, epoch, &cutover.ours).await?;
    transaction.commit().await.map_err(|error| sql_failure(error, DOING))?;
    Ok(version)
}

async fn put_up_fence(
    cx: &Context,
    transaction: &Transaction<'_>,
    epoch: i64,
    ours: &[String],
) -> Result<String, Failure> {
    let database = &cx.participation.database;
    let (access, ()) = try_join!(
        Access::read(transaction),
        ledger::record(transaction, cx.entry(), ActKind::FenceSource, Verb::Perform)
    )?;
    let saved = access.to_json()?;
    let row: [(&(dyn ToSql + Sync), Type); 2] = [(&epoch, Type::INT8), (&saved, Type::TEXT)];
    let mut statements = access.deny_statements(database, ours);
    statements.push(format!("ALTER DATABASE {} SET default_transaction_read_only = on", quote_ident(database)));
    let statements = statements.join("; ");
    let fenced = async {
        try_join!(transaction.query_typed(FENCE, &row), transaction.batch_execute(&statements))
            .map_err(|error| sql_failure(error, DOING))
    };
    let (_, version) = try_join!(biased; fenced, Access::version(transaction))?;
    Ok(version)
}

/// Puts the fence up and rolls it back, so that no other session sees it. The agent learns, before any
/// application waits, whether it may do that, and the session has its caches filled for the real fence.
///
/// # Errors
///
/// What the fence itself would meet.
pub(super) async fn try_to_fence(
    cx: &Context,
    writer: &mut Client,
    epoch: i64,
    ours: &[String],
) -> Result<(), Failure> {
    let transaction = writer.transaction().await.map_err(|error| sql_failure(error, DOING))?;
    put_up_fence(cx, &transaction, epoch, ours).await.map_err(|failure| failure.effect(Effect::None))?;
    transaction.rollback().await.map_err(|error| sql_failure(error, DOING))
}

/// Waits for standbys: a fence that a promoted standby does not have would be none.
async fn await_standbys(
    cx: &Context,
    writer: &Client,
    fence_lsn: &str,
    replication_role: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    loop {
        let behind: i64 = writer
            .query_typed_one(STANDBYS_BEHIND, &[(&fence_lsn, Type::TEXT), (&replication_role, Type::NAME)])
            .await
            .map_err(|error| sql_failure(error, "wait for the standbys"))?
            .get(0);
        if behind == 0 {
            return Ok(());
        }
        if cx.tasks.clock.now() >= deadline {
            return Err(Failure::new(Reason::FenceIncomplete, format!("{behind} standbys have not flushed the fence"))
                .hint("Wait until the source's standbys have caught up, or allow a longer outage.")
                .remedy(Remedy::Operator)
                .effect(Effect::Unknown));
        }
        cx.tasks.clock.sleep(Duration::from_millis(2)).await;
    }
}

/// The canary has proved that the server refuses the roles that it should refuse; this proves the rest. It
/// is checked when no session is left that could grant anything. The fence's version of the database's row
/// is still in force, so no grant was made in between: every login that began after the fence was judged by
/// it.
async fn prove_nobody_can_log_in(writer: &Client, ours: &[String], fenced_version: &str) -> Result<(), Failure> {
    let incomplete =
        |message: &str| Failure::new(Reason::FenceIncomplete, message).remedy(Remedy::Operator).effect(Effect::Unknown);
    let could = async {
        let ours: [(&(dyn ToSql + Sync), Type); 1] = [(&ours, Type::TEXT_ARRAY)];
        let rows = writer.query_typed(COULD_LOG_IN, &ours).await;
        rows.map_err(|error| sql_failure(error, "prove that no application can log in"))
    };
    let (could, version) = try_join!(could, Access::version(writer))?;
    let could: Vec<String> = could.iter().map(|row| row.get(0)).collect();
    if !could.is_empty() {
        return Err(incomplete("roles could still log in to the fenced source")
            .detail(format!("They hold CONNECT through another role or grantor: {}.", could.join(", ")))
            .hint("Revoke CONNECT from them, or take them out of the roles that hold it, and try again."));
    }
    if version != fenced_version {
        return Err(incomplete("who may connect to the fenced source was changed behind the fence")
            .detail("A user granted or revoked on the database, or altered it, while its sessions were being ended.")
            .hint("Keep users from altering the database during a cutover, and try it again."));
    }
    Ok(())
}

/// Asked when no session of an application is left: the barrier stood until then, and is needed no longer.
async fn prove_barrier_stood(holder: &Client) -> Result<(), Failure> {
    holder.simple_query("SELECT 1").await.map(|_| ()).map_err(|error| {
        Failure::new(Reason::BarrierLost, "the barrier fell before the fence was proved")
            .detail("Its session ended: the budget ran out, or the server ended it.")
            .hint("The cutover is taken back by itself; try again with a larger --max-outage.")
            .because(&error)
            .remedy(Remedy::Operator)
            .effect(Effect::Unknown)
    })
}
