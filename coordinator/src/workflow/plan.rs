//! What to do next. Pure: the same state and situation give the same actions.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;

use super::backoff::pause;
use super::fact::{CommandId, Event};
use super::input::Input;
use super::judge::{self, Comparison};
use super::outcome::{Barrier, Fence, Outcome, RowCounts};
use super::scrutiny::Scrutiny;
use super::spec::{CopyMethod, Spec};
use super::state::{Act, ActState, Phase, State, Trial};
use super::{ActKind, ActRef, Order, Side, StepName, TABLE, Undo, Verb, WayBack};

/// How long the lag must stay under its limit before a migration is ready: for a
/// beat or two. Whatever needs a low lag later looks at it again.
const STABLE_WINDOW: Duration = Duration::from_millis(250);
/// The same before rows are counted: for two beats at least, so that a break is
/// noticed.
const LEVEL_WINDOW: Duration = Duration::from_millis(500);

/// What the engine knows from its clock and its settings.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// What is left of the budget of the cutover under way. Zero when nobody
    /// knows when the outage began: after a restart of the coordinator.
    pub outage_left: Duration,
    /// How long an agent may work without progress.
    pub stall_timeout: Duration,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Record a fact, then plan again.
    Record(Event),
    /// Store a command, then send it.
    Issue(Issue),
    /// Ask an agent to stop a command. May be said more than once.
    Cancel(CommandId),
}

/// A command to be issued, all but its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Issue {
    /// Which act.
    pub act: ActRef,
    /// There or back.
    pub verb: Verb,
    /// Its number among the attempts at this act.
    pub attempt: u32,
    /// What the act is given.
    pub input: Input,
    /// How long the agent may work without progress.
    pub stall_timeout: Duration,
    /// How long to wait first, from the fact that made it necessary.
    pub after: Duration,
}

/// What to do next in this state. Empty: wait for an answer, for the operator,
/// or for ever.
#[must_use]
pub fn plan(state: &State, situation: &Situation) -> Vec<Action> {
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
    let is_aside = |index: &usize| rows[*index].order == Order::Aside;
    let aside = (0..rows.len()).filter(|index| is_aside(index) && state.released()).filter(left);
    let mut first = 0;
    while first < rows.len() {
        // The acts from `first` up to `end` are carried out at the same time.
        let end = (first + 1..rows.len()).find(|&next| rows[next].order != Order::WithPrevious).unwrap_or(rows.len());
        let mut group = (first..end).filter(|index| !is_aside(index)).filter(left).peekable();
        if group.peek().is_some() {
            return group.chain(aside).filter_map(carry_out).collect();
        }
        first = end;
    }
    let mut aside = aside.peekable();
    if aside.peek().is_some() {
        return aside.filter_map(carry_out).collect();
    }
    vec![Action::Record(conclude(state, step))]
}

fn perform(state: &State, act: ActRef, entry: &Act, situation: &Situation) -> Option<Action> {
    match &entry.state {
        ActState::Idle | ActState::Failed { .. } => {}
        ActState::Performing { .. }
        | ActState::Performed
        | ActState::Undoing { .. }
        | ActState::UndoFailed { .. }
        | ActState::Undone => return None,
    }
    Some(Action::Issue(Issue {
        act,
        verb: Verb::Perform,
        attempt: entry.attempts + 1,
        input: input(state, act, situation)?,
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
            match &entry.state {
                ActState::Performing { command } => actions.push(Action::Cancel(*command)),
                ActState::Idle
                | ActState::Undoing { .. }
                | ActState::Failed { .. }
                | ActState::Performed
                | ActState::UndoFailed { .. }
                | ActState::Undone => actions.extend(undo(state, act, entry, situation)),
            }
        }
        return actions;
    }
    vec![Action::Record(end)]
}

fn undo(state: &State, act: ActRef, entry: &Act, situation: &Situation) -> Option<Action> {
    let row = act.row()?;
    let due = entry.command().is_none() && entry.unsettled(row.undo) && !held_up(state, act);
    // A failed undo that only a person can mend waits for the person.
    let stuck =
        matches!(&entry.state, ActState::UndoFailed { failure } if failure.remedy != Remedy::Wait) && entry.streak > 0;
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
        after: match entry.state {
            ActState::UndoFailed { .. } => pause(entry.streak),
            ActState::Idle
            | ActState::Performing { .. }
            | ActState::Failed { .. }
            | ActState::Performed
            | ActState::Undoing { .. }
            | ActState::Undone => Duration::ZERO,
        },
    }))
}

/// Whether a later act of the same step has to be taken back first.
fn held_up(state: &State, act: ActRef) -> bool {
    let row = act.step.row();
    let side = row.acts[act.index].side;
    row.acts.iter().zip(&state.step(act.step).acts).enumerate().skip(act.index + 1).any(|(_, (later, entry))| {
        let before_this = match row.way_back {
            WayBack::Strict => true,
            WayBack::EachSide => later.side == side || later.undo == Undo::TakeBackFirst,
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
        return Err(Failure::new(
            Reason::OutageBudgetExceeded,
            format!("the outage would exceed its budget of {} ms", max_outage.as_millis()),
        )
        .hint("Try again when the source is quieter, or with a larger --max-outage.")
        .remedy(Remedy::Operator)
        .effect(Effect::None)
        .with("max_outage_ms", max_outage.as_millis()));
    }
    if compare_limit.is_some()
        && let Some(Outcome::DrainToMarker { compared: None, .. }) = performed(state, ActRef::drain(step))
    {
        return Err(Failure::new(Reason::CouldNotCheck, "what was written in the switch was not compared")
            .hint("Run the same release on both agents, or switch without --compare.")
            .effect(Effect::None));
    }
    let (source, destination) = (prepared(state, step, Side::Source), prepared(state, step, Side::Destination));
    if let (Some((source_tables, source_catalog)), Some((tables, catalog))) = (source, destination) {
        if source_tables != tables {
            return Err(drift("the tables published and subscribed are not the same"));
        }
        if source_catalog != catalog {
            return Err(drift("the schemas of the two sides are not the same"));
        }
        if barrier(state, step).is_some_and(|barrier| barrier.catalog_digest != *source_catalog)
            || fence(state, step).is_some_and(|fence| fence.catalog_digest != *source_catalog)
        {
            return Err(drift("the schema changed during the cutover"));
        }
    }
    Ok(())
}

fn drift(message: &str) -> Failure {
    Failure::new(Reason::SchemaDiffers, message)
        .hint("Run verify to see the differences; make the same change on both sides, then cut over again.")
        .effect(Effect::None)
}

fn prepared(state: &State, step: StepName, side: Side) -> Option<(&super::outcome::Digest, &super::outcome::Digest)> {
    let act = ActRef::find(step, side, ActKind::PrepareCutover)?;
    let Outcome::PrepareCutover { table_set_digest, catalog_digest, .. } = performed(state, act)? else { return None };
    Some((table_set_digest, catalog_digest))
}

fn barrier(state: &State, step: StepName) -> Option<&Barrier> {
    let Outcome::RaiseBarrier(barrier) = performed(state, ActRef::raise(step))? else { return None };
    Some(barrier)
}

/// A rehearsal has none.
fn fence(state: &State, step: StepName) -> Option<&Fence> {
    if !step.is_switch() {
        return None;
    }
    let Outcome::FenceSource(fence) = performed(state, ActRef::fence(step))? else { return None };
    Some(fence)
}

/// What an act produced, if it is done.
fn performed(state: &State, act: ActRef) -> Option<&Outcome> {
    let entry = state.act(act);
    if entry.state == ActState::Performed { entry.outcome.as_deref() } else { None }
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

/// What an act is given, made from what earlier acts produced. `None` when that
/// is missing, which the table's order rules out.
fn input(state: &State, act: ActRef, situation: &Situation) -> Option<Input> {
    let Spec { connection_path, max_lag, copy_method, .. } = state.spec;
    let row = act.row()?;
    Some(match row.kind {
        ActKind::CheckServer => Input::CheckServer {
            source: match row.side {
                Side::Source => None,
                Side::Destination => Some(state.source_inventory()?.clone()),
            },
            consents: state.consents.clone(),
            way_back: state.way_back,
        },
        ActKind::CreateReplicationRole => Input::CreateReplicationRole,
        ActKind::ReachPeer => Input::ReachPeer,
        ActKind::SetReplicaIdentity => {
            Input::SetReplicaIdentity { tables: state.source_inventory()?.identity_full_tables.clone() }
        }
        ActKind::CreatePublication => Input::CreatePublication,
        ActKind::CloseDatabase => Input::CloseDatabase,
        ActKind::RestoreSchema => Input::RestoreSchema { copy_method },
        ActKind::CreateSlot => Input::CreateSlot {
            copy_method: match row.side {
                Side::Source => copy_method,
                // The way back copies nothing.
                Side::Destination => CopyMethod::Native,
            },
        },
        ActKind::CopyTables => Input::CopyTables { copy_method },
        ActKind::CreateSubscription => Input::CreateSubscription { connection_path, copy_method },
        ActKind::AwaitCopy => Input::AwaitCopy,
        ActKind::AwaitLag => Input::AwaitLag {
            max_lag,
            stable_window: if act.step.is_verification() { LEVEL_WINDOW } else { STABLE_WINDOW },
        },
        ActKind::CreateWayBack => Input::CreateWayBack,
        ActKind::KeepStream => Input::KeepStream { cutover_epoch: state.cutover.as_ref()?.epoch },
        ActKind::FollowStream => Input::FollowStream { cutover_epoch: state.cutover.as_ref()?.epoch },
        ActKind::CountRows => Input::CountRows {
            tables: state.verification.as_ref().map(|verified| verified.again.clone()).unwrap_or_default(),
            objects_only: state.scrutiny.is_of_rows(),
            // Before the cutover those of the destination are not in use.
            sequences: act.step == StepName::VerifyBack,
        },
        ActKind::CompareRows => match &state.scrutiny {
            Scrutiny::Rows { comparison_id, time_limit, repair } => {
                Input::CompareRows { comparison_id: *comparison_id, time_limit: *time_limit, repair: *repair }
            }
            Scrutiny::Counts => return None,
        },
        ActKind::PrepareCutover => {
            let trial = state.trial(act.step)?;
            Input::PrepareCutover {
                cutover_epoch: trial.epoch,
                max_outage: trial.max_outage,
                rollback: act.step.rehearsed().unwrap_or(act.step) == StepName::Rollback,
                way_back: state.way_back,
                rehearsal: act.step.is_rehearsal(),
                without_poolers: trial.without_poolers,
                compare_written: trial.compare_limit.is_some(),
            }
        }
        ActKind::RaiseBarrier => {
            let trial = state.trial(act.step)?;
            Input::RaiseBarrier { cutover_epoch: trial.epoch, max_outage: trial.max_outage }
        }
        ActKind::DrainToMarker => {
            let barrier = barrier(state, act.step)?;
            let Trial { epoch, compare_limit, .. } = state.trial(act.step)?;
            Input::DrainToMarker {
                cutover_epoch: epoch,
                marker_id: barrier.marker_id.clone(),
                sequences: barrier.sequences.clone(),
                open_timeout: situation.outage_left,
                catalog_digest: barrier.catalog_digest.clone(),
                compare_limit,
            }
        }
        ActKind::FenceSource => Input::FenceSource {
            cutover_epoch: state.cutover.as_ref()?.epoch,
            marker_id: barrier(state, act.step)?.marker_id.clone(),
        },
        ActKind::OpenDestination => Input::OpenDestination {
            cutover_epoch: state.cutover.as_ref()?.epoch,
            sequences: fence(state, act.step)?.sequences.clone(),
        },
        ActKind::ReleaseBarrier => Input::ReleaseBarrier { cutover_epoch: state.cutover.as_ref()?.epoch },
        ActKind::CertifySwitch => Input::CertifySwitch {
            cutover_epoch: state.cutover.as_ref()?.epoch,
            rollback: act.step == StepName::Rollback,
        },
        ActKind::FinishMigration => Input::FinishMigration {
            identity_full_tables: match row.side {
                // It noted what each table had.
                Side::Source => Vec::new(),
                Side::Destination => state.source_inventory()?.identity_full_tables.clone(),
            },
        },
    })
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
