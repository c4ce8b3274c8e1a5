//! Calls the other agent over the link.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{ActKind, Side, Verb, v1};

use crate::act::{Act, Context, Produced, Survey};
use crate::message::span;

/// Calls the other agent and measures how long its answer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReachPeer;

/// The other agent answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachPeerResult {
    /// Time from question to answer, on a connection that was already open.
    pub round_trip: Duration,
    /// The other agent's release, for operators.
    pub software_version: String,
    /// Whether the connection leads through the coordinator.
    pub relayed: bool,
}

impl Act for ReachPeer {
    const KIND: ActKind = ActKind::ReachPeer;
    type Message = v1::ReachPeer;
    type Output = ReachPeerResult;

    fn decode(_message: v1::ReachPeer) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn encode(output: ReachPeerResult) -> Produced {
        Produced::ReachPeer(v1::ReachPeerResult {
            round_trip: Some(span(output.round_trip)),
            software_version: output.software_version,
            relayed: output.relayed,
        })
    }

    /// The first act on the destination, so the last to be taken back there.
    fn is_last(verb: Verb, side: Side) -> bool {
        (verb, side) == (Verb::Undo, Side::Destination)
    }

    /// Never done before: only a call proves that the other agent answers now.
    async fn survey(&self, _cx: &Context) -> Result<Survey<ReachPeerResult>, Failure> {
        Ok(Survey::Ready)
    }

    async fn perform(&self, cx: &Context) -> Result<ReachPeerResult, Failure> {
        let peer = cx.peers.call(&cx.participation).await?;
        // The first call may include the handshake, so the second one is measured.
        peer.greet().await?;
        let asked = cx.tasks.clock.now();
        let greeting = peer.greet().await?;
        Ok(ReachPeerResult {
            round_trip: cx.tasks.clock.now().duration_since(asked),
            software_version: greeting.software_version,
            relayed: cx.peers.relayed(&cx.participation.peer),
        })
    }

    async fn undo(&self, _cx: &Context) -> Result<(), Failure> {
        Ok(())
    }
}
