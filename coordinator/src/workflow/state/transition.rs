//! The one transition function.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgportage_link::{Failure, Remedy};
use pgportage_proto::Reason;

use super::super::depth::Depth;
use super::super::fact::{Event, Fact, TraceContext};
use super::super::rehearsal::{Rehearsal, Round};
use super::super::{ActRef, Side, StepName, TABLE, Verb};
use super::{Act, CutoverEnd, Phase, State, Step, Survey, Trial, Verified};
use crate::message::refusal;

/// A fact that cannot follow the facts before it: a defect, or a store that
/// somebody else has written to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fact {sequence} ({event}) cannot follow: {why}")]
pub struct IllegalTransition {
    pub sequence: i64,
    pub event: &'static str,
    pub why: &'static str,
}

/// Folds a whole history.
pub(crate) fn fold<'a>(facts: impl IntoIterator<Item = &'a Fact>) -> Result<State, IllegalTransition> {
    let mut state = None;
    for fact in facts {
        state = Some(next(state, fact)?);
    }
    state.ok_or(IllegalTransition { sequence: 0, event: "none", why: "the history is empty" })
}

/// Where a migration stands after one more fact. `state` is `None` before the
/// first.
///
/// Where the fact cannot follow, the caller's state is unchanged, because it gave a copy.
pub(crate) fn next(state: Option<State>, fact: &Fact) -> Result<State, IllegalTransition> {
    let illegal = |why| IllegalTransition { sequence: fact.sequence, event: fact.event.kind(), why };
    let Some(mut state) = state else {
        let Event::Created { id, spec } = &fact.event else { return Err(illegal("the migration was not created")) };
        if fact.sequence != 1 {
            return Err(illegal("the first fact has number 1"));
        }
        return Ok(created(id.clone(), spec.clone(), fact));
    };
    if fact.sequence != state.sequence + 1 {
        return Err(illegal("a number is missing or came twice"));
    }
    if state.terminal() {
        return Err(illegal("the migration is over"));
    }
    state.apply(&fact.event, fact).map_err(illegal)?;
    state.plan_digest.clone_from(&fact.plan_digest);
    state.sequence = fact.sequence;
    state.update_time = fact.time;
    Ok(state)
}

fn created(id: super::MigrationId, spec: super::Spec, fact: &Fact) -> State {
    let mut state = State {
        id,
        consents: spec.consents.clone(),
        max_rate: spec.max_rate,
        way_back: spec.way_back,
        writable: Side::Source,
        spec,
        plan_digest: fact.plan_digest.clone(),
        survey: None,
        phase: Phase::Pending,
        steps: TABLE.iter().map(|row| Step { acts: vec![Act::default(); row.acts.len()], ..Step::default() }).collect(),
        depth: Depth::default(),
        cutover: None,
        rehearsal: None,
        rest_of_switch: None,
        certificates: BTreeMap::new(),
        verification: None,
        commands: BTreeMap::new(),
        trace: TraceContext::new(),
        create_request_id: fact.origin.request_id.clone(),
        request_id: fact.origin.request_id.clone(),
        sequence: fact.sequence,
        create_time: fact.time,
        update_time: fact.time,
    };
    for row in TABLE {
        state.lay_out(row.name);
    }
    state
}

pub(super) type Applied = Result<(), &'static str>;

impl State {
    fn apply(&mut self, event: &Event, fact: &Fact) -> Applied {
        match event {
            Event::Created { .. } => Err("the migration exists"),
            Event::Surveyed { source, destination } => {
                self.must(self.phase == Phase::Pending, "it is not pending")?;
                self.request_id.clone_from(&fact.origin.request_id);
                let (source, destination) = (Arc::new((**source).clone()), Arc::new((**destination).clone()));
                self.survey = Some(Survey { time: fact.time, source, destination });
                Ok(())
            }
            Event::Started { trace } => {
                self.must(self.phase == Phase::Pending, "it is not pending")?;
                self.requested(trace, fact);
                self.begin(TABLE[0].name);
                Ok(())
            }
            Event::ConsentGiven { consents } => {
                self.request_id.clone_from(&fact.origin.request_id);
                for consent in consents {
                    if !self.consents.contains(consent) {
                        self.consents.push(consent.clone());
                    }
                }
                Ok(())
            }
            Event::Tuned { max_rate } => {
                self.request_id.clone_from(&fact.origin.request_id);
                self.max_rate = *max_rate;
                Ok(())
            }
            Event::CommandIssued(issued) => self.issued(issued, fact),
            Event::CommandAccepted { command, agent_sequence } => {
                let (act, verb) = self.heard(*command, *agent_sequence, false)?;
                self.act_mut(act).accepted |= verb == Verb::Perform;
                Ok(())
            }
            Event::CommandSucceeded { command, agent_sequence, outcome, outage } => {
                let (act, verb) = self.heard(*command, *agent_sequence, true)?;
                match verb {
                    Verb::Perform => {
                        let outcome = outcome.as_ref().ok_or("it produced nothing")?;
                        self.must(
                            act.row().is_some_and(|row| (row.act.produces)(outcome)),
                            "it produced something else",
                        )?;
                        self.performed(act, Arc::new(outcome.clone()), *outage);
                    }
                    Verb::Undo => {
                        self.learn_of_round(act, None, *outage);
                        self.undone(act, fact);
                    }
                }
                Ok(())
            }
            Event::CommandFailed { command, agent_sequence, failure } => {
                let (act, verb) = self.heard(*command, *agent_sequence, true)?;
                match verb {
                    Verb::Perform => self.failed(act, failure),
                    Verb::Undo => self.undo_failed(act, failure),
                }
                Ok(())
            }
            Event::CommandCancelled { command, agent_sequence, effect } => {
                let (act, verb) = self.heard(*command, *agent_sequence, true)?;
                let failure = Failure::new(Reason::Cancelled, "stopped because it was asked to")
                    .remedy(Remedy::Wait)
                    .effect(*effect);
                match verb {
                    Verb::Perform => self.failed(act, &failure),
                    Verb::Undo => self.undo_failed(act, &failure),
                }
                Ok(())
            }
            Event::StepSucceeded { step, verification } => {
                self.must(self.phase == Phase::Running { step: *step }, "the step is not running")?;
                self.must(!step.is_rehearsal(), "a rehearsal can only be taken back")?;
                self.must(self.all_performed(*step), "an act of the step is not done")?;
                self.verified(verification.as_deref(), fact);
                let entry = &mut self.steps[step.index()];
                entry.end_time = Some(fact.time);
                entry.succeeded = true;
                if *step == StepName::Rollback {
                    self.forget_switches();
                }
                self.phase = match self.following(*step) {
                    None => Phase::Succeeded,
                    Some(step) if step.row().hold.is_some() => Phase::Held { step },
                    Some(step) => Phase::Running { step },
                };
                Ok(())
            }
            Event::StepFailed { step, failure, verification } => {
                self.must(self.phase == Phase::Running { step: *step }, "the step is not running")?;
                self.must(self.all_performed(*step), "an act of the step is not done")?;
                self.verified(verification.as_deref(), fact);
                self.steps[step.index()].end_time = Some(fact.time);
                self.phase = Phase::Stopped { step: *step, failure: failure.clone() };
                Ok(())
            }
            Event::VerificationRepeated { tables, verification } => {
                let Phase::Running { step } = self.phase else { return Err("no verification is complete") };
                let complete = step.is_verification() && self.all_performed(step);
                self.must(complete, "no verification is complete")?;
                self.begin(step);
                self.verification =
                    Some(Verified { found: (**verification).clone(), again: tables.clone(), time: fact.time });
                Ok(())
            }
            Event::VerificationRequested { depth, trace } => {
                let step = self.verification_now().ok_or("the migration does not wait for a switch")?;
                self.requested(trace, fact);
                self.depth = depth.clone();
                self.verification = None;
                self.count_anew(step);
                self.begin(step);
                Ok(())
            }
            Event::CutoverRequested {
                cutover_epoch,
                max_outage,
                without_way_back,
                compare_limit,
                certified,
                trace,
            } => {
                let held = self.phase == Phase::Held { step: StepName::Cutover };
                self.must(held, "the migration does not wait for its cutover")?;
                self.way_back &= !without_way_back;
                let trial = Trial {
                    epoch: *cutover_epoch,
                    max_outage: *max_outage,
                    compare_limit: *compare_limit,
                    without_poolers: false,
                };
                self.switch_requested(StepName::Cutover, trial, *certified)?;
                self.requested(trace, fact);
                Ok(())
            }
            Event::RollbackRequested {
                cutover_epoch,
                max_outage,
                without_poolers,
                compare_limit,
                certified,
                trace,
            } => {
                self.must(self.awaits_last_word(), "the migration does not wait for finish or rollback")?;
                self.must(self.way_back, "it has no way back")?;
                self.overtake_verification();
                let trial = Trial {
                    epoch: *cutover_epoch,
                    max_outage: *max_outage,
                    compare_limit: *compare_limit,
                    without_poolers: *without_poolers,
                };
                self.switch_requested(StepName::Rollback, trial, *certified)?;
                self.requested(trace, fact);
                Ok(())
            }
            Event::CutoverGivenUp { failure } => {
                let Phase::Running { step } = self.phase else { return Err("no cutover is under way") };
                self.must(step.keeps_writers_waiting(), "no cutover is under way")?;
                self.must(step.is_rehearsal() || !self.past_decision(), "the other side was asked to open")?;
                self.take_back(step, failure);
                Ok(())
            }
            Event::CutoverTakenBack => {
                let Phase::TakingBack { step, cause: Some(cause), .. } = &self.phase else {
                    return Err("no cutover is being taken back");
                };
                let (step, cause) = (*step, cause.clone());
                self.must(step.is_switch(), "no cutover is being taken back")?;
                self.must(self.settled(step), "something is left of the cutover")?;
                if let Some(cutover) = &mut self.cutover {
                    cutover.end = Some(CutoverEnd::TakenBack { cause });
                }
                self.steps[step.index()].end_time = Some(fact.time);
                self.phase = Phase::Held { step: step.held_at() };
                Ok(())
            }
            Event::RehearsalRequested { step, cutover_epoch, max_outage, round_count, compare_limit, trace } => {
                let rehearsal = Rehearsal {
                    step: *step,
                    epoch: *cutover_epoch,
                    max_outage: *max_outage,
                    compare_limit: *compare_limit,
                    round_count: *round_count,
                    rounds: Vec::new(),
                    round: Round::default(),
                    end: None,
                    time: fact.time,
                };
                self.rehearsal_requested(rehearsal)?;
                self.requested(trace, fact);
                Ok(())
            }
            Event::RoundRehearsed => self.round_rehearsed(),
            Event::RoundTakenBack => self.round_taken_back(fact),
            Event::FinishRequested { trace } => {
                self.must(self.may_finish(), "the migration does not wait for finish")?;
                self.overtake_verification();
                self.requested(trace, fact);
                self.begin(StepName::Finish);
                Ok(())
            }
            Event::RetryRequested { step, trace } => self.retried(*step, trace, fact),
            Event::AbortRequested { trace } => {
                self.must(!self.past_return(), "the destination was asked to open")?;
                self.must(!self.rolling_back(), "the source has opened in a rollback under way")?;
                self.must(!matches!(self.phase, Phase::Aborting { .. }), "it is being aborted")?;
                if self.released() {
                    self.forget_switches();
                }
                self.end_rehearsal();
                self.requested(trace, fact);
                self.relent();
                self.phase = Phase::Aborting { stop: None };
                Ok(())
            }
            Event::Aborted => {
                self.must(matches!(self.phase, Phase::Aborting { .. }), "it is not being aborted")?;
                self.must(TABLE.iter().all(|row| self.settled(row.name)), "something is left to take back")?;
                if let Some(cutover) = &mut self.cutover
                    && cutover.end.is_none()
                {
                    let cause = refusal(Reason::Cancelled, "the migration was aborted");
                    cutover.end = Some(CutoverEnd::TakenBack { cause });
                }
                self.phase = Phase::Aborted;
                Ok(())
            }
        }
    }

    #[expect(clippy::unused_self, reason = "reads as a sentence")]
    pub(super) fn must(&self, holds: bool, otherwise: &'static str) -> Applied {
        if holds { Ok(()) } else { Err(otherwise) }
    }

    /// The operator spoke: what follows belongs to that request and its trace.
    fn requested(&mut self, trace: &TraceContext, fact: &Fact) {
        self.trace.clone_from(trace);
        self.request_id.clone_from(&fact.origin.request_id);
    }

    /// The step begins, or begins again. What its acts produced before stays
    /// known until they produce it anew.
    pub(super) fn begin(&mut self, step: StepName) {
        let entry = &mut self.steps[step.index()];
        entry.succeeded = false;
        entry.end_time = None;
        self.lay_out(step);
        self.phase = Phase::Running { step };
    }

    /// Every act of the step is where it begins.
    pub(super) fn lay_out(&mut self, step: StepName) {
        for (index, row) in step.row().acts.iter().enumerate() {
            let state = self.beginning(row);
            let act = self.act_mut(ActRef { step, index });
            act.state = state;
            act.streak = 0;
        }
    }

    /// Failed attempts are forgotten: the next one follows at once.
    fn relent(&mut self) {
        for act in self.steps.iter_mut().flat_map(|step| &mut step.acts) {
            act.streak = 0;
        }
    }

    pub(super) fn all_performed(&self, step: StepName) -> bool {
        let acts = (0..step.row().acts.len()).map(|index| ActRef { step, index });
        acts.filter(|act| self.due(*act)).all(|act| self.over(act))
    }

    /// Whether nothing of the step is left to take back or to wait for.
    pub(super) fn settled(&self, step: StepName) -> bool {
        step.row().acts.iter().zip(&self.step(step).acts).all(|(row, act)| !act.unsettled(row.undo))
    }

    pub(super) fn act_mut(&mut self, act: ActRef) -> &mut Act {
        &mut self.steps[act.step.index()].acts[act.index]
    }

    fn verified(&mut self, verification: Option<&super::Verification>, fact: &Fact) {
        if let Some(found) = verification {
            self.verification = Some(Verified { found: found.clone(), again: Vec::new(), time: fact.time });
        }
    }

    fn retried(&mut self, step: StepName, trace: &TraceContext, fact: &Fact) -> Applied {
        let lost = matches!(&self.phase, Phase::Stopped { failure, .. } if self.only_abort_helps(failure));
        match &mut self.phase {
            Phase::Stopped { step: stopped, .. } => {
                if *stopped != step {
                    return Err("another step is stopped");
                }
                if lost {
                    return Err("no retry can help");
                }
                // A judgement stopped it: everything is looked at anew.
                if self.all_performed(step) {
                    self.depth = self.depth.anew(fact.sequence);
                    self.verification = None;
                    self.begin(step);
                } else {
                    self.phase = Phase::Running { step };
                }
            }
            Phase::Running { step: running } if *running == step => {}
            Phase::TakingBack { step: back, stop, .. } if step == *back => *stop = None,
            Phase::Aborting { stop } => *stop = None,
            Phase::Pending
            | Phase::Running { .. }
            | Phase::Held { .. }
            | Phase::TakingBack { .. }
            | Phase::Aborted
            | Phase::Succeeded => return Err("there is nothing to try again"),
        }
        self.relent();
        self.requested(trace, fact);
        Ok(())
    }
}
