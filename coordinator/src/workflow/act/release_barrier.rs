//! *Left side*: the barrier goes, the fence stays.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark, runs};
use super::kind::{Act, Input, Outcome, Payload, something_else};
use crate::message::reported;

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::ReleaseBarrier,
    input: |given| Some(Input::of(ReleaseBarrier { cutover_epoch: given.cutover_epoch? })),
    send,
    produces: |outcome| outcome.read::<ReleaseBarrierResult>().is_some(),
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

impl Payload for ReleaseBarrier {
    const KIND: ActKind = ActKind::ReleaseBarrier;
}

impl Payload for ReleaseBarrierResult {
    const KIND: ActKind = ActKind::ReleaseBarrier;
}

fn send(input: &Input) -> Option<Message> {
    let ReleaseBarrier { cutover_epoch } = *input.read::<ReleaseBarrier>()?;
    Some(Message::ReleaseBarrier(v1::ReleaseBarrier { cutover_epoch }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::ReleaseBarrier(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of(ReleaseBarrierResult { barrier_time: reported(result.barrier_time) }))
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
