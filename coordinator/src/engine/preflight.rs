//! An inspection of both sides without a migration.
//!
//! Nothing is stored, because nothing is changed: should the coordinator end
//! meanwhile, the operator asks again.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy, trace};
use pgportage_proto::Reason;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Engine;
use crate::fleet::not_attached;
use crate::wire::{self, AgentFact, Body};
use crate::workflow::fact::{CommandId, Issued};
use crate::workflow::finding::Finding;
use crate::workflow::input::Input;
use crate::workflow::outcome::{Inventory, Outcome};
use crate::workflow::spec::{MigrationId, Spec};
use crate::workflow::{ActRef, Side, StepName, Verb, statement};

/// How long one side may take. Inspections read catalogs; minutes would mean
/// that something is stuck.
const LIMIT: Duration = Duration::from_secs(120);

/// Facts of one command: accepted, and its end.
const FACTS: usize = 4;

/// Forgets who waits for a command, however the waiting ends.
struct Asked<'a> {
    engine: &'a Engine,
    command: CommandId,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.engine.0.preflights().remove(&self.command);
    }
}

impl Engine {
    /// Inspects both sides and returns what was found on each, the source first.
    /// Dropping the future leaves nothing behind but an inspection that nobody
    /// waits for.
    ///
    /// # Errors
    ///
    /// [`Reason::AgentNotAttached`], or the failure of an inspection.
    pub async fn preflight(&self, spec: &Spec) -> Result<(Vec<Finding>, Vec<Finding>), Failure> {
        for side in [Side::Source, Side::Destination] {
            if !self.0.fleet.ready(spec.agent(side)) {
                return Err(not_attached(spec.agent(side)));
            }
        }
        let name = Uuid::new_v4().simple().to_string();
        let id = MigrationId::new(&format!("preflight-{}", &name[..12]))?;
        let (inventory, on_source) = self.inspect(&id, spec, Side::Source, None).await?;
        let (_, on_destination) = self.inspect(&id, spec, Side::Destination, Some(inventory)).await?;
        Ok((on_source, on_destination))
    }

    async fn inspect(
        &self,
        id: &MigrationId,
        spec: &Spec,
        side: Side,
        source: Option<Inventory>,
    ) -> Result<(Inventory, Vec<Finding>), Failure> {
        let agent = spec.agent(side);
        let issued = Issued {
            command: CommandId(Uuid::now_v7()),
            act: ActRef { step: StepName::Inspect, index: 0 },
            verb: Verb::Perform,
            attempt: 1,
            input: Input::CheckServer { source, consents: spec.consents.clone(), way_back: spec.way_back },
            stall_timeout: self.0.settings.stall_timeout.min(LIMIT),
            trace: trace::carry().into_iter().collect(),
        };
        let (asker, mut facts) = mpsc::channel(FACTS);
        self.0.preflights().insert(issued.command, asker);
        let _asked = Asked { engine: self, command: issued.command };
        let digest = statement::digest(id, spec);
        let command = wire::command(id.as_str(), spec, &digest, &issued, side, self.0.leader_epoch());
        self.0.fleet.command(agent, command)?;
        let answer = async {
            while let Some(AgentFact { body, .. }) = facts.recv().await {
                match body {
                    Body::Accepted => {}
                    Body::Succeeded(Some(Outcome::CheckServer { inventory, findings })) => {
                        return Ok((inventory, findings));
                    }
                    Body::Failed(failure) => return Err(failure.with("agent", agent)),
                    Body::Succeeded(_) | Body::Cancelled(_) => break,
                }
            }
            Err(Failure::new(Reason::Internal, format!("agent {agent} did not answer what it was asked"))
                .effect(Effect::None))
        };
        self.0.clock.timeout(LIMIT, answer).await.unwrap_or_else(|_| {
            Err(Failure::new(Reason::Stalled, format!("agent {agent} did not finish its inspection"))
                .detail(format!("It had {} seconds.", LIMIT.as_secs()))
                .hint("Look at the agent's log, and whether its server answers.")
                .remedy(Remedy::Operator)
                .effect(Effect::None)
                .with("agent", agent))
        })
    }
}
