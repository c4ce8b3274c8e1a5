//! P3: the marker is visible on the destination, and flushed.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::ledger;
use pgportage_postgres::sql_failure;
use pgportage_proto::{ActKind, Reason, Side, Verb, v1};
use pgportage_report::progress::Progress;
use tokio::try_join;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::open::decide_ahead;
use super::seeded::{self, Bug};
use super::sequence::set_all;
use super::{await_disk, current_lsn, remaining};
use crate::act::{Act, Context, Produced, Survey};
use crate::message::{duration, int32, marker, sequences, span};
use crate::switchover::{DrainToMarkerResult, EnteringSide, WrittenRows, sessions_lost};
use pgportage_postgres::catalog::SequencePosition;

/// How often the agent asks its server for the marker. The outage lasts until it is there.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

const MARKER: &str = "SELECT 1 FROM pgportage.marker WHERE marker_id = $1";

/// P3 on the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainToMarker {
    /// Number of this cutover.
    pub cutover_epoch: i64,
    /// The marker to wait for.
    pub marker_id: Uuid,
    /// The values to set the sequences to.
    pub sequences: Vec<SequencePosition>,
    /// How long the destination may be opened, counted from now.
    pub open_timeout: Duration,
    /// Digest of the source's catalog.
    pub catalog_digest: Vec<u8>,
    /// How long comparing what was written since P0 may take. None: it is not
    /// compared.
    pub compare_limit: Option<Duration>,
}

impl Act for DrainToMarker {
    const KIND: ActKind = ActKind::DrainToMarker;
    const WAY_BACK: &'static [Side] = &[Side::Source];
    type Message = v1::DrainToMarker;
    type Output = DrainToMarkerResult;

    fn decode(message: v1::DrainToMarker) -> Result<Self, Failure> {
        Ok(Self {
            cutover_epoch: message.cutover_epoch,
            marker_id: marker(&message.marker_id)?,
            sequences: sequences(message.sequences)?,
            open_timeout: duration(message.open_timeout, "open_timeout")?,
            catalog_digest: message.catalog_digest,
            compare_limit: message.compare_limit.map(|limit| duration(Some(limit), "compare_limit")).transpose()?,
        })
    }

    fn encode(output: DrainToMarkerResult) -> Produced {
        Produced::DrainToMarker(v1::DrainToMarkerResult {
            drain_time: Some(span(output.drain_time)),
            sequence_count: int32(output.sequence_count),
            flush_lsn: output.flush_lsn,
            comparison: output.compared.map(Into::into),
        })
    }

    async fn survey(&self, cx: &Context) -> Result<Survey<DrainToMarkerResult>, Failure> {
        let Some(cutover) = cx.switchovers.sessions.entering(&cx.participation.migration) else {
            return Err(sessions_lost(Effect::None));
        };
        let cutover = cutover.lock().await;
        if cutover.epoch != self.cutover_epoch {
            return Err(sessions_lost(Effect::None));
        }
        Ok(cutover.drained.clone().map_or(Survey::Ready, Survey::Done))
    }

    async fn perform(&self, cx: &Context) -> Result<DrainToMarkerResult, Failure> {
        let Some(cutover) = cx.switchovers.sessions.entering(&cx.participation.migration) else {
            return Err(sessions_lost(Effect::None));
        };
        let drained = drain(cx, self, &mut *cutover.lock().await).await?;
        decide_ahead(cx, self.cutover_epoch);
        Ok(drained)
    }

    /// Sequences that were set do no harm: the next try sets them again.
    async fn undo(&self, cx: &Context) -> Result<(), Failure> {
        cx.switchovers.sessions.drop_entering(&cx.participation.migration);
        Ok(())
    }
}

async fn drain(cx: &Context, act: &DrainToMarker, cutover: &mut EnteringSide) -> Result<DrainToMarkerResult, Failure> {
    let begin = cx.tasks.clock.now();
    let open_deadline = begin + act.open_timeout;
    if act.catalog_digest != cutover.catalog_digest {
        return Err(Failure::new(Reason::SchemaDiffers, "the schemas of source and destination differ")
            .hint("Run `pgportage verify` to see the objects, mend them, and try the cutover again.")
            .remedy(Remedy::Operator)
            .effect(Effect::None));
    }
    cx.report(Progress { subject: "waiting for the marker".to_owned(), ..Progress::default() });
    let marker = if Bug::DrainByCounters.is_seeded() { seeded::LEVEL_BY_COUNTERS } else { MARKER };
    while cutover
        .session
        .query_typed_opt(marker, &[(&act.marker_id, Type::UUID)])
        .await
        .map_err(|error| sql_failure(error, "look for the marker"))?
        .is_none()
    {
        cx.safe_point()?;
        if cx.tasks.clock.now() >= open_deadline {
            return Err(Failure::new(Reason::DrainTimeout, "the marker did not arrive in time")
                .detail(format!("It was awaited for {} ms.", act.open_timeout.as_millis()))
                .hint("Look at the lag with `pgportage status`; try again when it is small.")
                .remedy(Remedy::Operator)
                .effect(Effect::None));
        }
        cx.tasks.clock.sleep(LOOK_AGAIN).await;
    }
    let drain_time = cx.tasks.clock.now().duration_since(begin);
    cx.fail_point("drain_to_marker.perform.seen");

    // The apply worker may commit without waiting for the disk. WAL is flushed
    // in order, so a commit of ours that does wait flushes the marker too.
    let transaction = cutover.session.transaction().await.map_err(|error| sql_failure(error, "flush the marker"))?;
    try_join!(
        await_disk(&transaction),
        set_all(transaction.client(), &act.sequences),
        ledger::record(&transaction, cx.entry(), ActKind::DrainToMarker, Verb::Perform)
    )?;
    transaction.commit().await.map_err(|error| sql_failure(error, "flush the marker"))?;
    cx.fail_point("drain_to_marker.perform.flushed");

    let compared = match act.compare_limit {
        Some(limit) => {
            Some(compare(cx, act, cutover, limit.min(remaining(open_deadline, cx.tasks.clock.now())?)).await?)
        }
        None => None,
    };
    let result = DrainToMarkerResult {
        compared,
        drain_time,
        sequence_count: u32::try_from(act.sequences.len()).unwrap_or(u32::MAX),
        flush_lsn: current_lsn(&cutover.session).await?.to_string(),
    };
    cutover.open_deadline = Some(open_deadline);
    cutover.sequences = act.sequences.iter().cloned().collect();
    cutover.drained = Some(result.clone());
    Ok(result)
}

async fn compare(
    cx: &Context,
    act: &DrainToMarker,
    cutover: &mut EnteringSide,
    limit: Duration,
) -> Result<WrittenRows, Failure> {
    cx.report(Progress { subject: "comparing what was written".to_owned(), ..Progress::default() });
    let check = cutover.check.as_mut().ok_or_else(|| sessions_lost(Effect::None))?;
    let compared = Box::pin(check.compare(cx.tasks.clock, act.cutover_epoch, limit)).await?;
    tracing::info!(
        migration.id = %cx.participation.migration, cutover_epoch = act.cutover_epoch, tables = compared.table_count,
        rows = compared.row_count, left_out = compared.left_out.len(), elapsed = ?compared.elapsed,
        "what was written since P0 is the same on both sides"
    );
    Ok(compared)
}
