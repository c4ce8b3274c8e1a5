//! The slot on the publisher: the source, and for the way back the destination.
//!
//! Class: probe-able. The name is deterministic, and the intent is in the journal before the agent asks the
//! server. A slot of that name without the intent is not ours.

use std::time::Duration;

use pgportage_data_plane::slot::{SlotState, slot_state};
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::ledger::{self, Ownership};
use pgportage_migration::names::former_slot;
use pgportage_migration::stream::{published_copy_name, published_name};
use pgportage_postgres::{CancelHandle, Purpose, Session, is_passing, quote_ident, sql_failure};
use pgportage_proto::{ActKind, CopyMethod, Reason, Side, Verb, v1};
use pgportage_report::progress::Progress;

use super::grants::{grant_reading, revoke_reading};
use crate::act::patience::{Patience, stalled};
use crate::act::{Act, Consequences, Context, Produced, Survey};
use crate::policy::DestructiveAct;

/// The slot is there already.
const DUPLICATE_OBJECT: &str = "42710";

/// How often to look which sessions the server waits for.
const LOOK: Duration = Duration::from_millis(500);

/// How long the server may take to give up a cancelled creation.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);

/// The creation waits for transactions, and such a wait counts for `lock_timeout`. The creation has a limit
/// of its own.
const WAIT_FOR_LOCKS: &str = "SET lock_timeout = 0";

const CREATE: &str = "SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput')";

/// The sessions that a backend waits for. Process 0 is a prepared transaction.
const BLOCKERS: &str = "\
SELECT b.pid, a.usename::text, a.state,
       extract(epoch FROM clock_timestamp() - a.xact_start)::bigint
FROM unnest(pg_blocking_pids($1)) AS b (pid)
LEFT JOIN pg_stat_activity a ON a.pid = b.pid
ORDER BY a.xact_start NULLS FIRST, b.pid";

/// Our slot, a copy of it that was about to take its place, that of a lost snapshot,
/// and the slots that the other side's table synchronisation made:
/// `pg_<subscription>_sync_<table>_<system identifier of the subscriber>`.
const OUR_SLOTS: &str = "\
SELECT s.slot_name::text, s.active_pid
FROM pg_replication_slots s
WHERE s.database = current_database()
  AND (s.slot_name = ANY ($1)
       OR ($2 <> '' AND s.slot_name::text ~ ('^pg_[0-9]+_sync_[0-9]+_' || $2 || '$')))
ORDER BY 1";

/// Walsenders of our role in this database, with or without a slot.
const END_WALSENDERS: &str = "\
SELECT pg_terminate_backend(r.pid)
FROM pg_stat_replication r
JOIN pg_stat_activity a ON a.pid = r.pid
WHERE r.usename = $1 AND a.datname = current_database()";

/// Makes the migration's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateSlot {
    /// Whether its snapshot is kept for the copy.
    pub copy_method: CopyMethod,
}

/// The slot made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSlotResult {
    /// Its name.
    pub slot_name: String,
    /// Where its stream begins.
    pub consistent_point: String,
}

/// The state of a slot of our name.
#[derive(Clone, Debug)]
enum Found {
    Nothing,
    /// A backend of an earlier attempt is still making it.
    BeingMade(i32),
    Usable(String),
}

impl Act for CreateSlot {
    const KIND: ActKind = ActKind::CreateSlot;
    const WAY_BACK: &'static [Side] = &[Side::Destination];
    type Message = v1::CreateSlot;
    type Output = CreateSlotResult;

    fn decode(message: v1::CreateSlot) -> Result<Self, Failure> {
        Ok(Self { copy_method: message.copy_method().into() })
    }

    fn encode(output: CreateSlotResult) -> Produced {
        let CreateSlotResult { slot_name, consistent_point } = output;
        Produced::CreateSlot(v1::CreateSlotResult { slot_name, consistent_point })
    }

    fn consequences(&self, verb: Verb, side: Side) -> Consequences {
        match (verb, side) {
            (Verb::Undo, Side::Source) => Consequences::of(&[DestructiveAct::DropSlot]),
            (Verb::Undo, Side::Destination) | (Verb::Perform, Side::Source | Side::Destination) => Consequences::NONE,
        }
    }

    fn needs_slot(_side: Side) -> bool {
        true
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<CreateSlotResult>, Failure> {
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let name = published_name(&cx.participation);
        Ok(match find(cx, &session, &name).await? {
            Found::Usable(consistent_point) => Survey::Done(CreateSlotResult { slot_name: name, consistent_point }),
            Found::Nothing | Found::BeingMade(_) => Survey::Ready,
        })
    }

    async fn perform(&self, cx: &Context) -> Result<CreateSlotResult, Failure> {
        let name = published_name(&cx.participation);
        let mut patience = Patience::new(cx);
        loop {
            cx.safe_point()?;
            match grant_reading(cx).await {
                Ok(()) => break,
                Err(failure) => patience.again(cx, failure, "the privileges of the replication role").await?,
            }
        }
        cx.fail_point("create_slot.perform.granted");
        cx.slots.intend(&cx.participation.migration, &name)?;
        cx.fail_point("create_slot.perform.intended");
        match self.copy_method {
            // Boxed: both hold futures of logins.
            CopyMethod::Native => Box::pin(make(cx, &name)).await?,
            CopyMethod::Snapshot => Box::pin(keep_snapshot(cx, &name)).await?,
        }
        cx.fail_point("create_slot.perform.created");
        // Otherwise a checkpoint at the wrong moment may invalidate a new slot.
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        match find(cx, &session, &name).await? {
            Found::Usable(consistent_point) => Ok(CreateSlotResult { slot_name: name, consistent_point }),
            Found::Nothing | Found::BeingMade(_) => {
                Err(Failure::new(Reason::SlotLost, "the new replication slot is gone").remedy(Remedy::Wait))
            }
        }
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        remove_slots(cx).await?;
        cx.fail_point("create_slot.undo.dropped");
        let mut patience = Patience::new(cx);
        loop {
            cx.safe_point()?;
            match revoke_reading(cx).await {
                Ok(()) => return Ok(()),
                Err(failure) => patience.again(cx, failure, "the privileges of the replication role").await?,
            }
        }
    }
}

async fn find(cx: &Context, session: &Session, name: &str) -> Result<Found, Failure> {
    let Some(slot) = cx.slots.ours(&cx.participation, session, name).await? else { return Ok(Found::Nothing) };
    if slot.wal_status == "lost" {
        return Err(Failure::new(Reason::SlotLost, format!("replication slot {} was invalidated", quote_ident(name)))
            .detail("The source removed WAL that the slot needed. The copy has to start again.")
            .hint("Abort the migration; raise max_slot_wal_keep_size on the source before the next one.")
            .remedy(Remedy::Abort)
            .effect(Effect::None));
    }
    match (slot.confirmed, slot.active_pid) {
        (Some(confirmed), _) => Ok(Found::Usable(confirmed)),
        (None, Some(pid)) => Ok(Found::BeingMade(pid)),
        (None, None) => Ok(Found::Nothing),
    }
}

/// Makes the slot, unless it is there. A backend of an attempt that died may still be waiting to make it;
/// it may end at any moment, and may still succeed.
async fn make(cx: &Context, name: &str) -> Result<(), Failure> {
    let mut patience = Patience::new(cx);
    loop {
        cx.safe_point()?;
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        match find(cx, &session, name).await? {
            Found::Usable(_) => return Ok(()),
            Found::BeingMade(pid) => {
                session
                    .query_one("SELECT pg_terminate_backend($1)", &[&pid])
                    .await
                    .map_err(|error| sql_failure(error, "end an earlier attempt"))?;
            }
            Found::Nothing => match create(cx, name).await {
                Err(failure) if failure.sqlstate.as_deref() == Some(DUPLICATE_OBJECT) => {}
                made => return made,
            },
        }
        patience.again(cx, still_there(), "the end of an earlier attempt").await?;
    }
}

fn still_there() -> Failure {
    Failure::new(Reason::ServerUnreachable, "an earlier attempt still makes the slot")
}

/// Makes the slot on a session of its own.
async fn create(cx: &Context, name: &str) -> Result<(), Failure> {
    let maker = cx.slots.session(&cx.participation, Purpose::Scan).await?;
    maker.batch_execute(WAIT_FOR_LOCKS).await.map_err(|error| sql_failure(error, "create the replication slot"))?;
    let parameters: [&(dyn postgres_types::ToSql + Sync); 1] = [&name];
    let creation = async {
        let made = maker.query_one(CREATE, &parameters).await;
        made.map(|_| ()).map_err(|error| sql_failure(error, "create the replication slot"))
    };
    attend(cx, name, creation, Some(maker.cancel_handle())).await
}

/// Makes the slot and keeps its snapshot, unless both are there.
async fn keep_snapshot(cx: &Context, name: &str) -> Result<(), Failure> {
    let mut patience = Patience::new(cx);
    loop {
        cx.safe_point()?;
        let creation = async { cx.snapshots.open(&cx.participation, None).await.map(|_| ()) };
        // Dropping the future ends the keeper's session, and with it the statement.
        match attend(cx, name, creation, None).await {
            Err(failure) if failure.sqlstate.as_deref() == Some(DUPLICATE_OBJECT) => {
                patience.again(cx, still_there(), "the end of an earlier attempt").await?;
            }
            Err(failure) if is_passing(&failure) => {
                patience.again(cx, failure, "the end of an earlier attempt").await?;
            }
            made => return made,
        }
    }
}

/// Waits for the creation of the slot, and reports which sessions delay it: the server waits for every
/// transaction that is open now. `stop` cancels the creation, where dropping the future does not.
async fn attend(
    cx: &Context,
    name: &str,
    creation: impl Future<Output = Result<(), Failure>>,
    stop: Option<CancelHandle>,
) -> Result<(), Failure> {
    let observer = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    tokio::pin!(creation);
    let mut patience = Patience::new(cx);
    let mut seen = Vec::new();
    let mut subject = "the source, to create the replication slot".to_owned();
    loop {
        tokio::select! {
            biased;
            made = &mut creation => return made.map_err(creation_failure),
            () = cx.tasks.clock.sleep(LOOK) => {}
        }
        let over = patience.is_over(cx);
        if over || cx.cancel.is_cancelled() {
            if let Some(stop) = stop
                && stop.cancel().await.is_ok()
                && cx.tasks.clock.timeout(CANCEL_LIMIT, &mut creation).await.is_err()
            {
                tracing::warn!("the server does not give up the creation of the replication slot");
            }
            cx.safe_point()?;
            return Err(stalled(cx, &subject)
                .hint("End that transaction, or wait for it; then retry the step.")
                .effect(Effect::None));
        }
        // Only a report for operators: no decision rests on this look, so it may fail.
        if let Ok(Some(SlotState { active_pid: Some(maker), .. })) = slot_state(&observer, name).await
            && let Ok(blockers) = blockers(&observer, maker).await
            && !blockers.is_empty()
        {
            subject = describe(&blockers);
            let now: Vec<i32> = blockers.iter().map(|blocker| blocker.pid).collect();
            if now != seen {
                patience.moved(cx);
                seen = now;
            }
        }
        cx.report(Progress { subject: subject.clone(), ..Progress::default() });
    }
}

fn creation_failure(failure: Failure) -> Failure {
    if failure.sqlstate.as_deref() == Some("53400") {
        failure.hint("Drop replication slots that are no longer needed, or raise max_replication_slots on the source.")
    } else {
        failure
    }
}

struct Blocker {
    pid: i32,
    user: Option<String>,
    state: Option<String>,
    age_seconds: Option<i64>,
}

async fn blockers(observer: &Session, pid: i32) -> Result<Vec<Blocker>, Failure> {
    let rows =
        observer.query(BLOCKERS, &[&pid]).await.map_err(|error| sql_failure(error, "look at open transactions"))?;
    Ok(rows
        .iter()
        .map(|row| Blocker { pid: row.get(0), user: row.get(1), state: row.get(2), age_seconds: row.get(3) })
        .collect())
}

fn describe(blockers: &[Blocker]) -> String {
    let one = |blocker: &Blocker| {
        if blocker.pid == 0 {
            return "a prepared transaction (see pg_prepared_xacts)".to_owned();
        }
        let mut text = format!("the transaction of process {}", blocker.pid);
        let facts: Vec<String> = [
            blocker.user.as_ref().map(|user| format!("role {}", quote_ident(user))),
            blocker.state.clone(),
            blocker.age_seconds.map(|age| format!("open for {age} s")),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !facts.is_empty() {
            text.push_str(&format!(" ({})", facts.join(", ")));
        }
        text
    };
    blockers.iter().take(3).map(one).collect::<Vec<_>>().join(", ")
}

/// Ends our walsenders, and drops our slot and those that table synchronisation left. Succeeds when there
/// is nothing to drop. An agent that has lost its journal knows by the ledger on the server that the slots of
/// these names are ours.
///
/// # Errors
///
/// What the server reports; [`Reason::Stalled`] when a slot stays in use.
pub(crate) async fn remove_slots(cx: &Context) -> Result<(), Failure> {
    let migration = &cx.participation.migration;
    if !cx.slots.is_intended(migration)? {
        let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
        let ours = ledger::ownership(&*session, &cx.participation).await? == Ownership::Ours;
        if !ours || ledger::results(&*session, ActKind::CreateSlot).await?.is_empty() {
            return Ok(());
        }
    }
    let system = cx.slots.subscriber(migration)?;
    let role = cx.roles.replication(&cx.participation);
    let mut patience = Patience::new(cx);
    loop {
        cx.safe_point()?;
        match drop_slots(cx, &system, &role).await {
            Ok(()) => break,
            Err(failure) => patience.again(cx, failure, "the destination to let go of the replication slot").await?,
        }
    }
    cx.snapshots.forget(migration)?;
    cx.slots.forget(migration)
}

async fn drop_slots(cx: &Context, system: &str, role: &str) -> Result<(), Failure> {
    let names = [
        published_name(&cx.participation),
        published_copy_name(&cx.participation),
        former_slot(&cx.participation.migration),
    ];
    let names = names.as_slice();
    let failure = |error| sql_failure(error, "drop the replication slot");
    let session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    session.query(END_WALSENDERS, &[&role]).await.map_err(failure)?;
    let rows = session.query(OUR_SLOTS, &[&names, &system]).await.map_err(failure)?;
    if rows.is_empty() {
        return Ok(());
    }
    let dropper = cx.slots.session(&cx.participation, Purpose::Control).await?;
    for row in rows {
        let (slot, active): (String, Option<i32>) = (row.get(0), row.get(1));
        if let Some(pid) = active {
            session.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await.map_err(failure)?;
        }
        match dropper.query_one("SELECT pg_drop_replication_slot($1)", &[&slot]).await {
            Ok(_) => cx.fail_point("create_slot.undo.one_dropped"),
            Err(error) => {
                let dropped = sql_failure(error, "drop the replication slot");
                // Another session, for example the subscriber's, has dropped it first.
                if dropped.sqlstate.as_deref() != Some("42704") {
                    return Err(dropped);
                }
            }
        }
    }
    Ok(())
}
