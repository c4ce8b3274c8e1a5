//! *Left side*: begins to follow the other one.

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
    kind: ActKind::FollowStream,
    input: |given| Some(Input::of(FollowStream { cutover_epoch: given.cutover_epoch? })),
    send,
    produces: |outcome| outcome.read::<FollowStreamResult>().is_some(),
    receive,
    statements,
};

/// Behind which switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowStream {
    /// Its number.
    pub cutover_epoch: i64,
}

/// Rows flow back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowStreamResult {
    /// How long the first heartbeat took.
    pub first_arrival: Duration,
}

impl Payload for FollowStream {
    const KIND: ActKind = ActKind::FollowStream;
}

impl Payload for FollowStreamResult {
    const KIND: ActKind = ActKind::FollowStream;
}

fn send(input: &Input) -> Option<Message> {
    let FollowStream { cutover_epoch } = *input.read::<FollowStream>()?;
    Some(Message::FollowStream(v1::FollowStream { cutover_epoch }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::FollowStream(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of(FollowStreamResult { first_arrival: reported(result.first_arrival) }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    let name = basis.stream(basis.side.other());
    let mut here = vec![runs(format!("ALTER SUBSCRIPTION {name} ENABLE"))];
    here.extend(basis.ledger(ActKind::FollowStream, "perform"));
    here.push(remark("wait for the first heartbeat of the other side"));
    Statements { there: vec![runs(format!("START_REPLICATION SLOT \"{name}\" LOGICAL …"))], here }
}
