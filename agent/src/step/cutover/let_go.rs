//! What waits for the end of a cutover is let go: the clients of poolers, those of the
//! other agent's as well, and hooks that are to be told.
//!
//! Which way follows from what is durable alone, so everybody who learns how a
//! cutover ended may call this, in any order and any number of times: the act
//! that failed, its undo, P7, P6a, the watch over what is left behind, and a
//! timer for the case that nobody does.

use pgportage_data_plane::peer::Resolution;
use pgportage_link::Failure;
use pgportage_migration::Participation;
use pgportage_migration::journal::SETTLED_NOTE;
use pgportage_proto::Side;
use tokio::time::Instant;

use super::announce::tell_the_end;
use super::fence::FENCE_NOTE;
use super::resolve::{noted_epoch, resolve};
use super::sessions::Switches;
use crate::hook;
use crate::policy::HookPoint;
use crate::pooler::{self, Occasion, Onward, Pause, Towards};
use crate::step::Context;

/// Journal note: this side has opened after a rollback, and poolers may lead to the
/// other one.
const LEAD_BACK_NOTE: &str = "pooler.lead_back";

/// Leads the poolers back to this side, which a rollback has opened. What fails is
/// tried again by itself.
pub(super) fn lead_back(cx: &Context) -> Result<(), Failure> {
    if cx.participation.side != Side::Source || cx.policy.poolers(&cx.participation.database).next().is_none() {
        return Ok(());
    }
    cx.journal.set_note(&cx.participation.migration, LEAD_BACK_NOTE, "yes")?;
    let (switches, participation) = (cx.switches.clone(), cx.participation.clone());
    cx.tasks.spawn(async move {
        if let Err(failure) = let_go(&switches, &participation).await {
            tracing::error!(migration.id = %participation.migration, detail = failure.detail, "the poolers do not lead back: {failure}");
        }
    });
    Ok(())
}

/// Notes that no pooler has to be led back to this side: each was seen to lead here.
pub(super) fn poolers_lead_here(switches: &Switches, participation: &Participation) -> Result<(), Failure> {
    switches.journal.clear_note(&participation.migration, LEAD_BACK_NOTE)
}

/// Lets clients and hooks go where the journal says. In doubt nobody goes
/// anywhere. The sessions of the cutover must be gone, or past its decision.
///
/// # Errors
///
/// Those of [`pooler::Poolers::let_on`]: some clients wait on, and this can be
/// called again.
pub(super) async fn let_go(switches: &Switches, participation: &Participation) -> Result<(), Failure> {
    let migration = &participation.migration;
    // Nobody else waits for a pooler that does not answer.
    let led_back = match switches.journal.note(migration, LEAD_BACK_NOTE)? {
        Some(_yes) => lead_back_now(switches, participation).await,
        None => Ok(()),
    };
    if let Some(epoch) = hook::owed(&switches.journal, migration)?
        && onward(switches, participation, epoch)? == Onward::Forth
    {
        switches.hooks.tell(participation, HookPoint::AfterOpen);
    }
    tell_the_end(switches, participation)?;
    led_back?;
    if let Some(pause) = pooler::pause_of(&switches.journal, migration)? {
        let Some(towards) = towards(switches, participation, pause).await? else { return Ok(()) };
        switches.poolers.let_on(participation, towards).await?;
    }
    // Told last: only now can applications go on.
    if let Some(epoch) = hook::owed(&switches.journal, migration)?
        && onward(switches, participation, epoch)? == Onward::Back
    {
        switches.hooks.tell(participation, HookPoint::AfterAbort);
    }
    Ok(())
}

async fn lead_back_now(switches: &Switches, participation: &Participation) -> Result<(), Failure> {
    switches.poolers.lead_back(participation).await?;
    switches.journal.clear_note(&participation.migration, LEAD_BACK_NOTE)
}

/// Where paused clients go on, if that is known.
async fn towards(switches: &Switches, participation: &Participation, pause: Pause) -> Result<Option<Towards>, Failure> {
    Ok(match pause.occasion {
        Occasion::Leaving => match onward(switches, participation, pause.cutover_epoch)? {
            Onward::InDoubt => None,
            Onward::Back => Some(Towards::Same),
            Onward::Forth => Some(Towards::Destination),
        },
        // Whoever asks has heard of no opening: without one there will be none.
        Occasion::Entering => match resolve(switches, participation, pause.cutover_epoch).await? {
            Resolution::Opened => Some(Towards::Source),
            Resolution::WillNotOpen => Some(Towards::Same),
        },
    })
}

/// How a switch that was to leave this side ended, as far as it is known.
pub(super) fn onward(switches: &Switches, participation: &Participation, epoch: i64) -> Result<Onward, Failure> {
    let noted = |key| noted_epoch(&switches.journal, &participation.migration, key);
    Ok(Onward::after(epoch, noted(FENCE_NOTE)?, noted(SETTLED_NOTE)?))
}

/// Lets go what a cutover left behind that nobody works on any more: its agent
/// was restarted, or its time is over.
pub(super) async fn let_go_what_is_left(switches: &Switches, participation: &Participation) -> Result<(), Failure> {
    if let Some(cutover) = switches.sessions.leaving(&participation.migration) {
        // A command that works on it holds the lock.
        let Ok(cutover) = cutover.try_lock() else { return Ok(()) };
        match &cutover.barrier {
            Some(barrier) if switches.tasks.clock.now() >= barrier.deadline => {}
            Some(_) | None => return Ok(()),
        }
    }
    if let Some(cutover) = switches.sessions.entering(&participation.migration) {
        let Ok(cutover) = cutover.try_lock() else { return Ok(()) };
        if cutover.clients_wait_until.is_some_and(|end| switches.tasks.clock.now() < end) {
            return Ok(());
        }
    }
    let_go(switches, participation).await
}

/// Sees to it that a pause ends with the budget for the outage, as the barrier
/// does, also when no command comes any more; and when the agent stops. A fence
/// that may stand is left to P6a.
pub(super) fn let_go_in_time(switches: &Switches, participation: &Participation, pause: Pause, deadline: Instant) {
    if switches.policy.poolers(&participation.database).next().is_none() {
        return;
    }
    let (shared, participation) = (switches.clone(), participation.clone());
    switches.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = shared.tasks.stop.cancelled() => {}
            () = shared.tasks.clock.sleep_until(deadline) => {}
        }
        let migration = &participation.migration;
        if let Err(failure) = let_go_of(&shared, &participation, pause).await {
            tracing::error!(migration.id = %migration, detail = failure.detail, "the poolers' clients still wait: {failure}");
        }
    });
}

async fn let_go_of(switches: &Switches, participation: &Participation, pause: Pause) -> Result<(), Failure> {
    let migration = &participation.migration;
    // Another cutover has a timer of its own.
    if pooler::pause_of(&switches.journal, migration)? != Some(pause) {
        return Ok(());
    }
    // Held by the act at work, which ends with the budget or the agent; no fence
    // begins and nothing opens after the budget.
    let (leaving, entering) = (switches.sessions.leaving(migration), switches.sessions.entering(migration));
    let _left = match &leaving {
        Some(cutover) => Some(cutover.lock().await),
        None => None,
    };
    let _entered = match &entering {
        Some(cutover) => Some(cutover.lock().await),
        None => None,
    };
    let_go(switches, participation).await
}
