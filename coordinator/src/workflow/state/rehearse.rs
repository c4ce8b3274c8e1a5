//! The part of the transition function that is about rehearsals: how rounds begin and
//! end, and what is kept of them.

use std::time::Duration;

use pgportage_proto::Reason;

use super::super::act::Outcome;
use super::super::fact::Fact;
use super::super::rehearsal::{MOST_ROUNDS, Rehearsal, RehearsalEnd, Round};
use super::super::{ActRef, StepName};
use super::transition::Applied;
use super::{Phase, State};
use crate::message::refusal;

impl State {
    pub(super) fn rehearsal_requested(&mut self, rehearsal: Rehearsal) -> Applied {
        let Rehearsal { step, epoch, round_count, .. } = rehearsal;
        self.must(step.is_rehearsal(), "this is no rehearsal")?;
        let held = self.phase == Phase::Held { step: step.held_at() };
        self.must(held, "the migration does not wait for what is rehearsed")?;
        self.must(step == StepName::CutoverRehearsal || self.way_back, "it has no way back")?;
        self.must(epoch >= self.next_cutover_epoch(), "its number is not new")?;
        self.must((1..=MOST_ROUNDS).contains(&round_count), "it has too few or too many rounds")?;
        self.rehearsal = Some(rehearsal);
        self.count_anew(step);
        self.begin(step);
        Ok(())
    }

    /// Every act of the round is done: nothing follows but taking it back.
    pub(super) fn round_rehearsed(&mut self) -> Applied {
        let Phase::Running { step } = self.phase else { return Err("nothing is rehearsed") };
        self.must(step.is_rehearsal(), "nothing is rehearsed")?;
        self.must(self.all_performed(step), "an act of the round is not done")?;
        self.phase = Phase::TakingBack { step, cause: None, stop: None };
        Ok(())
    }

    /// Writers write again: the next round, or the end.
    pub(super) fn round_taken_back(&mut self, fact: &Fact) -> Applied {
        let Phase::TakingBack { step, cause, .. } = &self.phase else { return Err("no round is being taken back") };
        let (step, cause) = (*step, cause.clone());
        self.must(step.is_rehearsal(), "no round is being taken back")?;
        self.must(self.settled(step), "something is left of the round")?;
        let epoch = self.next_cutover_epoch();
        let rehearsal = self.rehearsal.as_mut().ok_or("nothing is rehearsed")?;
        rehearsal.time = fact.time;
        match cause {
            Some(cause) => rehearsal.end = Some(RehearsalEnd::GivenUp { cause }),
            None => {
                let round = std::mem::take(&mut rehearsal.round);
                // Another one is made for a round that a restart left without its time.
                rehearsal.rounds.extend(Some(round).filter(Round::is_measured));
                if u32::try_from(rehearsal.rounds.len()).unwrap_or(u32::MAX) < rehearsal.round_count {
                    rehearsal.epoch = epoch;
                    self.begin(step);
                    return Ok(());
                }
                rehearsal.end = Some(RehearsalEnd::Done);
            }
        }
        self.steps[step.index()].end_time = Some(fact.time);
        self.phase = Phase::Held { step: step.held_at() };
        Ok(())
    }

    /// Keeps when the preconditions were asked for, and how long they took.
    pub(super) fn note_round(&mut self, act: ActRef, fact: &Fact) {
        let Some(rehearsal) = self.rehearsal.as_mut().filter(|rehearsal| rehearsal.step == act.step) else { return };
        let round = &mut rehearsal.round;
        if act.begins_the_outage() {
            let began = round.prepare_time.and_then(|time| fact.time.duration_since(time).ok());
            round.prepared_in = began.unwrap_or_default();
        } else if act.index > 0 && act < ActRef::raise(act.step) {
            round.prepare_time.get_or_insert(fact.time);
        }
    }

    /// Keeps what an act of the round produced, or that its barrier is gone.
    pub(super) fn learn_of_round(&mut self, act: ActRef, outcome: Option<&Outcome>, outage: Option<Duration>) {
        let Some(rehearsal) = self.rehearsal.as_mut().filter(|rehearsal| rehearsal.step == act.step) else { return };
        match outcome {
            Some(outcome) => rehearsal.round.learn(outcome, outage),
            None if act.begins_the_outage() => rehearsal.round.released_after = outage,
            None => {}
        }
    }

    /// The migration is given up, and with it a rehearsal that goes on.
    pub(super) fn end_rehearsal(&mut self) {
        if let Some(rehearsal) = self.rehearsal.as_mut().filter(|rehearsal| rehearsal.end.is_none()) {
            let cause = refusal(Reason::Cancelled, "the migration was aborted");
            rehearsal.end = Some(RehearsalEnd::GivenUp { cause });
        }
    }
}
