//! *Both sides*: calls the other agent over the link.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::v1;
use serde::{Deserialize, Serialize};

use super::super::ActKind;
use super::super::statement::{Basis, Statements, remark};
use super::{Act, Input, Message, Outcome, Produced, something_else};
use crate::message::reported;

/// See the module.
pub static REACH_PEER: Act = Act {
    kind: ActKind::ReachPeer,
    input: |_, _, _| Some(Input::ReachPeer),
    send: |input| matches!(input, Input::ReachPeer).then_some(Message::ReachPeer(v1::ReachPeer {})),
    produces: |outcome| matches!(outcome, Outcome::ReachPeer(_)),
    receive,
    statements,
};

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

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::ReachPeer(result) = produced else { return Err(something_else()) };
    Ok(Outcome::ReachPeer(Reached {
        round_trip: reported(result.round_trip),
        software_version: result.software_version,
        relayed: result.relayed,
    }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    vec![remark(format!("call agent {} over the link", basis.spec.peer(basis.side)))].into()
}
