//! Commands on their way to an agent.

use pgportage_proto::v1;

use crate::message::to_duration;
use crate::workflow::Side;
use crate::workflow::act::Digest;
use crate::workflow::fact::Issued;
use crate::workflow::spec::Spec;

/// A command as it is sent. `leader_epoch` and `heartbeat_sequence` are those
/// of the moment of sending, everything else is as it was stored.
pub(crate) fn command(
    migration_id: &str,
    spec: &Spec,
    plan_digest: &Digest,
    issued: &Issued,
    side: Side,
    leader_epoch: i64,
) -> v1::Command {
    v1::Command {
        id: issued.command.to_string(),
        migration_id: migration_id.to_owned(),
        attempt: i32::try_from(issued.attempt).unwrap_or(i32::MAX),
        stall_timeout: to_duration(issued.stall_timeout),
        trace_context: issued.trace.clone().into_iter().collect(),
        leader_epoch,
        plan_digest: plan_digest.0.clone(),
        // Filled in by the fleet, which knows the session.
        heartbeat_sequence: 0,
        verb: v1::Verb::from(issued.verb).into(),
        side: v1::Side::from(side).into(),
        database: spec.database.clone(),
        peer_agent_id: spec.peer(side).to_owned(),
        step: issued.act.step.as_str().to_owned(),
        action: issued.act.row().and_then(|row| (row.act.send)(&issued.input)),
    }
}
