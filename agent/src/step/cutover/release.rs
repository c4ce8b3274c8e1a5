//! P7: the destination has opened; the barrier goes, poolers lead there, the
//! fence stays.

use std::time::Duration;

use pgportage_link::Failure;

use super::let_go::let_go;
use super::resolve::SETTLED_NOTE;
use crate::step::{Context, Step, Survey};

/// P7 on the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseBarrier {
    /// Number of this cutover.
    pub cutover_epoch: i64,
}

/// The barrier is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseBarrierResult {
    /// From the pause of poolers, or the first lock request, to the release. Zero
    /// when the barrier had gone before.
    pub barrier_time: Duration,
}

impl Step for ReleaseBarrier {
    type Output = ReleaseBarrierResult;

    async fn survey(&self, _cx: &Context) -> Result<Survey<ReleaseBarrierResult>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<ReleaseBarrierResult, Failure> {
        let migration = &cx.participation.migration;
        cx.agent.journal.set_note(migration, SETTLED_NOTE, &self.cutover_epoch.to_string())?;
        let mut barrier_time = Duration::ZERO;
        if let Some(cutover) = cx.agent.cutovers.source(migration)
            && let Some(barrier) = &cutover.lock().await.barrier
        {
            barrier_time = cx.clock.now().duration_since(barrier.raised_at);
        }
        cx.agent.cutovers.drop_source(migration);
        // A pooler that cannot be led there keeps its clients waiting, and this
        // is tried again.
        let_go(&cx.agent, &cx.participation).await?;
        Ok(ReleaseBarrierResult { barrier_time })
    }

    /// A barrier that is gone is not raised again.
    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}
