//! The task of one migration.

mod draft;
mod send;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pgportage_link::{Effect, Failure, Haste, fail_point};
use pgportage_proto::Reason;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::Span;

use self::draft::{kind_of, under_way};
use super::{Engine, Overview, Submission, check_etag, refused};
use crate::store::StoreError;
use crate::wire::{AgentFact, Body};
use crate::workflow::act::{Outcome, Produced};
use crate::workflow::drift::{self, Relief};
use crate::workflow::fact::{CommandId, Event, Fact, Issued, Origin};
use crate::workflow::state::State;
use crate::workflow::verb::apply;
use crate::workflow::{ActRef, StepName, Verb};

/// How long to wait before a full store is tried again.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Letters taken from the mailbox at once: what came together is stored
/// together.
const BATCH: usize = 16;

/// What comes to a migration's task.
#[derive(Debug)]
pub(super) enum Incoming {
    Request {
        submission: Submission,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Overview, Failure>>,
    },
    Fact {
        agent: String,
        /// As it is stored.
        origin: Origin,
        fact: AgentFact,
    },
    /// An agent takes commands again.
    Attached { agent: String },
}

/// One migration under way. Ends with the migration, or at the engine's stop.
pub(super) struct Task {
    engine: Engine,
    state: State,
    overview: Arc<watch::Sender<Overview>>,
    incoming: mpsc::Receiver<Incoming>,
    /// When postponed attempts are due.
    due: HashMap<(ActRef, Verb, u32), Instant>,
    /// When the barrier was asked for, if this process did it.
    outage_start: Option<Instant>,
    /// While applications wait.
    haste: Option<Haste>,
    /// One span for each command under way.
    spans: HashMap<CommandId, Span>,
    /// Cancels that were said in the agent's present session.
    cancelled: HashSet<CommandId>,
    /// Whether a drift that stopped a verification is gone.
    relief: Relief,
}

impl Task {
    pub(super) fn new(
        engine: Engine,
        state: &State,
        overview: Arc<watch::Sender<Overview>>,
        incoming: mpsc::Receiver<Incoming>,
    ) -> Self {
        Self {
            engine,
            state: state.clone(),
            overview,
            incoming,
            due: HashMap::new(),
            outage_start: None,
            haste: None,
            spans: HashMap::new(),
            cancelled: HashSet::new(),
            relief: Relief::new(state),
        }
    }

    /// Runs until the migration is over or the engine stops. Dropping the future
    /// is safe between two letters only; the engine never drops it.
    pub(super) async fn run(mut self) {
        let clock = self.engine.0.clock;
        let stop = self.engine.0.stop.clone();
        let mut wake = self.go_on().await;
        let mut news = self.overview.subscribe();
        let mut incoming = Vec::with_capacity(BATCH);
        while !self.state.terminal() {
            if self.relief.has_come(&self.state, news.borrow_and_update().drift()) {
                wake = self.verify_again().await;
            }
            let pause = async {
                match wake {
                    Some(wake) => clock.sleep_until(wake).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                count = self.incoming.recv_many(&mut incoming, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for item in incoming.drain(..) {
                        wake = self.read(item).await;
                    }
                }
                () = pause => wake = self.go_on().await,
                // Never fails: the board is ours.
                _changed = news.changed(), if drift::holds_verification(&self.state) => {}
            }
        }
        let ended: Vec<_> = self.state.commands.keys().copied().collect();
        let mut commands = self.engine.0.commands_mut();
        for command in ended {
            commands.remove(&command);
        }
        tracing::info!(migration.id = %self.state.id, "over: {}", crate::workflow::verb::describe(&self.state.phase));
    }

    async fn read(&mut self, item: Incoming) -> Option<Instant> {
        match item {
            Incoming::Request { submission, reply } => {
                let answer = self.submit(submission).await.map(|()| self.overview.borrow().clone());
                // The operator may have gone; the request stands.
                drop(reply.send(answer));
                self.go_on().await
            }
            Incoming::Fact { agent, origin, fact } => self.hear(&agent, origin, fact).await,
            Incoming::Attached { agent } => {
                self.resend(&agent);
                self.go_on().await
            }
        }
    }

    async fn submit(&mut self, submission: Submission) -> Result<(), Failure> {
        let Submission { origin, etag, trace, request } = submission;
        check_etag(&self.state, etag.as_deref())?;
        let event = apply(&self.state, request, trace)?;
        if let Event::CutoverRequested { .. } | Event::RollbackRequested { .. } = &event {
            drift::may_switch(self.overview.borrow().drift())?;
        }
        tracing::info!(migration.id = %self.state.id, actor = origin.actor, event = event.kind(), "requested by an operator");
        self.store(vec![(origin, event)]).await.map(drop)
    }

    /// The schemas that a verification has found different are level.
    async fn verify_again(&mut self) -> Option<Instant> {
        tracing::info!(migration.id = %self.state.id, "the schemas of both sides are level: verifying again");
        let again = Event::RetryRequested { step: StepName::Verify, trace: self.state.trace.clone() };
        let origin = self.engine.0.origin(&self.state.request_id);
        if let Err(failure) = self.store(vec![(origin, again)]).await {
            tracing::error!(migration.id = %self.state.id, causes = ?failure.causes, "the migration cannot go on: {failure}");
            // With the next news.
            self.relief = Relief::new(&self.state);
        }
        self.go_on().await
    }

    /// Takes a fact in and acknowledges what is stored.
    async fn hear(&mut self, agent: &str, origin: Origin, fact: AgentFact) -> Option<Instant> {
        fail_point::hit("coordinator.receive.fact");
        let AgentFact { command, sequence, body } = fact;
        let owner = self.state.side_of(command).map(|side| self.state.spec.agent(side));
        if owner != Some(agent) {
            tracing::warn!(migration.id = %self.state.id, agent.id = agent, command.id = %command, "reported about a command of another agent");
            return self.go_on().await;
        }
        let (last, answered) =
            self.state.commands.get(&command).map_or((0, false), |known| (known.last_sequence, known.answered));
        if sequence <= last || answered {
            self.engine.acknowledge(agent, command, sequence.max(last));
            return self.go_on().await;
        }
        if sequence != last + 1 {
            tracing::warn!(command.id = %command, sequence, last, "a fact is missing before this one; it is not taken");
            return self.go_on().await;
        }
        let event = self.event(command, sequence, body);
        loop {
            match self.store(vec![(origin.clone(), event.clone())]).await {
                Ok(wake) => {
                    self.engine.acknowledge(agent, command, sequence);
                    return wake;
                }
                // The agent keeps what is not acknowledged, and we keep trying:
                // room may be made, and until then nothing else can go on.
                Err(failure) => {
                    tracing::error!(migration.id = %self.state.id, causes = ?failure.causes, "a fact could not be stored: {failure}");
                    let hopeless =
                        failure.reason != Reason::StoreUnwritable || self.engine.0.store.broken().is_cancelled();
                    let stop = self.engine.0.stop.clone();
                    let pause = self.engine.0.clock.sleep(STORE_PAUSE);
                    if hopeless || stop.run_until_cancelled(pause).await.is_none() {
                        return None;
                    }
                }
            }
        }
    }

    fn event(&self, command: CommandId, agent_sequence: i64, body: Body) -> Event {
        let Some(known) = self.state.commands.get(&command) else {
            return Event::CommandAccepted { command, agent_sequence };
        };
        let issued = &known.issued;
        match body {
            Body::Accepted => Event::CommandAccepted { command, agent_sequence },
            Body::Cancelled(effect) => Event::CommandCancelled { command, agent_sequence, effect },
            Body::Failed(failure) => Event::CommandFailed { command, agent_sequence, failure },
            Body::Succeeded(produced) => match outcome(issued, produced) {
                Ok(outcome) => {
                    let outage = self.outage_so_far(issued);
                    Event::CommandSucceeded { command, agent_sequence, outcome, outage }
                }
                Err(failure) => Event::CommandFailed { command, agent_sequence, failure },
            },
        }
    }

    /// How long writers have waited, if it is this command that they waited for.
    fn outage_so_far(&self, issued: &Issued) -> Option<Duration> {
        if !issued.act.is_waited_for(issued.verb) {
            return None;
        }
        Some(self.engine.0.clock.now().duration_since(self.outage_start?))
    }

    /// Plans and carries out. Returns when to plan again without further news.
    async fn go_on(&mut self) -> Option<Instant> {
        match self.store(Vec::new()).await {
            Ok(wake) => wake,
            Err(failure) => {
                tracing::error!(migration.id = %self.state.id, causes = ?failure.causes, "the migration cannot go on: {failure}");
                Some(self.engine.0.clock.now() + STORE_PAUSE)
            }
        }
    }

    /// Applies events and everything the plan makes of them; stores it in one
    /// commit; shows it; sends the commands. On an error nothing has happened.
    async fn store(&mut self, events: Vec<(Origin, Event)>) -> Result<Option<Instant>, Failure> {
        let draft = self.draft(events)?;
        if !draft.facts.is_empty() {
            let stored = self.engine.0.store.append(self.state.id.clone(), draft.facts.clone()).await;
            if let Err(error) = stored {
                if let StoreError::Broken(_) = &error {
                    tracing::error!("the store is broken; the process has to end");
                }
                return Err(refused(error));
            }
        }
        let before = std::mem::replace(&mut self.state, draft.state);
        self.outage_start = draft.outage_start;
        self.haste = under_way(&self.state)
            .filter(|switch| switch.begun)
            .map(|_| self.haste.take().unwrap_or_else(Haste::begin));
        self.spans.extend(draft.spans);
        if !draft.facts.is_empty() {
            self.show(&before, &draft.facts);
        }
        for issued in &draft.issued {
            self.send(issued);
        }
        if before.max_rate != self.state.max_rate {
            self.send_tuning();
        }
        for command in draft.cancels {
            self.cancel(command);
        }
        Ok(draft.wake)
    }

    /// Lets everybody see what is stored.
    fn show(&mut self, before: &State, facts: &[Fact]) {
        let state = Arc::new(self.state.clone());
        for fact in facts {
            self.note(fact);
        }
        let open: HashSet<_> = state.unanswered().map(|known| known.issued.command).collect();
        self.spans.retain(|command, _| open.contains(command));
        self.cancelled.retain(|command| open.contains(command));
        self.engine.0.figures.moved(Some(before), Some(&state));
        self.engine.0.commands_mut().extend(open.iter().map(|command| (*command, state.id.clone())));
        self.overview.send_modify(|overview| {
            overview.progress.retain(|command, _| open.contains(command));
            overview.state = state;
        });
    }

    /// One line for what a reader of the log wants to know.
    fn note(&self, fact: &Fact) {
        let id = &self.state.id;
        let step_of = |command: &CommandId| {
            self.state
                .commands
                .get(command)
                .map(|known| (known.issued.act.step.as_str(), kind_of(known.issued.act), known.issued.attempt))
        };
        if let Event::CommandFailed { command, failure, .. } = &fact.event {
            let (step, action, attempt) = step_of(command).unwrap_or(("", "", 0));
            self.engine.0.figures.attempted(step, false);
            tracing::warn!(migration.id = %id, step, action, attempt, command.id = %command, reason = %failure.reason, detail = failure.detail, "failed: {failure}");
        } else if let Event::CommandSucceeded { command, outage, .. } = &fact.event {
            let (step, action, attempt) = step_of(command).unwrap_or(("", "", 0));
            self.engine.0.figures.attempted(step, true);
            let issued = self.state.commands.get(command).map(|known| &known.issued);
            if let (Some(outage), Some(issued)) = (outage, issued) {
                if issued.act.is_decision() {
                    self.engine.0.figures.outage(*outage);
                } else if issued.act.step.is_rehearsal() && issued.verb == Verb::Undo {
                    self.engine.0.figures.rehearsed(*outage);
                }
            }
            tracing::info!(migration.id = %id, step, action, attempt, command.id = %command, "done");
        } else if let Event::CutoverGivenUp { failure } | Event::StepFailed { failure, .. } = &fact.event {
            tracing::warn!(migration.id = %id, reason = %failure.reason, detail = failure.detail, "{}: {failure}", fact.event.kind());
        } else {
            tracing::debug!(migration.id = %id, sequence = fact.sequence, event = fact.event.kind(), "recorded");
        }
    }
}

/// What an act produced, read as its kind reads it. An undo produces nothing.
fn outcome(issued: &Issued, produced: Option<Box<Produced>>) -> Result<Option<Outcome>, Failure> {
    if issued.verb == Verb::Undo {
        return Ok(None);
    }
    let (row, produced) = issued.act.row().zip(produced).ok_or_else(|| {
        Failure::new(Reason::Internal, "the agent did not say what it produced")
            .hint("Install the same release everywhere.")
    })?;
    (row.act.receive)(*produced).map(Some).map_err(|failure| failure.effect(Effect::Unknown))
}
