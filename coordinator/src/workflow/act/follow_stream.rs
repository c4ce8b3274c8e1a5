//! *Left side*: begins to follow the other one.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::v1;
use serde::{Deserialize, Serialize};

use super::super::ActKind;
use super::super::statement::{Basis, Statements, remark, runs};
use super::{Act, Input, Message, Outcome, Produced, something_else};
use crate::message::reported;

/// See the module.
pub static FOLLOW_STREAM: Act = Act {
    kind: ActKind::FollowStream,
    input: |state, _, _| Some(Input::FollowStream(FollowStream { cutover_epoch: state.cutover.as_ref()?.epoch })),
    send,
    produces: |outcome| matches!(outcome, Outcome::FollowStream(_)),
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

fn send(input: &Input) -> Option<Message> {
    let Input::FollowStream(FollowStream { cutover_epoch }) = *input else { return None };
    Some(Message::FollowStream(v1::FollowStream { cutover_epoch }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::FollowStream(result) = produced else { return Err(something_else()) };
    Ok(Outcome::FollowStream(FollowStreamResult { first_arrival: reported(result.first_arrival) }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    let name = basis.stream(basis.side.other());
    let mut here = vec![runs(format!("ALTER SUBSCRIPTION {name} ENABLE"))];
    here.extend(basis.ledger(ActKind::FollowStream, "perform"));
    here.push(remark("wait for the first heartbeat of the other side"));
    Statements { there: vec![runs(format!("START_REPLICATION SLOT \"{name}\" LOGICAL …"))], here }
}
