//! *Left side*: begins to follow the other one.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{ActKind, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use crate::message::reported;

pub(crate) static ACT: Act = Act::of::<FollowStream>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FollowStream {
    pub cutover_epoch: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FollowStreamResult {
    /// How long the first heartbeat took.
    pub first_arrival: Duration,
}

impl Kind for FollowStream {
    const KIND: ActKind = ActKind::FollowStream;
    type Outcome = FollowStreamResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self { cutover_epoch: given.cutover_epoch? })
    }

    fn send(&self) -> Message {
        Message::FollowStream(v1::FollowStream { cutover_epoch: self.cutover_epoch })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::FollowStream(result) = produced else { return Err(something_else()) };
        Ok(FollowStreamResult { first_arrival: reported(result.first_arrival) })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        let name = basis.stream(basis.side.other());
        let mut here = vec![runs(format!("ALTER SUBSCRIPTION {name} ENABLE"))];
        here.extend(basis.ledger(ActKind::FollowStream, "perform"));
        here.push(remark("wait for the first heartbeat of the other side"));
        Statements { there: vec![runs(format!("START_REPLICATION SLOT \"{name}\" LOGICAL …"))], here }
    }
}
