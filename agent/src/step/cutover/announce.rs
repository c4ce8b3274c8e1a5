//! What the agent of one side of a switch tells the other over the link, without
//! waiting for the coordinator: a pooler's clients would feel every hop.
//!
//! **Invariant:** an announcement decides nothing. That a side has opened is believed
//! as an answer to P6a is; that a switch was given up makes the side that was to be
//! entered promise never to open, as P6a does. Whoever hears nothing comes to the same
//! later, by a command, by P6a or by the end of the budget.

use std::time::Duration;

use pgportage_data_plane::peer::Announcement;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::journal::SETTLED_NOTE;
use pgportage_proto::{MigrationId, Reason, Side};

use super::fence::FENCE_NOTE;
use super::let_go::{let_go, let_go_in_time, onward};
use super::sessions::Switches;
use crate::pooler::{Occasion, Onward, Pause};
use crate::step::Context;

/// Journal note of the side that is left: the switch whose end the other agent has to
/// hear, because clients of its poolers may wait for it. Written before it is told of
/// the locks, cleared when it was told the end.
const AWAITED_NOTE: &str = "announcement.awaited";

/// How long after its budget the side that is entered waits for word of a switch before
/// it ends it by itself. The side that was left settles it sooner, and where clients
/// are let on too soon they meet its fence.
const PATIENCE: Duration = Duration::from_secs(2);

/// Does what follows from an announcement of the other agent. Returns whether clients
/// of poolers wait here. Hearing one again does no harm. Dropped on its way, it may
/// leave poolers paused, until the end of the switch or of its budget.
///
/// # Errors
///
/// [`Reason::WrongState`] when this side is not about to be entered; those of
/// [`crate::pooler::Poolers::pause`], and nobody waits then.
pub async fn heed(
    switches: &Switches,
    participation: &Participation,
    epoch: i64,
    announcement: Announcement,
) -> Result<bool, Failure> {
    let migration = &participation.migration;
    match announcement {
        Announcement::LocksNext { time_left } => make_clients_wait(switches, participation, epoch, time_left).await,
        Announcement::GivenUp => {
            let pause = Pause { cutover_epoch: epoch, occasion: Occasion::Entering };
            if crate::pooler::pause_of(&switches.journal, migration)? == Some(pause) {
                let_go(switches, participation).await?;
            }
            Ok(false)
        }
        Announcement::Opened => {
            if noted(switches, migration, FENCE_NOTE)? == Some(epoch) {
                switches.journal.set_note(migration, SETTLED_NOTE, &epoch.to_string())?;
                let (shared, participation) = (switches.clone(), participation.clone());
                switches.tasks.spawn(async move {
                    if let Err(failure) = let_go(&shared, &participation).await {
                        tracing::error!(migration.id = %participation.migration, detail = failure.detail, "the poolers' clients still wait: {failure}");
                    }
                });
            }
            Ok(false)
        }
    }
}

/// Pauses this side's poolers for a rollback that is about to enter it.
async fn make_clients_wait(
    switches: &Switches,
    participation: &Participation,
    epoch: i64,
    time_left: Duration,
) -> Result<bool, Failure> {
    let not_entered = || {
        Failure::new(Reason::WrongState, "this side is not about to be entered by that switch")
            .hint("The switch is taken back by itself; try it again.")
            .remedy(Remedy::Operator)
            .effect(Effect::None)
    };
    let deadline = switches.tasks.clock.now() + time_left;
    let entering = switches.sessions.entering(&participation.migration).ok_or_else(not_entered)?;
    let unreachable = {
        let mut entering = entering.lock().await;
        if entering.epoch != epoch {
            return Err(not_entered());
        }
        entering.clients_wait_until = Some(deadline + PATIENCE);
        entering.unreachable
    };
    if switches.policy.poolers(&participation.database).next().is_none() {
        return Ok(false);
    }
    let approached = switches.poolers.approach(participation, unreachable).await?;
    if approached.is_empty() {
        return Ok(false);
    }
    let pause = Pause { cutover_epoch: epoch, occasion: Occasion::Entering };
    let_go_in_time(switches, participation, pause, deadline + PATIENCE);
    let paused = switches.poolers.pause(participation, pause, approached, deadline).await;
    if let Err(failure) = paused {
        // Nobody opens without the locks, which do not come now.
        if let Err(failure) = let_go(switches, participation).await {
            tracing::error!(detail = failure.detail, "the poolers' clients still wait: {failure}");
        }
        return Err(failure);
    }
    Ok(true)
}

/// On the side that is left: lets the other agent make the clients of its poolers wait.
/// Returns whether any do. A source that is left has them itself.
///
/// # Errors
///
/// What the other agent reports, or that it does not answer: the locks must not come
/// then, and [`tell_the_end`] is due.
pub(super) async fn announce_locks(cx: &Context, epoch: i64, time_left: Duration) -> Result<bool, Failure> {
    if cx.participation.side == Side::Source {
        return Ok(false);
    }
    let migration = &cx.participation.migration;
    cx.journal.set_note(migration, AWAITED_NOTE, &epoch.to_string())?;
    let peer = cx.peers.call(&cx.participation).await?;
    let clients_wait = peer.announce_cutover(epoch, Announcement::LocksNext { time_left }).await?;
    if !clients_wait {
        cx.journal.clear_note(migration, AWAITED_NOTE)?;
    }
    Ok(clients_wait)
}

/// On the side that was entered: tells the other agent that it has opened. What is not
/// heard comes with the coordinator's next command.
pub(super) fn announce_opening(cx: &Context, epoch: i64) {
    let (switches, participation) = (cx.switches.clone(), cx.participation.clone());
    cx.tasks.spawn(async move {
        let told = switches.tasks.stop.run_until_cancelled(announce(&switches, &participation, epoch, Announcement::Opened)).await;
        if let Some(Err(failure)) = told {
            tracing::info!(migration.id = %participation.migration, "the other agent was not told of the opening: {failure}");
        }
    });
}

/// On the side that was left, or was to be: tells an agent whose clients wait that they
/// may go on here, once nothing stands in their way. What is not heard is told again
/// with the next call.
pub(super) fn tell_the_end(switches: &Switches, participation: &Participation) -> Result<(), Failure> {
    let migration = &participation.migration;
    let Some(epoch) = noted(switches, migration, AWAITED_NOTE)? else { return Ok(()) };
    match onward(switches, participation, epoch)? {
        Onward::InDoubt => {}
        // It knows best.
        Onward::Forth => switches.journal.clear_note(migration, AWAITED_NOTE)?,
        Onward::Back => {
            let (shared, participation) = (switches.clone(), participation.clone());
            switches.tasks.spawn(async move {
                let telling = announce(&shared, &participation, epoch, Announcement::GivenUp);
                let told = shared.tasks.stop.run_until_cancelled(telling).await;
                let told = told.map(|told| told.and_then(|()| forget(&shared, &participation.migration, epoch)));
                if let Some(Err(failure)) = told {
                    tracing::warn!(migration.id = %participation.migration, "clients of the other agent's poolers still wait: {failure}");
                }
            });
        }
    }
    Ok(())
}

async fn announce(
    switches: &Switches,
    participation: &Participation,
    epoch: i64,
    announcement: Announcement,
) -> Result<(), Failure> {
    switches.peers.call(participation).await?.announce_cutover(epoch, announcement).await.map(drop)
}

/// The next switch may have begun meanwhile.
fn forget(switches: &Switches, migration: &MigrationId, epoch: i64) -> Result<(), Failure> {
    if noted(switches, migration, AWAITED_NOTE)? == Some(epoch) {
        switches.journal.clear_note(migration, AWAITED_NOTE)?;
    }
    Ok(())
}

fn noted(switches: &Switches, migration: &MigrationId, key: &str) -> Result<Option<i64>, Failure> {
    Ok(switches.journal.note(migration, key)?.and_then(|text| text.parse().ok()))
}
