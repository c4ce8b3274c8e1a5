//! A plan, before it runs.

use pgportage_proto::v1;

use super::time;
use crate::view::{Failure, Plan, PlannedStep};

impl Plan {
    /// The plan of the migration `name`.
    pub fn from_wire(name: &str, message: v1::GetPlanResponse) -> Self {
        Self {
            name: name.to_owned(),
            steps: message.steps.into_iter().map(PlannedStep::from).collect(),
            digest: message.plan_digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            summary: message.summary,
            record_time: time(message.record_time),
            obstacle: message.obstacle.map(Failure::from),
            changes: message.changes,
        }
    }
}

impl From<v1::PlannedStep> for PlannedStep {
    fn from(message: v1::PlannedStep) -> Self {
        Self {
            name: message.name,
            agent: message.agent_id,
            statements: message.statements,
            held: message.held,
            undoable: message.undoable,
        }
    }
}
