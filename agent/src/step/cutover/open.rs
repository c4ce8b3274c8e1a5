//! P6: the decision. One row in the destination, in the transaction that opens
//! it; nobody else's memory counts. Cannot be undone.

use futures_util::TryFutureExt;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;
use tokio::try_join;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};

use super::announce::announce_opening;
use super::let_go::lead_back;
use super::resolve::fence_table_exists;
use super::sequence::{SequencePosition, set_all};
use super::{await_disk, current_lsn, refuse_in_rehearsal, sessions_lost};
use crate::action::{ActionKind, Verb};
use crate::hook;
use crate::policy::HookPoint;
use crate::postgres::access::Access;
use crate::postgres::{Lsn, Purpose, own_schema, quote_ident, sql_failure};
use crate::step::{Context, Step, Survey, connect};
use crate::stream::incoming;

const DECISION: &str = "SELECT state, floor_epoch, saved_access FROM pgportage.decision WHERE id = 1 FOR UPDATE";

const DECIDE: &str = "\
UPDATE pgportage.decision SET state = 'opened', opened_epoch = $1, floor_epoch = $1,
    record_time = pg_catalog.clock_timestamp()
WHERE id = 1";

const DOING: &str = "open the destination";

/// P6 on the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDestination {
    /// Number of this cutover.
    pub cutover_epoch: i64,
    /// The sequences, read when nobody was left on the source.
    pub sequences: Vec<SequencePosition>,
}

/// The destination is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDestinationResult {
    /// Position of the destination after the decision.
    pub open_lsn: String,
}

impl Step for OpenDestination {
    type Output = OpenDestinationResult;

    /// The row is asked, not the agent's memory: a decision whose answer was
    /// lost is found here.
    async fn survey(&self, cx: &Context) -> Result<Survey<OpenDestinationResult>, Failure> {
        // Applications wait: the session that is open already spares them a login.
        if let Some(cutover) = cx.agent.cutovers.entering(&cx.participation.migration) {
            let cutover = cutover.lock().await;
            if !cutover.session.is_closed() {
                return self.look(cx, &cutover.session).await;
            }
        }
        self.look(cx, &*cx.door.open(&cx.participation.database, Purpose::Cutover).await?).await
    }

    async fn perform(&self, cx: &Context) -> Result<OpenDestinationResult, Failure> {
        let migration = &cx.participation.migration;
        let Some(cutover) = cx.agent.cutovers.entering(migration) else {
            return Err(sessions_lost(Effect::None));
        };
        let mut cutover = cutover.lock().await;
        let deadline = match cutover.open_deadline {
            Some(deadline) if cutover.epoch == self.cutover_epoch => deadline,
            Some(_) | None => return Err(sessions_lost(Effect::None)),
        };
        refuse_in_rehearsal(cutover.rehearsal)?;
        hook::owe_on_entry(&cx.agent, &cx.participation, self.cutover_epoch)?;
        let left = deadline.saturating_duration_since(cx.clock.now());
        hook::ask(&cx.agent, &cx.participation, HookPoint::BeforeOpen, Some(left)).await?;
        // Most stand where they stood when the marker came.
        let moved: Vec<_> =
            self.sequences.iter().filter(|sequence| !cutover.sequences.contains(sequence)).cloned().collect();
        let transaction = cutover.session.transaction().await.map_err(|error| sql_failure(error, DOING))?;
        let found = look_behind_the_lock(cx, &transaction, &moved).await?;
        cx.fail_point("open_destination.perform.sequences");
        if found.state != "closed" {
            return Err(refused(&format!("the {} is open already", cx.participation.side)));
        }
        if self.cutover_epoch < found.floor {
            return Err(refused("the other side was promised that this cutover never opens"));
        }
        // After the lock, so that waiting for it counts.
        if cx.clock.now() >= deadline {
            return Err(refused("the time for opening is over"));
        }
        decide(cx, &transaction, self.cutover_epoch, &found).await?;
        cx.fail_point("open_destination.perform.decided");
        transaction.commit().await.map_err(|error| {
            sql_failure(error, DOING)
                .hint("Whether the destination has opened is found out by itself.")
                .remedy(Remedy::Wait)
                .effect(Effect::Unknown)
        })?;
        cx.fail_point("open_destination.perform.committed");
        tracing::info!(cutover_epoch = self.cutover_epoch, side = %cx.participation.side, "open to applications");
        // Clients of poolers go on, wherever these are.
        lead_back(cx)?;
        announce_opening(cx, self.cutover_epoch);
        let open_lsn = current_lsn(&cutover.session).await?.to_string();
        drop(cutover);
        cx.agent.cutovers.drop_entering(migration);
        hook::tell(&cx.agent, &cx.participation, HookPoint::AfterOpen);
        Ok(OpenDestinationResult { open_lsn })
    }

    /// A decision is not taken back. Without one, there is nothing to do.
    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        let client = cx.door.open(&cx.participation.database, Purpose::Cutover).await?;
        match opened_epoch(&client).await? {
            None => Ok(()),
            Some(_) => Err(Failure::new(Reason::DestinationOpened, "the destination has opened")
                .hint("Nothing takes this back; go on with `pgportage finish`.")
                .effect(Effect::None)),
        }
    }
}

impl OpenDestination {
    async fn look(&self, cx: &Context, client: &Client) -> Result<Survey<OpenDestinationResult>, Failure> {
        if opened_epoch(client).await? == Some(self.cutover_epoch) {
            lead_back(cx)?;
            hook::tell(&cx.agent, &cx.participation, HookPoint::AfterOpen);
            return Ok(Survey::Done(OpenDestinationResult { open_lsn: current_lsn(client).await?.to_string() }));
        }
        Ok(Survey::Ready)
    }
}

/// What stands in the way of the decision, or follows from it.
struct Found {
    state: String,
    floor: i64,
    /// Where the way back begins.
    begin: Lsn,
    saved: String,
    current: Access,
    own_grants: Vec<String>,
    /// A destination of before there was a way back has no table for a fence.
    fenceable: bool,
}

/// Locks the decision and reads what it depends on, in one round trip: applications
/// wait. What was applied until the lock came from the side that was left, and what is
/// committed after it did not: the way back begins there.
async fn look_behind_the_lock(
    cx: &Context,
    transaction: &Transaction<'_>,
    moved: &[SequencePosition],
) -> Result<Found, Failure> {
    // The server does them in this order.
    let (row, begin, current, own_grants, fenceable, (), ()) = try_join!(
        biased;
        transaction.query_typed_one(DECISION, &[]).map_err(|error| sql_failure(error, DOING)),
        current_lsn(transaction.client()),
        Access::read(transaction),
        keep_own_grants(cx, transaction),
        fence_table_exists(transaction),
        set_all(transaction.client(), moved),
        await_disk(transaction)
    )?;
    let (state, floor, saved) = (row.get(0), row.get(1), row.get(2));
    Ok(Found { state, floor, begin, saved, current, own_grants, fenceable })
}

/// The decision, and with it everything that makes it true. Stands with the commit.
async fn decide(cx: &Context, transaction: &Transaction<'_>, epoch: i64, found: &Found) -> Result<(), Failure> {
    let mut statements =
        Access::from_json(&found.saved)?.restore_statements(&cx.participation.database, &found.current);
    // Roles of ours keep what they need until `finish`.
    statements.extend(found.own_grants.iter().cloned());
    statements.push(format!("ALTER SUBSCRIPTION {} DISABLE", quote_ident(&incoming(&cx.participation))));
    if found.fenceable {
        statements.push("DELETE FROM pgportage.fence".to_owned());
    }
    let statements = statements.join("; ");
    let epoch: [(&(dyn ToSql + Sync), Type); 1] = [(&epoch, Type::INT8)];
    let decided = async {
        try_join!(transaction.batch_execute(&statements), transaction.query_typed(DECIDE, &epoch))
            .map_err(|error| sql_failure(error, DOING))
    };
    let (kind, begin) = (ActionKind::OpenDestination, found.begin.to_string());
    let recorded = own_schema::record_with(transaction, cx, kind, Verb::Perform, Some(begin.as_bytes()));
    try_join!(recorded, decided).map(drop)
}

/// Decides and takes it back before anybody sees it: whether the agent may do all that
/// is known before anybody waits, and when it is done in earnest, the session knows
/// the way.
///
/// # Errors
///
/// What the decision itself would meet.
pub(super) async fn try_to_decide(cx: &Context, session: &mut Client, epoch: i64) -> Result<(), Failure> {
    let transaction = session.transaction().await.map_err(|error| sql_failure(error, DOING))?;
    let found = look_behind_the_lock(cx, &transaction, &[]).await?;
    decide(cx, &transaction, epoch, &found).await.map_err(|failure| failure.effect(Effect::None))?;
    transaction.rollback().await.map_err(|error| sql_failure(error, DOING))
}

/// The cutover at which the destination has opened.
pub(super) async fn opened_epoch(client: &Client) -> Result<Option<i64>, Failure> {
    Ok(client
        .query_typed_opt("SELECT opened_epoch FROM pgportage.decision WHERE state = 'opened'", &[])
        .await
        .map_err(|error| sql_failure(error, "read the decision"))?
        .and_then(|row| row.get(0)))
}

/// The agent's own role, and the one that the other side logs in as for the way
/// back.
async fn keep_own_grants(cx: &Context, client: &impl tokio_postgres::GenericClient) -> Result<Vec<String>, Failure> {
    const OURS: &str = "\
SELECT rolname::text FROM pg_roles WHERE (rolname = current_user AND NOT rolsuper) OR rolname = $1 ORDER BY 1";
    let follower = connect::replication_role(&cx.agent.policy, &cx.participation);
    let database = quote_ident(&cx.participation.database);
    let rows = client
        .query_typed(OURS, &[(&follower, Type::NAME)])
        .await
        .map_err(|error| sql_failure(error, "read our own roles"))?;
    let grant = |role: &str| format!("GRANT CONNECT ON DATABASE {database} TO {}", quote_ident(role));
    Ok(rows.iter().map(|row| grant(row.get(0))).collect())
}

fn refused(why: &str) -> Failure {
    Failure::new(Reason::OpenRefused, why)
        .hint("The cutover is taken back by itself; try it again.")
        .remedy(Remedy::Operator)
        .effect(Effect::None)
}
