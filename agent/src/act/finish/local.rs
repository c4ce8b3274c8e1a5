//! `pgportage-agent cleanup`: finish or abort on this machine alone.

use std::time::Duration;

use pgportage_data_plane::peer::Resolution;
use pgportage_link::{Effect, Failure};
use pgportage_migration::Participation;
use pgportage_migration::ledger;
use pgportage_migration::ledger::Ownership;
use pgportage_postgres::{Purpose, Session, sql_failure};
use pgportage_proto::{MigrationId, Reason, Side};
use pgportage_report::progress::Progress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{FinishMigrationResult, Undecided, finish_destination, finish_source, is_open};
use crate::act::{Context, Handles, publication};

/// How long one part may go without moving. An operator waits for it.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

const FENCED_EPOCH: &str = "SELECT cutover_epoch FROM pgportage.fence WHERE id = 1";

/// Whether a cutover came so far that the source may have been fenced: its marker has arrived here.
const DRAINED: &str = "SELECT EXISTS (SELECT FROM pgportage.marker)";

/// Whether a rollback came so far that the destination may have been fenced: its marker has arrived here,
/// after the cutover that fenced this side.
const DRAINED_BACK: &str = "\
SELECT EXISTS (SELECT FROM pgportage.marker m, pgportage.fence f WHERE m.cutover_epoch > f.cutover_epoch)";

/// Removes everything of ours on this machine's side, without the coordinator. Audited in the log. The
/// participation stays in the journal until the caller removes it.
///
/// # Errors
///
/// [`Reason::MigrationMissing`] when this agent has no part in it; [`Reason::CutoverInDoubt`] when the
/// source is fenced and the destination does not answer, or has not decided; [`Reason::WrongState`] when
/// the operator has to lift the fence or release clients of a pooler first; otherwise what the server
/// reports.
pub async fn clean_up_locally(handles: &Handles, migration: &MigrationId) -> Result<FinishMigrationResult, Failure> {
    let Some(participation) = handles.journal.participation(migration)? else {
        return Err(Failure::new(Reason::MigrationMissing, format!("this agent has no part in migration {migration}"))
            .effect(Effect::None));
    };
    tracing::warn!(
        migration.id = %migration, side = %participation.side, database = participation.database,
        "removing everything of ours by local command"
    );
    let session = handles.door.open(&participation.database, Purpose::Control).await?;
    // The operator at this machine decides, not a coordinator: its epoch is as high as any that was seen.
    let leader_epoch = handles.journal.leader_epoch()?.max(ledger::highest_epoch(&*session).await?);
    let cx = context(handles, &participation, leader_epoch);
    match participation.side {
        Side::Source => {
            check_source(&cx, &session).await?;
            check_poolers(&cx)?;
            drop(session);
            finish_source(&cx).await
        }
        Side::Destination => {
            check_destination(&cx, &session).await?;
            drop(session);
            finish_destination(&cx, Undecided::Remove).await
        }
    }
}

fn context(handles: &Handles, participation: &Participation, leader_epoch: i64) -> Context {
    Context {
        participation: participation.clone(),
        command_id: format!("cleanup-{}", uuid::Uuid::now_v7()),
        leader_epoch,
        plan_digest: Vec::new(),
        stall_timeout: STALL_TIMEOUT,
        handles: handles.clone(),
        progress: watch::Sender::new(Progress::default()),
        cancel: CancellationToken::new(),
    }
}

/// A fenced source may be cleaned up once the destination has opened: it stays fenced.
async fn check_source(cx: &Context, session: &Session) -> Result<(), Failure> {
    if ledger::ownership(&**session, &cx.participation).await? != Ownership::Ours
        || !publication::is_fenced(&**session).await?
    {
        return Ok(());
    }
    let drained: bool =
        session.query_one(DRAINED_BACK, &[]).await.map_err(|error| sql_failure(error, "look for markers"))?.get(0);
    if drained {
        return Err(Failure::new(Reason::CutoverInDoubt, "a rollback reached this source, and it has not decided")
            .detail("The destination may be fenced, and only this source can tell it that it never opens.")
            .hint("Run `pgportage-agent cleanup` or `pgportage-agent unfence` on the destination's machine first.")
            .effect(Effect::None));
    }
    let row = session.query_one(FENCED_EPOCH, &[]).await.map_err(|error| sql_failure(error, "look at the fence"))?;
    let peer = cx.peers.call(&cx.participation).await.map_err(|failure| in_doubt(&failure))?;
    match peer.resolve_cutover(row.get(0)).await.map_err(|failure| in_doubt(&failure))? {
        Resolution::Opened => Ok(()),
        Resolution::WillNotOpen => Err(Failure::new(Reason::WrongState, "the source is fenced")
            .detail("The destination has promised not to open.")
            .hint("Run `pgportage-agent unfence` for this migration first.")
            .effect(Effect::None)),
    }
}

/// Refuses while clients of a pooler wait: removing the participation would remove the note of that.
fn check_poolers(cx: &Context) -> Result<(), Failure> {
    if cx.journal.switchover(&cx.participation.migration)?.pause.is_none() {
        return Ok(());
    }
    Err(Failure::new(Reason::WrongState, "clients of a pooler still wait for the end of a cutover")
        .hint(
            "Start the agent, which lets them on. If the pooler is gone for good, take its [[pooler]] out of the policy \
             first.",
        )
        .effect(Effect::None))
}

fn in_doubt(failure: &Failure) -> Failure {
    Failure::new(Reason::CutoverInDoubt, "the source is fenced and the destination does not say what it decided")
        .hint(
            "Bring the destination's agent back. If the destination is destroyed, say so to `pgportage-agent unfence` \
             first.",
        )
        .effect(Effect::None)
        .because(failure)
}

/// Refuses a destination that has not decided: its row may be the only thing that can end a doubt.
async fn check_destination(cx: &Context, session: &Session) -> Result<(), Failure> {
    if ledger::ownership(&**session, &cx.participation).await? == Ownership::Ours
        && is_open(&**session).await?
        && publication::is_fenced(&**session).await?
    {
        return Err(Failure::new(Reason::CutoverInDoubt, "a rollback has fenced this destination")
            .detail("Whether applications are back on the source is for the source to say.")
            .hint("Run `pgportage-agent unfence` for this migration first.")
            .effect(Effect::None));
    }
    if ledger::ownership(&**session, &cx.participation).await? != Ownership::Ours || is_open(&**session).await? {
        return Ok(());
    }
    let drained: bool =
        session.query_one(DRAINED, &[]).await.map_err(|error| sql_failure(error, "look for markers"))?.get(0);
    if !drained {
        return Ok(());
    }
    Err(Failure::new(Reason::CutoverInDoubt, "a cutover reached this destination, and it has not decided")
        .detail("The source may be fenced, and only this destination can tell it that it never opens.")
        .hint("Run `pgportage-agent cleanup` or `pgportage-agent unfence` on the source's machine first, then drop the database.")
        .effect(Effect::None))
}
