//! An inspection of both sides before a migration is started, or without one.
//!
//! No command of it is stored, because nothing is changed: should the coordinator end
//! meanwhile, the operator asks again. What a plan names is kept when both have answered.

use std::time::Duration;

use pgportage_link::{Failure, Remedy, trace};
use pgportage_proto::Reason;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{AtEnd, Engine, Overview, Submission};
use crate::fleet::not_attached;
use crate::message::refusal;
use crate::wire::{self, AgentFact, Body};
use crate::workflow::act::{CheckServer, CheckServerResult, Digest, Input, Inventory, Kind};
use crate::workflow::fact::{CommandId, Issued, Origin, TraceContext};
use crate::workflow::finding::Finding;
use crate::workflow::spec::{MigrationId, Spec};
use crate::workflow::state::Phase;
use crate::workflow::verb::Request;
use crate::workflow::{ActRef, Side, StepName, Verb};

/// How long one side may take. Inspections read catalogs; minutes would mean
/// that something is stuck.
const LIMIT: Duration = Duration::from_secs(120);

/// Facts of one command: accepted, and its end.
const FACTS: usize = 4;

impl Engine {
    /// Inspects both sides and returns what was found on each, the source first.
    /// Dropping the future leaves nothing behind but an inspection that nobody
    /// waits for.
    pub async fn preflight(&self, spec: &Spec) -> Result<(Vec<Finding>, Vec<Finding>), Failure> {
        let name = Uuid::new_v4().simple().to_string();
        let id = MigrationId::new(&format!("preflight-{}", &name[..12]))?;
        let [source, destination] = self.inspect_both(&id, spec).await?;
        Ok((source.findings, destination.findings))
    }

    /// The migration whose plan is asked for. One that was not started yet is given what
    /// both agents read, once, or again where `refresh` says so; what kept them from it
    /// comes along.
    pub async fn plan(
        &self,
        id: &MigrationId,
        origin: Origin,
        refresh: bool,
    ) -> Result<(Overview, Option<Failure>), Failure> {
        let overview = self.overview(id)?;
        let state = &overview.state;
        if state.phase != Phase::Pending || state.survey.is_some() && !refresh {
            return Ok((overview, None));
        }
        let [source, destination] = match self.inspect_both(id, &state.spec).await {
            Ok(both) => both.map(|read| Box::new(read.inventory)),
            Err(obstacle) => return Ok((overview, Some(obstacle))),
        };
        let request = Request::Survey { source, destination };
        match self.submit(id, Submission { origin, etag: None, trace: TraceContext::new(), request }).await {
            Ok(overview) => Ok((overview, None)),
            // Started meanwhile: its inspection reads the same.
            Err(failure) if failure.reason == Reason::WrongState => Ok((self.overview(id)?, None)),
            Err(failure) => Err(failure),
        }
    }

    async fn inspect_both(&self, id: &MigrationId, spec: &Spec) -> Result<[CheckServerResult; 2], Failure> {
        for side in [Side::Source, Side::Destination] {
            if !self.0.fleet.ready(spec.agent(side)) {
                return Err(not_attached(spec.agent(side)));
            }
        }
        let source = self.inspect(id, spec, Side::Source, None).await?;
        let told = source.inventory.for_the_destination();
        let destination = self.inspect(id, spec, Side::Destination, Some(told)).await?;
        Ok([source, destination])
    }

    async fn inspect(
        &self,
        id: &MigrationId,
        spec: &Spec,
        side: Side,
        source: Option<Inventory>,
    ) -> Result<CheckServerResult, Failure> {
        let agent = spec.agent(side);
        let issued = Issued {
            command: CommandId(Uuid::now_v7()),
            act: ActRef { step: StepName::Inspect, index: 0 },
            verb: Verb::Perform,
            attempt: 1,
            input: Input::of(CheckServer { source, consents: spec.consents.clone(), way_back: spec.way_back }),
            stall_timeout: self.0.migration.stall_timeout.min(LIMIT),
            trace: trace::carry().into_iter().collect(),
        };
        let (asker, mut facts) = mpsc::channel(FACTS);
        self.0.preflights().insert(issued.command, asker);
        let _asked = AtEnd(|| drop(self.0.preflights().remove(&issued.command)));
        // Nothing is carried out that a plan could be of.
        let command = wire::command(id.as_str(), spec, &Digest(vec![0; 32]), &issued, side, self.0.leader_epoch());
        self.0.fleet.command(agent, command)?;
        let answer = async {
            while let Some(AgentFact { body, .. }) = facts.recv().await {
                match body {
                    Body::Accepted => {}
                    Body::Succeeded(Some(produced)) => return CheckServer::receive(*produced),
                    Body::Failed(failure) => return Err(failure.with("agent", agent)),
                    Body::Succeeded(None) | Body::Cancelled(_) => break,
                }
            }
            Err(unanswered(agent))
        };
        self.0.clock.timeout(LIMIT, answer).await.unwrap_or_else(|_| {
            Err(refusal(Reason::Stalled, format!("agent {agent} did not finish its inspection"))
                .detail(format!("It had {} seconds.", LIMIT.as_secs()))
                .hint("Look at the agent's log, and whether its server answers.")
                .remedy(Remedy::Operator)
                .with("agent", agent))
        })
    }
}

fn unanswered(agent: &str) -> Failure {
    refusal(Reason::Internal, format!("agent {agent} did not answer what it was asked"))
}
