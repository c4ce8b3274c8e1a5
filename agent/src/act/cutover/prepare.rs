//! P0: checks the preconditions of a switchover, without effects. Opens every connection that the
//! switchover needs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use pgportage_data_plane::slot::slot_state;
use pgportage_data_plane::snapshot::Written;
use pgportage_link::{Effect, Failure, Haste, Remedy};
use pgportage_migration::names;
use pgportage_migration::stream::{published_name, subscribed_name};
use pgportage_migration::switchover::{Event, Role, Switchover};
use pgportage_postgres::access::own_role;
use pgportage_postgres::catalog::Sequences;
use pgportage_postgres::expel::Expulsion;
use pgportage_postgres::{Purpose, RelationName, Session, catalog, quote_ident, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use super::fence::try_to_fence;
use super::flow::await_receiver;
use super::open::try_to_decide;
use super::seeded::{self, Bug};
use crate::act::{Act, Consequences, Context, Produced, Survey, history, verify, way_back};
use crate::message::{duration, int32};
use crate::policy::{DestructiveAct, HookPoint};
use crate::pooler::Unreachable;
use crate::switchover::{Canary, EnteringSide, Fingerprint, LeavingSide, WrittenRowsCheck};

/// A transaction that has written and is older than this would delay the barrier for longer than an outage
/// may last.
const LONG_TRANSACTION: Duration = Duration::from_secs(5);

const PREPARED: &str = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared";

/// Transactions that hold locks which conflict with the barrier, or are about to take one. Our own are left
/// out by pid and start.
const LONG_WRITERS: &str = "\
SELECT a.pid, coalesce(a.usename, '')::text, coalesce(a.application_name, '')::text,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.backend_xid IS NOT NULL
  AND clock_timestamp() - a.xact_start > make_interval(secs => $3)
  AND NOT EXISTS (SELECT FROM unnest($1::int4[], $2::text[]) AS ours (pid, backend_start)
                  WHERE ours.pid = a.pid AND ours.backend_start = a.backend_start::text)
ORDER BY a.xact_start";

/// The server shows a session of ours that was just closed for a moment longer, when it is no longer on our
/// list.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// So many second looks before a superuser's session counts as one.
const SECOND_LOOKS: u32 = 5;

/// Sessions that no grant keeps out.
const SUPERUSER_SESSIONS: &str = "\
SELECT a.pid, coalesce(a.usename, '')::text, coalesce(a.application_name, '')::text
FROM pg_stat_activity a JOIN pg_roles r ON r.rolname = a.usename
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND r.rolsuper
  AND NOT EXISTS (SELECT FROM unnest($1::int4[], $2::text[]) AS ours (pid, backend_start)
                  WHERE ours.pid = a.pid AND ours.backend_start = a.backend_start::text)
ORDER BY a.pid";

const OTHER_SUBSCRIPTIONS: &str = "\
SELECT subname::text FROM pg_subscription
WHERE subenabled AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY 1";

/// The disabled subscription that this side will follow with.
const FOLLOWER: &str = "\
SELECT FROM pg_subscription s
WHERE s.subname = $1 AND NOT s.subenabled AND s.subslotname IS NOT NULL
  AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srsubid = s.oid)";

/// Tables of the subscription that are not ready.
const NOT_READY: &str = "\
SELECT count(*) FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
WHERE s.subname = $1 AND r.srsubstate <> 'r'";

const SUBSCRIBED: &str = "\
SELECT n.nspname::text, c.relname::text
FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid
JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE s.subname = $1 AND s.subenabled
  AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\"";

/// P0 on either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareCutover {
    /// Number of this cutover.
    pub cutover_epoch: i64,
    /// The hard limit of the outage.
    pub max_outage: Duration,
    /// Whether it is a cutover or a rollback.
    pub switch: Switch,
    /// Whether what applications write afterwards must be able to flow back.
    pub way_back: bool,
    /// Whether it is a rehearsal, which goes no further than the drain.
    pub rehearsal: bool,
    /// What to do in a rollback when a pooler's console does not answer.
    pub unreachable: Unreachable,
    /// Whether rows that are written from here on to the marker are to be compared.
    pub compare_written: bool,
}

/// The direction of a switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// From the source to the destination.
    Cutover,
    /// From the destination back to the source.
    Rollback,
}

impl Switch {
    /// The direction, from the flag of the contract.
    pub(crate) fn of(rollback: bool) -> Self {
        if rollback { Self::Rollback } else { Self::Cutover }
    }

    pub(crate) fn leaves(self) -> Side {
        match self {
            Self::Cutover => Side::Source,
            Self::Rollback => Side::Destination,
        }
    }
}

/// The preconditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareCutoverResult {
    /// SHA-256 over the sorted names of the tables.
    pub table_set_digest: Vec<u8>,
    /// SHA-256 over the catalog's objects.
    pub catalog_digest: Vec<u8>,
    /// Number of tables.
    pub table_count: u32,
}

impl Act for PrepareCutover {
    const KIND: ActKind = ActKind::PrepareCutover;
    type Message = v1::PrepareCutover;
    type Output = PrepareCutoverResult;

    fn decode(message: v1::PrepareCutover) -> Result<Self, Failure> {
        Ok(Self {
            cutover_epoch: message.cutover_epoch,
            max_outage: duration(message.max_outage, "max_outage")?,
            switch: Switch::of(message.rollback),
            way_back: message.way_back,
            rehearsal: message.rehearsal,
            unreachable: if message.without_poolers { Unreachable::LeaveOut } else { Unreachable::Refuse },
            compare_written: message.compare_written,
        })
    }

    fn encode(output: PrepareCutoverResult) -> Produced {
        Produced::PrepareCutover(v1::PrepareCutoverResult {
            table_set_digest: output.table_set_digest,
            catalog_digest: output.catalog_digest,
            table_count: int32(output.table_count),
        })
    }

    fn consequences(&self, verb: Verb, _side: Side) -> Consequences {
        let destructive: &[DestructiveAct] = match self.switch {
            Switch::Cutover => &[],
            Switch::Rollback => &[DestructiveAct::WayBack],
        };
        match verb {
            Verb::Perform => Consequences { destructive, max_outage: Some(self.max_outage) },
            Verb::Undo => Consequences::NONE,
        }
    }

    /// Preconditions are checked anew each time: there is no "done".
    async fn survey(&self, _cx: &Context) -> Result<Survey<PrepareCutoverResult>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<PrepareCutoverResult, Failure> {
        if cx.participation.side == self.switch.leaves() {
            Box::pin(prepare_to_leave(cx, self)).await
        } else {
            Box::pin(prepare_to_enter(cx, self)).await
        }
    }

    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        let migration = &cx.participation.migration;
        if cx.participation.side == self.switch.leaves() {
            cx.switchovers.sessions.drop_leaving(migration);
        } else {
            cx.switchovers.sessions.drop_entering(migration);
        }
        cx.switchovers.carry_out(&cx.participation).await
    }
}

async fn prepare_to_leave(cx: &Context, act: &PrepareCutover) -> Result<PrepareCutoverResult, Failure> {
    let database = &cx.participation.database;
    let migration = &cx.participation.migration;
    cx.switchovers.sessions.drop_leaving(migration);
    let holder = cx.door.open(database, Purpose::Cutover).await?;
    let mut writer = cx.door.open(database, Purpose::Cutover).await?;
    outgoing_slot_stands(cx, &writer).await?;
    // First, because it may take a while: the other checks have to hold now.
    await_receiver(cx, &writer).await?;
    refuse_prepared_transactions(&writer).await?;
    refuse_other_subscriptions(&writer).await?;
    if act.way_back {
        prove_ready_to_follow(cx, &writer).await?;
    }
    refuse_superusers(cx, &writer).await?;
    refuse_long_writers(cx, &writer).await?;
    cx.poolers.check(&cx.participation).await?;
    // Every pooler was checked.
    cx.journal.happened(migration, Event::LeadHere(None))?;
    let canary =
        Canary::wake(&cx.door, &cx.roles, &cx.settings.postgres.replication_address, &cx.participation).await?;
    let written = match act.compare_written {
        true => Some(Arc::new(Written::begin(&cx.slots, cx.tasks.clock, &cx.participation).await?)),
        false => None,
    };

    let published = without_ours(catalog::published_tables(&writer, &published_name(&cx.participation)).await?);
    let tables = catalog::user_tables(&writer).await?;
    let missing: Vec<String> =
        tables.iter().filter(|table| !published.contains(table)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Err(Failure::new(
            Reason::SchemaDiffers,
            format!("tables were created on the {} since the migration began", cx.participation.side),
        )
        .detail(format!("They are not replicated: {}.", missing.join(", ")))
        .hint("Drop them, or abort the migration and begin again.")
        .effect(Effect::None));
    }
    let catalog_digest = catalog::catalog_digest(&writer).await?.to_vec();
    let result = PrepareCutoverResult {
        table_set_digest: table_set_digest(&published),
        catalog_digest: catalog_digest.clone(),
        table_count: u32::try_from(published.len()).unwrap_or(u32::MAX),
    };
    let fingerprint = Fingerprint::take(&writer).await?;
    let sequences = Sequences::prepare(&writer).await?;
    let expulsion = Expulsion::prepare(&writer).await?;
    // A first reading without use: a session takes several times as long for it, and behind the barrier
    // applications would wait.
    sequences.read(&writer).await?;
    let ours = vec![own_role(&*writer).await?, cx.roles.names(&cx.participation).replication];
    try_to_fence(cx, &mut writer, act.cutover_epoch, &ours).await?;
    cx.switchovers.sessions.hold_leaving(
        migration,
        LeavingSide {
            epoch: act.cutover_epoch,
            _haste: Haste::begin(),
            rehearsal: act.rehearsal,
            holder,
            writer,
            canary,
            catalog_digest,
            fingerprint,
            sequences,
            expulsion,
            ours,
            written,
            barrier: None,
            fenced: None,
        },
    );
    if act.rehearsal {
        return Ok(result);
    }
    // Last of all: the owner's hooks take this as the sign that the outage is near.
    let switchover = Switchover { epoch: act.cutover_epoch, role: Role::Leaving };
    cx.switchovers.owe_hooks(&cx.participation, switchover)?;
    cx.hooks.ask(&cx.participation, HookPoint::BeforeBarrier, None).await.map_err(|failure| {
        cx.switchovers.sessions.drop_leaving(migration);
        failure.effect(Effect::None)
    })?;
    Ok(result)
}

async fn prepare_to_enter(cx: &Context, act: &PrepareCutover) -> Result<PrepareCutoverResult, Failure> {
    let migration = &cx.participation.migration;
    cx.switchovers.sessions.drop_entering(migration);
    if act.switch == Switch::Rollback {
        cx.poolers.check_back(&cx.participation, act.unreachable).await?;
    }
    let session = cx.door.open(&cx.participation.database, Purpose::Cutover).await?;
    if act.way_back {
        outgoing_slot_stands(cx, &session).await?;
    }
    prove_closed(cx, &session).await?;
    history::expect_unbroken(&*session, cx.participation.side).await?;
    if Bug::NoFlush.is_seeded() {
        seeded::forget_the_disk(&*session).await?;
    }
    let subscription = subscribed_name(&cx.participation);
    let not_ready: i64 = session
        .query_one(NOT_READY, &[&subscription])
        .await
        .map_err(|error| sql_failure(error, "look at the subscription"))?
        .get(0);
    if not_ready > 0 {
        return Err(Failure::new(Reason::TablesNotReady, format!("{not_ready} tables are still being copied"))
            .hint("Wait until the initial copy is done.")
            .remedy(Remedy::Operator)
            .effect(Effect::None));
    }
    let subscribed: Vec<RelationName> = session
        .query(SUBSCRIBED, &[&subscription])
        .await
        .map_err(|error| sql_failure(error, "look at the subscription"))?
        .iter()
        .map(|row| RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)))
        .collect();
    if !subscribed.iter().any(|table| table.schema == names::SCHEMA && table.relation == names::MARKER_TABLE) {
        return Err(Failure::new(Reason::ApplyFailed, "the subscription is disabled or does not carry the marker")
            .hint("Look at the destination's server log and at pg_subscription; enable the subscription and try again.")
            .effect(Effect::None));
    }
    let subscribed = without_ours(subscribed);
    try_to_decide(cx, &session, act.cutover_epoch).await?;
    let check = match act.compare_written {
        true => Some(Box::pin(scrutinise(cx)).await?),
        false => None,
    };
    let catalog_digest = catalog::catalog_digest(&session).await?.to_vec();
    let result = PrepareCutoverResult {
        table_set_digest: table_set_digest(&subscribed),
        catalog_digest: catalog_digest.clone(),
        table_count: u32::try_from(subscribed.len()).unwrap_or(u32::MAX),
    };
    cx.switchovers.sessions.hold_entering(
        migration,
        EnteringSide {
            epoch: act.cutover_epoch,
            _haste: Haste::begin(),
            rehearsal: act.rehearsal,
            session,
            catalog_digest,
            check,
            drained: None,
            sequences: HashSet::new(),
            open_deadline: None,
            pending: false,
            unreachable: act.unreachable,
            clients_wait_until: None,
        },
    );
    Ok(result)
}

/// The slot that carries this side's changes is needed: to drain, or for the way back. The server is asked:
/// the watch may not have looked since the slot went.
async fn outgoing_slot_stands(cx: &Context, session: &Session) -> Result<(), Failure> {
    let name = published_name(&cx.participation);
    let stands = match (cx.slots.stands(&cx.participation.migration), slot_state(session, &name).await?) {
        (Err(given_up), _) => Err(given_up),
        (Ok(()), Some(slot)) if slot.confirmed.is_some() && slot.wal_status != "lost" => Ok(()),
        (Ok(()), _) => Err(Failure::new(Reason::SlotLost, "the replication slot is lost")
            .detail(format!("The server has no usable slot {}.", quote_ident(&name)))
            .hint("Abort the migration and begin again; the copy cannot go on without the slot.")
            .remedy(Remedy::Abort)
            .effect(Effect::None)),
    };
    match cx.participation.side {
        Side::Source => stands,
        Side::Destination => stands.map_err(|failure| way_back::lost(failure.message).detail(failure.detail)),
    }
}

/// Once this side is left, it follows the other one, with the subscription that was made and proved before.
async fn prove_ready_to_follow(cx: &Context, client: &Client) -> Result<(), Failure> {
    let known = client
        .query_opt(FOLLOWER, &[&subscribed_name(&cx.participation)])
        .await
        .map_err(|error| sql_failure(error, "look at the subscription of the way back"))?;
    match known {
        Some(_disabled) => Ok(()),
        None => Err(way_back::lost(format!("the {} has no subscription to follow with", cx.participation.side))),
    }
}

fn without_ours(tables: Vec<RelationName>) -> Vec<RelationName> {
    tables.into_iter().filter(|table| table.schema != names::SCHEMA).collect()
}

/// The length stands before the name, so that no two lists give the same bytes.
fn table_set_digest(tables: &[RelationName]) -> Vec<u8> {
    let mut digest = Sha256::new();
    for part in tables.iter().flat_map(|table| [&table.schema, &table.relation]) {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().to_vec()
}

async fn prove_closed(cx: &Context, client: &Client) -> Result<(), Failure> {
    let side = cx.participation.side;
    let state: Option<String> = client
        .query_opt("SELECT state FROM pgportage.decision WHERE id = 1", &[])
        .await
        .map_err(|error| sql_failure(error, "read the decision"))?
        .map(|row| row.get(0));
    match state.as_deref() {
        Some("closed") => Ok(()),
        Some(_) => {
            Err(Failure::new(Reason::DestinationOpened, format!("the {side} is open already")).effect(Effect::None))
        }
        None => {
            Err(Failure::new(Reason::DestinationNotClosed, format!("the {side} was never closed")).effect(Effect::None))
        }
    }
}

async fn refuse_prepared_transactions(client: &Client) -> Result<(), Failure> {
    let pending: Vec<String> = client
        .query(PREPARED, &[])
        .await
        .map_err(|error| sql_failure(error, "look for prepared transactions"))?
        .iter()
        .map(|row| format!("{:?}", row.get::<_, String>(0)))
        .collect();
    if pending.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Reason::PreparedTransactions, format!("{} prepared transactions are pending", pending.len()))
        .detail(format!("Their names: {}.", pending.join(", ")))
        .hint("Run COMMIT PREPARED or ROLLBACK PREPARED for each.")
        .effect(Effect::None))
}

async fn refuse_other_subscriptions(client: &Client) -> Result<(), Failure> {
    let names: Vec<String> = client
        .query(OTHER_SUBSCRIPTIONS, &[])
        .await
        .map_err(|error| sql_failure(error, "look for subscriptions"))?
        .iter()
        .map(|row| row.get(0))
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Reason::WrongState, "the source is itself a subscriber")
        .detail(format!("Its subscriptions go on writing behind a fence: {}.", names.join(", ")))
        .hint("Disable them with ALTER SUBSCRIPTION … DISABLE before the cutover.")
        .effect(Effect::None))
}

/// The pids and start times of our own sessions, for queries.
fn own(cx: &Context) -> (Vec<i32>, Vec<String>) {
    cx.door.own_sessions().into_iter().map(|session| (session.pid, session.backend_start)).unzip()
}

async fn refuse_superusers(cx: &Context, client: &Client) -> Result<(), Failure> {
    let mut sessions = superusers(cx, client).await?;
    for _look in 0..SECOND_LOOKS {
        if sessions.is_empty() {
            return Ok(());
        }
        cx.pause(SECOND_LOOK).await?;
        sessions = superusers(cx, client).await?;
    }
    if sessions.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Reason::SuperuserSession, format!("superusers are logged in to the {}", cx.participation.side))
        .detail(format!("No fence keeps a superuser out: {}.", sessions.join("; ")))
        .hint("Close these sessions, and give applications a role that is no superuser.")
        .effect(Effect::None))
}

async fn superusers(cx: &Context, client: &Client) -> Result<Vec<String>, Failure> {
    let (pids, starts) = own(cx);
    Ok(client
        .query(SUPERUSER_SESSIONS, &[&pids, &starts])
        .await
        .map_err(|error| sql_failure(error, "look for superusers"))?
        .iter()
        .map(|row| {
            format!(
                "pid {} of role {:?} (application {:?})",
                row.get::<_, i32>(0),
                row.get::<_, String>(1),
                row.get::<_, String>(2)
            )
        })
        .collect())
}

async fn refuse_long_writers(cx: &Context, client: &Session) -> Result<(), Failure> {
    let (pids, starts) = own(cx);
    let writers: Vec<String> = client
        .query(LONG_WRITERS, &[&pids, &starts, &LONG_TRANSACTION.as_secs_f64()])
        .await
        .map_err(|error| sql_failure(error, "look for long transactions"))?
        .iter()
        .map(|row| {
            format!(
                "pid {} of role {:?} (application {:?}), open for {:.0} s",
                row.get::<_, i32>(0),
                row.get::<_, String>(1),
                row.get::<_, String>(2),
                row.get::<_, f64>(3)
            )
        })
        .collect();
    if writers.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Reason::LongTransaction, "a transaction on the source has been writing for long")
        .detail(format!("The barrier would wait for it: {}.", writers.join("; ")))
        .hint("Wait until it ends, or end it, then try the cutover again.")
        .effect(Effect::None))
}

/// Opens both ends for the comparison of what is written from here on.
async fn scrutinise(cx: &Context) -> Result<WrittenRowsCheck, Failure> {
    let (mut here, mut there) = verify::open(cx).await?;
    let (plan, hashing) = verify::Plan::make(cx, &mut here, &mut there).await?;
    Ok(WrittenRowsCheck::new(here, there, plan.tables, hashing))
}
