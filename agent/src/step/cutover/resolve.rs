//! P6a: how a cutover in doubt is settled, with or without the coordinator.
//!
//! The destination's decision row is the only truth. Asked at an epoch, the
//! destination answers that it has opened, or raises the lowest epoch that may
//! still open and so promises that this one never will. Only that promise lifts
//! the fence on the source; while it cannot be had, the source stays fenced.

use std::collections::HashMap;
use std::time::Duration;

use pgportage_data_plane::peer::Resolution;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::journal::{Journal, SETTLED_NOTE};
use pgportage_postgres::access::Access;
use pgportage_postgres::{Purpose, sql_failure};
use pgportage_proto::{MigrationId, Reason, Side};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, GenericClient};

use super::fence::FENCE_NOTE;
use super::let_go::{let_go, let_go_what_is_left};
use super::sessions::Switches;

/// How often the source agent asks a destination that does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// On the side that is entered: settles the cutover `epoch`. Called over the link
/// by the agent of the side that is left.
///
/// # Errors
///
/// What the server reports; nothing is promised then.
pub async fn resolve(switches: &Switches, participation: &Participation, epoch: i64) -> Result<Resolution, Failure> {
    let doing = "settle the cutover";
    // With its session goes a decision that is pending; one under way is waited for.
    switches.sessions.drop_entering(&participation.migration);
    let mut client = switches.door.open(&participation.database, Purpose::Cutover).await?;
    let transaction = client.transaction().await.map_err(|error| sql_failure(error, doing))?;
    transaction
        .batch_execute("SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = 0")
        .await
        .map_err(|error| sql_failure(error, doing))?;
    // Waits for a decision that is being committed.
    let row = transaction
        .query_one("SELECT state FROM pgportage.decision WHERE id = 1 FOR UPDATE", &[])
        .await
        .map_err(|error| sql_failure(error, doing))?;
    if row.get::<_, &str>(0) == "opened" {
        return Ok(Resolution::Opened);
    }
    transaction
        .execute(
            "UPDATE pgportage.decision SET floor_epoch = greatest(floor_epoch, $1::int8 + 1), \
             record_time = pg_catalog.clock_timestamp() WHERE id = 1",
            &[&epoch],
        )
        .await
        .map_err(|error| sql_failure(error, doing))?;
    transaction.commit().await.map_err(|error| sql_failure(error, doing))?;
    tracing::warn!(migration.id = %participation.migration, cutover_epoch = epoch, "promised not to open");
    Ok(Resolution::WillNotOpen)
}

/// On the side that is left: lifts the fence if the other one promises not to open,
/// and lets the barrier go. Succeeds when there is no fence.
///
/// # Errors
///
/// [`Reason::DestinationOpened`] when it has opened: the cutover goes forward.
/// [`Reason::CutoverInDoubt`] when it cannot be asked.
pub(super) async fn give_up_fence(
    switches: &Switches,
    participation: &Participation,
    epoch: i64,
) -> Result<(), Failure> {
    let migration = &participation.migration;
    let mut client = switches.door.open(&participation.database, Purpose::Cutover).await?;
    if fenced_epoch(&client).await?.is_none() {
        switches.journal.clear_note(migration, FENCE_NOTE)?;
        switches.sessions.drop_leaving(migration);
        return let_go(switches, participation).await;
    }
    match ask(switches, participation, epoch).await? {
        Resolution::Opened => {
            switches.journal.set_note(migration, SETTLED_NOTE, &epoch.to_string())?;
            switches.sessions.drop_leaving(migration);
            if let Err(failure) = let_go(switches, participation).await {
                tracing::error!(detail = failure.detail, "the poolers' clients still wait: {failure}");
            }
            let opened =
                Failure::new(Reason::DestinationOpened, format!("the {} has opened", participation.side.other()));
            let hint = match participation.side {
                Side::Source => "The cutover is done; go on with `pgportage finish` or `pgportage rollback`.",
                Side::Destination => "The rollback is done: applications belong on the source.",
            };
            Err(opened.hint(hint).remedy(Remedy::Operator).effect(Effect::None))
        }
        Resolution::WillNotOpen => {
            lift(&mut client, &participation.database).await?;
            switches.journal.clear_note(migration, FENCE_NOTE)?;
            switches.sessions.drop_leaving(migration);
            tracing::warn!(migration.id = %migration, cutover_epoch = epoch, side = %participation.side, "the fence is lifted: this side takes writes");
            let_go(switches, participation).await
        }
    }
}

async fn ask(switches: &Switches, participation: &Participation, epoch: i64) -> Result<Resolution, Failure> {
    let (left, entered) = (participation.side, participation.side.other());
    let in_doubt = |failure: Failure| {
        Failure::new(Reason::CutoverInDoubt, format!("nobody knows whether the {entered} has opened"))
            .detail(format!("The {entered}'s agent gave no answer: {}. {}", failure.message, failure.detail))
            .hint(format!(
                "The {left} stays fenced. Bring the {entered}'s agent and server back; it is asked again by itself."
            ))
            .because(&failure)
            .remedy(Remedy::Wait)
            .effect(Effect::Unknown)
    };
    let peer = switches.peers.call(participation).await.map_err(in_doubt)?;
    peer.resolve_cutover(epoch).await.map_err(in_doubt)
}

/// Whether this side has a place to note a fence in.
pub(super) async fn fence_table_exists(client: &impl GenericClient) -> Result<bool, Failure> {
    let row = client
        .query_typed_one("SELECT to_regclass('pgportage.fence') IS NOT NULL", &[])
        .await
        .map_err(|error| sql_failure(error, "look for a fence"))?;
    Ok(row.get(0))
}

/// The switch of the fence that stands on this side, if one does.
async fn fenced_epoch(client: &Client) -> Result<Option<i64>, Failure> {
    if !fence_table_exists(client).await? {
        return Ok(None);
    }
    // Waits for a fence that is being committed by a session whose agent died.
    client
        .batch_execute("BEGIN; LOCK TABLE pgportage.fence IN SHARE MODE; COMMIT")
        .await
        .map_err(|error| sql_failure(error, "look for a fence"))?;
    Ok(client
        .query_opt("SELECT cutover_epoch FROM pgportage.fence WHERE id = 1", &[])
        .await
        .map_err(|error| sql_failure(error, "look for a fence"))?
        .map(|row| row.get(0)))
}

/// One transaction: access as it was, and no row that says fenced.
async fn lift(client: &mut Client, database: &str) -> Result<(), Failure> {
    let doing = "lift the fence";
    let transaction = client.transaction().await.map_err(|error| sql_failure(error, doing))?;
    let row = transaction
        .query_opt("DELETE FROM pgportage.fence WHERE id = 1 RETURNING saved_access", &[])
        .await
        .map_err(|error| sql_failure(error, doing))?;
    let Some(row) = row else { return Ok(()) };
    let saved = Access::from_json(row.get(0))?;
    let statements = saved.restore_statements(database, &Access::read(&transaction).await?);
    transaction.batch_execute(&statements.join("; ")).await.map_err(|error| sql_failure(error, doing))?;
    transaction.commit().await.map_err(|error| sql_failure(error, doing))
}

/// On the source, independent of commands: settles fences about which the
/// coordinator says nothing. Runs until the agent stops.
///
/// Every fence that a journal note speaks of is asked about as soon as the barrier's
/// budget is over, because the destination does not open any more by then and
/// applications wait; after a restart of the agent at once, because the barrier is
/// gone then.
pub async fn settle_by_itself(switches: Switches) {
    let mut under_way = HashMap::new();
    loop {
        let pause = async {
            let now = switches.tasks.clock.now();
            let due = switches.sessions.next_deadline(now);
            switches.tasks.clock.sleep_until(due.map_or(now + ASK_AGAIN, |due| due.min(now + ASK_AGAIN))).await;
        };
        tokio::select! {
            biased;
            () = switches.tasks.stop.cancelled() => return,
            // Its budget may be shorter than the pause.
            () = switches.sessions.raised.notified() => continue,
            () = pause => {}
        }
        let participations = match switches.journal.participations() {
            Ok(participations) => participations,
            Err(failure) => {
                tracing::error!(%failure, "cannot read the journal");
                continue;
            }
        };
        under_way.retain(|_, settling: &mut JoinHandle<()>| !settling.is_finished());
        for participation in participations {
            // A pooler that does not answer holds up what is left of its own migration.
            let migration = participation.migration.clone();
            under_way.entry(migration).or_insert_with(|| {
                let switches = switches.clone();
                switches.tasks.clone().spawn(async move { settle_and_let_go(&switches, &participation).await })
            });
        }
    }
}

async fn settle_and_let_go(switches: &Switches, participation: &Participation) {
    let migration = &participation.migration;
    if let Err(failure) = settle(switches, participation).await {
        tracing::warn!(migration.id = %migration, %failure, "the cutover is in doubt");
    }
    if let Err(failure) = let_go_what_is_left(switches, participation).await {
        tracing::error!(migration.id = %migration, detail = failure.detail, "the poolers' clients still wait: {failure}");
    }
}

async fn settle(switches: &Switches, participation: &Participation) -> Result<(), Failure> {
    if in_doubt(switches, &participation.migration)?.is_none() {
        return Ok(());
    }
    // A command may work on it to its end, and leave nothing in doubt.
    if let Some(cutover) = switches.sessions.leaving(&participation.migration) {
        drop(cutover.lock().await);
    }
    let Some(epoch) = in_doubt(switches, &participation.migration)? else { return Ok(()) };
    match give_up_fence(switches, participation, epoch).await {
        Err(failure) if failure.reason == Reason::DestinationOpened => Ok(()),
        settled => settled,
    }
}

/// The switch whose fence may stand, and nobody knows why: it is not settled, and no
/// budget for it runs.
fn in_doubt(switches: &Switches, migration: &MigrationId) -> Result<Option<i64>, Failure> {
    if switches.sessions.deadline(migration).is_some_and(|deadline| switches.tasks.clock.now() < deadline) {
        return Ok(None);
    }
    let settled = noted_epoch(&switches.journal, migration, SETTLED_NOTE)?;
    Ok(noted_epoch(&switches.journal, migration, FENCE_NOTE)?.filter(|epoch| settled != Some(*epoch)))
}

/// The number of the switch that a journal note names.
pub(super) fn noted_epoch(journal: &Journal, migration: &MigrationId, key: &str) -> Result<Option<i64>, Failure> {
    Ok(journal.note(migration, key)?.and_then(|text| text.parse().ok()))
}

/// `pgportage-agent unfence`: lifts the fence on this machine, without the
/// coordinator. Refuses unless the side that is entered promises not to open, or the
/// operator states that it is `destroyed`. Audited in the log.
///
/// # Errors
///
/// [`Reason::DestinationOpened`], [`Reason::CutoverInDoubt`],
/// [`Reason::RequestInvalid`] when this side itself is said to be destroyed, or what
/// the server reports.
pub async fn unfence_locally(
    switches: &Switches,
    migration: &MigrationId,
    destroyed: Option<Side>,
) -> Result<(), Failure> {
    let Some(participation) = switches.journal.participation(migration)? else {
        return Err(Failure::new(Reason::MigrationMissing, format!("this agent has no part in migration {migration}"))
            .effect(Effect::None));
    };
    let side = participation.side;
    if destroyed == Some(side) {
        let message = format!("this agent is beside the {side} of migration {migration}, which is to be opened");
        return Err(Failure::new(Reason::RequestInvalid, message)
            .hint(format!("If the {0} is destroyed, say --{0}-destroyed.", side.other()))
            .effect(Effect::None));
    }
    let mut client = switches.door.open(&participation.database, Purpose::Cutover).await?;
    let Some(epoch) = fenced_epoch(&client).await? else { return Ok(()) };
    if let Some(destroyed) = destroyed {
        tracing::warn!(
            migration.id = %migration,
            cutover_epoch = epoch,
            "lifting the fence on the operator's statement that the {destroyed} is destroyed"
        );
        lift(&mut client, &participation.database).await?;
        switches.journal.clear_note(migration, FENCE_NOTE)?;
        return let_go(switches, &participation).await;
    }
    give_up_fence(switches, &participation, epoch).await
}
