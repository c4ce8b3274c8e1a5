//! *Left side*: the barrier goes, the fence stays.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{ActKind, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use crate::message::reported;

pub(crate) static ACT: Act = Act::of::<ReleaseBarrier>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleaseBarrier {
    pub cutover_epoch: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleaseBarrierResult {
    pub barrier_time: Duration,
}

impl Kind for ReleaseBarrier {
    const KIND: ActKind = ActKind::ReleaseBarrier;
    type Outcome = ReleaseBarrierResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self { cutover_epoch: given.cutover_epoch? })
    }

    fn send(&self) -> Message {
        Message::ReleaseBarrier(v1::ReleaseBarrier { cutover_epoch: self.cutover_epoch })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::ReleaseBarrier(result) = produced else { return Err(something_else()) };
        Ok(ReleaseBarrierResult { barrier_time: reported(result.barrier_time) })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        let mut lines = vec![remark("end the session that holds the table locks; the fence stays")];
        lines.extend(basis.first_heartbeats());
        lines.extend(basis.ledger(ActKind::ReleaseBarrier, "perform"));
        lines.push(runs(
            "INSERT INTO pgportage.decision (id, state, floor_epoch, saved_access) VALUES (1, 'closed', …) \
             ON CONFLICT (id) DO UPDATE …",
        ));
        lines.into()
    }
}
