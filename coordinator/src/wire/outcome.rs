//! What agents report.

use pgportage_link::{Effect, Failure};
use pgportage_proto::v1;
use uuid::Uuid;

use crate::message::{malformed, missing};
use crate::workflow::act::Produced;
use crate::workflow::fact::CommandId;

#[derive(Clone, Debug, PartialEq)]
pub struct AgentFact {
    pub command: CommandId,
    /// The agent's number of it: from 1 for each command, without gaps.
    pub sequence: i64,
    pub body: Body,
}

/// What happened to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// It is stored on the agent.
    Accepted,
    /// It is done. The act reads what was produced; an undo produces nothing.
    Succeeded(Option<Box<Produced>>),
    /// It is not done.
    Failed(Failure),
    /// It was stopped as asked.
    Cancelled(Effect),
}

/// A fact as it came.
pub(crate) fn fact(value: v1::CommandFact) -> Result<AgentFact, Failure> {
    let command = Uuid::parse_str(&value.command_id).map_err(|_| malformed("command_id"))?;
    let body = match value.fact.ok_or_else(|| missing("fact"))? {
        v1::command_fact::Fact::Accepted(v1::CommandAccepted {}) => Body::Accepted,
        v1::command_fact::Fact::Succeeded(result) => Body::Succeeded(result.result.map(Box::new)),
        v1::command_fact::Fact::Failed(failure) => Body::Failed(failure.into()),
        v1::command_fact::Fact::Cancelled(cancelled) => Body::Cancelled(cancelled.effect().into()),
    };
    Ok(AgentFact { command: CommandId(command), sequence: value.sequence, body })
}
