//! What to do next. Pure: the same state and situation give the same actions.

use std::time::Duration;

use pgportage_link::{Failure, Remedy};
use pgportage_proto::Reason;

use super::act::{Digest, DrainToMarker, Given, Input, PrepareCutover, RowCounts};
use super::backoff::pause;
use super::fact::{CommandId, Event};
use super::judge::{self, Comparison};
use super::state::{Act, ActState, Phase, State, Trial};
use super::{ActKind, ActRef, Order, Side, StepName, TABLE, Undo, UndoOrder, Verb};
use crate::message::refusal;

/// What the engine knows from its clock and its settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    /// What is left of the budget of the cutover under way. Zero when nobody
    /// knows when the outage began: after a restart of the coordinator.
    pub outage_left: Duration,
    /// How long an agent may work without progress.
    pub stall_timeout: Duration,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Record a fact, then plan again.
    Record(Event),
    /// Store a command, then send it.
    Issue(Issue),
    /// Ask an agent to stop a command. May be said more than once.
    Cancel(CommandId),
}

/// A command to be issued, all but its id.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Issue {
    pub act: ActRef,
    /// There or back.
    pub verb: Verb,
    /// Its number among the attempts at this act.
    pub attempt: u32,
    pub input: Input,
    /// How long the agent may work without progress.
    pub stall_timeout: Duration,
    /// How long to wait first, from the fact that made it necessary.
    pub after: Duration,
}

/// What to do next in this state. Empty: wait for an answer, for the operator,
/// or for ever.
pub(crate) fn plan(state: &State, situation: &Situation) -> Vec<Action> {
    match &state.phase {
        Phase::Pending | Phase::Held { .. } | Phase::Stopped { .. } | Phase::Aborted | Phase::Succeeded => Vec::new(),
        Phase::Running { step } => match superseded(state, *step) {
            cancelled if cancelled.is_empty() => forward(state, *step, situation),
            cancelled => cancelled,
        },
        Phase::TakingBack { step, .. } => {
            let end = if step.is_rehearsal() { Event::RoundTakenBack } else { Event::CutoverTakenBack };
            back(state, &[*step], situation, end)
        }
        Phase::Aborting { .. } => {
            let steps: Vec<_> = TABLE.iter().map(|row| row.name).collect();
            back(state, &steps, situation, Event::Aborted)
        }
    }
}

/// Stops a verification behind a cutover that the operator's word has overtaken. What
/// follows waits until it has stopped.
fn superseded(state: &State, step: StepName) -> Vec<Action> {
    let overtaken = |(act, _): &(ActRef, &Act)| act.step == StepName::VerifyBack && act.step != step;
    state.acts().filter(overtaken).filter_map(|(_, act)| act.command()).map(Action::Cancel).collect()
}

/// Carries a step out.
fn forward(state: &State, step: StepName, situation: &Situation) -> Vec<Action> {
    let may_be_given_up = step.is_rehearsal() || step.is_switch() && !state.past_decision();
    if may_be_given_up && let Err(failure) = may_go_on(state, step, situation) {
        return vec![Action::Record(Event::CutoverGivenUp { failure })];
    }
    let rows = step.row().acts;
    let left = |index: &usize| {
        let act = ActRef { step, index: *index };
        state.due(act) && !state.over(act)
    };
    let carry_out = |index: usize| {
        let act = ActRef { step, index };
        perform(state, act, state.act(act), situation)
    };
    let is_detached = |index: &usize| rows[*index].order == Order::Detached;
    let detached = (0..rows.len()).filter(|index| is_detached(index) && state.released()).filter(left);
    let mut first = 0;
    while first < rows.len() {
        // The acts from `first` up to `end` are carried out at the same time.
        let end = (first + 1..rows.len()).find(|&next| rows[next].order != Order::WithPrevious).unwrap_or(rows.len());
        let mut group = (first..end).filter(|index| !is_detached(index)).filter(left).peekable();
        if group.peek().is_some() {
            return group.chain(detached).filter_map(carry_out).collect();
        }
        first = end;
    }
    let mut detached = detached.peekable();
    if detached.peek().is_some() {
        return detached.filter_map(carry_out).collect();
    }
    vec![Action::Record(conclude(state, step))]
}

fn perform(state: &State, act: ActRef, entry: &Act, situation: &Situation) -> Option<Action> {
    if !matches!(entry.state, ActState::Idle | ActState::Failed { .. }) {
        return None;
    }
    Some(Action::Issue(Issue {
        act,
        verb: Verb::Perform,
        attempt: entry.attempts + 1,
        input: (act.row()?.act.input)(&given(state, act, situation)?)?,
        stall_timeout: stall_timeout(state, act, situation),
        after: pause(entry.streak),
    }))
}

/// Takes steps back, the last one first; records `end` when nothing is left.
fn back(state: &State, steps: &[StepName], situation: &Situation, end: Event) -> Vec<Action> {
    for step in steps.iter().rev() {
        let row = step.row();
        let acts = &state.step(*step).acts;
        if !row.acts.iter().zip(acts).any(|(row, act)| act.unsettled(row.undo)) {
            continue;
        }
        let mut actions = Vec::new();
        for (index, entry) in acts.iter().enumerate().rev() {
            let act = ActRef { step: *step, index };
            if let ActState::Performing { command } = entry.state {
                actions.push(Action::Cancel(command));
            } else {
                actions.extend(undo(state, act, entry, situation));
            }
        }
        return actions;
    }
    vec![Action::Record(end)]
}

fn undo(state: &State, act: ActRef, entry: &Act, situation: &Situation) -> Option<Action> {
    let row = act.row()?;
    let due = entry.command().is_none() && entry.unsettled(row.undo) && !held_up(state, act);
    let failed = entry.failure().filter(|_| matches!(entry.state, ActState::UndoFailed { .. }));
    // A failed undo that only a person can mend waits for the person.
    let stuck = failed.is_some_and(|failure| failure.remedy != Remedy::Wait) && entry.streak > 0;
    if !due || stuck {
        return None;
    }
    Some(Action::Issue(Issue {
        act,
        verb: Verb::Undo,
        attempt: entry.attempts + 1,
        // It was touched, hence issued, hence given something.
        input: entry.input.as_deref()?.clone(),
        stall_timeout: stall_timeout(state, act, situation),
        after: if failed.is_some() { pause(entry.streak) } else { Duration::ZERO },
    }))
}

/// Whether a later act of the same step has to be taken back first.
fn held_up(state: &State, act: ActRef) -> bool {
    let row = act.step.row();
    let side = row.acts[act.index].side;
    row.acts.iter().zip(&state.step(act.step).acts).enumerate().skip(act.index + 1).any(|(_, (later, entry))| {
        let before_this = match row.undo_order {
            UndoOrder::Strict => true,
            UndoOrder::EachSide => later.side == side || later.undo == Undo::TakeBackFirst,
        };
        before_this && entry.unsettled(later.undo)
    })
}

/// From the barrier to the decision the budget is the limit, everywhere else
/// the setting.
fn stall_timeout(state: &State, act: ActRef, situation: &Situation) -> Duration {
    let step = act.step;
    let last = if step.is_rehearsal() { ActRef::drain(step) } else { ActRef::fence(step) };
    let waited_for = step.keeps_writers_waiting() && (ActRef::raise(step)..=last).contains(&act);
    match state.trial(step) {
        Some(trial) if waited_for => trial.max_outage.max(Duration::from_secs(1)),
        Some(_) | None => situation.stall_timeout,
    }
}

/// Whether a cutover, or a round of a rehearsal, may go on to its next act.
fn may_go_on(state: &State, step: StepName, situation: &Situation) -> Result<(), Failure> {
    let Some(Trial { max_outage, compare_limit, .. }) = state.trial(step) else { return Ok(()) };
    let begun = state.act(ActRef::raise(step)).state != ActState::Idle;
    if begun && situation.outage_left.is_zero() {
        return Err(refusal(
            Reason::OutageBudgetExceeded,
            format!("the outage would exceed its budget of {} ms", max_outage.as_millis()),
        )
        .hint("Try again when the source is quieter, or with a larger --max-outage.")
        .remedy(Remedy::Operator)
        .with("max_outage_ms", max_outage.as_millis()));
    }
    if compare_limit.is_some()
        && let Some(drained) = state.produced(ActRef::drain(step))
        && drained.read::<DrainToMarker>().is_some_and(|drained| drained.compared.is_none())
    {
        return Err(refusal(Reason::CouldNotCheck, "what was written in the switch was not compared")
            .hint("Run the same release on both agents, or switch without --compare."));
    }
    let (source, destination) = (prepared(state, step, Side::Source), prepared(state, step, Side::Destination));
    if let (Some((source_tables, source_catalog)), Some((tables, catalog))) = (source, destination) {
        if source_tables != tables {
            return Err(drift("the tables published and subscribed are not the same"));
        }
        if source_catalog != catalog {
            return Err(drift("the schemas of the two sides are not the same"));
        }
        if state.barrier(step).is_some_and(|barrier| barrier.catalog_digest != *source_catalog)
            || state.fence(step).is_some_and(|fence| fence.catalog_digest != *source_catalog)
        {
            return Err(drift("the schema changed during the cutover"));
        }
    }
    Ok(())
}

fn drift(message: &str) -> Failure {
    refusal(Reason::SchemaDiffers, message)
        .hint("Run verify to see the differences; make the same change on both sides, then cut over again.")
}

fn prepared(state: &State, step: StepName, side: Side) -> Option<(&Digest, &Digest)> {
    let act = ActRef::find(step, side, ActKind::PrepareCutover)?;
    let prepared = state.produced(act)?.read::<PrepareCutover>()?;
    Some((&prepared.table_set_digest, &prepared.catalog_digest))
}

/// What the state has for the input of an act.
fn given<'a>(state: &'a State, act: ActRef, situation: &Situation) -> Option<Given<'a>> {
    let step = act.step;
    Some(Given {
        spec: &state.spec,
        consents: &state.consents,
        reverse: state.way_back,
        side: act.row()?.side,
        source: state.source_inventory(),
        verification: step.is_verification(),
        behind_the_cutover: step == StepName::VerifyBack,
        rollback: step.rehearsed().unwrap_or(step) == StepName::Rollback,
        rehearsal: step.is_rehearsal(),
        depth: &state.depth,
        again: state.verification.as_ref().map(|verified| verified.again.as_slice()).unwrap_or_default(),
        trial: state.trial(step),
        cutover_epoch: state.cutover.as_ref().map(|cutover| cutover.epoch),
        barrier: step.keeps_writers_waiting().then(|| state.produced(ActRef::raise(step))).flatten(),
        fence: step.is_switch().then(|| state.produced(ActRef::fence(step))).flatten(),
        outage_left: situation.outage_left,
    })
}

/// The fact that ends a step whose acts are all done.
fn conclude(state: &State, step: StepName) -> Event {
    let good = Event::StepSucceeded { step, verification: None };
    match step {
        StepName::Inspect => {
            let findings: Vec<_> =
                state.findings(Side::Source).iter().chain(state.findings(Side::Destination)).collect();
            match judge::inspection(&findings, &state.consents) {
                Ok(()) => good,
                Err(failure) => Event::StepFailed { step, failure, verification: None },
            }
        }
        StepName::Verify | StepName::VerifyBack => {
            let nothing = RowCounts::default();
            let counted = |index| state.counted(ActRef { step, index }).unwrap_or(&nothing);
            let counts = judge::Counts {
                publisher: step.row().acts[0].side,
                before: counted(1),
                there: counted(2),
                after: counted(3),
            };
            let so_far = state.verification.as_ref().map(|verified| &verified.found);
            match judge::verification(counts, state.compared(step), so_far) {
                Comparison::Equal(found) => Event::StepSucceeded { step, verification: Some(Box::new(found)) },
                Comparison::Again(tables, found) => {
                    Event::VerificationRepeated { tables, verification: Box::new(found) }
                }
                Comparison::Differs(failure, found) => {
                    Event::StepFailed { step, failure, verification: Some(Box::new(found)) }
                }
            }
        }
        StepName::CutoverRehearsal | StepName::RollbackRehearsal => Event::RoundRehearsed,
        StepName::Connect
        | StepName::Identity
        | StepName::Publication
        | StepName::Close
        | StepName::Schema
        | StepName::Copy
        | StepName::Subscribe
        | StepName::CatchUp
        | StepName::Reverse
        | StepName::Cutover
        | StepName::Rollback
        | StepName::Finish => good,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod certificate_tests;

#[cfg(test)]
#[path = "rollback_tests.rs"]
mod rollback_tests;

#[cfg(test)]
#[path = "rehearsal_tests.rs"]
mod rehearsal_tests;

#[cfg(test)]
#[path = "verification_tests.rs"]
mod verification_tests;
