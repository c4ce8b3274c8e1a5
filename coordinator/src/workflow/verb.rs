//! The operator's verbs: which are allowed where, and which fact each becomes.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;

use super::act::Inventory;
use super::depth::Look;
use super::fact::{Event, TraceContext};
use super::finding::Consent;
use super::rehearsal::MOST_ROUNDS;
use super::spec::Rate;
use super::state::{Phase, State};
use super::{Hold, StepName};

/// Longest budget an operator may ask for: a mistyped unit must not take a
/// shop offline for a day.
pub(crate) const LONGEST_OUTAGE: Duration = Duration::from_secs(600);

/// Something an operator says about a migration.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Keep what both agents read for the plan.
    Survey {
        source: Box<Inventory>,
        destination: Box<Inventory>,
    },
    Start,
    /// Go on with a held step, or try a failed one again.
    Release {
        step: StepName,
        /// The budget, should the step be the cutover.
        max_outage: Duration,
    },
    Consent(Vec<Consent>),
    /// Read tables faster or slower.
    Tune {
        /// The limit. None: as fast as it goes.
        max_rate: Option<Rate>,
    },
    Verify(Look),
    /// Switch to the destination.
    CutOver {
        max_outage: Duration,
        /// Give the way back up with it.
        without_way_back: bool,
        /// How long of it comparing what is written may take. None: it is not compared.
        compare_limit: Option<Duration>,
    },
    /// Switch back to the source.
    RollBack {
        max_outage: Duration,
        /// Leave out poolers that do not answer.
        without_poolers: bool,
        /// As of a cutover.
        compare_limit: Option<Duration>,
    },
    Rehearse {
        switch: StepName,
        /// The budget of every round.
        max_outage: Duration,
        round_count: u32,
        /// As of a cutover.
        compare_limit: Option<Duration>,
    },
    Finish,
    Abort,
}

/// The fact that an operator's word becomes, in the state it is said in.
pub(crate) fn apply(state: &State, request: Request, trace: TraceContext) -> Result<Event, Failure> {
    let id = &state.id;
    if state.terminal() {
        return Err(wrong(format!("migration {id} is over: {}", describe(&state.phase))));
    }
    match request {
        Request::Survey { source, destination } => match state.phase {
            Phase::Pending => Ok(Event::Surveyed { source, destination }),
            Phase::Running { .. }
            | Phase::Held { .. }
            | Phase::Stopped { .. }
            | Phase::TakingBack { .. }
            | Phase::Aborting { .. }
            | Phase::Aborted
            | Phase::Succeeded => Err(wrong(format!("migration {id} was started before"))),
        },
        Request::Start => match state.phase {
            Phase::Pending => Ok(Event::Started { trace }),
            Phase::Running { .. }
            | Phase::Held { .. }
            | Phase::Stopped { .. }
            | Phase::TakingBack { .. }
            | Phase::Aborting { .. }
            | Phase::Aborted
            | Phase::Succeeded => Err(wrong(format!("migration {id} was started before"))
                .hint(format!("Look at it with `pgportage status {id}`."))),
        },
        Request::Consent(consents) => Ok(Event::ConsentGiven { consents }),
        Request::Tune { max_rate } => {
            if !state.step(StepName::Copy).succeeded {
                state.spec.can_be_limited()?;
            } else if state.past_return() {
                return Err(wrong(format!("migration {id} reads no tables any more: there is nothing to limit"))
                    .hint(format!("Look at it with `pgportage status {id}`.")));
            }
            Ok(Event::Tuned { max_rate })
        }
        Request::Verify(look) => match &state.phase {
            Phase::Stopped { step, .. } if step.is_verification() => {
                retry(state, *step, trace.clone()).map(|_| verify(state, &look, trace))
            }
            Phase::Held { step: StepName::Finish } => {
                must_have_way_back(state)?;
                Ok(verify(state, &look, trace))
            }
            Phase::Held { step: StepName::Cutover } => Ok(verify(state, &look, trace)),
            Phase::Pending
            | Phase::Running { .. }
            | Phase::Held { .. }
            | Phase::Stopped { .. }
            | Phase::TakingBack { .. }
            | Phase::Aborting { .. }
            | Phase::Aborted
            | Phase::Succeeded => Err(not_yet(state, "verified")),
        },
        Request::CutOver { max_outage, without_way_back, compare_limit } => {
            if state.phase != (Phase::Held { step: StepName::Cutover }) {
                return Err(not_yet(state, "cut over"));
            }
            check_outage(max_outage)?;
            check_compare_limit(compare_limit, max_outage)?;
            Ok(Event::CutoverRequested {
                cutover_epoch: state.next_cutover_epoch(),
                max_outage,
                without_way_back,
                compare_limit,
                certified: true,
                trace,
            })
        }
        Request::RollBack { max_outage, without_poolers, compare_limit } => {
            if !state.awaits_last_word() {
                return Err(not_yet(state, "rolled back"));
            }
            must_have_way_back(state)?;
            check_outage(max_outage)?;
            check_compare_limit(compare_limit, max_outage)?;
            let cutover_epoch = state.next_cutover_epoch();
            Ok(Event::RollbackRequested {
                cutover_epoch,
                max_outage,
                without_poolers,
                compare_limit,
                certified: true,
                trace,
            })
        }
        Request::Rehearse { switch, max_outage, round_count, compare_limit } => {
            let Some(step) = switch.rehearsal() else { return Err(wrong(format!("step {switch} is not rehearsed"))) };
            if state.phase != (Phase::Held { step: step.held_at() }) {
                return Err(not_yet(state, "rehearsed"));
            }
            if switch == StepName::Rollback {
                must_have_way_back(state)?;
            }
            check_outage(max_outage)?;
            check_compare_limit(compare_limit, max_outage)?;
            check_rounds(round_count)?;
            let cutover_epoch = state.next_cutover_epoch();
            Ok(Event::RehearsalRequested { step, cutover_epoch, max_outage, round_count, compare_limit, trace })
        }
        Request::Finish => {
            if state.may_finish() {
                Ok(Event::FinishRequested { trace })
            } else {
                Err(not_yet(state, "finished"))
            }
        }
        Request::Release { step, max_outage } => match &state.phase {
            Phase::Held { step: held } if *held == step => match step.row().hold {
                Some(Hold::Cutover) => {
                    let request = Request::CutOver { max_outage, without_way_back: false, compare_limit: None };
                    apply(state, request, trace)
                }
                Some(Hold::Finish) => apply(state, Request::Finish, trace),
                Some(Hold::Rollback) | None => Err(wrong(format!("step {step} is not held"))),
            },
            // Both may follow a cutover; the migration is held before the last one.
            Phase::Held { step: StepName::Finish } if step == StepName::Rollback => {
                apply(state, Request::RollBack { max_outage, without_poolers: false, compare_limit: None }, trace)
            }
            Phase::Pending
            | Phase::Running { .. }
            | Phase::Held { .. }
            | Phase::Stopped { .. }
            | Phase::TakingBack { .. }
            | Phase::Aborting { .. }
            | Phase::Aborted
            | Phase::Succeeded => retry(state, step, trace),
        },
        Request::Abort => abort(state, trace),
    }
}

fn verify(state: &State, look: &Look, trace: TraceContext) -> Event {
    Event::VerificationRequested { depth: state.depth.next(look, state.sequence + 1), trace }
}

fn retry(state: &State, step: StepName, trace: TraceContext) -> Result<Event, Failure> {
    let id = &state.id;
    match &state.phase {
        Phase::Stopped { step: stopped, failure } if *stopped == step => {
            if state.only_abort_helps(failure) {
                return Err(wrong(format!("no retry can help step {step}: {failure}"))
                    .hint(format!("Take the migration back with `pgportage abort {id}`.")));
            }
            Ok(Event::RetryRequested { step, trace })
        }
        Phase::Running { step: running } if *running == step => Ok(Event::RetryRequested { step, trace }),
        Phase::TakingBack { step: back, .. } if step == *back => Ok(Event::RetryRequested { step, trace }),
        Phase::Aborting { .. } => Ok(Event::RetryRequested { step, trace }),
        Phase::Pending
        | Phase::Running { .. }
        | Phase::Held { .. }
        | Phase::Stopped { .. }
        | Phase::TakingBack { .. }
        | Phase::Aborted
        | Phase::Succeeded => {
            Err(wrong(format!("step {step} waits for nobody: migration {id} is {}", describe(&state.phase))))
        }
    }
}

fn abort(state: &State, trace: TraceContext) -> Result<Event, Failure> {
    let id = &state.id;
    if state.opened() {
        let hint = if state.way_back {
            format!("Return with `pgportage rollback {id}`, or end it with `pgportage finish {id}`.")
        } else {
            format!("End it with `pgportage finish {id}`.")
        };
        return Err(Failure::new(Reason::DestinationOpened, format!("migration {id} is past its point of no return"))
            .detail("The destination is open and takes writes.")
            .hint(hint)
            .effect(Effect::None));
    }
    if state.in_doubt() {
        return Err(Failure::new(Reason::CutoverInDoubt, "nobody knows yet whether the other side has opened")
            .detail("It was asked to open and has not answered. It is asked until it does.")
            .hint("Bring its agent back; then look at the status again.")
            .effect(Effect::None));
    }
    if state.rolling_back() {
        return Err(wrong(format!("migration {id} is rolling back, and the source has opened"))
            .hint("Wait until the rollback is done; then it can be aborted."));
    }
    match state.phase {
        Phase::Aborting { .. } => Err(wrong(format!("migration {id} is being aborted"))),
        Phase::Pending
        | Phase::Running { .. }
        | Phase::Held { .. }
        | Phase::Stopped { .. }
        | Phase::TakingBack { .. }
        | Phase::Aborted
        | Phase::Succeeded => Ok(Event::AbortRequested { trace }),
    }
}

fn check_outage(max_outage: Duration) -> Result<(), Failure> {
    if max_outage.is_zero() || max_outage > LONGEST_OUTAGE {
        return Err(Failure::new(
            Reason::RequestInvalid,
            format!("max_outage must be above 0 and at most {} s", LONGEST_OUTAGE.as_secs()),
        )
        .effect(Effect::None)
        .with("field", "max_outage"));
    }
    Ok(())
}

/// What is compared is waited for: it is a part of the outage.
fn check_compare_limit(limit: Option<Duration>, max_outage: Duration) -> Result<(), Failure> {
    match limit {
        Some(limit) if limit.is_zero() || limit > max_outage => {
            Err(Failure::new(Reason::RequestInvalid, "compare_limit must be above 0 and at most max_outage")
                .effect(Effect::None)
                .with("field", "compare_limit"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_rounds(round_count: u32) -> Result<(), Failure> {
    if (1..=MOST_ROUNDS).contains(&round_count) {
        return Ok(());
    }
    Err(Failure::new(Reason::RequestInvalid, format!("round_count must be from 1 to {MOST_ROUNDS}"))
        .effect(Effect::None)
        .with("field", "round_count"))
}

fn must_have_way_back(state: &State) -> Result<(), Failure> {
    let id = &state.id;
    if state.way_back {
        return Ok(());
    }
    Err(Failure::new(Reason::WayBackLost, format!("migration {id} has no way back"))
        .detail("It was created or cut over without one: the source has none of what was written since.")
        .hint(format!("End it with `pgportage finish {id}`."))
        .remedy(Remedy::Operator)
        .effect(Effect::None))
}

fn wrong(message: String) -> Failure {
    Failure::new(Reason::WrongState, message).effect(Effect::None)
}

fn not_yet(state: &State, done: &str) -> Failure {
    wrong(format!("migration {} cannot be {done} now: it is {}", state.id, describe(&state.phase)))
        .hint(format!("Look at it with `pgportage status {}`.", state.id))
}

/// Where a migration stands, as the end of a sentence.
pub(crate) fn describe(phase: &Phase) -> String {
    match phase {
        Phase::Pending => "not started".to_owned(),
        Phase::Running { step } => format!("running step {step}"),
        Phase::Held { step } => format!("waiting for the operator's word before step {step}"),
        Phase::Stopped { step, .. } => format!("stopped in step {step}"),
        Phase::TakingBack { step, .. } if step.is_rehearsal() => "taking a rehearsal back".to_owned(),
        Phase::TakingBack { .. } => "taking a failed switch back".to_owned(),
        Phase::Aborting { .. } => "being aborted".to_owned(),
        Phase::Aborted => "aborted".to_owned(),
        Phase::Succeeded => "succeeded".to_owned(),
    }
}
