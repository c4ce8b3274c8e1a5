//! P7: the other side has opened. The barrier goes, poolers lead to the other side, the fence stays. From
//! here on this side is closed as the destination was before the first cutover: it may follow the other
//! one, and be opened again.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_migration::ledger;
use pgportage_migration::switchover::Event;
use pgportage_postgres::access::{Access, own_role};
use pgportage_postgres::{Purpose, sql_failure};
use pgportage_proto::{ActKind, Side, Verb, v1};

use crate::act::{Act, Context, Produced, Survey};
use crate::message::span;

const FENCED: &str = "SELECT saved_access FROM pgportage.fence WHERE cutover_epoch = $1";

const SAVED_BEFORE: &str = "SELECT saved_access FROM pgportage.decision WHERE id = 1 FOR UPDATE";

/// Raises the floor: no opening that was decided before this switchover may happen any more.
const CLOSE: &str = "\
INSERT INTO pgportage.decision (id, state, floor_epoch, saved_access) VALUES (1, 'closed', $1::int8 + 1, $2)
ON CONFLICT (id) DO UPDATE
SET state = 'closed', floor_epoch = excluded.floor_epoch, saved_access = excluded.saved_access,
    record_time = pg_catalog.clock_timestamp()";

/// P7 on the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseBarrier {
    /// Number of this cutover.
    pub cutover_epoch: i64,
}

/// The barrier is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseBarrierResult {
    /// From the pause of poolers, or the first lock request, to the release. Zero when the barrier had
    /// ended before.
    pub barrier_time: Duration,
}

impl Act for ReleaseBarrier {
    const KIND: ActKind = ActKind::ReleaseBarrier;
    const WAY_BACK: &'static [Side] = &[Side::Destination];
    type Message = v1::ReleaseBarrier;
    type Output = ReleaseBarrierResult;

    fn decode(message: v1::ReleaseBarrier) -> Result<Self, Failure> {
        Ok(Self { cutover_epoch: message.cutover_epoch })
    }

    fn encode(output: ReleaseBarrierResult) -> Produced {
        Produced::ReleaseBarrier(v1::ReleaseBarrierResult { barrier_time: Some(span(output.barrier_time)) })
    }

    async fn survey(&self, _cx: &Context) -> Result<Survey<ReleaseBarrierResult>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<ReleaseBarrierResult, Failure> {
        let migration = &cx.participation.migration;
        cx.journal.happened(migration, Event::OtherOpened(self.cutover_epoch))?;
        let mut barrier_time = Duration::ZERO;
        if let Some(cutover) = cx.switchovers.sessions.leaving(migration)
            && let Some(barrier) = &cutover.lock().await.barrier
        {
            barrier_time = cx.tasks.clock.now().duration_since(barrier.raised_at);
        }
        cx.switchovers.sessions.drop_leaving(migration);
        cx.fail_point("release_barrier.perform.released");
        let led = cx.switchovers.carry_out(&cx.participation).await;
        note_closed(cx, self.cutover_epoch).await?;
        cx.fail_point("release_barrier.perform.closed");
        // A pooler that cannot be led to the other side keeps its clients waiting, and the coordinator
        // tries this act again.
        led?;
        Ok(ReleaseBarrierResult { barrier_time })
    }

    /// A barrier that has ended is not raised again.
    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}

/// In one transaction: the row by which this side knows that it is closed, and which roles could log in
/// before.
async fn note_closed(cx: &Context, epoch: i64) -> Result<(), Failure> {
    let doing = "note that this side is closed";
    let failure = |error| sql_failure(error, doing);
    let mut session = cx.door.open(&cx.participation.database, Purpose::Cutover).await?;
    let transaction = session.transaction().await.map_err(failure)?;
    ledger::ensure(&transaction, &cx.participation).await?;
    // The operator has lifted the fence meanwhile, on the statement that the other side is gone.
    let Some(row) = transaction.query_opt(FENCED, &[&epoch]).await.map_err(failure)? else { return Ok(()) };
    let mut saved = Access::from_json(row.get(0))?;
    if let Some(before) = transaction.query_opt(SAVED_BEFORE, &[]).await.map_err(failure)? {
        // Grants that the agent made to our own roles while it was open are not the applications'.
        let before = Access::from_json(before.get(0))?;
        let ours = [own_role(&transaction).await?, cx.roles.replication(&cx.participation)].map(Some);
        saved.grants.retain(|grant| {
            !ours.contains(&grant.grantee) || before.grants.iter().any(|held| held.grantee == grant.grantee)
        });
    }
    ledger::record(&transaction, cx.entry(), ActKind::ReleaseBarrier, Verb::Perform).await?;
    transaction.execute(CLOSE, &[&epoch, &saved.to_json()?]).await.map_err(failure)?;
    transaction.commit().await.map_err(failure)
}
