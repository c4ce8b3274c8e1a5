//! Questions to agents: asked over their sessions, answered soon or not at all.
//! Nothing is stored, because nothing is changed.

use std::time::Duration;

use pgportage_link::{Failure, Remedy};
use pgportage_proto::Reason;
use pgportage_report::situation::Situation;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{AtEnd, Engine, Overview};
use crate::explain::{Explanation, Facts, Report, Standing, explain};
use crate::message::refusal;
use crate::wire;
use crate::workflow::Side;
use crate::workflow::drift;
use crate::workflow::spec::MigrationId;
use crate::workflow::state::{Phase, State};

/// How long an agent may look around.
const LIMIT: Duration = Duration::from_secs(2);
/// How much longer the answer may be on its way.
const GRACE: Duration = Duration::from_millis(500);

/// A migration, and why it does not move.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The migration as it stood when the agents had answered.
    pub overview: Overview,
    /// What keeps it from moving, the most likely cause first.
    pub explanations: Vec<Explanation>,
    /// What each agent said, the source's first. None when they were not asked,
    /// because they have nothing to do with it.
    pub reports: Option<(Report, Report)>,
}

#[derive(Debug)]
pub(super) struct Asker {
    agent: String,
    reply: oneshot::Sender<Result<Situation, Failure>>,
}

impl Engine {
    /// Asks both agents what is going on, and says why a migration does not move.
    /// Takes two and a half seconds at most. Dropping the future forgets the
    /// questions.
    ///
    /// An agent that does not answer is part of the answer.
    pub async fn explain(&self, id: &MigrationId) -> Result<Explained, Failure> {
        let state = self.overview(id)?.state;
        let asked = match state.phase {
            Phase::Pending | Phase::Aborted | Phase::Succeeded => false,
            Phase::Running { .. }
            | Phase::Held { .. }
            | Phase::Stopped { .. }
            | Phase::TakingBack { .. }
            | Phase::Aborting { .. } => true,
        };
        let reports = if asked {
            Some(tokio::join!(self.ask(&state, Side::Source), self.ask(&state, Side::Destination)))
        } else {
            None
        };
        // It may have moved meanwhile.
        let overview = self.overview(id)?;
        let unasked = || Report::Answered(Box::default());
        let (source, destination) = reports.clone().unwrap_or_else(|| (unasked(), unasked()));
        let standing = Standing::of(&overview.state);
        let drift =
            overview.drift().filter(|drift| !drift.level()).map(|drift| (drift.follower, drift::failure(drift)));
        let explanations = explain(&Facts { migration: id.clone(), standing, source, destination, drift });
        Ok(Explained { overview, explanations, reports })
    }

    async fn ask(&self, state: &State, side: Side) -> Report {
        let agent = state.spec.agent(side);
        let question = Uuid::now_v7();
        let (reply, answer) = oneshot::channel();
        self.0.questions().insert(question, Asker { agent: agent.to_owned(), reply });
        let _asked = AtEnd(|| drop(self.0.questions().remove(&question)));
        if let Err(failure) = self.0.fleet.ask(agent, wire::question(question, &state.id, LIMIT)) {
            return Report::Silent(failure);
        }
        match self.0.clock.timeout(LIMIT + GRACE, answer).await {
            Ok(Ok(Ok(situation))) => Report::Answered(Box::new(situation)),
            Ok(Ok(Err(failure))) => Report::Silent(failure),
            Ok(Err(_)) | Err(_) => Report::Silent(silence(agent)),
        }
    }

    /// Takes an agent's answer in. One that nobody waits for any more, or that was
    /// asked of another agent, is dropped.
    pub fn answered(&self, agent: &str, question: Uuid, answer: Result<Situation, Failure>) {
        let mut questions = self.0.questions();
        if questions.get(&question).is_some_and(|asker| asker.agent == agent)
            && let Some(asker) = questions.remove(&question)
        {
            // The asker may have gone this moment.
            drop(asker.reply.send(answer));
        }
    }
}

fn silence(agent: &str) -> Failure {
    let limit = (LIMIT + GRACE).as_millis();
    refusal(Reason::CouldNotCheck, format!("agent {agent} did not say within {limit} ms what it sees"))
        .detail("It has a session, and does not read it, is very busy, or is of an older release.")
        .hint("Ask again; if it stays so, look at the agent's log.")
        .remedy(Remedy::Wait)
        .with("agent", agent)
}
