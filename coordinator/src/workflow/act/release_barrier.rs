//! *Left side*: the barrier goes, the fence stays.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::v1;
use serde::{Deserialize, Serialize};

use super::super::ActKind;
use super::super::statement::{Basis, Statements, remark, runs};
use super::{Act, Input, Message, Outcome, Produced, something_else};
use crate::message::reported;

/// See the module.
pub static RELEASE_BARRIER: Act = Act {
    kind: ActKind::ReleaseBarrier,
    input: |state, _, _| Some(Input::ReleaseBarrier(ReleaseBarrier { cutover_epoch: state.cutover.as_ref()?.epoch })),
    send,
    produces: |outcome| matches!(outcome, Outcome::ReleaseBarrier(_)),
    receive,
    statements,
};

/// Behind which switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseBarrier {
    /// Its number.
    pub cutover_epoch: i64,
}

/// The locks are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseBarrierResult {
    /// How long they stood.
    pub barrier_time: Duration,
}

fn send(input: &Input) -> Option<Message> {
    let Input::ReleaseBarrier(ReleaseBarrier { cutover_epoch }) = *input else { return None };
    Some(Message::ReleaseBarrier(v1::ReleaseBarrier { cutover_epoch }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::ReleaseBarrier(result) = produced else { return Err(something_else()) };
    Ok(Outcome::ReleaseBarrier(ReleaseBarrierResult { barrier_time: reported(result.barrier_time) }))
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
