//! The operator's verbs: which are allowed where, and which fact each becomes.

use std::time::Duration;

use pgportage_link::{Failure, Remedy};
use pgportage_proto::Reason;

use super::act::Inventory;
use super::depth::Look;
use super::fact::{Event, TraceContext};
use super::finding::Consent;
use super::rehearsal::MOST_ROUNDS;
use super::spec::Rate;
use super::state::{Phase, State};
use super::{Hold, StepName};
use crate::message::{invalid, refusal};

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
        Request::Survey { source, destination } => match state.phase == Phase::Pending {
            true => Ok(Event::Surveyed { source, destination }),
            false => Err(wrong(format!("migration {id} was started before"))),
        },
        Request::Start => match state.phase == Phase::Pending {
            true => Ok(Event::Started { trace }),
            false => Err(wrong(format!("migration {id} was started before"))
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
        Request::Verify(look) => {
            if let Phase::Stopped { step, .. } = &state.phase
                && step.is_verification()
            {
                retry(state, *step, trace.clone())?;
            } else if state.phase == (Phase::Held { step: StepName::Finish }) {
                must_have_way_back(state)?;
            } else if state.phase != (Phase::Held { step: StepName::Cutover }) {
                return Err(not_yet(state, "verified"));
            }
            Ok(Event::VerificationRequested { depth: state.depth.next(&look, state.sequence + 1), trace })
        }
        Request::CutOver { max_outage, without_way_back, compare_limit } => {
            if state.phase != (Phase::Held { step: StepName::Cutover }) {
                return Err(not_yet(state, "cut over"));
            }
            check_budget(max_outage, compare_limit)?;
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
            check_budget(max_outage, compare_limit)?;
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
            check_budget(max_outage, compare_limit)?;
            if !(1..=MOST_ROUNDS).contains(&round_count) {
                return Err(invalid("round_count", format!("round_count must be from 1 to {MOST_ROUNDS}")));
            }
            let cutover_epoch = state.next_cutover_epoch();
            Ok(Event::RehearsalRequested { step, cutover_epoch, max_outage, round_count, compare_limit, trace })
        }
        Request::Finish if state.may_finish() => Ok(Event::FinishRequested { trace }),
        Request::Finish => Err(not_yet(state, "finished")),
        Request::Release { step, max_outage } => {
            // Both a rollback and the end may follow a cutover; the migration is held
            // before the last one.
            let held = state.phase == Phase::Held { step: step.held_at() };
            let request = match step.row().hold.filter(|_| held) {
                Some(Hold::Cutover) => Request::CutOver { max_outage, without_way_back: false, compare_limit: None },
                Some(Hold::Rollback) => Request::RollBack { max_outage, without_poolers: false, compare_limit: None },
                Some(Hold::Finish) => Request::Finish,
                None => return retry(state, step, trace),
            };
            apply(state, request, trace)
        }
        Request::Abort => abort(state, trace),
    }
}

fn retry(state: &State, step: StepName, trace: TraceContext) -> Result<Event, Failure> {
    let id = &state.id;
    let waits = match &state.phase {
        Phase::Stopped { step: stopped, failure } if *stopped == step && state.only_abort_helps(failure) => {
            return Err(wrong(format!("no retry can help step {step}: {failure}"))
                .hint(format!("Take the migration back with `pgportage abort {id}`.")));
        }
        Phase::Stopped { step: known, .. } | Phase::Running { step: known } | Phase::TakingBack { step: known, .. } => {
            *known == step
        }
        Phase::Aborting { .. } => true,
        Phase::Pending | Phase::Held { .. } | Phase::Aborted | Phase::Succeeded => false,
    };
    if waits {
        return Ok(Event::RetryRequested { step, trace });
    }
    Err(wrong(format!("step {step} waits for nobody: migration {id} is {}", describe(&state.phase))))
}

fn abort(state: &State, trace: TraceContext) -> Result<Event, Failure> {
    let id = &state.id;
    if state.opened() {
        let hint = if state.way_back {
            format!("Return with `pgportage rollback {id}`, or end it with `pgportage finish {id}`.")
        } else {
            format!("End it with `pgportage finish {id}`.")
        };
        return Err(refusal(Reason::DestinationOpened, format!("migration {id} is past its point of no return"))
            .detail("The destination is open and takes writes.")
            .hint(hint));
    }
    if state.in_doubt() {
        return Err(refusal(Reason::CutoverInDoubt, "nobody knows yet whether the other side has opened")
            .detail("It was asked to open and has not answered. It is asked until it does.")
            .hint("Bring its agent back; then look at the status again."));
    }
    if state.rolling_back() {
        return Err(wrong(format!("migration {id} is rolling back, and the source has opened"))
            .hint("Wait until the rollback is done; then it can be aborted."));
    }
    if matches!(state.phase, Phase::Aborting { .. }) {
        return Err(wrong(format!("migration {id} is being aborted")));
    }
    Ok(Event::AbortRequested { trace })
}

/// What is compared is waited for: it is a part of the outage.
fn check_budget(max_outage: Duration, compare_limit: Option<Duration>) -> Result<(), Failure> {
    if max_outage.is_zero() || max_outage > LONGEST_OUTAGE {
        let most = LONGEST_OUTAGE.as_secs();
        return Err(invalid("max_outage", format!("max_outage must be above 0 and at most {most} s")));
    }
    if compare_limit.is_some_and(|limit| limit.is_zero() || limit > max_outage) {
        return Err(invalid("compare_limit", "compare_limit must be above 0 and at most max_outage"));
    }
    Ok(())
}

fn must_have_way_back(state: &State) -> Result<(), Failure> {
    let id = &state.id;
    if state.way_back {
        return Ok(());
    }
    Err(refusal(Reason::WayBackLost, format!("migration {id} has no way back"))
        .detail("It was created or cut over without one: the source has none of what was written since.")
        .hint(format!("End it with `pgportage finish {id}`."))
        .remedy(Remedy::Operator))
}

fn wrong(message: String) -> Failure {
    refusal(Reason::WrongState, message)
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
