//! *Both sides*: calls the other agent over the link.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Input, Outcome, Payload, something_else};
use crate::message::reported;

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::ReachPeer,
    input: |_| Some(Input::of(ReachPeer)),
    send: |input| input.read::<ReachPeer>().map(|_| Message::ReachPeer(v1::ReachPeer {})),
    produces: |outcome| outcome.read::<Reached>().is_some(),
    receive,
    statements,
};

/// It is given nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachPeer;

/// The other agent answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Time from question to answer.
    pub round_trip: Duration,
    /// The other agent's release, for people.
    pub software_version: String,
    /// Whether the way there leads through the coordinator. Absent in histories
    /// of before there were relays.
    #[serde(default)]
    pub relayed: bool,
}

impl Payload for ReachPeer {
    const KIND: ActKind = ActKind::ReachPeer;
}

impl Payload for Reached {
    const KIND: ActKind = ActKind::ReachPeer;
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::ReachPeer(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of(Reached {
        round_trip: reported(result.round_trip),
        software_version: result.software_version,
        relayed: result.relayed,
    }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    vec![remark(format!("call agent {} over the link", basis.spec.peer(basis.side)))].into()
}
