//! What the agent of one side of a switchover tells the other agent over the link, without waiting for the
//! coordinator: a pooler's clients would feel every hop.
//!
//! **Invariant:** an announcement decides nothing. An agent believes the news that the other side has
//! opened like an answer to P6a. On the news that a switchover was taken back, the agent of the side that
//! was to be entered promises never to open, as in P6a. An agent that hears nothing learns the same later:
//! by a command, by P6a or at the end of the budget.

use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::{Reason, Side};

use super::carry_out::tell_failure;
use super::sessions::Switchovers;
use pgportage_data_plane::peer::Announcement;
use pgportage_migration::Participation;
use pgportage_migration::switchover::{Event, Fence, Role, Switchover};

/// How long after its budget the agent of the entered side waits for news of a switchover before it ends it
/// by itself. The agent of the side that was left settles it sooner. Clients that go on too soon meet its
/// fence.
const PATIENCE: Duration = Duration::from_secs(2);

impl Switchovers {
    /// Carries out what follows from an announcement of the other agent. Returns whether clients of poolers
    /// wait here. Hearing it again does no harm. A future that is dropped may leave poolers paused, until
    /// the end of the switchover or of its budget.
    ///
    /// # Errors
    ///
    /// [`Reason::WrongState`] when this side is not about to be entered; those of
    /// [`crate::pooler::Poolers::pause`], and no client waits then.
    pub(crate) async fn on_announcement(
        &self,
        participation: &Participation,
        epoch: i64,
        announcement: Announcement,
    ) -> Result<bool, Failure> {
        let migration = &participation.migration;
        match announcement {
            Announcement::LocksNext { time_left } => self.make_clients_wait(participation, epoch, time_left).await,
            Announcement::GivenUp => {
                let pause = Switchover { epoch, role: Role::Entering };
                if self.journal.switchover(migration)?.pause == Some(pause) {
                    self.carry_out(participation).await?;
                }
                Ok(false)
            }
            Announcement::Opened => {
                let fence = self.journal.switchover(migration)?.fence;
                if [Fence::MayStand(epoch), Fence::Kept(epoch)].contains(&fence) {
                    self.journal.happened(migration, Event::OtherOpened(epoch))?;
                    self.carry_out_beside(participation);
                }
                Ok(false)
            }
        }
    }

    /// Pauses this side's poolers for a rollback that is about to enter it.
    async fn make_clients_wait(
        &self,
        participation: &Participation,
        epoch: i64,
        time_left: Duration,
    ) -> Result<bool, Failure> {
        let not_entered = || {
            Failure::new(Reason::WrongState, "this side is not about to be entered by that switchover")
                .hint("The switchover is taken back by itself; try it again.")
                .remedy(Remedy::Operator)
                .effect(Effect::None)
        };
        let deadline = self.tasks.clock.now() + time_left;
        let entering = self.sessions.entering(&participation.migration).ok_or_else(not_entered)?;
        let unreachable = {
            let mut entering = entering.lock().await;
            if entering.epoch != epoch {
                return Err(not_entered());
            }
            entering.clients_wait_until = Some(deadline + PATIENCE);
            entering.unreachable
        };
        if !self.has_poolers(participation) {
            return Ok(false);
        }
        let approached = self.poolers.approach(participation, unreachable).await?;
        if approached.is_empty() {
            return Ok(false);
        }
        let pause = Switchover { epoch, role: Role::Entering };
        self.carry_out_at(participation, pause, deadline + PATIENCE);
        let note = || self.journal.happened(&participation.migration, Event::Pauses(pause));
        if let Err(failure) = self.poolers.pause(participation, approached, deadline, note).await {
            // This side does not open without the locks on the other side. Those do not come now, because
            // the answer is a failure.
            tell_failure(participation, self.carry_out(participation).await);
            return Err(failure);
        }
        Ok(true)
    }

    /// On the side that is left: lets the other agent make the clients of its poolers wait. Returns whether
    /// any wait. The agent of a source that is left has the poolers itself.
    ///
    /// # Errors
    ///
    /// What the other agent reports, or that it does not answer. Then the locks must not be taken, and the
    /// other agent is told when the switchover is taken back.
    pub(crate) async fn announce_locks(
        &self,
        participation: &Participation,
        epoch: i64,
        time_left: Duration,
    ) -> Result<bool, Failure> {
        if participation.side == Side::Source {
            return Ok(false);
        }
        let migration = &participation.migration;
        self.journal.happened(migration, Event::OwesWord(epoch))?;
        let peer = self.peers.call(participation).await?;
        let clients_wait = peer.announce_cutover(epoch, Announcement::LocksNext { time_left }).await?;
        if !clients_wait {
            self.journal.happened(migration, Event::WordIsNotNeeded(epoch))?;
        }
        Ok(clients_wait)
    }

    /// On the side that was entered: tells the other agent that it has opened. If the other agent does not
    /// hear that, it learns it from the coordinator's next command.
    pub(crate) fn announce_opening(&self, participation: &Participation, epoch: i64) {
        let (switchovers, participation) = (self.clone(), participation.clone());
        self.tasks.spawn(async move {
            let telling = switchovers.announce(&participation, epoch, Announcement::Opened);
            if let Some(Err(failure)) = switchovers.tasks.stop.run_until_cancelled(telling).await {
                tracing::info!(migration.id = %participation.migration, "the other agent was not told of the opening: {failure}");
            }
        });
    }

    /// On the side that was to be left: tells the other agent, whose clients wait, that they may go on at
    /// this side. If the other agent does not hear that, this agent tells it again.
    pub(super) fn tell_other(&self, participation: &Participation, epoch: i64) {
        let (switchovers, participation) = (self.clone(), participation.clone());
        self.tasks.spawn(async move {
            let telling = async {
                switchovers.announce(&participation, epoch, Announcement::GivenUp).await?;
                switchovers.journal.happened(&participation.migration, Event::WordWasGiven(epoch))
            };
            if let Some(Err(failure)) = switchovers.tasks.stop.run_until_cancelled(telling).await {
                tracing::warn!(migration.id = %participation.migration, "clients of the other agent's poolers still wait: {failure}");
            }
        });
    }

    async fn announce(
        &self,
        participation: &Participation,
        epoch: i64,
        announcement: Announcement,
    ) -> Result<(), Failure> {
        self.peers.call(participation).await?.announce_cutover(epoch, announcement).await.map(drop)
    }
}
