//! *Both sides*: calls the other agent over the link.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{ActKind, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use crate::message::reported;

pub(crate) static ACT: Act = Act::of::<ReachPeer>();

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReachPeer;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    pub round_trip: Duration,
    /// The other agent's release, for people.
    pub software_version: String,
    /// Whether the way there leads through the coordinator. Absent in histories
    /// of before there were relays.
    #[serde(default)]
    pub relayed: bool,
}

impl Kind for ReachPeer {
    const KIND: ActKind = ActKind::ReachPeer;
    type Outcome = Reached;

    fn input(_: &Given<'_>) -> Option<Self> {
        Some(Self)
    }

    fn send(&self) -> Message {
        Message::ReachPeer(v1::ReachPeer {})
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::ReachPeer(result) = produced else { return Err(something_else()) };
        Ok(Reached {
            round_trip: reported(result.round_trip),
            software_version: result.software_version,
            relayed: result.relayed,
        })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        vec![remark(format!("call agent {} over the link", basis.spec.peer(basis.side)))].into()
    }
}
