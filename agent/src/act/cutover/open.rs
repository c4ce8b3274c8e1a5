//! P6: the decision. One row in the destination, written in the transaction that opens it. Only this row
//! counts, not what an agent or the coordinator remembers. Cannot be undone.
//!
//! The transaction begins after P3, and does its work while the other side is still being fenced. P6
//! completes and commits it.

use std::time::Duration;

use futures_util::TryFutureExt;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::ledger;
use pgportage_migration::stream::subscribed_name;
use pgportage_migration::switchover::{Role, Switchover};
use pgportage_postgres::access::Access;
use pgportage_postgres::{Purpose, quote_ident, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use tokio::time::Instant;
use tokio::try_join;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::sequence::set_all;
use super::{await_disk, current_lsn, refuse_in_rehearsal};
use crate::act::{Act, Consequences, Context, Produced, Survey};
use crate::message::sequences;
use crate::policy::{DestructiveAct, HookPoint};
use crate::switchover::{EnteringSide, Switchovers, fence_table_exists, sessions_lost};
use pgportage_postgres::catalog::SequencePosition;

const DECISION: &str = "SELECT state, floor_epoch, saved_access FROM pgportage.decision WHERE id = 1 FOR UPDATE";

const DECIDE: &str = "\
UPDATE pgportage.decision SET state = 'opened', opened_epoch = $1, floor_epoch = $1,
    record_time = pg_catalog.clock_timestamp()
WHERE id = 1";

const DOING: &str = "open the destination";

/// Longest time that a decision is tried for.
const TRIAL: Duration = Duration::from_secs(30);

/// P6 on the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDestination {
    /// Number of this cutover.
    pub cutover_epoch: i64,
    /// The sequences, read when no application was left on the source.
    pub sequences: Vec<SequencePosition>,
}

/// The destination is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDestinationResult {
    /// Position of the destination after the decision.
    pub open_lsn: String,
}

impl Act for OpenDestination {
    const KIND: ActKind = ActKind::OpenDestination;
    const WAY_BACK: &'static [Side] = &[Side::Source];
    type Message = v1::OpenDestination;
    type Output = OpenDestinationResult;

    fn decode(message: v1::OpenDestination) -> Result<Self, Failure> {
        Ok(Self { cutover_epoch: message.cutover_epoch, sequences: sequences(message.sequences)? })
    }

    fn encode(output: OpenDestinationResult) -> Produced {
        Produced::OpenDestination(v1::OpenDestinationResult { open_lsn: output.open_lsn })
    }

    fn consequences(&self, verb: Verb, _side: Side) -> Consequences {
        match verb {
            Verb::Perform => Consequences::of(&[DestructiveAct::Open]),
            Verb::Undo => Consequences::NONE,
        }
    }

    /// Asks the row, not the agent's memory: this finds a decision whose answer was lost.
    async fn survey(&self, cx: &Context) -> Result<Survey<OpenDestinationResult>, Failure> {
        // Applications wait. While the agent holds the sessions of a side that may still open, that side
        // has not opened. So its row need not be asked here: `decide` reads it behind the lock.
        if let Some(cutover) = cx.switchovers.sessions.entering(&cx.participation.migration) {
            let cutover = cutover.lock().await;
            let may_decide = cutover.epoch == self.cutover_epoch && cutover.open_deadline.is_some();
            if may_decide && !cutover.session.is_closed() {
                return Ok(Survey::Ready);
            }
        }
        let client = cx.door.open(&cx.participation.database, Purpose::Cutover).await?;
        if opened_epoch(&client).await? == Some(self.cutover_epoch) {
            cx.switchovers.this_side_opened(&cx.participation, self.cutover_epoch)?;
            return Ok(Survey::Done(OpenDestinationResult { open_lsn: current_lsn(&client).await?.to_string() }));
        }
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<OpenDestinationResult, Failure> {
        let migration = &cx.participation.migration;
        let Some(cutover) = cx.switchovers.sessions.entering(migration) else {
            return Err(sessions_lost(Effect::None));
        };
        let mut cutover = cutover.lock().await;
        let deadline = match cutover.open_deadline {
            Some(deadline) if cutover.epoch == self.cutover_epoch => deadline,
            Some(_) | None => return Err(sessions_lost(Effect::None)),
        };
        refuse_in_rehearsal(cutover.rehearsal)?;
        let switchover = Switchover { epoch: self.cutover_epoch, role: Role::Entering };
        cx.switchovers.owe_hooks(&cx.participation, switchover)?;
        let left = deadline.saturating_duration_since(cx.tasks.clock.now());
        cx.hooks.ask(&cx.participation, HookPoint::BeforeOpen, Some(left)).await?;
        // Most sequences are where they were when the marker came.
        let moved: Vec<_> =
            self.sequences.iter().filter(|sequence| !cutover.sequences.contains(sequence)).cloned().collect();
        let EnteringSide { session, open_deadline, pending, .. } = &mut *cutover;
        if !std::mem::take(pending) {
            decide(&cx.switchovers, &cx.participation, session, self.cutover_epoch, left).await?;
        }
        if let Err(failure) = self.complete(cx, session, &moved, deadline, open_deadline).await {
            take_back(session).await;
            return Err(failure);
        }
        cx.fail_point("open_destination.perform.committed");
        tracing::info!(cutover_epoch = self.cutover_epoch, side = %cx.participation.side, "open to applications");
        // Clients of poolers go on, at this agent and at the other one.
        cx.switchovers.announce_opening(&cx.participation, self.cutover_epoch);
        let open_lsn = current_lsn(session).await?.to_string();
        drop(cutover);
        cx.switchovers.sessions.drop_entering(migration);
        cx.switchovers.this_side_opened(&cx.participation, self.cutover_epoch)?;
        Ok(OpenDestinationResult { open_lsn })
    }

    /// A decision that was committed is not taken back. Without one, there is nothing to do.
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
    /// Completes and commits a decision that is pending.
    async fn complete(
        &self,
        cx: &Context,
        session: &Client,
        moved: &[SequencePosition],
        deadline: Instant,
        open_deadline: &mut Option<Instant>,
    ) -> Result<(), Failure> {
        // What was applied up to this position came from the side that was left; what is committed after it
        // did not. So the way back begins here.
        let (begin, (), ()) =
            try_join!(current_lsn(session), set_all(session, moved), ledger::check_epoch(session, cx.leader_epoch))?;
        cx.fail_point("open_destination.perform.sequences");
        if cx.tasks.clock.now() >= deadline {
            return Err(refused("the time for opening is over"));
        }
        cx.fail_point("open_destination.perform.decided");
        // From here on only the row says whether this side has opened.
        *open_deadline = None;
        let begin = begin.to_string();
        let (kind, begin) = (ActKind::OpenDestination, Some(begin.as_bytes()));
        // In one round trip: if the row cannot be written, COMMIT rolls everything back.
        try_join!(
            biased;
            ledger::write_row(session, cx.entry(), kind, Verb::Perform, begin),
            session.batch_execute("COMMIT").map_err(|error| sql_failure(error, DOING))
        )
        .map_err(|failure| {
            failure
                .hint("Whether the destination has opened is found out by itself.")
                .remedy(Remedy::Wait)
                .effect(Effect::Unknown)
        })?;
        Ok(())
    }
}

/// What the decision depends on, as the server has it.
struct Found {
    state: String,
    floor: i64,
    saved: String,
    current: Access,
    own_grants: Vec<String>,
    /// A destination made by a release without a way back has no table for a fence.
    fenceable: bool,
}

/// Makes the decision while the other side is still being fenced, and leaves it pending: P6 then needs two
/// round trips only. Where the decision cannot be made, P6 will say why.
pub(super) fn decide_ahead(cx: &Context, epoch: i64) {
    let Some(cutover) = cx.switchovers.sessions.entering(&cx.participation.migration) else { return };
    let (switchovers, participation) = (cx.switchovers.clone(), cx.participation.clone());
    let stop = switchovers.tasks.stop.clone();
    let ahead = async move {
        let mut cutover = cutover.lock().await;
        let Some(deadline) = cutover.open_deadline.filter(|_| cutover.epoch == epoch && !cutover.rehearsal) else {
            return;
        };
        let left = deadline.saturating_duration_since(switchovers.tasks.clock.now());
        match decide(&switchovers, &participation, &cutover.session, epoch, left).await {
            Ok(()) => cutover.pending = true,
            Err(failure) => tracing::warn!(detail = failure.detail, "not decided ahead: {failure}"),
        }
    };
    cx.tasks.spawn(stop.run_until_cancelled_owned(ahead));
}

/// Makes the decision, and with it everything that makes it true, and leaves it pending in the session's
/// transaction. No other session sees it until the commit. It ends with its session, and by itself when the
/// time that is left is over.
///
/// If the future is dropped, the transaction stays for as long.
///
/// # Errors
///
/// [`Reason::OpenRefused`], or what the server reports. No transaction is left then.
async fn decide(
    switchovers: &Switchovers,
    participation: &Participation,
    session: &Client,
    epoch: i64,
    left: Duration,
) -> Result<(), Failure> {
    let decided = async {
        let found = begin_behind_the_lock(switchovers, participation, session, left).await?;
        if found.state != "closed" {
            return Err(refused(&format!("the {} is open already", participation.side)));
        }
        if epoch < found.floor {
            return Err(refused("the other side was promised that this cutover never opens"));
        }
        write(participation, session, epoch, &found).await
    };
    let decided = decided.await;
    if decided.is_err() {
        take_back(session).await;
    }
    decided
}

/// Rolls a pending decision back.
async fn take_back(session: &Client) {
    if let Err(error) = session.batch_execute("ROLLBACK").await {
        tracing::debug!(%error, "the session of a decision is gone, and the decision with it");
    }
}

/// Begins, locks the decision and reads what it depends on, in one round trip.
async fn begin_behind_the_lock(
    switchovers: &Switchovers,
    participation: &Participation,
    session: &Client,
    left: Duration,
) -> Result<Found, Failure> {
    // A transaction that its agent does not end must not delay P6a.
    let begin = format!("BEGIN; SET LOCAL idle_in_transaction_session_timeout = {}", left.as_millis().max(1));
    // The server runs these in this order.
    let ((), row, current, own_grants, fenceable, ()) = try_join!(
        biased;
        session.batch_execute(&begin).map_err(|error| sql_failure(error, DOING)),
        session.query_typed_one(DECISION, &[]).map_err(|error| sql_failure(error, DOING)),
        Access::read(session),
        keep_own_grants(switchovers, participation, session),
        fence_table_exists(session),
        await_disk(session)
    )?;
    let (state, floor, saved) = (row.get(0), row.get(1), row.get(2));
    Ok(Found { state, floor, saved, current, own_grants, fenceable })
}

/// Writes the decision's row, and everything that makes it true.
async fn write(participation: &Participation, session: &Client, epoch: i64, found: &Found) -> Result<(), Failure> {
    let mut statements = Access::from_json(&found.saved)?.restore_statements(&participation.database, &found.current);
    // Roles of ours keep what they need until `finish`.
    statements.extend(found.own_grants.iter().cloned());
    statements.push(format!("ALTER SUBSCRIPTION {} DISABLE", quote_ident(&subscribed_name(participation))));
    if found.fenceable {
        statements.push("DELETE FROM pgportage.fence".to_owned());
    }
    let statements = statements.join("; ");
    let epoch: [(&(dyn ToSql + Sync), Type); 1] = [(&epoch, Type::INT8)];
    try_join!(session.batch_execute(&statements), session.query_typed(DECIDE, &epoch))
        .map(drop)
        .map_err(|error| sql_failure(error, DOING))
}

/// Makes the decision and rolls it back, so that no other session sees it. The agent learns, before any
/// application waits, whether it may do all of that, and the session has its caches filled for the real
/// decision.
///
/// # Errors
///
/// What the decision itself would meet.
pub(super) async fn try_to_decide(cx: &Context, session: &Client, epoch: i64) -> Result<(), Failure> {
    let decided = decide(&cx.switchovers, &cx.participation, session, epoch, TRIAL).await;
    decided.map_err(|failure| failure.effect(Effect::None))?;
    take_back(session).await;
    Ok(())
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
async fn keep_own_grants(
    switchovers: &Switchovers,
    participation: &Participation,
    client: &Client,
) -> Result<Vec<String>, Failure> {
    const OURS: &str = "\
SELECT rolname::text FROM pg_roles WHERE (rolname = current_user AND NOT rolsuper) OR rolname = $1 ORDER BY 1";
    let follower = switchovers.roles.replication(participation);
    let database = quote_ident(&participation.database);
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
