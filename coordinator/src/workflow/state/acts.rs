//! What becomes of an act: issued, heard of, done or not, taken back or not.

use std::sync::Arc;
use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;

use super::super::act::{CertifySwitch, Outcome};
use super::super::fact::{CommandId, Fact, Issued};
use super::super::{ActRef, StepName, Verb};
use super::transition::Applied;
use super::{ActState, Commanded, Phase, State};

impl State {
    pub(super) fn issued(&mut self, issued: &Issued, fact: &Fact) -> Applied {
        let row = issued.act.row().ok_or("there is no such act")?;
        self.must((row.act.send)(&issued.input).is_some(), "the input is of another kind")?;
        self.must(!self.commands.contains_key(&issued.command), "the command was issued before")?;
        let act = self.act(issued.act);
        self.must(issued.attempt == act.attempts + 1, "the attempt has the wrong number")?;
        match issued.verb {
            Verb::Perform => {
                self.must(self.phase == Phase::Running { step: issued.act.step }, "the step is not running")?;
                self.must(
                    matches!(act.state, ActState::Idle | ActState::Failed { .. }),
                    "the act is under way or done",
                )?;
            }
            Verb::Undo => {
                let back = match &self.phase {
                    Phase::Aborting { .. } => !self.past_return(),
                    Phase::TakingBack { step, .. } => {
                        issued.act.step == *step && (step.is_rehearsal() || !self.past_decision())
                    }
                    Phase::Pending
                    | Phase::Running { .. }
                    | Phase::Held { .. }
                    | Phase::Stopped { .. }
                    | Phase::Aborted
                    | Phase::Succeeded => false,
                };
                self.must(back, "nothing is being taken back, or it is too late for that")?;
                self.must(act.command().is_none() && act.unsettled(row.undo), "there is nothing to take back")?;
            }
        }
        let act = self.act_mut(issued.act);
        act.attempts = issued.attempt;
        match issued.verb {
            Verb::Perform => {
                act.state = ActState::Performing { command: issued.command };
                act.input = Some(Arc::new(issued.input.clone()));
            }
            Verb::Undo => act.state = ActState::Undoing { command: issued.command },
        }
        if issued.verb == Verb::Perform {
            if issued.act.step.is_rehearsal() {
                self.note_round(issued.act, fact);
            } else if issued.act.begins_the_outage()
                && let Some(cutover) = &mut self.cutover
            {
                cutover.outage_start_time = Some(fact.time);
            }
        }
        self.steps[issued.act.step.index()].start_time.get_or_insert(fact.time);
        self.commands
            .insert(issued.command, Commanded { issued: Arc::new(issued.clone()), last_sequence: 0, answered: false });
        Ok(())
    }

    /// Counts an agent's fact. Final ones answer the command.
    pub(super) fn heard(
        &mut self,
        command: CommandId,
        sequence: i64,
        answers: bool,
    ) -> Result<(ActRef, Verb), &'static str> {
        let known = self.commands.get_mut(&command).ok_or("the command was not issued")?;
        if known.answered {
            return Err("the command was answered before");
        }
        if sequence != known.last_sequence + 1 {
            return Err("a fact of the agent is missing or came twice");
        }
        known.last_sequence = sequence;
        known.answered = answers;
        Ok((known.issued.act, known.issued.verb))
    }

    pub(super) fn performed(&mut self, act: ActRef, outcome: Arc<Outcome>, outage: Option<Duration>) {
        if act.is_decision()
            && let Some(row) = act.row()
        {
            self.writable = row.side;
            self.begin_certificate();
        }
        if act.step.is_rehearsal() {
            self.learn_of_round(act, Some(&outcome), outage);
        } else if let Some(cutover) = &mut self.cutover {
            cutover.learn(&outcome, outage);
            self.rest_of_switch = cutover.rest().or(self.rest_of_switch);
        }
        if let (Some(signed), Some(row)) = (outcome.read::<CertifySwitch>(), act.row()) {
            self.certify(row.side, Ok(signed));
        }
        let entry = self.act_mut(act);
        entry.state = ActState::Performed;
        entry.streak = 0;
        entry.touched = true;
        entry.outcome = Some(outcome);
    }

    pub(super) fn undone(&mut self, act: ActRef, fact: &Fact) {
        let entry = self.act_mut(act);
        entry.state = ActState::Undone;
        entry.streak = 0;
        entry.touched = false;
        entry.accepted = false;
        if self.settled(act.step) {
            let step = &mut self.steps[act.step.index()];
            step.succeeded = false;
            step.end_time = Some(fact.time);
        }
    }

    pub(super) fn failed(&mut self, act: ActRef, failure: &Failure) {
        // A verification that was overtaken: nobody waits for it any more.
        if act.step == StepName::VerifyBack && self.phase != (Phase::Running { step: act.step }) {
            self.act_mut(act).state = ActState::Idle;
            return;
        }
        let entry = self.act_mut(act);
        entry.touched |= failure.effect == Effect::Unknown;
        entry.streak += 1;
        entry.state = ActState::Failed { failure: failure.clone() };
        if let Some(row) = act.row().filter(|row| !row.holds_up()) {
            self.certify(row.side, Err(failure));
            return;
        }
        let Phase::Running { step } = self.phase else { return };
        if step.is_rehearsal() || step.is_switch() && !self.decided() {
            self.take_back(step, failure);
        } else if failure.remedy != Remedy::Wait {
            self.phase = Phase::Stopped { step, failure: failure.clone() };
        }
    }

    pub(super) fn undo_failed(&mut self, act: ActRef, failure: &Failure) {
        if act == ActRef::fence(self.switch()) && failure.reason == Reason::DestinationOpened {
            self.go_forward();
            return;
        }
        let entry = self.act_mut(act);
        entry.streak += 1;
        entry.state = ActState::UndoFailed { failure: failure.clone() };
        if failure.remedy != Remedy::Wait
            && let Phase::TakingBack { stop, .. } | Phase::Aborting { stop } = &mut self.phase
        {
            *stop = Some(failure.clone());
        }
    }
}
