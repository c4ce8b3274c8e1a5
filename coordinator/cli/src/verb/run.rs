//! Verbs that set a migration going and show it until it rests.

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use std::time::Duration;

use super::{Hand, wrong_state};
use crate::arguments::{Confirmed, Cutover, Extent, Rollback, Verify, Watched};
use crate::exit::{Exit, Stop};
use crate::outcome::{Awaited, outcome, step_to_retry};
use crate::render;
use crate::view::{Migration, MigrationState};

/// Starts, or joins a migration that was started already.
pub(super) async fn start(hand: &Hand, arguments: &Watched) -> Result<Exit, Stop> {
    let seen = hand.coordinator.migration(&arguments.name).await?;
    let mut interrupt = Hand::interrupt()?;
    match seen.state {
        MigrationState::Pending => {
            let accepted = hand.send(&mut interrupt, &seen.name, hand.coordinator.start(&seen)).await?;
            hand.see_through(&mut interrupt, &seen, accepted, Awaited::Ready, arguments.detach).await
        }
        MigrationState::Running => {
            hand.terminal.note(&format!("migration {} was started already\n", seen.name));
            let before = Migration { etag: String::new(), ..seen.clone() };
            hand.see_through(&mut interrupt, &before, seen, Awaited::Ready, arguments.detach).await
        }
        MigrationState::Waiting => {
            hand.terminal.note(&format!("migration {} was started already\n", seen.name));
            hand.conclude(Awaited::Ready, &seen);
            Ok(outcome(Awaited::Ready, &seen))
        }
        MigrationState::Aborting
        | MigrationState::Aborted
        | MigrationState::Succeeded
        | MigrationState::Unrecognised => Err(wrong_state("start", &seen)),
    }
}

pub(super) async fn verify(hand: &Hand, arguments: &Verify) -> Result<Exit, Stop> {
    let mut seen = hand.coordinator.migration(&arguments.name).await?;
    let mut interrupt = Hand::interrupt()?;
    if let Some(max_rate) = arguments.max_rate {
        seen = hand.coordinator.tune(&seen.name, max_rate).await?;
    }
    let accepted = hand.send(&mut interrupt, &seen.name, hand.coordinator.verify(&seen, arguments)).await?;
    hand.see_through(&mut interrupt, &seen, accepted, Awaited::Verified, arguments.detach).await
}

pub(super) async fn retry(hand: &Hand, arguments: &Watched) -> Result<Exit, Stop> {
    let seen = hand.coordinator.migration(&arguments.name).await?;
    let Some(step) = step_to_retry(&seen) else { return Err(wrong_state("retry", &seen)) };
    let mut interrupt = Hand::interrupt()?;
    let accepted = hand.send(&mut interrupt, &seen.name, hand.coordinator.retry(&seen, step)).await?;
    hand.see_through(&mut interrupt, &seen, accepted, Awaited::Resolved, arguments.detach).await
}

/// Before the operator is asked: the coordinator would refuse in the same words.
fn not_held(seen: &Migration) -> Result<(), Stop> {
    match &seen.held_by {
        Some(held_by) => Err(Failure::new(held_by.reason.parse().unwrap_or(Reason::WrongState), &held_by.message)
            .detail(&held_by.detail)
            .hint(&held_by.hint)
            .effect(Effect::None)
            .into()),
        None => Ok(()),
    }
}

pub(super) async fn cutover(hand: &Hand, arguments: &Cutover) -> Result<Exit, Stop> {
    let Cutover { max_outage, compare, yes, detach, .. } = *arguments;
    let seen = hand.coordinator.migration(&arguments.name).await?;
    not_held(&seen)?;
    if !seen.ready_for_cutover {
        return Err(wrong_state("cutover", &seen));
    }
    let plan = Rehearsed { rollback: false, rounds: arguments.rehearsal.rounds, max_outage, compare, yes, detach };
    let seen = match Box::pin(rehearse(hand, seen, arguments.rehearsal.extent(), plan)).await? {
        Course::Over(exit) => return Ok(exit),
        Course::On(seen) => seen,
    };
    let keeps_way_back = !arguments.no_way_back;
    let what = render::before_cutover(&seen, max_outage, compare, keeps_way_back, hand.terminal.err);
    hand.terminal.confirm(&what, "cutover", yes)?;
    let mut interrupt = Hand::interrupt()?;
    let call = hand.coordinator.cut_over(&seen, max_outage, compare, keeps_way_back);
    let accepted = hand.send_switch(&mut interrupt, &seen.name, call).await?;
    hand.see_through(&mut interrupt, &seen, accepted, Awaited::CutOver, detach).await
}

pub(super) async fn rollback(hand: &Hand, arguments: &Rollback) -> Result<Exit, Stop> {
    let Rollback { max_outage, compare, yes, detach, .. } = *arguments;
    let seen = hand.coordinator.migration(&arguments.name).await?;
    not_held(&seen)?;
    // Also over a verification that is under way or has found something.
    if !seen.ready_for_finish && !offers(&seen, "rollback") {
        return Err(wrong_state("rollback", &seen));
    }
    let plan = Rehearsed { rollback: true, rounds: arguments.rehearsal.rounds, max_outage, compare, yes, detach };
    let seen = match Box::pin(rehearse(hand, seen, arguments.rehearsal.extent(), plan)).await? {
        Course::Over(exit) => return Ok(exit),
        Course::On(seen) => seen,
    };
    let what = render::before_rollback(&seen, max_outage, compare, hand.terminal.err);
    hand.terminal.confirm(&what, "rollback", yes)?;
    let mut interrupt = Hand::interrupt()?;
    let call = hand.coordinator.roll_back(&seen, max_outage, arguments.without_pooler, compare);
    let accepted = hand.send_switch(&mut interrupt, &seen.name, call).await?;
    hand.see_through(&mut interrupt, &seen, accepted, Awaited::RolledBack, detach).await
}

struct Rehearsed {
    rollback: bool,
    rounds: Option<u32>,
    max_outage: Option<Duration>,
    compare: Option<Duration>,
    yes: bool,
    detach: bool,
}

/// Whether a verb goes on after a rehearsal.
enum Course {
    /// It does, with the migration as it is after the rehearsal.
    On(Box<Migration>),
    /// It does not: the program ends like this.
    Over(Exit),
}

/// Rehearses a cutover or rollback where the operator asked for that, and says whether to
/// go on with it.
async fn rehearse(hand: &Hand, seen: Migration, extent: Extent, how: Rehearsed) -> Result<Course, Stop> {
    let goes_on = match extent {
        Extent::Whole => return Ok(Course::On(Box::new(seen))),
        Extent::Rehearsal => false,
        Extent::RehearsalFirst => true,
    };
    let Rehearsed { rollback, rounds, max_outage, compare, yes, detach } = how;
    let what = render::before_rehearsal(&seen, rollback, rounds, max_outage, compare, hand.terminal.err);
    hand.terminal.confirm(&what, "a rehearsal", yes)?;
    let mut interrupt = Hand::interrupt()?;
    let call = hand.coordinator.rehearse(&seen, rollback, rounds, max_outage, compare);
    let accepted = hand.send_switch(&mut interrupt, &seen.name, call).await?;
    if !goes_on {
        let exit = hand.see_through(&mut interrupt, &seen, accepted, Awaited::Rehearsed, detach).await?;
        return Ok(Course::Over(exit));
    }
    let rehearsed = hand.see(&mut interrupt, &seen, accepted).await?;
    match outcome(Awaited::Rehearsed, &rehearsed) {
        Exit::Done => {
            if let Some(report) = &rehearsed.rehearsal {
                hand.terminal.note(&render::rehearsal(report, hand.terminal.err));
            }
            Ok(Course::On(Box::new(rehearsed)))
        }
        exit @ (Exit::NotMet | Exit::Usage | Exit::Waiting | Exit::OverBudget) => {
            hand.conclude(Awaited::Rehearsed, &rehearsed);
            Ok(Course::Over(exit))
        }
    }
}

/// Whether the coordinator names this verb among those that may be typed next.
fn offers(seen: &Migration, verb: &str) -> bool {
    seen.next_commands
        .iter()
        .any(|command| command.strip_prefix("pgportage ").is_some_and(|typed| typed.starts_with(&format!("{verb} "))))
}

pub(super) async fn finish(hand: &Hand, arguments: &Confirmed) -> Result<Exit, Stop> {
    let seen = hand.coordinator.migration(&arguments.name).await?;
    // Also where nothing but the way back could not be made to run.
    if !seen.ready_for_finish && !offers(&seen, "finish") {
        return Err(wrong_state("finish", &seen));
    }
    hand.terminal.confirm(&render::before_finish(&seen, hand.terminal.err), "finish", arguments.yes)?;
    let mut interrupt = Hand::interrupt()?;
    let accepted = hand.send(&mut interrupt, &seen.name, hand.coordinator.finish(&seen)).await?;
    hand.see_through(&mut interrupt, &seen, accepted, Awaited::Finished, arguments.detach).await
}

pub(super) async fn abort(hand: &Hand, arguments: &Confirmed) -> Result<Exit, Stop> {
    let seen = hand.coordinator.migration(&arguments.name).await?;
    if render::over(&seen) {
        return Err(wrong_state("abort", &seen));
    }
    hand.terminal.confirm(&render::before_abort(&seen, hand.terminal.err), "abort", arguments.yes)?;
    // A migration that runs changes between the question and the answer; giving
    // up is right on any picture of it, so no etag is sent.
    let any = Migration { etag: String::new(), ..seen.clone() };
    let mut interrupt = Hand::interrupt()?;
    let accepted = hand.send(&mut interrupt, &seen.name, hand.coordinator.abort(&any)).await?;
    hand.see_through(&mut interrupt, &seen, accepted, Awaited::Aborted, arguments.detach).await
}
