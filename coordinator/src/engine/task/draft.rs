//! What a migration's task decides before anything is stored or sent.

use std::sync::Arc;
use std::time::Duration;

use pgportage_link::{Failure, trace};
use rand::Rng as _;
use tokio::time::Instant;
use tracing::Span;
use uuid::Uuid;

use super::super::defect;
use super::Task;
use crate::workflow::fact::{CommandId, Event, Fact, Issued, Origin, TraceContext};
use crate::workflow::plan::{Action, Issue, Situation, plan};
use crate::workflow::planned;
use crate::workflow::state::{ActState, Phase, State};
use crate::workflow::{ActKind, ActRef, Verb};

/// What was decided and is not stored yet.
pub(super) struct Draft {
    pub(super) state: State,
    pub(super) facts: Vec<Fact>,
    pub(super) issued: Vec<Arc<Issued>>,
    pub(super) cancels: Vec<CommandId>,
    pub(super) wake: Option<Instant>,
    pub(super) outage_start: Option<Instant>,
    pub(super) spans: Vec<(CommandId, Span)>,
}

impl Task {
    /// Decides without doing anything.
    pub(super) fn draft(&mut self, events: Vec<(Origin, Event)>) -> Result<Draft, Failure> {
        let now = self.engine.0.clock.now();
        let mut draft = Draft {
            state: self.state.clone(),
            facts: Vec::new(),
            issued: Vec::new(),
            cancels: Vec::new(),
            wake: None,
            outage_start: self.outage_start,
            spans: Vec::new(),
        };
        for (origin, event) in events {
            self.apply(&mut draft, origin, event)?;
        }
        loop {
            let mut changed = false;
            draft.wake = None;
            draft.cancels.clear();
            let situation = self.situation(&draft, now);
            if let Some(deadline) = self.deadline(&draft) {
                draft.wake = Some(deadline);
            }
            for action in plan(&draft.state, &situation) {
                let origin = self.engine.0.origin(&draft.state.request_id);
                match action {
                    Action::Record(event) => {
                        self.apply(&mut draft, origin, event)?;
                        changed = true;
                    }
                    Action::Issue(issue) => {
                        let due = self.due(&issue, now);
                        if due > now {
                            draft.wake = Some(draft.wake.map_or(due, |wake| wake.min(due)));
                            continue;
                        }
                        let issued = self.issue(&mut draft, issue, now);
                        self.apply(&mut draft, origin, Event::CommandIssued(Box::new(issued.clone())))?;
                        draft.issued.push(Arc::new(issued));
                        changed = true;
                    }
                    Action::Cancel(command) => draft.cancels.push(command),
                }
            }
            if !changed {
                return Ok(draft);
            }
        }
    }

    fn apply(&self, draft: &mut Draft, origin: Origin, event: Event) -> Result<(), Failure> {
        let mut fact = Fact {
            sequence: draft.state.sequence + 1,
            origin,
            time: self.engine.0.clock.wall(),
            plan_digest: draft.state.plan_digest.clone(),
            event,
        };
        let applied = |fact: &Fact| {
            draft.state.with(fact).map_err(|illegal| {
                tracing::error!(migration.id = %draft.state.id, "{illegal}");
                defect(&illegal)
            })
        };
        let mut state = applied(&fact)?;
        if fact.event.renews_the_plan() {
            fact.plan_digest = planned::digest(&state);
            state = applied(&fact)?;
        }
        draft.state = state;
        draft.facts.push(fact);
        Ok(())
    }

    fn situation(&self, draft: &Draft, now: Instant) -> Situation {
        let outage_left = match under_way(&draft.state) {
            None => Duration::ZERO,
            Some(UnderWay { begun: false, max_outage }) => max_outage,
            Some(UnderWay { begun: true, max_outage }) => {
                draft.outage_start.map_or(Duration::ZERO, |start| (start + max_outage).saturating_duration_since(now))
            }
        };
        Situation { outage_left, stall_timeout: self.engine.0.migration.stall_timeout }
    }

    /// When the cutover or the round under way has to be given up.
    fn deadline(&self, draft: &Draft) -> Option<Instant> {
        let Phase::Running { step } = draft.state.phase else { return None };
        if !step.is_rehearsal() && draft.state.past_decision() {
            return None;
        }
        let under_way = under_way(&draft.state).filter(|it| it.begun)?;
        draft.outage_start.map(|start| start + under_way.max_outage)
    }

    /// When an attempt may be made: at once, or after its pause, spread a little
    /// so that a fleet does not come back in step.
    fn due(&mut self, issue: &Issue, now: Instant) -> Instant {
        if issue.after.is_zero() {
            return now;
        }
        *self
            .due
            .entry((issue.act, issue.verb, issue.attempt))
            .or_insert_with(|| now + issue.after.mul_f64(rand::rng().random_range(0.75..1.0)))
    }

    fn issue(&mut self, draft: &mut Draft, issue: Issue, now: Instant) -> Issued {
        self.due.remove(&(issue.act, issue.verb, issue.attempt));
        let command = CommandId(Uuid::now_v7());
        let kind = kind_of(issue.act);
        let span = tracing::info_span!(
            parent: None,
            "command",
            otel.name = format!("{} {kind}", issue.act.step),
            migration.id = %draft.state.id,
            step = issue.act.step.as_str(),
            act = kind,
            verb = ?issue.verb,
            attempt = issue.attempt,
            command.id = %command,
        );
        let carrier = draft.state.trace.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        trace::adopt(&span, &carrier);
        let carried: TraceContext = span.in_scope(trace::carry).into_iter().collect();
        draft.spans.push((command, span));
        if issue.act.begins_the_outage() && issue.verb == Verb::Perform {
            draft.outage_start = Some(now);
        }
        Issued {
            command,
            act: issue.act,
            verb: issue.verb,
            attempt: issue.attempt,
            input: issue.input,
            stall_timeout: issue.stall_timeout,
            trace: carried,
        }
    }
}

/// The name of an act's kind, for logs and spans.
pub(super) fn kind_of(act: ActRef) -> &'static str {
    act.kind().map_or("", ActKind::as_str)
}

/// A switch, or a round of a rehearsal, that is carried out or taken back.
pub(super) struct UnderWay {
    pub(super) max_outage: Duration,
    /// Whether its barrier was asked for.
    pub(super) begun: bool,
}

pub(super) fn under_way(state: &State) -> Option<UnderWay> {
    let step = state.phase.under_way().filter(|step| step.keeps_writers_waiting())?;
    let begun = state.act(ActRef::raise(step)).state != ActState::Idle;
    state.trial(step).map(|trial| UnderWay { max_outage: trial.max_outage, begun })
}
